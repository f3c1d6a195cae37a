//! Records that live as long as the process.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::sharing::Sharing;
use super::{Change, LeaseStore, Logged};
use crate::error::{Error, ErrorKind, Result};
use crate::state::PoolState;

const LOG_LENGTH: usize = 10_000;

/// Keeps everything in memory: for tests, and for backends whose workspaces no other process uses.
///
/// With a backend that has a [pool directory](crate::Isolator::pool_dir), the store reserves that
/// directory while it lives: a pool on disk, or another store in memory, is then refused there.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<Records>,
    dir: Mutex<Option<Sharing>>,
}

#[derive(Debug, Default)]
struct Records {
    state: PoolState,
    log: VecDeque<Logged>,
    sequence: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn load(&self) -> Result<PoolState> {
        Ok(self.records().state.clone())
    }

    async fn change(&self, change: Change) -> Result<()> {
        let mut records = self.records();
        // On a copy, so that a change that panics has not happened.
        let mut state = records.state.clone();
        change(&mut state);
        for event in std::mem::take(&mut state.outbox) {
            records.sequence += 1;
            let sequence = records.sequence;
            records.log.push_back(Logged { sequence, event });
        }
        let surplus = records.log.len().saturating_sub(LOG_LENGTH);
        records.log.drain(..surplus);
        records.state = state;
        Ok(())
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Logged>> {
        Ok(self.records().log.iter().filter(|l| l.sequence > after).take(limit).cloned().collect())
    }

    fn reserve_dir(&self, pool_dir: &Path) -> Result<()> {
        let mut reserved = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sharing) = &*reserved else {
            *reserved = Some(Sharing::in_memory(pool_dir)?);
            return Ok(());
        };
        if std::fs::canonicalize(pool_dir).is_ok_and(|dir| dir == sharing.dir()) {
            return Ok(());
        }
        let message = format!(
            "cannot open the pool {}: these records are those of {}",
            pool_dir.display(),
            sharing.dir().display()
        );
        Err(Error::new(ErrorKind::InvalidInput, message)
            .with_hint("use a store of its own for each pool directory"))
    }
}
