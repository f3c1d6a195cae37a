//! What stands between an accident and lost work, where nothing else makes that accident happen.

use std::fs;
use std::path::Path;

use pool_core::{Condition, Discovered, ErrorKind, Isolator, SlotId};

use crate::support::{
    Fixture, archive, commit, git, git_succeeds, plan, proof, read, registrations, write,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_registers_while_another_does() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.pool_dir()).unwrap();
    let lock = fs::File::create(fixture.pool_dir().join("registration.lock")).unwrap();
    nobody_registers_under(&fixture, lock).await;
}

/// Its lock is elsewhere; what both have is the repository.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_registers_while_another_pool_does() {
    let fixture = Fixture::new();
    let lock = fs::File::open(fixture.repo.join(".git")).unwrap();
    nobody_registers_under(&fixture, lock).await;
}

async fn nobody_registers_under(fixture: &Fixture, lock: fs::File) {
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "second").await;
    fs4::FileExt::lock(&lock).unwrap();
    let making = isolator.provision(&plan);
    tokio::pin!(making);
    // Far longer than it takes to register without waiting.
    tokio::select! {
        made = &mut making => panic!("it did not wait: {made:?}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(700)) => {}
    }
    assert_eq!(registrations(&fixture.repo), 0);
    assert!(!git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/second"]));
    drop(lock);
    making.await.unwrap();
    assert_eq!(registrations(&fixture.repo), 1);
}

/// By a filter, which the pool runs in the middle of its saving, so that the moment is always hit.
#[cfg(unix)]
#[tokio::test]
async fn what_is_written_while_it_is_saved_is_saved_too() {
    let fixture = Fixture::new();
    write(&fixture.repo, ".gitattributes", "a.txt filter=late\n");
    write(&fixture.repo, "a.txt", "one\n");
    commit(&fixture.repo, "one");
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "late").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    let root = fixture.root.path();
    // First to see what there is, then again to begin with, and then to store it.
    let script = format!(
        "echo >> '{0}/calls'; [ \"$(wc -l < '{0}/calls')\" != 3 ] || echo late > '{1}/late'; cat",
        root.display(),
        place.display()
    );
    fs::write(root.join("late.sh"), script).unwrap();
    let command = format!("sh '{}/late.sh'", root.display());
    git(&fixture.repo, &["config", "filter.late.clean", &command]);
    write(&place, "a.txt", "two\n");

    let settled = proof(&isolator, &plan).await;
    assert_eq!(read(place.join("late")), "late\n", "the filter did not run in that moment");
    let rescue = settled.rescue().expect("there was something to save").clone();
    isolator.dispose(settled).await.unwrap();
    let contents = archive(&isolator).contents(&rescue.id).await.unwrap();
    let saved: Vec<&str> = contents.iter().map(|held| held.path.as_str()).collect();
    assert_eq!(saved, ["a.txt", "late"]);
}

/// A slot whose worktree somebody took away, with something else in its place.
async fn replaced(by: impl FnOnce(&Fixture, &Path)) {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "gone").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    let settled = proof(&isolator, &plan).await;
    git(&fixture.repo, &["worktree", "remove", "--force", place.to_str().unwrap()]);
    by(&fixture, &place);
    let others = registrations(&fixture.repo);
    write(&place, "theirs.txt", "theirs");

    assert!(matches!(
        isolator.discover().await.unwrap().as_slice(),
        [Discovered { condition: Condition::Foreign(_), .. }]
    ));
    assert_eq!(isolator.dispose(settled).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
    let refused = isolator.inspect(&plan).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{refused}");
    assert_eq!(read(place.join("theirs.txt")), "theirs");
    assert_eq!(registrations(&fixture.repo), others);
}

#[tokio::test]
async fn a_worktree_of_another_repository_is_foreign() {
    let other = Fixture::new();
    replaced(|_, place| {
        git(&other.repo, &["worktree", "add", "-q", "--detach", place.to_str().unwrap()]);
    })
    .await;
    assert_eq!(registrations(&other.repo), 1);
}

