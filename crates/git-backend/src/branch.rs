//! Branches of leases: which may be used, how they are made, and when they go away again.
//!
//! A branch is deleted only if the pool's own note says that the pool made it, it still points to
//! where it was made, and it is checked out nowhere: whoever else made a branch of that name at that
//! commit keeps it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::refs::transaction::{Change, LogChange, PreviousValue, RefEdit, RefLog};
use gix::refs::{FullName, Target};
use pool_core::{
    Base, Branch, BranchWish, CommitId, Error, ErrorKind, LeaseId, LeaseName, Plan, Result, SlotId,
    Wish,
};

use crate::durable;
use crate::inspect::commits;
use crate::references::{self, settled};
use crate::repository::Repository;
use crate::site::{Site, gix_error};

mod remote;

/// Resolves a wish; see [`pool_core::Isolator::resolve`].
pub(crate) fn resolve(site: &Site, wish: &Wish, name: &LeaseName) -> Result<Base> {
    let origin = match &wish.origin {
        Some(origin) => open_origin(site, origin)?,
        None => site.repo(),
    };
    match &wish.branch {
        BranchWish::Detached => Ok(Base { commit: commit(&origin, wish)?, branch: None }),
        BranchWish::Generated => {
            let name = format!("{}{name}", site.settings.branch_prefix);
            let full = full_name(&name)?;
            let repo = site.repo();
            remote::refuse_qualified(&repo, &name)?;
            match in_the_way(&repo, &name)? {
                // Of every name with this prefix.
                Some(other) if site.settings.branch_prefix.starts_with(&format!("{other}/")) => {
                    return Err(Error::new(ErrorKind::InvalidInput, obstructed(&name, &other))
                        .with_hint(format!(
                            "run `git branch -m {other} NEW-NAME`, or set another `branch_prefix`"
                        )));
                }
                Some(other) => return Err(blocked(&name, &other)),
                None => {}
            }
            if exists(&repo, &full)? {
                return Err(Error::new(
                    ErrorKind::NameTaken,
                    format!("the branch {name} exists already"),
                )
                .with_hint("choose another name, or none"));
            }
            Ok(Base {
                commit: commit(&origin, wish)?,
                branch: Some(Branch { name, created: true }),
            })
        }
        BranchWish::Named(name) => {
            let full = full_name(name)?;
            let repo = site.repo();
            let Some(mut found) = settled(&repo, || repo.try_find_reference(&full))
                .map_err(|e| gix_error(format!("look for the branch {name}"), e))?
            else {
                remote::refuse_qualified(&repo, name)?;
                if let Some(other) = in_the_way(&repo, name)? {
                    return Err(blocked(name, &other));
                }
                let branch = Some(Branch { name: name.clone(), created: true });
                // What only a remote has is continued, as `git worktree add` does.
                let upstream = match &wish.base {
                    Some(_) => None,
                    None => remote::upstream(&repo, name)?,
                };
                let commit = match upstream {
                    Some(upstream) => CommitId::new(upstream.tip.to_string())?,
                    None => commit(&origin, wish)?,
                };
                return Ok(Base { commit, branch });
            };
            if let Some(base) = &wish.base {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("the branch {name} exists already, so it can't start from {base}"),
                )
                .with_hint("leave the base out to continue the branch, or choose another name"));
            }
            refuse_symbolic(&found, name)?;
            if let Some(place) = occupant(site, &full, None)? {
                return Err(taken(name, &place));
            }
            let tip = found
                .peel_to_commit()
                .map_err(|e| gix_error(format!("read the branch {name}"), e))?
                .id;
            let branch = Some(Branch { name: name.clone(), created: false });
            Ok(Base { commit: CommitId::new(tip.to_string())?, branch })
        }
    }
}

