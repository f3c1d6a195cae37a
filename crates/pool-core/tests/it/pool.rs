//! The pool over a strict backend in memory, with time and life under the test's control.

use std::sync::Arc;
use std::time::Duration;

use pool_core::{
    BranchWish, Clock, Disposition, EndReason, ErrorKind, EventKind, Finish, Isolator, Lease,
    LeaseGuard, LeaseName, LeaseStore, Linger, Liveness as _, Lookup, MemoryStore, Outcome, Owner,
    Pool, PruneOptions, PruneReport, Release, Request, Result, SessionId, Settings, Slot, SlotId,
    SlotState, Wish,
};
use testkit::chaos::{Answer, Chaos, Method};
use testkit::clock::VirtualClock;
use testkit::liveness::FakeLiveness;
use testkit::memory::MemoryIsolator;
use tokio::task::JoinHandle;

/// A machine on which processes share one pool.
pub(crate) struct Machine {
    pub(crate) isolator: Arc<MemoryIsolator>,
    pub(crate) chaos: Arc<Chaos>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: VirtualClock,
    pub(crate) liveness: FakeLiveness,
    pub(crate) settings: Settings,
}

impl Machine {
    pub(crate) fn new(max_leases: u32) -> Self {
        let clock = VirtualClock::new();
        let isolator = Arc::new(MemoryIsolator::with_clock(Arc::new(clock.clone())));
        let chaos = Arc::new(Chaos::with_clock(isolator.clone(), Arc::new(clock.clone())));
        let settings = Settings { max_leases, ..Settings::default() };
        let store = Arc::new(MemoryStore::new());
        Self { isolator, chaos, store, clock, liveness: FakeLiveness::new(), settings }
    }

    /// The pool as one process has it.
    pub(crate) fn process(&self, name: &str) -> Pool {
        Pool::builder(self.chaos.clone())
            .store(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .liveness(self.liveness.process(name))
            .settings(self.settings.clone())
            .open()
            .expect("valid settings")
    }

    /// After one reconciliation by a fresh process everything is at rest, and nothing is lost; a
    /// second one does nothing.
    async fn settles(&self) {
        self.chaos.calm();
        let pool = self.process("settler");
        pool.reconcile().await.expect("reconciled");
        let state = pool.list().await.expect("listed");
        for slot in state.slots.values() {
            assert!(
                slot.state.worker().is_none(),
                "slot {} is not at rest: {:?}",
                slot.id,
                slot.state
            );
        }
        assert_eq!(pool.reconcile().await.expect("reconciled").done, Vec::<String>::new());
        let standing: Vec<SlotId> = state.slots.keys().copied().collect();
        assert_eq!(self.isolator.occupied(), standing, "slots on disk = slots in the records");
        self.isolator.audit().expect("nothing is lost, and no rule was broken");
    }
}

pub(crate) fn request() -> Request {
    Request { linger: Linger::both(Duration::ZERO), wait: None, ..Request::new("test") }
}

/// Lets everything that can go on without time passing do so.
pub(crate) async fn quiesce() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lease_is_isolated_and_leaves_nothing_behind() {
    let machine = Machine::new(2);
    let pool = machine.process("host");
    let (one, two) =
        (pool.acquire(request()).await.unwrap(), pool.acquire(request()).await.unwrap());
    assert_ne!(one.path(), two.path());
    assert_ne!(one.lease().base.branch, two.lease().base.branch);
    machine.isolator.write(one.slot(), "work", "precious");
    assert_eq!(machine.isolator.read(two.slot(), "work"), None);
    let report = one.release(Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Removed);
    assert_eq!(report.rescue.expect("uncommitted work").files, 1);
    assert_eq!(two.release(Release::default()).await.unwrap().rescue, None);
    assert_eq!(pool.list().await.unwrap().slots.len(), 0);
    machine.settles().await;
}

#[tokio::test]
async fn a_reservation_tells_all_before_anything_exists() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let reservation = pool.reserve(request()).await.unwrap();
    let (path, lease) = (reservation.path(), reservation.lease().clone());
    assert!(machine.isolator.occupied().is_empty(), "nothing was made yet");
    let guard = reservation.materialise().await.unwrap();
    assert_eq!((guard.path(), &guard.lease().base), (path, &lease.base));
    guard.release(Release::default()).await.unwrap();

    let reservation = pool.reserve(request()).await.unwrap();
    drop(reservation);
    quiesce().await;
    assert_eq!(pool.list().await.unwrap().slots.len(), 0);
    machine.settles().await;
}

#[tokio::test]
async fn a_dropped_guard_gives_the_slot_back() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    machine.isolator.write(guard.slot(), "work", "precious");
    drop(guard);
    let next = pool.acquire(request()).await.unwrap();
    assert_eq!(machine.isolator.read(next.slot(), "work"), None);
    assert_eq!(pool.isolator().rescues().unwrap().list().await.unwrap().len(), 1);
    next.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn giving_back_twice_reports_the_same_and_a_stale_token_is_refused() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    let token = guard.token();
    let first = guard.release(Release::default()).await.unwrap();
    let next = pool.acquire(request()).await.unwrap();
    let before = pool.list().await.unwrap();
    assert_eq!(pool.release(&token, Release::default()).await.unwrap(), first);
    assert_eq!(pool.renew(&token, None).await.unwrap_err().kind(), ErrorKind::StaleLease);
    let forged = pool_core::Token { generation: pool_core::Generation(99), ..next.token() };
    let refused = pool.release(&forged, Release::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StaleLease);
    assert_eq!(pool.list().await.unwrap(), before, "nothing changed");
    next.release(Release::default()).await.unwrap();
}

