//! What others do and have: their repositories, locks, hooks, broken registrations, and deletions by
//! hand. None of it is touched, and none of it is in the way.

use std::fs;
use std::path::PathBuf;

use pool_core::{Condition, Discovered, ErrorKind, Isolator, SlotId};

use crate::support::{Fixture, found, git, plan, proof, read, registrations, status, write};

#[tokio::test]
async fn a_foreign_repository_in_a_slot_stays_untouched() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "evicted").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    let settled = proof(&isolator, &plan).await;
    let other = proof(&isolator, &plan).await;
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir(&place).unwrap();
    git(&place, &["init", "-q"]);
    write(&place, "theirs.txt", "theirs");

    assert!(matches!(
        isolator.discover().await.unwrap().as_slice(),
        [Discovered { condition: Condition::Foreign(_), .. }]
    ));
    assert_eq!(isolator.dispose(settled).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
    assert_eq!(isolator.recycle(&plan, other).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
    let error = isolator.provision(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldLoseWork);
    assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    assert_eq!(read(place.join("theirs.txt")), "theirs");
    assert!(place.join(".git").is_dir());
}

#[cfg(unix)]
#[tokio::test]
async fn a_slot_that_is_a_link_to_elsewhere_is_foreign() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "link").await;
    let place = isolator.place(SlotId(1));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&fixture.repo, &place).unwrap();
    assert_eq!(isolator.provision(&plan).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
    assert_eq!(status(&fixture.repo), "");
}

#[tokio::test]
async fn a_lock_of_somebody_else_is_waited_for_and_never_removed() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    let lock = PathBuf::from(git(&place, &["rev-parse", "--absolute-git-dir"])).join("index.lock");
    let settled = proof(&isolator, &first).await;
    fs::write(&lock, "").unwrap();
    let second = plan(&isolator, 1, "second").await;
    let error = isolator.recycle(&second, settled).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("index.lock"), "{error}");
    assert!(error.hint().is_some());
    assert!(lock.exists());
    // Nothing was begun: the slot is as sound as it was.
    assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::Sound)]);
    assert_eq!(git(&place, &["branch", "--show-current"]), "wtpool/first");
}

/// What a git that was killed in the middle of packing references leaves.
#[tokio::test]
async fn a_lock_of_all_packed_references_keeps_no_work_from_being_saved() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["pack-refs", "--all"]);
    let lock = fixture.repo.join(".git/packed-refs.lock");
    fs::write(&lock, "").unwrap();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "first").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(SlotId(1)), "new.txt", "work\n");
    let saved = proof(&isolator, &plan).await;
    let rescue = saved.rescue().expect("saved").clone();
    // Whether the branch is packed as well nobody can tell.
    let error = isolator.dispose(saved).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("packed-refs.lock"), "{error}");
    assert!(error.hint().is_some());

    fs::remove_file(&lock).unwrap();
    isolator.dispose(proof(&isolator, &plan).await).await.unwrap();
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    assert_eq!(git(&fixture.repo, &["show", &format!("{}:new.txt", rescue.reference)]), "work");
}

#[cfg(unix)]
#[tokio::test]
async fn hooks_and_monitors_of_the_repository_are_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let hooks = fixture.repo.parent().unwrap().join("hooks");
    let trace = fixture.repo.parent().unwrap().join("ran");
    for hook in ["post-checkout", "post-index-change", "reference-transaction", "monitor"] {
        write(&hooks, hook, &format!("#!/bin/sh\ntouch '{}'\n", trace.display()));
        fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(hooks.join(hook), fixture.repo.join(".git/hooks").join(hook)).unwrap();
    }
    git(&fixture.repo, &["config", "core.hooksPath", hooks.to_str().unwrap()]);
    git(&fixture.repo, &["config", "core.fsmonitor", hooks.join("monitor").to_str().unwrap()]);
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    let second = plan(&isolator, 1, "second").await;
    isolator.provision(&first).await.unwrap();
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    let settled = proof(&isolator, &second).await;
    isolator.dispose(settled).await.unwrap();
    assert!(!trace.exists());
    // They do run for everybody else, so the test can fail.
    git(&fixture.repo, &["checkout", "-q", "--detach"]);
    assert!(trace.exists());
}

#[tokio::test]
async fn a_broken_registration_of_somebody_else_stops_nobody() {
    let fixture = Fixture::new();
    let broken = fixture.repo.join(".git/worktrees/broken");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("gitdir"), "/nowhere/at/all/.git\n").unwrap();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "fine").await;
    isolator.provision(&plan).await.unwrap();
    assert!(broken.join("gitdir").exists());
}

#[tokio::test]
async fn deleted_by_hand_and_pruned_behind_our_back() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    for prune in [false, true] {
        let plan = plan(&isolator, 1, "gone").await;
        isolator.provision(&plan).await.unwrap();
        fs::remove_dir_all(isolator.place(SlotId(1))).unwrap();
        if prune {
            git(&fixture.repo, &["worktree", "prune"]);
        }
        assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::Missing)]);
        let proof = proof(&isolator, &plan).await;
        isolator.dispose(proof).await.unwrap();
        assert_eq!(isolator.discover().await.unwrap(), []);
        assert_eq!(registrations(&fixture.repo), 0);
        assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    }
    // With the whole slot's directory, notes included.
    let plan = plan(&isolator, 1, "gone").await;
    isolator.provision(&plan).await.unwrap();
    fs::remove_dir_all(fixture.pool_dir().join("slots")).unwrap();
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 0);
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
}
