//! What others see of a pool's work while they use git in the same repository, and what it sees of theirs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pool_core::Isolator;

use crate::support::{Fixture, archive, commit, git, plan, proof, write};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_a_registration_half_made() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let (over, registrations) = (AtomicBool::new(false), fixture.repo.join(".git/worktrees"));
    let half_made = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut half_made = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&registrations).into_iter().flatten().flatten() {
                    let read = |name| fs::read_to_string(entry.path().join(name));
                    // Git looks at those only that have a `gitdir`.
                    if read("gitdir").is_err() {
                        continue;
                    }
                    let (common, head) = (read("commondir"), read("HEAD"));
                    let is_whole = common.as_deref().is_ok_and(|common| common == "../..\n")
                        && head.as_deref().is_ok_and(|head| !head.starts_with("000"));
                    if !is_whole && entry.path().is_dir() {
                        half_made.push((common.ok(), head.ok()));
                    }
                }
            }
            half_made
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for slot in 1..=20 {
                    let plan = plan(&isolator, slot, &format!("lease-{slot}")).await;
                    isolator.provision(&plan).await.expect("provisioned");
                }
                let plan = plan(&isolator, 21, "rescued").await;
                isolator.provision(&plan).await.expect("provisioned");
                write(&isolator.place(plan.slot), "work", "precious");
                let saved = proof(&isolator, &plan).await.rescue().expect("saved").id.clone();
                for number in 0..20 {
                    let into = fixture.root.path().join(format!("restored-{number}"));
                    archive(&isolator).restore_into(&saved, &into).await.expect("restored");
                }
            });
        });
        over.store(true, Ordering::Relaxed);
        watcher.join().expect("it watched")
    });
    assert_eq!(half_made, []);
    assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 42);
}

/// Each rescue comes in one.
#[tokio::test]
async fn what_is_in_many_packs_that_came_later_is_found() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    isolator.provision(&plan(&isolator, 1, "first").await).await.expect("provisioned");
    for number in 0..40 {
        write(&fixture.repo, "number.txt", &number.to_string());
        commit(&fixture.repo, "another");
        git(&fixture.repo, &["repack", "-d", "--quiet"]);
    }
    isolator.provision(&plan(&isolator, 2, "second").await).await.expect("provisioned");
}

#[tokio::test]
async fn a_name_that_another_git_has_just_reserved_stays_its_own() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let reserved = fixture.repo.join(".git/worktrees/demo");
    fs::create_dir_all(&reserved).expect("made");
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.expect("provisioned");
    assert_eq!(fs::read_dir(&reserved).expect("still there").count(), 0);
    let admin = git(&isolator.place(plan.slot), &["rev-parse", "--absolute-git-dir"]);
    assert!(admin.ends_with("/worktrees/demo1"), "{admin}");
}

/// A collection writes the logs of all worktrees again. That is nobody's work in them.
#[tokio::test]
async fn collecting_garbage_is_no_change_of_a_worktree() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.expect("provisioned");
    let place = isolator.place(plan.slot);
    write(&place, "new", "untracked\n");
    let before = isolator.inspect(&plan).await.expect("inspected").fingerprint;
    git(&fixture.repo, &["gc", "--quiet", "--prune=now"]);
    let after = isolator.inspect(&plan).await.expect("inspected").fingerprint;
    assert_eq!(before, after);

    git(&place, &["commit", "--quiet", "--allow-empty", "--message", "work"]);
    let worked = isolator.inspect(&plan).await.expect("inspected").fingerprint;
    assert_ne!(after, worked);
}

/// Git locks a worktree's `HEAD` while it writes the log of it again.
#[tokio::test]
async fn a_log_that_git_is_writing_is_not_removed_from_under_it() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.expect("provisioned");
    let lock = fixture.repo.join(".git/worktrees/demo/HEAD.lock");
    fs::write(&lock, "").expect("locked");
    let inspection = isolator.inspect(&plan).await.expect("inspected");
    let proof = isolator.preserve(inspection).await.expect("nothing to lose");
    let writer = thread::spawn(move || {
        thread::sleep(std::time::Duration::from_millis(300));
        let was_there = lock.exists();
        let _ = fs::remove_file(lock);
        was_there
    });
    isolator.dispose(proof).await.expect("disposed");
    assert!(writer.join().expect("it wrote"), "the registration went while git was at it");
    assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 1);
}
