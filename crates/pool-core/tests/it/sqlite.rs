//! The shared store: the same behaviour as the one in memory, many at once, and every kind of
//! damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pool_core::{
    Base, BootId, Branch, ClaimKey, CommitId, Deadline, Disposition, End, EndReason, EndedLease,
    ErrorKind, Event, EventKind, Generation, Lease, LeaseId, LeaseName, LeaseStore, Linger,
    MemoryStore, Moment, Outcome, Owner, PathUse, Plan, PoolState, ProcessIdentity, Session,
    SessionId, Slot, SlotId, SlotState, SqliteStore, Ticket, Token, Waiter,
};

mod any_state;
mod damage;
mod disk;
mod fuzz;
mod origin;
mod refusal;
mod sharing;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn pool(&self) -> PathBuf {
        self.0.path().join("pool")
    }
    fn file(&self, name: &str) -> PathBuf {
        self.pool().join(name)
    }
    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.pool()).unwrap()
    }
    /// The files that were moved aside.
    fn corrupt(&self) -> Vec<String> {
        let names = fs::read_dir(self.pool())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| n.starts_with("pool.db.corrupt-")).collect();
        names.sort();
        names
    }
    fn sidecar(&self, slot: u32) -> PathBuf {
        self.file(&format!("slots/{slot}/slot.json"))
    }
}

async fn change(store: &dyn LeaseStore, change: impl FnOnce(&mut PoolState) + Send + 'static) {
    store.change(Box::new(change)).await.unwrap();
}

fn moment(uptime: u64) -> Moment {
    let wall = Timestamp::from_second(1_700_000_000 + i64::try_from(uptime).unwrap()).unwrap();
    Moment { boot: BootId("boot".into()), uptime: Duration::from_secs(uptime), wall }
}

fn lease(n: u64) -> Lease {
    Lease {
        id: LeaseId::generate(Timestamp::from_second(1_700_000_000).unwrap()),
        generation: Generation(n),
        name: LeaseName::new(format!("lease-{n}")).unwrap(),
        holder: "somebody \"quoted\"\nü".into(),
        session: (n.is_multiple_of(2)).then(|| SessionId::new("s").unwrap()),
        owner: match n % 3 {
            0 => Owner::Holder,
            1 => Owner::Detached,
            _ => Owner::Process(ProcessIdentity {
                pid: 7,
                start_time: n,
                boot: BootId("b".into()),
                namespace: Some(n),
            }),
        },
        base: Base {
            commit: CommitId::new("abc123").unwrap(),
            branch: Some(Branch { name: format!("wtpool/lease-{n}"), created: true }),
        },
        acquired: moment(n % 1000),
        deadline: (n % 2 == 1).then(|| Deadline::after(&moment(5), Duration::from_millis(1500))),
        linger: Linger { success: Duration::ZERO, failure: Duration::from_secs(60) },
        attachment: pool_core::Attachment {
            strategy: "private".into(),
            env: BTreeMap::from([("CARGO_TARGET_DIR".into(), "/x y".into())]),
            ..Default::default()
        },
        command_ended: (n.is_multiple_of(5)).then(|| pool_core::CommandEnd {
            outcome: Outcome::Failure,
            grace: Deadline::after(&moment(9), Duration::from_secs(60)),
        }),
        kept_because: None,
    }
}

fn slot(id: u32, state: SlotState) -> Slot {
    let commit = CommitId::new("abc123").unwrap();
    let plan = Plan { slot: SlotId(id), lease: None, base: Base { commit, branch: None } };
    let path_use = PathUse::Once(LeaseId::new(format!("{id:026}")).unwrap());
    Slot { id: SlotId(id), plan: Some(plan), last_used: moment(3), warm: false, path_use, state }
}

fn leased(id: u32, generation: u64) -> Slot {
    slot(id, SlotState::Leased { lease: Box::new(lease(generation)) })
}

fn waiter(n: u64) -> Waiter {
    Waiter {
        lease: lease(n),
        ttl: Some(Duration::from_secs(60)),
        worker: ClaimKey::for_worker(Timestamp::UNIX_EPOCH),
        since: moment(1),
        until: None,
    }
}

fn end() -> End {
    End {
        outcome: Outcome::Success,
        reason: EndReason::Released,
        linger: Duration::ZERO,
        by: None,
        rescue: None,
        branch: None,
    }
}

fn ended(n: u64) -> EndedLease {
    let lease = lease(n);
    EndedLease {
        token: lease.token(),
        name: lease.name,
        slot: SlotId(1),
        end: end(),
        at: moment(4),
        disposition: Disposition::Recycled,
    }
}

fn event(note: impl Into<String>) -> Event {
    Event {
        at: Timestamp::UNIX_EPOCH,
        kind: EventKind::Granted,
        slot: Some(SlotId(1)),
        lease: None,
        name: None,
        generation: Some(Generation(3)),
        note: Some(note.into()),
    }
}