/// A host learns from its own release that its lease was over before.
#[tokio::test]
async fn release_says_who_ended_the_lease_and_why() {
    let machine = Machine::new(2);
    let (host, other) = (machine.process("host"), machine.process("other"));
    let session = SessionId::new("nightly").unwrap();
    let of_session = || Request { session: Some((session.clone(), None)), ..detached() };
    let first = host.acquire(of_session()).await.unwrap();
    let second = host.acquire(of_session()).await.unwrap();
    other.end_session(&session).await.unwrap();
    let token = first.token();
    let report = first.release(Release::default()).await.unwrap();
    assert_eq!((report.reason, report.by_another), (EndReason::SessionEnded, true));
    assert_eq!(host.release(&token, Release::default()).await.unwrap(), report);
    let report = second.finish(Release::default(), Duration::ZERO).await.unwrap();
    assert!(matches!(report, Finish::Released(r) if r.reason == EndReason::SessionEnded));

    let lease = host.acquire(detached()).await.unwrap();
    other.release(&lease.token(), Release::default()).await.unwrap();
    let report = lease.release(Release::default()).await.unwrap();
    assert_eq!((report.reason, report.by_another), (EndReason::Released, true));

    let lease = host.acquire(request()).await.unwrap();
    let token = lease.token();
    machine.liveness.kill("host");
    other.reconcile().await.unwrap();
    let report = lease.release(Release::default()).await.unwrap();
    assert_eq!((report.reason, report.by_another), (EndReason::HolderGone, true));
    let own = other.release(&token, Release::default()).await.unwrap();
    assert_eq!((own.reason, own.by_another), (EndReason::HolderGone, false));
    machine.settles().await;
}

#[tokio::test]
async fn waiters_are_served_in_order_and_a_dead_one_is_passed_over() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let first = pool.acquire(request()).await.unwrap();
    let mut waiting = Vec::new();
    for name in ["w1", "dead", "w2", "w3"] {
        let owner = machine.process(if name == "dead" { "victim" } else { "host" });
        let request = Request { name: Some(LeaseName::new(name).unwrap()), ..request() };
        waiting.push((name, tokio::spawn(async move { owner.acquire(request).await })));
        quiesce().await;
    }
    machine.liveness.kill("victim");
    waiting[1].1.abort();
    first.release(Release::default()).await.unwrap();
    for (name, task) in waiting {
        if name == "dead" {
            // Another's reconciliation takes care of it, wherever in the queue it was.
            pool.reconcile().await.unwrap();
            continue;
        }
        machine.clock.advance(Duration::from_secs(1));
        task.await.unwrap().unwrap().release(Release::default()).await.unwrap();
    }
    let events = pool.events_after(0, 1000).await.unwrap();
    let granted: Vec<String> = events
        .iter()
        .filter(|e| e.event.kind == EventKind::Leased)
        .map(|e| e.event.name.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(granted[1..], ["w1", "w2", "w3"]);
    machine.settles().await;
}

#[tokio::test]
async fn a_full_pool_says_so_when_the_wait_runs_out() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let held = pool.acquire(request()).await.unwrap();
    let now = Request { wait: Some(Duration::ZERO), ..request() };
    assert_eq!(pool.acquire(now).await.unwrap_err().kind(), ErrorKind::PoolFull);
    let later = Request { wait: Some(Duration::from_secs(5)), ..request() };
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(later).await }
    });
    quiesce().await;
    assert_eq!(pool.list().await.unwrap().waiters.len(), 1);
    for _ in 0..200 {
        machine.clock.advance(Duration::from_millis(50));
        quiesce().await;
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PoolFull);
    assert!(error.hint().is_some());
    assert_eq!(pool.list().await.unwrap().waiters.len(), 0);
    held.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn a_lingering_slot_yields_to_a_waiter_with_its_work_saved_once() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let linger = Request { linger: Linger::both(Duration::from_secs(600)), ..request() };
    let guard = pool.acquire(linger).await.unwrap();
    machine.isolator.write(guard.slot(), "work", "precious");
    let report = guard.release(Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Lingering);
    assert_eq!(machine.isolator.read(report.slot, "work").as_deref(), Some(&b"precious"[..]));
    let next = pool.acquire(request()).await.unwrap();
    assert_eq!(machine.isolator.read(next.slot(), "work"), None);
    next.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn lingering_is_prolonged_or_ended_by_giving_back_again() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let linger = Request { linger: Linger::both(Duration::from_secs(60)), ..request() };
    let guard = pool.acquire(linger).await.unwrap();
    let token = guard.token();
    machine.isolator.write(guard.slot(), "work", "precious");
    let first = guard.release(Release::default()).await.unwrap();
    let again = |linger| Release { linger, ..Release::default() };
    assert_eq!(pool.release(&token, again(None)).await.unwrap(), first);

    let hour = Duration::from_secs(3600);
    assert_eq!(pool.release(&token, again(Some(hour))).await.unwrap(), first);
    machine.clock.advance(hour - Duration::from_secs(1));
    assert_eq!(pool.reconcile().await.unwrap().done, Vec::<String>::new());
    assert_eq!(machine.isolator.occupied(), [SlotId(1)]);

    let ended = pool.release(&token, again(Some(Duration::ZERO))).await.unwrap();
    assert_eq!(ended.disposition, Disposition::Removed);
    assert_eq!(ended.rescue, first.rescue, "saved before, and nothing new since");
    assert_eq!(machine.isolator.occupied(), []);
    assert_eq!(pool.release(&token, again(Some(hour))).await.unwrap(), ended, "it is over");
    machine.settles().await;
}

