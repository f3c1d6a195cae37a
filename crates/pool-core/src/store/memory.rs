//! Records that live as long as the process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Change, LeaseStore, Logged};
use crate::error::Result;
use crate::state::PoolState;

const LOG_LENGTH: usize = 10_000;

/// Keeps everything in memory: for tests, and for hosts whose pool does not outlive them.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Records>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}
