//! A process is held up between any two of its steps while others work: then what it had decided on is no longer so.
//!
//! Each act is played once for every gap between two of its calls of the store and the backend, and for every work that
//! others do in that gap; and for pairs of gaps. Afterwards no live lease has ended, and no live workspace is gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pool_core::{
    Lease, LeaseGuard, Linger, Outcome, Owner, Pool, PruneOptions, Release, Request, SessionId,
    SlotId, SlotState, Token,
};
use testkit::chaos::{Answer, Method};
use testkit::steps::Steps;

use crate::pool::{Machine, quiesce, request};

/// What the process does that is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Reconcile,
    PruneAll,
    EndSession,
    ReleaseOwn,
    ReleaseOthers,
    Acquire,
    Warm,
}

const ACTS: [Act; 7] = [
    Act::Reconcile,
    Act::PruneAll,
    Act::EndSession,
    Act::ReleaseOwn,
    Act::ReleaseOthers,
    Act::Acquire,
    Act::Warm,
];

/// What others do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Acquire,
    EndAllThatIsDueAndAcquire,
    ReleaseAndAcquire,
    Renew,
    StepIn,
    Write,
    Quarantine,
    UseSession,
    PruneAll,
    HolderLeavesAndAnotherComes,
    Detach,
    BeginReserved,
}

const WORKS: [Work; 12] = [
    Work::Acquire,
    Work::EndAllThatIsDueAndAcquire,
    Work::ReleaseAndAcquire,
    Work::Renew,
    Work::StepIn,
    Work::Write,
    Work::Quarantine,
    Work::UseSession,
    Work::PruneAll,
    Work::HolderLeavesAndAnotherComes,
    Work::Detach,
    Work::BeginReserved,
];

const DAY: Duration = Duration::from_secs(86_400);

fn detached(ttl: Duration) -> Request {
    Request { owner: Owner::Detached, ttl: Some(ttl), ..request() }
}

fn session(name: &str) -> Option<(SessionId, Option<pool_core::ProcessIdentity>)> {
    Some((SessionId::new(name).expect("a good name"), None))
}

/// A pool with one slot of each kind that a reconciliation has something to do with.
struct Scene {
    machine: Machine,
    host: Pool,
    /// Leases that must go on, each with its slot.
    live: Vec<(Token, SlotId)>,
    /// Slots in which a process stands, as long as it does.
    occupied: Vec<SlotId>,
    keeper: Option<Lease>,
    expired: (Token, SlotId),
    gone: Token,
    own: Token,
    held: Option<LeaseGuard>,
    reserved: Option<pool_core::Reservation>,
    reserved_token: Token,
    written: u32,
}

impl Scene {
    async fn new() -> Self {
        let machine = Machine::new(40);
        let host = machine.process("host");
        let acquire = |request| {
            let host = host.clone();
            async move { host.acquire(request).await.expect("acquired") }
        };
        let dying = machine.process("dying");
        let dead = dying.acquire(request()).await.expect("acquired");
        let lost = acquire(detached(DAY)).await;
        let (gone, gone_slot) = (lost.token(), lost.slot());
        lost.keep();
        let keeper = acquire(detached(DAY)).await;
        let live = vec![(keeper.token(), keeper.slot())];
        let expired = acquire(detached(Duration::from_secs(10))).await;
        let expired_at = (expired.token(), expired.slot());
        let lingers = acquire(detached(DAY)).await;
        let linger = Release { outcome: Outcome::Success, linger: Some(Duration::from_secs(1)) };
        lingers.release(linger).await.expect("released");
        let kept = acquire(detached(DAY)).await;
        let kept_slot = kept.slot();
        machine.isolator.set_unsavable(kept_slot, Some("a socket"));
        kept.release(Release::default()).await.expect("released");
        machine.isolator.set_unsavable(kept_slot, None);
        let own = acquire(detached(DAY)).await;
        let own_token = own.token();
        own.keep();
        let in_session = |name| Request { session: session(name), ..detached(DAY) };
        let ending = acquire(in_session("ending")).await;
        let going_on = acquire(in_session("going-on")).await;
        // Of a session that lives, an idle slot is kept.
        going_on.release(Release::default()).await.expect("released");
        let held = acquire(request()).await;
        let reserved = host.reserve(request()).await.expect("reserved");
        let reserved_token = reserved.lease().token();

        let mut scene = Self {
            live,
            occupied: Vec::new(),
            keeper: Some(keeper.keep()),
            expired: expired_at,
            gone,
            own: own_token,
            reserved: Some(reserved),
            reserved_token,
            held: None,
            written: 0,
            machine,
            host,
        };
        scene.live.push((held.token(), held.slot()));
        scene.held = Some(held);
        expired.keep();
        ending.keep();
        std::mem::forget(dead);
        for (_, slot) in [scene.live.clone(), vec![scene.expired.clone()]].concat() {
            scene.write(slot);
        }
        scene.machine.liveness.kill("dying");
        scene.machine.isolator.delete_by_hand(gone_slot);
        scene.machine.clock.advance(Duration::from_secs(600));
        scene
    }

