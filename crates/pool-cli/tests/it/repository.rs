//! Where the repository is, and where the pool.

use std::fs;
use std::path::Path;

use testkit::fixture::Layout;

use crate::bench::{Bench, eventually, finish};

#[test]
fn from_a_parent_that_is_no_repository() {
    let bench = Bench::of(Layout::Nested);
    let ran = finish(
        bench
            .wtpool(&["run", "--", "git", "rev-parse", "HEAD"])
            .current_dir(bench.fixture.workspace()),
    );
    assert_eq!((ran.code, ran.out.trim()), (Some(0), bench.fixture.head().as_str()), "{ran:?}");
}

#[test]
fn two_repositories_are_both_named() {
    let bench = Bench::of(Layout::TwoNested);
    let ran = finish(bench.wtpool(&["acquire", "--json"]).current_dir(bench.fixture.workspace()));
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    assert!(ran.err.contains("codewhale") && ran.err.contains("narwhal"), "{ran:?}");
    assert!(ran.err.contains("ambiguous-repository"), "{ran:?}");
    let repo = bench.repo();
    let repo = repo.to_str().expect("UTF-8");
    let ran = finish(
        bench.wtpool(&["run", "--repo", repo, "--", "true"]).current_dir(bench.fixture.workspace()),
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn no_repository() {
    let bench = Bench::new();
    let ran = finish(bench.wtpool(&["acquire"]).current_dir(bench.home.path()));
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    assert!(ran.err.contains("hint:"), "{ran:?}");
}

#[test]
fn every_verb_works_from_anywhere_with_the_pool_dir() {
    let bench = Bench::new();
    let pool = bench.pool();
    let pool = pool.to_str().expect("UTF-8");
    bench.acquire(&["--name", "here"]);
    let away = |args: &[&str]| {
        let args = [args, &["--pool-dir", pool]].concat();
        finish(bench.wtpool(&args).current_dir(bench.home.path()))
    };
    for args in [
        &["list"][..],
        &["show", "here"],
        &["renew", "here"],
        &["acquire", "--name", "there"],
        &["warm", "1"],
        &["release", "here"],
        &["release", "there"],
        &["rescue", "list"],
        &["doctor"],
        &["config"],
        &["events"],
        &["prune", "--all"],
    ] {
        let ran = away(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }
    assert!(bench.slots().is_empty());
}

#[test]
fn a_pool_of_another_repository_is_refused() {
    let bench = Bench::new();
    let other = Bench::new();
    bench.acquire(&[]);
    let pool = bench.pool();
    let ran = other.run(&["acquire", "--pool-dir", pool.to_str().expect("UTF-8")]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("another repository"), "{ran:?}");
    assert_eq!(bench.slots().len(), 1);
}

#[test]
fn a_pool_inside_a_worktree_is_refused() {
    let bench = Bench::new();
    fs::create_dir_all(bench.repo().join(".git/info")).expect("a directory");
    fs::write(bench.repo().join(".git/info/exclude"), "/.wtpool/\n").expect("ignore it");
    let linked = bench.fixture.root().join("linked");
    let add = ["worktree", "add", "-q", "--detach", linked.to_str().expect("UTF-8")];
    bench.fixture.git().args(add).ok();
    std::os::unix::fs::symlink(bench.repo(), bench.fixture.root().join("link")).expect("a link");
    let link = bench.fixture.root().join("link");
    for dir in [bench.repo().join(".wtpool"), bench.repo(), linked.join("a/b"), link.join("pool")] {
        let there = dir.exists();
        let dir_arg = dir.to_str().expect("UTF-8");
        let ran = bench.run(&["acquire", "--pool-dir", dir_arg]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{dir:?}: {ran:?}");
        assert!(ran.err.contains("git clean") && ran.err.contains("hint: "), "{ran:?}");
        assert_eq!(dir.exists(), there, "nothing was made");
    }
    // Its name only begins the same.
    let beside = bench.fixture.root().join(format!("{}-pool", bench.repo().display()));
    let bench = bench.in_pool_dir(&beside);
    bench.acquire(&[]);
}

#[test]
fn inside_a_lease_the_pool_is_the_same_and_the_base_its_own() {
    let bench = Bench::new();
    let other = Bench::new();
    let exe = crate::bench::quoted();
    let script = format!(
        "echo x > x && git add x && git commit -qm x && git rev-parse HEAD && \
         {exe} run -q -- git rev-parse HEAD && cd {} && {exe} run -q -- git rev-parse HEAD~0",
        other.repo().display()
    );
    let ran = bench.ok(&["run", "--", "sh", "-c", &script]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], lines[1], "the nested lease starts from this worktree's HEAD");
    assert_eq!(lines[2], other.fixture.head(), "another repository has its own pool");
}

#[test]
fn a_pool_on_another_filesystem() {
    use std::os::unix::fs::MetadataExt;
    let shm = Path::new("/dev/shm");
    let Ok(dir) = tempfile::tempdir_in(shm) else {
        crate::bench::skip("there is no /dev/shm");
        return;
    };
    let bench = Bench::new().in_pool_dir(&dir.path().join("pool"));
    let device = |path: &Path| fs::metadata(path).expect("metadata").dev();
    if device(dir.path()) == device(&bench.repo()) {
        crate::bench::skip("/dev/shm is on the same filesystem");
        return;
    }
    let ran = bench.ok(&["run", "--linger", "0s", "--", "sh", "-c", "pwd; echo work > new"]);
    assert!(ran.out.starts_with("/dev/shm"), "{ran:?}");
    assert!(bench.slots().is_empty());
    assert_eq!(bench.rescues().len(), 1);
    bench.ok(&["prune"]);
    assert_eq!(fs::read_dir(dir.path().join("pool/slots")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_bare_repository() {
    let bench = Bench::of(Layout::Bare);
    let head = bench.fixture.head();
    assert_eq!(bench.ok(&["run", "--", "git", "rev-parse", "HEAD"]).out.trim(), head);
}

#[test]
fn doctor_names_a_worktree_in_which_git_works_elsewhere() {
    let bench = Bench::new();
    let path = bench.acquire(&[]);
    assert!(bench.ok(&["doctor"]).out.contains("git in each of them works in that one"));
    let repo = bench.repo();
    bench.fixture.git().args(["config", "extensions.worktreeConfig", "true"]).ok();
    bench.fixture.git().args(["config", "core.worktree"]).arg(&repo).ok();
    let ran = bench.run(&["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains(&format!("git would not work in {}", path.display())), "{ran:?}");
    bench.fixture.git().args(["config", "--unset", "core.worktree"]).ok();
    bench.ok(&["doctor"]);
}

#[test]
fn doctor_notes_a_checkout_that_core_bare_denies() {
    let bench = Bench::new();
    bench.fixture.git().args(["config", "core.bare", "true"]).ok();
    let found = bench.ok(&["doctor"]).out;
    let hint = format!("run: git -C {} config core.bare false", bench.repo().display());
    assert!(found.contains("core.bare is true") && found.contains(&hint), "{found}");
    bench.fixture.git().args(["config", "core.bare", "false"]).ok();
    assert!(!bench.ok(&["doctor"]).out.contains("core.bare"));
}

#[test]
fn list_and_doctor_show_what_is_beside_a_slot() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "outer"]);
    let beside = path.with_file_name("beside");
    testkit::git(&path)
        .args(["worktree", "add", "--quiet", "-b", "sub", ".claude/worktrees/sub"])
        .ok();
    testkit::git(&path).args(["worktree", "add", "--quiet", "-b", "beside", "../beside"]).ok();
    let notes = path.with_file_name("notes.txt");
    std::fs::write(&notes, "notes\n").expect("written");
    let listed = bench.json(&["list"]);
    let others: Vec<_> = listed["others"].as_array().expect("an array").iter().collect();
    let paths: Vec<_> =
        others.iter().map(|other| other["path"].as_str().expect("a path")).collect();
    let inside = path.join(".claude/worktrees/sub");
    assert_eq!(paths, [&beside, &notes, &inside].map(|path| path.to_str().expect("UTF-8")));
    assert_eq!(others[0]["what"], "a linked worktree of this repository");
    assert_eq!(others[1]["what"], "a file");
    let said = bench.ok(&["list"]).out;
    assert!(said.contains(notes.to_str().expect("UTF-8")), "{said}");
    let said = bench.ok(&["doctor"]).out;
    assert!(said.contains(&format!("{} is a linked worktree", beside.display())), "{said}");
    for (path, side) in [(&beside, "beside"), (&notes, "beside"), (&inside, "in")] {
        let path = path.to_str().expect("UTF-8");
        let line = said.lines().find(|line| line.contains(&format!("{path} is "))).expect("a line");
        assert!(line.ends_with(&format!(", {side} slot 1")), "{line}");
    }
    let shown = beside.display();
    assert!(said.contains(&format!("git -C {shown} worktree move {shown} NEW-PATH")), "{said}");
    assert!(said.contains(&format!("mv {} NEW-PATH", notes.display())), "{said}");
    bench.run(&["release", "outer"]);
    let listed = bench.json(&["list"]);
    assert_eq!(listed["slots"].as_array().map(Vec::len), Some(0));
    assert_eq!(listed["others"].as_array().map(Vec::len), Some(1), "{listed}");
    assert!(notes.exists() && !beside.exists());
}

#[test]
fn only_what_is_not_the_pools_is_listed_beside_a_slot() {
    let bench = Bench::new().var("WTPOOL_COPY", r#"["no-such-file", ".env"]"#);
    std::fs::write(bench.repo().join(".env"), "A=1\n").expect("written");
    bench.acquire(&["--name", "one"]);
    assert_eq!(bench.json(&["list"])["others"], serde_json::json!([]));
    bench.ok(&["release", "one", "--linger", "0s"]);
    // All of it goes with the slot.
    assert_eq!(bench.pool().join("slots").read_dir().expect("read").count(), 0);
}

#[test]
fn occupant_of_a_worktree_beside_a_slot_is_a_note() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "outer"]);
    testkit::git(&path).args(["worktree", "add", "--quiet", "-b", "beside", "../beside"]).ok();
    let beside = path.with_file_name("beside");
    let mut occupant = std::process::Command::new("sleep");
    let mut occupant = occupant.arg("1000").current_dir(&beside).spawn().expect("started");
    bench.run(&["release", "outer", "--linger", "0s"]);
    // While the reaper looks at the slot again, it is not quarantined.
    let mut said = String::new();
    eventually("doctor names the quarantine", || {
        said = bench.run(&["doctor"]).out;
        said.contains("quarantine ")
    });
    occupant.kill().expect("killed");
    occupant.wait().expect("waited");
    let line = said.lines().find(|line| line.contains("quarantine ")).expect("it is there");
    assert!(line.starts_with("note") && line.contains("sleep"), "{said}");
    let is_removed = || {
        bench.ok(&["prune"]);
        !beside.exists()
    };
    eventually("the slot is removed with the worktree beside it", is_removed);
}

#[test]
fn slot_with_files_beside_its_worktree_is_not_used_again() {
    for stray in ["notes.txt", "clone/x.txt", "some/where/x.txt"] {
        let bench = Bench::new();
        bench.ok(&["warm", "1"]);
        let first = bench.acquire(&["--name", "first"]);
        bench.ok(&["release", "first", "--linger", "0s"]);
        let second = bench.acquire(&["--name", "second"]);
        assert_eq!(first, second, "used again if nothing is beside it");
        let stray = second.with_file_name("").join(stray);
        fs::create_dir_all(stray.parent().expect("a parent")).expect("made");
        fs::write(&stray, "notes\n").expect("written");
        let nested = ["worktree", "add", "--quiet", "-b", "nested", "../some/nested"];
        testkit::git(&second).args(nested).ok();
        bench.ok(&["release", "second", "--linger", "0s"]);
        assert!(!second.exists());
        let third = bench.acquire(&["--name", "third"]);
        assert_ne!(second.parent(), third.parent());
        assert_eq!(fs::read_to_string(&stray).expect("read"), "notes\n");
        bench.ok(&["release", "third", "--linger", "0s"]);
    }
}
