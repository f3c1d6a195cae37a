//! Repositories of every kind: bare, sparse, with other ids, with configuration of a worktree's own.

use std::path::Path;

use pool_core::{ErrorKind, Isolator, SlotId};

use crate::support::{
    Fixture, archive, backdate, commit, detached, git, git_succeeds, mtime, plan, proof, read,
    registrations, settings, skip, status, write,
};

#[tokio::test]
async fn a_bare_repository() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap().to_owned();
    git(&parent, &["clone", "-q", "--bare", "demo", "served.git"]);
    let fixture = Fixture { repo: parent.join("served.git"), ..fixture };
    let isolator = fixture.isolator();
    through_a_whole_life(&fixture, &isolator).await;
    assert_eq!(isolator.place(SlotId(1)).file_name().unwrap(), "served");
}

#[tokio::test]
async fn a_submodule_as_the_repository() {
    let fixture = Fixture::new();
    let parent = fixture.repo.parent().unwrap();
    git(parent, &["clone", "-q", "demo", "library"]);
    let allow = ["-c", "protocol.file.allow=always"];
    git(
        &fixture.repo,
        &[&allow[..], &["submodule", "--quiet", "add", "../library", "library"]].concat(),
    );
    let fixture = Fixture { repo: fixture.repo.join("library"), ..fixture };
    through_a_whole_life(&fixture, &fixture.isolator()).await;
}

#[tokio::test]
async fn a_sha256_repository() {
    let fixture = Fixture::with(&["--object-format=sha256"]);
    assert_eq!(fixture.head().len(), 64);
    through_a_whole_life(&fixture, &fixture.isolator()).await;
}

/// Where git is told not to look at the modes of files, a checkout sets them nevertheless, and they come back.
#[cfg(unix)]
#[tokio::test]
async fn a_repository_that_ignores_modes() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let fixture = Fixture::new();
    write(&fixture.repo, "run.sh", "true\n");
    write(&fixture.repo, "also.sh", "true\n");
    git(&fixture.repo, &["add", "--chmod=+x", "run.sh", "also.sh"]);
    git(&fixture.repo, &["commit", "-q", "-m", "scripts"]);
    git(&fixture.repo, &["config", "core.fileMode", "false"]);
    let isolator = fixture.isolator();
    let lease = plan(&isolator, 1, "lease").await;
    isolator.provision(&lease).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(mode(&place.join("run.sh")) & 0o111, 0o111, "git would make it executable");
    assert_eq!(mode(&place.join("README.md")) & 0o111, 0);

    // Old enough for the index to be believed.
    for file in ["run.sh", "also.sh", "README.md"] {
        backdate(place.join(file));
    }
    git(&place, &["update-index", "--refresh"]);
    let changed = [("also.sh", 0o644), ("README.md", 0o755)];
    for (file, mode) in changed {
        std::fs::set_permissions(place.join(file), PermissionsExt::from_mode(mode)).unwrap();
        // Its time of change is another one now.
        git(&place, &["update-index", "--refresh"]);
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    write(&place, "work", "precious\n");
    git(&place, &["add", "work"]);
    let saved = proof(&isolator, &lease).await.rescue().unwrap().id.clone();
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&saved, &into).await.unwrap();
    let names = ["run.sh", "also.sh", "README.md"];
    let [restored, before] = [&into, &place].map(|dir| names.map(|name| mode(&dir.join(name))));
    assert_eq!(restored, before);
}

#[tokio::test]
async fn a_reftable_repository_is_refused() {
    let fixture = Fixture::new();
    let repo = fixture.root.path().join("tables");
    std::fs::create_dir(&repo).expect("made");
    if !git_succeeds(&repo, &["init", "-q", "--ref-format=reftable"]) {
        return skip("this git has no reftables");
    }
    write(&repo, "README.md", "demo\n");
    commit(&repo, "first");
    let repository = git_backend::Repository::find(&repo).expect("found");
    let opened = git_backend::GitIsolator::open(&repository, &fixture.pool_dir(), settings());
    let error = opened.expect_err("if gix reads reftables now, take this through a whole life");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("reftable"), "{error}");
}

