//! What dropped futures began is finished or undone by the same process.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pool_core::{
    Error, ErrorKind, LeaseStore, Linger, MemoryStore, Pool, PoolState, Release, Request, Result,
    Settings, SlotId,
};
use testkit::conformance::suspend;
use testkit::memory::MemoryIsolator;
use testkit::store::LateStore;

/// A future that is not done after that many awaits loops.
const ENOUGH: usize = 2_000;

fn pool(store: Arc<dyn LeaseStore>, isolator: &Arc<MemoryIsolator>, max_leases: u32) -> Pool {
    let settings = Settings { max_leases, ..Settings::default() };
    let builder = Pool::builder(isolator.clone()).store(store).settings(settings);
    builder.open().expect("valid settings")
}

fn request(linger: Duration) -> Request {
    Request { linger: Linger::both(linger), wait: None, ..Request::new("test") }
}

/// Lets the tasks of this runtime run until they wait for something.
async fn quiesce() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Acquire,
    Warm,
    Release,
    /// Cleans up a slot that lingers no longer, and one of a lease whose holder is gone.
    Reconcile,
}

/// Runs the operation until its await number `at`, and drops it there. `None`: it was done before.
async fn drop_at(operation: Operation, pool: &Pool, at: usize) -> Option<()> {
    let done: Option<Result<()>> = match operation {
        Operation::Acquire => {
            let acquire = pin!(pool.acquire(request(Duration::ZERO)));
            suspend(acquire, at).await.map(|done| done.map(drop))
        }
        Operation::Warm => {
            suspend(pin!(pool.warm(1, None, None, &|| ())), at).await.map(|done| done.map(drop))
        }
        Operation::Release => {
            let guard = pool.acquire(request(Duration::ZERO)).await.expect("a slot is free");
            let release = pin!(guard.release(Release::default()));
            suspend(release, at).await.map(|done| done.map(drop))
        }
        Operation::Reconcile => {
            for linger in [Duration::from_nanos(1), Duration::ZERO] {
                let guard = pool.acquire(request(linger)).await.expect("a slot is free");
                match linger.is_zero() {
                    false => drop(guard.release(Release::default()).await.expect("a lease")),
                    // Detached from its guard, so that the reconciliation ends it.
                    true => drop(guard.keep()),
                }
            }
            suspend(pin!(pool.reconcile()), at).await.map(|done| done.map(drop))
        }
    };
    done.map(|done| done.expect("nothing fails"))
}

fn at_rest(state: &PoolState) -> bool {
    state.waiters.is_empty() && state.slots.values().all(|slot| slot.state.worker().is_none())
}

async fn operation_dropped_at_each_await(operation: Operation) {
    for at in 0..ENOUGH {
        let isolator = Arc::new(MemoryIsolator::new());
        let store = Arc::new(LateStore::new(Arc::new(MemoryStore::new()), 7));
        let pool = pool(store, &isolator, 2);
        let done = drop_at(operation, &pool, at).await;
        quiesce().await;
        let state = pool.list().await.expect("readable records");
        // The background sees to a request and to a lease; a reconciliation to the rest.
        let background = matches!(operation, Operation::Acquire | Operation::Release);
        assert!(!background || at_rest(&state), "{operation:?} dropped at {at}: {state:#?}");
        pool.reconcile().await.expect("the records do not fail");
        let state = pool.list().await.expect("readable records");
        assert!(at_rest(&state), "{operation:?} dropped at {at}: {state:#?}");
        let again = pool.reconcile().await.expect("the records do not fail");
        assert_eq!(again.done, Vec::<String>::new(), "{operation:?} dropped at {at}");
        isolator.audit().expect("nothing is lost");
        let slots: Vec<SlotId> = state.slots.keys().copied().collect();
        assert_eq!(isolator.occupied(), slots, "{operation:?} dropped at {at}");
        if done.is_some() {
            return;
        }
    }
    panic!("{operation:?} never ends");
}

#[tokio::test]
async fn acquire_dropped_at_each_await_leaks_nothing() {
    operation_dropped_at_each_await(Operation::Acquire).await;
}

#[tokio::test]
async fn warm_dropped_at_each_await_leaks_nothing() {
    operation_dropped_at_each_await(Operation::Warm).await;
}

#[tokio::test]
async fn release_dropped_at_each_await_leaks_nothing() {
    operation_dropped_at_each_await(Operation::Release).await;
}

#[tokio::test]
async fn reconcile_dropped_at_each_await_leaks_nothing() {
    operation_dropped_at_each_await(Operation::Reconcile).await;
}

#[test]
fn request_whose_runtime_ended_is_taken_back_by_the_next_reconciliation() {
    let isolator = Arc::new(MemoryIsolator::new());
    let store = Arc::new(LateStore::new(Arc::new(MemoryStore::new()), 0));
    let runtime = || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().expect("a runtime")
    };
    for at in 0..60 {
        let first = runtime();
        let pool = first.block_on(async { pool(store.clone(), &isolator, 1) });
        let acquiring = pool.clone();
        first.block_on(async move {
            drop(tokio::spawn(async move { acquiring.acquire(request(Duration::ZERO)).await }));
            for _ in 0..at {
                tokio::task::yield_now().await;
            }
        });
        // Drops all of its tasks where they are.
        drop(first);
        let second = runtime();
        second.block_on(async {
            pool.reconcile().await.expect("the records do not fail");
            let state = pool.list().await.expect("readable records");
            assert!(at_rest(&state) && state.occupied() == 0, "ended at {at}: {state:#?}");
        });
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn cancelled_requests_leave_a_sqlite_pool_usable() {
    const CAP: u32 = 8;
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let isolator = Arc::new(MemoryIsolator::new());
    runtime.block_on(async {
        let store = pool_core::SqliteStore::open(&dir.path().join("pool")).expect("a store");
        let pool = pool(Arc::new(store), &isolator, CAP);
        for round in 0..100 {
            let tasks: Vec<_> = (0..CAP)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.acquire(request(Duration::ZERO)).await })
                })
                .collect();
            for (number, task) in tasks.iter().enumerate() {
                let number = u64::try_from(number).expect("a small number");
                tokio::time::sleep(Duration::from_millis((round + number) % 4)).await;
                task.abort();
            }
        }
        // All of the cap is to be had again, without a reconciliation.
        let mut guards = Vec::new();
        for _ in 0..CAP {
            let wait = Some(Duration::from_secs(30));
            let guard = pool.acquire(Request { wait, ..request(Duration::ZERO) }).await;
            let full = async |error: Error| {
                assert_eq!(error.kind(), ErrorKind::PoolFull, "{error:?}");
                panic!("slots leak: {:#?}", pool.list().await)
            };
            match guard {
                Ok(guard) => guards.push(guard),
                Err(error) => full(error).await,
            }
        }
        for guard in guards {
            guard.release(Release::default()).await.expect("a lease");
        }
    });
}
