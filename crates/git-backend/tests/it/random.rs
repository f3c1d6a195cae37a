//! Random lives of a pool on real repositories; after each step, the invariants that can be seen from
//! outside. The full model runs on the backend in memory, in `testkit`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pool_core::{LeaseGuard, Linger, MemoryStore, Pool, PruneOptions, Release, Request, Settings};
use proptest::prelude::*;
use testkit::clock::VirtualClock;
use testkit::liveness::FakeLiveness;

use crate::support::{Fixture, commit, git, write};

const CAP: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire { lingers: bool },
    Write { lease: usize, path: &'static str },
    Stage(usize),
    Commit(usize),
    Detach(usize),
    ResetAway(usize),
    Release(usize),
    Kill(usize),
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
        4 => any::<bool>().prop_map(|lingers| Step::Acquire { lingers }),
        6 => (lease(), path).prop_map(|(lease, path)| Step::Write { lease, path }),
        1 => lease().prop_map(Step::Stage),
        2 => lease().prop_map(Step::Commit),
        1 => lease().prop_map(Step::Detach),
        1 => lease().prop_map(Step::ResetAway),
        3 => lease().prop_map(Step::Release),
        1 => lease().prop_map(Step::Kill),
        1 => lease().prop_map(Step::DeleteByHand),
        1 => Just(Step::Time),
        2 => Just(Step::Reconcile),
        1 => Just(Step::Prune),
        1 => Just(Step::StockPrune),
    ]
}

struct Held {
    process: String,
    guard: LeaseGuard,
    place: PathBuf,
}

struct World {
    fixture: Fixture,
    machine: FakeLiveness,
    clock: VirtualClock,
    store: Arc<MemoryStore>,
    isolator: Arc<git_backend::GitIsolator>,
    held: Vec<Held>,
    /// What was written and not taken back by whoever wrote it: where, and the id of its blob.
    written: Vec<(PathBuf, String)>,
    count: u32,
    deleted: bool,
}

impl World {
    fn new() -> Self {
        let fixture = Fixture::new();
        let isolator = Arc::new(fixture.isolator());
        let (machine, clock) = (FakeLiveness::new(), VirtualClock::new());
        let store = Arc::new(MemoryStore::new());
        Self {
            fixture,
            machine,
            clock,
            store,
            isolator,
            held: vec![],
            written: vec![],
            count: 0,
            deleted: false,
        }
    }

    fn process(&self, name: &str) -> Pool {
        Pool::builder(self.isolator.clone())
            .store(self.store.clone())
            .clock(Arc::new(self.clock.clone()))
            .liveness(self.machine.process(name))
            .settings(Settings { max_leases: CAP, ..Settings::default() })
            .open()
            .expect("valid settings")
    }

    async fn take(&mut self, step: Step) {
        let pick = |held: &[Held], i: usize| (!held.is_empty()).then(|| i % held.len().max(1));
        let chosen = match step {
            Step::Write { lease, .. } => pick(&self.held, lease),
            Step::Stage(i)
            | Step::Commit(i)
            | Step::Detach(i)
            | Step::ResetAway(i)
            | Step::Release(i)
            | Step::Kill(i)
            | Step::DeleteByHand(i) => pick(&self.held, i),
            _ => None,
        };
        let place = chosen.map(|i| self.held[i].place.clone()).filter(|place| place.exists());
        self.count += 1;
        match (step, chosen, place) {
            (Step::Acquire { lingers }, ..) => {
                let process = format!("agent-{}", self.count);
                let linger = Duration::from_secs(if lingers { 600 } else { 0 });
                let request = Request {
                    wait: Some(Duration::ZERO),
                    linger: Linger::both(linger),
                    ..Request::new("agent")
                };
                if let Ok(guard) = self.process(&process).acquire(request).await {
                    let place = guard.path();
                    assert_eq!(crate::support::status(&place), "", "a fresh one is clean");
                    self.held.push(Held { process, guard, place });
                }
            }
            (Step::Write { path, .. }, _, Some(place)) => {
                // A name of its own, so that nothing is overwritten; `.env` is ignored as it is.
                let path = match path {
                    ".env" => format!("{}.local", self.count),
                    path => format!("{path}-{}", self.count),
                };
                write(&place, &path, &format!("write {}", self.count));
                let full = place.join(&path);
                let id = git(&place, &["hash-object", "--", full.to_str().expect("UTF-8")]);
                self.written.push((full, id));
            }
            (Step::Stage(_), _, Some(place)) => drop(git(&place, &["add", "-A"])),
            (Step::Commit(_), _, Some(place)) => {
                git(&place, &["add", "-A"]);
                git(&place, &["commit", "-q", "--allow-empty", "--no-verify", "-m", "work"]);
            }
            (Step::Detach(_), _, Some(place)) => drop(git(&place, &["switch", "-q", "--detach"])),
            (Step::ResetAway(_), _, Some(place)) => {
                // Only what was committed: a commit that only the reflog knows is work still.
                commit_all(&place);
                git(&place, &["reset", "-q", "--hard", "HEAD~1"]);
            }
            (Step::Release(_), Some(i), _) => {
                let held = self.held.swap_remove(i);
                held.guard.release(Release::default()).await.expect("released");
            }
            (Step::Kill(_), Some(i), _) => {
                let held = self.held.swap_remove(i);
                self.machine.kill(&held.process);
                // Its process is gone: nothing in it runs any more, destructors included.
                std::mem::forget(held.guard);
            }
            (Step::DeleteByHand(_), _, Some(place)) => {
                // By the user's own will; what was committed is to be kept all the same.
                commit_all(&place);
                let ignored: BTreeSet<PathBuf> = self
                    .written
                    .iter()
                    .map(|(path, _)| path.clone())
                    .filter(|path| path.extension().is_some_and(|e| e == "local"))
                    .collect();
                self.written
                    .retain(|(path, _)| !(path.starts_with(&place) && ignored.contains(path)));
                std::fs::remove_dir_all(&place).expect("deleted");
                self.deleted = true;
            }
            (Step::Time, ..) => self.clock.advance(Duration::from_secs(400)),
            (Step::Reconcile, ..) => {
                self.process("reaper").reconcile().await.expect("reconciled");
            }
            (Step::Prune, ..) => {
                let all = PruneOptions { all: true, ..PruneOptions::default() };
                self.process("reaper").prune(all, &|_| ()).await.expect("pruned");
            }
            // After both of these, git itself has forgotten a detached commit, and the pool was never
            // asked in between.
            (Step::StockPrune, ..) if !self.deleted => {
                git(&self.fixture.repo, &["worktree", "prune", "--expire=now"]);
            }
            _ => {}
        }
    }

