//! Where a pool keeps its records, and where many processes meet.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::state::PoolState;

mod memory;
mod sharing;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{ReadOnlyStore, SqliteStore};

/// A change of the records. It runs once, inside a transaction, and must not block.
pub type Change = Box<dyn FnOnce(&mut PoolState) + Send>;

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Grows by at least one with each event; over all processes.
    pub sequence: u64,
    /// The event.
    pub event: Event,
}

/// Keeps a [`PoolState`]. Object-safe: chosen at run time.
#[async_trait]
pub trait LeaseStore: fmt::Debug + Send + Sync {
    /// The records as they are after some whole number of changes.
    ///
    /// # Errors
    ///
    /// When they can't be read.
    async fn load(&self) -> Result<PoolState>;

    /// Applies `change` to the records, alone: no other change, of any process, runs at the same
    /// time. It is applied whole or not at all. Events that it put into
    /// [`outbox`](PoolState::outbox) are logged in the same transaction. Once this future was
    /// polled, the change may happen even if the future is then dropped.
    ///
    /// # Errors
    ///
    /// When the change could not be kept; it has then not happened.
    async fn change(&self, change: Change) -> Result<()>;

    /// Up to `limit` events after `sequence`, oldest first. Old events may have been forgotten.
    ///
    /// # Errors
    ///
    /// When they can't be read.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Logged>>;

    /// The pool directory in which other processes find these records. `None` (the default) if no
    /// other process can see them.
    fn pool_dir(&self) -> Option<&Path> {
        None
    }

    /// Reserves `pool_dir` for records that no other process can see, for as long as this store
    /// lives. [`Builder::open`](crate::Builder::open) calls it if [`pool_dir`](Self::pool_dir) is
    /// `None` and the backend makes its workspaces in a directory that other processes can use:
    /// two sets of records over the same workspaces end each other's leases.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a pool on disk is in the directory, and
    /// [`Busy`](ErrorKind::Busy) if another process or store uses it. The default always fails,
    /// with [`Unsupported`](ErrorKind::Unsupported).
    fn reserve_dir(&self, pool_dir: &Path) -> Result<()> {
        let message = format!(
            "cannot open the pool {}: its records are private to this process, and the store \
             does not reserve the directory for them",
            pool_dir.display()
        );
        Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("leave the store out to open the pool on disk, as `wtpool` does"))
    }
}

/// Applies `change` and returns its result.
pub(crate) async fn update<R: Send + 'static>(
    store: &dyn LeaseStore,
    change: impl FnOnce(&mut PoolState) -> R + Send + 'static,
) -> Result<R> {
    let (give, mut take) = tokio::sync::oneshot::channel();
    store
        .change(Box::new(move |state| {
            // The receiver lives on this function's stack until the change is done or nobody waits.
            drop(give.send(change(state)));
        }))
        .await?;
    take.try_recv().map_err(|_| Error::new(ErrorKind::Store, "the store did not apply a change"))
}
