//! A pool, and the processes that use it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pool_core::{
    CommitId, Error, LeaseGuard, LeaseName, LeaseStore, Linger, Liveness as _, MemoryStore, Owner,
    Pool, PoolState, Request, SessionId, Settings, SlotId, Token, Vital,
};
use testkit::cache::StampingCache;
use testkit::chaos::Chaos;
use testkit::clock::{VirtualClock, settle};
use testkit::liveness::FakeLiveness;
use testkit::memory::MemoryIsolator;
use testkit::model::{Ask, Kind, Model, Standing, UNIT};
use testkit::store::LateStore;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) const POLL: Duration = Duration::from_millis(5);

/// What a process has so far.
#[derive(Debug, Default)]
pub(super) enum Has {
    #[default]
    Nothing,
    Reserved,
    Leased(Box<LeaseGuard>),
    Failed(Error),
}

/// A process with one request.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) has: Arc<Mutex<Has>>,
    pub(super) go: Option<oneshot::Sender<()>>,
    pub(super) task: JoinHandle<()>,
    pub(super) runtime: Runtime,
}

/// The files of a workspace.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The system under test.
#[derive(Debug)]
pub(super) struct System {
    pub(super) clock: VirtualClock,
    pub(super) machine: FakeLiveness,
    pub(super) isolator: Arc<MemoryIsolator>,
    pub(super) chaos: Arc<Chaos>,
    pub(super) cache: Arc<StampingCache>,
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) settings: Settings,
    pub(super) processes: BTreeMap<usize, Process>,
    pub(super) leases: BTreeMap<usize, (Token, SlotId)>,
    /// What each lease's holder has seen last in its workspace.
    pub(super) seen: BTreeMap<usize, Files>,
    /// The branches that are not the pool's, and where they stand.
    pub(super) others: BTreeMap<String, CommitId>,
    /// What is in the places of slots that is not the pool's.
    pub(super) foreign: BTreeMap<SlotId, String>,
    pub(super) reaper: (Runtime, Pool),
    pub(super) boots: u32,
    pub(super) helpers: u32,
    pub(super) generation: u64,
    pub(super) writes: u64,
}

/// The machine's name for whoever stands in the workspace of that request.
pub(super) fn stranger(number: usize) -> String {
    format!("stranger-{number}")
}

pub(super) const RESTING: &str = "stranger-at-rest";

