//! The way back.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};
use gix::index::entry::{Flags, Mode};
use gix::objs::Kind;
use pool_core::{Error, ErrorKind, Plan, RescueId, Result};

use super::manifest::PathRecord;
use super::read::{self, Parts};
use crate::git::Git;
use crate::inspect::{self, admin, failed, object_id, os, staged, text};
use crate::own_worktree;
use crate::references::{self, settled};
use crate::registration::{LOCK, exclusively, register_elsewhere, unregister};
use crate::site::{Site, remove_file, resolved};
use crate::trash::Bin;

/// The reflog's message for a branch that is made again.
const RESTORED: &str = "wtpool: restored";

/// Makes `into` a worktree in the state that was saved.
pub(super) fn into(site: &Site, id: &RescueId, into: &Path) -> Result<()> {
    let repo = crate::site::open_repository(&site.common_dir, &site.settings)?;
    let parts = read::open(&repo, id)?.parts(&repo)?;
    let into = std::path::absolute(into)
        .map_err(|e| Error::io(format_args!("resolve {}", into.display()), e))?;
    check_unused(site, &into)?;
    let into = resolved(&into);
    if into.starts_with(&site.pool_dir) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{} lies in the pool's own directory, which is cleaned up", into.display()),
        )
        .with_hint("choose a directory elsewhere, or restore into a new lease"));
    }
    let start = match parts.head {
        Some(head) => head,
        None => object_id(&parts.manifest.base)?,
    };
    let never = AtomicBool::new(false);
    let mut made = Vec::new();
    let (admin, is_new) = exclusively(site, &never, || {
        check_unused(site, &into)?;
        let is_new = !into.exists();
        Ok((register_elsewhere(site, &into, start)?, is_new))
    })?;
    pool_core::fail_point!("git-backend::restore::registered");
    let done = (|| {
        restore_state(&repo, &parts, &admin, &["HEAD", "config.worktree"])?;
        restore_sparse(site, &repo, &parts, &admin)?;
        own_worktree::secure(site, &admin, &into)?;
        exclusively(site, &never, || set_head(site, &repo, &parts, id, &admin, &mut made))?;
        pool_core::fail_point!("git-backend::restore::head-set");
        fill(site, &site.open_admin(&admin)?, &parts, &into, None)?;
        // From here on it is a worktree as any other.
        remove_file(&admin.join(LOCK))
    })();
    match done {
        Ok(()) => {
            check_out_submodules(site, &parts, &into);
            Ok(())
        }
        Err(error) => {
            for (name, at) in made {
                if let Err(error) = references::delete(site, &name, at) {
                    tracing::warn!(name, %error, "a branch made for a restored worktree can't be taken back");
                }
            }
            if let Err(error) = take_back(site, &admin, &into, is_new) {
                tracing::warn!(into = %into.display(), %error, "a restored worktree can't be taken back");
            }
            Err(error)
        }
    }
}

/// Removes a worktree that could not be restored, and its registration.
fn take_back(site: &Site, admin: &Path, into: &Path, is_new: bool) -> Result<()> {
    let removing = |e| Error::io(format_args!("remove {}", into.display()), e);
    let emptied = || {
        for entry in fs::read_dir(into)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        if is_new { fs::remove_dir(into) } else { Ok(()) }
    };
    let emptied = emptied().map_err(removing);
    exclusively(site, &AtomicBool::new(false), || unregister(admin, &mut Bin::new(site)))?;
    emptied
}

