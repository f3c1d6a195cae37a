//! Making a used worktree into a fresh one, writing only what differs.
//!
//! The order is: check, set the tree aside, mark as half made, reset, clean, put back, settle the old
//! branch, attach the new one, unmark. Once the mark is set there is nothing in the tree that is
//! anybody's work: the proof says so, and a look at it after it had been set aside. Should any step
//! fail, the slot is disposed of.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pool_core::{CommitId, Error, ErrorKind, Plan, Preserved, Result};

use crate::aside;
use crate::baseline::{self, Baseline, Modes};
use crate::branch;
use crate::checkout;
use crate::conversions;
use crate::copy;
use crate::durable;
use crate::nested;
use crate::own_worktree;
use crate::provision::{init_submodules, refuse_submodules, remember_config, unmark};
use crate::registration;
use crate::site::{MAKING, Site, gix_error, open_repository, remove_file};
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
    nested::check_alone(site, plan.slot)?;
    let base = branch::object_id(&plan.base.commit)?;
    site.repo().find_commit(base).map_err(|e| gix_error(format!("find the commit {base}"), e))?;
    wait_for_locks(&admin)?;
    registration::check(interrupt)?;
    let taken = aside::take(site, &proof)?;
    let Some(root) = taken.root else {
        let message = format!("there is no worktree at {}", place.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    pool_core::fail_point!("git-backend::recycle::set-aside");
    // Before the mark: what is half made is taken for no work, and these may not be saved again.
    let mut bin = Bin::new(site);
    nested::remove(site, plan.slot, &taken.nested, interrupt, &mut bin)?;
    let marker = site.making_marker(plan.slot);
    durable::write(&marker, MAKING)?;

    pool_core::fail_point!("git-backend::recycle::marked");
    clear_state(&admin, &mut bin)?;
    pool_core::fail_point!("git-backend::recycle::cleared");
    restore_head(&admin, &plan.base.commit)?;
    // What the main worktree has today, as a new slot would.
    let main = open_repository(&site.common_dir, &site.settings)?;
    registration::write_own_config(&main, &admin)?;
    own_worktree::secure(site, &admin, &place)?;
    remember_config(site, plan, &admin)?;
    branch::detach(&site.open_admin(&admin)?, &plan.base.commit)?;
    pool_core::fail_point!("git-backend::recycle::detached");

    let mut repo = site.open_admin(&admin)?;
    repo.set_workdir(root.clone()).map_err(|e| gix_error(format!("open {}", root.display()), e))?;
    checkout::with_modes(&mut repo)?;
    let mut files = checkout::files(site, &repo, &root)?;
    let has_filters = conversions::need_git(&repo, &files, &site.settings);
    let modes = Modes::find(site, plan.slot)?;
    let decides = baseline::decides(site, &repo, &files, modes)?;
    let baseline = Baseline::load(site, plan.slot, &repo, &decides);
    baseline::forget(site, plan.slot)?;
    tree::clean(&root, &files, modes, &mut bin)?;
    let stays = checkout::sort_out(
        &repo,
        &mut files,
        &root,
        baseline.as_ref(),
        modes,
        !has_filters,
        &mut bin,
    )?;
    modes
        .give_file(&root.join(".git"))
        .map_err(|e| Error::io(format!("change the mode of {}/.git", root.display()), e))?;
    registration::check(interrupt)?;
    pool_core::fail_point!("git-backend::recycle::cleaned");
    // Git fetches what a partial clone left out by the hundred here, and one by one elsewhere.
    let in_place = has_filters && !checkout::is_partial(&repo);
    if !in_place {
        // Here, where no process can write by the slot's path.
        checkout::write(site, &repo, &mut files, &stays, &root, interrupt)?;
    }
    registration::check(interrupt)?;
    pool_core::fail_point!("git-backend::recycle::reset");
    // `reset` and the reflog of what was done here are not the next lease's business.
    clear_state(&admin, &mut bin)?;
    registration::begin_log(&repo, &admin, base)?;
    aside::put_back(site, plan.slot)?;
    // The last lease's, if it had locked the worktree.
    remove_file(&admin.join(registration::LOCK))?;
    pool_core::fail_point!("git-backend::recycle::put-back");

    registration::exclusively(site, interrupt, || {
        branch::settle(site, previous, proof.branch().is_some_and(|branch| branch.kept))?;
        pool_core::fail_point!("git-backend::recycle::settled");
        branch::attach(site, &admin, plan)?;
        registration::ensure_log(&repo, &admin, plan)
    })?;
    pool_core::fail_point!("git-backend::recycle::attached");
    if in_place {
        checkout::write_filtered(site, &admin, &place, &mut files)?;
    }
    init_submodules(site, plan, &admin)?;
    source::record(site)?;
    copy::bring_along(site, plan.slot)?;
    registration::keep(site, plan, &admin)?;
    own_worktree::verify(site, &admin, &place)?;
    if !has_filters {
        baseline::save(site, plan.slot, &repo, &decides)?;
    }
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
    // A file that locks another is never the pool's. The worktree's own lock stays as long as nothing
    // is at its place, whichever process made it.
    clear(admin, bin, &|name| {
        let is_lock = name == registration::LOCK || name.ends_with(".lock");
        is_lock || LASTING.contains(&name)
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