/// Makes the plan's branch where it is to be made, and points the worktree's `HEAD` to it. To be
/// called under the registration lock.
pub(crate) fn attach(site: &Site, admin: &Path, plan: &Plan) -> Result<()> {
    let slot_repo = site.open_admin(admin)?;
    let base = object_id(&plan.base.commit)?;
    let Some(branch) = &plan.base.branch else {
        return set_head(&slot_repo, Target::Object(base));
    };
    let full = full_name(&branch.name)?;
    if let Some(place) = occupant(site, &full, Some(admin))? {
        return Err(taken(&branch.name, &place));
    }
    if branch.created {
        if exists(&slot_repo, &full)? {
            return Err(Error::new(
                ErrorKind::NameTaken,
                format!("the branch {} exists by now", branch.name),
            ));
        }
        if let Some(other) = in_the_way(&slot_repo, &branch.name)? {
            return Err(blocked(&branch.name, &other));
        }
        let upstream = remote::upstream_at(&slot_repo, &branch.name, base)?;
        // The note comes first: a branch without one would stay for ever.
        let note = note(site, plan.slot);
        fs::create_dir_all(site.pool_dir.join("branches"))
            .map_err(|e| Error::io(format!("write {}", note.display()), e))?;
        let tracks = if upstream.is_some() { TRACKS } else { "" };
        durable::write(&note, format!("{base} {}\n{tracks}", branch.name).as_bytes())?;
        pool_core::fail_point!("git-backend::branch::noted");
        let message = format!("branch: Created from {}", plan.base.commit);
        references::create(site, &full.as_bstr().to_string(), base, &message).inspect_err(
            |_| {
                let _ = fs::remove_file(&note);
            },
        )?;
        if let Some(upstream) = upstream {
            remote::track(site, &branch.name, &upstream)?;
        }
    } else {
        let finding = || format!("find the branch {}", branch.name);
        let mut found = settled(&slot_repo, || slot_repo.find_reference(&full))
            .map_err(|e| gix_error(finding(), e))?;
        refuse_symbolic(&found, &branch.name)?;
        let found = found.peel_to_commit().map_err(|e| gix_error(finding(), e))?.id;
        if found != base {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the branch {} moved from {base} to {found} in the meantime", branch.name),
            )
            .with_hint("try again"));
        }
    }
    pool_core::fail_point!("git-backend::branch::made");
    set_head(&slot_repo, Target::Symbolic(full))
}

/// Deletes the branch that the pool made for the slot, unless it has moved, is in use, is that of
/// `plan` and wanted (`keep`), or is by now the last to reach where it is. Usually it is the plan's; after an
/// interrupted reuse of the slot it may be that of the lease before or after. To be called under the registration
/// lock, when the slot's own `HEAD` is no longer on it.
pub(crate) fn settle(site: &Site, plan: &Plan, keep: bool) -> Result<()> {
    let note = note(site, plan.slot);
    let noted = match fs::read(&note) {
        Ok(noted) => noted,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("read {}", note.display()), e)),
    };
    // An incomplete note was being written when its process died, before the branch was made. One that is
    // damaged proves of no branch that the pool made it.
    if let Some((base, name, tracks)) = understood(&noted) {
        let is_plans = plan.base.branch.as_ref().is_some_and(|branch| branch.name == name);
        // Of the plan's own that was known, when it was looked at. Meanwhile another slot may have gone whose branch
        // was the reason; under the lock there is none that goes at the same time.
        if !(keep && is_plans) && is_reached_otherwise(site, name, base)? {
            delete_unmoved(site, name, base, tracks)?;
            pool_core::fail_point!("git-backend::branch::deleted");
        }
    } else {
        tracing::warn!(note = %note.display(), "the note of a slot's branch makes no sense; the branch stays, if there is one");
    }
    fs::remove_file(&note).map_err(|e| Error::io(format!("remove {}", note.display()), e))
}

/// Whether a commit would still be reached without that branch.
fn is_reached_otherwise(site: &Site, name: &str, commit: gix::ObjectId) -> Result<bool> {
    let repo = site.repo();
    let full = full_name(name)?;
    let at_hand = site.heads_outside().into_iter().collect();
    let all = || commits::kept_by_refs(&repo, |name| full.as_bstr() == name);
    Ok(commits::reached_by_none(&repo, &[commit].into(), at_hand, all)?.count == 0)
}

/// In a note, says that the pool has the branch track a remote one.
const TRACKS: &str = "tracks\n";

/// Where the pool made a branch, its name, and whether the pool has it track a remote one.
fn understood(note: &[u8]) -> Option<(gix::ObjectId, &str, bool)> {
    let note = std::str::from_utf8(note).ok()?;
    let (note, tracks) = match note.strip_suffix(TRACKS) {
        Some(note) => (note, true),
        None => (note, false),
    };
    let (base, name) = note.strip_suffix('\n')?.split_once(' ')?;
    full_name(name).ok()?;
    Some((object_id(&CommitId::new(base).ok()?).ok()?, name, tracks))
}