/// What a task came to, if it did.
pub(super) fn ended<T>(runtime: &Runtime, task: JoinHandle<T>) -> Option<T> {
    task.is_finished().then(|| runtime.block_on(task).expect("it does not panic"))
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

pub(super) fn name_of(number: usize) -> LeaseName {
    LeaseName::new(format!("request-{number}")).expect("a good name")
}

pub(super) fn session(number: u8) -> SessionId {
    SessionId::new(format!("session-{number}")).expect("a good name")
}

pub(super) fn units(units: u64) -> Duration {
    Duration::from_secs(units * UNIT + UNIT / 2)
}

impl System {
    /// A pool with that cap, whose store applies each change `late` turns of the scheduler later.
    pub(super) fn new(cap: usize, late: u32) -> Self {
        let clock = VirtualClock::new();
        let machine = FakeLiveness::new();
        let isolator = Arc::new(MemoryIsolator::new());
        let settings = Settings {
            max_leases: u32::try_from(cap).expect("a small cap"),
            keep_warm: 2,
            quiet: Duration::ZERO,
            poll: POLL,
            ..Settings::default()
        };
        let others = ["main", "side"]
            .map(|name| (name.to_owned(), isolator.branch(name).expect("it is in the repository")));
        let chaos = Arc::new(Chaos::new(isolator.clone()));
        let cache = Arc::new(StampingCache::new(isolator.clone()));
        let store = Arc::new(LateStore::new(Arc::new(MemoryStore::new()), late));
        let reaper = Pool::builder(chaos.clone())
            .cache(cache.clone())
            .store(store.clone())
            .clock(Arc::new(clock.clone()))
            .liveness(machine.process("reaper"))
            .settings(settings.clone())
            .open()
            .expect("it can be opened");
        Self {
            clock,
            machine,
            isolator,
            chaos,
            cache,
            store,
            settings,
            processes: BTreeMap::new(),
            leases: BTreeMap::new(),
            seen: BTreeMap::new(),
            others: others.into(),
            foreign: BTreeMap::new(),
            reaper: (runtime(), reaper),
            boots: 0,
            helpers: 0,
            generation: 0,
            writes: 0,
        }
    }

    pub(super) fn open(&self, name: &str) -> Pool {
        Pool::builder(self.chaos.clone())
            .cache(self.cache.clone())
            .store(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .liveness(self.machine.process(name))
            .settings(self.settings.clone())
            .open()
            .expect("it can be opened")
    }

    pub(super) fn list(&self) -> PoolState {
        self.reaper.0.block_on(self.reaper.1.list()).expect("it can be read")
    }

    pub(super) fn reconcile_once(&self) -> Vec<String> {
        self.reaper.0.block_on(self.reaper.1.reconcile()).expect("the records do not fail").done
    }

    /// Reconciles, which must bring each slot to rest that nobody is at work on.
    pub(super) fn reconcile(&self) {
        self.reconcile_once();
        let before = self.list();
        for slot in before.slots.values() {
            let worked_on = slot.state.worker().map(|worker| self.machine.holds(worker));
            assert_ne!(worked_on, Some(Vital::Gone), "8: {slot:#?} was left half-way");
        }
        assert_eq!(self.reconcile_once(), Vec::<String>::new(), "8: the second one did something");
        assert_eq!(self.list(), before, "8: the second one changed something");
    }

    /// Starts a process with a request. It does not run until it is driven.
    pub(super) fn start(&mut self, number: usize, ask: &Ask) {
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
    pub(super) fn drive(&mut self, model: &Model) {
        for _ in 0..5 {
            for process in self.processes.values() {
                process.runtime.block_on(settle());
            }
            self.clock.advance(POLL);
        }
        let mut ended = Vec::new();
        let mut begun = Vec::new();
        for (number, process) in &self.processes {
            let mut has = process.has.lock().expect("nobody panics");
            if let Has::Leased(guard) = &*has {
                if self.leases.insert(*number, (guard.token(), guard.slot())).is_none() {
                    begun.push((*number, guard.lease().attachment.clone()));
                }
                if model.entries[number].ask.kind != Kind::Held {
                    if let Has::Leased(guard) = std::mem::take(&mut *has) {
                        guard.keep();
                    }
                    ended.push(*number);
                }
            }
            if let Has::Failed(error) = &*has {
                let standing = model.entries[number].standing;
                let expected = matches!(standing, Standing::Over | Standing::Refused);
                assert!(expected, "request {number} should be {standing:?}: {error:?}");
                ended.push(*number);
            }
        }
        for (number, attachment) in begun {
            assert!(attachment.warm != attachment.reason.is_some(), "a cache must say why not");
            self.look(number);
        }
        for number in ended {
            self.kill(number);
        }
    }

    /// Lets one process run until it waits for another one, or hangs.
    pub(super) fn drive_alone(&self, runtime: &Runtime) {
        for _ in 0..5 {
            runtime.block_on(settle());
            self.clock.advance(POLL);
        }
    }

    pub(super) fn files(&self, slot: SlotId) -> Files {
        let read = |path: String| self.isolator.read(slot, &path).map(|bytes| (path, bytes));
        self.isolator.files(slot).into_iter().filter_map(read).collect()
    }

    /// The holder of a lease looks at all there is in its workspace.
    pub(super) fn look(&mut self, number: usize) {
        self.seen.insert(number, self.files(self.leases[&number].1));
    }

    /// Ends a process. What it has to say for itself as its tasks are dropped does not count, since
    /// it holds no claim any more.
    pub(super) fn kill(&mut self, number: usize) {
        let Some(process) = self.processes.remove(&number) else { return };
        self.machine.kill(&process.name);
        let Process { runtime, has, .. } = process;
        drop(runtime);
        drop(has);
    }

    pub(super) fn guard(&mut self, number: usize) -> Option<LeaseGuard> {
        let process = self.processes.get(&number)?;
        match std::mem::take(&mut *process.has.lock().expect("nobody panics")) {
            Has::Leased(guard) => Some(*guard),
            other => panic!("request {number} is no lease: {other:?}"),
        }
    }

    /// The files of a workspace apart from what can be made again.
    pub(super) fn work(&self, slot: SlotId) -> Files {
        let mut files = self.files(slot);
        files.retain(|path, _| !path.starts_with("target/"));
        files
    }

    /// In the end nothing is left.
    pub(super) fn end(mut self) {
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            self.kill(number);
        }
        for (number, (_, slot)) in &self.leases {
            self.machine.kill(&stranger(*number));
            if self.isolator.stands(*slot) {
                self.isolator.set_unsavable(*slot, None);
            }
        }
        for slot in std::mem::take(&mut self.foreign).into_keys() {
            self.isolator.set_foreign(slot, None);
        }
        // After a reboot, times begin to count at a reconciliation.
        self.reconcile();
        self.clock.advance(Duration::from_secs(7200));
        // What lingered made its session a used one until it was gone; so that ends with the second.
        self.reconcile_once();
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
