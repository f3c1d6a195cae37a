//! A pool, and how a step of the model is done to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use pool_core::{
    Clock as _, CommitId, Disposition, Error, ErrorKind, Isolator as _, LeaseGuard, LeaseName,
    Linger, Liveness as _, MemoryStore, Owner, Pool, PoolState, PruneOptions, Release,
    ReleaseReport, Request, Result, SessionId, Settings, SlotId, SlotState, Token, Vital,
};
use testkit::cache::StampingCache;
use testkit::chaos::{Answer, Chaos, Method};
use testkit::clock::{VirtualClock, settle};
use testkit::liveness::FakeLiveness;
use testkit::memory::MemoryIsolator;
use testkit::model::{Ask, Deed, Kind, Model, Standing, Step, Trouble, UNIT};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const POLL: Duration = Duration::from_millis(5);

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
pub(super) struct Process {
    name: String,
    has: Arc<Mutex<Has>>,
    go: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    runtime: Runtime,
}

/// The files of a workspace.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The system under test.
#[derive(Debug)]
pub(super) struct System {
    clock: VirtualClock,
    pub(super) machine: FakeLiveness,
    pub(super) isolator: Arc<MemoryIsolator>,
    chaos: Arc<Chaos>,
    pub(super) cache: Arc<StampingCache>,
    store: Arc<MemoryStore>,
    settings: Settings,
    pub(super) processes: BTreeMap<usize, Process>,
    pub(super) leases: BTreeMap<usize, (Token, SlotId)>,
    /// What each lease's holder has seen last in its workspace.
    pub(super) seen: BTreeMap<usize, Files>,
    /// The branches that are not the pool's, and where they stand.
    pub(super) others: BTreeMap<String, CommitId>,
    /// What is in the places of slots that is not the pool's.
    pub(super) foreign: BTreeMap<SlotId, String>,
    reaper: (Runtime, Pool),
    boots: u32,
    helpers: u32,
    pub(super) generation: u64,
    writes: u64,
}

/// The machine's name for whoever stands in the workspace of that request.
fn stranger(number: usize) -> String {
    format!("stranger-{number}")
}

const RESTING: &str = "stranger-at-rest";

