//! Git in a slot means the slot, and every main worktree is recognised as one: with the layouts and
//! the configuration that other people's repositories have.

use std::fs;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, Repository};
use pool_core::{BranchWish, ErrorKind, Isolator, SlotId, Wish};

use crate::support::{
    Fixture, archive, commit, detached, git, git_succeeds, name, plan, proof, read, settings,
    status, write,
};

/// How a repository sends git in its linked worktrees elsewhere.
type Redirect = fn(&Path);

fn with_worktree_config(repo: &Path) {
    git(repo, &["config", "extensions.worktreeConfig", "true"]);
}

fn absolute_core_worktree(repo: &Path) {
    with_worktree_config(repo);
    git(repo, &["config", "core.worktree", repo.to_str().expect("UTF-8")]);
}

fn relative_core_worktree(repo: &Path) {
    with_worktree_config(repo);
    git(repo, &["config", "core.worktree", ".."]);
}

fn core_bare(repo: &Path) {
    with_worktree_config(repo);
    git(repo, &["config", "core.bare", "true"]);
}

fn both(repo: &Path) {
    absolute_core_worktree(repo);
    git(repo, &["config", "core.bare", "true"]);
}

/// What `git sparse-checkout` leaves: the main worktree's own configuration has the setting.
fn in_the_main_worktrees_own(repo: &Path) {
    with_worktree_config(repo);
    git(repo, &["config", "--worktree", "core.worktree", repo.to_str().expect("UTF-8")]);
}

const REDIRECTS: [(&str, Redirect); 6] = [
    ("worktreeConfig", with_worktree_config),
    ("core.worktree", absolute_core_worktree),
    ("relative core.worktree", relative_core_worktree),
    ("core.bare", core_bare),
    ("both", both),
    ("own core.worktree", in_the_main_worktrees_own),
];

/// Stock git, started in the slot with no variables, works in the slot.
fn assert_means(place: &Path, what: &str) {
    let top = git(place, &["rev-parse", "--show-toplevel"]);
    assert_eq!(Path::new(&top), place, "{what}");
    assert_eq!(git(place, &["rev-parse", "--is-bare-repository"]), "false", "{what}");
    assert_eq!(status(place), "", "{what}");
}

/// All that the user has in a checkout, git's own files aside.
fn checkout(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = walkdir::WalkDir::new(dir).into_iter().filter_entry(|e| e.file_name() != ".git");
    let files = files.map(|entry| entry.expect("readable").into_path()).filter(|p| p.is_file());
    let mut files: Vec<_> = files.map(|p| (p.clone(), fs::read(p).expect("readable"))).collect();
    files.sort();
    files
}

/// An agent cleans, commits and resets, which changes nothing outside of the slot.
fn agent_at_work(place: &Path) -> String {
    write(place, "junk", "junk\n");
    git(place, &["clean", "-fdxq"]);
    write(place, "work", "work\n");
    let commit = commit(place, "work");
    git(place, &["reset", "-q", "--hard"]);
    commit
}

#[tokio::test]
async fn git_in_a_slot_means_the_slot() {
    for (what, redirect) in REDIRECTS {
        // Before the slot is made, and after.
        for late in [false, true] {
            let fixture = Fixture::new();
            if !late {
                redirect(&fixture.repo);
            }
            write(&fixture.repo, "precious.txt", "precious\n");
            write(&fixture.repo, ".env", "SECRET\n");
            let before = checkout(&fixture.repo);
            let isolator = fixture.isolator();
            let first = plan(&isolator, 1, "first").await;
            isolator.provision(&first).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let place = isolator.place(SlotId(1));
            if late {
                let settled = proof(&isolator, &first).await;
                redirect(&fixture.repo);
                let isolator = fixture.isolator();
                let second = plan(&isolator, 1, "second").await;
                isolator.recycle(&second, settled).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            assert_means(&place, what);
            agent_at_work(&place);
            assert_eq!(checkout(&fixture.repo), before, "{what}");
            // Used again, also by a pool that was opened meanwhile.
            let lease = if late { "second" } else { "first" };
            let isolator = fixture.isolator();
            let held = pool_core::Plan {
                base: pool_core::Base {
                    branch: Some(pool_core::Branch {
                        name: format!("wtpool/{lease}"),
                        created: true,
                    }),
                    ..first.base.clone()
                },
                ..first.clone()
            };
            let settled = proof(&isolator, &held).await;
            let third = detached(&isolator, 1, "third").await;
            isolator.recycle(&third, settled).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_means(&place, what);
            assert!(!place.join("work").exists(), "{what}");
            agent_at_work(&place);
            let settled = proof(&isolator, &third).await;
            isolator.dispose(settled).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(checkout(&fixture.repo), before, "{what}");
        }
    }
}

#[tokio::test]
async fn git_in_a_slot_of_a_submodule_means_the_slot() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    git(parent, &["clone", "-q", "demo", "library"]);
    git(
        &fixture.repo,
        &["-c", "protocol.file.allow=always", "submodule", "-q", "add", "../library", "library"],
    );
    let fixture = Fixture { repo: fixture.repo.join("library"), ..fixture };
    git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
    write(&fixture.repo, "precious.txt", "precious\n");
    let before = checkout(&fixture.repo);
    let isolator = fixture.isolator();
    let lease = plan(&isolator, 1, "lease").await;
    isolator.provision(&lease).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_means(&place, "submodule");
    agent_at_work(&place);
    assert_eq!(checkout(&fixture.repo), before);
    assert_eq!(status(&fixture.repo), "?? precious.txt");
}

