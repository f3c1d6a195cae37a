//! Ways in which work was lost once, found by somebody who tried to.

use std::fs;

use pool_core::{BranchWish, ErrorKind, Isolator, Plan, Wish};

use crate::support::{
    Fixture, commit, detached, git, git_succeeds, name, plan, plan_of, proof, settings, write,
};

async fn ended(isolator: &git_backend::GitIsolator, plan: &Plan) {
    let proof = proof(isolator, plan).await;
    isolator.dispose(proof).await.expect("disposed");
}

fn is_reached(fixture: &Fixture, commit: &str) -> bool {
    !git(&fixture.repo, &["for-each-ref", "--contains", commit]).is_empty()
}

/// A lease that starts from another lease's detached commit is the last to reach it.
#[tokio::test]
async fn a_base_that_nothing_else_reaches_is_saved() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = detached(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    write(&isolator.place(first.slot), "work", "precious");
    let work = commit(&isolator.place(first.slot), "work");

    let wish = Wish { origin: Some(isolator.place(first.slot)), ..Wish::default() };
    let base = isolator.resolve(&wish, &name("second")).await.unwrap();
    assert_eq!(base.commit.as_str(), work);
    let second = plan_of(2, "second", base);
    isolator.provision(&second).await.unwrap();
    ended(&isolator, &first).await;
    assert!(is_reached(&fixture, &work));
    ended(&isolator, &second).await;
    assert!(is_reached(&fixture, &work), "the second lease was the last to reach it");
}

/// Makes a commit that nothing but the branch `topic` reaches.
fn work_on_topic(fixture: &Fixture) -> String {
    git(&fixture.repo, &["switch", "-q", "-c", "topic"]);
    write(&fixture.repo, "work", "precious");
    let work = commit(&fixture.repo, "work");
    git(&fixture.repo, &["switch", "-q", "main"]);
    work
}

async fn lease_of_topic(
    isolator: &git_backend::GitIsolator,
    slot: u32,
    lease: &str,
    branch: BranchWish,
) -> Plan {
    let wish = Wish { base: Some("topic".into()), origin: None, branch };
    let plan = plan_of(slot, lease, isolator.resolve(&wish, &name(lease)).await.unwrap());
    isolator.provision(&plan).await.unwrap();
    plan
}

/// `git branch -d` deletes a branch that another lease's branch contains.
#[tokio::test]
async fn a_base_whose_own_branch_went_is_saved() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let work = work_on_topic(&fixture);
    let lease = lease_of_topic(&isolator, 1, "lease", BranchWish::Generated).await;
    git(&fixture.repo, &["branch", "-q", "-D", "topic"]);
    git(&fixture.repo, &["reflog", "expire", "--all", "--expire=now"]);
    ended(&isolator, &lease).await;
    assert!(is_reached(&fixture, &work));
}

/// A name for the lease's branch, which leads nowhere without it.
#[tokio::test]
async fn a_symbolic_reference_keeps_no_commit() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let work = work_on_topic(&fixture);
    let lease = lease_of_topic(&isolator, 1, "lease", BranchWish::Generated).await;
    git(&fixture.repo, &["branch", "-q", "-D", "topic"]);
    git(&fixture.repo, &["symbolic-ref", "refs/heads/current", "refs/heads/wtpool/lease"]);
    ended(&isolator, &lease).await;
    assert!(is_reached(&fixture, &work));
}