#[tokio::test]
async fn a_dead_holder_is_found_and_its_work_saved() {
    let machine = Machine::new(1);
    let victim = machine.process("victim");
    let guard = victim.acquire(request()).await.unwrap();
    machine.isolator.write(guard.slot(), "work", "precious");
    let watcher = machine.process("watcher");
    watcher.reconcile().await.unwrap();
    assert!(matches!(
        watcher.list().await.unwrap().slots[&SlotId(1)].state,
        SlotState::Leased { .. }
    ));
    machine.liveness.kill("victim");
    watcher.reconcile().await.unwrap();
    let rescues = watcher.isolator().rescues().unwrap().list().await.unwrap();
    assert_eq!(rescues.len(), 1);
    std::mem::forget(guard);
    machine.settles().await;
}

#[tokio::test]
async fn whoever_stands_in_a_slot_keeps_it() {
    let machine = Machine::new(2);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    let (slot, path) = (guard.slot(), guard.path());
    let pid = machine.liveness.spawn("shell");
    machine.liveness.occupy(&path, pid);
    let report = guard.release(Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    assert!(report.kept_because.unwrap().contains("still in it"));
    assert_eq!(pool.reconcile().await.unwrap().done, Vec::<String>::new());
    assert_eq!(machine.isolator.occupied(), [slot]);
    machine.liveness.vacate(pid);
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    machine.settles().await;
}

#[tokio::test]
async fn where_nobody_can_tell_who_stands_in_a_slot_it_is_kept() {
    let machine = Machine::new(3);
    let pool = machine.process("host");
    pool.warm(1, None, None, &|| ()).await.unwrap();
    let warm = pool.place(SlotId(1));
    let idle = pool.acquire(request()).await.unwrap();
    assert_eq!(idle.path(), warm);
    idle.release(Release::default()).await.unwrap();
    let held = pool.acquire(detached()).await.unwrap();
    let agent = machine.liveness.spawn("agent");
    machine.liveness.occupy(&warm, agent);

    machine.liveness.set_blind(true);
    // Neither one that is given back nor one that was idle.
    let report = pool.release(&held.keep().token(), Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    assert!(report.kept_because.unwrap().contains("somebody may be in it"));
    let next = pool.acquire(request()).await.unwrap();
    assert_ne!(next.path(), warm);
    let finish = Release { linger: Some(Duration::ZERO), ..Release::default() };
    let finished = next.finish(finish, Duration::ZERO).await.unwrap();
    assert_eq!(finished, Finish::Survived, "nobody knows whether its command left something");
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied().len(), 2);

    machine.liveness.set_blind(false);
    machine.liveness.vacate(agent);
    pool.prune(PruneOptions { all: true, ..PruneOptions::default() }, &|_| ()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn a_free_slot_in_which_somebody_stands_is_not_given_away() {
    let machine = Machine::new(3);
    let pool = machine.process("host");
    pool.warm(1, None, None, &|| ()).await.unwrap();
    let pid = machine.liveness.spawn("shell");
    machine.liveness.occupy(pool.place(SlotId(1)), pid);
    let guard = pool.acquire(request()).await.unwrap();
    assert_ne!(guard.slot(), SlotId(1), "the lease goes to another slot");
    guard.release(Release::default()).await.unwrap();
    machine.liveness.vacate(pid);
    pool.prune(PruneOptions { all: true, ..PruneOptions::default() }, &|_| ()).await.unwrap();
    machine.settles().await;
}

/// The wall clock may be set by a day in either direction: a lease whose TTL is over ends when nothing
/// was written for the quiet time, neither sooner nor a day later.
#[tokio::test]
async fn a_wall_clock_that_is_set_ends_no_lease_sooner_or_later() {
    for hours in [-24, 0, 24] {
        let machine = Machine::new(1);
        let pool = machine.process("watcher");
        let ttl = Some(Duration::from_secs(10));
        let request = Request { owner: Owner::Detached, ttl, ..request() };
        let lease = pool.acquire(request).await.unwrap().keep();
        machine.clock.advance(Duration::from_secs(20));
        machine.isolator.write(SlotId(1), "work", "precious");
        let wall = machine.clock.now().wall;
        machine.clock.set_wall(wall + jiff::SignedDuration::from_hours(hours));
        for second in 0..60 {
            pool.reconcile().await.unwrap();
            assert_eq!(machine.isolator.occupied(), [SlotId(1)], "{hours} h, after {second} s");
            machine.clock.advance(Duration::from_secs(1));
        }
        pool.reconcile().await.unwrap();
        assert_eq!(machine.isolator.occupied(), [], "{hours} h");
        assert!(pool.renew(&lease.token(), None).await.is_err());
        machine.settles().await;
    }
}

/// A request whose slot turned out to be in use, so that it waits again; and who stands there.
async fn waits_again(machine: &Machine, request: Request) -> (JoinHandle<Result<LeaseGuard>>, u32) {
    let pool = machine.process("host");
    pool.warm(1, None, None, &|| ()).await.unwrap();
    let pid = machine.liveness.spawn("shell");
    machine.liveness.occupy(pool.place(SlotId(1)), pid);
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(request).await }
    });
    quiesce().await;
    let state = pool.list().await.unwrap();
    assert!(matches!(state.slots[&SlotId(1)].state, SlotState::Quarantined { .. }));
    assert_eq!(state.waiters.len(), 1);
    (waiting, pid)
}

