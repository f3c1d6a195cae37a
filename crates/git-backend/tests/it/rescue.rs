//! What is saved comes back: each byte, mode and link, the index, HEAD, and whatever git was in the
//! middle of.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, GitSettings};
use pool_core::{ErrorKind, Isolator, Plan, Preserved, Rescue};

use crate::support::{
    Fixture, archive, commit, detached, git, git_succeeds, noise, plan, settings, write,
};

/// Path, kind, mode and content of everything below a directory, but git's own file and what is
/// regenerable.
fn listing(root: &Path) -> BTreeMap<PathBuf, (char, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let meta = path.symlink_metadata().unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            if name == Path::new(".git") || name == Path::new("target") {
                continue;
            }
            if meta.is_dir() {
                found.insert(name, ('d', mode, Vec::new()));
                pending.push(path);
            } else if meta.file_type().is_symlink() {
                found.insert(
                    name,
                    ('l', 0, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()),
                );
            } else {
                found.insert(name, ('f', mode, fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// All that git says of a worktree.
#[derive(Debug, PartialEq)]
struct GitState {
    status: String,
    head: String,
    branch: String,
    staged: String,
    stages: String,
    flags: String,
}

fn state(dir: &Path) -> GitState {
    // First what does not refresh the index.
    let flags = git(dir, &["ls-files", "-v"]);
    GitState {
        status: git(dir, &["status", "--porcelain=v2", "--branch", "--untracked-files=all"]),
        head: git(dir, &["rev-parse", "HEAD"]),
        branch: git(dir, &["rev-parse", "--symbolic-full-name", "HEAD"]),
        staged: git(dir, &["diff", "--cached"]),
        stages: git(dir, &["ls-files", "--stage"]),
        flags,
    }
}

async fn preserved(isolator: &GitIsolator, plan: &Plan) -> Preserved {
    let inspection = isolator.inspect(plan).await.expect("inspected");
    isolator.preserve(inspection).await.expect("preserved")
}

/// Saves a slot, deletes it the hard way, lets git throw away all it can, and restores it elsewhere.
async fn round_trip(fixture: &Fixture, isolator: &GitIsolator, plan: &Plan) -> (Rescue, PathBuf) {
    let place = isolator.place(plan.slot);
    let (files, state_before) = (listing(&place), state(&place));
    let proof = preserved(isolator, plan).await;
    let rescue = proof.rescue().expect("there was something to save").clone();
    assert_eq!(listing(&place), files, "preserving changes nothing");
    assert_eq!(git(&fixture.repo, &["rev-parse", "--verify", "-q", &rescue.reference]).len(), 40);

    fs::remove_dir_all(&place).unwrap();
    git(&fixture.repo, &["worktree", "prune", "--expire=now"]);
    if let Some(branch) = proof.branch().filter(|branch| !branch.kept) {
        git(&fixture.repo, &["branch", "-q", "-D", &branch.name]);
    }
    git(&fixture.repo, &["reflog", "expire", "--all", "--expire=now", "--expire-unreachable=now"]);
    git(&fixture.repo, &["gc", "-q", "--prune=now"]);

    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(isolator).restore_into(&rescue.id, &into).await.expect("restored");
    assert_eq!(listing(&into), files);
    assert_eq!(state(&into), state_before);
    assert_eq!(git(&fixture.repo, &["fsck", "--no-dangling"]), "");
    (rescue, into)
}

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Changes of every kind that needs no operation in progress.
fn make_dirty(place: &Path) {
    write(place, "README.md", "staged\n");
    git(place, &["add", "README.md"]);
    write(place, "README.md", "staged and changed\n");
    write(place, "staged-only", "gone from disk");
    git(place, &["add", "staged-only"]);
    fs::remove_file(place.join("staged-only")).unwrap();
    fs::remove_file(place.join("src/lib/deep.rs")).unwrap();
    chmod(place.join("src/main.rs"), 0o755);
    chmod(place.join("kept"), 0o640);
    write(place, "private", "key");
    chmod(place.join("private"), 0o600);
    write(place, "tool", "#!/bin/sh\n");
    chmod(place.join("tool"), 0o755);
    symlink("../else/where", place.join("dangling")).unwrap();
    symlink("src", place.join("to-dir")).unwrap();
    write(place, "deep/er/file", "1");
    chmod(place.join("deep/er"), 0o700);
    write(place, ".env", "SECRET=1");
    write(place, "-rf", "option");
    write(place, "two\nlines", "name");
    fs::write(place.join(OsStr::from_bytes(b"inv\xff\xfealid")), b"bytes\0\xff\r\n").unwrap();
    write(place, "aux.c", "a name that Windows has not");
    fs::create_dir_all(place.join("empty/inside")).unwrap();
    write(place, "soon", "intended");
    git(place, &["add", "-N", "soon"]);
    git(place, &["update-index", "--assume-unchanged", "assumed"]);
    write(place, "assumed", "but changed");
    write(place, "target/debug/out", "made");
}

/// A repository with a few more files.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for path in ["kept", "assumed", "becomes-dir", "becomes-file/x"] {
        write(&fixture.repo, path, path);
    }
    commit(&fixture.repo, "more");
    fixture
}

#[tokio::test]
async fn a_dirty_tree_comes_back_byte_for_byte() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    make_dirty(&place);
    fs::remove_file(place.join("becomes-dir")).unwrap();
    write(&place, "becomes-dir/now", "dir");
    fs::remove_dir_all(place.join("becomes-file")).unwrap();
    write(&place, "becomes-file", "file");
    let (rescue, into) = round_trip(&fixture, &isolator, &plan).await;

    // Stock git reads it like a stash.
    let show = |path: &str| git(&fixture.repo, &["show", &format!("{}:{path}", rescue.reference)]);
    assert_eq!(show(".env"), "SECRET=1");
    assert_eq!(show("README.md"), "staged and changed");
    assert!(!git_succeeds(
        &fixture.repo,
        &["cat-file", "-e", &format!("{}:target", rescue.reference)]
    ));
    let names = git(
        &fixture.repo,
        &["diff", "--name-only", &format!("{}^", rescue.reference), &rescue.reference],
    );
    assert!(names.lines().any(|line| line == "src/lib/deep.rs"));

    let contents = archive(&isolator).contents(&rescue.id).await.unwrap();
    let status = |path: &str| {
        contents.iter().filter(|c| c.path == path).map(|c| c.status.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(status("README.md"), ["staged", "modified"]);
    assert_eq!(status(".env"), ["ignored"]);
    assert_eq!(status("src/lib/deep.rs"), ["deleted"]);
    assert_eq!(status("inv\\xff\\xfealid"), ["untracked"]);
    assert_eq!(status("kept"), [""; 0]);
    let sizes = |path: &str| {
        contents.iter().filter(|c| c.path == path).map(|c| c.bytes).collect::<Vec<_>>()
    };
    assert_eq!(sizes("README.md"), ["staged\n".len() as u64, "staged and changed\n".len() as u64]);
    assert_eq!(sizes("staged-only")[0], "gone from disk".len() as u64);

    let listed = archive(&isolator).list().await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&rescue));
    assert_eq!(rescue.lease, plan.lease.as_ref().map(|(id, _)| id.clone()));
    assert_eq!(rescue.name.as_ref().unwrap().as_str(), "lease");
    assert_eq!(
        archive(&isolator).head(&rescue.id).await.unwrap().to_string(),
        git(&into, &["rev-parse", "HEAD"])
    );

    // What is in use is refused, and left alone.
    let before = listing(&into);
    let error = archive(&isolator).restore_into(&rescue.id, &into).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(listing(&into), before);

    archive(&isolator).drop_rescue(&rescue.id).await.unwrap();
    assert_eq!(
        archive(&isolator).drop_rescue(&rescue.id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(archive(&isolator).list().await.unwrap().is_empty());
}

#[tokio::test]
async fn conflicts_come_back_with_all_their_stages() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "README.md", "ours\n");
    commit(&place, "ours");
    git(&place, &["checkout", "-q", "-b", "theirs", "HEAD~1"]);
    write(&place, "README.md", "theirs\n");
    commit(&place, "theirs");
    git(&place, &["checkout", "-q", "wtpool/lease"]);
    assert!(!git_succeeds(&place, &["merge", "theirs"]));
    make_dirty_beside_conflict(&place);
    let (_, into) = round_trip(&fixture, &isolator, &plan).await;
    write(&into, "README.md", "both\n");
    git(&into, &["add", "README.md"]);
    git(&into, &["commit", "-q", "--no-edit"]);
    assert_eq!(git(&into, &["rev-list", "--count", "--merges", "HEAD"]), "1");
}

fn make_dirty_beside_conflict(place: &Path) {
    write(place, "kept", "changed");
    write(place, "new", "1");
}

#[tokio::test]
async fn a_rebase_goes_on_after_the_restore() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    for n in 1..=2 {
        write(&place, "README.md", &format!("ours {n}\n"));
        commit(&place, &format!("ours {n}"));
    }
    git(&place, &["checkout", "-q", "--detach", "HEAD~2"]);
    write(&place, "README.md", "theirs\n");
    let onto = commit(&place, "theirs");
    git(&place, &["checkout", "-q", "wtpool/lease"]);
    assert!(!git_succeeds(&place, &["rebase", "-q", &onto]));
    let (rescue, into) = round_trip(&fixture, &isolator, &plan).await;
    assert_eq!(rescue.commits, 1);
    git(&into, &["rebase", "--abort"]);
    assert_eq!(git(&into, &["rev-parse", "--abbrev-ref", "HEAD"]), "wtpool/lease");
    assert_eq!(git(&into, &["log", "-1", "--format=%s"]), "ours 2");
}