fn delete_unmoved(site: &Site, name: &str, base: gix::ObjectId, tracks: bool) -> Result<()> {
    let full = full_name(name)?;
    remove_if_empty(&site.common_dir.join(full.as_bstr().to_string()))?;
    let repo = site.repo();
    let is_unmoved = || {
        settled(&repo, || repo.try_find_reference(&full))
            .map(|found| found.is_some_and(|found| found.target().try_id() == Some(&*base)))
            .map_err(|e| gix_error(format!("look for the branch {name}"), e))
    };
    if !is_unmoved()? || occupant(site, &full, None)?.is_some() {
        return Ok(());
    }
    match references::delete(site, &full.as_bstr().to_string(), base) {
        // Else somebody committed to it, or removed it, just now: both are as they should be.
        Err(e) if is_unmoved()? => Err(e),
        Err(_) => Ok(()),
        Ok(()) => {
            if tracks {
                remote::forget(site, name);
            }
            Ok(())
        }
    }
}

/// Removes a reference's file with nothing in it. References are written under another name first, so that
/// only a loss of power leaves one behind, and only one that nobody had been told of. Git can't delete it,
/// and stops at it whenever it looks at all references.
pub(crate) fn remove_if_empty(reference: &Path) -> Result<()> {
    let is_empty = |meta: fs::Metadata| meta.is_file() && meta.len() == 0;
    if fs::symlink_metadata(reference).is_ok_and(is_empty) {
        fs::remove_file(reference)
            .map_err(|e| Error::io(format!("remove {}", reference.display()), e))?;
    }
    Ok(())
}

/// Where the pool notes which branch it made for a slot. Not in the slot's own directory, so that
/// deleting that by hand leaves no branch behind.
fn note(site: &Site, slot: SlotId) -> PathBuf {
    site.pool_dir.join("branches").join(slot.to_string())
}

/// Detaches `HEAD` at a commit.
pub(crate) fn detach(slot_repo: &gix::Repository, commit: &CommitId) -> Result<()> {
    set_head(slot_repo, Target::Object(object_id(commit)?))
}

pub(crate) fn object_id(commit: &CommitId) -> Result<gix::ObjectId> {
    gix::ObjectId::from_hex(commit.as_str().as_bytes()).map_err(|_| {
        Error::new(ErrorKind::UnknownRevision, format!("{commit} is not the id of a commit"))
    })
}

/// What the pool writes into the log of a slot's `HEAD` when it hands the slot out.
pub(crate) const PREPARED: &str = "wtpool: slot prepared";

/// The same for a lease. The log goes where the worktree is moved to, so that this tells whose it is.
pub(crate) fn prepared_for(lease: &LeaseId) -> String {
    format!("{PREPARED} for lease {lease}")
}

fn set_head(slot_repo: &gix::Repository, target: Target) -> Result<()> {
    let log = LogChange {
        mode: RefLog::AndReference,
        force_create_reflog: false,
        message: PREPARED.into(),
    };
    slot_repo
        .edit_reference(RefEdit {
            change: Change::Update { log, expected: PreviousValue::Any, new: target },
            name: "HEAD".try_into().expect("HEAD is a valid name"),
            deref: false,
        })
        .map(drop)
        .map_err(|e| gix_error(format!("set HEAD in {}", slot_repo.git_dir().display()), e))
}

fn open_origin(site: &Site, origin: &Path) -> Result<gix::Repository> {
    let found = Repository::find(origin)?;
    if found.common_dir() != site.common_dir {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "{} belongs to another repository than {}",
                origin.display(),
                site.common_dir.display()
            ),
        ));
    }
    match found.worktree() {
        // By its `.git`, which leads to the right administrative directory of a linked worktree.
        Some(worktree) => gix::open_opts(worktree, crate::site::options(&site.settings))
            .map_err(|e| gix_error(format!("open the worktree {}", worktree.display()), e)),
        None => Ok(site.repo()),
    }
}

fn commit(origin: &gix::Repository, wish: &Wish) -> Result<CommitId> {
    let spec = wish.base.as_deref().unwrap_or("HEAD");
    let found = settled(origin, || origin.rev_parse_single(spec))
        .and_then(|id| id.object())
        .and_then(|object| object.peel_to_commit())
        .map(|commit| commit.id);
    match found {
        Ok(id) => CommitId::new(id.to_string()),
        Err(_) if wish.base.is_none() && origin.head().is_ok_and(|head| head.is_unborn()) => {
            Err(Error::new(
                ErrorKind::UnknownRevision,
                format!(
                    "{} has no commit yet",
                    origin.workdir().unwrap_or(origin.git_dir()).display()
                ),
            )
            .with_hint("make a first commit"))
        }
        Err(e) => {
            Err(Error::new(ErrorKind::UnknownRevision, format!("there is no commit {spec:?}"))
                .with_hint(remote::advice(origin, spec))
                .with_source(e))
        }
    }
}

