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

/// A mirror of the bench's repository, with the arguments that make the verbs work there.
fn mirror(bench: &Bench) -> std::path::PathBuf {
    let mirror = bench.fixture.root().join("mirror.git");
    let main = bench.repo();
    testkit::git(bench.fixture.root())
        .args(["clone", "-q", "--mirror"])
        .arg(main)
        .arg(&mirror)
        .ok();
    mirror
}

fn finding<'a>(
    doctor: &'a serde_json::Value,
    check: &str,
    status: &str,
) -> Vec<&'a serde_json::Value> {
    let all = doctor["findings"].as_array().expect("an array").iter();
    all.filter(|one| one["check"] == check && one["status"] == status).collect()
}

/// Everything said is true of a mirror, is said once, and the commands that are offered help.
#[test]
fn mirror_is_reported_at_the_first_rescue_and_by_doctor() {
    let bench = Bench::new();
    let mirror = mirror(&bench);
    let repo = mirror.to_str().expect("UTF-8");
    let save = ["--repo", repo, "run", "--", "sh", "-c", "echo x > x"];
    let said = bench.ok(&save).err;
    let command = "git config --add remote.origin.fetch '^refs/wtpool/*'";
    assert!(said.contains("git fetch --prune origin") && said.contains(command), "{said}");
    assert!(said.contains("receive.hideRefs refs/wtpool"), "{said}");
    let again = bench.ok(&save).err;
    assert!(again.contains("saved") && !again.contains("remote.origin"), "{again}");

    let doctor = ["--repo", repo, "--json", "doctor"];
    let ran = bench.run(&doctor);
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    let found: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let wrong = finding(&found, "remotes", "wrong");
    let advice = wrong[0]["advice"].as_str().expect("advice");
    assert!(advice.contains(command), "{found}");
    let commands = advice.strip_prefix("to exclude them, run: ").expect("commands");
    let done =
        std::process::Command::new("sh").args(["-c", commands]).current_dir(&mirror).status();
    assert!(done.expect("sh").success());
    testkit::git(&mirror).args(["fetch", "-q", "--prune"]).ok();
    let left = bench.json(&["--repo", repo, "rescue", "list"]);
    assert_eq!(left.as_array().expect("an array").len(), 2, "{left}");
    let found: serde_json::Value = serde_json::from_str(&bench.run(&doctor).out).expect("JSON");
    assert!(finding(&found, "remotes", "wrong").is_empty(), "{found}");
    assert_eq!(finding(&found, "remotes", "note").len(), 1, "a push still publishes them: {found}");
}

#[test]
fn rescue_deleted_by_another_program_is_reported() {
    let bench = Bench::new();
    let save = ["run", "--", "sh", "-c", "echo x > x"];
    for _ in 0..3 {
        bench.ok(&save);
    }
    let rescues = bench.rescues();
    let id = |at: usize| rescues[at]["id"].as_str().expect("an id");
    bench.ok(&["rescue", "drop", id(0)]);
    for at in [1, 2] {
        let reference = rescues[at]["ref"].as_str().expect("a ref");
        bench.fixture.git().args(["update-ref", "-d", reference]).ok();
    }
    let listed = bench.ok(&["rescue", "list"]);
    assert!(listed.err.contains("2 rescues deleted by another program"), "{}", listed.err);
    let doctor = || -> serde_json::Value {
        serde_json::from_str(&bench.run(&["--json", "doctor"]).out).expect("JSON")
    };
    let found = doctor();
    let wrong = finding(&found, "rescues", "wrong");
    assert_eq!(wrong.len(), 2, "and not the one that was dropped: {found}");
    let of = |id: &str| {
        let is =
            |one: &&&serde_json::Value| one["message"].as_str().is_some_and(|m| m.contains(id));
        wrong.iter().find(is).and_then(|one| one["advice"].as_str()).expect("advice")
    };
    let back = of(id(1)).split(['(', ';']).next().and_then(|text| text.split("run: ").nth(1));
    let repo = bench.repo();
    let done = std::process::Command::new("sh")
        .args(["-c", back.expect("a command")])
        .current_dir(repo)
        .status();
    assert!(done.expect("sh").success());
    assert_eq!(bench.rescues()[0]["id"], id(1));
    bench.ok(&["rescue", "drop", id(2)]);
    assert_eq!(bench.run(&["rescue", "drop", id(2)]).code, Some(6));
    assert!(finding(&doctor(), "rescues", "wrong").is_empty());
}
