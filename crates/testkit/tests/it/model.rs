//! The reference model against a real pool, on the memory isolator.
//!
//! Each request is a process of its own: a pool over the common store, on a runtime that is driven
//! by hand and dropped when the process is killed, so that its tasks end at whatever await they
//! stand at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use pool_core::{
    Clock as _, Error, ErrorKind, LeaseGuard, LeaseName, Linger, MemoryStore, Owner, Pool,
    PoolState, PruneOptions, Release, Request, SessionId, Settings, SlotId, SlotState, Token,
};
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use testkit::clock::{VirtualClock, settle};
use testkit::liveness::FakeLiveness;
use testkit::memory::MemoryIsolator;
use testkit::model::{Ask, Kind, Model, Standing, Step, UNIT};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

prop_state_machine! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_pool_does_what_the_model_says(sequential 1..40 => Checked);
}

const POLL: Duration = Duration::from_millis(10);

/// What a process has so far.
#[derive(Debug, Default)]
enum Has {
    #[default]
    Nothing,
    Reserved,
    Leased(Box<LeaseGuard>),
    Failed(Error),
}

/// A process with one request.
#[derive(Debug)]
struct Process {
    name: String,
    has: Arc<Mutex<Has>>,
    go: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    runtime: Runtime,
}

/// The system under test.
#[derive(Debug)]
struct System {
    clock: VirtualClock,
    machine: FakeLiveness,
    isolator: Arc<MemoryIsolator>,
    store: Arc<MemoryStore>,
    settings: Settings,
    processes: BTreeMap<usize, Process>,
    leases: BTreeMap<usize, (Token, SlotId)>,
    reaper: (Runtime, Pool),
    boots: u32,
    generation: u64,
    writes: u64,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn name_of(number: usize) -> LeaseName {
    LeaseName::new(format!("request-{number}")).expect("a good name")
}

fn session(number: u8) -> SessionId {
    SessionId::new(format!("session-{number}")).expect("a good name")
}

fn units(units: u64) -> Duration {
    Duration::from_secs(units * UNIT + UNIT / 2)
}

impl System {
    fn new(cap: usize) -> Self {
        let clock = VirtualClock::new();
        let machine = FakeLiveness::new();
        let isolator = Arc::new(MemoryIsolator::new());
        let store = Arc::new(MemoryStore::new());
        let settings = Settings {
            max_leases: u32::try_from(cap).expect("a small cap"),
            keep_warm: 2,
            quiet: Duration::ZERO,
            poll: POLL,
            ..Settings::default()
        };
        let open = |name: &str| {
            Pool::builder(isolator.clone())
                .store(store.clone())
                .clock(Arc::new(clock.clone()))
                .liveness(machine.process(name))
                .settings(settings.clone())
                .open()
                .expect("it can be opened")
        };
        let reaper = (runtime(), open("reaper"));
        Self {
            clock,
            machine,
            isolator,
            store,
            settings,
            processes: BTreeMap::new(),
            leases: BTreeMap::new(),
            reaper,
            boots: 0,
            generation: 0,
            writes: 0,
        }
    }

