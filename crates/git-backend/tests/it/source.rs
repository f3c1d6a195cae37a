//! The worktree that settings and set-up files come from, where git names no main worktree.

use std::fs;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, GitSettings, Repository, source_worktree};
use pool_core::{Isolator, SlotId};
use proptest::prelude::*;
use testkit::fuzz::damage;

use crate::support::{Fixture, git, plan, proof, read, settings, status, write};

/// A bare repository in `project/.bare`, which `project/.git` leads to.
struct Project {
    fixture: Fixture,
    dir: PathBuf,
}

impl Project {
    fn new() -> Self {
        let fixture = Fixture::new();
        let dir = fixture.repo.with_file_name("project");
        fs::create_dir(&dir).expect("made");
        git(&dir, &["clone", "-q", "--bare", "../demo", ".bare"]);
        write(&dir, ".git", "gitdir: ./.bare\n");
        Self { fixture, dir }
    }

    /// Adds a worktree with an `.env` of its own.
    fn worktree(&self, name: &str) -> PathBuf {
        git(&self.dir, &["worktree", "add", "-q", "-b", &format!("of-{name}"), name]);
        write(&self.dir.join(name), ".env", name);
        self.dir.join(name)
    }

    /// The backend, as a caller opens it who is in `start`.
    fn isolator(&self, start: &Path) -> GitIsolator {
        isolator(start, &self.fixture.pool_dir())
    }

    fn source(&self, start: &Path) -> Option<PathBuf> {
        source(start, &self.fixture.pool_dir())
    }
}

fn isolator(start: &Path, pool_dir: &Path) -> GitIsolator {
    let copying = GitSettings { copy: vec![".env".to_owned()], ..settings() };
    let repository = Repository::find(start).expect("found");
    GitIsolator::open(&repository, pool_dir, copying).expect("opened")
}

fn source(start: &Path, pool_dir: &Path) -> Option<PathBuf> {
    let repository = Repository::find(start).expect("found");
    source_worktree(&repository, pool_dir).expect("readable")
}

/// Leases a slot from `start`, and returns its path.
async fn leased(project: &Project, start: &Path, slot: u32) -> PathBuf {
    let isolator = project.isolator(start);
    let name = format!("lease-{slot}");
    isolator.provision(&plan(&isolator, slot, &name).await).await.unwrap();
    isolator.place(SlotId(slot))
}

#[tokio::test]
async fn without_a_main_worktree_the_callers_is_the_source() {
    let project = Project::new();
    let (one, two) = (project.worktree("one"), project.worktree("two"));
    write(&one, "src/tracked.rs", "");
    for (slot, start) in [(1, &one), (2, &two), (3, &one.join("src"))] {
        let worktree = start.ancestors().find(|dir| dir.join(".git").exists()).unwrap();
        assert_eq!(project.source(start).as_deref(), Some(worktree));
        let place = leased(&project, start, slot).await;
        assert_eq!(read(place.join(".env")), worktree.file_name().unwrap().to_str().unwrap());
        assert_eq!(status(&place), "");
    }
}

#[tokio::test]
async fn caller_in_no_worktree_has_that_of_the_last_lease() {
    let project = Project::new();
    let (one, two) = (project.worktree("one"), project.worktree("two"));
    let nowhere = [project.dir.clone(), project.dir.join(".bare")];
    for start in &nowhere {
        assert_eq!(project.source(start), None);
    }
    let first = leased(&project, &one, 1).await;
    leased(&project, &two, 2).await;
    for start in nowhere.iter().chain([&first]) {
        assert_eq!(project.source(start).as_ref(), Some(&two), "from {}", start.display());
    }
    // A lease within a lease has the set-up files, and not those that the lease has changed.
    write(&first, ".env", "of the lease");
    assert_eq!(read(leased(&project, &first, 3).await.join(".env")), "two");
    // To look from elsewhere changes nothing.
    assert_eq!(project.source(&one).as_ref(), Some(&one));
    assert_eq!(project.source(&project.dir).as_ref(), Some(&two));
    // One that is gone, or no longer registered, gives way to an earlier one.
    fs::remove_dir_all(&two).unwrap();
    assert_eq!(project.source(&first).as_ref(), Some(&one));
    git(&project.dir, &["worktree", "prune"]);
    fs::create_dir(&two).unwrap();
    write(&two, ".env", "left there");
    assert_eq!(project.source(&first).as_ref(), Some(&one));
    git(&project.dir, &["worktree", "remove", "--force", "one"]);
    assert_eq!(project.source(&first), None);
}

