//! A take-over of a moved pool that was interrupted anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, Repository};
use pool_core::{Condition, Isolator, SlotId};

use crate::support::{Fixture, git, git_succeeds, plan, settings, write};

/// Opens the pool of the repository at `repo` as a verb does, and expects its only slot in order.
async fn sound(repo: &Path, pool_dir: &Path) -> PathBuf {
    let repository = Repository::find(repo).expect("found");
    let isolator = GitIsolator::open(&repository, pool_dir, settings()).expect("opened");
    isolator.claim_dir().expect("claimed");
    let found = isolator.discover().await.expect("listed");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].condition, Condition::Sound);
    let place = isolator.place(SlotId(1));
    assert_eq!(git(&place, &["status", "--short"]), "?? work");
    place
}

/// A pool with a worktree, in which there is work.
async fn pool() -> Fixture {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    fs::create_dir_all(fixture.pool_dir().join("slots")).expect("made");
    isolator.claim_dir().expect("claimed");
    let plan = plan(&isolator, 1, "kept").await;
    isolator.provision(&plan).await.expect("provisioned");
    write(&isolator.place(SlotId(1)), "work", "work\n");
    fixture
}

/// The files that a take-over writes, in its order.
fn written(repo: &Path, pool_dir: &Path) -> Vec<PathBuf> {
    let admin = fs::read_dir(repo.join(".git/worktrees")).expect("read").next();
    let admin = admin.expect("one").expect("read").path();
    let slot = pool_dir.join("slots/1/demo/.git");
    let identity = pool_dir.join(".repository.identity");
    vec![admin.join("gitdir"), slot, pool_dir.join("repository"), identity]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_take_over_is_finished_wherever_the_repository_is_then() {
    // How many of the files are written when it is interrupted; and whether the repository is moved
    // back then.
    for done in 0..=4 {
        for is_moved_back in [false, true] {
            let fixture = pool().await;
            let (root, pool_dir) = (fixture.root.path().to_owned(), fixture.pool_dir());
            let moved = fixture.repo.with_file_name("moved");
            fs::rename(&fixture.repo, &moved).expect("moved");
            let files = written(&moved, &pool_dir);
            let before: Vec<_> = files.iter().map(|file| fs::read(file).expect("read")).collect();
            sound(&moved, &pool_dir).await;
            let identity = fs::read_to_string(&files[3]).expect("read");
            for (file, content) in files.iter().zip(before).skip(done) {
                fs::write(file, content).expect("put back");
            }
            if done < 4 {
                // The mark that it was begun, which comes before all else.
                let of = moved.canonicalize().expect("it exists").join(".git");
                let mark = format!("\"taken_by\":[{:?}]", of.to_str().expect("UTF-8"));
                fs::write(&files[3], identity.replace("\"taken_by\":[]", &mark)).expect("marked");
            }
            let now = if is_moved_back { &fixture.repo } else { &moved };
            if is_moved_back {
                fs::rename(&moved, now).expect("moved back");
            }
            let place = sound(now, &pool_dir).await;
            assert!(place.starts_with(root.canonicalize().expect("it exists")));
            assert!(git_succeeds(now, &["worktree", "prune"]));
            sound(now, &pool_dir).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_that_is_replaced_under_a_process_is_not_worked_on() {
    let fixture = pool().await;
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 2, "second").await;
    fs::rename(&fixture.repo, fixture.repo.with_file_name("moved")).expect("moved");
    let moved = fixture.repo.with_file_name("moved");
    git(&moved, &["clone", "-q", ".", fixture.repo.to_str().expect("UTF-8")]);
    let refused = isolator.provision(&plan).await.expect_err("it is another one");
    assert!(refused.to_string().contains("another repository is there now"), "{refused}");
    assert!(!fixture.repo.join(".git/worktrees").exists());
    assert!(!git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/second"]));
}

/// Git would name its worktrees by another path than the pool.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_moved_behind_a_symlink_is_not_worked_on() {
    let fixture = pool().await;
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 2, "second").await;
    let moved = fixture.repo.with_file_name("moved");
    fs::rename(&fixture.repo, &moved).expect("moved");
    std::os::unix::fs::symlink("moved", &fixture.repo).expect("linked");
    let refused = isolator.provision(&plan).await.expect_err("its path is another one");
    assert!(refused.to_string().contains("a symlink is there now"), "{refused}");
    assert!(!git_succeeds(&moved, &["rev-parse", "-q", "--verify", "wtpool/second"]));
}

/// Its registration is all that still leads to its commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_a_deleted_worktree_is_found_after_a_move() {
    let fixture = pool().await;
    let pool_dir = fixture.pool_dir();
    fs::remove_dir_all(pool_dir.join("slots/1/demo")).expect("deleted");
    let moved = pool_dir.with_file_name("moved-pool");
    fs::rename(&pool_dir, &moved).expect("moved");
    let repository = Repository::find(&fixture.repo).expect("found");
    let isolator = GitIsolator::open(&repository, &moved, settings()).expect("opened");
    isolator.claim_dir().expect("claimed");
    let found = isolator.discover().await.expect("listed");
    assert_eq!(found[0].condition, Condition::Missing);
    let list = git(&fixture.repo, &["worktree", "list", "--porcelain"]);
    let now = moved.join("slots/1/demo");
    assert!(list.contains(now.to_str().expect("UTF-8")), "{list}");
}

/// Those that an agent made deeper in its slot's directory, where no other look finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_worktrees_and_their_registrations_follow_a_move() {
    let moves = [(true, true), (true, false), (false, true)];
    for ((moves_repo, moves_pool), is_relative) in
        moves.into_iter().flat_map(|moved| [(moved, false), (moved, true)])
    {
        let fixture = pool().await;
        let (mut repo, mut pool_dir) = (fixture.repo.clone(), fixture.pool_dir());
        let inside = "slots/1/demo/target/deep/nested";
        let nested = pool_dir.join(inside);
        git(&repo, &["worktree", "add", "-q", "--detach", nested.to_str().expect("UTF-8")]);
        if is_relative {
            let up = "../".repeat(inside.split('/').count() + 1);
            let gitdir = format!("../../../../pool/{inside}/.git\n");
            fs::write(repo.join(".git/worktrees/nested/gitdir"), gitdir).expect("written");
            write(&nested, ".git", &format!("gitdir: {up}demo/.git/worktrees/nested\n"));
            assert!(git_succeeds(&nested, &["rev-parse", "HEAD"]));
        }
        write(&nested, "w", "w\n");
        // Another directory at the same depth, as relative paths need it if both are moved.
        let to = fixture.root.path().canonicalize().expect("it exists").join("elsewhere");
        fs::create_dir(&to).expect("made");
        if moves_repo {
            fs::rename(&repo, to.join("demo")).expect("moved");
            repo = to.join("demo");
        }
        if moves_pool {
            fs::rename(&pool_dir, to.join("pool")).expect("moved");
            pool_dir = to.join("pool");
        }
        sound(&repo, &pool_dir).await;
        let nested = pool_dir.canonicalize().expect("it exists").join(inside);
        assert_eq!(git(&nested, &["status", "--short"]), "?? w");
        let admin = repo.join(".git/worktrees/nested");
        let gitdir = fs::read_to_string(admin.join("gitdir")).expect("read");
        assert_eq!(Path::new(&gitdir).is_relative(), is_relative);
        let named = admin.join(gitdir.trim_end()).canonicalize().expect("it exists");
        assert_eq!(named, nested.join(".git"));
        // Git has known relative paths since version 2.48 only.
        if !is_relative {
            assert!(git_succeeds(&repo, &["worktree", "prune"]));
            assert_eq!(git(&nested, &["status", "--short"]), "?? w");
        }
    }
}
