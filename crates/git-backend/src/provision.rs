//! Making a worktree where there is none.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pool_core::{Error, ErrorKind, Plan, Result};

use crate::baseline::{self, Modes};
use crate::branch;
use crate::checkout;
use crate::conversions;
use crate::copy;
use crate::dispose;
use crate::durable;
use crate::git::Git;
use crate::own_worktree;
use crate::registration;
use crate::settings::SubmoduleMode;
use crate::site::{MAKING, Place, Site, foreign, gix_error, open_repository, remove_file};
use crate::source;

/// See [`pool_core::Isolator::provision`].
pub(crate) fn provision(site: &Site, plan: &Plan, interrupt: &AtomicBool) -> Result<()> {
    let place = site.place(plan.slot);
    if site.is_half_made(plan.slot) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("the making of {} was interrupted", place.display()),
        )
        .with_hint("dispose of the slot first"));
    }
    match site.look(plan.slot)? {
        Place::Absent => {}
        Place::Foreign(what) => return Err(foreign(&place, &what)),
        Place::Ours(_) | Place::Pruned(_) => {
            return Err(foreign(&place, "a worktree is there already"));
        }
    }
    if site.registration_of(plan.slot)?.is_some() {
        return Err(Error::new(
            ErrorKind::WouldLoseWork,
            format!("the worktree {} is gone, but still registered", place.display()),
        )
        .with_hint("dispose of the slot first, so that its commits are saved"));
    }
    refuse_submodules(site, plan)?;

    // The marker is there from before the first trace until after the last step: whenever the
    // process dies in between, the slot is seen to be half made.
    let marker = site.making_marker(plan.slot);
    fs::create_dir_all(site.slot_dir(plan.slot))
        .map_err(|e| Error::io(format!("write {}", marker.display()), e))?;
    durable::write(&marker, MAKING)?;
    pool_core::fail_point!("git-backend::provision::marked");
    let made = make(site, plan, interrupt).and_then(|()| {
        pool_core::fail_point!("git-backend::provision::made");
        unmark(&marker)
    });
    if made.is_err() {
        // What can't be undone stays marked as half made. The first error is the one to report, and
        // undoing must not be interrupted again.
        if let Err(e) = dispose::take_away(site, plan, None, &AtomicBool::new(false)) {
            tracing::warn!(slot = plan.slot.0, error = %e, "a half-made worktree could not be removed");
        }
    }
    made
}

/// Takes away the mark of what is half made: for good, since what is half made is nobody's work, and soon
/// somebody works there.
pub(crate) fn unmark(marker: &Path) -> Result<()> {
    fs::remove_file(marker).map_err(|e| Error::io(format!("remove {}", marker.display()), e))?;
    marker.parent().map_or(Ok(()), |dir| durable::file(dir).map(drop))
}

fn make(site: &Site, plan: &Plan, interrupt: &AtomicBool) -> Result<()> {
    let place = site.place(plan.slot);
    let admin = registration::register(site, plan, interrupt)?;
    pool_core::fail_point!("git-backend::provision::registered");
    let main = open_repository(&site.common_dir, &site.settings)?;
    registration::write_own_config(&main, &admin)?;
    own_worktree::secure(site, &admin, &place)?;
    let mut repo = site.open_admin(&admin)?;
    checkout::with_modes(&mut repo)?;
    let by_git = checkout::is_partial(&repo) || is_for_git(site, &repo);
    let complete = !by_git && check_out(&repo, &place, interrupt)?;
    registration::check(interrupt)?;
    if !complete {
        // Names that collide here, or a filter that did not deliver: git decides what that means.
        check_out_by_git(site, &admin, &place)?;
    }
    remove_file(&admin.join(registration::LOCK))?;
    pool_core::fail_point!("git-backend::provision::checked-out");
    remember_config(site, plan, &admin)?;
    init_submodules(site, plan, &admin)?;
    registration::check(interrupt)?;
    pool_core::fail_point!("git-backend::provision::configured");
    source::record(site)?;
    copy::bring_along(site, plan.slot)?;
    registration::keep(site, plan, &admin)?;
    own_worktree::verify(site, &admin, &place)?;
    if complete {
        let modes = Modes::find(site, plan.slot)?;
        let index = repo.open_index().map_err(|e| gix_error("read the new index", e))?;
        let decides = baseline::decides(site, &repo, &index, modes)?;
        baseline::save(site, plan.slot, &repo, &decides)?;
    }
    Ok(())
}

/// Has git check out what `HEAD` is at. That leaves no trace in the logs: none is there in a used slot.
fn check_out_by_git(site: &Site, admin: &Path, place: &Path) -> Result<()> {
    let log = admin.join("logs/HEAD");
    let before = fs::read(&log);
    Git::in_worktree(site, admin, place).args(checkout::RESET).run()?;
    remove_file(&admin.join("ORIG_HEAD"))?;
    match before {
        Ok(before) => fs::write(&log, before),
        Err(_) => return remove_file(&log),
    }
    .map_err(|e| Error::io(format!("write {}", log.display()), e))
}