#[tokio::test]
async fn who_waits_again_for_a_slot_outlives_the_loss_of_the_records() {
    let machine = Machine::new(1);
    let session = SessionId::new("s").unwrap();
    let request = Request {
        name: Some(LeaseName::new("mine").unwrap()),
        session: Some((session.clone(), None)),
        ..request()
    };
    let (waiting, pid) = waits_again(&machine, request).await;
    machine.liveness.vacate(pid);
    machine.store.change(Box::new(|state| *state = Default::default())).await.unwrap();
    let watcher = machine.process("watcher");
    for _ in 0..10 {
        watcher.reconcile().await.unwrap();
        machine.clock.advance(Duration::from_secs(1));
        quiesce().await;
    }
    let guard = waiting.await.unwrap().unwrap();
    assert_eq!(guard.lease().name.as_str(), "mine");
    let sessions = watcher.list().await.unwrap().sessions;
    assert!(sessions.contains_key(&session), "its end must be noticed still");
    guard.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn who_waits_again_for_a_slot_is_told_how_the_wait_ended() {
    let machine = Machine::new(1);
    let asked = Request { wait: Some(Duration::from_secs(5)), ..request() };
    let (waiting, _) = waits_again(&machine, asked).await;
    machine.clock.advance(Duration::from_secs(5));
    // Another is sooner to see that its wait is over.
    machine.process("watcher").reconcile().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::PoolFull);

    let machine = Machine::new(1);
    let session = SessionId::new("s").unwrap();
    let asked = Request { session: Some((session.clone(), None)), ..request() };
    let (waiting, _) = waits_again(&machine, asked).await;
    machine.process("watcher").end_session(&session).await.unwrap();
    machine.clock.advance(machine.settings.poll);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.to_string().contains("session ended"), "{error}");
}

#[tokio::test]
async fn what_is_written_into_an_idle_slot_is_saved_before_it_is_leased() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    pool.warm(1, None, None, &|| ()).await.unwrap();
    machine.isolator.write(SlotId(1), "straggler", "late");
    let guard = pool.acquire(request()).await.unwrap();
    assert_eq!(machine.isolator.read(guard.slot(), "straggler"), None);
    assert_eq!(pool.isolator().rescues().unwrap().list().await.unwrap().len(), 1);
    guard.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn what_cannot_be_saved_is_kept_until_it_can() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    let slot = guard.slot();
    machine.isolator.set_unsavable(slot, Some("a socket"));
    let report = guard.release(Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    let wait = Request { wait: Some(Duration::ZERO), ..request() };
    let full = pool.acquire(wait).await.unwrap_err();
    assert!(full.to_string().contains("1 quarantined"), "{full}");
    machine.isolator.set_unsavable(slot, None);
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    machine.settles().await;
}

/// A reconciliation that has seen the records, and is held up over the tree of a slot.
struct HeldUp<'a>(&'a Machine, JoinHandle<Result<PruneReport>>);

impl<'a> HeldUp<'a> {
    const SPAN: Duration = Duration::from_secs(5);

    async fn begin(machine: &'a Machine) -> Self {
        let late = machine.process("late");
        machine.chaos.next(Method::Inspect, Answer::Late(Self::SPAN));
        let reconciling = tokio::spawn(async move { late.reconcile().await });
        quiesce().await;
        assert_eq!(machine.chaos.running(Method::Inspect), 1, "it looks at no slot");
        Self(machine, reconciling)
    }

    async fn goes_on(self) {
        self.0.clock.advance(Self::SPAN);
        self.1.await.unwrap().unwrap();
    }
}

