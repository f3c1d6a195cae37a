//! Making, reusing and removing worktrees of real repositories.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use git_backend::GitSettings;
use pool_core::{BranchWish, Condition, ErrorKind, Isolator, SlotId, Wish};

use crate::support::{
    Fixture, backdate, base, commit, found, git, git_succeeds, mtime, name, plan, plan_of, proof,
    read, registrations, settings, status, write,
};

#[tokio::test]
async fn a_worktree_is_what_the_plan_says_and_stock_git_agrees() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 3, "amber-otter").await;
    assert_eq!(plan.base.commit.as_str(), fixture.head());
    isolator.provision(&plan).await.unwrap();

    let place = isolator.place(SlotId(3));
    assert_eq!(place, fixture.pool_dir().join("slots/3/demo"));
    assert_eq!(read(place.join("src/main.rs")), "fn main() {}\n");
    assert_eq!(status(&place), "");
    assert_eq!(git(&place, &["branch", "--show-current"]), "wtpool/amber-otter");
    assert_eq!(git(&place, &["rev-parse", "HEAD"]), fixture.head());
    assert!(
        !git_succeeds(&place, &["config", "branch.wtpool/amber-otter.remote"]),
        "nothing is tracked"
    );
    assert_eq!(isolator.discover().await.unwrap(), [found(3, Condition::Sound)]);
    assert!(isolator.usage(SlotId(3)).await.unwrap() > 0);
    assert_eq!(status(&fixture.repo), "", "the main worktree is as it was");
    git(&fixture.repo, &["fsck", "--strict"]);

    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    assert!(!place.exists());
    assert_eq!(registrations(&fixture.repo), 0);
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    assert_eq!(isolator.discover().await.unwrap(), []);
    isolator.sweep(&|_| {}).await.unwrap();
    assert_eq!(fs::read_dir(fixture.pool_dir().join("trash")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_at_once() {
    let fixture = Fixture::new();
    let isolator = Arc::new(fixture.isolator());
    let tasks: Vec<_> = (1..=16)
        .map(|slot| {
            let isolator = Arc::clone(&isolator);
            tokio::spawn(async move {
                let plan = plan(&isolator, slot, &format!("lease-{slot}")).await;
                isolator.provision(&plan).await.unwrap();
                plan
            })
        })
        .collect();
    let mut plans = Vec::new();
    for task in tasks {
        plans.push(task.await.unwrap());
    }
    let places: HashSet<PathBuf> = plans.iter().map(|plan| isolator.place(plan.slot)).collect();
    assert_eq!(places.len(), 16);
    for place in &places {
        assert_eq!(status(place), "");
    }
    assert_eq!(registrations(&fixture.repo), 16);
    let tasks: Vec<_> = plans
        .into_iter()
        .map(|plan| {
            let isolator = Arc::clone(&isolator);
            tokio::spawn(async move {
                let proof = proof(&isolator, &plan).await;
                isolator.dispose(proof).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(registrations(&fixture.repo), 0);
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
}

#[tokio::test]
async fn recycling_writes_only_what_differs_and_leaves_nothing_of_the_last_lease() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));

    // The lease builds, edits, stages, leaves files, hides a change from git and stops in a bisection.
    write(&place, "target/debug/demo", "binary");
    write(&place, ".env", "SECRET=1");
    write(&place, "notes/deep/todo.txt", "untracked");
    write(&place, "src/main.rs", "fn main() { panic!() }\n");
    write(&place, "src/staged.rs", "");
    git(&place, &["add", "src/staged.rs"]);
    write(&place, "src/lib/deep.rs", "hidden\n");
    git(&place, &["update-index", "--skip-worktree", "src/lib/deep.rs"]);
    git(&place, &["bisect", "start"]);
    git(&place, &["update-ref", "refs/worktree/mine", "HEAD"]);
    let readme = backdate(place.join("README.md"));

    write(&fixture.repo, "src/new.rs", "");
    let second_commit = commit(&fixture.repo, "second");
    let second = plan(&isolator, 1, "second").await;
    assert_eq!(second.base.commit.as_str(), second_commit);
    let proof = proof(&isolator, &first).await;
    isolator.recycle(&second, proof).await.unwrap();

    assert_eq!(git(&place, &["rev-parse", "HEAD"]), second_commit);
    assert_eq!(git(&place, &["branch", "--show-current"]), "wtpool/second");
    assert_eq!(git(&place, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(read(place.join("src/main.rs")), "fn main() {}\n");
    assert_eq!(read(place.join("src/lib/deep.rs")), "pub fn deep() {}\n");
    for gone in [".env", "notes", "src/staged.rs", "target"] {
        assert!(!place.join(gone).exists(), "{gone}");
    }
    assert!(place.join("src/new.rs").exists());
    assert_eq!(mtime(place.join("README.md")), readme, "an unchanged file was written");
    assert!(!git_succeeds(&place, &["bisect", "log"]));
    assert!(!git_succeeds(&place, &["rev-parse", "-q", "--verify", "refs/worktree/mine"]));
    assert!(!git_succeeds(&place, &["rev-parse", "-q", "--verify", "ORIG_HEAD"]));
    assert_eq!(
        git(&fixture.repo, &["branch", "--list", "wtpool/*", "--format=%(refname:short)"]),
        "wtpool/second"
    );
    assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::Sound)]);
    git(&fixture.repo, &["fsck", "--strict"]);
}

#[tokio::test]
async fn a_recycled_index_is_fresh_so_that_status_is_cheap() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    backdate(place.join("README.md"));
    let second = plan(&isolator, 1, "second").await;
    let proof = proof(&isolator, &first).await;
    isolator.recycle(&second, proof).await.unwrap();
    // diff-files doesn't refresh: it names every file whose stat data the index doesn't know.
    assert_eq!(git(&place, &["diff-files", "--name-only"]), "");
}

#[tokio::test]
async fn only_an_unmoved_branch_that_the_pool_made_goes_away() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();

    // Gained a commit: kept.
    let worked = plan(&isolator, 1, "worked").await;
    isolator.provision(&worked).await.unwrap();
    let place = isolator.place(SlotId(1));
    write(&place, "work.txt", "work");
    let work = commit(&place, "work");
    let next = plan(&isolator, 1, "next").await;
    let settled = proof(&isolator, &worked).await;
    isolator.recycle(&next, settled).await.unwrap();
    assert_eq!(git(&fixture.repo, &["rev-parse", "wtpool/worked"]), work);
    assert!(!place.join("work.txt").exists());

    // Checked out by the user meanwhile: kept.
    git(&place, &["checkout", "-q", "--detach"]);
    git(&fixture.repo, &["checkout", "-q", "wtpool/next"]);
    let settled = proof(&isolator, &next).await;
    isolator.dispose(settled).await.unwrap();
    assert_eq!(git(&fixture.repo, &["branch", "--show-current"]), "wtpool/next");
    assert!(git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "HEAD"]));

    // The user's own: continued, and kept.
    git(&fixture.repo, &["branch", "topic"]);
    let wish = Wish { branch: BranchWish::Named("topic".into()), ..Default::default() };
    let continued = isolator.resolve(&wish, &name("x")).await.unwrap();
    assert!(!continued.branch.as_ref().unwrap().created);
    let plan = plan_of(2, "x", continued);
    isolator.provision(&plan).await.unwrap();
    assert_eq!(git(&isolator.place(SlotId(2)), &["branch", "--show-current"]), "topic");
    let settled = proof(&isolator, &plan).await;
    isolator.dispose(settled).await.unwrap();
    assert!(git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "topic"]));
}

