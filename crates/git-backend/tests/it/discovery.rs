//! `Repository::find`: from everywhere a caller may stand.

use std::fs;

use git_backend::Repository;
use pool_core::{ErrorKind, Isolator};
use tempfile::TempDir;

use crate::support::{Fixture, git, plan, write};

#[test]
fn upward_from_the_root_from_deep_inside_and_from_the_git_directory() {
    let fixture = Fixture::new();
    let found = Repository::find(&fixture.repo).unwrap();
    assert_eq!(found.common_dir(), fixture.repo.join(".git"));
    assert_eq!(found.worktree(), Some(&*fixture.repo));
    assert_eq!(found.main_worktree(), Some(&*fixture.repo));
    assert_eq!(found.name(), "demo");
    assert_eq!(Repository::find(&fixture.repo.join("src/lib")).unwrap(), found);
    let from_git_dir = Repository::find(&fixture.repo.join(".git/refs")).unwrap();
    assert_eq!(from_git_dir.common_dir(), found.common_dir());
    assert_eq!(from_git_dir.main_worktree(), found.main_worktree());
    assert_eq!(from_git_dir.default_pool_dir(), found.default_pool_dir());
}

#[test]
fn the_pool_lies_beside_the_repository_and_two_clones_do_not_share_it() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    git(parent, &["clone", "-q", "demo", "nested/demo"]);
    let first = Repository::find(&fixture.repo).unwrap().default_pool_dir();
    let second = Repository::find(&parent.join("nested/demo")).unwrap().default_pool_dir();
    assert_eq!(first.parent(), Some(&*parent.join(".wtpool")));
    assert!(first.file_name().unwrap().to_str().unwrap().starts_with("demo-"));
    assert_ne!(first.file_name(), second.file_name());
    assert!(!first.exists(), "nothing is created by asking");
}

#[tokio::test]
async fn a_linked_worktree_and_a_slot_belong_to_the_main_repository() {
    let fixture = Fixture::new();
    let linked = fixture.repo.parent().unwrap().join("linked");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", linked.to_str().unwrap()]);
    let main = Repository::find(&fixture.repo).unwrap();
    let found = Repository::find(&linked).unwrap();
    assert_eq!(found.common_dir(), main.common_dir());
    assert_eq!(found.worktree(), Some(&*linked));
    assert_eq!(found.main_worktree(), Some(&*fixture.repo));
    assert_eq!(found.default_pool_dir(), main.default_pool_dir());

    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "otter").await;
    isolator.provision(&plan).await.unwrap();
    let from_slot = Repository::find(&isolator.place(plan.slot).join("src")).unwrap();
    assert_eq!(from_slot.common_dir(), main.common_dir());
    assert_eq!(from_slot.default_pool_dir(), main.default_pool_dir());
}

#[test]
fn a_submodule_is_a_repository_of_its_own_with_its_pool_beside_the_superproject() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    git(parent, &["clone", "-q", "demo", "library"]);
    git(
        &fixture.repo,
        &[
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            "../library",
            "vendor/library",
        ],
    );
    let found = Repository::find(&fixture.repo.join("vendor/library/src")).unwrap();
    assert_eq!(found.common_dir(), fixture.repo.join(".git/modules/vendor/library"));
    assert_eq!(found.main_worktree(), Some(&*fixture.repo.join("vendor/library")));
    assert_eq!(found.name(), "library");
    assert_eq!(found.default_pool_dir().parent(), Some(&*parent.join(".wtpool")));
}

#[test]
fn a_bare_repository() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    git(parent, &["clone", "-q", "--bare", "demo", "served.git"]);
    let found = Repository::find(&parent.join("served.git")).unwrap();
    assert_eq!(found.common_dir(), parent.join("served.git"));
    assert_eq!((found.worktree(), found.main_worktree()), (None, None));
    assert_eq!(found.name(), "served");
}

#[test]
fn downward_when_there_is_exactly_one() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    fs::create_dir(parent.join("notes")).unwrap();
    assert_eq!(Repository::find(parent).unwrap(), Repository::find(&fixture.repo).unwrap());

    // Linked worktrees beside it are the same repository.
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", "../aaa"]);
    assert_eq!(Repository::find(parent).unwrap(), Repository::find(&fixture.repo).unwrap());

    git(parent, &["init", "-q", "other"]);
    let error = Repository::find(parent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AmbiguousRepository);
    for expected in [&fixture.repo, &parent.join("other")] {
        assert!(error.to_string().contains(expected.to_str().unwrap()), "{error}");
    }
    assert!(error.hint().is_some());
}

#[test]
fn nothing_there_says_what_was_tried() {
    let empty = TempDir::new().unwrap();
    write(empty.path(), "a/b/c", "");
    let error = Repository::find(empty.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository);
    assert!(error.to_string().contains("above it, or among its direct children"), "{error}");
    let error = Repository::find(&empty.path().join("absent")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository);
    let error = Repository::find(&empty.path().join("a/b/c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository);
}

#[test]
fn a_grandchild_is_not_looked_for() {
    let fixture = Fixture::new();
    let outer = TempDir::new().unwrap();
    let parent = outer.path().join("x");
    fs::create_dir(&parent).unwrap();
    fs::rename(&fixture.repo, parent.join("demo")).unwrap();
    assert_eq!(Repository::find(outer.path()).unwrap_err().kind(), ErrorKind::NoRepository);
    assert!(Repository::find(&parent).is_ok());
}
