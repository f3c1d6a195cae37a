//! Submodules: left empty, refused, or checked out along, and what a lease does in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use git_backend::{GitIsolator, GitSettings, SubmoduleMode};
use pool_core::{ErrorKind, Isolator, Losses, Plan, SlotId};

use crate::support::{
    Fixture, archive, commit, git, git_succeeds, plan, proof, registrations, settings, status,
    write,
};

const ALLOW: [&str; 2] = ["-c", "protocol.file.allow=always"];

/// git with submodules from local paths permitted.
fn git_with_local(dir: &Path, args: &[&str]) {
    git(dir, &[&ALLOW[..], args].concat());
}

/// A repository `demo` with a submodule `vendor`, which is `library`, which has a submodule `inner`.
/// The main worktree, cloned from it, has neither of them initialised.
fn nested() -> Fixture {
    let mut fixture = Fixture::new();
    let root = fixture.root.path().canonicalize().unwrap();
    for name in ["inner", "library"] {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "main"]);
        write(&dir, &format!("{name}.txt"), "1\n");
        commit(&dir, "begin");
    }
    let url = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let add = ["submodule", "--quiet", "add"];
    git_with_local(&root.join("library"), &[&add[..], &[&url("inner"), "inner"]].concat());
    commit(&root.join("library"), "with a submodule");
    git_with_local(&fixture.repo, &[&add[..], &[&url("library"), "vendor"]].concat());
    commit(&fixture.repo, "with a submodule");
    git(&root, &["clone", "-q", "demo", "checkout"]);
    fixture.repo = root.join("checkout");
    fixture
}

/// Brings the submodule's origin, and the repository, one commit further.
fn advance(fixture: &Fixture) {
    let library = fixture.root.path().join("library");
    write(&library, "library.txt", "2\n");
    let commit_there = commit(&library, "second");
    let cacheinfo = format!("160000,{commit_there},vendor");
    git(&fixture.repo, &["update-index", "--cacheinfo", &cacheinfo]);
    git(&fixture.repo, &["commit", "-q", "-m", "newer library"]);
}

#[tokio::test]
async fn submodules_are_left_empty_or_refused() {
    let fixture = nested();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(fs::read_dir(place.join("vendor")).unwrap().count(), 0);
    assert_eq!(status(&place), "");
    // The lease initialises it; the next one finds it empty again.
    git_with_local(&place, &["submodule", "--quiet", "update", "--init", "--recursive"]);
    assert!(place.join("vendor/inner/inner.txt").exists());
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    assert!(settled.rescue().is_none());
    isolator.recycle(&second, settled).await.unwrap();
    assert_eq!(fs::read_dir(place.join("vendor")).unwrap().count(), 0);
    assert_eq!(status(&place), "");

    let refusing =
        fixture.isolator_with(GitSettings { submodules: SubmoduleMode::Refuse, ..settings() });
    let refused = plan(&refusing, 2, "refused").await;
    let error = refusing.provision(&refused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("vendor"), "{error}");
}

#[tokio::test]
async fn a_submodule_that_cannot_be_had_makes_no_half_worktree() {
    let fixture = nested();
    let isolator =
        fixture.isolator_with(GitSettings { submodules: SubmoduleMode::Init, ..settings() });
    let full = plan(&isolator, 3, "full").await;
    // git clones no submodule from a local path unless the user's own configuration allows it, which
    // is kept out here.
    let error = isolator.provision(&full).await.unwrap_err();
    assert!(error.to_string().contains("transport 'file' not allowed"), "{error}");
    assert!(error.hint().unwrap().contains("protocol.file.allow"), "{:?}", error.hint());
    assert!(!isolator.place(SlotId(3)).exists());
    assert_eq!(registrations(&fixture.repo), 0);
    assert!(!git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/full"]));
}

const HOME_IS_OURS: &str = "GIT_BACKEND_TEST_HOME";

/// Only the user's own configuration can permit submodules from local paths, and that is found by
/// `HOME`. So these tests run in a process with a home of its own.
#[test]
fn with_a_home_that_permits_local_submodules() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), ".gitconfig", "[protocol \"file\"]\n\tallow = always\n");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["submodules::at_home::", "--ignored"])
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .env(HOME_IS_OURS, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("at_home::a_lease_gets_all_of_them ... ok"), "{said}");
}

mod at_home {
    use std::sync::Arc;

    use super::*;

    /// A leased worktree with its submodules; `None` in the machine's own home.
    struct Lease {
        fixture: Fixture,
        isolator: GitIsolator,
        plan: Plan,
        place: PathBuf,
    }