/// A slot whose lease has left what can't be saved.
async fn quarantined(machine: &Machine, pool: &Pool) -> SlotId {
    let guard = pool.acquire(request()).await.unwrap();
    let slot = guard.slot();
    machine.isolator.set_unsavable(slot, Some("a socket"));
    let report = guard.release(Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    slot
}

/// Who decided on what it had seen long ago, and the slot is somebody else's by now.
#[tokio::test]
async fn a_late_reconciliation_takes_no_slot_from_whoever_makes_it() {
    let machine = Machine::new(1);
    let host = machine.process("host");
    let slot = quarantined(&machine, &host).await;
    machine.isolator.set_unsavable(slot, None);

    let late = HeldUp::begin(&machine).await;
    let minute = Duration::from_secs(60);
    host.reconcile().await.unwrap();
    machine.chaos.next(Method::Provision, Answer::Late(minute));
    let making = tokio::spawn({
        let host = host.clone();
        async move { host.acquire(request()).await }
    });
    quiesce().await;
    assert_eq!(machine.chaos.running(Method::Provision), 1);
    late.goes_on().await;
    let state = host.list().await.unwrap();
    let is_making = |slot: &Slot| matches!(slot.state, SlotState::Provisioning { .. });
    assert!(state.slots.values().all(is_making) && state.slots.len() == 1, "{state:?}");
    machine.clock.advance(minute);
    making.await.unwrap().unwrap().release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn a_late_reconciliation_ends_no_lease_that_was_renewed_since() {
    let machine = Machine::new(1);
    let host = machine.process("host");
    let guard = host.acquire(detached()).await.unwrap();
    let token = guard.lease().token();
    drop(guard.keep());
    machine.clock.advance(Duration::from_secs(3600));
    let late = HeldUp::begin(&machine).await;
    host.renew(&token, None).await.unwrap();
    late.goes_on().await;
    host.renew(&token, None).await.expect("it lasts as long as it was renewed for");
    machine.clock.advance(Duration::from_secs(3600));
    host.reconcile().await.unwrap();
    assert_eq!(host.renew(&token, None).await.unwrap_err().kind(), ErrorKind::StaleLease);
    machine.settles().await;
}

#[tokio::test]
async fn a_late_reconciliation_ends_no_session_that_was_used_since() {
    let machine = Machine::new(2);
    let host = machine.process("host");
    let id = SessionId::new("s").unwrap();
    let in_session = || Request { session: Some((id.clone(), None)), ..request() };
    host.acquire(in_session()).await.unwrap().release(Release::default()).await.unwrap();
    quarantined(&machine, &host).await;
    machine.clock.advance(machine.settings.idle);

    let late = HeldUp::begin(&machine).await;
    let used = host.acquire(in_session()).await.unwrap();
    late.goes_on().await;
    assert!(host.list().await.unwrap().sessions.get(&id).is_some_and(|session| !session.over));
    used.release(Release::default()).await.unwrap();
}

/// Nor does it end what was agreed on since.
#[tokio::test]
async fn a_late_reconciliation_leaves_a_lease_that_lingers_on() {
    let machine = Machine::new(2);
    let host = machine.process("host");
    let hour = Duration::from_secs(3600);
    let lingering = host.acquire(request()).await.unwrap();
    let token = lingering.lease().token();
    let linger = |linger| Release { outcome: Outcome::Success, linger: Some(linger) };
    lingering.release(linger(Duration::from_secs(1))).await.unwrap();
    quarantined(&machine, &host).await;
    machine.clock.advance(Duration::from_secs(1));

    // Somebody who sees that the lingering is over; then is held up; meanwhile it is told to go on.
    let late = HeldUp::begin(&machine).await;
    host.release(&token, linger(hour)).await.unwrap();
    late.goes_on().await;
    let state = host.list().await.unwrap();
    let lingers = |slot: &pool_core::Slot| matches!(slot.state, SlotState::Lingering { .. });
    assert!(state.slots.values().any(lingers), "{state:?}");
}

/// Reconciles, where something takes that long by the clock.
async fn reconcile_slowly(machine: &Machine, pool: &Pool, span: Duration) {
    let reconciling = tokio::spawn({
        let pool = pool.clone();
        async move { pool.reconcile().await }
    });
    while machine.clock.sleepers() == 0 {
        assert!(!reconciling.is_finished(), "it takes no time");
        tokio::task::yield_now().await;
    }
    machine.clock.advance(span);
    reconciling.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_took_long_and_failed_is_not_tried_again_all_the_time() {
    let machine = Machine::new(1);
    let pool = machine.process("reaper");
    let guard = pool.acquire(request()).await.unwrap();
    let slot = guard.slot();
    machine.isolator.set_unsavable(slot, Some("a socket"));
    guard.release(Release::default()).await.unwrap();
    let (span, looks) = (Duration::from_secs(10), || machine.chaos.calls(Method::Inspect));

    // To look at it took long.
    machine.chaos.next(Method::Inspect, Answer::Late(span));
    reconcile_slowly(&machine, &pool, span).await;
    let before = looks();
    machine.clock.advance(span * 18);
    pool.reconcile().await.unwrap();
    assert_eq!(looks(), before, "it rests");
    machine.clock.advance(span);
    pool.reconcile().await.unwrap();
    assert_eq!(looks(), before + 1);

    // To try to save it did.
    machine.isolator.set_unsavable(slot, None);
    machine.chaos.always(Method::Preserve, Answer::Err(ErrorKind::NoSpace));
    machine.chaos.next(Method::Inspect, Answer::Ok);
    machine.chaos.next(Method::Inspect, Answer::Late(span));
    reconcile_slowly(&machine, &pool, span).await;
    let before = looks();
    pool.reconcile().await.unwrap();
    assert_eq!(looks(), before, "it rests");

    // Whoever asks for it by hand does not wait, in that process or another.
    pool.prune(PruneOptions::default(), &|_| ()).await.unwrap();
    assert!(looks() > before);
    machine.chaos.next(Method::Inspect, Answer::Ok);
    machine.chaos.next(Method::Inspect, Answer::Late(span));
    reconcile_slowly(&machine, &pool, span).await;
    machine.chaos.calm();
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), [slot]);
    machine.process("prune").prune(PruneOptions::default(), &|_| ()).await.unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    machine.settles().await;
}

#[tokio::test]
async fn survivors_of_a_command_hold_its_lease() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    let daemon = machine.liveness.spawn("daemon");
    machine.liveness.inherit(guard.claim().unwrap().key(), "daemon");
    let how = Release { outcome: Outcome::Success, linger: None };
    assert_eq!(guard.finish(how, Duration::ZERO).await.unwrap(), Finish::Survived);
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), [SlotId(1)]);
    machine.clock.advance(machine.settings.grace);
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), [], "it does not stand there, and had its grace");
    assert!(machine.liveness.pid("daemon") == Some(daemon));
}

/// A pool that waits for processes to leave, with a lease that no process holds.
async fn patient(machine: &mut Machine) -> (Pool, Lease) {
    machine.settings.patience = Duration::from_secs(2);
    let pool = machine.process("host");
    let lease = pool.acquire(detached()).await.unwrap().keep();
    let git = machine.liveness.spawn("git");
    machine.liveness.occupy(machine.isolator.place(SlotId(1)), git);
    (pool, lease)
}

#[tokio::test]
async fn release_waits_for_a_process_that_is_about_to_leave() {
    let mut machine = Machine::new(1);
    let (pool, lease) = patient(&mut machine).await;
    let token = lease.token();
    let (other, how) =
        (pool.clone(), Release { linger: Some(Duration::ZERO), ..Release::default() });
    let release = tokio::spawn(async move { other.release(&token, how).await });
    quiesce().await;
    machine.liveness.kill("git");
    machine.clock.advance(machine.settings.poll);
    assert_eq!(release.await.unwrap().unwrap().disposition, Disposition::Removed);
    machine.settles().await;
}

#[tokio::test]
async fn second_release_looks_again_at_a_quarantined_slot() {
    let mut machine = Machine::new(1);
    let (pool, lease) = patient(&mut machine).await;
    let token = lease.token();
    let how = Release { linger: Some(Duration::ZERO), ..Release::default() };
    let (other, wanted) = (pool.clone(), token.clone());
    let release = tokio::spawn(async move { other.release(&wanted, how).await });
    quiesce().await;
    machine.clock.advance(machine.settings.patience);
    let report = release.await.unwrap().unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    let why = report.kept_because.unwrap();
    assert!(why.contains("(git) is still in it; it is cleaned up as soon as"), "{why}");
    machine.liveness.kill("git");
    let report = pool.release(&token, how).await.unwrap();
    assert_eq!((report.disposition, report.kept_because), (Disposition::Removed, None));
    machine.settles().await;
}