/// Two leases from one commit: the branch of each keeps it for the other, and both end at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_branches_that_keep_one_commit_do_not_both_go() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let work = work_on_topic(&fixture);
    let mut leases = Vec::new();
    for (slot, lease) in [(1, "first"), (2, "second")] {
        leases.push(lease_of_topic(&isolator, slot, lease, BranchWish::Generated).await);
    }
    git(&fixture.repo, &["branch", "-q", "-D", "topic"]);

    let (first, second) = (proof(&isolator, &leases[0]).await, proof(&isolator, &leases[1]).await);
    let lock = fs::File::create(fixture.pool_dir().join("registration.lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    // Both have looked once more by the time that their trees are away, and wait for the lock then.
    let away = async {
        while leases.iter().any(|lease| isolator.place(lease.slot).exists()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        drop(lock);
    };
    let (first, second, ()) = tokio::join!(isolator.dispose(first), isolator.dispose(second), away);
    first.and(second).unwrap();
    assert!(is_reached(&fixture, &work), "each was the other's reason to go");
}

/// Each pool has a lock of its own, and sees the other's worktrees; `detached` or each on a branch.
async fn two_pools_at_one_commit(wish: BranchWish) {
    let fixture = Fixture::new();
    let work = work_on_topic(&fixture);
    let repository = git_backend::Repository::find(&fixture.repo).unwrap();
    let mut leases = Vec::new();
    for pool in ["one", "other"] {
        let dir = fixture.root.path().join(pool);
        let isolator = git_backend::GitIsolator::open(&repository, &dir, settings()).unwrap();
        let plan = lease_of_topic(&isolator, 1, pool, wish.clone()).await;
        leases.push((dir, isolator, plan));
    }
    git(&fixture.repo, &["branch", "-q", "-D", "topic"]);
    git(&fixture.repo, &["reflog", "expire", "--all", "--expire=now"]);

    let [(one_dir, one, first), (other_dir, other, second)] = &leases[..] else { unreachable!() };
    let proofs = (proof(one, first).await, proof(other, second).await);
    let locks = [one_dir, other_dir].map(|dir| {
        let lock = fs::File::create(dir.join("registration.lock")).unwrap();
        fs4::FileExt::lock(&lock).unwrap();
        lock
    });
    let away = async {
        while one.place(first.slot).exists() || other.place(second.slot).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        drop(locks);
    };
    let (first, second, ()) = tokio::join!(one.dispose(proofs.0), other.dispose(proofs.1), away);
    first.and(second).unwrap();
    assert!(is_reached(&fixture, &work), "each was the other's reason to go");
}

#[tokio::test]
async fn a_commit_that_only_two_pools_have_checked_out() {
    two_pools_at_one_commit(BranchWish::Detached).await;
}

#[tokio::test]
async fn a_commit_that_only_branches_of_two_pools_reach() {
    for _ in 0..5 {
        two_pools_at_one_commit(BranchWish::Generated).await;
    }
}

/// An editor, or an agent with absolute paths, writes after the look and before the removal.
#[tokio::test]
async fn what_is_written_after_the_look_stops_the_removal() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    for (number, path) in [(1, "untracked"), (2, "README.md")] {
        let plan = plan(&isolator, number, &format!("lease-{number}")).await;
        isolator.provision(&plan).await.unwrap();
        let place = isolator.place(plan.slot);
        let too_old = proof(&isolator, &plan).await;
        write(&place, path, "late");
        let refused = isolator.dispose(too_old).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert_eq!(fs::read_to_string(place.join(path)).unwrap(), "late", "where it was");

        let too_old = proof(&isolator, &plan).await;
        write(&place, path, "later");
        assert_eq!(isolator.recycle(&plan, too_old).await.unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(fs::read_to_string(place.join(path)).unwrap(), "later");
        ended(&isolator, &plan).await;
        assert!(!place.exists());
    }
    assert_eq!(isolator.rescues().unwrap().list().await.unwrap().len(), 4);
}

/// Interrupted between the two renames of a removal: what stands aside is found again.
#[tokio::test]
async fn a_tree_set_aside_by_somebody_who_died_comes_back() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "untracked", "precious");
    fs::rename(&place, place.with_file_name(".leaving")).unwrap();
    let blind = proof(&isolator, &plan).await;
    isolator.dispose(blind).await.unwrap();
    assert!(!place.exists());
    assert_eq!(isolator.rescues().unwrap().list().await.unwrap().len(), 1);
}

/// Killed in the first microseconds of a registration, when nothing says yet whose it is.
#[tokio::test]
async fn a_registration_that_says_nothing_yet_is_taken_back() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let kept = plan(&isolator, 1, "kept").await;
    isolator.provision(&kept).await.unwrap();
    let name = isolator.place(kept.slot).file_name().unwrap().to_string_lossy().into_owned();
    let registrations = fixture.repo.join(".git/worktrees");
    let dead = |number: u32| registrations.join(format!("{name}{number}"));
    // Somebody else's, broken before.
    fs::create_dir(dead(1)).unwrap();
    for (number, files) in [(2, &[][..]), (3, &["locked"][..]), (4, &["locked", "gitdir"][..])] {
        let plan = plan(&isolator, number, &format!("lease-{number}")).await;
        let marker = isolator.place(plan.slot).with_file_name("making");
        fs::create_dir_all(marker.parent().unwrap()).unwrap();
        let before: Vec<String> = fs::read_dir(&registrations)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        let begun = format!("by wtpool\nregistering beside\n{}\nend\n", before.join("\n"));
        fs::write(marker, begun).unwrap();
        fs::create_dir(dead(number)).unwrap();
        for file in files {
            let content = if *file == "locked" { "initializing\n" } else { "" };
            fs::write(dead(number).join(file), content).unwrap();
        }
        ended(&isolator, &plan).await;
        assert!(!dead(number).exists(), "with {files:?}");
    }
    assert!(dead(1).exists(), "it was there before");
    assert!(isolator.place(kept.slot).join("README.md").exists());
}