    fn initialising(fixture: &Fixture) -> GitIsolator {
        let submodules = SubmoduleMode::Init;
        fixture.isolator_with(GitSettings { submodules, user_config: true, ..settings() })
    }

    impl Lease {
        async fn new() -> Option<Self> {
            std::env::var_os(HOME_IS_OURS)?;
            let fixture = nested();
            let isolator = initialising(&fixture);
            let plan = plan(&isolator, 1, "first").await;
            isolator.provision(&plan).await.unwrap();
            let place = isolator.place(plan.slot);
            Some(Self { fixture, isolator, plan, place })
        }

        async fn losses(&self) -> Losses {
            self.isolator.inspect(&self.plan).await.unwrap().losses
        }

        /// That the slot is neither to be had for another lease nor removed, and why.
        async fn is_kept(&self, why: &str) {
            let losses = self.losses().await;
            assert_eq!(losses.unsavable, [why]);
            let inspection = self.isolator.inspect(&self.plan).await.unwrap();
            let error = self.isolator.preserve(inspection).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldLoseWork);
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.hint().is_some());
        }

        /// That the slot is kept, for one reason that contains `why`.
        async fn is_kept_for(&self, why: &str) {
            let losses = self.losses().await;
            assert!(losses.unsavable.iter().any(|found| found.contains(why)), "{why}: {losses:?}");
            let inspection = self.isolator.inspect(&self.plan).await.unwrap();
            let error = self.isolator.preserve(inspection).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldLoseWork);
        }

        async fn can_be_removed(self) {
            assert_eq!(self.losses().await, Losses::default());
            let settled = proof(&self.isolator, &self.plan).await;
            assert!(settled.rescue().is_none());
            self.isolator.dispose(settled).await.unwrap();
            assert!(!self.place.exists());
            assert_eq!(registrations(&self.fixture.repo), 0);
        }
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn a_lease_gets_all_of_them() {
        let Some(lease) = Lease::new().await else { return };
        let read = |path: &str| fs::read_to_string(lease.place.join(path)).unwrap();
        assert_eq!(read("vendor/library.txt"), "1\n");
        assert_eq!(read("vendor/inner/inner.txt"), "1\n");
        assert_eq!(status(&lease.place), "");
        assert_eq!(lease.losses().await, Losses::default());

        // Another commit of them in the next lease, in the same slot.
        advance(&lease.fixture);
        let second = plan(&lease.isolator, 1, "second").await;
        let settled = proof(&lease.isolator, &lease.plan).await;
        assert!(settled.rescue().is_none());
        lease.isolator.recycle(&second, settled).await.unwrap();
        assert_eq!(read("vendor/library.txt"), "2\n");
        assert_eq!(read("vendor/inner/inner.txt"), "1\n");
        assert_eq!(status(&lease.place), "");
        Lease { plan: second, ..lease }.can_be_removed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[ignore = "run with a home of its own by another test"]
    async fn many_leases_get_them_at_once() {
        if std::env::var_os(HOME_IS_OURS).is_none() {
            return;
        }
        let fixture = nested();
        // Enough of them that the registering of one lease's meets that of another's.
        let inner = fixture.root.path().canonicalize().unwrap().join("inner");
        let inner = inner.to_str().unwrap();
        let original = fixture.root.path().join("demo");
        for n in 0..6 {
            git_with_local(
                &original,
                &["submodule", "--quiet", "add", inner, &format!("more/{n}")],
            );
        }
        commit(&original, "with more submodules");
        git(&fixture.repo, &["pull", "-q", "--no-recurse-submodules"]);
        let isolator = Arc::new(initialising(&fixture));
        let tasks: Vec<_> = (1..=6)
            .map(|slot| {
                let isolator = Arc::clone(&isolator);
                tokio::spawn(async move {
                    let plan = plan(&isolator, slot, &format!("lease-{slot}")).await;
                    isolator.provision(&plan).await.unwrap();
                    let place = isolator.place(plan.slot);
                    assert!(place.join("vendor/inner/inner.txt").exists());
                    assert!(place.join("more/5/inner.txt").exists());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn uncommitted_changes_in_one_are_kept() {
        let Some(lease) = Lease::new().await else { return };
        write(&lease.place, "vendor/library.txt", "changed\n");
        lease
            .is_kept("vendor: a submodule that has 1 uncommitted path: library.txt is modified")
            .await;
        git(&lease.place.join("vendor"), &["checkout", "-q", "library.txt"]);
        write(&lease.place, "vendor/inner/new.txt", "new\n");
        lease
            .is_kept(
                "vendor: a submodule that holds inner: a submodule that has 1 uncommitted path: \
                 new.txt is untracked",
            )
            .await;
        fs::remove_file(lease.place.join("vendor/inner/new.txt")).unwrap();
        write(&lease.place, "vendor/.gitignore", "*.o\n.gitignore\n");
        write(&lease.place, "vendor/made.o", "made\n");
        lease
            .is_kept(
                "vendor: a submodule that has 2 uncommitted paths: .gitignore is ignored; \
                 if it can be made again, add it to `regenerable`",
            )
            .await;
        fs::remove_file(lease.place.join("vendor/.gitignore")).unwrap();
        fs::remove_file(lease.place.join("vendor/made.o")).unwrap();
        lease.can_be_removed().await;
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn commits_in_one_are_kept_until_they_are_pushed() {
        let Some(lease) = Lease::new().await else { return };
        for (path, why) in [
            ("vendor", "vendor: a submodule that has 1 commit that no remote has"),
            (
                "vendor/inner",
                "vendor: a submodule that holds inner: a submodule that has 1 commit that no remote has",
            ),
        ] {
            let dir = lease.place.join(path);
            let before = git(&dir, &["rev-parse", "HEAD"]);
            write(&dir, "work.txt", "work\n");
            commit(&dir, "work");
            // Even if it is not checked out any more.
            git(&dir, &["checkout", "-q", &before]);
            lease.is_kept(why).await;
            git(&dir, &["push", "-q", "origin", "HEAD@{1}:refs/heads/work"]);
            assert_eq!(lease.losses().await, Losses::default());
        }
        lease.can_be_removed().await;
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn a_commit_of_the_repository_itself_to_another_commit_of_one_is_its_branchs() {
        let Some(lease) = Lease::new().await else { return };
        write(&lease.place, "vendor/work.txt", "work\n");
        commit(&lease.place.join("vendor"), "work");
        git(&lease.place.join("vendor"), &["push", "-q", "origin", "HEAD:refs/heads/work"]);
        git(&lease.place, &["commit", "-q", "-a", "-m", "another commit of vendor"]);
        let found = lease.isolator.inspect(&lease.plan).await.unwrap();
        assert_eq!(found.losses, Losses::default());
        assert!(found.branch.unwrap().kept);
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn the_commit_that_one_is_at_is_saved_and_checked_out_again() {
        let Some(lease) = Lease::new().await else { return };
        let vendor = lease.place.join("vendor");
        write(&vendor, "work.txt", "work\n");
        let work = commit(&vendor, "work");
        git(&vendor, &["push", "-q", "origin", "HEAD:refs/heads/work"]);
        assert_eq!(lease.losses().await, Losses { modified: 1, ..Losses::default() });
        let settled = proof(&lease.isolator, &lease.plan).await;
        let rescue = settled.rescue().unwrap().clone();
        lease.isolator.dispose(settled).await.unwrap();
        let name = format!("{}:vendor", rescue.reference);
        assert_eq!(git(&lease.fixture.repo, &["rev-parse", &name]), work);

        let archive = archive(&lease.isolator);
        let contents = archive.contents(&rescue.id).await.unwrap();
        assert_eq!(
            (contents[0].path.as_str(), contents[0].status.as_str()),
            ("vendor", "modified")
        );
        let into = lease.fixture.root.path().join("restored");
        archive.restore_into(&rescue.id, &into).await.unwrap();
        assert_eq!(git(&into.join("vendor"), &["rev-parse", "HEAD"]), work);
        assert_eq!(fs::read_to_string(into.join("vendor/work.txt")).unwrap(), "work\n");
        assert_eq!(status(&into), " M vendor");

        // What can't be had any more does not get in the way of the rest.
        fs::rename(
            lease.fixture.root.path().join("library"),
            lease.fixture.root.path().join("elsewhere"),
        )
        .unwrap();
        let without = lease.fixture.root.path().join("without");
        archive.restore_into(&rescue.id, &without).await.unwrap();
        assert!(without.join("README.md").is_file() && !without.join("vendor/work.txt").exists());
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn tags_that_came_with_one_are_no_work() {
        if std::env::var_os(HOME_IS_OURS).is_none() {
            return;
        }
        let fixture = nested();
        // On no branch, as that of a release whose branch was deleted.
        let library = fixture.root.path().join("library");
        git(&library, &["checkout", "-q", "--detach"]);
        write(&library, "release.txt", "1\n");
        commit(&library, "release");
        git(&library, &["tag", "v1"]);
        git(&library, &["checkout", "-q", "main"]);
        let isolator = initialising(&fixture);
        let plan = plan(&isolator, 1, "first").await;
        isolator.provision(&plan).await.unwrap();
        let place = isolator.place(plan.slot);
        assert!(git_succeeds(&place.join("vendor"), &["rev-parse", "-q", "--verify", "v1"]));
        let lease = Lease { fixture, isolator, plan, place };
        assert_eq!(lease.losses().await, Losses::default());
        // But a tag of the lease's own is.
        let vendor = lease.place.join("vendor");
        write(&vendor, "mine.txt", "1\n");
        commit(&vendor, "mine");
        git(&vendor, &["tag", "mine"]);
        lease.is_kept("vendor: a submodule that has 1 commit that no remote has").await;
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn linked_worktrees_of_one_keep_the_slot() {
        for path in ["vendor", "vendor/inner"] {
            let Some(lease) = Lease::new().await else { return };
            let root = lease.fixture.root.path().canonicalize().unwrap();
            let dir = lease.place.join(path);
            for linked in [
                root.join("elsewhere"),
                lease.place.with_file_name("beside"),
                lease.place.join("target/inside"),
            ] {
                let shown = linked.to_str().unwrap();
                git(&dir, &["worktree", "add", "-q", "--detach", shown]);
                write(&linked, "work.txt", "work\n");
                git(&linked, &["add", "."]);
                lease.is_kept_for(&format!("has the linked worktree {shown}: ")).await;
                // Where its tree is gone as well.
                let away = dir.with_extension("away");
                fs::rename(&dir, &away).unwrap();
                lease.is_kept_for(&format!("has the linked worktree {shown}: ")).await;
                let remove = ["worktree", "remove", "--force", shown];
                git(&linked, &remove);
                fs::rename(&away, &dir).unwrap();
                assert_eq!(lease.losses().await, Losses::default(), "{shown}");
            }
            lease.can_be_removed().await;
        }
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn what_only_a_gone_worktree_of_one_had_keeps_the_slot() {
        let Some(lease) = Lease::new().await else { return };
        let root = lease.fixture.root.path().canonicalize().unwrap();
        let vendor = lease.place.join("vendor");
        let linked = root.join("linked");
        let shown = linked.to_str().unwrap();
        git(&vendor, &["worktree", "add", "-q", "--detach", shown]);
        fs::remove_dir_all(&linked).unwrap();
        assert_eq!(lease.losses().await, Losses::default());
        git(&vendor, &["worktree", "prune"]);

        git(&vendor, &["worktree", "add", "-q", "--detach", shown]);
        write(&linked, "work.txt", "work\n");
        git(&linked, &["add", "."]);
        let away = root.join("away");
        fs::rename(&linked, &away).unwrap();
        lease.is_kept_for("has 1 staged path of the linked worktree").await;
        git(&vendor, &["worktree", "lock", shown]);
        lease.is_kept_for("which is locked and not there").await;
        git(&vendor, &["worktree", "unlock", shown]);

        fs::rename(&away, &linked).unwrap();
        commit(&linked, "work");
        fs::remove_dir_all(&linked).unwrap();
        lease.is_kept_for("vendor: a submodule that has 1 commit that no remote has").await;
        git(&vendor, &["worktree", "prune"]);
        lease.can_be_removed().await;
    }

    #[tokio::test]
    #[ignore = "run with a home of its own by another test"]
    async fn repository_of_one_without_its_tree_is_looked_into() {
        for (path, whole_slot) in [("vendor", true), ("vendor", false), ("vendor/inner", false)] {
            let Some(lease) = Lease::new().await else { return };
            let dir = lease.place.join(path);
            write(&dir, "work.txt", "work\n");
            git(&dir, &["add", "."]);
            let git_dir = git(&dir, &["rev-parse", "--absolute-git-dir"]);
            let commits = format!("{git_dir} is a submodule's repository that has 1 commit ");
            let staged = format!("{git_dir} is a submodule's repository that has 1 staged path");
            let gone = if whole_slot { lease.place.clone() } else { dir.clone() };
            let away = gone.with_extension("away");
            let is_kept = async |why: &str| {
                fs::rename(&gone, &away).unwrap();
                if !whole_slot {
                    fs::create_dir(&gone).unwrap();
                }
                lease.is_kept_for(why).await;
                let _ = fs::remove_dir(&gone);
                fs::rename(&away, &gone).unwrap();
            };
            is_kept(&staged).await;
            commit(&dir, "work");
            is_kept(&commits).await;
            git(&dir, &["push", "-q", "origin", "HEAD:refs/heads/work"]);
            git(&dir, &["checkout", "-q", "HEAD~"]);
            fs::remove_dir_all(&gone).unwrap();
            if !whole_slot {
                fs::create_dir(&gone).unwrap();
            }
            lease.can_be_removed().await;
        }
    }
}