/// Three slots, of which two are leased; a waiter, a session, an ended lease, three events.
async fn fill(store: &dyn LeaseStore) -> PoolState {
    change(store, |state| {
        state.generation = Generation(5);
        state.ticket = Ticket(9);
        state.slots.insert(SlotId(1), leased(1, 4));
        state.slots.insert(SlotId(2), leased(2, 5));
        state.slots.insert(SlotId(3), slot(3, SlotState::Free));
        state.waiters.insert(Ticket(9), waiter(9));
        let session = Session { process: None, last_used: moment(1), over: false };
        state.sessions.insert(SessionId::new("s").unwrap(), session);
        state.ended.push_back(ended(3));
        state.outbox.extend(["a", "b", "c"].map(event));
    })
    .await;
    store.load().await.unwrap()
}

/// What a rebuild must give back.
fn assert_rebuilt(was: &PoolState, is: &PoolState) {
    assert_eq!(is.slots, was.slots);
    assert_eq!(is.waiters.len(), 0, "who waits queues again");
    assert_eq!(is.sessions, was.sessions);
    assert!(is.generation >= was.generation, "{} {}", is.generation, was.generation);
    assert!(is.ticket >= was.ticket);
}

async fn behaves_as_a_store(store: Arc<dyn LeaseStore>) {
    assert_eq!(store.load().await.unwrap(), PoolState::default());
    assert_eq!(store.events(0, 10).await.unwrap(), []);

    let state = fill(&*store).await;
    assert!(state.outbox.is_empty(), "the outbox is not kept");
    assert_eq!(state.slots.len(), 3);
    let log = store.events(0, 10).await.unwrap();
    let notes: Vec<_> = log.iter().map(|l| l.event.note.as_deref().unwrap()).collect();
    assert_eq!(notes, ["a", "b", "c"]);
    assert!(log.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert_eq!(store.events(log[0].sequence, 1).await.unwrap(), log[1..2]);
    assert_eq!(store.events(log[2].sequence, 10).await.unwrap(), []);

    // What is taken out is gone, what is changed is changed, the rest stays.
    change(&*store, |state| {
        state.slots.remove(&SlotId(1));
        state.slots.get_mut(&SlotId(3)).unwrap().warm = true;
        state.waiters.clear();
        state.sessions.clear();
        state.ended.push_back(ended(4));
        state.ended.pop_front();
    })
    .await;
    let after = store.load().await.unwrap();
    assert_eq!(after.slots.keys().copied().collect::<Vec<_>>(), [SlotId(2), SlotId(3)]);
    assert_eq!(after.slots[&SlotId(2)], state.slots[&SlotId(2)]);
    assert!(after.slots[&SlotId(3)].warm);
    assert!(after.waiters.is_empty() && after.sessions.is_empty());
    assert_eq!(after.ended.len(), 1);
    assert_eq!(after.ended[0].name.as_str(), "lease-4");

    // A change that panics has not happened, and the store goes on.
    let other = Arc::clone(&store);
    let panicked = tokio::spawn(async move {
        other
            .change(Box::new(|state| {
                state.slots.clear();
                state.outbox.push(event("never"));
                panic!("on purpose");
            }))
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(store.load().await.unwrap(), after);
    assert_eq!(store.events(0, 10).await.unwrap(), log);

    // Changes at once are all applied, one after the other.
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                change(&*store, |state| {
                    state.generation = state.generation.next();
                    state.outbox.push(event(state.generation.to_string()));
                })
                .await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.load().await.unwrap().generation.0, after.generation.0 + 20);
    let log = store.events(log[2].sequence, 100).await.unwrap();
    let notes: Vec<u64> =
        log.iter().map(|l| l.event.note.as_ref().unwrap().parse().unwrap()).collect();
    assert_eq!(notes, (6..26).collect::<Vec<_>>());
}

async fn forgets_old_events(store: Arc<dyn LeaseStore>) {
    change(&*store, |state| state.outbox.extend((0..9_990).map(|n| event(n.to_string())))).await;
    for n in 0..60 {
        change(&*store, move |state| {
            state.outbox.extend((0..20).map(|_| event(format!("late {n}"))))
        })
        .await;
    }
    let log = store.events(0, 100_000).await.unwrap();
    assert!((10_000..=10_500).contains(&log.len()), "{}", log.len());
    assert_eq!(log.last().unwrap().sequence, 11_190);
    assert_eq!(log.last().unwrap().event.note.as_deref(), Some("late 59"));
    assert!(log.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
}

#[test]
fn memory_and_sqlite_behave_alike() {
    let dir = Dir::new();
    run(behaves_as_a_store(Arc::new(MemoryStore::new())));
    run(behaves_as_a_store(Arc::new(dir.open())));
}

#[test]
fn the_log_is_trimmed() {
    let dir = Dir::new();
    run(forgets_old_events(Arc::new(MemoryStore::new())));
    run(forgets_old_events(Arc::new(dir.open())));
}