/// A slot's files are those of a lease.
#[tokio::test]
async fn slot_is_never_the_source() {
    let project = Project::new();
    let one = project.worktree("one");
    let slot = leased(&project, &one, 1).await;
    let inside = slot.join("nested");
    git(&slot, &["worktree", "add", "-q", "--detach", "nested"]);
    let beside = slot.parent().unwrap().join("beside");
    git(&slot, &["worktree", "add", "-q", "--detach", beside.to_str().unwrap()]);
    // With another pool, all of this is outside of the pool.
    let other_pool = project.fixture.root.path().join("other");
    // A copy of a slot, and a copy of a worktree: neither is registered.
    let copy = project.dir.join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(slot.join(".git"), copy.join(".git")).unwrap();
    for lease in [&slot, &inside, &beside, &copy] {
        write(lease, ".env", "of the lease");
        assert_eq!(source(lease, &other_pool), None, "{}", lease.display());
        assert_eq!(project.source(lease).as_ref(), Some(&one), "{}", lease.display());
    }
    // Nor if the record says so.
    let paths = [&slot, &inside, &beside, &copy, &project.dir, &project.fixture.repo];
    let text: String = paths.iter().map(|path| format!("{}\0", path.display())).collect();
    write(&project.fixture.pool_dir(), "source-worktrees", &text);
    assert_eq!(project.source(&project.dir), None);
    assert_eq!(project.source(&slot), None);
}

#[tokio::test]
async fn main_worktree_that_git_does_not_find_is_remembered() {
    for symlinked in [false, true] {
        let fixture = Fixture::new();
        let store = fixture.repo.with_file_name("store.git");
        if symlinked {
            fs::rename(fixture.repo.join(".git"), &store).unwrap();
            std::os::unix::fs::symlink(&store, fixture.repo.join(".git")).unwrap();
        } else {
            let store = store.to_str().unwrap();
            git(&fixture.repo, &["init", "-q", "--separate-git-dir", store]);
        }
        write(&fixture.repo, ".env", "main");
        let other = fixture.repo.with_file_name("other");
        git(&fixture.repo, &["worktree", "add", "-q", "--detach", other.to_str().unwrap()]);
        write(&other, ".env", "other");
        let pool_dir = fixture.pool_dir();
        assert_eq!(source(&other, &pool_dir).as_ref(), Some(&other));
        assert_eq!(source(&fixture.repo, &pool_dir).as_ref(), Some(&fixture.repo));
        let first = isolator(&fixture.repo, &pool_dir);
        first.provision(&plan(&first, 1, "first").await).await.unwrap();
        let slot = first.place(SlotId(1));
        assert_eq!(read(slot.join(".env")), "main");
        // It is the source from now on, as it is where git finds it.
        for start in [&slot, &other, &store] {
            assert_eq!(source(start, &pool_dir).as_ref(), Some(&fixture.repo));
            let isolator = isolator(start, &pool_dir);
            let lease = plan(&isolator, 2, "second").await;
            isolator.provision(&lease).await.unwrap();
            assert_eq!(read(isolator.place(SlotId(2)).join(".env")), "main");
            let settled = proof(&isolator, &lease).await;
            isolator.dispose(settled).await.unwrap();
        }
    }
}

#[tokio::test]
async fn repository_that_names_its_main_worktree_records_nothing() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    isolator.provision(&plan(&isolator, 1, "first").await).await.unwrap();
    let slot = isolator.place(SlotId(1));
    assert!(!fixture.pool_dir().join("source-worktrees").exists());
    let other = fixture.repo.with_file_name("other");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", other.to_str().unwrap()]);
    for start in [&slot, &other, &fixture.repo.join(".git")] {
        assert_eq!(source(start, &fixture.pool_dir()).as_ref(), Some(&fixture.repo));
    }
}

