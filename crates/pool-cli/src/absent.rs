//! The records of a pool that does not exist: a verb that only looks makes none.

use std::path::Path;

use async_trait::async_trait;
use pool_core::{Change, LeaseStore, Logged, PoolState, Result};

/// Holds no slot, and forgets each change. So a pool that another process makes in the meantime
/// keeps what it has.
#[derive(Debug)]
pub(crate) struct NoPool;

#[async_trait]
impl LeaseStore for NoPool {
    async fn load(&self) -> Result<PoolState> {
        Ok(PoolState::default())
    }

    async fn change(&self, change: Change) -> Result<()> {
        change(&mut PoolState::default());
        Ok(())
    }

    async fn events(&self, _after: u64, _limit: usize) -> Result<Vec<Logged>> {
        Ok(Vec::new())
    }

    fn reserve_dir(&self, _pool_dir: &Path) -> Result<()> {
        Ok(())
    }
}
