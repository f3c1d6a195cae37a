//! A pool over this backend and over the one in memory: the test is the same but for one line.

use std::sync::Arc;
use std::time::Duration;

use pool_core::{Disposition, ErrorKind, Isolator, LeaseName, Pool, Release, Request, Settings};
use testkit::memory::MemoryIsolator;

use crate::support::Fixture;

#[tokio::test]
async fn leases_from_memory() {
    tour(Arc::new(MemoryIsolator::new())).await;
}

#[tokio::test]
async fn leases_from_git() {
    let fixture = Fixture::new();
    tour(Arc::new(fixture.isolator())).await;
}

/// Ten at once under a cap of three, each with a place and a branch of its own while it lasts.
async fn tour(isolator: Arc<dyn Isolator>) {
    let settings =
        Settings { max_leases: 3, poll: Duration::from_millis(5), ..Settings::default() };
    let pool = Pool::builder(isolator).settings(settings).open().expect("valid settings");
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let lease = pool.acquire(Request::new("tour")).await?;
                let alone = pool.list().await?;
                let same_branch = alone
                    .slots
                    .values()
                    .filter_map(|slot| slot.state.lease())
                    .filter(|other| other.base.branch == lease.lease().base.branch)
                    .count();
                assert_eq!(same_branch, 1);
                assert!(alone.occupied() <= 3);
                lease.release(Release::default()).await
            })
        })
        .collect();
    for task in tasks {
        let report = task.await.expect("no panic").expect("leased and released");
        assert!(report.rescue.is_none());
        assert!(matches!(report.disposition, Disposition::Recycled | Disposition::Removed));
    }
    let named = Request { name: Some(LeaseName::new("mine").unwrap()), ..Request::new("tour") };
    let mine = pool.acquire(named.clone()).await.expect("the name is free");
    let taken = pool.acquire(named).await.expect_err("the name is taken");
    assert_eq!(taken.kind(), ErrorKind::NameTaken);
    mine.release(Release::default()).await.expect("released");
    assert!(pool.isolator().discover().await.expect("listed").is_empty(), "nothing is left behind");
}