#[tokio::test]
async fn a_branch_that_appears_between_plan_and_deed_is_not_ours_to_delete() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "contested").await;
    git(&fixture.repo, &["branch", "wtpool/contested"]);
    let error = isolator.provision(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken, "{error}");
    assert!(git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/contested"]));
    assert_eq!(isolator.discover().await.unwrap(), [], "what was begun is undone");
    assert_eq!(registrations(&fixture.repo), 0);
}

#[tokio::test]
async fn what_a_wish_resolves_to() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let resolve = async |wish: Wish| isolator.resolve(&wish, &name("n")).await;
    let named =
        |branch: &str| Wish { branch: BranchWish::Named(branch.into()), ..Default::default() };

    // From a linked worktree: its HEAD, not that of the main checkout.
    let linked = fixture.repo.parent().unwrap().join("linked");
    git(&fixture.repo, &["worktree", "add", "-q", "-b", "side", linked.to_str().unwrap()]);
    write(&linked, "side.txt", "");
    let side = commit(&linked, "side");
    let wish = Wish { origin: Some(linked.clone()), ..Default::default() };
    assert_eq!(resolve(wish).await.unwrap().commit.as_str(), side);
    assert_eq!(resolve(Wish::default()).await.unwrap().commit.as_str(), fixture.head());

    // Revisions.
    git(&fixture.repo, &["tag", "-a", "-m", "t", "v1"]);
    let wish = Wish { base: Some("v1".into()), ..Default::default() };
    assert_eq!(resolve(wish).await.unwrap().commit.as_str(), fixture.head());
    for hostile in ["nowhere", "-rf", "a\nb", "", "HEAD^{tree}", "v1:README.md"] {
        let wish = Wish { base: Some(hostile.into()), ..Default::default() };
        assert_eq!(
            resolve(wish).await.unwrap_err().kind(),
            ErrorKind::UnknownRevision,
            "{hostile:?}"
        );
    }

    // Branches.
    let taken = resolve(named("side")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::NameTaken);
    assert!(taken.to_string().contains(linked.to_str().unwrap()), "{taken}");
    assert_eq!(resolve(named("main")).await.unwrap_err().kind(), ErrorKind::NameTaken);
    git(&fixture.repo, &["branch", "free"]);
    let moved = Wish { base: Some("side".into()), ..named("free") };
    assert_eq!(resolve(moved).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    for hostile in ["../x", "-rf", "a\nb", "a b", "HEAD", "x.lock", "a..b", "", "/a", "a//b", "a~1"]
    {
        assert_eq!(
            resolve(named(hostile)).await.unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{hostile:?}"
        );
    }
    git(&fixture.repo, &["branch", "wtpool/n"]);
    assert_eq!(resolve(Wish::default()).await.unwrap_err().kind(), ErrorKind::NameTaken);
    git(&fixture.repo, &["branch", "-D", "wtpool/n"]);
    git(&fixture.repo, &["branch", "wtpool"]);
    assert_eq!(resolve(Wish::default()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_repository_without_a_commit_says_so() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["checkout", "-q", "--orphan", "fresh"]);
    let error = fixture.isolator().resolve(&Wish::default(), &name("n")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownRevision);
    assert!(error.to_string().contains("no commit yet"), "{error}");
}

#[tokio::test]
async fn disposing_of_nothing_is_done_at_once() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "never").await;
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    assert_eq!(isolator.discover().await.unwrap(), []);
}