/// Provision, recycle, dispose, with stock git looking on.
async fn through_a_whole_life(fixture: &Fixture, isolator: &git_backend::GitIsolator) {
    let first = plan(isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join("src/main.rs")), "fn main() {}\n");
    assert_eq!(status(&place), "");
    write(&place, "src/main.rs", "changed\n");
    let work = commit(&place, "work");
    assert_eq!(git(&place, &["rev-parse", "wtpool/first"]), work);
    let second = detached(isolator, 1, "second").await;
    let settled = proof(isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    assert_eq!(read(place.join("src/main.rs")), "fn main() {}\n");
    assert_eq!(status(&place), "");
    assert_eq!(git(&place, &["branch", "--show-current"]), "");
    let settled = proof(isolator, &second).await;
    isolator.dispose(settled).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 0);
    assert_eq!(git(&fixture.repo, &["rev-parse", "wtpool/first"]), work);
}

/// Versions of git before 2.48 don't know that setting, and refuse a repository in which somebody acted on it.
#[tokio::test]
async fn relative_paths_are_for_the_installed_git_to_want() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "worktree.useRelativePaths", "true"]);
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    assert_eq!(git(&place, &["status", "--porcelain"]), "");
    write(&place, "work", "precious");
    let rescue = proof(&isolator, &plan).await.rescue().expect("saved").id.clone();
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&rescue, &into).await.unwrap();
    assert_eq!(git(&into, &["status", "--porcelain"]), "?? work");
    // As it does it itself.
    let beside = fixture.root.path().join("beside");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", beside.to_str().unwrap()]);
    let is_relative = |dir: &Path| read(dir.join(".git")).starts_with("gitdir: ..");
    for worktree in [&place, &into] {
        assert_eq!(is_relative(worktree), is_relative(&beside), "{}", worktree.display());
    }
}

#[tokio::test]
async fn a_sparse_checkout_is_inherited_and_what_a_lease_changes_in_it_is_undone() {
    let fixture = Fixture::new();
    write(&fixture.repo, "docs/guide.md", "guide\n");
    commit(&fixture.repo, "docs");
    git(&fixture.repo, &["sparse-checkout", "set", "src"]);
    assert!(!fixture.repo.join("docs").exists());
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert!(place.join("src/main.rs").exists() && !place.join("docs").exists());
    assert_eq!(status(&place), "");
    let main = backdate(place.join("src/main.rs"));

    // Recycled with something outside of it: that goes, and nothing else is written.
    write(&place, "docs/guide.md", "written by the lease\n");
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    assert!(!place.join("docs").exists());
    assert_eq!(status(&place), "");
    assert_eq!(mtime(place.join("src/main.rs")), main);

    // The lease looks at everything; the next one is sparse again.
    git(&place, &["sparse-checkout", "disable"]);
    assert!(place.join("docs/guide.md").exists());
    let third = plan(&isolator, 1, "third").await;
    let settled = proof(&isolator, &second).await;
    isolator.recycle(&third, settled).await.unwrap();
    assert!(place.join("src/main.rs").exists());
    assert!(!place.join("docs").exists());
    assert_eq!(status(&place), "");
    assert_eq!(git(&place, &["sparse-checkout", "list"]), "src");
}

#[tokio::test]
async fn configuration_of_the_worktree_itself_does_not_reach_the_next_lease() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
    git(&fixture.repo, &["config", "--worktree", "demo.key", "main"]);
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(git(&place, &["config", "demo.key"]), "main");
    git(&place, &["config", "--worktree", "demo.key", "lease"]);
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    assert_eq!(git(&place, &["config", "demo.key"]), "main");
    assert_eq!(git(&fixture.repo, &["config", "demo.key"]), "main");
}