    fn write(&mut self, slot: SlotId) {
        self.written += 1;
        self.machine.isolator.write(slot, "work", format!("number {}", self.written));
    }

    async fn is_leased(&self, token: &Token) -> bool {
        let state = self.host.list().await.expect("listed");
        state.slots.values().any(
            |slot| matches!(&slot.state, SlotState::Leased { lease } if lease.token() == *token),
        )
    }

    async fn acquire(&mut self, request: Request) {
        let guard = self.host.acquire(request).await.expect("acquired");
        let (token, slot) = (guard.token(), guard.slot());
        guard.keep();
        self.write(slot);
        self.live.push((token, slot));
    }

    async fn work(&mut self, work: Work) {
        match work {
            Work::Acquire => self.acquire(detached(DAY)).await,
            Work::EndAllThatIsDueAndAcquire => {
                self.machine.process("another").reconcile().await.expect("reconciled");
                for _ in 0..6 {
                    self.acquire(detached(DAY)).await;
                }
            }
            Work::ReleaseAndAcquire => {
                if let Some(keeper) = self.keeper.take() {
                    self.live.retain(|(token, _)| *token != keeper.token());
                    let how = Release::default();
                    self.host.release(&keeper.token(), how).await.expect("released");
                }
                self.acquire(detached(DAY)).await;
            }
            Work::Renew => {
                let _ = self.host.renew(&self.gone, None).await;
                let (token, slot) = self.expired.clone();
                if self.host.renew(&token, Some(DAY)).await.is_ok() {
                    self.live.push((token, slot));
                }
            }
            Work::StepIn => {
                let (_, slot) = self.expired;
                if self.machine.isolator.stands(slot) {
                    let process = self.machine.liveness.spawn("visitor");
                    self.machine.liveness.occupy(self.host.place(slot), process);
                    self.occupied.push(slot);
                }
            }
            Work::Write => {
                let (token, slot) = self.expired.clone();
                if self.is_leased(&token).await {
                    self.write(slot);
                }
            }
            Work::Quarantine => {
                let guard = self.host.acquire(detached(DAY)).await.expect("acquired");
                let slot = guard.slot();
                self.machine.isolator.set_unsavable(slot, Some("a socket"));
                guard.release(Release::default()).await.expect("released");
            }
            Work::UseSession => {
                self.acquire(Request { session: session("going-on"), ..detached(DAY) }).await;
            }
            Work::PruneAll => {
                let all = PruneOptions { all: true, ..PruneOptions::default() };
                let pool = self.machine.process("another");
                pool.prune(all, &|_| ()).await.expect("pruned");
            }
            Work::HolderLeavesAndAnotherComes => {
                if let Some(held) = self.held.take() {
                    self.live.retain(|(token, _)| *token != held.token());
                    held.release(Release::default()).await.expect("released");
                }
                let held = self.host.acquire(request()).await.expect("acquired");
                self.live.push((held.token(), held.slot()));
                self.write(held.slot());
                self.held = Some(held);
            }
            Work::Detach => {
                if let Some(held) = &mut self.held {
                    held.detach(DAY).await.expect("it lives");
                }
            }
            Work::BeginReserved => {
                if let Some(reserved) = self.reserved.take() {
                    let guard = reserved.materialise().await.expect("made");
                    self.live.push((guard.token(), guard.slot()));
                    self.write(guard.slot());
                    if let Some(held) = self.held.replace(guard) {
                        self.live.retain(|(token, _)| *token != held.token());
                    }
                    quiesce().await;
                }
            }
        }
    }

    /// What must be so whatever was held up, and wherever.
    async fn audit(&self, case: &str) {
        let state = self.host.list().await.expect("listed");
        for (token, slot) in &self.live {
            let is_leased = state.slots.get(slot).is_some_and(
                |slot| matches!(&slot.state, SlotState::Leased { lease } if lease.token() == *token),
            );
            assert!(is_leased, "{case}: a live lease of slot {slot} ended: {:#?}", state.ended);
            assert!(self.machine.isolator.stands(*slot), "{case}: the workspace {slot} is gone");
            let work = self.machine.isolator.read(*slot, "work");
            assert!(work.is_some(), "{case}: the work in slot {slot} is gone");
        }
        for slot in &self.occupied {
            assert!(
                self.machine.isolator.stands(*slot),
                "{case}: the workspace {slot} was taken from under a process"
            );
        }
        self.machine.isolator.audit().unwrap_or_else(|lost| panic!("{case}: {lost}"));
    }
}

