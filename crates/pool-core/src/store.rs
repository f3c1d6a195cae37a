//! Where a pool keeps its records, and where many processes meet.

use std::fmt;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::state::PoolState;

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

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
