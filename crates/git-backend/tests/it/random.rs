//! Random lives of a pool on real repositories; after each step, the invariants that can be seen from
//! outside, by their numbers in ARCHITECTURE.md. The full model runs on the backend in memory, in
//! `testkit`; 7 and 10 to 12 are proven there.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pool_core::{
    Isolator as _, LeaseGuard, Linger, MemoryStore, Pool, PoolState, PruneOptions, Release,
    Request, SessionId, Settings, SlotId,
};
use proptest::prelude::*;
use testkit::clock::VirtualClock;
use testkit::fixture::{Snapshot, snapshot, snapshot_files};
use testkit::liveness::FakeLiveness;
use tokio::runtime::Runtime;

use crate::support::{Fixture, commit, git, status, write};

use check::Outside;

const CAP: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire {
        lingers: bool,
        session: bool,
    },
    Write {
        lease: usize,
        path: &'static str,
    },
    Stage(usize),
    Commit(usize),
    Detach(usize),
    ResetAway(usize),
    Release(usize),
    Kill(usize),
    /// A process is killed so many milliseconds after it began to acquire; then a reconciliation.
    CrashAcquiring(u64),
    /// The same with a release.
    CrashReleasing(usize, u64),
    /// Somebody who is no holder goes and stands in a workspace, leased or not.
    Enter(usize),
    /// All of them leave.
    Leave,
    /// Somebody puts files of theirs where the next slot would be, or takes them away again; then a
    /// reconciliation.
    Foreign,
    DeleteByHand(usize),
    Time,
    Reconcile,
    Prune,
    StockPrune,
}

fn step() -> impl Strategy<Value = Step> {
    let lease = || 0usize..4;
    let path = prop::sample::select(vec!["new", "dir/new", ".env", "a b\nc", "src/more.rs"]);
    prop_oneof![
        8 => (prop::bool::weighted(0.3), prop::bool::weighted(0.2))
            .prop_map(|(lingers, session)| Step::Acquire { lingers, session }),
        6 => (lease(), path).prop_map(|(lease, path)| Step::Write { lease, path }),
        1 => lease().prop_map(Step::Stage),
        2 => lease().prop_map(Step::Commit),
        1 => lease().prop_map(Step::Detach),
        1 => lease().prop_map(Step::ResetAway),
        4 => lease().prop_map(Step::Release),
        1 => lease().prop_map(Step::Kill),
        1 => (0..40u64).prop_map(Step::CrashAcquiring),
        1 => (lease(), 0..40u64).prop_map(|(lease, after)| Step::CrashReleasing(lease, after)),
        3 => lease().prop_map(Step::Enter),
        2 => Just(Step::Leave),
        1 => Just(Step::Foreign),
        1 => lease().prop_map(Step::DeleteByHand),
        1 => Just(Step::Time),
        2 => Just(Step::Reconcile),
        1 => Just(Step::Prune),
        1 => Just(Step::StockPrune),
    ]
}

/// A process. Killed, all that goes on in it stops where it stands.
struct Process {
    name: String,
    pool: Pool,
    runtime: Runtime,
}

struct Held {
    process: Process,
    guard: LeaseGuard,
    place: PathBuf,
    /// The workspace as its holder left it: its files and where it stands.
    seen: Seen,
}

type Seen = (Snapshot, String);

fn look(place: &Path) -> Seen {
    if !place.exists() {
        return Seen::default();
    }
    (snapshot_files(place), git(place, &["rev-parse", "HEAD"]))
}

struct World {
    fixture: Fixture,
    machine: FakeLiveness,
    clock: VirtualClock,
    store: Arc<MemoryStore>,
    isolator: Arc<git_backend::GitIsolator>,
    runtime: Runtime,
    held: Vec<Held>,
    /// Where strangers stand, and the files there.
    occupied: BTreeMap<PathBuf, Snapshot>,
    /// What was written or committed, and not taken back by whoever did: where, and its id.
    work: Vec<(PathBuf, String)>,
    outside: Outside,
    /// What is in a slot's place that is not the pool's.
    foreign: Option<(PathBuf, Snapshot)>,
    fresh: Seen,
    /// Workspaces that a user has deleted.
    deleted: BTreeSet<PathBuf>,
    /// Somebody was killed, and nobody has reconciled since.
    crashed: bool,
    generation: u64,
    count: u32,
}

impl World {
    fn new() -> Self {
        let fixture = Fixture::new();
        let root = fixture.root.path().canonicalize().expect("it exists");
        // A worktree of the user's own, with work of every kind in it, and files beside the pool.
        let theirs = root.join("theirs");
        let path = theirs.to_str().expect("UTF-8");
        git(&fixture.repo, &["worktree", "add", "-q", "-b", "topic", path]);
        commit_all(&theirs);
        write(&theirs, "staged", "staged");
        git(&theirs, &["add", "-A"]);
        write(&theirs, "untracked", "untracked");
        write(&theirs, ".env", "SECRET=theirs");
        write(&root, "beside/notes", "notes");
        let isolator = Arc::new(fixture.isolator());
        let outside = Outside::look(&fixture);
        Self {
            machine: FakeLiveness::new(),
            clock: VirtualClock::new(),
            store: Arc::new(MemoryStore::new()),
            isolator,
            runtime: Runtime::new().expect("a runtime"),
            held: Vec::new(),
            occupied: BTreeMap::new(),
            work: Vec::new(),
            fresh: look(&fixture.repo),
            outside,
            foreign: None,
            fixture,
            deleted: BTreeSet::new(),
            crashed: false,
            generation: 0,
            count: 0,
        }
    }