/// Killed while the worktree's `.git` was being written.
#[tokio::test]
async fn a_worktree_with_half_a_git_file_is_taken_back() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    for (number, begun) in [(1, ""), (2, "gitdir: ")] {
        let plan = plan(&isolator, number, &format!("lease-{number}")).await;
        let place = isolator.place(plan.slot);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.with_file_name("making"), "by wtpool\n").unwrap();
        fs::write(place.join(".git"), begun).unwrap();
        ended(&isolator, &plan).await;
        assert!(!place.exists());
    }
}

/// Line ends that `git add` would take away, and no checkout gives back.
#[tokio::test]
async fn a_conversion_that_goes_one_way_is_a_modification() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "core.autocrlf", "input"]);
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "README.md", "demo\r\n");
    assert_eq!(isolator.inspect(&plan).await.unwrap().losses.modified, 1);
    ended(&isolator, &plan).await;
    let rescues = isolator.rescues().unwrap().list().await.unwrap();
    let saved =
        git(&fixture.repo, &["cat-file", "-s", &format!("{}:README.md", rescues[0].reference)]);
    assert_eq!(saved, "6");
}

/// And one that goes both ways is none, even when the file was only touched.
#[tokio::test]
async fn a_conversion_that_goes_both_ways_is_none() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "core.autocrlf", "true"]);
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let file = isolator.place(plan.slot).join("README.md");
    let content = fs::read(&file).unwrap();
    assert_eq!(content, b"demo\r\n");
    fs::write(&file, content).unwrap();
    assert!(isolator.inspect(&plan).await.unwrap().losses.is_empty());
}

#[tokio::test]
async fn nothing_is_restored_into_the_pool_itself() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "untracked", "precious");
    ended(&isolator, &plan).await;
    let archive = isolator.rescues().unwrap();
    let id = archive.list().await.unwrap()[0].id.clone();
    let refused = archive.restore_into(&id, &place).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(!place.exists());
    assert!(git_succeeds(&fixture.repo, &["rev-parse", "--verify", "-q", "refs/heads/main"]));
}

/// A repository in which a file is to go through a filter once there is one.
#[cfg(unix)]
fn with_a_filter() -> Fixture {
    let fixture = Fixture::new();
    write(&fixture.repo, ".gitattributes", "*.txt filter=late\n");
    write(&fixture.repo, "a.txt", "one\n");
    commit(&fixture.repo, "one");
    fixture
}

/// Commits something for which a reset has git run that script, as a filter.
#[cfg(unix)]
fn next_reset_runs(fixture: &Fixture, lines: &str) {
    let script = fixture.root.path().join("late.sh");
    fs::write(&script, lines).unwrap();
    let command = format!("sh '{}' 2>/dev/null", script.display());
    git(&fixture.repo, &["config", "filter.late.smudge", &command]);
    git(&fixture.repo, &["config", "filter.late.clean", "cat"]);
    write(&fixture.repo, "a.txt", "two\n");
    commit(&fixture.repo, "two");
}

