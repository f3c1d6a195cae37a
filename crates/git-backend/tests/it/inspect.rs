//! Each kind of loss is found, and nothing else is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, GitSettings};
use pool_core::{Inspection, Isolator, Losses, Plan};

use crate::support::{Fixture, commit, detached, git, git_succeeds, plan, settings, write};

/// A leased worktree.
struct Lease {
    fixture: Fixture,
    isolator: GitIsolator,
    plan: Plan,
    place: PathBuf,
}

impl Lease {
    async fn new() -> Self {
        Self::with(Fixture::new(), settings()).await
    }

    async fn with(fixture: Fixture, settings: GitSettings) -> Self {
        let isolator = fixture.isolator_with(settings);
        let plan = plan(&isolator, 1, "lease").await;
        Self::provisioned(fixture, isolator, plan).await
    }

    async fn detached() -> Self {
        let fixture = Fixture::new();
        let isolator = fixture.isolator();
        let plan = detached(&isolator, 1, "lease").await;
        Self::provisioned(fixture, isolator, plan).await
    }

    async fn provisioned(fixture: Fixture, isolator: GitIsolator, plan: Plan) -> Self {
        isolator.provision(&plan).await.expect("provisioned");
        let place = isolator.place(plan.slot);
        Self { fixture, isolator, plan, place }
    }

    async fn inspect(&self) -> Inspection {
        self.isolator.inspect(&self.plan).await.expect("inspected")
    }

    async fn losses(&self) -> Losses {
        self.inspect().await.losses
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.place, args)
    }

    fn admin(&self) -> PathBuf {
        PathBuf::from(self.git(&["rev-parse", "--absolute-git-dir"]))
    }
}

fn only(change: impl FnOnce(&mut Losses)) -> Losses {
    let mut losses = Losses::default();
    change(&mut losses);
    losses
}

#[tokio::test]
async fn a_fresh_worktree_has_nothing_to_lose() {
    let lease = Lease::new().await;
    let found = lease.inspect().await;
    assert_eq!(found.losses, Losses::default());
    assert!(found.present && found.last_write.is_some());
    let branch = found.branch.expect("it is on one");
    assert_eq!((branch.name.as_str(), branch.kept, branch.commits), ("wtpool/lease", false, 0));
}