#[tokio::test]
async fn copy_without_a_source_is_said() {
    let project = Project::new();
    let isolator = project.isolator(&project.dir);
    isolator.provision(&plan(&isolator, 1, "first").await).await.unwrap();
    let said = isolator.left_out(SlotId(1)).join("; ");
    assert!(said.contains("no worktree of") && said.contains(".bare"), "{said}");
}

#[test]
fn record_that_is_no_regular_file_is_not_waited_for() {
    let project = Project::new();
    let pool_dir = project.fixture.pool_dir();
    fs::create_dir(&pool_dir).unwrap();
    let record = pool_dir.join("source-worktrees");
    let fifo = std::process::Command::new("mkfifo").arg(&record).status().unwrap();
    assert!(fifo.success());
    let repository = Repository::find(&project.dir).unwrap();
    let error = source_worktree(&repository, &pool_dir).expect_err("refused");
    assert!(error.to_string().contains("source-worktrees"), "{error}");
}

#[tokio::test]
async fn damaged_record_leads_to_no_other_directory() {
    let project = Project::new();
    let (one, two) = (project.worktree("one"), project.worktree("two"));
    leased(&project, &one, 1).await;
    leased(&project, &two, 2).await;
    let file = project.fixture.pool_dir().join("source-worktrees");
    let good = fs::read(&file).unwrap();
    proptest!(ProptestConfig::with_cases(64), |(damage in damage())| {
        fs::write(&file, damage.apply(&good)).unwrap();
        let found = project.source(&project.dir);
        prop_assert!([None, Some(one.clone()), Some(two.clone())].contains(&found), "{found:?}");
    });
    // The next lease writes it again.
    leased(&project, &one, 3).await;
    assert_eq!(project.source(&project.dir).as_ref(), Some(&one));
}

/// People make a bare repository of a clone that way. What is left of it is no worktree.
#[tokio::test]
async fn clone_that_was_made_bare_is_no_source() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "core.bare", "true"]);
    for entry in fs::read_dir(&fixture.repo).unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true if entry.file_name() == ".git" => {}
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    let tree = fixture.repo.join("tree");
    git(&fixture.repo, &["worktree", "add", "-q", "tree"]);
    assert_eq!(source(&fixture.repo, &fixture.pool_dir()), None);
    assert_eq!(source(&tree, &fixture.pool_dir()).as_ref(), Some(&tree));
    let isolator = isolator(&tree, &fixture.pool_dir());
    isolator.provision(&plan(&isolator, 1, "lease").await).await.unwrap();
    assert_eq!(source(&fixture.repo, &fixture.pool_dir()).as_ref(), Some(&tree));
}

/// Git does not take the checkout for a main worktree, so it is not that of all callers.
#[tokio::test]
async fn checkout_that_core_bare_denies_is_the_source_of_its_own_callers_only() {
    let fixture = Fixture::new();
    let other = fixture.repo.with_file_name("other");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", other.to_str().unwrap()]);
    git(&fixture.repo, &["config", "core.bare", "true"]);
    let isolator = isolator(&fixture.repo, &fixture.pool_dir());
    isolator.provision(&plan(&isolator, 1, "lease").await).await.unwrap();
    let slot = isolator.place(SlotId(1));
    for (start, expected) in
        [(&fixture.repo, &fixture.repo), (&other, &other), (&slot, &fixture.repo)]
    {
        assert_eq!(source(start, &fixture.pool_dir()).as_ref(), Some(expected));
    }
}

/// The pool must not lie in a checkout, even where `core.bare` says that there is none.
#[test]
fn default_pool_lies_outside_of_a_checkout_that_core_bare_denies() {
    let fixture = Fixture::new();
    let before = Repository::find(&fixture.repo).unwrap().default_pool_dir();
    git(&fixture.repo, &["config", "core.bare", "true"]);
    for start in [&fixture.repo, &fixture.repo.join("src"), &fixture.repo.join(".git")] {
        let found = Repository::find(start).unwrap();
        assert_eq!(found.default_pool_dir(), before, "from {}", start.display());
    }
    assert_eq!(source(&fixture.repo, &before).as_ref(), Some(&fixture.repo));
}

#[test]
fn worktree_below_a_directory_called_slots_is_a_source() {
    let project = Project::new();
    fs::create_dir_all(project.dir.join("repository")).unwrap();
    let worktree = project.worktree("slots/one");
    assert_eq!(project.source(&worktree), Some(worktree));
}