/// Whether the commit at `HEAD` asks for conversions that only git does.
fn is_for_git(site: &Site, repo: &gix::Repository) -> bool {
    let index = repo
        .head_tree_id()
        .and_then(|tree| repo.index_from_tree(&tree))
        .map_err(|e| gix_error("read the commit to check out", e));
    match index {
        Ok(index) => conversions::need_git(repo, &index, &site.settings),
        // An object that is being packed just now, for one: git sees what that means.
        Err(error) => {
            tracing::debug!(%error, "git is left to check out what gix could not read");
            true
        }
    }
}

/// Checks out what HEAD is at; whether all of it is there now.
fn check_out(repo: &gix::Repository, place: &Path, interrupt: &AtomicBool) -> Result<bool> {
    let Some(worktree) = repo.worktree() else { return Ok(false) };
    let written = worktree.checkout(gix::progress::Discard, interrupt);
    checkout::is_complete(
        written.map_err(|e| gix_error(format!("check out a worktree at {}", place.display()), e)),
    )
}

/// The parts of a worktree's own configuration, as they were when it was made.
pub(crate) const OWN_CONFIG: [&str; 2] = ["config.worktree", "info/sparse-checkout"];

/// Keeps a copy of the worktree's own configuration, which came from the main worktree: what a lease
/// changes in it must not reach the next one.
pub(crate) fn remember_config(site: &Site, plan: &Plan, admin: &Path) -> Result<()> {
    for file in OWN_CONFIG {
        let from = admin.join(file);
        let to = remembered(site, plan.slot, file);
        match fs::copy(&from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => remove_file(&to)?,
            copied => copied.map(drop).map_err(|e| {
                Error::io(format!("copy {} to {}", from.display(), to.display()), e)
            })?,
        }
    }
    Ok(())
}

/// Where the copy of one such file lies.
pub(crate) fn remembered(site: &Site, slot: pool_core::SlotId, file: &str) -> std::path::PathBuf {
    site.slot_dir(slot).join(remembered_name(file))
}

pub(crate) fn remembered_name(file: &str) -> String {
    format!(".{}", file.replace('/', "-"))
}

/// Fails when the settings refuse submodules and the commit has any.
pub(crate) fn refuse_submodules(site: &Site, plan: &Plan) -> Result<()> {
    if site.settings.submodules != SubmoduleMode::Refuse {
        return Ok(());
    }
    let repo = site.repo();
    let index = repo
        .find_commit(branch::object_id(&plan.base.commit)?)
        .and_then(|commit| commit.tree_id())
        .and_then(|tree| repo.index_from_tree(&tree))
        .map_err(|e| gix_error(format!("read the commit {}", plan.base.commit), e))?;
    let submodule = index.entries().iter().find(|e| e.mode == gix::index::entry::Mode::COMMIT);
    match submodule {
        Some(entry) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} has a submodule, {}", plan.base.commit, entry.path(&index)),
        )
        .with_hint("set `submodules` to `ignore` or `init`")),
        None => Ok(()),
    }
}

/// Checks submodules out where that is wanted.
pub(crate) fn init_submodules(site: &Site, plan: &Plan, admin: &Path) -> Result<()> {
    let place = site.place(plan.slot);
    if site.settings.submodules != SubmoduleMode::Init || !place.join(".gitmodules").is_file() {
        return Ok(());
    }
    debug_assert!(site.admin_dir(plan.slot).is_ok_and(|found| found == admin));
    // git-submodule wants to find the worktree itself; it was checked to be ours just now.
    let submodule = |args: &[&str]| {
        let git = Git::in_directory(&place, &site.settings).args(["submodule", "--quiet"]);
        git.args(args).run().map_err(|e| {
            let hint = if e.to_string().contains("transport 'file' not allowed") {
                "git clones submodules from local paths only if `protocol.file.allow` is `always` in your own configuration"
            } else {
                "check the submodules' URLs, or set `submodules` to `ignore`"
            };
            e.with_hint(hint)
        })
    };
    // This part writes to the repository's configuration, which all worktrees share.
    let never = AtomicBool::new(false);
    registration::exclusively(site, &never, || submodule(&["init"]))?;
    submodule(&["update", "--init", "--recursive"])?;
    note_cloned_refs(&admin.join("modules"))
}

/// In each submodule's repository, the references that came with it. Nothing else tells a tag of its
/// origin, if it is on no branch, from one of the lease's own.
pub(crate) const CLONED_REFS: &str = "wtpool-cloned-refs";

fn note_cloned_refs(modules: &Path) -> Result<()> {
    let no_objects = |entry: &walkdir::DirEntry| entry.file_name() != "objects";
    for entry in walkdir::WalkDir::new(modules).into_iter().filter_entry(no_objects) {
        let packed = match entry {
            Ok(entry) if entry.file_name() == "packed-refs" => entry.into_path(),
            Ok(_) => continue,
            // No submodule has any.
            Err(e) if e.depth() == 0 => return Ok(()),
            Err(e) => return Err(Error::io(format!("read {}", modules.display()), e.into())),
        };
        let note = packed.with_file_name(CLONED_REFS);
        fs::copy(&packed, &note).map_err(|e| {
            Error::io(format!("copy {} to {}", packed.display(), note.display()), e)
        })?;
    }
    Ok(())
}