/// Brings the saved state into a slot.
pub(super) fn onto(site: &Site, id: &RescueId, plan: &Plan) -> Result<()> {
    let place = site.place(plan.slot);
    let repo = site.open_slot(plan.slot)?;
    let parts = read::open(&repo, id)?.parts(&repo)?;
    let found = inspect::inspect(site, plan)?.losses;
    if !found.is_empty() {
        return Err(Error::new(
            ErrorKind::WouldLoseWork,
            format!("{} is not untouched: {found}", place.display()),
        )
        .with_hint("restore into a fresh lease, or into a directory of its own"));
    }
    let head = repo
        .head_id()
        .map_err(|e| failed(format_args!("read HEAD of {}", place.display()), e))?
        .detach();
    if parts.head.is_some_and(|wanted| wanted != head) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "{} is at {head}, and the rescue {id} was made at another commit",
                place.display()
            ),
        )
        .with_hint("restore into a lease that begins at the rescue's own commit"));
    }
    let tree = repo.head_tree_id().map_err(|e| failed("read the tree of HEAD", e))?.detach();
    let admin = repo.git_dir().to_owned();
    own_worktree::verify(site, &admin, &place)?;
    fill(site, &repo, &parts, &place, Some(staged::tree_index(&repo, tree)?))?;
    pool_core::fail_point!("git-backend::restore::filled-lease");
    // The lease keeps its own branch and history; an operation that works on a detached HEAD gets one.
    restore_state(&repo, &parts, &admin, &["HEAD", "logs/HEAD", "config.worktree"])?;
    let detached =
        ["rebase-merge", "rebase-apply", "BISECT_LOG"].iter().any(|name| admin.join(name).exists());
    if parts.manifest.branch.is_none() && detached {
        write_state(&admin, Path::new("HEAD"), format!("{head}\n").as_bytes())?;
    }
    check_out_submodules(site, &parts, &place);
    Ok(())
}

/// What the worktree's own configuration said about which files are there. The rest of it stays in the
/// rescue: it may name commands, and whoever looks at saved work has not asked for them.
fn restore_sparse(site: &Site, repo: &gix::Repository, parts: &Parts, admin: &Path) -> Result<()> {
    let metadata = staged::tree_index(repo, parts.metadata)?;
    let saved = metadata.entry_by_path("state/config.worktree".into());
    let saved = saved.map(|entry| blob(repo, entry.id)).transpose()?.unwrap_or_default();
    // One that git doesn't understand said nothing.
    let Ok(saved) = gix::config::File::try_from(saved.as_bstr()) else { return Ok(()) };
    for key in ["core.sparseCheckout", "core.sparseCheckoutCone", "index.sparse"] {
        if let Ok(Some(value)) = saved.boolean(key) {
            Git::in_repository(&site.common_dir, &site.settings)
                .args(["config", "--file"])
                .arg(admin.join("config.worktree"))
                .args([key, if value { "true" } else { "false" }])
                .run()?;
        }
    }
    Ok(())
}

/// Checks out again those submodules that were, at the commits that they were at. All of them were on a
/// remote then; one that can't be had now stays an empty directory.
fn check_out_submodules(site: &Site, parts: &Parts, root: &Path) {
    for record in &parts.manifest.submodules {
        let Some(at) = &record.at else { continue };
        let path = record.path.to_bytes();
        let done = (|| {
            let path = checked(path.as_bstr())?;
            let place = root.join(&path);
            let at = object_id(at)?.to_string();
            let git = |dir: &Path| Git::in_directory(dir, &site.settings);
            let submodule = |args: &[&str]| {
                git(root).args(["submodule", "--quiet"]).args(args).arg("--").arg(&path).run()
            };
            // This writes to the repository's configuration, which all worktrees share.
            exclusively(site, &AtomicBool::new(false), || submodule(&["init"]))?;
            submodule(&["update", "--init"])?;
            if git(&place).args(["rev-parse", "HEAD"]).run()?.trim_ascii() != at.as_bytes() {
                git(&place).args(["checkout", "--quiet", "--detach", &at]).run()?;
            }
            Ok::<_, Error>(())
        })();
        if let Err(error) = done {
            let path = text(path.as_bstr());
            tracing::warn!(path, at, %error, "a submodule can't be checked out again");
        }
    }
}