#[cfg(unix)]
#[tokio::test]
async fn set_up_files_come_along_and_nothing_else_does() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let fixture = Fixture::new();
    let outside = fixture.repo.parent().unwrap().join("secret.local");
    fs::write(&outside, "not the project's").unwrap();
    write(&fixture.repo, ".env", "KEY=1");
    fs::set_permissions(fixture.repo.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    write(&fixture.repo, "config/a.local", "a");
    write(&fixture.repo, "config/b.local", "b");
    write(&fixture.repo, "config/c.txt", "not ignored");
    symlink(&outside, fixture.repo.join("config/link.local")).unwrap();
    let copy = [".env", "config/*.local", "config/c.txt", "README.md", "absent.local"];
    let isolator =
        fixture.isolator_with(GitSettings { copy: copy.map(str::to_owned).to_vec(), ..settings() });
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join(".env")), "KEY=1");
    assert_eq!(fs::metadata(place.join(".env")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read(place.join("config/b.local")), "b");
    assert!(!place.join("config/c.txt").exists());
    assert!(fs::symlink_metadata(place.join("config/link.local")).is_err());
    assert_eq!(status(&place), "");

    // Changed here, changed there, untouched: the next lease gets today's.
    write(&place, "config/a.local", "changed by the lease");
    write(&fixture.repo, "config/b.local", "b, newer");
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    assert_eq!(read(place.join("config/a.local")), "a");
    assert_eq!(read(place.join("config/b.local")), "b, newer");
    assert_eq!(read(place.join(".env")), "KEY=1");

    for hostile in ["../x", "/etc/passwd", ".git/config"] {
        let isolator =
            fixture.isolator_with(GitSettings { copy: vec![hostile.to_owned()], ..settings() });
        let plan = plan(&isolator, 2, "hostile").await;
        assert_eq!(isolator.provision(&plan).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(!isolator.place(SlotId(2)).exists());
    }
}

#[tokio::test]
async fn a_half_made_slot_is_seen_and_disposed_of() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "killed").await;
    isolator.provision(&plan).await.unwrap();
    // As SIGKILL in the middle of a checkout leaves it.
    let place = isolator.place(SlotId(1));
    let slot_dir = place.parent().unwrap();
    fs::create_dir(slot_dir.join(".umask")).unwrap();
    let admin = PathBuf::from(git(&place, &["rev-parse", "--absolute-git-dir"]));
    fs::write(place.parent().unwrap().join("making"), "by wtpool\n").unwrap();
    fs::write(admin.join("locked"), "initializing\n").unwrap();
    fs::write(admin.join("index.lock"), "").unwrap();
    fs::remove_file(admin.join("index")).unwrap();
    assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::HalfMade)]);
    let settled = proof(&isolator, &plan).await;
    assert!(settled.rescue().is_none());
    isolator.dispose(settled).await.unwrap();
    assert_eq!(isolator.discover().await.unwrap(), []);
    assert_eq!(registrations(&fixture.repo), 0);
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    assert!(!slot_dir.exists());

    // Before git wrote anything.
    fs::create_dir_all(&place).unwrap();
    fs::write(place.parent().unwrap().join("making"), "by wtpool\n").unwrap();
    assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::HalfMade)]);
    let settled = proof(&isolator, &plan).await;
    isolator.dispose(settled).await.unwrap();
    isolator.provision(&plan).await.unwrap();
    assert_eq!(isolator.discover().await.unwrap(), [found(1, Condition::Sound)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_future_leaves_nothing_or_something_known() {
    let fixture = Fixture::new();
    for n in 0..2000 {
        write(&fixture.repo, &format!("many/{}/{n}.txt", n % 40), &n.to_string());
    }
    commit(&fixture.repo, "many");
    let isolator = fixture.isolator();
    for round in 0..5 {
        let plan = plan(&isolator, 1, &format!("dropped-{round}")).await;
        let wait = tokio::time::sleep(std::time::Duration::from_millis(round * 4));
        tokio::select! {
            done = isolator.provision(&plan) => done.unwrap(),
            () = wait => {}
        }
        // The next call waits until the work that was given up is over.
        let settled = proof(&isolator, &plan).await;
        isolator.dispose(settled).await.unwrap();
        assert_eq!(isolator.discover().await.unwrap(), []);
        assert_eq!(registrations(&fixture.repo), 0);
        assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    }
}

#[tokio::test]
async fn an_unknown_commit_is_an_error_and_leaves_nothing() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan_of(1, "unknown", base(&"1".repeat(40), "wtpool/unknown"));
    isolator.provision(&plan).await.unwrap_err();
    assert_eq!(isolator.discover().await.unwrap(), []);
    assert_eq!(registrations(&fixture.repo), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn usage_is_what_removing_would_free() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "sized").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    let before = isolator.usage(SlotId(1)).await.unwrap();
    fs::create_dir(place.join("target")).unwrap();
    fs::write(place.join("target/big"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(place.join("target/big"), place.join("target/same")).unwrap();
    let after = isolator.usage(SlotId(1)).await.unwrap();
    assert!((1 << 20..2 << 20).contains(&(after - before)), "{before} {after}");
    // What has a name elsewhere stays when the slot goes.
    fs::hard_link(place.join("target/big"), fixture.root.path().join("kept")).unwrap();
    assert!(isolator.usage(SlotId(1)).await.unwrap() < before + 100_000);
    assert_eq!(isolator.usage(SlotId(9)).await.unwrap_or(0), 0);
}