#[tokio::test]
async fn detached_commits_and_those_reset_away_come_back() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = detached(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "kept", "reset away");
    let away = commit(&place, "away");
    git(&place, &["reset", "-q", "--hard", "HEAD~1"]);
    write(&place, "kept", "detached");
    commit(&place, "detached");
    git(&place, &["update-ref", "refs/worktree/mark", "HEAD"]);
    make_dirty(&place);
    let (rescue, into) = round_trip(&fixture, &isolator, &plan).await;
    assert_eq!(rescue.commits, 2);
    assert_eq!(git(&into, &["log", "-1", "--format=%s", &away]), "away");
    assert_eq!(
        git(&into, &["rev-parse", "refs/worktree/mark"]),
        git(&into, &["rev-parse", "HEAD"])
    );
    assert!(git(&into, &["reflog"]).contains("away"));
}

/// A tag of a tag, and one of a blob.
#[tokio::test]
async fn what_tags_of_its_own_lead_to_comes_back() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "content", "of a blob");
    let blob = git(&place, &["hash-object", "-w", "content"]);
    fs::remove_file(place.join("content")).unwrap();
    let commit = git(&place, &["commit-tree", "-m", "floating", "HEAD^{tree}"]);
    let mut tagged = Vec::new();
    for (target, name) in [(&commit, "inner"), (&blob, "content")] {
        git(&place, &["tag", "-a", "-m", name, name, target]);
        tagged.push(git(&place, &["rev-parse", name]));
    }
    git(&place, &["tag", "-a", "-m", "outer", "outer", "inner"]);
    git(&place, &["update-ref", "refs/worktree/outer", "outer"]);
    git(&place, &["update-ref", "refs/worktree/content", "content"]);
    git(&place, &["tag", "-d", "outer", "inner", "content"]);
    write(&place, "new", "precious");

    let (_, into) = round_trip(&fixture, &isolator, &plan).await;
    for object in tagged.iter().chain([&commit, &blob]) {
        git(&into, &["cat-file", "-e", object]);
    }
    assert_eq!(git(&into, &["rev-parse", "refs/worktree/outer^{}"]), commit);
}

