//! The one process per pool that ends what is over while nobody else is there.
//!
//! It holds a lock on `reaper.lock` as long as it watches. Whoever leaves something behind first
//! writes it into the records, then looks whether the lock is held, and starts a reaper if it is
//! not. A reaper with nothing left to do first gives up the lock, then looks at the records once
//! more. In whichever order the two meet, one of them sees the other.
//!
//! The lock file says which version of the program has it. After an upgrade, the reaper of the newer
//! program asks the older one to end by writing its version to `reaper.end`, which each reaper looks
//! for, and waits for the lock. One of a version that does not know the file ends when its pool is
//! empty; `doctor` names it.
//!
//! It holds the directories of the pool and of the repository open, and follows both where they are
//! moved to.

use std::fs::File;
use std::io::{Read, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

// Called by their full names: since Rust 1.89 `File` has methods of the same names, which our
// `rust-version` does not have yet.
use fs4::{FileExt, TryLockError};
use pool_core::{Error, Moment, Result, SqliteStore, open_plain};

use crate::background;
use crate::cli::Global;
use crate::context::{Access, Context, Place};

const LOCK: &str = "reaper.lock";
const LOG: &str = "reaper.log";
/// Has the version of the reaper that waits for the lock, and is locked by it.
const REQUEST: &str = "reaper.end";
/// How often a reaper looks for the lock of an older one.
const TAKING_TURNS: Duration = Duration::from_millis(200);
/// How often, at least, it looks whether anything is left, or a deadline was reached.
const TICK: Duration = Duration::from_secs(1);
/// A lock that is only looked at is free again sooner than this.
const LOOKED_AT: Duration = Duration::from_millis(200);

/// A reaper that has not looked for this long shows no sign of life.
const SILENT: Duration = Duration::from_secs(60);
/// The same for one that the system says is stopped.
const STOPPED: Duration = Duration::from_secs(3);

/// What is known of a pool's reaper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reaper {
    /// There is none.
    None,
    /// It watches.
    Watches,
    /// It watches, and is of an older program than this one.
    Older {
        /// Its process id, if it wrote one.
        pid: Option<u32>,
    },
    /// It has the lock, but has not looked for longer than it ever waits or works: it may have been
    /// stopped, or may wait for a disk.
    Silent {
        /// Its process id, if it wrote one.
        pid: Option<u32>,
        /// How long ago it last looked.
        since: Duration,
    },
}

/// Finds out whether a reaper watches over this pool.
pub(crate) fn state(pool_dir: &Path) -> Result<Reaper> {
    let path = pool_dir.join(LOCK);
    let failed = |e| Error::io(format!("open {}", path.display()), e);
    let mut file = match open_plain(File::options().read(true), &path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Reaper::None),
        Err(e) => return Err(failed(e)),
    };
    // Shared: two processes that look do not take each other for a reaper.
    match FileExt::try_lock_shared(&file) {
        Ok(()) => return Ok(Reaper::None),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(e)) => {
            return Err(Error::io(format!("lock {}", path.display()), e));
        }
    }
    let beat = file.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
    // A clock that was set back makes it look recent.
    let since = SystemTime::now().duration_since(beat).unwrap_or_default();
    let Holder { pid, version } = Holder::read(&mut file);
    let patience = if pid.is_some_and(is_stopped) { STOPPED } else { SILENT };
    if since < patience {
        return Ok(if version < Version::OWN { Reaper::Older { pid } } else { Reaper::Watches });
    }
    Ok(Reaper::Silent { pid, since })
}

/// A version of the program: major, minor, patch. That of programs which wrote none is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u64; 3]);

impl Version {
    const OWN: Self = Self([
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    ]);

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().splitn(3, '.').map(|part| part.parse().ok());
        Some(Self([numbers.next()??, numbers.next()??, numbers.next()??]))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The number that cargo wrote.
const fn number(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

/// What a reaper wrote into its lock: its process id, and its version.
#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    pid: Option<u32>,
    version: Version,
}

impl Holder {
    fn read(lock: &mut File) -> Self {
        let mut text = String::new();
        if Read::take(lock, 64).read_to_string(&mut text).is_err() {
            return Self::default();
        }
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok());
        Self { pid, version: lines.next().and_then(Version::parse).unwrap_or_default() }
    }
}

/// Whether a newer reaper asks for the lock. Only one that still waits for it counts.
fn is_asked_to_end(pool_dir: &Path) -> bool {
    let Ok(mut file) = open_plain(File::options().read(true), &pool_dir.join(REQUEST)) else {
        return false;
    };
    let mut text = String::new();
    let read = Read::take(&mut file, 64).read_to_string(&mut text);
    let is_newer = read.is_ok() && Version::parse(&text).is_some_and(|v| v > Version::OWN);
    is_newer && matches!(FileExt::try_lock_shared(&file), Err(TryLockError::WouldBlock))
}

