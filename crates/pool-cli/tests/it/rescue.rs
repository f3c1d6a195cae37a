//! What was saved, and the way back.

use std::fs;

use testkit::fixture::Layout;

use crate::bench::{Bench, write};

#[test]
fn list_show_restore_drop() {
    let bench = Bench::new();
    assert!(bench.rescues().is_empty());
    let path = bench.acquire(&["--name", "amber"]);
    write(path.join("untracked"), "one");
    write(path.join("staged"), "two");
    testkit::git(&path).args(["add", "staged"]).ok();
    bench.ok(&["release", "amber"]);
    let rescues = bench.rescues();
    let rescue = &rescues[0];
    assert_eq!((rescues.len(), &rescue["files"], &rescue["commits"]), (1, &2.into(), &0.into()));
    assert!(rescue["lease"].is_string() && rescue["created_at"].is_string());
    let reference = rescue["ref"].as_str().expect("a ref");
    bench.fixture.git().args(["rev-parse", "--verify", reference]).ok();
    let id = rescue["id"].as_str().expect("an id");
    let shown = bench.json(&["rescue", "show", id]);
    let paths: Vec<_> =
        shown["contents"].as_array().expect("an array").iter().map(|p| &p["path"]).collect();
    assert!(paths.contains(&&"untracked".into()) && paths.contains(&&"staged".into()), "{shown}");

    let into = bench.fixture.root().join("restored");
    let into_arg = into.to_str().expect("UTF-8");
    let ran = bench.ok(&["rescue", "restore", id, "--into", into_arg]);
    assert_eq!(ran.out.trim_end(), into_arg);
    assert_eq!(fs::read_to_string(into.join("untracked")).expect("restored"), "one");
    let status = testkit::git(&into).args(["status", "--porcelain"]).stdout();
    assert_eq!(status, "A  staged\n?? untracked");
    assert_eq!(bench.run(&["rescue", "restore", id, "--into", into_arg]).code, Some(2), "in use");

    let leased = bench.json(&["rescue", "restore", id]);
    let leased = std::path::Path::new(leased["path"].as_str().expect("a path"));
    assert_eq!(testkit::git(leased).args(["status", "--porcelain"]).stdout(), status);

    bench.ok(&["rescue", "drop", id]);
    assert!(bench.rescues().is_empty());
    assert_eq!(bench.run(&["rescue", "drop", id]).code, Some(6));
    assert_eq!(bench.run(&["rescue", "restore", id]).code, Some(6));
    assert_eq!(bench.run(&["rescue", "show", "../x"]).code, Some(2));
}

#[test]
fn commits_without_a_branch_are_saved() {
    let bench = Bench::new();
    let script = "git checkout -q --detach && echo x > x && git add x && git commit -qm x && git rev-parse HEAD";
    let ran = bench.ok(&["run", "--linger", "0s", "--", "sh", "-c", script]);
    let commit = ran.out.trim();
    let rescues = bench.rescues();
    assert_eq!((rescues.len(), &rescues[0]["commits"]), (1, &1.into()), "{rescues:?}");
    bench.fixture.git().args(["gc", "--prune=now", "--quiet"]).ok();
    bench.fixture.git().args(["cat-file", "-e", commit]).ok();
}

/// As careful people set it, and as is suggested against repositories that are hidden in others.
#[test]
fn bare_repositories_that_have_to_be_named_keep_nothing_from_being_restored() {
    let bench = Bench::of(Layout::Bare);
    write(bench.home.path().join(".gitconfig"), "[safe]\n\tbareRepository = explicit\n");
    let path = bench.acquire(&["--name", "amber", "--linger", "0s"]);
    // Large enough for git to write it.
    write(path.join("large"), &"large".repeat(1 << 19));
    bench.ok(&["release", "amber"]);
    let rescues = bench.rescues();
    let id = rescues[0]["id"].as_str().expect("an id");
    let into = bench.fixture.root().join("restored");
    bench.ok(&["rescue", "restore", id, "--into", into.to_str().expect("UTF-8")]);
    let leased = bench.json(&["rescue", "restore", id]);
    for restored in [into.as_path(), std::path::Path::new(leased["path"].as_str().expect("a path"))]
    {
        assert_eq!(fs::read(restored.join("large")).expect("restored").len(), 5 << 19);
    }
}