/// Of a commit that is kept without it.
#[tokio::test]
async fn a_tag_of_its_own_alone_is_a_rescue_too() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = detached(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    let tag = |name: &str| {
        git(&place, &["tag", "-a", "-m", name, name, "HEAD"]);
        git(&place, &["update-ref", &format!("refs/worktree/{name}"), name]);
        git(&place, &["rev-parse", name])
    };
    tag("kept");
    let settled = preserved(&isolator, &plan).await;
    assert!(settled.rescue().is_none(), "somebody else keeps that tag");
    let alone = tag("alone");
    git(&place, &["tag", "-d", "alone"]);
    let (_, into) = round_trip(&fixture, &isolator, &plan).await;
    assert_eq!(git(&into, &["rev-parse", "refs/worktree/alone"]), alone);
    assert_eq!(git(&into, &["cat-file", "-t", &alone]), "tag");
}

#[tokio::test]
async fn commits_alone_are_a_rescue_too() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = detached(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "kept", "detached");
    commit(&place, "detached");
    let (rescue, _) = round_trip(&fixture, &isolator, &plan).await;
    assert_eq!((rescue.files, rescue.commits), (0, 1));
}

#[tokio::test]
async fn conversions_neither_change_what_is_saved_nor_what_comes_back() {
    let fixture = fixture();
    write(&fixture.repo, ".gitattributes", "*.txt text eol=crlf\n");
    write(&fixture.repo, "a.txt", "one\ntwo\n");
    write(&fixture.repo, "b.txt", "one\ntwo\n");
    write(&fixture.repo, "c.txt", "one\ntwo\n");
    commit(&fixture.repo, "attributes");
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "b.txt", "one\ntwo\r\nthree\r\n");
    write(&place, "c.txt", "one\ntwo\n");
    write(&place, ".gitattributes", "*.txt text eol=crlf\n*.bin binary\n");
    round_trip(&fixture, &isolator, &plan).await;
}