/// The full name of a branch, if it is one that `git branch` would take.
fn full_name(name: &str) -> Result<FullName> {
    let full = format!("refs/heads/{name}");
    let valid = !name.starts_with('-')
        && gix::validate::reference::branch_name(full.as_str().into()).is_ok();
    valid.then(|| FullName::try_from(full).ok()).flatten().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{name:?} is not a valid branch name"))
            .with_hint("see `git help check-ref-format`")
    })
}

fn exists(repo: &gix::Repository, full: &FullName) -> Result<bool> {
    settled(repo, || repo.try_find_reference(full))
        .map(|found| found.is_some())
        .map_err(|e| gix_error(format!("look for {}", full.as_bstr()), e))
}

/// An existing branch `a` while `a/b` is asked for, or `a/b` while `a` is: git keeps no two such branches.
fn in_the_way(repo: &gix::Repository, name: &str) -> Result<Option<String>> {
    for (end, _) in name.match_indices('/') {
        if exists(repo, &full_name(&name[..end])?)? {
            return Ok(Some(name[..end].to_owned()));
        }
    }
    let below = references::all(repo, &format!("refs/heads/{name}/"))?;
    let below = below.iter().flatten().map(|found| found.name().shorten().to_string());
    Ok(below.min())
}

fn obstructed(name: &str, other: &str) -> String {
    format!("cannot create branch {name}: branch {other} exists, and git cannot have both")
}

fn blocked(name: &str, other: &str) -> Error {
    Error::new(ErrorKind::NameTaken, obstructed(name, other))
        .with_hint(format!("choose another name, or run `git branch -m {other} NEW-NAME`"))
}

/// A commit on a symbolic branch moves the branch it leads to, which may be checked out elsewhere.
fn refuse_symbolic(found: &gix::Reference<'_>, name: &str) -> Result<()> {
    let gix::refs::TargetRef::Symbolic(target) = found.target() else { return Ok(()) };
    let target = target.shorten();
    let message = format!("cannot lease the branch {name}: it is a symbolic reference to {target}");
    Err(Error::new(ErrorKind::InvalidInput, message).with_hint(format!("use `--branch {target}`")))
}

/// Where a branch is checked out now, if it is; `None` if there is no such branch.
pub(crate) fn now(site: &Site, name: &str) -> Result<Option<Option<PathBuf>>> {
    let full = full_name(name)?;
    if exists(&site.repo(), &full)? { occupant(site, &full, None).map(Some) } else { Ok(None) }
}

/// The worktree in which a branch is checked out, or being rebased or bisected; `except` is not
/// looked at. Reads the files as they are: a registration that is broken or only half there must
/// not stop every other one.
pub(crate) fn occupant(
    site: &Site,
    full: &FullName,
    except: Option<&Path>,
) -> Result<Option<PathBuf>> {
    let short = full.as_bstr().strip_prefix(b"refs/heads/").unwrap_or(full.as_bstr());
    let holds = |git_dir: &Path| {
        let is = |file: &str, prefix: &[u8]| {
            fs::read(git_dir.join(file)).is_ok_and(|content| {
                content.strip_prefix(prefix).is_some_and(|rest| {
                    let rest = rest.trim_ascii();
                    full.as_bstr() == rest || (file == "BISECT_START" && rest == short)
                })
            })
        };
        is("HEAD", b"ref:")
            || is("rebase-merge/head-name", b"")
            || is("rebase-apply/head-name", b"")
            || is("BISECT_START", b"")
    };
    for (admin, dot_git) in site.registrations()? {
        if except != Some(&admin) && holds(&admin) {
            return Ok(Some(dot_git.parent().unwrap_or(&dot_git).to_owned()));
        }
    }
    // In a bare repository no worktree has the branch of HEAD checked out.
    let is_in_main = !site.is_bare && holds(&site.common_dir);
    let main = site.main_worktree.as_ref().unwrap_or(&site.common_dir);
    Ok(is_in_main.then(|| main.clone()))
}

fn taken(name: &str, place: &Path) -> Error {
    Error::new(
        ErrorKind::NameTaken,
        format!("the branch {name} is checked out in {}", place.display()),
    )
    .with_hint("choose another branch, or leave it to the pool")
}
