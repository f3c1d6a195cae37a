//! Records that many processes share: SQLite in the pool's directory.
//!
//! ```text
//! <pool>/pool.db           the index: every change is one transaction (WAL, BEGIN IMMEDIATE)
//! <pool>/pool.json         sidecar of the pool: numbers given out so far, sessions
//! <pool>/slots/7/slot.json sidecar of slot 7: what it is, whose, since when
//! <pool>/pool.turn         held by whoever makes a change; the others wait for it, in order
//! <pool>/pool.sharing      held shared while the store is open, exclusively by one in memory
//! <pool>/pool.lock         held shared by each change, exclusively while the index is replaced
//! <pool>/reserve-inodes/   empty files to give up when there is no free inode
//! <pool>/reserve           a megabyte to give up when the disk is full, so that pruning can go on
//! ```
//!
//! **The database is an index; the sidecars are the truth.** A change writes the sidecars of the
//! slots it changed just before it commits, so they are never behind. A database that is lost,
//! damaged or older than the sidecars is moved aside (never deleted) and made again from them. What
//! such a rebuild gives up: the queue (whoever waits finds that its ticket is unknown and queues
//! again), the log, and perhaps the last ended leases. Numbers (generations, tickets, places in the
//! log) are reserved in blocks that the sidecars know of, so they grow even then.
//!
//! **Durability.** `synchronous=FULL`: a change that was acknowledged survives a power cut. It
//! costs one `fdatasync` of the log for each change (about 1 ms on an SSD, where the change itself
//! took 1.3 ms), a fraction of what making a workspace costs.
//! Slot sidecars are not synced; after a power cut they are mended from the database when it is
//! next opened. Should one of them be newer than the database, since the power failed just before a
//! commit, then what it says holds for its slot, and what the database says for all others.
//!
//! # Limitations
//!
//! - Only one machine: a network filesystem is refused, as far as it is recognised (on Linux, by
//!   its type; not checked elsewhere).
//! - Losing the database *and* sidecars at once loses the records of those slots; the workspaces
//!   themselves are then found by the backend.
//! - Deleting `pool.db-wal` under running processes can lose the changes of that moment.
//! - A directory's owner is checked on Unix only.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use self::layout::{Identity, Layout, Lock};
use self::records::Snapshot;
use self::sidecar::Sidecars;
use self::trouble::Trouble;
use super::sharing::Sharing;
use super::{Change, LeaseStore, Logged};
use crate::error::{Error, ErrorKind, Result};
use crate::state::PoolState;
use crate::task::join;

mod layout;
mod leftovers;
mod look;
mod patience;
mod records;
mod recovery;
mod schema;
mod sidecar;
mod trouble;

pub use look::ReadOnlyStore;

/// How long [`SqliteStore::open`] lets an operation wait for other processes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often an operation starts again after the database was found lost, damaged or replaced.
const ATTEMPTS: usize = 4;

/// Keeps the records in a directory, for all processes that open it.
///
/// A change that was acknowledged survives the end of the process and a power cut. The database is
/// an index of the records beside the slots: when it is lost, damaged or behind them, the next
/// operation moves it aside (to `pool.db.corrupt-…`) and makes it again from them, with the same
/// slots and leases and ever larger generations. The queue is lost then: whoever waits finds the
/// ticket gone and must queue again. So is the log; its numbering goes on.
///
/// Cloning is cheap and shares the connections. The futures need a tokio runtime.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// Keeps stores in memory away from the directory.
    _sharing: Sharing,
    patience: Duration,
    /// Changes, one at a time.
    writer: Mutex<Handle>,
    /// Reads while a change is under way.
    reader: Mutex<Handle>,
    /// What was read or written last.
    cache: Mutex<Option<Arc<Snapshot>>>,
}

/// A connection, as long as it is to the file that bears the name.
#[derive(Debug, Default)]
struct Handle {
    open: Option<(Connection, Identity)>,
    /// Damage met when it was too late to start again.
    damaged: Option<String>,
}