#[tokio::test]
async fn many_files_are_saved_together() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    for n in 0..200 {
        write(&place, &format!("many/{n}"), &n.to_string());
    }
    let (rescue, _) = round_trip(&fixture, &isolator, &plan).await;
    assert_eq!(rescue.files, 200);
}

#[tokio::test]
async fn a_branch_that_was_never_born_comes_back() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    git(&place, &["checkout", "-q", "--orphan", "fresh"]);
    write(&place, "new", "1");
    let files = listing(&place);
    let status = git(&place, &["status", "--porcelain=v2", "--branch"]);
    let rescue = preserved(&isolator, &plan).await.rescue().unwrap().id.clone();
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&rescue, &into).await.expect("restored");
    assert_eq!(listing(&into), files);
    assert_eq!(git(&into, &["status", "--porcelain=v2", "--branch"]), status);
}

#[tokio::test]
async fn saving_twice_makes_one_rescue() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = detached(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    write(&place, "kept", "detached");
    commit(&place, "detached");
    write(&place, "new", "1");
    let first = preserved(&isolator, &plan).await.rescue().unwrap().clone();
    let second = preserved(&isolator, &plan).await.rescue().unwrap().clone();
    assert_eq!(first, second);
    write(&place, "new", "2");
    let third = preserved(&isolator, &plan).await.rescue().unwrap().clone();
    assert_ne!(first.id, third.id);
    assert_eq!(archive(&isolator).list().await.unwrap(), [first, third]);
}

#[tokio::test]
async fn a_clean_slot_needs_no_rescue() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    assert_eq!(preserved(&isolator, &plan).await.rescue(), None);
    assert!(archive(&isolator).list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_saved_is_kept_and_named() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    let _socket = UnixListener::bind(place.join("sock")).unwrap();
    write(&place, "new", "1");
    let inspection = isolator.inspect(&plan).await.unwrap();
    let error = isolator.preserve(inspection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldLoseWork);
    assert!(error.to_string().contains("sock: it is a socket"), "{error}");
    assert!(error.hint().is_some());
    assert!(archive(&isolator).list().await.unwrap().is_empty());
    assert!(place.join("new").exists());
}

