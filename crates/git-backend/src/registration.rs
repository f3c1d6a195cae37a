//! Registering and unregistering linked worktrees, one at a time.
//!
//! Eight `git worktree add` at once fail in a few of a hundred cases, since each reads the others'
//! half-written registrations. So the pool registers under one lock of all its processes, which
//! lies in the pool's own directory: nothing is written into the user's repository that git
//! would not write. For two pools of one repository its git directory itself is locked as well, where that can
//! be. A user's own `git worktree add` knows neither; against that, registering is tried again a few times.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fs4::TryLockError;
use gix::worktree::add::Head;
use pool_core::{Error, ErrorKind, Plan, Result, SlotId, open_plain};

use crate::branch;
use crate::durable;
use crate::git::Git;
use crate::site::{MAKING, Site, entries, gix_error};
use crate::trash::Bin;

mod whole;

pub(crate) use whole::{begin_log, clear_unfinished, staged, write_own_config};

/// What keeps a worktree registered while nothing is at its place, in its administrative directory:
/// `git worktree lock` makes it.
pub(crate) const LOCK: &str = "locked";

/// The lock of all processes of one pool, in its directory.
pub(crate) const REGISTRATION_LOCK: &str = "registration.lock";

const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// For how long a lock is waited for. It is held for a moment each time, unless its holder was stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// For how long a worktree's `HEAD` is waited for.
const HEAD_PATIENCE: Duration = Duration::from_secs(2);

/// Runs `work` while no other process of this pool, or of another one of the repository, registers, unregisters, or
/// moves a branch. The lock file stays: unlinking it would let two processes hold it at once.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when another process has kept it for a minute, and those of `work`.
pub(crate) fn exclusively<T>(
    site: &Site,
    interrupt: &AtomicBool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let path = site.pool_dir.join(REGISTRATION_LOCK);
    let doing = |e| Error::io(format!("lock {}", path.display()), e);
    let file = fs::create_dir_all(&site.pool_dir)
        .and_then(|()| {
            let mut options = File::options();
            open_plain(options.create(true).truncate(false).read(true).write(true), &path)
        })
        .map_err(doing)?;
    lock(&file, &path, interrupt, LOCK_PATIENCE)?.map_err(doing)?;
    // Only Unix opens directories, and not every filesystem locks what is not open for writing.
    let _shared = match File::open(&site.common_dir) {
        Ok(shared) => match lock(&shared, &site.common_dir, interrupt, LOCK_PATIENCE)? {
            Ok(()) => Some(shared),
            Err(error) => {
                tracing::debug!(%error, "the repository can't be locked for other pools");
                None
            }
        },
        Err(_) => None,
    };
    site.check_in_place()?;
    // Both until they are closed, after the work.
    work()
}