impl SqliteStore {
    /// Opens the store in `pool_dir`; makes the directory (mode 0700) and the store if there is
    /// none, and mends or rebuilds what is damaged.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::PermissionDenied`]: the directory is read-only, not accessible, somebody
    ///   else's, or one that others may write to;
    /// - [`ErrorKind::Unsupported`]: it is on a network filesystem, or one on which SQLite's WAL
    ///   does not work;
    /// - [`ErrorKind::Store`]: the records were written by a newer version;
    /// - [`ErrorKind::NoSpace`]; [`ErrorKind::InvalidInput`] when it is not a directory;
    /// - [`ErrorKind::Busy`]: another process kept it locked for a minute, or keeps the records of
    ///   the directory's workspaces in memory.
    ///
    /// ```
    /// # fn main() -> pool_core::Result<()> {
    /// # let dir = tempfile::tempdir().map_err(|e| pool_core::Error::io("make a directory", e))?;
    /// let store = pool_core::SqliteStore::open(&dir.path().join("pool"))?;
    /// assert!(dir.path().join("pool/pool.db").exists());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(pool_dir: &Path) -> Result<Self> {
        Self::open_with_patience(pool_dir, PATIENCE)
    }

    /// Like [`open`](Self::open), where an operation that must wait for other processes gives up
    /// with [`ErrorKind::Busy`] after `patience` instead of a minute.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_with_patience(pool_dir: &Path, patience: Duration) -> Result<Self> {
        let layout = Layout::prepare(pool_dir)?;
        // Before anything is made.
        let sharing = Sharing::on_disk(layout.directory())?;
        let inner = Inner {
            layout,
            _sharing: sharing,
            patience,
            writer: Mutex::default(),
            reader: Mutex::default(),
            cache: Mutex::default(),
        };
        patience::limit(patience);
        inner.with(&mut lock(&inner.writer), |_, _| Ok(()))?;
        leftovers::sweep(&inner.layout);
        inner.layout.set_room_aside();
        Ok(Self(Arc::new(inner)))
    }

    /// Returns whether an error means that a newer version wrote the records. Nothing was changed,
    /// and this program cannot use the pool any more.
    pub fn is_newer(error: &Error) -> bool {
        std::error::Error::source(error).is_some_and(|source| source.is::<records::Newer>())
    }

    /// Gives up the megabyte, and the inodes, that are set aside in `pool_dir` for when the disk is full, and says
    /// whether there was any. For those who are about to free more than that and have met
    /// [`ErrorKind::NoSpace`]: to record what is removed takes room as well. It is set aside again by
    /// a later [`open`](Self::open) that finds plenty.
    pub fn give_up_reserve(pool_dir: &Path) -> bool {
        let inodes = std::fs::remove_dir_all(pool_dir.join(layout::RESERVED_INODES)).is_ok();
        std::fs::remove_file(pool_dir.join(layout::RESERVE_FILE)).is_ok() || inodes
    }
}

#[async_trait]
impl LeaseStore for SqliteStore {
    async fn load(&self) -> Result<PoolState> {
        self.blocking(|inner| inner.load()).await
    }

    async fn change(&self, change: Change) -> Result<()> {
        self.blocking(|inner| inner.change(change)).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Logged>> {
        self.blocking(move |inner| inner.read(|tx| records::events(tx, after, limit))).await
    }

    fn pool_dir(&self) -> Option<&Path> {
        Some(self.0.layout.directory())
    }
}

impl SqliteStore {
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            patience::limit(inner.patience);
            work(&inner)
        });
        join(task).await
    }
}

impl Inner {
    fn load(&self) -> Result<PoolState> {
        self.read(|tx| Ok(self.snapshot(tx)?.state.clone()))
    }

