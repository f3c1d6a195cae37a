//! Registering and unregistering linked worktrees, one at a time.
//!
//! Eight `git worktree add` at once fail in a few of a hundred cases, since each reads the others'
//! half-written registrations. So the pool registers under one lock of all its processes, which
//! lies in the pool's own directory: nothing is written into the user's repository that git
//! would not write. Two pools of one repository, or a user's own `git worktree add`, don't know
//! that lock; against these, registering is tried again a few times.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fs4::TryLockError;
use gix::worktree::add::{Head, PrepareCheckout};
use pool_core::{Error, ErrorKind, Plan, Result};

use crate::branch;
use crate::site::{Site, gix_error};
use crate::trash::Bin;

const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs `work` while no other process of this pool registers, unregisters, or moves a branch. The
/// lock file stays: unlinking it would let two processes hold it at once.
pub(crate) fn exclusively<T>(
    site: &Site,
    interrupt: &AtomicBool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let path = site.pool_dir.join("registration.lock");
    let doing = || format!("lock {}", path.display());
    let file = fs::create_dir_all(&site.pool_dir)
        .and_then(|()| {
            File::options().create(true).truncate(false).read(true).write(true).open(&path)
        })
        .map_err(|e| Error::io(doing(), e))?;
    // Polled, so that a caller who went away stops waiting.
    loop {
        match fs4::FileExt::try_lock(&file) {
            // Until `file` is closed, after the work.
            Ok(()) => return work(),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(TryLockError::Error(e)) => return Err(Error::io(doing(), e)),
        }
        check(interrupt)?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails once the caller has gone away.
pub(crate) fn check(interrupt: &AtomicBool) -> Result<()> {
    if interrupt.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Cancelled, "given up, since the caller went away"));
    }
    Ok(())
}

/// Registers the plan's worktree, and makes its branch. Nothing is checked out yet; dropping the
/// result takes the registration back, but not the branch.
pub(crate) fn register(
    site: &Site,
    plan: &Plan,
    interrupt: &AtomicBool,
) -> Result<PrepareCheckout> {
    let place = site.place(plan.slot);
    let base = branch::object_id(&plan.base.commit)?;
    exclusively(site, interrupt, || {
        // Reopened, since the configuration may have changed while the pool was running.
        let repo = crate::site::open_repository(&site.common_dir, &site.settings)?;
        let mut attempt = 1;
        let prepared = loop {
            // Always detached at first: for a branch, gix opens every other worktree, and one broken
            // registration would stop all leases.
            match repo.prepare_add_worktree(&place, Head::Detached(base), interrupt) {
                Ok(prepared) => break prepared,
                Err(_) if attempt < ATTEMPTS && !interrupt.load(Ordering::Relaxed) => {
                    attempt += 1;
                    std::thread::sleep(PAUSE * attempt);
                }
                Err(e) => {
                    return Err(gix_error(format!("register the worktree {}", place.display()), e));
                }
            }
        };
        if plan.base.branch.is_some() {
            let admin = prepared.repo().git_dir().to_owned();
            branch::attach(site, &admin, plan)?;
        }
        Ok(prepared)
    })
}

/// Removes a registration whose worktree is gone. To be called under the lock.
pub(crate) fn unregister(admin: &Path, bin: &mut Bin) -> Result<()> {
    match bin.put(admin) {
        Err(_) if fs::symlink_metadata(admin).is_err() => Ok(()),
        // The repository may be on another filesystem than the pool.
        Err(_) => match fs::remove_dir_all(admin) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", admin.display()), e))
            }
            _ => Ok(()),
        },
        Ok(()) => Ok(()),
    }
}