    fn open(&self, name: &str) -> Pool {
        Pool::builder(self.isolator.clone())
            .store(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .liveness(self.machine.process(name))
            .settings(self.settings.clone())
            .open()
            .expect("it can be opened")
    }

    fn list(&self) -> PoolState {
        self.reaper.0.block_on(self.reaper.1.list()).expect("it can be read")
    }

    fn reconcile(&self) -> Vec<String> {
        self.reaper.0.block_on(self.reaper.1.reconcile()).expect("the records do not fail").done
    }

    /// Starts a process with a request. It does not run until it is driven.
    fn start(&mut self, number: usize, ask: &Ask) {
        let name = format!("process-{number}");
        let pool = self.open(&name);
        let (owner, ttl) = match ask.kind {
            Kind::Held => (Owner::Holder, None),
            Kind::Detached(ttl) => (Owner::Detached, Some(units(ttl))),
        };
        let linger = if ask.linger == 0 { Duration::ZERO } else { units(ask.linger) };
        let request = Request {
            name: Some(name_of(number)),
            session: ask.session.map(|s| (session(s), None)),
            owner,
            ttl,
            linger: Linger::both(linger),
            wait: ask.wait.map(units),
            ..Request::new(name.clone())
        };
        let has = Arc::<Mutex<Has>>::default();
        let (go, going) = oneshot::channel::<()>();
        let runtime = runtime();
        let task = runtime.spawn({
            let (has, reserve) = (has.clone(), ask.reserve);
            async move {
                let set = |value| *has.lock().expect("nobody panics") = value;
                let reservation = match pool.reserve(request).await {
                    Ok(reservation) => reservation,
                    Err(error) => return set(Has::Failed(error)),
                };
                if reserve {
                    set(Has::Reserved);
                    going.await.expect("the test says so, or drops this task");
                }
                set(match reservation.materialise().await {
                    Ok(guard) => Has::Leased(Box::new(guard)),
                    Err(error) => Has::Failed(error),
                });
            }
        });
        let process = Process { name, has, go: Some(go), task, runtime };
        self.processes.insert(number, process);
    }

    /// Lets all processes run until they wait, for each other too.
    fn drive(&mut self, model: &Model) {
        for _ in 0..5 {
            for process in self.processes.values() {
                process.runtime.block_on(settle());
            }
            self.clock.advance(POLL);
        }
        let mut ended = Vec::new();
        for (number, process) in &self.processes {
            let mut has = process.has.lock().expect("nobody panics");
            if let Has::Leased(guard) = &*has {
                self.leases.insert(*number, (guard.token(), guard.slot()));
                if model.entries[number].ask.kind != Kind::Held {
                    if let Has::Leased(guard) = std::mem::take(&mut *has) {
                        guard.keep();
                    }
                    ended.push(*number);
                }
            }
            if let Has::Failed(error) = &*has {
                let expected = [ErrorKind::PoolFull, ErrorKind::InvalidInput, ErrorKind::Cancelled];
                assert!(expected.contains(&error.kind()), "request {number}: {error:?}");
                ended.push(*number);
            }
        }
        for number in ended {
            self.kill(number);
        }
    }

    /// Ends a process. What it has to say for itself as its tasks are dropped does not count, since
    /// it holds no claim any more.
    fn kill(&mut self, number: usize) {
        let Some(process) = self.processes.remove(&number) else { return };
        self.machine.kill(&process.name);
        let Process { runtime, has, .. } = process;
        drop(runtime);
        drop(has);
    }

    fn guard(&mut self, number: usize) -> Option<LeaseGuard> {
        let process = self.processes.get(&number)?;
        match std::mem::take(&mut *process.has.lock().expect("nobody panics")) {
            Has::Leased(guard) => Some(*guard),
            other => panic!("request {number} is no lease: {other:?}"),
        }
    }

    fn step(&mut self, model: &Model, step: &Step) {
        match step {
            Step::Acquire(ask) => self.start(model.entries.len() - 1, ask),
            Step::CrashAcquiring(ask, steps) => {
                let number = model.entries.len() - 1;
                self.start(number, ask);
                self.run(number, *steps);
                self.kill(number);
                self.reconcile();
            }
            Step::Materialise(number) => {
                let process = self.processes.get_mut(number).expect("it runs");
                process.go.take().expect("once only").send(()).expect("it waits for it");
            }
            Step::Cancel(number) => {
                let process = &self.processes[number];
                process.runtime.block_on(async {
                    process.task.abort();
                    settle().await;
                });
                self.kill(*number);
            }
            Step::Renew(number) => {
                let token = &self.leases[number].0;
                let renewed = self.reaper.0.block_on(self.reaper.1.renew(token, None));
                assert_eq!(renewed.expect("it is a lease").token(), *token);
            }
            Step::Release(number) => {
                let how = Release::default();
                match self.guard(*number) {
                    Some(guard) => {
                        let runtime = &self.processes[number].runtime;
                        runtime.block_on(guard.release(how)).expect("it can be given back");
                        self.kill(*number);
                    }
                    None => {
                        let token = &self.leases[number].0;
                        let released = self.reaper.0.block_on(self.reaper.1.release(token, how));
                        released.expect("it can be given back");
                    }
                }
            }
            Step::CrashReleasing(number, steps) => {
                let guard = self.guard(*number).expect("a held lease has a process");
                drop(self.processes[number].runtime.spawn(guard.release(Release::default())));
                self.run(*number, *steps);
                self.kill(*number);
                self.reconcile();
            }
            Step::ReleaseAgain(number) => {
                let (token, before) = (&self.leases[number].0, self.list());
                let again = self.reaper.1.release(token, Release::default());
                self.reaper.0.block_on(again).expect("it is remembered");
                assert_eq!(self.list(), before, "a second release changed something");
            }
            Step::RenewStale(number) => {
                let (token, before) = (&self.leases[number].0, self.list());
                let renewed = self.reaper.0.block_on(self.reaper.1.renew(token, None));
                assert_eq!(renewed.expect_err("it is over").kind(), ErrorKind::StaleLease);
                assert_eq!(self.list(), before, "a stale token changed something");
            }
            Step::Kill(number) => self.kill(*number),
            Step::Write(number, file) => {
                self.writes += 1;
                let slot = self.leases[number].1;
                let path = ["a.txt", "deep/b.txt", ".env", "README.md"][usize::from(*file) % 4];
                self.isolator.write(slot, path, format!("write {}\n", self.writes));
            }
            Step::Commit(number) => drop(self.isolator.commit(self.leases[number].1)),
            Step::DeleteByHand(number) => self.isolator.delete_by_hand(self.leases[number].1),
            Step::Pass(units) => self.clock.advance(Duration::from_secs(units * UNIT)),
            Step::SetWall(hours) => {
                let wall = self.clock.now().wall + SignedDuration::from_hours((*hours).into());
                self.clock.set_wall(wall);
            }
            Step::Reboot => self.reboot(),
            Step::Reconcile => {
                self.reconcile();
                let before = self.list();
                assert_eq!(self.reconcile(), Vec::<String>::new(), "the second one did something");
                assert_eq!(self.list(), before, "the second one changed something");
            }
            Step::PruneAll => self.prune(),
            Step::EndSession(number) => {
                match self.reaper.0.block_on(self.reaper.1.end_session(&session(*number))) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
                        self.reconcile();
                    }
                }
            }
        }
    }