/// Somebody pruned it there: its tree is as little the pool's as before.
#[tokio::test]
async fn a_pruned_worktree_of_another_repository_is_foreign() {
    let other = Fixture::new();
    replaced(|_, place| {
        git(&other.repo, &["worktree", "add", "-q", "--detach", place.to_str().unwrap()]);
        fs::remove_dir_all(other.repo.join(".git/worktrees")).unwrap();
    })
    .await;
}

/// To git it is a worktree of the repository, but what is deleted with a slot's worktree must have been made with it.
#[tokio::test]
async fn a_worktree_whose_files_of_git_are_elsewhere_is_foreign() {
    let elsewhere = tempfile::tempdir().unwrap();
    let admin = elsewhere.path().join("admin");
    replaced(|fixture, place| {
        git(&fixture.repo, &["worktree", "add", "-q", "--detach", place.to_str().unwrap()]);
        let mut made = fs::read_dir(fixture.repo.join(".git/worktrees")).unwrap();
        fs::rename(made.next().unwrap().unwrap().path(), &admin).unwrap();
        fs::write(admin.join("commondir"), fixture.repo.join(".git").to_str().unwrap()).unwrap();
        fs::write(place.join(".git"), format!("gitdir: {}\n", admin.display())).unwrap();
        git(place, &["status"]);
    })
    .await;
    assert!(admin.join("HEAD").exists());
}

/// As `cp -r` of one of the user's own worktrees makes it.
#[tokio::test]
async fn a_worktree_that_is_registered_elsewhere_is_foreign() {
    replaced(|fixture, place| {
        let own = fixture.root.path().join("own");
        git(&fixture.repo, &["worktree", "add", "-q", "--detach", own.to_str().unwrap()]);
        fs::create_dir_all(place).unwrap();
        fs::copy(own.join(".git"), place.join(".git")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_branch_that_moved_after_the_look_stays() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "moved").await;
    isolator.provision(&plan).await.unwrap();
    git(&isolator.place(SlotId(1)), &["checkout", "-q", "--detach"]);
    let settled = proof(&isolator, &plan).await;
    write(&fixture.repo, "new.txt", "new");
    let moved = commit(&fixture.repo, "new");
    git(&fixture.repo, &["update-ref", "refs/heads/wtpool/moved", &moved]);
    isolator.dispose(settled).await.unwrap();
    assert_eq!(git(&fixture.repo, &["rev-parse", "wtpool/moved"]), moved);
}

/// The pool's own note of the branch that it made.
#[tokio::test]
async fn a_note_that_makes_no_sense_deletes_nothing_and_keeps_no_slot() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    git(&fixture.repo, &["branch", "free"]);
    let head = fixture.head();
    let notes: [&[u8]; 5] =
        [b"not-an-id free\n", b"\xff\xfe free\n", b"free\n", b"0 free\n", b"* free\n"];
    for note in notes.map(<[u8]>::to_vec).into_iter().chain([format!("{head} ../free\n").into()]) {
        let plan = plan(&isolator, 1, "lease").await;
        isolator.provision(&plan).await.unwrap();
        fs::write(fixture.pool_dir().join("branches/1"), &note).unwrap();
        let settled = proof(&isolator, &plan).await;
        isolator.dispose(settled).await.unwrap();
        assert_eq!(isolator.discover().await.unwrap(), [], "{note:?}");
        assert_eq!(git(&fixture.repo, &["rev-parse", "free", "wtpool/lease"]).lines().count(), 2);
        git(&fixture.repo, &["branch", "-D", "wtpool/lease"]);
    }
}

/// As a hook of git's has them, in which a host calls the library.
#[test]
fn variables_of_git_do_not_reach_the_pools_own_git() {
    let elsewhere = tempfile::tempdir().unwrap();
    let index = elsewhere.path().join("index");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guards::in_a_hook", "--ignored"])
        .env("GIT_INDEX_FILE", &index)
        .env("GIT_OBJECT_DIRECTORY", elsewhere.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "another test runs it as a process of its own"]
async fn in_a_hook() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    write(&fixture.repo, "new.txt", "new");
    commit(&fixture.repo, "new");
    // The slot is reset to the new commit by git itself.
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join("new.txt")), "new");
    assert_eq!(git(&place, &["status", "--porcelain"]), "");
}