fn check_unused(site: &Site, into: &Path) -> Result<()> {
    let used = |what: &str| {
        Err(Error::new(ErrorKind::InvalidInput, format!("{} {what}", into.display()))
            .with_hint("name a directory that is empty or does not exist"))
    };
    match fs::symlink_metadata(into) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(format_args!("look at {}", into.display()), e)),
        Ok(meta) if !meta.is_dir() => return used("is not a directory"),
        Ok(_) => match fs::read_dir(into).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return used("is not empty"),
            Err(e) => return Err(Error::io(format_args!("read {}", into.display()), e)),
        },
    }
    match site.registration_at(&resolved(into))? {
        Some(_) => used("is where git knows a worktree that is missing").map_err(|error| {
            error.with_hint(
                "name another directory; if that worktree is gone for good, unlock it and prune",
            )
        }),
        None => Ok(()),
    }
}

/// HEAD as it was: on its branch if that is free and still (or again) at the commit, else detached.
fn set_head(
    site: &Site,
    repo: &gix::Repository,
    parts: &Parts,
    id: &RescueId,
    admin: &Path,
    made: &mut Vec<(String, ObjectId)>,
) -> Result<()> {
    // A rebase goes back to its branch in the end, so that has to exist.
    for dir in ["rebase-merge", "rebase-apply"] {
        let line = |file: &str| {
            fs::read_to_string(admin.join(dir).join(file)).map(|s| s.trim().to_owned()).ok()
        };
        if let (Some(name), Some(Ok(tip))) =
            (line("head-name"), line("orig-head").map(|tip| object_id(&tip)))
            && name.starts_with("refs/heads/")
            && target(repo, &name)?.is_none()
        {
            make_again(site, &name, tip, made);
        }
    }
    let head = match (&parts.manifest.branch, parts.head) {
        (None, Some(commit)) => commit.to_string(),
        (Some(branch), Some(commit)) => {
            let free =
                crate::branch::occupant(site, &super::full_name(branch)?, Some(admin))?.is_none();
            match target(repo, branch)? {
                None if make_again(site, branch, commit, made) => format!("ref: {branch}"),
                Some(at) if at == commit && free => format!("ref: {branch}"),
                _ => commit.to_string(),
            }
        }
        // Nothing had been committed yet, so HEAD can't be anything but a branch that isn't there.
        (Some(branch), None) if target(repo, branch)?.is_none() => format!("ref: {branch}"),
        (_, None) => format!("ref: refs/heads/{id}"),
    };
    write_state(admin, Path::new("HEAD"), format!("{head}\n").as_bytes())
}

/// Makes a branch again; whether it could. Others may have been made since whose names leave no room for its own.
fn make_again(site: &Site, name: &str, at: ObjectId, made: &mut Vec<(String, ObjectId)>) -> bool {
    match references::create(site, name, at, RESTORED) {
        Ok(()) => made.push((name.to_owned(), at)),
        Err(error) => {
            tracing::warn!(name, %error, "a branch can't be made again");
            return false;
        }
    }
    true
}

fn target(repo: &gix::Repository, name: &str) -> Result<Option<ObjectId>> {
    let reading = || format!("read {name}");
    let found = settled(repo, || repo.try_find_reference(name));
    match found.map_err(|e| failed(reading(), e))? {
        Some(mut found) => Ok(Some(found.peel_to_id().map_err(|e| failed(reading(), e))?.detach())),
        None => Ok(None),
    }
}