    /// Runs `work` in a read transaction, which neither blocks a change nor waits for one.
    fn read<R>(&self, work: impl Fn(&Connection) -> Result<R, Trouble>) -> Result<R> {
        // The writer's connection serves as well while nobody changes anything.
        let mut handle = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(_) => lock(&self.reader),
        };
        self.with(&mut handle, |connection, _| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            schema::known_version(&tx)?;
            work(&tx)
        })
    }

    fn change(&self, change: Change) -> Result<()> {
        let mut handle = lock(&self.writer);
        let mut change = Some(change);
        let mut damaged = None;
        let result = self.with(&mut handle, |connection, seen| {
            let turn = Lock::turn(&self.layout, self.patience)?;
            // While this is held, nobody replaces the database.
            let shared = Lock::shared(&self.layout, self.patience)?;
            if self.layout.identity()? != *seen {
                return Err(Trouble::Replaced);
            }
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            schema::known_version(&tx)?;
            let before = self.snapshot(&tx)?;
            records::check_log(&tx, &before)?;
            let Some(change) = change.take() else {
                return Err(Error::new(ErrorKind::Store, "a change was to be applied twice").into());
            };
            let mut state = before.state.clone();
            change(&mut state);
            crate::fail_point!("pool-core::store::changed");
            let events = std::mem::take(&mut state.outbox);
            if state == before.state && events.is_empty() {
                return Ok(());
            }
            let after = self.commit(tx, &before, state, &events).map_err(|trouble| {
                if let Some(damage) = trouble.damage() {
                    damaged = Some(damage);
                }
                trouble.too_late(&self.layout)
            })?;
            drop((shared, turn));
            crate::fail_point!("pool-core::store::acknowledged");
            *lock(&self.cache) = Some(Arc::new(after));
            Ok(())
        });
        if damaged.is_some() {
            handle.damaged = damaged;
        }
        result
    }

    /// Writes what differs, sidecars last of all before the commit.
    fn commit(
        &self,
        tx: rusqlite::Transaction<'_>,
        before: &Snapshot,
        state: PoolState,
        events: &[crate::Event],
    ) -> Result<Snapshot, Trouble> {
        let after = before.next(state, events.len() as u64);
        let mut sidecars = Sidecars::stage(&self.layout, Some(before), &after)?;
        crate::fail_point!("pool-core::store::staged");
        let after = records::write(&tx, before, after, events)?;
        crate::fail_point!("pool-core::store::written");
        sidecars.publish()?;
        crate::fail_point!("pool-core::store::published");
        tx.commit()?;
        crate::fail_point!("pool-core::store::committed");
        sidecars.keep();
        Ok(after)
    }

    /// The records that `tx` sees.
    fn snapshot(&self, tx: &Connection) -> Result<Arc<Snapshot>, Trouble> {
        let revision = records::revision(tx)?;
        let cached = lock(&self.cache).clone();
        if let Some(cached) = cached.filter(|c| c.revision == revision) {
            return Ok(cached);
        }
        let read = Arc::new(records::read(tx)?);
        let mut cache = lock(&self.cache);
        // A slow reader does not put back what is older.
        if cache.as_ref().is_none_or(|c| c.revision < read.revision) {
            *cache = Some(Arc::clone(&read));
        }
        Ok(read)
    }

    /// Runs `work` with a connection to the database that is there, rebuilding it when it is
    /// damaged.
    fn with<R>(
        &self,
        handle: &mut Handle,
        mut work: impl FnMut(&mut Connection, &Identity) -> Result<R, Trouble>,
    ) -> Result<R> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (connection, seen) =
                self.connection(handle).map_err(|trouble| trouble.into_error(&self.layout))?;
            let trouble = match work(connection, seen) {
                Ok(result) => return Ok(result),
                Err(trouble) => trouble,
            };
            match trouble.damage() {
                Some(damage) => handle.damaged = Some(damage),
                // The next attempt opens the new one.
                None if matches!(trouble, Trouble::Replaced) => {}
                None => return Err(trouble.into_error(&self.layout)),
            }
            last = Some(trouble);
        }
        Err(last.map_or_else(
            || Error::new(ErrorKind::Store, "the pool's database can't be opened"),
            |trouble| trouble.into_error(&self.layout),
        ))
    }

    /// The handle's connection; a new one if there is none, or if the file was replaced.
    fn connection<'h>(
        &self,
        handle: &'h mut Handle,
    ) -> Result<(&'h mut Connection, &'h Identity), Trouble> {
        if let Some(damage) = handle.damaged.take()
            && let Some((_, seen)) = handle.open.take()
        {
            self.forget();
            recovery::rebuild(&self.layout, &seen, &damage, self.patience)?;
        }
        let now = self.layout.identity()?;
        if handle.open.as_ref().is_some_and(|(_, seen)| *seen != now) {
            tracing::warn!(database = %self.layout.database().display(), "the database was replaced; opening it again");
            handle.open = None;
        }
        if handle.open.is_none() {
            self.forget();
            handle.open = Some(recovery::open(&self.layout, self.patience)?);
        }
        match &mut handle.open {
            Some((connection, seen)) => Ok((connection, seen)),
            None => Err(Error::new(ErrorKind::Store, "the pool's database is closed").into()),
        }
    }

    fn forget(&self) {
        *lock(&self.cache) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic (of a change, for example) leaves nothing half done: the transaction is rolled back
    // and the cache is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
