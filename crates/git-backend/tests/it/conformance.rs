//! The suite of `testkit`, run by this backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use git_backend::{GitIsolator, Repository};
use pool_core::{CommitId, ErrorKind, Isolator, LeaseId, LeaseName, Plan, Rescue, SlotId, Wish};
use testkit::conformance::{Capabilities, Harness, block_on};
use testkit::fixture::dirty::{Fate, Shape};
use testkit::fixture::{Fixture, Layout, snapshot_files, state, states};
use testkit::git;

use crate::support::settings;

/// A repository with linked worktrees, and stock git to work in them.
#[derive(Debug)]
struct GitHarness {
    fixture: Fixture,
    isolator: Arc<GitIsolator>,
    head: String,
    commits: AtomicU32,
}

impl GitHarness {
    fn new(layout: Layout) -> Self {
        let fixture = Fixture::new(layout);
        let repository = Repository::find(&fixture.repo()).expect("there is a repository");
        let pool_dir = fixture.root().join("pool");
        let isolator =
            GitIsolator::open(&repository, &pool_dir, settings()).expect("it can be opened");
        let head = fixture.head();
        Self { fixture, isolator: Arc::new(isolator), head, commits: AtomicU32::new(0) }
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.isolator.place(slot)
    }
}

#[async_trait]
impl Harness for GitHarness {
    fn isolator(&self) -> Arc<dyn Isolator> {
        self.isolator.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tracked: Some("README.md".into()),
            staging: true,
            detaching: true,
            ignored: Some(".env".into()),
            regenerable: Some("target/debug/out".into()),
            idle_branch: Some("side".into()),
            // A bare repository's HEAD is checked out nowhere.
            busy_branch: (self.fixture.layout() != Layout::Bare).then(|| "main".into()),
        }
    }

    async fn write(&self, slot: SlotId, path: &str, bytes: &[u8]) {
        let path = self.place(slot).join(path);
        std::fs::create_dir_all(path.parent().expect("it is in a directory"))
            .expect("it can be made");
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    async fn read(&self, slot: SlotId, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.place(slot).join(path)).ok()
    }

    async fn remove(&self, slot: SlotId, path: &str) {
        std::fs::remove_file(self.place(slot).join(path)).expect("it can be removed");
    }

    async fn files(&self, slot: SlotId) -> Vec<String> {
        let place = self.place(slot);
        if !place.exists() {
            return Vec::new();
        }
        let tree = snapshot_files(place);
        tree.into_keys().map(|path| String::from_utf8_lossy(&path).into_owned()).collect()
    }

    async fn commit(&self, slot: SlotId) -> CommitId {
        let place = self.place(slot);
        // The time stands still in fixtures: commits are told apart by their number.
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        git(&place).args(["add", "--all"]).ok();
        git(&place).args(["commit", "--quiet", "-m", &format!("commit {number}")]).ok();
        CommitId::new(git(&place).args(["rev-parse", "HEAD"]).stdout()).expect("it is an id")
    }

    async fn branch_tip(&self, name: &str) -> Option<CommitId> {
        let reference = format!("refs/heads/{name}");
        let output =
            self.fixture.git().args(["rev-parse", "--verify", "--quiet", &reference]).output();
        let text = String::from_utf8(output.stdout).expect("it is an id");
        output.status.success().then(|| CommitId::new(text.trim()).expect("it is an id"))
    }

    async fn delete_by_hand(&self, slot: SlotId) {
        std::fs::remove_dir_all(self.place(slot)).expect("it can be removed");
    }

    async fn stage(&self, slot: SlotId, path: &str) {
        git(self.place(slot)).args(["add", "--force", "--", path]).ok();
    }

    async fn detach(&self, slot: SlotId) {
        git(self.place(slot)).args(["checkout", "--quiet", "--detach"]).ok();
    }

    async fn audit(&self) -> Result<(), String> {
        let git = || self.fixture.git();
        if !git().args(["fsck", "--strict"]).succeeds() {
            return Err(git().args(["fsck", "--strict"]).fails());
        }
        if self.fixture.head() != self.head {
            return Err("the main worktree's HEAD was moved".into());
        }
        if self.fixture.layout() != Layout::Bare {
            let status = git().args(["status", "--porcelain"]).stdout();
            if !status.is_empty() {
                return Err(format!("the main worktree was touched: {status}"));
            }
        }
        // Elsewhere, the suite has restored rescues; those worktrees are the user's.
        let pool = format!("worktree {}", self.fixture.root().join("pool").display());
        let worktrees = git().args(["worktree", "list", "--porcelain"]).stdout();
        let registered = worktrees.lines().filter(|line| line.starts_with(&pool)).count();
        let here = self.isolator.discover().await.map_err(|e| e.to_string())?.len();
        if registered != here {
            return Err(format!("{here} slots, but git lists {registered}:\n{worktrees}"));
        }
        Ok(())
    }
}