/// Git directories from which nothing leads to the main worktree.
fn main_worktrees() -> Vec<(&'static str, Fixture)> {
    let separate = Fixture::new();
    let away = separate.repo.with_file_name("store.git");
    git(&separate.repo, &["init", "-q", "--separate-git-dir", away.to_str().unwrap()]);
    let odd = Fixture::new();
    let away = odd.repo.with_file_name("git of the demo");
    git(&odd.repo, &["init", "-q", "--separate-git-dir", away.to_str().unwrap()]);
    git(&odd.repo, &["config", "--unset", "core.bare"]);
    let linked = Fixture::new();
    let away = linked.repo.with_file_name("linked.git");
    fs::rename(linked.repo.join(".git"), &away).expect("moved");
    std::os::unix::fs::symlink(&away, linked.repo.join(".git")).expect("linked");
    vec![("separate", separate), ("odd name", odd), ("symlink", linked)]
}

#[tokio::test]
async fn branch_of_a_main_worktree_is_never_leased() {
    for (what, fixture) in main_worktrees() {
        let repository = Repository::find(&fixture.repo).expect("found");
        assert_eq!(repository.main_worktree(), Some(&*fixture.repo), "{what}");
        assert!(!repository.is_bare(), "{what}");
        let below = Repository::find(&fixture.repo.join("src")).expect("found");
        assert_eq!(below, repository, "{what}");
        let isolator = fixture.isolator();
        let wish = Wish { branch: BranchWish::Named("main".to_owned()), ..Default::default() };
        let error = isolator.resolve(&wish, &name("taken")).await.expect_err("checked out");
        assert_eq!(error.kind(), ErrorKind::NameTaken, "{what}: {error}");
        assert!(error.to_string().contains(fixture.repo.to_str().unwrap()), "{what}: {error}");

        // From a lease, nothing leads to the main worktree; its branch is taken all the same.
        let lease = plan(&isolator, 1, "lease").await;
        isolator.provision(&lease).await.unwrap();
        let place = isolator.place(SlotId(1));
        assert_means(&place, what);
        let from_slot = Repository::find(&place).expect("found");
        assert_eq!(from_slot.common_dir(), repository.common_dir(), "{what}");
        assert_eq!(from_slot.default_pool_dir(), repository.default_pool_dir(), "{what}");
        let inside = GitIsolator::open(&from_slot, &fixture.pool_dir(), settings()).unwrap();
        if git_succeeds(&place, &["config", "core.bare"]) {
            let error = inside.resolve(&wish, &name("taken")).await.expect_err("checked out");
            assert_eq!(error.kind(), ErrorKind::NameTaken, "{what}: {error}");
        }
        agent_at_work(&place);
        assert_eq!(status(&fixture.repo), "", "{what}");
    }
}

#[test]
fn directory_of_a_gitfile_to_a_bare_repository_is_no_worktree() {
    let fixture = Fixture::new();
    let project = fixture.repo.with_file_name("project");
    fs::create_dir(&project).expect("made");
    git(&project, &["clone", "-q", "--bare", "../demo", ".bare"]);
    write(&project, ".git", "gitdir: ./.bare\n");
    for start in [&project, &project.join(".bare")] {
        let repository = Repository::find(start).expect("found");
        assert_eq!((repository.main_worktree(), repository.worktree()), (None, None));
        assert!(repository.is_bare());
    }
    git(&project, &["worktree", "add", "-q", "tree", "main"]);
    let repository = Repository::find(&project.join("tree")).expect("found");
    assert_eq!(repository.worktree(), Some(&*project.join("tree")));
    assert!(read(project.join("tree/README.md")).contains("demo"));
    // The only repository among the children of a directory.
    let above = fixture.repo.with_file_name("above");
    fs::create_dir(&above).expect("made");
    fs::rename(&project, above.join("project")).expect("moved");
    assert!(Repository::find(&above).expect("found").is_bare());
}