    /// While it goes on, what only a reflog keeps is where the agent left it; `at_the_end`, not.
    async fn check(&self, at_the_end: bool) {
        let state = self.process("observer").list().await.expect("listed");
        assert!(state.occupied() <= CAP as usize && state.slots.len() <= CAP as usize);
        let places: BTreeSet<_> = self.held.iter().map(|held| &held.place).collect();
        assert_eq!(places.len(), self.held.len(), "one lease for a path");
        let mut all = vec!["rev-list", "--objects", "--all"];
        if !at_the_end {
            all.push("--reflog");
        }
        let reached = git(&self.fixture.repo, &all);
        let reached: BTreeSet<&str> =
            reached.lines().filter_map(|line| line.split(' ').next()).collect();
        for (path, id) in &self.written {
            let found = reached.contains(id.as_str()) || self.is_in_place(path, id);
            assert!(found, "{} is lost", path.display());
        }
        assert_eq!(git(&self.fixture.repo, &["status", "--porcelain"]), "", "main is untouched");
    }

    fn is_in_place(&self, path: &Path, id: &str) -> bool {
        if path.exists() {
            return git(&self.fixture.repo, &["hash-object", "--", path.to_str().expect("UTF-8")])
                == id;
        }
        // Committed in a worktree that stands: its HEAD and its reflog keep it as well.
        let slots = std::fs::read_dir(self.fixture.pool_dir().join("slots"));
        slots.into_iter().flatten().flatten().any(|slot| {
            let place = slot.path().join("demo");
            place.join(".git").exists()
                && path.starts_with(&place)
                && git(&place, &["rev-list", "--objects", "--reflog", "HEAD", "--indexed-objects"])
                    .contains(id)
        })
    }

    async fn end(mut self) {
        for held in self.held.drain(..) {
            held.guard.release(Release::default()).await.expect("released");
        }
        let reaper = self.process("reaper");
        let all = PruneOptions { all: true, ..PruneOptions::default() };
        for _ in 0..2 {
            reaper.prune(all, &|_| ()).await.expect("pruned");
        }
        assert_eq!(reaper.list().await.expect("listed").slots.len(), 0);
        assert!(reaper.isolator().discover().await.expect("listed").is_empty());
        assert_eq!(reaper.reconcile().await.expect("reconciled").done, Vec::<String>::new());
        self.check(true).await;
        let worktrees = git(&self.fixture.repo, &["worktree", "list", "--porcelain"]);
        assert_eq!(worktrees.matches("worktree ").count(), 1, "{worktrees}");
        assert_eq!(git(&self.fixture.repo, &["fsck", "--no-dangling"]), "");
    }
}

fn commit_all(place: &Path) {
    write(place, "one-more", "line");
    commit(place, "all there is");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_is_left(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                world.check(false).await;
            }
            world.end().await;
        });
    }
}
