//! One directory has one set of records and claims: whoever opens it with others is refused.

use pool_core::{
    Error, FileLiveness, Liveness, LocalLiveness, Pool, PruneReport, Release, Request,
};
use testkit::liveness::FakeLiveness;
use testkit::memory::MemoryIsolator;

use super::*;

impl Dir {
    fn backend(&self) -> Arc<MemoryIsolator> {
        Arc::new(MemoryIsolator::with_pool_dir(self.pool()))
    }

    fn refused(&self, change: impl FnOnce(pool_core::Builder) -> pool_core::Builder) -> Error {
        let opened = change(Pool::builder(self.backend())).open();
        let error = opened.expect_err("it would end the leases of others");
        assert!(error.hint().is_some(), "{error}");
        error
    }

    fn in_memory(&self, store: Arc<MemoryStore>) -> pool_core::Result<Pool> {
        Pool::builder(self.backend()).store(store).open()
    }
}

#[test]
fn shortest_way_to_open_shares_the_pool_on_disk() {
    let dir = Dir::new();
    run(async {
        let backend = dir.backend();
        let one = Pool::builder(backend.clone()).open().unwrap();
        let other = Pool::builder(backend).open().unwrap();
        let lease = one.acquire(Request::new("one")).await.unwrap();
        assert_eq!(other.reconcile().await.unwrap(), PruneReport::default());
        assert_eq!(other.list().await.unwrap(), one.list().await.unwrap());
        let refused = other.release(&lease.token(), Release::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "its holder is seen to live");
        let report = lease.release(Release::default()).await.unwrap();
        assert_eq!((report.reason, report.by_another), (EndReason::Released, false));
    });
    assert!(dir.file("pool.db").exists() && dir.file("locks").is_dir());
}

#[test]
fn records_in_memory_over_a_pool_on_disk_are_refused() {
    let dir = Dir::new();
    let pool = Pool::builder(dir.backend()).open().unwrap();
    let in_memory = |dir: &Dir| dir.refused(|builder| builder.store(Arc::new(MemoryStore::new())));
    let error = in_memory(&dir);
    assert_eq!(error.kind(), ErrorKind::Busy, "it is open: {error}");
    run(async {
        let lease = pool.acquire(Request::new("host")).await.unwrap();
        lease.keep();
    });
    drop(pool);
    let slot = fs::read_dir(dir.file("slots")).unwrap().next().unwrap().unwrap().path();
    for gone in ["none", "pool.db", "pool.json"] {
        let _ = fs::remove_file(dir.file(gone));
        let error = in_memory(&dir);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "without {gone}: {error}");
    }
    assert!(slot.join("slot.json").exists(), "nothing was touched");
    fs::remove_dir_all(dir.file("slots")).unwrap();
    dir.in_memory(Arc::new(MemoryStore::new())).expect("no pool is there any more");
}

#[test]
fn records_in_memory_keep_all_others_away_while_they_live() {
    let dir = Dir::new();
    let store = Arc::new(MemoryStore::new());
    let pool = dir.in_memory(store.clone()).unwrap();
    drop(dir.in_memory(store.clone()).expect("the same records"));
    let error = dir.in_memory(Arc::new(MemoryStore::new())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let own = format!("process {} keeps its records in memory", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");
    let error = dir.refused(|builder| builder);
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&own), "{error}");
    assert!(!dir.file("pool.db").exists(), "nothing was made");
    let elsewhere = Dir::new().in_memory(store.clone()).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::InvalidInput, "{elsewhere}");
    drop((pool, store));
    Pool::builder(dir.backend()).open().expect("the records in memory are gone");
}

#[test]
fn records_elsewhere_than_the_workspaces_are_refused() {
    let (dir, other) = (Dir::new(), Dir::new());
    let error = dir.refused(|builder| builder.store(Arc::new(other.open())));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(&*other.pool().to_string_lossy()), "{error}");
    assert!(!dir.pool().exists(), "nothing was made");
    let link = other.0.path().join("link");
    std::os::unix::fs::symlink(other.pool(), &link).unwrap();
    let backend = Arc::new(MemoryIsolator::with_pool_dir(link));
    Pool::builder(backend).store(Arc::new(other.open())).open().expect("one directory, two names");
}

#[test]
fn claims_elsewhere_than_those_of_others_are_refused() {
    let dir = Dir::new();
    let fake = FakeLiveness::new().process("host");
    let others: [Arc<dyn Liveness>; 4] = [
        Arc::new(FileLiveness::new(dir.file("claims"))),
        Arc::new(FileLiveness::new(dir.pool())),
        Arc::new(LocalLiveness::default()),
        fake,
    ];
    for liveness in others {
        let error = dir.refused(|builder| builder.liveness(liveness.clone()));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{liveness:?}: {error}");
        // A backend of which no other process knows does not make the records any less shared.
        let backend = Arc::new(MemoryIsolator::new());
        let builder = Pool::builder(backend).store(Arc::new(dir.open())).liveness(liveness);
        assert_eq!(builder.open().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let own = FileLiveness::of_pool(&dir.pool());
    Pool::builder(dir.backend()).liveness(Arc::new(own)).open().expect("the others' own");
    let backend = Arc::new(MemoryIsolator::new());
    Pool::builder(backend).store(Arc::new(dir.open())).open().expect("the right one by default");
}

/// A store that says nothing of where its records are.
#[derive(Debug)]
struct Silent(MemoryStore);

#[async_trait::async_trait]
impl LeaseStore for Silent {
    async fn load(&self) -> pool_core::Result<PoolState> {
        self.0.load().await
    }

    async fn change(&self, change: pool_core::Change) -> pool_core::Result<()> {
        self.0.change(change).await
    }

    async fn events(&self, after: u64, limit: usize) -> pool_core::Result<Vec<pool_core::Logged>> {
        self.0.events(after, limit).await
    }
}

#[test]
fn store_that_does_not_reserve_the_directory_is_refused() {
    let dir = Dir::new();
    let error = dir.refused(|builder| builder.store(Arc::new(Silent(MemoryStore::new()))));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let backend = Arc::new(MemoryIsolator::new());
    Pool::builder(backend)
        .store(Arc::new(Silent(MemoryStore::new())))
        .open()
        .expect("none to share");
}