#[tokio::test]
async fn release_waits_while_another_process_looks_again() {
    const SPAN: Duration = Duration::from_secs(1);
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let token = pool.acquire(detached()).await.unwrap().keep().token();
    machine.isolator.set_unsavable(SlotId(1), Some("a socket"));
    let report = pool.release(&token, Release::default()).await.unwrap();
    assert_eq!(report.disposition, Disposition::Quarantined);
    machine.isolator.set_unsavable(SlotId(1), None);
    let release = |pool: Pool| {
        let token = token.clone();
        tokio::spawn(async move { pool.release(&token, Release::default()).await })
    };
    machine.chaos.next(Method::Inspect, Answer::Late(SPAN));
    let first = release(machine.process("other"));
    quiesce().await;
    let second = release(pool);
    quiesce().await;
    assert!(!second.is_finished(), "what it reports is from before");
    machine.clock.advance(SPAN);
    first.await.unwrap().unwrap();
    machine.clock.advance(machine.settings.poll);
    let report = second.await.unwrap().unwrap();
    assert_eq!((report.disposition, report.kept_because), (Disposition::Removed, None));
    machine.settles().await;
}

#[tokio::test]
async fn end_session_waits_for_a_process_that_is_about_to_leave() {
    let mut machine = Machine::new(1);
    machine.settings.patience = Duration::from_secs(2);
    let pool = machine.process("host");
    let session = SessionId::new("s").unwrap();
    let wanted = Request { session: Some((session.clone(), None)), ..detached() };
    pool.acquire(wanted).await.unwrap().keep();
    let git = machine.liveness.spawn("git");
    machine.liveness.occupy(machine.isolator.place(SlotId(1)), git);
    let other = pool.clone();
    let ending = tokio::spawn(async move { other.end_session(&session).await });
    quiesce().await;
    machine.liveness.kill("git");
    machine.clock.advance(machine.settings.poll);
    ending.await.unwrap().unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    machine.settles().await;
}

#[tokio::test]
async fn survivors_have_the_grace_that_their_command_was_run_with() {
    let mut machine = Machine::new(1);
    let watcher = machine.process("watcher");
    machine.settings.grace = Duration::from_secs(2);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    machine.liveness.spawn("daemon");
    machine.liveness.inherit(guard.claim().unwrap().key(), "daemon");
    guard.finish(Release::default(), Duration::ZERO).await.unwrap();
    machine.clock.advance(Duration::from_secs(2));
    watcher.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    machine.settles().await;
}

fn detached() -> Request {
    let ttl = Some(Duration::from_secs(10));
    Request { owner: Owner::Detached, ttl, ..request() }
}

#[tokio::test]
async fn whoever_waits_for_the_end_of_a_lease_takes_it_over_from_the_dead() {
    let machine = Machine::new(1);
    let victim = machine.process("victim");
    let token = victim.acquire(detached()).await.unwrap().keep().token();
    machine.isolator.write(SlotId(1), "work", "precious");
    machine.chaos.next(Method::Preserve, Answer::Never);
    let ending = tokio::spawn({
        let token = token.clone();
        async move { victim.release(&token, Release::default()).await }
    });
    quiesce().await;
    let other = machine.process("other");
    let waiting = tokio::spawn(async move { other.release(&token, Release::default()).await });
    quiesce().await;
    assert!(!waiting.is_finished(), "somebody is at work on it");
    machine.liveness.kill("victim");
    machine.chaos.calm();
    machine.clock.advance(machine.settings.poll);
    quiesce().await;
    assert!(waiting.is_finished(), "it waits for the dead");
    let report = waiting.await.unwrap().unwrap();
    assert_eq!((report.disposition, report.rescue.unwrap().files), (Disposition::Removed, 1));
    ending.abort();
    machine.settles().await;
}

#[tokio::test]
async fn a_reconciliation_does_not_wait_for_others_at_work() {
    let machine = Machine::new(1);
    let slow = machine.process("slow");
    let token = slow.acquire(detached()).await.unwrap().keep().token();
    machine.clock.advance(Duration::from_secs(100));
    machine.chaos.next(Method::Inspect, Answer::Slow(100));
    let watcher = machine.process("watcher");
    let watching = tokio::spawn(async move { watcher.reconcile().await });
    while machine.chaos.calls(Method::Inspect) == 0 {
        tokio::task::yield_now().await;
    }
    // Between its look at the records and what it does about them, somebody else begins.
    machine.chaos.next(Method::Inspect, Answer::Never);
    let ending = tokio::spawn(async move { slow.release(&token, Release::default()).await });
    quiesce().await;
    assert!(!ending.is_finished() && watching.is_finished());
    watching.await.unwrap().unwrap();
    machine.liveness.kill("slow");
    ending.abort();
    machine.settles().await;
}

#[tokio::test]
async fn nobody_gives_back_the_lease_of_a_live_holder() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let guard = pool.acquire(request()).await.unwrap();
    machine.isolator.write(guard.slot(), "work", "half done");
    let stranger = machine.process("stranger");
    let refused = stranger.release(&guard.token(), Release::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldLoseWork);
    assert_eq!(machine.isolator.read(guard.slot(), "work").as_deref(), Some(&b"half done"[..]));
    guard.release(Release::default()).await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn the_end_of_a_session_takes_its_leases_and_idle_slots() {
    let machine = Machine::new(4);
    let pool = machine.process("host");
    let session = SessionId::new("s").unwrap();
    let detached = || Request {
        owner: Owner::Detached,
        ttl: Some(Duration::from_secs(3600)),
        session: Some((session.clone(), None)),
        linger: Linger::both(Duration::from_secs(600)),
        ..request()
    };
    let kept = pool.acquire(detached()).await.unwrap().keep();
    let lingers = pool.acquire(detached()).await.unwrap();
    lingers.release(Release::default()).await.unwrap();
    let idle = pool.acquire(detached()).await.unwrap();
    idle.release(Release { linger: Some(Duration::ZERO), ..Release::default() }).await.unwrap();
    let state = pool.list().await.unwrap();
    assert_eq!(state.slots.len(), 3);
    pool.end_session(&session).await.unwrap();
    pool.reconcile().await.unwrap();
    assert_eq!(pool.list().await.unwrap().slots.len(), 0);
    assert!(pool.renew(&kept.token(), None).await.is_err());
    let none = SessionId::new("never-was").unwrap();
    assert_eq!(pool.end_session(&none).await.unwrap_err().kind(), ErrorKind::NotFound);
    machine.settles().await;
}