/// Does it, and says which lease it got that must go on.
async fn act(act: Act, pool: Pool, scene: (Token, Token)) -> Option<(Token, SlotId)> {
    let (own, others) = scene;
    match act {
        Act::Reconcile => drop(pool.reconcile().await.expect("reconciled")),
        Act::PruneAll => {
            let all = PruneOptions { all: true, ..PruneOptions::default() };
            pool.prune(all, &|_| ()).await.expect("pruned");
        }
        Act::EndSession => {
            let id = SessionId::new("ending").expect("a good name");
            // Others may have ended it already.
            let _ = pool.end_session(&id).await;
        }
        Act::ReleaseOwn => {
            let linger = Some(Duration::ZERO);
            let how = Release { outcome: Outcome::Success, linger };
            pool.release(&own, how).await.expect("released");
        }
        // Of a holder who lives, or is about to: refused, whatever the moment.
        Act::ReleaseOthers => {
            let refused = pool.release(&others, Release::default()).await;
            drop(refused.expect_err("its holder lives"));
        }
        Act::Acquire => {
            let linger = Linger::both(Duration::ZERO);
            let request = Request { linger, ..detached(DAY) };
            let guard = pool.acquire(request).await.expect("acquired");
            let got = (guard.token(), guard.slot());
            guard.keep();
            return Some(got);
        }
        Act::Warm => drop(pool.warm(3, None, None, &|| ()).await.expect("warmed")),
    }
    None
}

/// Plays an act that is held up before some of its steps, each with what others do then. How many steps it took.
async fn play(what: Act, stops: &[(usize, Work)]) -> usize {
    let case = format!("{what:?}, with {stops:?}");
    let mut scene = Scene::new().await;
    let steps = Steps::stopping_before(stops.iter().map(|(step, _)| *step));
    let late = Pool::builder(steps.isolator(scene.machine.isolator.clone()))
        .store(steps.store(scene.machine.store.clone()))
        .clock(Arc::new(scene.machine.clock.clone()))
        .liveness(scene.machine.liveness.process("late"))
        .settings(scene.machine.settings.clone())
        .open()
        .expect("valid settings");
    let tokens = (scene.own.clone(), scene.reserved_token.clone());
    let mut acting = pin!(act(what, late, tokens));
    let mut works = stops.iter();
    let got = loop {
        tokio::select! {
            got = &mut acting => break got,
            () = steps.stopped() => {
                let (_, work) = works.next().expect("as many stops as works");
                scene.work(*work).await;
                steps.go_on();
            }
            // It waits for another's work, which is done by now.
            () = quiesce() => scene.machine.clock.advance(scene.machine.settings.poll),
        }
    };
    if let Some((token, slot)) = got {
        scene.write(slot);
        scene.live.push((token, slot));
    }
    scene.audit(&case).await;
    // Whatever was left is put right, and nothing is decided on what was before.
    scene.machine.process("last").reconcile().await.expect("reconciled");
    scene.audit(&format!("{case}, and a reconciliation")).await;
    steps.taken()
}

#[tokio::test]
async fn no_live_lease_ends_whatever_happens_between_two_steps() {
    for what in ACTS {
        let steps = play(what, &[]).await;
        assert!(steps > 1, "{what:?} takes {steps} steps");
        for step in 0..steps {
            for work in WORKS {
                play(what, &[(step, work)]).await;
            }
        }
    }
}

/// Before one look a lease ends, and before the next another one begins in its slot.
#[tokio::test]
async fn no_live_lease_ends_whatever_happens_in_two_gaps() {
    let first = [
        Work::ReleaseAndAcquire,
        Work::EndAllThatIsDueAndAcquire,
        Work::HolderLeavesAndAnotherComes,
        Work::PruneAll,
        Work::Renew,
    ];
    for what in [Act::Reconcile, Act::PruneAll, Act::ReleaseOthers] {
        let steps = play(what, &[]).await;
        for step in 0..steps.min(12) {
            for next in step + 1..steps.min(12) {
                for work in first {
                    for then in [Work::Acquire, Work::ReleaseAndAcquire, Work::BeginReserved] {
                        play(what, &[(step, work), (next, then)]).await;
                    }
                }
            }
        }
    }
}

/// To save the work of one lease takes long, and another that was due as well is used meanwhile.
#[tokio::test]
async fn lease_that_was_due_is_looked_at_again_before_it_ends() {
    for work in [Work::Write, Work::StepIn] {
        let mut scene = Scene::new().await;
        let minute = Duration::from_secs(60);
        scene.machine.chaos.next(Method::Preserve, Answer::Late(minute));
        let late = scene.machine.process("late");
        let reconciling = tokio::spawn(async move { late.reconcile().await });
        quiesce().await;
        assert_eq!(scene.machine.chaos.running(Method::Preserve), 1);
        scene.machine.clock.advance(minute / 2);
        let (token, slot) = scene.expired.clone();
        assert!(scene.is_leased(&token).await, "another one ends first");
        scene.work(work).await;
        scene.machine.clock.advance(minute / 2);
        reconciling.await.expect("no panic").expect("reconciled");
        scene.live.push((token, slot));
        scene.audit(&format!("{work:?}")).await;
    }
}