testkit::isolator_conformance!(plain, GitHarness::new(Layout::Plain));
testkit::isolator_conformance!(bare, GitHarness::new(Layout::Bare));
testkit::isolator_conformance!(nested, GitHarness::new(Layout::Nested));

/// Every commit that any reflog or HEAD of the worktree knows.
fn commits(worktree: &Path) -> Vec<String> {
    let known = git(worktree).args(["rev-list", "--reflog", "HEAD"]).output().stdout;
    String::from_utf8_lossy(&known).lines().map(str::to_owned).collect()
}

async fn save_and_restore(shape: Shape) {
    let harness = GitHarness::new(shape.layout());
    let isolator = harness.isolator();
    let name = LeaseName::new("shaped").expect("a good name");
    let base = isolator.resolve(&Wish::default(), &name).await.expect("it can be granted");
    let lease = Some((LeaseId::generate(jiff::Timestamp::UNIX_EPOCH), name));
    let plan = Plan { slot: SlotId(1), lease, base };
    isolator.provision(&plan).await.expect("the slot is empty");
    let place = harness.place(plan.slot);
    shape.apply(&place);
    let (before, known) = (states(&place), commits(&place));

    let found = match isolator.inspect(&plan).await {
        Ok(found) => found,
        Err(error) => {
            assert!(matches!(shape.fate(), Fate::Kept(_)), "{shape:?}: {error:?}");
            return;
        }
    };
    assert_eq!(found.losses.is_empty(), shape.fate() == Fate::Clean, "{shape:?}: {}", found.losses);
    let saved = isolator.preserve(found).await;
    assert_eq!(states(&place), before, "{shape:?}: saving changed the worktree");
    let proof = match saved {
        Ok(proof) => proof,
        Err(refused) => {
            assert!(matches!(shape.fate(), Fate::Kept(_)), "{shape:?}: {refused:?}");
            assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{shape:?}: {refused:?}");
            return;
        }
    };
    let rescue = proof.rescue().cloned();
    isolator.dispose(proof).await.expect("it can be removed");
    isolator.sweep(&|_| ()).await.expect("the trash can be emptied");
    // The stash is a reflog, and stays.
    let refs = harness.fixture.git().args(["for-each-ref", "--format=%(refname)", "refs/heads"]);
    let expire = harness.fixture.git().args(["reflog", "expire", "--expire=all", "HEAD"]);
    expire.args(refs.stdout().lines()).ok();
    harness.fixture.git().args(["gc", "--quiet", "--prune=now"]).ok();
    for commit in known {
        let there = harness.fixture.git().args(["cat-file", "-e", &commit]).succeeds();
        assert!(there, "{shape:?}: the commit {commit} is lost");
    }
    let archive = isolator.rescues().expect("git has one");
    for (n, rescue) in rescue.iter().flat_map(Rescue::all).enumerate() {
        let into = harness.fixture.root().join(format!("restored-{n}"));
        archive.restore_into(&rescue.id, &into).await.expect("it can be restored");
        // A worktree that was deleted is back without its files.
        let Some(before) = before.get(&rescue.worktree) else { continue };
        let after = state(&into);
        assert_eq!(after.files, before.files, "{shape:?}: files");
        assert_eq!(after.index, before.index, "{shape:?}: index");
        assert_eq!(after.head, before.head, "{shape:?}: HEAD");
    }
}

#[test]
fn every_shape_is_saved_whole_or_kept() {
    let mut shapes = Shape::all();
    // Submodules from local paths only the user's own configuration can permit, which is kept out here.
    shapes.retain(|shape| shape.need().is_none() && shape.layout() != Layout::Submodule);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let parts: Vec<_> = shapes
            .chunks(shapes.len().div_ceil(4))
            .map(|part| {
                scope.spawn(move || {
                    let fails = |shape: &&Shape| {
                        let run = || block_on(save_and_restore(**shape));
                        std::panic::catch_unwind(run).is_err()
                    };
                    part.iter().filter(fails).map(|s| format!("{s:?}")).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("panics are caught")).collect()
    });
    assert_eq!(failed, Vec::<String>::new(), "see above for how each failed");
}