/// Writes the worktree's administrative files, the index among them.
fn restore_state(
    repo: &gix::Repository,
    parts: &Parts,
    admin: &Path,
    except: &[&str],
) -> Result<()> {
    let metadata = staged::tree_index(repo, parts.metadata)?;
    let mut state = Vec::new();
    for entry in metadata.entries() {
        let path = entry.path(&metadata);
        if let Some(name) = path.strip_prefix(b"state/").map(ByteSlice::as_bstr) {
            let name = checked(name)?;
            if !except.iter().any(|e| name == Path::new(e))
                && name.to_str().is_none_or(|n| !admin::is_not_work(n))
            {
                state.push((name, entry.id));
            }
        } else if path.starts_with(b"tags/") {
            use gix::objs::Write as _;
            repo.objects
                .write_buf(Kind::Tag, &blob(repo, entry.id)?)
                .map_err(|e| failed("write a tag", e))?;
        }
    }
    // Last what needs others: references a tag, and the index the part of it that may be in another file.
    state.sort_by_key(|(name, _)| name == Path::new("index"));
    for (name, id) in state {
        write_state(admin, &name, &blob(repo, id)?)?;
    }
    if metadata.entry_by_path("state/index".into()).is_none() {
        let mut index = gix::index::File::from_state(
            staged::tree_index(repo, parts.index)?,
            admin.join("index"),
        );
        index
            .write(Default::default())
            .map_err(|e| failed(format_args!("write the index in {}", admin.display()), e))?;
    }
    Ok(())
}

/// Writes one of the worktree's administrative files, at once or not at all: others' git reads them all the time, and
/// stops at one that is cut short. Not by git's own locks, which stay when this process is killed.
fn write_state(admin: &Path, name: &Path, content: &[u8]) -> Result<()> {
    let (path, unfinished) = (admin.join(name), admin.join("restoring"));
    make_parent(&path)?;
    write(&unfinished, content)?;
    fs::rename(&unfinished, &path)
        .map_err(|e| Error::io(format_args!("write {}", path.display()), e))
}

/// Writes the worktree's files. `has`: what is checked out at `root` already, unchanged.
fn fill(
    site: &Site,
    repo: &gix::Repository,
    parts: &Parts,
    root: &Path,
    has: Option<gix::index::State>,
) -> Result<()> {
    let manifest = &parts.manifest;
    let mut whole = staged::tree_index(repo, parts.tree)?;
    let raw: HashMap<BString, &PathRecord> = manifest
        .paths
        .iter()
        .filter(|r| r.status.is_raw())
        .map(|r| (r.path.to_bytes(), r))
        .collect();
    let same = |path: &BStr, id: ObjectId, mode: Mode| {
        let there = has.as_ref().and_then(|has| has.entry_by_path(path));
        there.is_some_and(|there| there.id == id && there.mode == mode) && !raw.contains_key(path)
    };
    for old in has.iter().flat_map(|has| has.entries().iter().map(move |e| (e, e.path(has)))) {
        let (entry, path) = old;
        let stays = whole.entry_by_path(path).is_some_and(|new| same(path, new.id, new.mode));
        if !stays && !entry.mode.is_submodule() {
            remove_file(&root.join(checked(path)?))?;
        }
    }

    let left_out = left_out(repo, parts)?;
    if has.is_some() {
        let mut bin = Bin::new(site);
        for record in &manifest.directories {
            make_way(&mut bin, root, &checked(record.path.to_bytes().as_bstr())?, true)?;
        }
        for entry in whole.entries().iter().filter(|entry| !entry.mode.is_submodule()) {
            let path = entry.path(&whole);
            if !same(path, entry.id, entry.mode) && !left_out.contains(path) {
                make_way(&mut bin, root, &checked(path)?, false)?;
            }
        }
    }
    let absent: HashSet<BString> = manifest
        .submodules
        .iter()
        .filter(|submodule| submodule.at.is_none())
        .map(|submodule| submodule.path.to_bytes())
        .collect();
    let mut links = Vec::new();
    for entry in whole.entries() {
        let path = entry.path(&whole);
        let full = root.join(checked(path)?);
        if entry.mode.is_submodule() {
            if absent.contains(path) {
                continue;
            }
            fs::create_dir_all(&full)
                .map_err(|e| Error::io(format_args!("make {}", full.display()), e))?;
        } else if let Some(record) = raw.get(path) {
            // Links come last, so that nothing is ever written through one.
            if entry.mode == Mode::SYMLINK {
                links.push((full, entry.id));
            } else {
                make_parent(&full)?;
                write_new(site, repo, &full, entry.id, record.mode)?;
            }
        }
    }
    whole.remove_entries(|_, path, entry| {
        entry.mode.is_submodule()
            || raw.contains_key(path)
            || left_out.contains(path)
            || same(path, entry.id, entry.mode)
    });
    checkout(repo, &mut whole, root)?;
    for (full, id) in links {
        make_parent(&full)?;
        let target = blob(repo, id)?;
        os::symlink(&os::path(target.as_bstr()), &full)
            .map_err(|e| Error::io(format_args!("make the link {}", full.display()), e))?;
    }

    for record in &manifest.modes {
        let full = inside(root, record.path.to_bytes().as_bstr())?;
        if full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            chmod(&full, record.mode)?;
        }
    }
    let directories = manifest
        .directories
        .iter()
        .map(|d| Ok((inside(root, d.path.to_bytes().as_bstr())?, d.mode)));
    let directories = directories.collect::<Result<Vec<_>>>()?;
    for (full, _) in &directories {
        fs::create_dir_all(full)
            .map_err(|e| Error::io(format_args!("make {}", full.display()), e))?;
    }
    // The deepest were told first: what is in a directory comes before the directory itself.
    for (full, mode) in &directories {
        chmod(full, *mode)?;
    }
    Ok(())
}