#[tokio::test]
async fn another_worktree_on_the_branch_means_a_detached_head() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "new", "1");
    let rescue = preserved(&isolator, &plan).await.rescue().unwrap().id.clone();
    // The slot itself still is on it.
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&rescue, &into).await.expect("restored");
    assert_eq!(git(&into, &["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
    assert_eq!(git(&into, &["status", "--porcelain"]), "?? new");
}

/// Git can't have a branch beside others whose names go on from its own.
#[tokio::test]
async fn a_branch_that_cannot_be_made_again_means_a_detached_head() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "new", "1");
    let proof = preserved(&isolator, &plan).await;
    let rescue = proof.rescue().unwrap().id.clone();
    isolator.dispose(proof).await.unwrap();
    git(&fixture.repo, &["branch", "wtpool/lease/next"]);
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&rescue, &into).await.expect("restored");
    assert_eq!(git(&into, &["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
    assert_eq!(git(&into, &["status", "--porcelain"]), "?? new");
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]).trim(), "wtpool/lease/next");
}

#[tokio::test]
async fn a_rescue_can_be_brought_into_another_lease() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    make_dirty(&isolator.place(first.slot));
    fs::remove_dir_all(isolator.place(first.slot).join("target")).unwrap();
    let files = listing(&isolator.place(first.slot));
    let index = state(&isolator.place(first.slot)).stages;
    let rescue = preserved(&isolator, &first).await.rescue().unwrap().id.clone();

    let second = plan(&isolator, 2, "second").await;
    isolator.provision(&second).await.unwrap();
    archive(&isolator).restore_onto(&rescue, &second).await.expect("restored");
    let place = isolator.place(second.slot);
    assert_eq!(listing(&place), files);
    assert_eq!(state(&place).stages, index);
    assert_eq!(state(&place).branch, "refs/heads/wtpool/second");

    // Not a second time, over what is there now.
    let error = archive(&isolator).restore_onto(&rescue, &second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldLoseWork);
    assert_eq!(listing(&place), files);
}

/// Where the lease had something else in the place of what a fresh one begins with.
#[tokio::test]
async fn what_came_along_makes_way_for_what_is_restored() {
    let fixture = fixture();
    for path in ["link.local", "directory.local", "empty.local", "linked.local/file.local"] {
        write(&fixture.repo, path, "set up");
    }
    let copy = vec!["*.local".to_owned()];
    let isolator = fixture.isolator_with(GitSettings { copy, ..settings() });
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(first.slot);
    for path in ["link.local", "directory.local", "empty.local", "linked.local/file.local"] {
        fs::remove_file(place.join(path)).unwrap();
    }
    symlink("elsewhere", place.join("link.local")).unwrap();
    write(&place, "directory.local/file", "1");
    fs::create_dir(place.join("empty.local")).unwrap();
    fs::remove_dir(place.join("linked.local")).unwrap();
    symlink("elsewhere", place.join("linked.local")).unwrap();
    symlink("elsewhere", place.join("target")).unwrap();
    let target = |place: &Path| fs::read_link(place.join("target")).unwrap();
    let (files, outside) = (listing(&place), target(&place));
    let rescue = preserved(&isolator, &first).await.rescue().unwrap().id.clone();

    let second = plan(&isolator, 2, "second").await;
    isolator.provision(&second).await.unwrap();
    let place = isolator.place(second.slot);
    write(&place, "target/debug/out", "of a cache");
    archive(&isolator).restore_onto(&rescue, &second).await.expect("restored");
    assert_eq!((listing(&place), target(&place)), (files, outside));
}

/// Gives every object a file of its own, so that one of them can be damaged.
fn loosen(repo: &Path) {
    for entry in fs::read_dir(repo.join(".git/objects/pack")).unwrap() {
        let (pack, away) = (entry.unwrap().path(), repo.join(".git/away"));
        if pack.extension().is_some_and(|extension| extension == "pack") {
            fs::rename(&pack, &away).unwrap();
            let mut git = std::process::Command::new("git");
            git.current_dir(repo).args(["unpack-objects", "-q"]);
            let status = git.stdin(fs::File::open(&away).unwrap()).status().unwrap();
            assert!(status.success());
        }
        let _ = fs::remove_file(pack);
    }
}

