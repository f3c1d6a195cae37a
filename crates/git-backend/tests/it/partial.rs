//! Partial clones: what they left out is fetched when it is needed.

use std::fs;

use pool_core::{Isolator, Losses, SlotId};

use crate::support::{
    Fixture, archive, commit, git, git_succeeds, plan, proof, read, status, write,
};

/// A clone without any file's content but that of the main worktree's own.
fn partial_clone() -> Fixture {
    let mut fixture = Fixture::new();
    write(&fixture.repo, "later.txt", "1\n");
    commit(&fixture.repo, "older");
    write(&fixture.repo, "later.txt", "2\n");
    commit(&fixture.repo, "newer");
    git(&fixture.repo, &["config", "uploadpack.allowFilter", "true"]);
    git(&fixture.repo, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let root = fixture.root.path().canonicalize().unwrap();
    let url = format!("file://{}", fixture.repo.display());
    git(&root, &["clone", "-q", "--filter=blob:none", "--no-checkout", &url, "partial"]);
    fixture.repo = root.join("partial");
    fixture
}

fn has(fixture: &Fixture, object: &str) -> bool {
    let id = git(&fixture.repo, &["rev-parse", object]);
    let missing = git(&fixture.repo, &["rev-list", "--objects", "--all", "--missing=print"]);
    !missing.contains(&format!("?{id}"))
}

#[tokio::test]
async fn leases_of_a_partial_clone() {
    let fixture = partial_clone();
    assert!(!has(&fixture, "HEAD:README.md"), "the clone is a partial one");
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join("later.txt")), "2\n");
    assert_eq!(status(&place), "");
    assert!(has(&fixture, "HEAD:README.md"));
    assert!(!has(&fixture, "HEAD~1:later.txt"), "no more was fetched than is needed");
    assert_eq!(isolator.inspect(&first).await.unwrap().losses, Losses::default());

    // Work, saved, and the slot reset to a commit of which a file was never fetched.
    write(&place, "later.txt", "changed\n");
    write(&place, "new.txt", "new\n");
    fs::remove_file(place.join("src/main.rs")).unwrap();
    let before = status(&place);
    let wish = pool_core::Wish { base: Some("HEAD~1".into()), ..Default::default() };
    let base = isolator.resolve(&wish, &crate::support::name("second")).await.unwrap();
    let second = crate::support::plan_of(1, "second", base);
    let saved = proof(&isolator, &first).await;
    let rescue = saved.rescue().unwrap().clone();
    isolator.recycle(&second, saved).await.unwrap();
    assert_eq!(read(place.join("later.txt")), "1\n");
    assert_eq!(status(&place), "");

    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(&isolator).restore_into(&rescue.id, &into).await.unwrap();
    assert_eq!(read(into.join("later.txt")), "changed\n");
    assert_eq!(read(into.join("README.md")), "demo\n");
    assert_eq!(status(&into), before);
    let settled = proof(&isolator, &second).await;
    isolator.dispose(settled).await.unwrap();
    git(&fixture.repo, &["fsck"]);
}

#[tokio::test]
async fn a_partial_clone_whose_origin_is_gone_makes_no_half_worktree() {
    let fixture = partial_clone();
    fs::rename(fixture.root.path().join("demo"), fixture.root.path().join("moved")).unwrap();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "first").await;
    let error = isolator.provision(&plan).await.unwrap_err();
    assert!(error.to_string().contains("git reset"), "{error}");
    assert!(!isolator.place(SlotId(1)).exists());
    assert_eq!(crate::support::registrations(&fixture.repo), 0);
    assert!(!git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/first"]));
}