/// The request by which a reaper asks an older one to end. Withdrawn when it is dropped.
#[derive(Debug)]
struct Request {
    path: PathBuf,
    _file: File,
}

impl Request {
    /// `None` if another reaper waits already.
    fn make(pool_dir: &Path) -> Result<Option<Self>> {
        let path = pool_dir.join(REQUEST);
        let failed = |e| Error::io(format!("write {}", path.display()), e);
        let mut file =
            open_plain(File::options().create(true).append(true), &path).map_err(failed)?;
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // Another one may just have withdrawn the file that was opened.
        if !is_at(&file, &path) {
            return Ok(None);
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", Version::OWN).as_bytes()))
            .map_err(failed)?;
        Ok(Some(Self { path, _file: file }))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // What is left of one that was killed is not locked, and asks nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a signal has stopped that process. The state is the field after the name in
/// `/proc/<pid>/stat` (proc(5)); `false` where there is no such file.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
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
    match state(pool_dir)? {
        Reaper::None => {}
        // The one that is started asks it to end, and waits.
        Reaper::Older { .. } if !is_request_made(pool_dir) => {}
        _ => return Ok(()),
    }
    background::start(pool_dir, &["reaper"], LOG)
}

/// Whether a reaper waits for an older one.
fn is_request_made(pool_dir: &Path) -> bool {
    let file = open_plain(File::options().read(true), &pool_dir.join(REQUEST));
    file.is_ok_and(|file| matches!(FileExt::try_lock_shared(&file), Err(TryLockError::WouldBlock)))
}

/// The life of a reaper.
pub(crate) async fn live(global: &Global) -> Result<()> {
    background::detach();
    let mut context = Context::open(global, None, Access::Visit)?;
    if !context.exists {
        return Ok(());
    }
    // A pool that is made anew at the same path has a reaper of its own: this one's lock is not there. It stays
    // open, so that no other directory can be taken for it.
    let Ok(mut ground) = Ground::of(&context) else { return Ok(()) };
    let mut global = global.clone();
    loop {
        let Some(lock) = lock(&context.pool_dir, &ground).await? else { return Ok(()) };
        pool_core::fail_point!("pool-cli::reaper::locked");
        let _ = write_holder(&lock);
        let end = watch(&mut global, &mut context, &ground, &lock).await;
        drop(lock);
        pool_core::fail_point!("pool-cli::reaper::unlocked");
        match end {
            End::Done => {}
            End::Useless => return Ok(()),
            // A verb that found both at their paths saw the lock.
            End::Gone => {
                let Ok(opened) = Context::open(&global, None, Access::Visit) else { return Ok(()) };
                let Ok(now) = Ground::of(&opened) else { return Ok(()) };
                if !opened.exists || !now.is_as_opened(&opened) {
                    return Ok(());
                }
                (context, ground) = (opened, now);
            }
        }
        // Whoever came in between saw the lock, and counts on us.
        let left = is_at(&ground.pool, &context.pool_dir)
            && context.pool.needs_watching().await.unwrap_or(false);
        if !left {
            return Ok(());
        }
    }
}

/// The directories of a pool and of its repository, wherever they are moved to.
#[derive(Debug)]
struct Ground {
    pool: File,
    repository: File,
}

impl Ground {
    fn of(context: &Context) -> std::io::Result<Self> {
        let pool = File::open(&context.pool_dir)?;
        Ok(Self { pool, repository: File::open(context.repository.common_dir())? })
    }

    /// Whether both are where they were, and the pool is the repository's. A symlink at the old path of
    /// one that was moved does not count.
    fn is_as_opened(&self, context: &Context) -> bool {
        let is_straight = |path: &Path| path.canonicalize().is_ok_and(|now| now == path);
        is_straight(&context.pool_dir)
            && is_straight(context.repository.common_dir())
            && is_at(&self.pool, &context.pool_dir)
            && is_at(&self.repository, context.repository.common_dir())
            && context.git.check_in_place().is_ok()
    }

    /// Opens the pool where the two are now, and so takes it over; says which options that takes.
    /// `None` if one of them is gone, or the pool is another repository's by now.
    fn follow(&self, global: &Global) -> Result<Option<(Global, Context)>> {
        let path = |dir: &File| {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).ok()?;
            is_at(dir, &path).then_some(path)
        };
        let (Some(pool), Some(repository)) = (path(&self.pool), path(&self.repository)) else {
            return Ok(None);
        };
        let global = Global { pool_dir: Some(pool), repo: Some(repository), ..global.clone() };
        let context = Context::open(&global, None, Access::Visit)?;
        Ok(self.is_as_opened(&context).then_some((global, context)))
    }
}

/// The reaper's lock; `None` when another has it that is as new as this one. An older one is asked to
/// end, and waited for as long as the pool is there.
async fn lock(pool_dir: &Path, ground: &Ground) -> Result<Option<File>> {
    let path: PathBuf = pool_dir.join(LOCK);
    let failed = |e| Error::io(format!("lock {}", path.display()), e);
    let mut options = File::options();
    let mut file =
        open_plain(options.create(true).read(true).append(true), &path).map_err(failed)?;
    let begun = Instant::now();
    let mut request = None;
    loop {
        match FileExt::try_lock(&file) {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOOKED_AT => {}
            Err(TryLockError::WouldBlock) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        }
        file.rewind().map_err(failed)?;
        if Holder::read(&mut file).version >= Version::OWN || !is_at(&ground.pool, pool_dir) {
            return Ok(None);
        }
        if request.is_none() {
            request = Request::make(pool_dir)?;
            if request.is_none() {
                return Ok(None);
            }
        }
        tokio::time::sleep(TAKING_TURNS).await;
    }
}

/// Whether that directory still is the one at `path`.
fn is_at(dir: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (found, own) = (std::fs::metadata(path).map(identity), dir.metadata().map(identity));
    matches!((found, own), (Ok(found), Ok(own)) if found == own)
}

/// Writes this process's id into its lock, for `doctor` to name it, and the program's version.
fn write_holder(lock: &File) -> std::io::Result<()> {
    lock.set_len(0)?;
    let text = format!("{}\n{}\n", std::process::id(), Version::OWN);
    (&mut &*lock).write_all(text.as_bytes())
}

/// Why a reaper stopped watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing is left.
    Done,
    /// The pool or the repository is gone.
    Gone,
    /// It can do nothing here any more: a newer version wrote the records, or a newer reaper waits
    /// for the lock.
    /// The next verb in the repository starts another reaper.
    Useless,
}

