//! The one process per pool that ends what is over while nobody else is there.
//!
//! It holds a lock on `reaper.lock` as long as it watches. Whoever leaves something behind first
//! writes it into the records, then looks whether the lock is held, and starts a reaper if it is
//! not. A reaper with nothing left to do first gives up the lock, then looks at the records once
//! more. In whichever order the two meet, one of them sees the other.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

// Called by their full names: since Rust 1.89 `File` has methods of the same names, which our
// `rust-version` does not have yet.
use fs4::{FileExt, TryLockError};
use pool_core::{Error, Moment, Result, open_plain};

use crate::background;
use crate::cli::Global;
use crate::context::{Access, Context, Place};

const LOCK: &str = "reaper.lock";
const LOG: &str = "reaper.log";
/// How often, at least, it looks whether anything is left, or a deadline was reached.
const TICK: Duration = Duration::from_secs(1);
/// A lock that is only looked at is free again sooner than this.
const LOOKED_AT: Duration = Duration::from_millis(200);

/// Whether a reaper watches over this pool.
pub(crate) fn is_alive(pool_dir: &Path) -> Result<bool> {
    let path = pool_dir.join(LOCK);
    let file = match open_plain(File::options().read(true), &path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(format!("open {}", path.display()), e)),
    };
    // Shared: those who look do not take each other for a reaper.
    match FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(Error::io(format!("lock {}", path.display()), e)),
    }
}

/// Sees to it that a reaper watches over this pool. To be called after what it shall watch over was
/// written into the records.
pub(crate) fn ensure(context: &Context) {
    if let Err(error) = start_unless_alive(&context.pool_dir) {
        // The next verb tries again, and `prune` does the same work.
        tracing::warn!(target: "wtpool", %error, "no reaper could be started");
    }
}

/// [Ensures](ensure) a reaper if anything is left to watch over.
pub(crate) async fn ensure_if_needed(context: &Context) {
    match context.pool.needs_watching().await {
        Ok(true) if context.exists => ensure(context),
        _ => {}
    }
}

fn start_unless_alive(pool_dir: &Path) -> Result<()> {
    if is_alive(pool_dir)? {
        return Ok(());
    }
    background::start(pool_dir, &["reaper"], LOG)
}

/// The life of a reaper.
pub(crate) async fn live(global: &Global) -> Result<()> {
    background::detach();
    let mut context = Context::open(global, None, Access::Visit)?;
    let pool_dir = context.pool_dir.clone();
    if !context.exists {
        return Ok(());
    }
    // A pool that is made anew at the same path has a reaper of its own: this one's lock is not there. It stays
    // open, so that no other directory can be taken for it.
    let Ok(ground) = File::open(&pool_dir) else { return Ok(()) };
    loop {
        let Some(lock) = lock(&pool_dir).await? else { return Ok(()) };
        pool_core::fail_point!("pool-cli::reaper::locked");
        watch(global, &mut context, &pool_dir, &ground).await;
        drop(lock);
        pool_core::fail_point!("pool-cli::reaper::unlocked");
        // Whoever came in between saw the lock, and counts on us.
        let left =
            is_at(&ground, &pool_dir) && context.pool.needs_watching().await.unwrap_or(false);
        if !left {
            return Ok(());
        }
    }
}

/// The reaper's lock; `None` when another has it.
async fn lock(pool_dir: &Path) -> Result<Option<File>> {
    let path: PathBuf = pool_dir.join(LOCK);
    let failed = |e| Error::io(format!("lock {}", path.display()), e);
    let file = open_plain(File::options().create(true).append(true), &path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match FileExt::try_lock(&file) {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOOKED_AT => return Ok(None),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Whether that directory still is the one at `path`.
fn is_at(dir: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (found, own) = (std::fs::metadata(path).map(identity), dir.metadata().map(identity));
    matches!((found, own), (Ok(found), Ok(own)) if found == own)
}

/// Watches until nothing is left, or the pool's directory is gone.
async fn watch(global: &Global, context: &mut Context, pool_dir: &Path, ground: &File) {
    let mut looked: Option<Moment> = None;
    let mut records = identity(pool_dir);
    while is_at(ground, pool_dir) {
        let period = context.settings.reap_interval.0;
        if due(context, looked.as_ref(), period).await {
            looked = Some(context.pool.now());
            renew(global, context, &mut records);
            if let Err(error) = context.pool.reconcile().await {
                tracing::warn!(target: "wtpool", %error, "could not reconcile; trying again");
            }
            pool_core::fail_point!("pool-cli::reaper::reconciled");
            if let Err(error) = context.pool.isolator().sweep(&|_| ()).await {
                tracing::warn!(target: "wtpool", %error, "not all trash could be deleted");
            }
        }
        match context.pool.needs_watching().await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(target: "wtpool", %error, "could not read the records; trying again");
            }
        }
        tokio::time::sleep(period.min(TICK)).await;
    }
}

/// Whether it is time to look: after each period, and when a lease or its lingering has just ended,
/// which a period of any length must not put off.
async fn due(context: &Context, looked: Option<&Moment>, period: Duration) -> bool {
    let Some(looked) = looked else { return true };
    let now = context.pool.now();
    if now.since(looked).is_none_or(|since| since >= period) {
        return true;
    }
    context.pool.list().await.is_ok_and(|state| state.reached_deadline(looked, &now))
}

/// Opens the pool again when its settings, or its records, have changed under us.
fn renew(global: &Global, context: &mut Context, records: &mut Option<u64>) {
    let now = identity(&context.pool_dir);
    match Place::find(global, None, Access::Visit) {
        Ok(place) if place.loaded.settings != context.settings || now != *records => {
            match place.open(global, Access::Visit) {
                Ok(opened) => {
                    *context = opened;
                    *records = identity(&context.pool_dir);
                }
                Err(error) => {
                    tracing::warn!(target: "wtpool", %error, "cannot use the new settings")
                }
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(target: "wtpool", %error, "cannot read the settings again"),
    }
}

/// Which file the records are in: another one after somebody deleted or restored it.
fn identity(pool_dir: &Path) -> Option<u64> {
    std::fs::metadata(pool_dir.join("pool.db")).ok().map(|meta| meta.ino())
}