#[tokio::test]
async fn git_in_a_restored_worktree_means_that_worktree() {
    for (what, redirect) in REDIRECTS {
        let fixture = Fixture::new();
        redirect(&fixture.repo);
        let isolator = fixture.isolator();
        let lease = plan(&isolator, 1, "lease").await;
        isolator.provision(&lease).await.unwrap();
        write(&isolator.place(SlotId(1)), "work", "work\n");
        let rescue = proof(&isolator, &lease).await.rescue().expect("saved").id.clone();
        let into = fixture.repo.with_file_name("restored");
        archive(&isolator).restore_into(&rescue, &into).await.unwrap();
        let top = git(&into, &["rev-parse", "--show-toplevel"]);
        assert_eq!(Path::new(&top), into, "{what}");
        assert_eq!(status(&into), "?? work", "{what}");
    }
}

#[tokio::test]
async fn the_branch_of_a_checkout_is_refused_whatever_core_bare_says() {
    for core_bare in [Some("true"), None] {
        let fixture = Fixture::new();
        let store = fixture.repo.with_file_name("store.git");
        git(&fixture.repo, &["init", "-q", "--separate-git-dir", store.to_str().expect("UTF-8")]);
        match core_bare {
            Some(value) => git(&fixture.repo, &["config", "core.bare", value]),
            None => git(&fixture.repo, &["config", "--unset", "core.bare"]),
        };
        for start in [&fixture.repo, &store] {
            let found = Repository::find(start).unwrap();
            let isolator = GitIsolator::open(&found, &fixture.pool_dir(), settings()).unwrap();
            let wish = Wish { branch: BranchWish::Named("main".into()), ..Default::default() };
            let refused = isolator.resolve(&wish, &name("lease")).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NameTaken, "{core_bare:?}: {refused}");
        }
    }
}

#[tokio::test]
async fn hint_for_a_redirected_slot_runs_no_value() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    isolator.provision(&plan(&isolator, 1, "lease").await).await.unwrap();
    with_worktree_config(&fixture.repo);
    let evil = "/x'; touch pwned; $(touch pwned)";
    git(&fixture.repo, &["config", "core.worktree", evil]);
    let error = isolator.verify_means_slot(SlotId(1)).expect_err("redirected");
    let hint = error.hint().and_then(|hint| hint.strip_prefix("run: ")).unwrap();
    let mut shell = std::process::Command::new("sh");
    let into = fixture.root.path();
    testkit::scrub(&mut shell).args(["-c", hint]).current_dir(into).status().unwrap();
    assert!(!into.join("pwned").exists(), "{hint}");
    isolator.verify_means_slot(SlotId(1)).unwrap();
}

/// Configuration that came after the slot, from the user or from the agent in it.
#[tokio::test]
async fn hint_for_a_redirected_slot_mends_it_and_keeps_the_checkout() {
    let by_the_agent: Redirect = |_| {};
    for (what, redirect) in REDIRECTS.into_iter().chain([("the agent", by_the_agent)]) {
        let fixture = Fixture::new();
        let isolator = fixture.isolator();
        isolator.provision(&plan(&isolator, 1, "lease").await).await.unwrap();
        isolator.verify_means_slot(SlotId(1)).unwrap();
        let place = isolator.place(SlotId(1));
        redirect(&fixture.repo);
        if what == "the agent" {
            with_worktree_config(&fixture.repo);
            git(&place, &["config", "--worktree", "core.worktree", fixture.repo.to_str().unwrap()]);
        }
        let mut count = 0;
        while let Err(error) = isolator.verify_means_slot(SlotId(1)) {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
            count += 1;
            assert!(count <= 2, "{what}: the hint does not help: {error}");
            let hint = error.hint().and_then(|hint| hint.strip_prefix("run: ")).unwrap();
            let mut shell = std::process::Command::new("sh");
            let ran = testkit::scrub(&mut shell).args(["-c", hint]).current_dir("/").output();
            assert!(ran.as_ref().unwrap().status.success(), "{what}: {hint}: {ran:?}");
        }
        let is_harmless = matches!(what, "worktreeConfig" | "own core.worktree");
        assert_eq!(count > 0, !is_harmless, "{what}");
        assert_means(&place, what);
        // The checkout is what it was: git works there if it did.
        let kept = |key| git_succeeds(&fixture.repo, &["config", key]);
        assert_eq!(kept("core.worktree"), what.contains("core.worktree") || what == "both");
        assert!(kept("core.bare"), "{what}");
        if what.contains("core.worktree") {
            assert_means(&fixture.repo, what);
        }
    }
}

#[tokio::test]
async fn worktree_that_was_moved_away_works_where_it_is() {
    for (what, redirect) in [("core.bare", core_bare as Redirect), ("none", with_worktree_config)] {
        let fixture = Fixture::new();
        redirect(&fixture.repo);
        let isolator = fixture.isolator();
        isolator.provision(&plan(&isolator, 1, "lease").await).await.unwrap();
        let away = fixture.repo.with_file_name("away");
        let place = isolator.place(SlotId(1));
        git(&place, &["worktree", "move", place.to_str().unwrap(), away.to_str().unwrap()]);
        assert_means(&away, what);
    }
}