/// Warns of each trouble once, until another one comes.
#[derive(Debug, Default)]
struct Warned(Option<String>);

impl Warned {
    fn warn(&mut self, what: &str, error: &Error) {
        let text = format!("{what}: {error}");
        if self.0.as_ref() != Some(&text) {
            tracing::warn!(target: "wtpool", "{text}");
            self.0 = Some(text);
        }
    }
}

/// Watches until nothing is left to watch over, or nothing can be done.
async fn watch(global: &mut Global, context: &mut Context, ground: &Ground, lock: &File) -> End {
    let mut looked: Option<Moment> = None;
    let mut records = identity(&context.pool_dir);
    let mut warned = Warned::default();
    loop {
        if !ground.is_as_opened(context) {
            match ground.follow(global) {
                Ok(Some(moved)) => (*global, *context) = moved,
                Ok(None) => return End::Gone,
                Err(error) => {
                    warned.warn("cannot follow the repository to where it was moved", &error);
                    return End::Gone;
                }
            }
            records = identity(&context.pool_dir);
        }
        if is_asked_to_end(&context.pool_dir) {
            return End::Useless;
        }
        // Shows `doctor` that it is at work. Without, it is called silent, which harms nothing.
        let _ = lock.set_modified(SystemTime::now());
        let period = context.settings.reap_interval.0;
        if due(context, looked.as_ref(), period).await {
            looked = Some(context.pool.now());
            renew(global, context, &mut records, &mut warned);
            if let Err(error) = context.pool.reconcile().await {
                if SqliteStore::is_newer(&error) {
                    return End::Useless;
                }
                warned.warn("cannot reconcile, trying again", &error);
            }
            pool_core::fail_point!("pool-cli::reaper::reconciled");
            if let Err(error) = context.pool.isolator().sweep(&|_| ()).await {
                warned.warn("cannot delete all trash", &error);
            }
        }
        match context.pool.needs_watching().await {
            Ok(false) => return End::Done,
            Ok(true) => {}
            Err(error) if SqliteStore::is_newer(&error) => return End::Useless,
            Err(error) => warned.warn("cannot read the records, trying again", &error),
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
fn renew(global: &Global, context: &mut Context, records: &mut Option<u64>, warned: &mut Warned) {
    let now = identity(&context.pool_dir);
    match Place::find(global, None, Access::Visit) {
        Ok(place)
            if place.loaded.settings != context.settings
                || place.loaded.source.as_deref() != context.git.source_worktree()
                || place.repository.common_dir() != context.repository.common_dir()
                || now != *records =>
        {
            match place.open(global, Access::Visit) {
                Ok(opened) => {
                    *context = opened;
                    *records = identity(&context.pool_dir);
                }
                Err(error) => warned.warn("cannot use the new settings", &error),
            }
        }
        Ok(_) => {}
        Err(error) => warned.warn("cannot read the settings again", &error),
    }
}

/// Which file the records are in: another one after somebody deleted or restored it.
fn identity(pool_dir: &Path) -> Option<u64> {
    std::fs::metadata(pool_dir.join("pool.db")).ok().map(|meta| meta.ino())
}