    fn run(&self, number: usize, steps: u32) {
        self.processes[&number].runtime.block_on(async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        });
    }

    fn prune(&self) {
        let options = PruneOptions { all: true, ..PruneOptions::default() };
        let pruned = self.reaper.0.block_on(self.reaper.1.prune(options, &|_| ()));
        pruned.expect("the records do not fail");
    }

    fn reboot(&mut self) {
        self.machine.reboot();
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            self.kill(number);
        }
        self.clock.reboot();
        self.boots += 1;
        self.reaper = (runtime(), self.open(&format!("reaper-{}", self.boots)));
    }

    /// The invariants of the design, and that it is as the model says.
    fn check(&mut self, model: &Model) {
        let state = self.list();
        self.isolator.audit().expect("3: nothing is lost");
        let occupying: Vec<_> = state.slots.values().filter(|s| s.state.occupies()).collect();
        assert!(occupying.len() <= model.cap && state.slots.len() <= model.cap, "2: the cap");

        let leases: Vec<_> = occupying.iter().filter_map(|s| s.state.lease()).collect();
        let names: BTreeSet<_> = leases.iter().map(|lease| &lease.name).collect();
        let branches: BTreeSet<_> =
            leases.iter().filter_map(|lease| Some(&lease.base.branch.as_ref()?.name)).collect();
        assert_eq!(
            (names.len(), branches.len()),
            (leases.len(), leases.len()),
            "1: one lease each"
        );

        assert!(state.generation.0 >= self.generation, "6: generations only grow");
        self.generation = state.generation.0;
        let generations: BTreeSet<_> =
            self.leases.values().map(|(token, _)| token.generation).collect();
        assert_eq!(generations.len(), self.leases.len(), "6: no generation twice");

        // 5 and 7: who must have a lease has that very one, with the workspace that was made for it.
        for (number, entry) in model.with(Standing::Leased) {
            let (token, slot) = &self
                .leases
                .get(&number)
                .unwrap_or_else(|| panic!("request {number} should be a lease: {:#?}", state));
            let here =
                &state.slots.get(slot).unwrap_or_else(|| panic!("slot {slot} is gone")).state;
            let SlotState::Leased { lease } = here else { panic!("request {number} has {here:?}") };
            assert_eq!(lease.token(), *token, "request {number}");
            let made_for = self.isolator.plan(*slot).expect("a workspace").lease;
            assert_eq!(made_for, Some((token.lease.clone(), name_of(number))), "request {number}");
            assert!(!entry.present || self.isolator.read(*slot, "src/lib.rs").is_some());
        }
        for (number, _) in model.with(Standing::Reserved) {
            let granted = |s: &SlotState| matches!(s, SlotState::Provisioning { lease: Some(l), .. } if l.name == name_of(number));
            assert!(
                state.slots.values().any(|s| granted(&s.state)),
                "request {number} is not reserved"
            );
        }
        assert_eq!(occupying.len(), model.occupied(), "who else has a slot? {state:#?}");

        // 11: the queue is the model's.
        let queue: Vec<_> = state.waiters.values().map(|w| w.lease.name.clone()).collect();
        let expected: Vec<_> = model.queue.iter().map(|number| name_of(*number)).collect();
        assert_eq!(queue, expected, "11: the queue");

        // 8 and 9: what is recorded is there, and the other way round.
        let there: BTreeSet<SlotId> = self.isolator.occupied().into_iter().collect();
        for slot in &there {
            assert!(state.slots.contains_key(slot), "9: slot {slot} has no record");
        }
        for slot in state.slots.values() {
            let settled = !matches!(slot.state, SlotState::Provisioning { .. });
            assert!(!settled || there.contains(&slot.id), "9: slot {} is not there", slot.id);
            assert!(!matches!(slot.state, SlotState::Quarantined { .. }), "8: {:?}", slot.state);
        }
    }

    /// In the end nothing is left.
    fn end(mut self) {
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            self.kill(number);
        }
        // After a reboot, times begin to count at a reconciliation.
        self.reconcile();
        self.clock.advance(Duration::from_secs(7200));
        self.reconcile();
        self.prune();
        let state = self.list();
        assert!(state.slots.is_empty() && state.waiters.is_empty(), "10: left over: {state:#?}");
        assert_eq!(self.isolator.occupied(), [], "10: workspaces are left over");
        self.isolator.audit().expect("3: nothing is lost");
        let main = self.isolator.branch("main");
        for branch in self.isolator.branches().iter().filter(|b| b.starts_with("wtpool/")) {
            assert_ne!(
                self.isolator.branch(branch),
                main,
                "10: {branch} was left, with nothing on it"
            );
        }
        assert_eq!(
            self.machine.claimed().len(),
            1,
            "10: claims are left: {:?}",
            self.machine.claimed()
        );
    }
}

struct Checked;

impl StateMachineTest for Checked {
    type SystemUnderTest = System;
    type Reference = Model;

    fn init_test(model: &Model) -> System {
        System::new(model.cap)
    }

    fn apply(
        mut system: System,
        model: &Model,
        step: <Model as ReferenceStateMachine>::Transition,
    ) -> System {
        system.step(model, &step);
        system.drive(model);
        system.check(model);
        system
    }

    fn check_invariants(_system: &System, _model: &Model) {}

    fn teardown(system: System, _model: Model) {
        system.end();
    }
}
