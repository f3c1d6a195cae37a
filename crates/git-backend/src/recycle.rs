//! Making a used worktree into a fresh one, writing only what differs.
//!
//! The order is: check, set the tree aside, mark as half made, reset, clean, put back, settle the old
//! branch, attach the new one, unmark. Once the mark is set there is nothing in the tree that is
//! anybody's work: the proof says so, and a look at it after it had been set aside. Should any step
//! fail, the slot is disposed of.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix::index::Entry;
use gix::index::entry::{Flags, Stat};
use pool_core::{CommitId, Error, ErrorKind, Plan, Preserved, Result};

use crate::aside;
use crate::branch;
use crate::copy;
use crate::directory::Directory;
use crate::durable;
use crate::git::Git;
use crate::inspect::compare::STRICTLY;
use crate::inspect::os;
use crate::own_worktree;
use crate::provision::{
    OWN_CONFIG, init_submodules, is_for_git, refuse_submodules, remember_config, remembered, unmark,
};
use crate::registration;
use crate::site::{Site, gix_error, remove_file};
use crate::source;
use crate::trash::Bin;
use crate::tree;

/// What stays of a worktree's administrative directory. All else, known or not, is state of the
/// last lease: a rebase, a merge, a bisection, its own references, its reference log.
const LASTING: [&str; 6] = ["HEAD", "commondir", "gitdir", "index", "config.worktree", "info"];

/// What stays of `info`; git reads nothing else there.
const LASTING_INFO: [&str; 1] = ["sparse-checkout"];