/// Waits for a lock, and looks at it again and again, so that a caller who went away stops waiting.
fn lock(
    file: &File,
    path: &Path,
    interrupt: &AtomicBool,
    patience: Duration,
) -> Result<io::Result<()>> {
    let begun = Instant::now();
    loop {
        match fs4::FileExt::try_lock(file) {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(TryLockError::Error(e)) => return Ok(Err(e)),
        }
        check(interrupt)?;
        if begun.elapsed() >= patience {
            let message =
                format!("another process has kept {} locked for {patience:?}", path.display());
            return Err(Error::new(ErrorKind::Busy, message)
                .with_hint("it may have been stopped: `fuser` names it; let it go on, or end it"));
        }
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

/// Registers the plan's worktree, makes its branch, and returns the administrative directory. Nothing is
/// checked out yet.
pub(crate) fn register(site: &Site, plan: &Plan, interrupt: &AtomicBool) -> Result<PathBuf> {
    let base = branch::object_id(&plan.base.commit)?;
    exclusively(site, interrupt, || {
        // Reopened, since the configuration may have changed while the pool was running.
        let repo = crate::site::open_repository(&site.common_dir, &site.settings)?;
        let (place, staged) = (site.place(plan.slot), staged(site, plan.slot));
        let admin = match whole::register(site, &repo, &staged, &place, base)? {
            Some(admin) => admin,
            None => {
                // Until the registration says whose it is, this is how it can be told.
                note_beginning(site, plan.slot)?;
                step_by_step(site, &repo, &place, base, interrupt)?
            }
        };
        pool_core::fail_point!("git-backend::registration::prepared");
        branch::attach(site, &admin, plan)?;
        ensure_log(&repo, &admin, plan)?;
        pool_core::fail_point!("git-backend::registration::attached");
        Ok(admin)
    })
}

/// Begins the log of `HEAD` for a lease, and names the lease in it; for none, makes the log if there is
/// none. Git appends to one that exists even if `core.logAllRefUpdates` is false. It names the commits
/// of a branch that another process deletes during the lease, as `git fetch --prune` does in a mirror.
pub(crate) fn ensure_log(repo: &gix::Repository, admin: &Path, plan: &Plan) -> Result<()> {
    let log = admin.join("logs/HEAD");
    let base = branch::object_id(&plan.base.commit)?;
    let write = || match &plan.lease {
        Some((lease, _)) => {
            fs::write(&log, whole::first_entry(repo, base, &branch::prepared_for(lease))?)
        }
        None => fs::OpenOptions::new().append(true).create(true).open(&log).map(drop),
    };
    fs::create_dir_all(admin.join("logs"))
        .and_then(|()| write())
        .map_err(|e| Error::io(format!("write {}", log.display()), e))
}

/// Registers a worktree that is no slot's, at a place where nothing is, and returns the administrative directory. It
/// is locked, with a detached `HEAD`, and nothing is checked out yet. To be called under the lock.
pub(crate) fn register_elsewhere(
    site: &Site,
    place: &Path,
    base: gix::ObjectId,
) -> Result<PathBuf> {
    let repo = crate::site::open_repository(&site.common_dir, &site.settings)?;
    if let Some(admin) = whole::register(site, &repo, &whole::restoring(site), place, base)? {
        return Ok(admin);
    }
    let admin = step_by_step(site, &repo, place, base, &AtomicBool::new(false))?;
    let lock = admin.join(LOCK);
    fs::write(&lock, whole::INITIALIZING)
        .map_err(|e| Error::io(format!("write {}", lock.display()), e))?;
    Ok(admin)
}

/// As stock git does it, in view of everybody.
fn step_by_step(
    site: &Site,
    repo: &gix::Repository,
    place: &Path,
    base: gix::ObjectId,
    interrupt: &AtomicBool,
) -> Result<PathBuf> {
    if whole::has_relative_paths(repo) {
        return by_git(site, place, base);
    }
    let failed = |e| gix_error(format!("register the worktree {}", place.display()), e);
    let mut attempt = 1;
    loop {
        // Always detached at first: for a branch, gix opens every other worktree, and one broken
        // registration would stop all leases.
        match repo.prepare_add_worktree(place, Head::Detached(base), interrupt) {
            Ok(prepared) => {
                let made = prepared.persist().map_err(failed)?;
                return Ok(made.git_dir().to_owned());
            }
            // One of any worktree, somebody's own included, stops gix; git passes over it.
            Err(_) if has_broken_one(site) => return by_git(site, place, base),
            Err(_) if attempt < ATTEMPTS && !interrupt.load(Ordering::Relaxed) => {
                attempt += 1;
                std::thread::sleep(PAUSE * attempt);
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Whether some registration names no worktree, as a loss of power can leave it.
fn has_broken_one(site: &Site) -> bool {
    let empty =
        |admin: PathBuf| fs::metadata(admin.join("gitdir")).is_ok_and(|meta| meta.len() == 0);
    fs::read_dir(site.worktrees_dir())
        .is_ok_and(|entries| entries.flatten().any(|entry| empty(entry.path())))
}

fn by_git(site: &Site, place: &Path, base: gix::ObjectId) -> Result<PathBuf> {
    Git::in_worktree(site, &site.common_dir, &site.common_dir)
        .args(["worktree", "add", "--quiet", "--detach", "--no-checkout"])
        .arg(place)
        .arg(base.to_string())
        .run()?;
    site.registration_at(place)?.ok_or_else(|| {
        Error::new(ErrorKind::Other, format!("git registered no worktree at {}", place.display()))
    })
}

/// Brings all that makes a slot's worktree one to the disk: its registration, its branch, and the pool's notes on
/// it. What is checked out there can be checked out again, and is left to the system.
pub(crate) fn keep(site: &Site, plan: &Plan, admin: &Path) -> Result<()> {
    let mut paths = vec![site.place(plan.slot).join(".git"), site.common_dir.join("worktrees")];
    for dir in [admin, &site.slot_dir(plan.slot)] {
        let reading = |e| Error::io(format!("read {}", dir.display()), e);
        for entry in fs::read_dir(dir).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                paths.push(entry.path());
            }
        }
    }
    if let Some(branch) = &plan.base.branch {
        paths.extend(durable::reference(&site.common_dir, &format!("refs/heads/{}", branch.name)));
    }
    durable::files(paths)
}

/// What the marker of a slot says between which lines the registrations are that were there before its own.
const BEGINNING: (&str, &str) = ("registering beside", "end");

fn note_beginning(site: &Site, slot: SlotId) -> Result<()> {
    let marker = site.making_marker(slot);
    let names = names(&site.worktrees_dir())?.join("\n");
    let text = format!("{}\n{names}\n{}\n", BEGINNING.0, BEGINNING.1);
    durable::write(&marker, &[MAKING, text.as_bytes()].concat())
}

/// Removes what is left of a half-made slot's registration if its process died before that said whose it is. To
/// be called under the lock: then nobody of this pool is in the middle of one. What was there before, or
/// has more in it, is somebody else's.
pub(crate) fn take_back_beginning(site: &Site, slot: SlotId) -> Result<()> {
    let marker = site.making_marker(slot);
    let before = fs::read_to_string(&marker).unwrap_or_default();
    let before = before.split_once(&format!("{}\n", BEGINNING.0)).map(|(_, rest)| rest);
    let Some(before) = before.and_then(|rest| rest.strip_suffix(&format!("{}\n", BEGINNING.1)))
    else {
        return Ok(());
    };
    let place = site.place(slot);
    let own = place.file_name().unwrap_or_default().to_string_lossy();
    for name in names(&site.worktrees_dir())? {
        let numbered = name.strip_prefix(&*own);
        let is_own = numbered.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        let admin = site.worktrees_dir().join(&name);
        if is_own && !before.lines().any(|line| line == name) && is_beginning(&admin)? {
            for file in BEGINS_WITH {
                let _ = fs::remove_file(admin.join(file));
            }
            // Only if nothing came into it meanwhile.
            fs::remove_dir(&admin)
                .map_err(|e| Error::io(format!("remove {}", admin.display()), e))?;
        }
    }
    Ok(())
}

/// What a registration has before it says whose it is; the second one is empty then.
const BEGINS_WITH: [&str; 2] = [LOCK, "gitdir"];

fn is_beginning(admin: &Path) -> Result<bool> {
    let empty = |file: &str| fs::metadata(admin.join(file)).is_ok_and(|meta| meta.len() == 0);
    let names = names(admin)?;
    Ok(names.iter().all(|name| name == BEGINS_WITH[0] || (name == BEGINS_WITH[1] && empty(name))))
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let names = entries(dir)?.into_iter().map(|entry| entry.file_name());
    Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Waits until nobody's git is at a worktree's `HEAD`, and keeps others from it: a `git gc` that is writing its log
/// again fails when that is removed from under it. `None` when somebody does not let go of it.
pub(crate) fn hold_head(admin: &Path) -> Option<gix::lock::Marker> {
    let patience = gix::lock::acquire::Fail::AfterDurationWithBackoff(HEAD_PATIENCE);
    gix::lock::Marker::acquire_to_hold_resource(admin.join("HEAD"), patience, None, 0).ok()
}

/// Removes a registration whose worktree is gone. To be called under the lock.
pub(crate) fn unregister(admin: &Path, bin: &mut Bin) -> Result<()> {
    let _head = hold_head(admin);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_one_who_was_stopped_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(REGISTRATION_LOCK);
        let open = || File::options().create(true).append(true).open(&path).expect("opened");
        let never = AtomicBool::new(false);
        let try_for = |file: &File| lock(file, &path, &never, Duration::from_millis(20));
        let held = open();
        try_for(&held).expect("free").expect("locked");
        let refused = try_for(&open()).expect_err("held");
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(refused.to_string().contains(REGISTRATION_LOCK), "{refused}");
        drop(held);
        try_for(&open()).expect("free").expect("locked");
    }
}