/// What a task came to, if it did.
fn ended<T>(runtime: &Runtime, task: JoinHandle<T>) -> Option<T> {
    task.is_finished().then(|| runtime.block_on(task).expect("it does not panic"))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

pub(super) fn name_of(number: usize) -> LeaseName {
    LeaseName::new(format!("request-{number}")).expect("a good name")
}

fn session(number: u8) -> SessionId {
    SessionId::new(format!("session-{number}")).expect("a good name")
}

fn units(units: u64) -> Duration {
    Duration::from_secs(units * UNIT + UNIT / 2)
}

impl System {
    pub(super) fn new(cap: usize) -> Self {
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
        let store = Arc::new(MemoryStore::new());
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

    fn open(&self, name: &str) -> Pool {
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

    fn reconcile_once(&self) -> Vec<String> {
        self.reaper.0.block_on(self.reaper.1.reconcile()).expect("the records do not fail").done
    }

    /// Reconciles, which must bring each slot to rest that nobody is at work on.
    fn reconcile(&self) {
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
    fn drive_alone(&self, runtime: &Runtime) {
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
    fn look(&mut self, number: usize) {
        self.seen.insert(number, self.files(self.leases[&number].1));
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

    pub(super) fn step(&mut self, model: &Model, step: &Step) {
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
                let released = self.release(*number).expect("it is not hindered");
                let report = released.expect("it can be given back");
                let kept = report.disposition == Disposition::Quarantined;
                assert_eq!(kept, report.kept_because.is_some(), "{report:?}");
                assert_eq!(kept, model.entries[number].standing == Standing::Kept, "{report:?}");
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
                self.look(*number);
            }
            Step::Commit(number) => drop(self.isolator.commit(self.leases[number].1)),
            Step::DeleteByHand(number) => {
                self.isolator.delete_by_hand(self.leases[number].1);
                self.look(*number);
            }
            Step::Pass(units) => self.clock.advance(Duration::from_secs(units * UNIT)),
            Step::SetWall(hours) => {
                let wall = self.clock.now().wall + SignedDuration::from_hours((*hours).into());
                self.clock.set_wall(wall);
            }
            Step::Reboot => self.reboot(),
            Step::Reconcile => self.reconcile(),
            Step::PruneAll => self.prune(),
            Step::Enter(number) => {
                let pid = self.machine.spawn(&stranger(*number));
                self.machine.occupy(self.isolator.place(self.leases[number].1).join("src"), pid);
            }
            Step::Leave(number) => self.machine.kill(&stranger(*number)),
            Step::Spoil(number) => {
                self.isolator.set_unsavable(self.leases[number].1, Some("a pipe"));
            }
            Step::Mend(number) => self.isolator.set_unsavable(self.leases[number].1, None),
            Step::PutForeign(ask) => {
                self.prune();
                let state = self.list();
                let slot = (1..).map(SlotId).find(|slot| !state.slots.contains_key(slot));
                let (slot, what) = (slot.expect("there are many numbers"), "somebody else's files");
                self.isolator.set_foreign(slot, Some(what));
                self.foreign.insert(slot, what.to_owned());
                if let Some(ask) = ask {
                    let number = model.entries.len() - 1;
                    self.start(number, ask);
                    self.drive_alone(&self.processes[&number].runtime);
                }
                self.reconcile();
            }
            Step::TakeForeign => {
                let (slot, _) = self.foreign.pop_first().expect("there is something");
                self.isolator.set_foreign(slot, None);
                self.reconcile();
            }
            Step::Amid(trouble, deed) => self.amid(model, *trouble, deed),
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

    /// Gives a lease back and ends who did that. `None` when it did not come to an end.
    fn release(&mut self, number: usize) -> Option<Result<ReleaseReport>> {
        let how = Release::default();
        if let Some(guard) = self.guard(number) {
            let runtime = &self.processes[&number].runtime;
            let task = runtime.spawn(guard.release(how));
            self.drive_alone(runtime);
            let released = ended(runtime, task);
            self.kill(number);
            return released;
        }
        let token = self.leases[&number].0.clone();
        self.help(async move |pool| pool.release(&token, how).await)
    }

    /// Has a process of its own do something, and ends it. `None` when it did not come to an end.
    fn help<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &mut self,
        deed: impl FnOnce(Pool) -> F,
    ) -> Option<T> {
        self.helpers += 1;
        let name = format!("helper-{}", self.helpers);
        let runtime = runtime();
        let task = runtime.spawn(deed(self.open(&name)));
        self.drive_alone(&runtime);
        let done = ended(&runtime, task);
        self.machine.kill(&name);
        done
    }

    fn amid(&mut self, model: &Model, trouble: Trouble, deed: &Deed) {
        let resting = self.begin(trouble);
        let before = resting.map(|slot| (self.isolator.plan(slot), self.work(slot)));
        match deed {
            Deed::Acquire(ask) => {
                let number = model.entries.len() - 1;
                self.start(number, ask);
                self.drive_alone(&self.processes[&number].runtime);
                if trouble.hangs() && model.entries[&number].standing == Standing::Over {
                    self.kill(number);
                }
            }
            Deed::Release(number) => match self.release(*number) {
                Some(released) => drop(released.expect("only the records could fail it")),
                None => assert!(trouble.hangs(), "releasing {number} hangs"),
            },
            Deed::Reconcile => {
                let done = self.help(async move |pool| pool.reconcile().await);
                let may_fail = matches!(trouble, Trouble::Backend(Method::Discover, _));
                match done {
                    Some(done) => assert!(done.is_ok() || may_fail, "{done:?}"),
                    None => assert!(trouble.hangs(), "the reconciliation hangs"),
                }
            }
        }
        self.check_safety(model);
        let after = resting.map(|slot| (self.isolator.plan(slot), self.work(slot)));
        assert_eq!(after, before, "5: a slot in which somebody stands was touched");
        self.machine.kill(RESTING);
        self.chaos.calm();
        self.cache.always(Answer::Ok);
        self.reconcile();
    }

    /// Makes something go wrong. Returns the slot in which somebody stands.
    fn begin(&self, trouble: Trouble) -> Option<SlotId> {
        match trouble {
            Trouble::Stranger(which) => {
                let rests =
                    |s: &SlotState| matches!(s, SlotState::Free | SlotState::Lingering { .. });
                let state = self.list();
                let resting: Vec<SlotId> =
                    state.slots.values().filter(|s| rests(&s.state)).map(|s| s.id).collect();
                let slot = *resting.get(usize::from(which).checked_rem(resting.len())?)?;
                self.machine.occupy(self.isolator.place(slot), self.machine.spawn(RESTING));
                return Some(slot);
            }
            Trouble::Resolving(answer) => self.chaos.always(Method::Resolve, answer),
            Trouble::Making(answer) => {
                self.chaos.always(Method::Provision, answer);
                self.chaos.always(Method::Recycle, answer);
            }
            Trouble::Backend(method, answer) => self.chaos.always(method, answer),
            Trouble::Cache(answer) => self.cache.always(answer),
        }
        None
    }

    /// The files of a workspace apart from what can be made again.
    pub(super) fn work(&self, slot: SlotId) -> Files {
        let mut files = self.files(slot);
        files.retain(|path, _| !path.starts_with("target/"));
        files
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
        self.reconcile();
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