/// Removes what a fresh lease has beside what is tracked, such as a set-up file or a cache's directory, from where a
/// file, or a directory if it `is_dir`, is to be.
fn make_way(bin: &mut Bin, root: &Path, path: &Path, is_dir: bool) -> Result<()> {
    let mut full = root.to_owned();
    let last = path.components().count();
    for (count, part) in (1..).zip(path.components()) {
        full.push(part);
        match fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() && (count < last || is_dir) => {}
            Ok(_) => return bin.put(&full),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format_args!("look at {}", full.display()), e)),
        }
    }
    Ok(())
}

/// What sparse checkout had left out of the worktree.
struct LeftOut {
    paths: HashSet<BString>,
    directories: Vec<BString>,
}

impl LeftOut {
    fn contains(&self, path: &BStr) -> bool {
        self.paths.contains(path) || self.directories.iter().any(|dir| path.starts_with(dir))
    }
}

fn left_out(repo: &gix::Repository, parts: &Parts) -> Result<LeftOut> {
    let mut out = LeftOut { paths: Default::default(), directories: Vec::new() };
    let metadata = staged::tree_index(repo, parts.metadata)?;
    let Some(entry) = metadata.entry_by_path("state/index".into()) else { return Ok(out) };
    // An index can only be read from a file, and a split one only beside its other half.
    let dir = tempfile::tempdir().map_err(|e| Error::io("make a temporary directory", e))?;
    for entry in metadata.entries() {
        if let Some(name) =
            entry.path(&metadata).strip_prefix(b"state/").filter(|n| n.starts_with(b"sharedindex."))
        {
            write(&dir.path().join(checked(name.as_bstr())?), &blob(repo, entry.id)?)?;
        }
    }
    let file = dir.path().join("index");
    write(&file, &blob(repo, entry.id)?)?;
    let index = gix::index::File::at(&file, repo.object_hash(), false, Default::default())
        .map_err(|e| failed("read the index of a rescue", e))?;
    for entry in index.entries() {
        let path = entry.path(&index).to_owned();
        if entry.mode == Mode::DIR {
            out.directories.push(path);
        } else if entry.flags.contains(Flags::SKIP_WORKTREE) {
            out.paths.insert(path);
        }
    }
    Ok(out)
}