    fn pool(&self, name: &str) -> Pool {
        Pool::builder(self.isolator.clone())
            .store(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .liveness(self.machine.process(name))
            .settings(Settings { max_leases: CAP, ..Settings::default() })
            .open()
            .expect("valid settings")
    }

    fn process(&self) -> Process {
        let name = format!("agent-{}", self.count);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).build().expect("a runtime");
        Process { pool: self.pool(&name), name, runtime }
    }

    fn kill(&mut self, process: Process, guard: Option<LeaseGuard>) {
        let Process { name, pool, runtime } = process;
        self.machine.kill(&name);
        drop((runtime, guard, pool));
        self.crashed = true;
    }

    fn list(&self) -> PoolState {
        self.runtime.block_on(self.pool("observer").list()).expect("listed")
    }

    fn reconcile(&mut self) {
        let reaper = self.pool("reaper");
        self.runtime.block_on(reaper.reconcile()).expect("reconciled");
        let state = self.list();
        for slot in state.slots.values() {
            assert_eq!(slot.state.worker(), None, "8: {slot:#?} was left half-way");
        }
        let second = self.runtime.block_on(reaper.reconcile()).expect("reconciled");
        assert_eq!(second.done, Vec::<String>::new(), "8: the second one did something");
        assert_eq!(self.list(), state, "8: the second one changed something");
        self.crashed = false;
    }

    fn prune(&mut self) {
        let all = PruneOptions { all: true, ..PruneOptions::default() };
        let reaper = self.pool("reaper");
        self.runtime.block_on(reaper.prune(all, &|_| ())).expect("pruned");
        self.crashed = false;
    }

    fn take(&mut self, step: Step) {
        let chosen = match step {
            Step::Write { lease: i, .. }
            | Step::Stage(i)
            | Step::Commit(i)
            | Step::Detach(i)
            | Step::ResetAway(i)
            | Step::Release(i)
            | Step::Kill(i)
            | Step::CrashReleasing(i, _)
            | Step::DeleteByHand(i) => i.checked_rem(self.held.len()),
            _ => None,
        };
        let place = chosen.map(|i| self.held[i].place.clone()).filter(|place| place.exists());
        self.count += 1;
        match (step, chosen, &place) {
            (Step::Acquire { lingers, session }, ..) => {
                let process = self.process();
                let linger = Duration::from_secs(if lingers { 600 } else { 0 });
                let session = session.then(|| (SessionId::new("s").expect("valid"), None));
                let request = Request { session, linger: Linger::both(linger), ..request() };
                if let Ok(guard) = process.runtime.block_on(process.pool.acquire(request)) {
                    self.begin(process, guard);
                }
            }
            (Step::CrashAcquiring(after), ..) => {
                let process = self.process();
                let pool = process.pool.clone();
                drop(process.runtime.spawn(async move { pool.acquire(request()).await }));
                self.crash(process, after);
            }
            (Step::Write { path, .. }, _, Some(place)) => {
                // A name of its own, so that nothing is overwritten; `.env` is ignored as it is.
                let path = match path {
                    ".env" => format!("{}.local", self.count),
                    path => format!("{path}-{}", self.count),
                };
                write(place, &path, &format!("write {}", self.count));
                let full = place.join(&path);
                let id = git(place, &["hash-object", "--", full.to_str().expect("UTF-8")]);
                self.work.push((full, id));
            }
            (Step::Stage(_), _, Some(place)) => drop(git(place, &["add", "-A"])),
            (Step::Commit(_), _, Some(place)) => {
                git(place, &["add", "-A"]);
                git(place, &["commit", "-q", "--allow-empty", "--no-verify", "-m", "work"]);
                let id = git(place, &["rev-parse", "HEAD"]);
                self.work.push((place.join(&id), id));
            }
            (Step::Detach(_), _, Some(place)) => drop(git(place, &["switch", "-q", "--detach"])),
            (Step::ResetAway(_), _, Some(place)) => {
                // Only what was committed: a commit that only the reflog knows is work still.
                let id = commit_all(place);
                self.work.push((place.join(&id), id));
                git(place, &["reset", "-q", "--hard", "HEAD~1"]);
            }
            (Step::Release(_), Some(i), _) => {
                let Held { process, guard, .. } = self.held.swap_remove(i);
                process.runtime.block_on(guard.release(Release::default())).expect("released");
            }
            (Step::Kill(_), Some(i), _) => {
                let Held { process, guard, .. } = self.held.swap_remove(i);
                self.kill(process, Some(guard));
            }
            (Step::CrashReleasing(_, after), Some(i), _) => {
                let Held { process, guard, .. } = self.held.swap_remove(i);
                drop(process.runtime.spawn(guard.release(Release::default())));
                self.crash(process, after);
            }
            (Step::Enter(which), ..) => {
                let slots = self.list().slots.into_keys();
                let places = slots.map(|slot| self.isolator.place(slot));
                let places: Vec<_> = places.filter(|place| place.join(".git").exists()).collect();
                if let Some(i) = which.checked_rem(places.len()) {
                    self.machine.occupy(&places[i], self.machine.spawn("stranger"));
                    self.occupied.insert(places[i].clone(), snapshot_files(&places[i]));
                }
            }
            (Step::Leave, ..) => self.leave(),
            (Step::Foreign, ..) => self.toggle_foreign(),
            (Step::DeleteByHand(_), _, Some(place)) => {
                // By the user's own will; what was committed is to be kept all the same.
                let id = commit_all(place);
                self.work.push((place.join(&id), id));
                let ignored = |path: &Path| path.extension().is_some_and(|e| e == "local");
                self.work.retain(|(path, _)| !(path.starts_with(place) && ignored(path)));
                std::fs::remove_dir_all(place).expect("deleted");
                self.deleted.insert(place.clone());
                self.occupied.remove(place);
            }
            (Step::Time, ..) => self.clock.advance(Duration::from_secs(400)),
            (Step::Reconcile, ..) => self.reconcile(),
            (Step::Prune, ..) => self.prune(),
            // After both of these, git itself has forgotten a detached commit, and the pool was never
            // asked in between.
            (Step::StockPrune, ..) if self.deleted.is_empty() => {
                git(&self.fixture.repo, &["worktree", "prune", "--expire=now"]);
            }
            _ => {}
        }
        if let Some(place) = place {
            self.look_again(&place);
        }
    }