#[tokio::test]
async fn changes_of_every_kind_are_counted() {
    let lease = Lease::new().await;
    write(&lease.place, "README.md", "staged\n");
    lease.git(&["add", "README.md"]);
    assert_eq!(lease.losses().await, only(|l| l.staged = 1));
    write(&lease.place, "README.md", "and changed again\n");
    assert_eq!(lease.losses().await, only(|l| (l.staged, l.modified) = (1, 1)));
    lease.git(&["reset", "-q", "--hard"]);
    assert_eq!(lease.losses().await, Losses::default());

    fs::set_permissions(lease.place.join("README.md"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(lease.place.join("src/main.rs")).unwrap();
    fs::remove_file(lease.place.join("src/lib/deep.rs")).unwrap();
    symlink("nowhere", lease.place.join("src/lib/deep.rs")).unwrap();
    assert_eq!(lease.losses().await, only(|l| l.modified = 3));
}

#[tokio::test]
async fn a_change_that_leaves_size_and_times_alone_is_found() {
    let lease = Lease::new().await;
    let file = lease.place.join("README.md");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "DEMO\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    assert_eq!(lease.losses().await.modified, 1);
}

#[tokio::test]
async fn rewriting_the_same_bytes_loses_nothing() {
    let lease = Lease::new().await;
    write(&lease.place, "README.md", "demo\n");
    assert_eq!(lease.losses().await, Losses::default());
}

#[tokio::test]
async fn untracked_and_ignored_files_are_told_apart() {
    let lease = Lease::new().await;
    write(&lease.place, "new/deep/er/file", "1");
    write(&lease.place, "-rf", "2");
    write(&lease.place, "a\nb", "3");
    fs::create_dir_all(lease.place.join("empty/dir")).unwrap();
    write(&lease.place, ".env", "SECRET=1");
    write(&lease.place, "target/debug/out", "made");
    write(&lease.place, "src/target/debug/out", "made");
    assert_eq!(lease.losses().await, only(|l| (l.untracked, l.ignored) = (3, 1)));
}

#[tokio::test]
async fn what_is_regenerable_but_not_ignored_is_work() {
    let lease = Lease::new().await;
    write(&lease.place, "node_modules/x", "1");
    assert_eq!(lease.losses().await, only(|l| l.untracked = 1));
}

#[tokio::test]
async fn unchanged_copies_of_set_up_files_are_no_loss() {
    let fixture = Fixture::new();
    write(&fixture.repo, ".env", "SECRET=1");
    let lease = Lease::with(fixture, GitSettings { copy: vec![".env".into()], ..settings() }).await;
    assert!(lease.place.join(".env").exists());
    assert_eq!(lease.losses().await, Losses::default());
    write(&lease.place, ".env", "SECRET=2");
    assert_eq!(lease.losses().await, only(|l| l.ignored = 1));
}

#[tokio::test]
async fn bits_that_hide_changes_are_not_believed() {
    let lease = Lease::new().await;
    lease.git(&["update-index", "--assume-unchanged", "README.md"]);
    lease.git(&["update-index", "--skip-worktree", "src/main.rs"]);
    assert_eq!(lease.losses().await, Losses::default());
    write(&lease.place, "README.md", "hidden\n");
    write(&lease.place, "src/main.rs", "hidden\n");
    assert_eq!(lease.git(&["status", "--porcelain"]), "");
    assert_eq!(lease.losses().await, only(|l| l.modified = 2));
    fs::remove_file(lease.place.join("README.md")).unwrap();
    // What sparse checkout leaves out is no loss.
    fs::remove_file(lease.place.join("src/main.rs")).unwrap();
    assert_eq!(lease.losses().await, only(|l| l.modified = 1));
}

#[tokio::test]
async fn intent_to_add_is_a_loss() {
    let lease = Lease::new().await;
    write(&lease.place, "soon", "content");
    lease.git(&["add", "-N", "soon"]);
    assert_eq!(lease.losses().await, only(|l| (l.staged, l.modified) = (1, 1)));
}

#[tokio::test]
async fn conversions_are_no_changes() {
    let fixture = Fixture::new();
    write(&fixture.repo, ".gitattributes", "*.txt text eol=crlf\n");
    write(&fixture.repo, "a.txt", "one\ntwo\n");
    commit(&fixture.repo, "attributes");
    let lease = Lease::with(fixture, settings()).await;
    assert_eq!(fs::read(lease.place.join("a.txt")).unwrap(), b"one\r\ntwo\r\n");
    assert_eq!(lease.losses().await, Losses::default());
    write(&lease.place, "a.txt", "one\r\ntwo\r\n");
    assert_eq!(lease.losses().await, Losses::default());
    write(&lease.place, "a.txt", "one\r\nthree\r\n");
    assert_eq!(lease.losses().await.modified, 1);
}

#[tokio::test]
async fn commits_on_the_branch_are_reported_and_not_lost() {
    let lease = Lease::new().await;
    for n in 0..5 {
        write(&lease.place, "file", &n.to_string());
        commit(&lease.place, "work");
    }
    let found = lease.inspect().await;
    assert_eq!(found.losses, Losses::default());
    let branch = found.branch.expect("it is on one");
    assert!(branch.kept);
    assert_eq!(branch.commits, 5);
}

#[tokio::test]
async fn commits_that_nothing_reaches_are_found() {
    let lease = Lease::detached().await;
    assert_eq!(lease.losses().await, Losses::default());
    write(&lease.place, "file", "1");
    commit(&lease.place, "one");
    write(&lease.place, "file", "2");
    commit(&lease.place, "two");
    assert_eq!(lease.losses().await, only(|l| l.commits = 2));
    // Reset away: only the reflog knows them.
    lease.git(&["reset", "-q", "--hard", "HEAD~2"]);
    assert_eq!(lease.losses().await, only(|l| l.commits = 2));
    lease.git(&["branch", "kept", "HEAD@{1}"]);
    assert_eq!(lease.losses().await, Losses::default());
}

#[tokio::test]
async fn commits_reset_away_on_the_branch_are_found() {
    let lease = Lease::new().await;
    write(&lease.place, "file", "1");
    commit(&lease.place, "one");
    lease.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let found = lease.inspect().await;
    assert_eq!(found.losses, only(|l| l.commits = 1));
    assert!(!found.branch.expect("it is on one").kept);
}

#[tokio::test]
async fn the_log_of_a_branch_that_will_go_counts() {
    let lease = Lease::new().await;
    let tree = lease.git(&["rev-parse", "HEAD^{tree}"]);
    let base = lease.git(&["rev-parse", "HEAD"]);
    let other =
        git(&lease.fixture.repo, &["commit-tree", "-p", &base, "-m", "from elsewhere", &tree]);
    // Moved from another worktree, so that this one's HEAD never saw it.
    git(&lease.fixture.repo, &["update-ref", "--create-reflog", "refs/heads/wtpool/lease", &other]);
    git(&lease.fixture.repo, &["update-ref", "refs/heads/wtpool/lease", &base]);
    assert_eq!(lease.losses().await.commits, 1);
}

#[tokio::test]
async fn operations_in_progress_are_named() {
    for (operation, expected) in [
        ("rebase", "rebase"),
        ("merge", "merge"),
        ("cherry-pick", "cherry-pick"),
        ("revert", "revert"),
    ] {
        let lease = Lease::new().await;
        write(&lease.place, "README.md", "ours\n");
        commit(&lease.place, "ours");
        lease.git(&["checkout", "-q", "-b", "theirs", "HEAD~1"]);
        write(&lease.place, "README.md", "theirs\n");
        commit(&lease.place, "theirs");
        write(&lease.place, "README.md", "later\n");
        commit(&lease.place, "later");
        let target = if operation == "revert" { "HEAD~1" } else { "wtpool/lease" };
        assert!(!git_succeeds(&lease.place, &[operation, target]), "{operation} conflicts");
        let losses = lease.losses().await;
        assert_eq!(losses.operation.as_deref(), Some(expected));
        assert!(losses.staged > 0 && losses.modified > 0, "{operation}: {losses}");
        assert!(losses.unsavable.is_empty(), "{operation}: {losses}");
    }
    let lease = Lease::new().await;
    lease.git(&["bisect", "start"]);
    assert_eq!(lease.losses().await.operation.as_deref(), Some("bisect"));
}

#[tokio::test]
async fn what_no_rescue_can_hold_is_named() {
    let lease = Lease::new().await;
    let _socket = UnixListener::bind(lease.place.join("sock")).unwrap();
    fs::create_dir(lease.place.join("nested")).unwrap();
    git(&lease.place.join("nested"), &["init", "-q"]);
    let losses = lease.losses().await;
    assert_eq!(
        losses.unsavable,
        ["nested/.git: a repository of its own is nested here", "sock: it is a socket"]
    );
    // In a regenerable directory it is nobody's work.
    fs::remove_dir_all(lease.place.join("nested")).unwrap();
    fs::remove_file(lease.place.join("sock")).unwrap();
    fs::create_dir(lease.place.join("target")).unwrap();
    git(&lease.place.join("target"), &["init", "-q"]);
    assert_eq!(lease.losses().await, Losses::default());
}

#[tokio::test]
async fn links_are_not_followed() {
    let lease = Lease::new().await;
    let outside = lease.fixture.root.path().join("outside");
    write(&outside, "file", "not ours");
    symlink(&outside, lease.place.join("link")).unwrap();
    fs::remove_dir_all(lease.place.join("src")).unwrap();
    symlink(lease.fixture.repo.join("src"), lease.place.join("src")).unwrap();
    // Two links are new; what was below `src` is gone, whatever the link shows.
    assert_eq!(lease.losses().await, only(|l| (l.modified, l.untracked) = (2, 2)));
}

#[tokio::test]
async fn submodules_are_kept_unless_all_of_them_is_elsewhere() {
    let fixture = Fixture::new();
    let library = fixture.root.path().canonicalize().unwrap().join("library");
    fs::create_dir(&library).unwrap();
    git(&library, &["init", "-q", "-b", "main"]);
    write(&library, "lib.rs", "1\n");
    commit(&library, "library");
    let url = library.to_str().unwrap();
    git(
        &fixture.repo,
        &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "lib"],
    );
    commit(&fixture.repo, "submodule");
    let lease = Lease::with(fixture, settings()).await;
    assert_eq!(lease.losses().await, Losses::default());
    lease.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init"]);
    assert_eq!(lease.losses().await, Losses::default());
    let sub = lease.place.join("lib");
    write(&sub, "lib.rs", "2\n");
    assert_eq!(lease.losses().await.unsavable.len(), 1);
    commit(&sub, "only here");
    let losses = lease.losses().await;
    assert_eq!(losses.unsavable, ["lib: a submodule that has 1 commit that no remote has"]);
}

#[tokio::test]
async fn a_deleted_tree_still_has_commits_to_lose() {
    let lease = Lease::detached().await;
    write(&lease.place, "file", "1");
    commit(&lease.place, "one");
    fs::remove_dir_all(&lease.place).unwrap();
    let found = lease.inspect().await;
    assert!(!found.present);
    assert_eq!(found.losses, only(|l| l.commits = 1));
    git(&lease.fixture.repo, &["worktree", "prune"]);
    assert_eq!(lease.losses().await, Losses::default());
}

#[tokio::test]
async fn a_pruned_worktree_still_has_files_to_lose() {
    let lease = Lease::new().await;
    write(&lease.place, "new", "1");
    write(&lease.place, "README.md", "changed\n");
    fs::remove_dir_all(lease.admin()).unwrap();
    assert_eq!(lease.losses().await, only(|l| (l.modified, l.untracked) = (1, 1)));
}

#[tokio::test]
async fn looking_changes_nothing() {
    let lease = Lease::new().await;
    write(&lease.place, "README.md", "changed\n");
    write(&lease.place, "new", "1");
    let everything = |dir: &Path| {
        let mut files = Vec::new();
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                files.push((
                    path.clone(),
                    meta.modified().unwrap(),
                    meta.is_file().then(|| fs::read(&path).unwrap()),
                ));
                if meta.is_dir() {
                    pending.push(path);
                }
            }
        }
        files.sort();
        files
    };
    let before = (everything(&lease.place), everything(&lease.fixture.repo));
    assert!(!lease.losses().await.is_empty());
    assert!(before == (everything(&lease.place), everything(&lease.fixture.repo)));
}