/// Writes what is unchanged, with the conversions that attributes ask for.
fn checkout(repo: &gix::Repository, index: &mut gix::index::State, root: &Path) -> Result<()> {
    use gix::worktree::stack::state::attributes::Source;
    let doing = || format!("check out into {}", root.display());
    if index.entries().is_empty() {
        return Ok(());
    }
    let mut options =
        repo.checkout_options(Source::IdMappingThenWorktree).map_err(|e| failed(doing(), e))?;
    options.overwrite_existing = true;
    // As git does it: `core.fileMode` is about what is found.
    options.fs.executable_bit = cfg!(unix);
    let objects = repo.objects.clone().into_arc().map_err(|e| Error::io(doing(), e))?;
    let never = AtomicBool::new(false);
    let silent = gix::progress::Discard;
    let outcome =
        gix::worktree::state::checkout(index, root, objects, &silent, &silent, &never, options)
            .map_err(|e| failed(doing(), e))?;
    let mut problems =
        outcome.errors.into_iter().map(|e| format!("{}: {}", text(e.path.as_bstr()), e.error));
    let mut collisions = outcome
        .collisions
        .into_iter()
        .map(|c| format!("{}: {}", text(c.path.as_bstr()), c.error_kind));
    let mut delayed = outcome
        .delayed_paths_unprocessed
        .into_iter()
        .map(|p| format!("{}: its filter gave nothing", text(p.as_bstr())));
    match problems.next().or_else(|| collisions.next()).or_else(|| delayed.next()) {
        None => Ok(()),
        Some(problem) => {
            Err(Error::new(ErrorKind::Other, format!("cannot {}: {problem}", doing())))
        }
    }
}

/// A path of a tree, if it stays inside the directory that it is relative to.
fn checked(path: &BStr) -> Result<PathBuf> {
    let inside = path.split_str("/").all(|part| {
        !part.is_empty() && part != b"." && part != b".." && !part.eq_ignore_ascii_case(b".git")
    });
    let found = os::path(path);
    if !inside || found.is_absolute() {
        return Err(Error::new(
            ErrorKind::Store,
            format!("the rescue names {:?}, which is no path inside a worktree", text(path)),
        ));
    }
    Ok(found)
}

/// Where a path that is a file or a directory is below `root`, if no link leads to it.
fn inside(root: &Path, path: &BStr) -> Result<PathBuf> {
    let mut full = root.to_owned();
    let checked = checked(path)?;
    let last = checked.components().count();
    for (count, part) in (1..).zip(checked.components()) {
        full.push(part);
        let found = fs::symlink_metadata(&full);
        if found.is_ok_and(|meta| !meta.is_dir() && (count < last || meta.is_symlink())) {
            return Err(Error::new(
                ErrorKind::Store,
                format!("the rescue names {:?}, where something else is", text(path)),
            ));
        }
    }
    Ok(full)
}

fn blob(repo: &gix::Repository, id: ObjectId) -> Result<Vec<u8>> {
    let object =
        repo.find_object(id).map_err(|e| failed(format_args!("read the object {id}"), e))?;
    Ok(object.detach().data)
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|e| Error::io(format_args!("make {}", parent.display()), e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| Error::io(format_args!("write {}", path.display()), e))
}

/// From this size on a file's content is not held in memory. Below it, starting git costs more.
const LARGE: u64 = 1 << 20;

fn write_new(
    site: &Site,
    repo: &gix::Repository,
    path: &Path,
    id: ObjectId,
    mode: Option<u32>,
) -> Result<()> {
    let doing = format!("write {}", path.display());
    let writing = |e| Error::io(&doing, e);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(writing)?;
    let size =
        repo.find_header(id).map_err(|e| failed(format_args!("read the object {id}"), e))?.size();
    if size < LARGE {
        file.write_all(&blob(repo, id)?).map_err(writing)?;
    } else {
        // Below this threshold git holds what is in a pack in memory as well.
        let written = Git::in_repository(&site.common_dir, &site.settings)
            .args(["-c", "core.bigFileThreshold=1m", "cat-file", "blob", &id.to_string()])
            .run_into(&mut file, &doing)?;
        if written != size {
            return Err(Error::new(
                ErrorKind::Store,
                format!("only {written} of the {size} bytes of the object {id} can be read"),
            )
            .with_hint("check the repository with `git fsck`"));
        }
    }
    mode.map_or(Ok(()), |mode| chmod(path, mode))
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    os::set_mode(path, mode)
        .map_err(|e| Error::io(format_args!("set the mode of {}", path.display()), e))
}