    fn begin(&mut self, process: Process, guard: LeaseGuard) {
        let place = guard.path();
        assert_eq!(status(&place), "", "3: a fresh one is clean");
        let branch = guard.lease().base.branch.as_ref().expect("a branch of its own");
        let on = git(&place, &["symbolic-ref", "--short", "HEAD"]);
        assert_eq!(on, branch.name, "1: the branch is the lease's");
        let seen = look(&place);
        assert_eq!(seen, self.fresh, "3: nothing is left of the lease before");
        let generation = guard.lease().generation.0;
        assert!(generation > self.generation, "6: generation {generation} is not a new one");
        self.deleted.remove(&place);
        self.held.push(Held { process, guard, place, seen });
    }

    /// Lets a process go on for some time, and kills it.
    fn crash(&mut self, process: Process, after: u64) {
        std::thread::sleep(Duration::from_millis(after));
        self.kill(process, None);
        self.reconcile();
    }

    fn leave(&mut self) {
        self.machine.kill("stranger");
        self.occupied.clear();
    }

    fn toggle_foreign(&mut self) {
        if self.foreign.is_some() {
            self.take_foreign();
            self.reconcile();
            return;
        }
        self.reconcile();
        let state = self.list();
        let free = (1..=CAP).map(SlotId).find(|slot| !state.slots.contains_key(slot));
        if let Some(slot) = free.filter(|_| state.slots.len() < CAP as usize) {
            let place = self.isolator.place(slot);
            write(&place, "theirs", "theirs");
            self.foreign = Some((place.clone(), snapshot(place)));
            self.reconcile();
        }
    }

    fn take_foreign(&mut self) {
        if let Some((place, _)) = self.foreign.take() {
            std::fs::remove_dir_all(place).expect("it is theirs to remove");
        }
    }

    /// The holder has done something in its workspace, and knows what.
    fn look_again(&mut self, place: &Path) {
        if let Some(held) = self.held.iter_mut().find(|held| held.place == place) {
            held.seen = look(place);
            if let Some(files) = self.occupied.get_mut(place) {
                files.clone_from(&held.seen.0);
            }
        }
    }

    fn end(mut self) {
        self.leave();
        self.take_foreign();
        for Held { process, guard, .. } in std::mem::take(&mut self.held) {
            process.runtime.block_on(guard.release(Release::default())).expect("released");
        }
        for _ in 0..2 {
            self.prune();
        }
        assert_eq!(self.list().slots.len(), 0);
        let left = self.runtime.block_on(self.isolator.discover()).expect("listed");
        assert!(left.is_empty(), "9: {left:?}");
        self.reconcile();
        self.check(true);
        assert_eq!(git(&self.fixture.repo, &["fsck", "--no-dangling"]), "");
    }
}

fn request() -> Request {
    let linger = Linger::both(Duration::ZERO);
    Request { wait: Some(Duration::ZERO), linger, ..Request::new("agent") }
}

fn commit_all(place: &Path) -> String {
    write(place, "one-more", "line");
    commit(place, "all there is")
}

/// A dozen, since each is a few seconds of git; more with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(12)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_and_nothing_is_left(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check(false);
        }
        world.end();
    }
}