/// A host that crashed is started again, before anybody has noticed.
#[tokio::test]
async fn a_session_whose_process_has_ended_takes_no_lease_of_another_with_it() {
    let machine = Machine::new(3);
    let pool = machine.process("pool");
    let within = |host: &str| {
        machine.liveness.spawn(host);
        let process = machine.liveness.identify(machine.liveness.pid(host).unwrap());
        let session = (SessionId::new("s").unwrap(), process);
        Request { session: Some(session), ..detached() }
    };
    let first = pool.acquire(within("first")).await.unwrap().keep();
    machine.liveness.kill("first");
    let refused = pool.acquire(within("second")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "what it left is cleaned up first");
    pool.reconcile().await.unwrap();
    assert!(pool.renew(&first.token(), None).await.is_err());

    // What has nothing left is no obstacle.
    let second = pool.acquire(within("second")).await.unwrap().keep();
    pool.release(&second.token(), Release::default()).await.unwrap();
    machine.liveness.kill("second");
    let third = pool.acquire(within("third")).await.unwrap().keep();
    pool.reconcile().await.unwrap();
    pool.renew(&third.token(), None).await.expect("its own process runs");
    machine.liveness.kill("third");
    pool.reconcile().await.unwrap();
    machine.settles().await;
}

#[tokio::test]
async fn of_several_leases_with_one_name_the_live_one_counts() {
    let machine = Machine::new(3);
    let pool = machine.process("host");
    let wish = Wish { branch: BranchWish::Detached, ..Wish::default() };
    let named = Request { name: Some(LeaseName::new("amber").unwrap()), wish, ..detached() };
    let found = async || match pool.find("amber").await.unwrap() {
        Lookup::Slot(slot) => slot.state.lease().expect("a lease").token(),
        Lookup::Ended(ended) => ended.token.clone(),
    };
    let linger =
        |seconds| Release { linger: Some(Duration::from_secs(seconds)), ..Release::default() };
    let first = pool.acquire(named.clone()).await.unwrap().keep();
    pool.release(&first.token(), linger(100)).await.unwrap();
    assert_eq!(found().await, first.token(), "it lingers");
    let second = pool.acquire(named).await.unwrap().keep();
    assert_eq!(found().await, second.token());
    pool.release(&second.token(), linger(0)).await.unwrap();
    assert_eq!(found().await, second.token(), "the last one, though the first still lingers");
    pool.prune(PruneOptions { all: true, ..PruneOptions::default() }, &|_| ()).await.unwrap();
    assert_eq!(found().await, second.token());
    machine.settles().await;
}

#[tokio::test]
async fn a_deleted_workspace_is_noticed_and_its_slot_freed() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let request =
        Request { owner: Owner::Detached, ttl: Some(Duration::from_secs(60)), ..request() };
    let lease = pool.acquire(request).await.unwrap().keep();
    machine.isolator.write(SlotId(1), "work", "committed");
    machine.isolator.commit(SlotId(1));
    machine.isolator.delete_by_hand(SlotId(1));
    pool.reconcile().await.unwrap();
    assert_eq!(pool.list().await.unwrap().slots.len(), 0);
    let branch = lease.base.branch.unwrap().name;
    assert!(machine.isolator.branch(&branch).is_some(), "its commits are kept");
    machine.settles().await;
}

#[tokio::test]
async fn lost_records_are_made_good_from_what_stands_there() {
    let machine = Machine::new(2);
    let pool = machine.process("host");
    pool.warm(2, None, None, &|| ()).await.unwrap();
    machine.isolator.write(SlotId(1), "work", "precious");
    machine.store.change(Box::new(|state| *state = Default::default())).await.unwrap();
    // One to take them in, one to look at them: nothing is decided about what was just found.
    pool.reconcile().await.unwrap();
    pool.reconcile().await.unwrap();
    assert_eq!(machine.isolator.occupied(), []);
    assert_eq!(pool.isolator().rescues().unwrap().list().await.unwrap().len(), 1);
    machine.settles().await;
}

#[tokio::test]
async fn what_is_not_the_pools_keeps_a_slot_only_as_long_as_it_is_there() {
    let machine = Machine::new(1);
    let pool = machine.process("one");
    machine.isolator.set_foreign(SlotId(1), Some("somebody else's files"));
    pool.reconcile().await.expect("reconciled");
    let state = pool.list().await.expect("listed");
    assert!(matches!(state.slots[&SlotId(1)].state, SlotState::Quarantined { .. }), "{state:#?}");
    let full = Request { wait: Some(Duration::ZERO), ..request() };
    assert_eq!(pool.acquire(full).await.expect_err("full").kind(), ErrorKind::PoolFull);

    machine.isolator.set_foreign(SlotId(1), None);
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let would = pool.prune(dry, &|_| ()).await.expect("looked").done;
    assert_eq!(pool.reconcile().await.expect("reconciled").done, would);
    assert_eq!(would.len(), 1, "{would:?}");
    let guard = pool.acquire(request()).await.expect("it is to be had again");
    guard.release(Release::default()).await.expect("released");
    machine.settles().await;
}