#[tokio::test]
async fn a_failed_restore_leaves_nothing() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "new", "to be lost");
    let proof = preserved(&isolator, &plan).await;
    let rescue = proof.rescue().unwrap().clone();
    isolator.dispose(proof).await.unwrap();
    let blob = git(&fixture.repo, &["rev-parse", &format!("{}:new", rescue.reference)]);
    loosen(&fixture.repo);
    fs::remove_file(fixture.repo.join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();

    let into = fixture.root.path().join("restored");
    assert!(archive(&isolator).restore_into(&rescue.id, &into).await.is_err());
    assert!(!into.exists());
    assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 1);
    assert_eq!(git(&fixture.repo, &["branch", "--list", "wtpool/*"]), "");
    assert_eq!(archive(&isolator).list().await.unwrap(), [rescue]);
}

/// Somebody's own, on a disk that is not there now.
#[tokio::test]
async fn nothing_is_restored_where_a_worktree_is_missing() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "new", "precious");
    let rescue = preserved(&isolator, &plan).await.rescue().unwrap().id.clone();
    let theirs = fixture.root.path().canonicalize().unwrap().join("theirs");
    git(&fixture.repo, &["worktree", "add", "-q", "--lock", theirs.to_str().unwrap()]);
    let away = fixture.root.path().join("away");
    fs::rename(&theirs, &away).unwrap();
    let error = archive(&isolator).restore_into(&rescue, &theirs).await.unwrap_err();
    assert!(!theirs.exists(), "{error}");
    fs::create_dir(&theirs).unwrap();
    archive(&isolator).restore_into(&rescue, &theirs).await.unwrap_err();
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
    fs::rename(&away, &theirs).unwrap();
    assert_eq!(git(&theirs, &["status", "--porcelain"]), "");
    assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 3);
}

#[tokio::test]
async fn a_damaged_rescue_does_not_hide_the_others() {
    let fixture = fixture();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    write(&isolator.place(plan.slot), "new", "1");
    let rescue = preserved(&isolator, &plan).await.rescue().unwrap().clone();
    git(&fixture.repo, &["update-ref", "refs/wtpool/rescue/broken", "HEAD"]);
    let listed = archive(&isolator).list().await.unwrap();
    assert_eq!(listed.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().len(), 2);
    assert!(listed.contains(&rescue));
    let broken = listed.iter().find(|r| r.id.as_str() == "broken").unwrap();
    let error = archive(&isolator).contents(&broken.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
}

/// Large enough to be restored without being held in memory.
const LARGE: usize = 3 << 19;

#[tokio::test]
async fn a_file_too_large_to_be_held_in_memory_comes_back() {
    let fixture = Fixture::new();
    write(&fixture.repo, "kept", "");
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "large").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    fs::write(place.join("large"), noise(LARGE, 1)).unwrap();
    fs::write(place.join("README.md"), noise(LARGE, 2)).unwrap();
    chmod(place.join("large"), 0o600);
    // Which packs it, so that it comes out of a loose object as well as out of a pack.
    round_trip(&fixture, &isolator, &plan).await;
}

#[tokio::test]
async fn a_limit_for_the_size_of_packs_is_none_for_what_is_saved() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "pack.packSizeLimit", "1m"]);
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "large").await;
    isolator.provision(&plan).await.unwrap();
    for seed in 1..=3 {
        let file = isolator.place(plan.slot).join(format!("large-{seed}"));
        fs::write(file, noise(LARGE, seed)).unwrap();
    }
    round_trip(&fixture, &isolator, &plan).await;
}

#[tokio::test]
async fn a_large_file_whose_object_is_gone_restores_nothing() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "large").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    fs::write(place.join("large"), noise(LARGE, 1)).unwrap();
    let rescue = preserved(&isolator, &plan).await.rescue().unwrap().clone();
    let id = git(&fixture.repo, &["rev-parse", &format!("{}:large", rescue.reference)]);
    let object = fixture.repo.join(format!(".git/objects/{}/{}", &id[..2], &id[2..]));
    loosen(&fixture.repo);
    // Half of it is left: the size is still told.
    let bytes = fs::read(&object).unwrap();
    chmod(object.clone(), 0o644);
    fs::write(&object, &bytes[..bytes.len() / 2]).unwrap();
    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(&isolator).restore_into(&rescue.id, &into).await.unwrap_err();
    assert!(!into.exists());
    assert_eq!(fs::read(place.join("large")).unwrap().len(), LARGE);
}
