//! Set-up files that come along: what git ignores in the main worktree, for whatever reason.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use git_backend::{GitIsolator, GitSettings};
use pool_core::{Isolator, Plan, SlotId};

use crate::support::{Fixture, archive, commit, git, plan, proof, read, settings, status, write};

fn copying(fixture: &Fixture, patterns: &[&str]) -> GitIsolator {
    let copy = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    fixture.isolator_with(GitSettings { copy, ..settings() })
}

/// A first lease of slot 1 and its directory.
async fn leased(isolator: &GitIsolator) -> (Plan, PathBuf) {
    let first = plan(isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    (first, isolator.place(SlotId(1)))
}

async fn left_out(fixture: &Fixture, patterns: &[&str]) -> String {
    let isolator = copying(fixture, patterns);
    let (first, place) = leased(&isolator).await;
    assert_eq!(status(&place), "", "{patterns:?}");
    let left_out = isolator.left_out(SlotId(1)).join("\n");
    let settled = proof(&isolator, &first).await;
    isolator.dispose(settled).await.unwrap();
    left_out
}

#[tokio::test]
async fn files_that_an_untracked_gitignore_hides_come_along() {
    let fixture = Fixture::new();
    // As husky and Python's venv leave them.
    write(&fixture.repo, ".husky/_/.gitignore", "*");
    write(&fixture.repo, ".husky/_/h", "#!/bin/sh\n");
    write(&fixture.repo, ".venv/.gitignore", "*\n");
    write(&fixture.repo, ".venv/lib/site.py", "x = 1\n");
    // Two that do not hide themselves; of one, only the file is asked for.
    write(&fixture.repo, "config/.gitignore", "secret\n");
    write(&fixture.repo, "config/secret", "s");
    write(&fixture.repo, "deep/.gitignore", "/er/*.key\n");
    write(&fixture.repo, "deep/er/a.key", "k");
    let isolator = copying(&fixture, &[".husky/_", ".venv", "config/secret", "deep/er"]);
    let (first, place) = leased(&isolator).await;
    assert_eq!(isolator.left_out(SlotId(1)), [""; 0]);
    for turn in ["first", "second"] {
        for path in [".husky/_/h", ".venv/lib/site.py", "config/secret", "deep/er/a.key"] {
            assert_eq!(read(place.join(path)), read(fixture.repo.join(path)), "{turn}");
            git(&place, &["check-ignore", "-q", path]);
        }
        let added = git(&place, &["add", "--all", "--dry-run"]);
        assert!(!added.contains("secret") && !added.contains("a.key"), "{turn}: {added}");
        if turn == "first" {
            // Nothing of it is work.
            let settled = proof(&isolator, &first).await;
            let second = plan(&isolator, 1, "second").await;
            isolator.recycle(&second, settled).await.unwrap();
            assert!(archive(&isolator).list().await.unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn all_sources_of_ignore_rules_count() {
    let fixture = Fixture::new();
    let excludes = fixture.repo.parent().unwrap().join("excludes");
    fs::write(&excludes, "*.mine\n").unwrap();
    git(&fixture.repo, &["config", "core.excludesFile", excludes.to_str().unwrap()]);
    fs::create_dir_all(fixture.repo.join(".git/info")).unwrap();
    fs::write(fixture.repo.join(".git/info/exclude"), "/local/\n").unwrap();
    write(&fixture.repo, "a.mine", "a");
    write(&fixture.repo, "local/b", "b");
    let isolator = copying(&fixture, &["*.mine", "local"]);
    let (_, place) = leased(&isolator).await;
    assert_eq!(read(place.join("a.mine")), "a");
    assert_eq!(read(place.join("local/b")), "b");
    assert_eq!(status(&place), "");
}

#[tokio::test]
async fn file_that_git_would_add_in_the_lease_is_not_left_there() {
    let fixture = Fixture::new();
    write(&fixture.repo, "token", "secret");
    // A rule that is not committed.
    write(&fixture.repo, ".gitignore", "target/\n.env\n*.local\ntoken\n");
    let said = left_out(&fixture, &["token"]).await;
    assert_eq!(said, "token is ignored by a rule that this commit does not have");
    commit(&fixture.repo, "the rule");
    assert_eq!(left_out(&fixture, &["token"]).await, "");
}

#[tokio::test]
async fn what_is_not_copied_is_said_once() {
    let fixture = Fixture::new();
    let outside = fixture.repo.parent().unwrap().join("outside");
    fs::write(&outside, "not the project's").unwrap();
    symlink(&outside, fixture.repo.join(".env")).unwrap();
    symlink("/nowhere/at/all", fixture.repo.join("gone.local")).unwrap();
    write(&fixture.repo, "visible", "v");
    let said = left_out(&fixture, &[".env"]).await;
    assert_eq!(said, ".env leads out of the main worktree");
    assert_eq!(
        left_out(&fixture, &["gone.local"]).await,
        "gone.local leads out of the main worktree"
    );
    assert_eq!(left_out(&fixture, &["absent/*"]).await, "`absent/*` matches nothing");
    assert_eq!(left_out(&fixture, &["visible"]).await, "`visible`: visible is not ignored");
    assert_eq!(left_out(&fixture, &["README.md"]).await, "`README.md`: README.md is tracked");
    // Some of what a pattern matches is enough.
    write(&fixture.repo, "config/a.local", "a");
    write(&fixture.repo, "config/b", "b");
    assert_eq!(left_out(&fixture, &["config"]).await, "");
}

#[tokio::test]
async fn tracked_file_is_never_overwritten_by_a_copy() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["switch", "-q", "-c", "old"]);
    write(&fixture.repo, ".env", "tracked once");
    git(&fixture.repo, &["add", "-f", ".env"]);
    commit(&fixture.repo, "tracked");
    let isolator = copying(&fixture, &[".env"]);
    let old = plan(&isolator, 1, "old").await;
    git(&fixture.repo, &["switch", "-q", "main"]);
    write(&fixture.repo, ".env", "mine");
    isolator.provision(&old).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join(".env")), "tracked once");
    assert_eq!(isolator.left_out(SlotId(1)), ["`.env`: .env is tracked"]);
    // And the other way round, in the same slot.
    let new = plan(&isolator, 1, "new").await;
    let settled = proof(&isolator, &old).await;
    isolator.recycle(&new, settled).await.unwrap();
    assert_eq!(read(place.join(".env")), "mine");
}
