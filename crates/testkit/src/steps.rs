//! A process that stops between any two of its steps, while others go on.
//!
//! A step is a call of the backend or of the store. What a process decides on between two of them may have changed by
//! the next. So a suite plays what a process does once to count its steps, and then once more for each of them, with
//! that process held up there and others at work.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pool_core::{
    Base, Change, Condition, Discovered, Inspection, Isolator, LeaseName, LeaseStore, Logged, Plan,
    PoolState, Preserved, RescueArchive, Result, SlotId, Wish,
};
use tokio::sync::Semaphore;

/// The steps of one process. Clones are of the same process.
///
/// ```
/// # use std::sync::Arc;
/// # use pool_core::{LeaseStore as _, MemoryStore};
/// # use testkit::steps::Steps;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let steps = Steps::stopping_before([1]);
/// let store = steps.store(Arc::new(MemoryStore::new()));
/// let process = tokio::spawn(async move { (store.load().await, store.load().await) });
/// steps.stopped().await;
/// assert_eq!(steps.taken(), 1, "the second is not taken yet");
/// assert!(!process.is_finished());
/// steps.go_on();
/// process.await.expect("no panic");
/// assert_eq!(steps.taken(), 2);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Steps(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicUsize,
    stops: Mutex<Vec<usize>>,
    stopped: Semaphore,
    go: Semaphore,
}

impl Steps {
    /// A process that stops before each of those steps, of which the first has the number 0.
    pub fn stopping_before(stops: impl IntoIterator<Item = usize>) -> Self {
        Self(Arc::new(Inner {
            taken: AtomicUsize::new(0),
            stops: Mutex::new(stops.into_iter().collect()),
            stopped: Semaphore::new(0),
            go: Semaphore::new(0),
        }))
    }

    /// The store, as that process uses it.
    pub fn store(&self, store: Arc<dyn LeaseStore>) -> Arc<dyn LeaseStore> {
        Arc::new(SteppedStore { steps: self.clone(), inner: store })
    }

    /// The backend, as that process uses it.
    pub fn isolator(&self, isolator: Arc<dyn Isolator>) -> Arc<dyn Isolator> {
        Arc::new(SteppedIsolator { steps: self.clone(), inner: isolator })
    }

    /// How many steps were taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Waits until the process stops.
    pub async fn stopped(&self) {
        if let Ok(permit) = self.0.stopped.acquire().await {
            permit.forget();
        }
    }

    /// Lets the process that has stopped go on.
    pub fn go_on(&self) {
        self.0.go.add_permits(1);
    }

    async fn reach(&self) {
        let number = self.taken();
        let stops = {
            let mut stops = self.0.stops.lock().unwrap_or_else(PoisonError::into_inner);
            let before = stops.len();
            stops.retain(|stop| *stop != number);
            stops.len() < before
        };
        if stops {
            self.0.stopped.add_permits(1);
            if let Ok(permit) = self.0.go.acquire().await {
                permit.forget();
            }
        }
        self.0.taken.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct SteppedStore {
    steps: Steps,
    inner: Arc<dyn LeaseStore>,
}

#[async_trait]
impl LeaseStore for SteppedStore {
    async fn load(&self) -> Result<PoolState> {
        self.steps.reach().await;
        self.inner.load().await
    }

    async fn change(&self, change: Change) -> Result<()> {
        self.steps.reach().await;
        self.inner.change(change).await
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

#[derive(Debug)]
struct SteppedIsolator {
    steps: Steps,
    inner: Arc<dyn Isolator>,
}

#[async_trait]
impl Isolator for SteppedIsolator {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.inner.place(slot)
    }

    fn pool_dir(&self) -> Option<&Path> {
        self.inner.pool_dir()
    }

    fn claim_dir(&self) -> Result<()> {
        self.inner.claim_dir()
    }

    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base> {
        self.steps.reach().await;
        self.inner.resolve(wish, name).await
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        self.steps.reach().await;
        self.inner.provision(plan).await
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        self.steps.reach().await;
        self.inner.inspect(plan).await
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        self.steps.reach().await;
        self.inner.preserve(inspection).await
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        self.steps.reach().await;
        self.inner.recycle(plan, proof).await
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        self.steps.reach().await;
        self.inner.dispose(proof).await
    }

    fn has_trash(&self) -> bool {
        self.inner.has_trash()
    }

    async fn sweep(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        self.steps.reach().await;
        self.inner.sweep(progress).await
    }

    /// As of a backend that makes two lists, one after the other, and calls missing what is only in the second one.
    async fn discover(&self) -> Result<Vec<Discovered>> {
        self.steps.reach().await;
        let mut found = self.inner.discover().await?;
        self.steps.reach().await;
        for late in self.inner.discover().await? {
            if found.iter().all(|one| one.slot != late.slot) {
                found.push(Discovered { condition: Condition::Missing, ..late });
            }
        }
        Ok(found)
    }

    async fn usage(&self, slot: SlotId) -> Result<u64> {
        self.inner.usage(slot).await
    }

    fn rescues(&self) -> Option<&dyn RescueArchive> {
        self.inner.rescues()
    }
}