/// See [`pool_core::Isolator::recycle`].
pub(crate) fn recycle(
    site: &Site,
    plan: &Plan,
    proof: Preserved,
    interrupt: &AtomicBool,
) -> Result<()> {
    let proof = aside::come_back(site, proof)?;
    let previous = proof.plan();
    if proof.slot() != plan.slot {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the proof is for slot {}, not for slot {}", proof.slot(), plan.slot),
        ));
    }
    let place = site.place(plan.slot);
    let admin = site.admin_dir(plan.slot)?;
    refuse_submodules(site, plan)?;
    let base = branch::object_id(&plan.base.commit)?;
    site.repo().find_commit(base).map_err(|e| gix_error(format!("find the commit {base}"), e))?;
    wait_for_locks(&admin)?;
    registration::check(interrupt)?;
    let Some(root) = aside::take(site, &proof)? else {
        let message = format!("there is no worktree at {}", place.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    pool_core::fail_point!("git-backend::recycle::set-aside");
    let marker = site.making_marker(plan.slot);
    durable::write(&marker, b"by wtpool\n")?;

    pool_core::fail_point!("git-backend::recycle::marked");
    let mut bin = Bin::new(site);
    clear_state(&admin, &mut bin)?;
    pool_core::fail_point!("git-backend::recycle::cleared");
    restore_head(&admin, &plan.base.commit)?;
    restore_config(site, plan, &admin)?;
    if own_worktree::secure(site, &admin, &place)? {
        // What the slot is made with from now on: else the next reset would undo it.
        remember_config(site, plan, &admin)?;
    }
    let git = || Git::in_worktree(site, &admin, &root);
    branch::detach(&site.open_admin(&admin)?, &plan.base.commit)?;
    pool_core::fail_point!("git-backend::recycle::detached");
    unhide(&site.open_admin(&admin)?, &root, &mut bin)?;
    if is_for_git(site, &site.open_admin(&admin)?) {
        // What a filter gives may depend on variables and configuration: without an index, git
        // writes each file, as in a new slot. Here, where no process can write by the slot's path.
        remove_file(&admin.join("index"))?;
    }
    // Files that were touched and not changed are known as such before the reset, which would
    // write them again otherwise. It "fails" whenever some file did change.
    git().args(["update-index", "-q", "--really-refresh"]).succeeds()?;
    git()
        .args(["reset", "--hard", "--quiet", "--no-recurse-submodules", plan.base.commit.as_str()])
        .run()?;
    registration::check(interrupt)?;
    pool_core::fail_point!("git-backend::recycle::reset");

    let mut repo = site.open_admin(&admin)?;
    repo.set_workdir(root.clone()).map_err(|e| gix_error(format!("open {}", root.display()), e))?;
    let keep = copy::still_good(site, plan.slot, &repo, &root)?;
    tree::clean(site, &repo, &root, &keep, &mut bin)?;
    pool_core::fail_point!("git-backend::recycle::cleaned");
    // `reset` and the reflog of what was done here are not the next lease's business.
    clear_state(&admin, &mut bin)?;
    aside::put_back(site, plan.slot)?;
    // The last lease's, if it had locked the worktree.
    remove_file(&admin.join(registration::LOCK))?;
    pool_core::fail_point!("git-backend::recycle::put-back");

    registration::exclusively(site, interrupt, || {
        branch::settle(site, previous, proof.branch().is_some_and(|branch| branch.kept))?;
        pool_core::fail_point!("git-backend::recycle::settled");
        branch::attach(site, &admin, plan)
    })?;
    pool_core::fail_point!("git-backend::recycle::attached");
    init_submodules(site, plan, &admin)?;
    source::record(site)?;
    copy::bring_along(site, plan.slot)?;
    registration::keep(site, plan, &admin)?;
    own_worktree::verify(site, &admin, &place)?;
    pool_core::fail_point!("git-backend::recycle::made");
    unmark(&marker)
}

/// Gives another git process two seconds to end. Its lock is never removed.
fn wait_for_locks(admin: &Path) -> Result<()> {
    for name in ["index.lock", "HEAD.lock"] {
        let lock = admin.join(name);
        let mut attempts = 20;
        while fs::symlink_metadata(&lock).is_ok() {
            if attempts == 0 {
                return Err(Error::new(ErrorKind::Busy, format!("{} is held", lock.display())).with_hint(
                    "another git process works there; if none does, it died, and the file can be removed",
                ));
            }
            attempts -= 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn clear_state(admin: &Path, bin: &mut Bin) -> Result<()> {
    let _head = registration::hold_head(admin);
    // A split index has its larger part in a file of its own; a file that locks another is never ours; and
    // the worktree stays locked, by whom it may be, for as long as nothing is at its place.
    clear(admin, bin, &|name| {
        let is_lock = name == registration::LOCK || name.ends_with(".lock");
        is_lock || LASTING.contains(&name) || name.starts_with("sharedindex.")
    })?;
    let info = admin.join("info");
    match fs::symlink_metadata(&info) {
        Ok(meta) if meta.is_dir() => clear(&info, bin, &|name| LASTING_INFO.contains(&name)),
        _ => Ok(()),
    }
}

/// Removes what is in `dir` other than what is `lasting`. A link is never kept: what git or this program
/// writes next would be written where it leads.
fn clear(dir: &Path, bin: &mut Bin, lasting: &dyn Fn(&str) -> bool) -> Result<()> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    for entry in fs::read_dir(dir).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_link = entry.file_type().map_err(reading)?.is_symlink();
        if lasting(&name) && (!is_link || name.ends_with(".lock")) {
            continue;
        }
        // The repository may be on another filesystem than the trash; what is in here is git's
        // own bookkeeping, small except for submodules.
        let moved = bin.put(&path);
        match moved {
            Ok(()) => {}
            Err(_) => {
                let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
                let removed =
                    if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                match removed {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("remove {}", path.display()), e));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// A link was not kept.
fn restore_head(admin: &Path, commit: &CommitId) -> Result<()> {
    let head = admin.join("HEAD");
    match fs::symlink_metadata(&head) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::write(&head, format!("{commit}\n"))
            .map_err(|e| Error::io(format!("write {}", head.display()), e)),
        _ => Ok(()),
    }
}

/// Gives the worktree the configuration of its own back that it was made with.
fn restore_config(site: &Site, plan: &Plan, admin: &Path) -> Result<()> {
    let mut sparse_changed = false;
    for file in OWN_CONFIG {
        let path = admin.join(file);
        let read = |path: &Path| match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
        };
        let made_with = read(&remembered(site, plan.slot, file))?;
        if read(&path)? == made_with {
            continue;
        }
        sparse_changed = true;
        let restored = match made_with {
            Some(content) => fs::create_dir_all(path.parent().unwrap_or(admin))
                .and_then(|()| fs::write(&path, content)),
            None => fs::remove_file(&path),
        };
        restored.map_err(|e| Error::io(format!("restore {}", path.display()), e))?;
    }
    if sparse_changed {
        // Which files are to be there has changed, and only an index that doesn't claim to know is
        // brought in step by a reset. All files are written again: rare, and right.
        remove_file(&admin.join("index"))?;
    }
    Ok(())
}

/// Takes the marks off the index that make git believe a file unchanged, or absent on purpose. In a
/// sparse checkout the latter are wanted; but what lies there nevertheless would be taken for a wish
/// to have it, so it is removed.
fn unhide(repo: &gix::Repository, place: &Path, bin: &mut Bin) -> Result<()> {
    let doing = || format!("read the index of {}", repo.git_dir().display());
    if fs::symlink_metadata(repo.index_path()).is_err() {
        return Ok(());
    }
    let is_sparse = repo.config_snapshot().boolean("core.sparseCheckout").unwrap_or(false);
    let mut hiding = Flags::ASSUME_VALID | Flags::FSMONITOR_VALID;
    if !is_sparse {
        hiding |= Flags::SKIP_WORKTREE;
    }
    let mut index = repo.open_index().map_err(|e| gix_error(doing(), e))?;
    if is_sparse {
        for entry in index.entries().iter().filter(|e| e.flags.contains(Flags::SKIP_WORKTREE)) {
            let path =
                gix::path::from_bstr(entry.path(&index)).map_err(|e| gix_error(doing(), e))?;
            if let Some((dir, name)) = find(place, &path) {
                bin.put_from(&dir, name)?;
            }
        }
    }
    let mut found = false;
    let changed: Vec<bool> = index
        .entries()
        .iter()
        .map(|entry| !is_unchanged(entry, &place.join(os::path(entry.path(&index)))))
        .collect();
    for (entry, changed) in index.entries_mut().iter_mut().zip(changed) {
        found |= entry.flags.intersects(hiding) || changed;
        entry.flags.remove(hiding);
        if changed {
            // Git looks only at seconds: a file that was written in the one in which it was checked out,
            // and then given its old time, is the same to it. So it is to read that.
            entry.stat = Stat::default();
        }
    }
    if found {
        index.write(Default::default()).map_err(|e| gix_error(doing(), e))?;
    }
    Ok(())
}

/// Whether a file's times and size are those that the index has, to the fraction of a second. A file that is
/// not there is seen by git as well.
fn is_unchanged(entry: &Entry, full: &Path) -> bool {
    let Ok(meta) = gix::index::fs::Metadata::from_path_no_follow(full) else { return true };
    Stat::from_fs(&meta).is_ok_and(|found| entry.stat.matches(&found, STRICTLY))
}

/// The directory that holds what is at `path` below `place`, if anything is, and no link on the way to it
/// leads elsewhere; and its name there.
fn find<'a>(place: &Path, path: &'a Path) -> Option<(Directory, &'a OsStr)> {
    let mut dir = Directory::open(place).ok()?;
    for part in path.parent().into_iter().flat_map(Path::components) {
        dir = dir.child(part.as_os_str()).ok()?;
    }
    let name = path.file_name()?;
    dir.is_dir(name).is_ok().then_some((dir, name))
}
