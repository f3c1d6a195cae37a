//! Which lease a path stands for.

use std::collections::BTreeSet;
use std::sync::Arc;

use pool_core::{
    ErrorKind, Generation, LeaseAt, LeaseStore, Lookup, MemoryStore, PathUse, Pool, PruneOptions,
    Release, Request, SessionId, Slot, SlotId, Token,
};
use testkit::memory::MemoryIsolator;

struct Host {
    isolator: Arc<MemoryIsolator>,
    store: Arc<MemoryStore>,
    pool: Pool,
}

impl Host {
    fn new() -> Self {
        let (isolator, store) = (Arc::new(MemoryIsolator::new()), Arc::new(MemoryStore::new()));
        let pool = Pool::builder(isolator.clone()).store(store.clone()).open().expect("opened");
        Self { isolator, store, pool }
    }

    /// Takes a lease and gives it back.
    async fn round(&self, request: Request) -> (SlotId, Token) {
        let lease = self.pool.acquire(request).await.expect("leased");
        let of = (lease.slot(), lease.token());
        lease.release(Release::default()).await.expect("released");
        of
    }

    async fn at(&self, slot: SlotId, known: Option<&Token>) -> pool_core::Result<LeaseAt> {
        let path = self.pool.place(slot).join("src");
        self.pool.lease_at(&path, known.map(|token| &token.lease)).await
    }

    async fn prune(&self) {
        let all = PruneOptions { all: true, ..PruneOptions::default() };
        self.pool.prune(all, &|_| ()).await.expect("pruned");
    }
}

/// In a session, idle workspaces are kept and used again.
fn of_session() -> Request {
    Request { session: Some((SessionId::new("s").expect("valid"), None)), ..Request::new("test") }
}

fn ended(found: LeaseAt) -> Token {
    match found {
        LeaseAt::Only(Lookup::Ended(ended)) => ended.token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn number_of_a_removed_slot_is_not_given_out_again() {
    let host = Host::new();
    let mut numbers = BTreeSet::new();
    for round in 0..30 {
        if round % 3 == 1 {
            host.pool.warm(2, None, None, &|| ()).await.expect("warmed");
        }
        let (slot, token) = host.round(Request::new("test")).await;
        assert!(numbers.insert(slot), "round {round}: slot {slot} was leased before");
        assert_eq!(ended(host.at(slot, None).await.expect("found")), token);
        host.prune().await;
        assert!(host.pool.list().await.expect("listed").slots.is_empty());
    }
}

#[tokio::test]
async fn path_that_several_leases_have_had_stands_for_none() {
    let host = Host::new();
    let (slot, first) = host.round(of_session()).await;
    assert_eq!(ended(host.at(slot, None).await.expect("the only one so far")), first);
    let next = host.pool.acquire(of_session()).await.expect("leased");
    assert_eq!(next.slot(), slot, "the workspace is used again");
    let several = host.at(slot, None).await.expect("found");
    assert!(matches!(several, LeaseAt::Several(of) if of.state.lease() == Some(next.lease())));
    assert_eq!(ended(host.at(slot, Some(&first)).await.expect("found")), first);
    let own = host.at(slot, Some(&next.token())).await.expect("found");
    assert!(matches!(own, LeaseAt::Only(Lookup::Slot(of)) if of.id == slot));
    let elsewhere = Token { lease: host.round(of_session()).await.1.lease, ..first };
    let unhelpful = host.at(slot, Some(&elsewhere)).await.expect("found");
    assert!(matches!(unhelpful, LeaseAt::Several(_)));
    let next_token = next.token();
    next.release(Release::default()).await.expect("released");
    assert_eq!(ended(host.at(slot, None).await.expect("nothing is left to end")), next_token);
    let unknown = host.at(SlotId(999), None).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn adopted_workspace_counts_as_used_before() {
    let host = Host::new();
    host.isolator.set_foreign(SlotId(7), Some("somebody else's files"));
    host.pool.reconcile().await.expect("reconciled");
    let state = host.pool.list().await.expect("listed");
    assert_eq!(state.slots[&SlotId(7)].path_use, PathUse::Again);
    host.isolator.set_foreign(SlotId(7), None);
    host.prune().await;
    let (slot, _) = host.round(Request::new("test")).await;
    assert!(slot > SlotId(7), "{slot}");
}

/// After millions of leases, a number that is used again says so.
#[tokio::test]
async fn numbers_that_run_out_are_used_again_and_stand_for_no_lease() {
    let host = Host::new();
    let at_the_end = |state: &mut pool_core::PoolState| state.generation = Generation(3_999_999);
    host.store.change(Box::new(at_the_end)).await.expect("changed");
    let last = host.pool.acquire(Request::new("test")).await.expect("leased");
    let small = host.pool.acquire(Request::new("test")).await.expect("leased");
    assert_eq!((last.slot(), small.slot()), (SlotId(4_000_000), SlotId(1)));
    assert!(matches!(host.at(last.slot(), None).await, Ok(LeaseAt::Only(_))));
    assert!(matches!(host.at(small.slot(), None).await, Ok(LeaseAt::Several(_))));
}

/// Records of a version that did not know.
#[tokio::test]
async fn slot_recorded_without_path_use_counts_as_used_before() {
    let host = Host::new();
    let lease = host.pool.acquire(Request::new("test")).await.expect("leased");
    let slot = host.pool.list().await.expect("listed").slots[&lease.slot()].clone();
    let mut json = serde_json::to_value(&slot).expect("JSON");
    json.as_object_mut().expect("an object").remove("path_use").expect("it is recorded");
    let read: Slot = serde_json::from_value(json).expect("a slot");
    assert_eq!(read, Slot { path_use: PathUse::Again, ..slot });
}