/// Somebody writes by the slot's path while git resets it: here a filter, which git runs in the middle of
/// the reset, so that the moment is always hit.
#[cfg(unix)]
#[tokio::test]
async fn what_is_written_during_a_reset_is_refused_or_kept() {
    // One as an editor does, and one that makes the directory anew.
    for (prepare, slot) in [("true", 1), ("mkdir -p \"$place\"", 2)] {
        let fixture = with_a_filter();
        let isolator = fixture.isolator();
        let first = plan(&isolator, slot, "first").await;
        isolator.provision(&first).await.unwrap();
        let place = isolator.place(first.slot);

        let told = fixture.root.path().join("told");
        let lines = format!(
            "cat; place='{}'; {prepare}; \
             if echo late 2>/dev/null > \"$place/new\" && echo late >> \"$place/README.md\"; \
             then echo written >> '{}'; else echo refused >> '{}'; fi",
            place.display(),
            told.display(),
            told.display(),
        );
        next_reset_runs(&fixture, &lines);
        promise_objects(&fixture);

        let second = plan(&isolator, slot, "second").await;
        let proof = proof(&isolator, &first).await;
        let reset = isolator.recycle(&second, proof).await;
        let told = fs::read_to_string(&told).expect("the filter ran");
        if told.contains("written") {
            assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "late\n");
            assert!(fs::read_to_string(place.join("README.md")).unwrap().ends_with("late\n"));
            assert!(reset.is_err(), "a directory that is not the pool's was handed out");
            // Nor does the clean-up that follows take it.
            let proof = self::proof(&isolator, &second).await;
            let kept = isolator.dispose(proof).await.unwrap_err();
            assert_eq!(kept.kind(), ErrorKind::WouldLoseWork, "{kept}");
            assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "late\n");
            assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 1);
        } else {
            reset.unwrap();
            assert!(!place.join("new").exists());
            assert_eq!(fs::read_to_string(place.join("a.txt")).unwrap(), "two\n");
        }
    }
}

/// The same where git checks out at the slot's place, as for filters: no file is replaced.
#[cfg(unix)]
#[tokio::test]
async fn what_is_written_during_a_filtered_checkout_is_kept() {
    let fixture = with_a_filter();
    write(&fixture.repo, "last", "z\n");
    commit(&fixture.repo, "last");
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(first.slot);
    // Before git gets to the one, and after it has written the other.
    let lines = format!(
        "cat; cd '{}' 2>/dev/null || exit 0; for file in new last README.md; do echo late >> $file; done",
        place.display(),
    );
    next_reset_runs(&fixture, &lines);
    let second = plan(&isolator, 1, "second").await;
    let proof = proof(&isolator, &first).await;
    isolator.recycle(&second, proof).await.unwrap();
    for (file, content) in [("new", "late\n"), ("last", "late\n"), ("README.md", "demo\nlate\n")] {
        assert_eq!(fs::read_to_string(place.join(file)).unwrap(), content, "{file}");
    }
    assert_eq!(fs::read_to_string(place.join("a.txt")).unwrap(), "two\n");
}

/// Marks the repository as a partial clone, for which git resets a tree that is set aside.
#[cfg(unix)]
fn promise_objects(fixture: &Fixture) {
    git(&fixture.repo, &["config", "remote.origin.promisor", "true"]);
}

/// Somebody's `git worktree prune` in the middle of a reset, when nothing is at the worktree's place: a filter
/// runs it, so that the moment is always hit.
#[cfg(unix)]
#[tokio::test]
async fn a_prune_during_a_reset_takes_nothing() {
    // As the lease leaves the worktree, and with a lock of its own.
    for (slot, locked) in [(1, false), (2, true)] {
        let fixture = with_a_filter();
        let isolator = fixture.isolator();
        let first = plan(&isolator, slot, "first").await;
        isolator.provision(&first).await.unwrap();
        let place = isolator.place(first.slot);
        if locked {
            git(&fixture.repo, &["worktree", "lock", place.to_str().unwrap()]);
        }
        let admin = fixture.repo.join(".git/worktrees/demo");
        let kept = fs::read(admin.join("gitdir")).expect("registered");

        let told = fixture.root.path().join("told");
        let (repo, absent) = (fixture.repo.display(), place.display());
        let lines = format!(
            "cat; test -e '{absent}' || env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE -u GIT_PREFIX \
             git -C '{repo}' worktree prune -v >> '{told}' 2>&1 && echo pruned >> '{told}'",
            told = told.display(),
        );
        next_reset_runs(&fixture, &lines);
        promise_objects(&fixture);

        let second = plan(&isolator, slot, "second").await;
        let proof = proof(&isolator, &first).await;
        let reset = isolator.recycle(&second, proof).await;
        let told = fs::read_to_string(&told).expect("the filter ran while nothing was there");
        assert_eq!(told, "pruned\n", "{reset:?}");
        reset.unwrap();
        assert_eq!(fs::read(admin.join("gitdir")).expect("still registered"), kept);
        assert!(!admin.join("locked").exists(), "the next lease is not locked by the last");
        assert_eq!(fs::read_to_string(place.join("a.txt")).unwrap(), "two\n");
    }
}