#[tokio::test]
async fn bad_input_changes_nothing() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let wish = |base: &str| Wish { base: Some(base.into()), ..Wish::default() };
    let unknown = Request { wish: wish("no-such-revision"), ..request() };
    assert_eq!(pool.acquire(unknown).await.unwrap_err().kind(), ErrorKind::UnknownRevision);
    let branch = BranchWish::Named("main".into());
    let moved = Request { wish: Wish { branch, ..wish("side") }, ..request() };
    assert!(pool.acquire(moved).await.is_err());
    let endless = Request { owner: Owner::Detached, ttl: None, ..request() };
    assert_eq!(pool.acquire(endless).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(pool.list().await.unwrap(), Default::default());
    machine.settles().await;
}

/// Every combination of a method and a way to misbehave, and the caller gone at that point or not:
/// nothing leaks, nothing is lost, the cap holds.
#[tokio::test]
async fn whatever_a_backend_does_and_whenever_the_caller_leaves() {
    let answers = [
        Answer::Ok,
        Answer::Err(ErrorKind::Other),
        Answer::ErrAfter(ErrorKind::NoSpace),
        Answer::Slow(3),
        Answer::Never,
        Answer::NeverAfter,
    ];
    let methods = [
        Method::Resolve,
        Method::Provision,
        Method::Inspect,
        Method::Preserve,
        Method::Recycle,
        Method::Dispose,
    ];
    for method in methods {
        for answer in answers {
            for warm in [false, true] {
                for patience in [0, 1, 3, 10, 50] {
                    abuse(method, answer, warm, patience).await;
                }
            }
        }
    }
}

async fn abuse(method: Method, answer: Answer, warm: bool, patience: usize) {
    let machine = Machine::new(2);
    let pool = machine.process("victim");
    if warm {
        pool.warm(1, None, None, &|| ()).await.unwrap();
        machine.isolator.write(SlotId(1), "straggler", "late");
    }
    machine.chaos.next(method, answer);
    let mut task = tokio::spawn({
        let (pool, isolator) = (pool.clone(), machine.isolator.clone());
        async move {
            let guard = pool.acquire(request()).await?;
            isolator.write(guard.slot(), "work", "precious");
            guard.release(Release::default()).await
        }
    });
    let mut gone = false;
    for turn in 0..2_000 {
        if turn == patience {
            task.abort();
        }
        if !gone {
            gone = futures_poll(&mut task).await;
        }
        tokio::task::yield_now().await;
        let state = pool.list().await.unwrap();
        assert!(state.occupied() <= 2 && state.slots.len() <= 2, "{method:?} {answer:?}");
    }
    // Then the process dies, as it may at any time, and another one cleans up.
    machine.liveness.kill("victim");
    machine.chaos.calm();
    let other = machine.process("other");
    for _ in 0..3 {
        other.prune(PruneOptions { all: true, ..PruneOptions::default() }, &|_| ()).await.unwrap();
    }
    let left = other.list().await.unwrap();
    // What still runs in the "dead" process, in `Never`, can't be interrupted by the fake: the real
    // one would be gone with it. It holds nothing that the other needs.
    assert_eq!(
        left.slots.len(),
        0,
        "{method:?} {answer:?} warm={warm} patience={patience}: {left:?}"
    );
    assert_eq!(left.waiters.len(), 0);
}

async fn futures_poll<T>(task: &mut tokio::task::JoinHandle<T>) -> bool {
    tokio::select! {
        biased;
        _ = task => true,
        () = std::future::ready(()) => false,
    }
}

#[tokio::test]
async fn the_blocking_facade_does_the_same() {
    tokio::task::spawn_blocking(|| {
        let isolator = Arc::new(MemoryIsolator::new());
        let pool = pool_core::BlockingPool::open(Pool::builder(isolator.clone())).unwrap();
        let guard = pool.acquire(request()).unwrap();
        isolator.write(guard.slot(), "work", "precious");
        assert_eq!(pool.list().unwrap().slots.len(), 1);
        pool.block_on(guard.release(Release::default())).unwrap();
        assert_eq!(pool.list().unwrap().slots.len(), 0);
        isolator.audit().unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn subscribers_hear_what_happens_here() {
    let machine = Machine::new(1);
    let pool = machine.process("host");
    let mut events = pool.subscribe();
    pool.acquire(request()).await.unwrap().release(Release::default()).await.unwrap();
    let mut heard = Vec::new();
    while let Ok(event) = events.try_recv() {
        heard.push(event.kind);
    }
    use EventKind::{Granted, Leased, Queued, Releasing, Removed, Retiring};
    assert_eq!(heard, [Queued, Granted, Leased, Releasing, Retiring, Removed]);
    assert!(machine.clock.now().wall >= pool.now().wall);
    let _: &dyn Isolator = pool.isolator();
}

/// Its worker lives, so that nobody else would take the work over.
#[tokio::test]
async fn a_reconciliation_that_was_dropped_is_resumed_by_the_next() {
    let machine = Machine::new(1);
    let (pool, victim) = (machine.process("host"), machine.process("victim"));
    let lost = victim.acquire(request()).await.unwrap();
    machine.isolator.write(lost.slot(), "work", "precious");
    machine.liveness.kill("victim");
    machine.chaos.next(Method::Dispose, Answer::Never);
    tokio::select! {
        biased;
        done = pool.reconcile() => panic!("it was to hang: {done:?}"),
        () = quiesce() => {}
    }
    assert_eq!(pool.list().await.unwrap().slots[&SlotId(1)].state.as_str(), "releasing");
    machine.chaos.calm();
    pool.reconcile().await.unwrap();
    assert_eq!(pool.list().await.unwrap().slots.len(), 0);
    assert_eq!(pool.isolator().rescues().unwrap().list().await.unwrap().len(), 1);
    drop(lost);
    quiesce().await;
    machine.settles().await;
}
