//! A store that applies each change late.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use pool_core::{Change, Error, ErrorKind, LeaseStore, Logged, PoolState, Result};

/// A decorator around any store. It applies every second change some turns of the scheduler after
/// the caller asked for it, so that a later one overtakes it. Each change runs in a task of its
/// own, so it follows even if the caller's future is dropped meanwhile. A store whose changes run
/// on blocking threads, such as `SqliteStore`, does the same under load.
///
/// ```
/// # use std::sync::Arc;
/// # use pool_core::{LeaseStore as _, MemoryStore};
/// # use testkit::store::LateStore;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = LateStore::new(Arc::new(MemoryStore::new()), 3);
/// store.change(Box::new(|state| state.generation.0 = 7)).await.unwrap();
/// assert_eq!(store.load().await.unwrap().generation.0, 7);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LateStore {
    inner: Arc<dyn LeaseStore>,
    turns: u32,
    changes: Arc<AtomicU32>,
}

impl LateStore {
    /// Returns a store that applies every second change to `inner` after `turns` turns of the
    /// scheduler, and the others at once.
    pub fn new(inner: Arc<dyn LeaseStore>, turns: u32) -> Self {
        Self { inner, turns, changes: Arc::default() }
    }
}

#[async_trait]
impl LeaseStore for LateStore {
    async fn load(&self) -> Result<PoolState> {
        self.inner.load().await
    }

    async fn change(&self, change: Change) -> Result<()> {
        let inner = self.inner.clone();
        let is_late = self.changes.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let turns = if is_late { self.turns } else { 0 };
        let late = tokio::spawn(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            inner.change(change).await
        });
        let cancelled = |_| Err(Error::new(ErrorKind::Cancelled, "the runtime is shutting down"));
        late.await.unwrap_or_else(cancelled)
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Logged>> {
        self.inner.events(after, limit).await
    }

    fn pool_dir(&self) -> Option<&Path> {
        self.inner.pool_dir()
    }

    fn reserve_dir(&self, pool_dir: &Path) -> Result<()> {
        self.inner.reserve_dir(pool_dir)
    }
}
