//! Acquire, renew, release, list, show, sessions, warm, names.

use std::fs;

use crate::bench::{Bench, Sleeper, WTPOOL, eventually, finish, quoted, write};

#[test]
fn a_lease_as_a_document() {
    let bench = Bench::new();
    let lease = bench.json(&["acquire", "--name", "amber", "--holder", "me", "--session", "s1"]);
    assert_eq!((&lease["name"], &lease["branch"]), (&"amber".into(), &"wtpool/amber".into()));
    assert_eq!(lease["base"], bench.fixture.head());
    assert_eq!(lease["repo"], bench.repo().to_str().expect("UTF-8"));
    assert_eq!((&lease["holder"], &lease["session"]), (&"me".into(), &"s1".into()));
    assert_eq!((&lease["state"], &lease["slot"]), (&"leased".into(), &1.into()));
    assert!(lease["generation"].is_u64() && lease["expires_at"].is_string());
    assert!(lease["acquired_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    assert_eq!(lease["env"]["WTPOOL_LEASE"], lease["lease"]);
    assert_eq!(lease["cache"]["strategy"], "private");
    assert!(lease["writable_roots"].is_array() && lease["cache"]["warm"].is_boolean());

    let list = bench.json(&["list"]);
    assert_eq!((&list["max_leases"], &list["repo"]), (&40.into(), &lease["repo"]));
    let slot = &list["slots"][0];
    assert_eq!((&slot["lease"]["lease"], &slot["path"]), (&lease["lease"], &lease["path"]));
    assert!(slot["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert!(
        slot["kept_because"].is_null() && list["waiting"].as_array().is_some_and(Vec::is_empty)
    );

    let id = lease["lease"].as_str().expect("an id");
    let path = lease["path"].as_str().expect("a path");
    for name in [id, &id[..20], "amber", path, &format!("{path}/src")] {
        assert_eq!(bench.json(&["show", name])["lease"], lease["lease"], "{name}");
    }
    let renewed = bench.json(&["renew", "amber", "--ttl", "2h"]);
    assert!(renewed["expires_at"].as_str() > lease["expires_at"].as_str());

    write(std::path::Path::new(path).join("new"), "work");
    let released = bench.json(&["release", &id[..20], "--outcome", "failure", "--linger", "0s"]);
    assert_eq!((&released["lease"], &released["outcome"]), (&lease["lease"], &"failure".into()));
    assert_eq!(released["branch"]["name"], "wtpool/amber");
    assert_eq!(
        (&released["branch"]["kept"], &released["branch"]["commits"]),
        (&false.into(), &0.into())
    );
    assert!(released["rescue"]["id"].is_string() && released["disposition"].is_string());
    let again = bench.json(&["release", id]);
    assert_eq!(again["rescue"], released["rescue"], "giving back twice changes nothing");
    assert_eq!(bench.rescues().len(), 1);
}

#[test]
fn nobody_is_leased_what_nobody_is_told_of() {
    let bench = Bench::new();
    let sh = |script: &str| {
        finish(&mut bench.command("sh", &["-c", &script.replace("wtpool", &quoted())]))
    };
    let linger = "--linger 1h";
    for script in [
        "wtpool acquire >&-",
        "wtpool acquire --json >&-",
        "wtpool acquire >/dev/full",
        "exec 3>&1; { wtpool acquire; echo $? >&3; } | true; exit 1",
    ] {
        let ran = sh(&script.replace("acquire", &format!("acquire {linger}")));
        assert_eq!(ran.code, Some(1), "{script}: {ran:?}");
        assert!(ran.out.is_empty() || ran.out == "1\n", "{script}: {ran:?}");
        assert!(ran.err.contains("standard output"), "{script}: {ran:?}");
        assert!(bench.slots().is_empty(), "{script}: {ran:?}");
    }
    let ran = sh("wtpool completions bash >/dev/full");
    assert_eq!(ran.code, Some(1), "an error like any other: {ran:?}");
    assert_eq!(sh("wtpool acquire --name known >/dev/null").code, Some(0));
    assert_eq!(bench.json(&["show", "known"])["state"], "leased");
}

#[test]
fn lingering_yields_to_a_second_release() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "amber"]);
    write(path.join("new"), "work");
    let first = bench.json(&["release", "amber", "--linger", "1h"]);
    assert_eq!(first["disposition"], "lingering");
    bench.ok(&["release", "amber"]);
    assert!(path.exists(), "without a duration nothing changes");
    let second = bench.json(&["release", "amber", "--linger", "0s"]);
    assert_eq!((&second["disposition"], path.exists()), (&"removed".into(), false));
    assert_eq!(second["rescue"], first["rescue"]);
    assert!(bench.slots().is_empty());
}

#[test]
fn stdout_has_the_path_only() {
    let bench = Bench::new();
    let path = bench.acquire(&["-vv"]);
    assert!(path.join(".git").is_file());
}

#[test]
fn unknown_and_stale_leases() {
    let bench = Bench::new();
    for verb in ["release", "renew", "show"] {
        assert_eq!(bench.run(&[verb, "nobody"]).code, Some(6), "{verb}, without a pool");
    }
    assert!(!bench.pool().exists(), "looking makes no pool");
    bench.acquire(&["--name", "once"]);
    bench.ok(&["release", "once"]);
    bench.ok(&["release", "once"]);
    let ran = bench.run(&["renew", "once", "--json"]);
    assert_eq!(ran.code, Some(6));
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("one document");
    assert_eq!(error["error"]["kind"], "stale-lease");
}

#[test]
fn a_name_that_is_taken() {
    let bench = Bench::new();
    bench.acquire(&["--name", "mine"]);
    let ran = bench.run(&["acquire", "--name", "mine", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("name-taken"), "{ran:?}");
    assert_eq!(bench.slots().len(), 1);
}

#[test]
fn hostile_names_change_nothing() {
    let bench = Bench::new();
    let long = "n".repeat(300);
    for name in ["../x", "/tmp/x", "-rf", "a\nb", "", ".", "..", "a/b", "x.lock", "a b", &long] {
        for verb in ["--name", "--session"] {
            let ran = bench.run(&["acquire", verb, name]);
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{verb} {name:?}: {ran:?}");
            assert!(ran.err.contains("is not a"), "{verb} {name:?}: {ran:?}");
        }
    }
    for branch in ["../x", "-rf", "a\nb", "a..b", "x.lock"] {
        let ran = bench.run(&["acquire", &format!("--branch={branch}")]);
        assert_eq!(ran.code, Some(2), "{branch:?}: {ran:?}");
    }
    assert_eq!(bench.run(&["acquire", "--holder", "a\nb"]).code, Some(2));
    assert_eq!(bench.run(&["acquire", "--wait", "soon"]).code, Some(2));
    assert_eq!(bench.branches(), ["main", "side"]);
    assert!(bench.slots().is_empty());
}

#[test]
fn the_branch_that_was_asked_for() {
    let bench = Bench::new();
    let named = bench.acquire(&["--branch", "topic"]);
    let detached = bench.acquire(&["--detach", "--base", "side"]);
    let branch =
        |path: &std::path::Path| testkit::git(path).args(["branch", "--show-current"]).stdout();
    assert_eq!((branch(&named), branch(&detached)), ("topic".to_owned(), String::new()));
    let side = bench.fixture.git().args(["rev-parse", "side"]).stdout();
    assert_eq!(testkit::git(&detached).args(["rev-parse", "HEAD"]).stdout(), side);
    assert_ne!(bench.run(&["acquire", "--base", "no-such-revision"]).code, Some(0));
    assert_eq!(bench.run(&["acquire", "--branch", "a", "--detach"]).code, Some(2));
}

#[test]
fn an_expired_lease_ends_and_its_work_is_saved() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s");
    let path = bench.acquire(&["--ttl", "1s", "--linger", "0s"]);
    // Should it be over already, the reaper was before us, and there is nothing to save.
    let written = fs::write(path.join("late"), "work").is_ok();
    bench.eventually_empty();
    assert!(!path.exists());
    assert_eq!(bench.rescues().len(), usize::from(written));
}

#[test]
fn a_lease_lives_as_long_as_its_owner() {
    let bench = Bench::new();
    let owner = Sleeper::new();
    let path = bench.acquire(&["--owner-pid", &owner.pid(), "--linger", "0s"]);
    write(path.join("new"), "work");
    bench.ok(&["prune"]);
    assert_eq!(bench.slots()[0]["state"], "leased");
    owner.kill();
    bench.eventually_empty();
    assert_eq!(bench.rescues().len(), 1);
    assert_eq!(bench.run(&["acquire", "--owner-pid", "999999999"]).code, Some(2));
}

#[test]
fn a_session_ends_with_its_parent() {
    let bench = Bench::new();
    let parent = Sleeper::new();
    let options = ["--session", "s1", "--session-pid", &parent.pid()];
    let paths = [bench.acquire(&options), bench.acquire(&options)];
    write(paths[0].join("new"), "work");
    parent.kill();
    bench.eventually_empty();
    assert!(paths.iter().all(|path| !path.exists()));
    assert_eq!(bench.rescues().len(), 1);
    assert_eq!(bench.worktrees(), 1);
}

#[test]
fn a_session_can_be_ended() {
    let bench = Bench::new();
    bench.acquire(&["--session", "s1"]);
    bench.acquire(&["--name", "other"]);
    bench.ok(&["end-session", "s1"]);
    let slots = bench.slots();
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert_eq!(slots[0]["lease"]["name"], "other");
    assert_eq!(bench.run(&["end-session", "s2"]).code, Some(6));
    bench.acquire(&["--session", "s1"]);
    assert_eq!(bench.slots().len(), 2, "its name was free again");
}

#[test]
fn warm_slots_are_used_and_go() {
    let bench = Bench::new();
    let warmed = bench.json(&["warm", "2"]);
    assert_eq!(warmed["made"], 2);
    let idle: Vec<&str> =
        warmed["idle"].as_array().expect("an array").iter().filter_map(|p| p.as_str()).collect();
    let path = bench.acquire(&[]);
    assert!(idle.contains(&path.to_str().expect("UTF-8")), "{path:?} is none of {idle:?}");
    assert_eq!(bench.slots().len(), 2);
    let dry = bench.ok(&["prune", "--all", "--dry-run"]);
    assert!(dry.out.contains("would remove idle"), "{dry:?}");
    assert_eq!(bench.slots().len(), 2, "nothing was done");
    bench.ok(&["prune", "--all"]);
    assert_eq!(bench.slots().len(), 1, "the lease stays");
}

#[test]
fn a_dry_run_changes_nothing() {
    let bench = Bench::new();
    bench.acquire(&[]);
    bench.kill_reaper();
    let before = bench.events();
    bench.ok(&["prune", "--dry-run", "--all"]);
    assert_eq!(bench.reapers(), Vec::<String>::new());
    assert_eq!(bench.events(), before);
    bench.ok(&["prune"]);
    eventually("one reaper watches", || bench.reapers().len() == 1);
}

#[test]
fn a_person_reads_tables() {
    let bench = Bench::new();
    let empty = bench.ok(&["list"]);
    assert!(empty.out.is_empty() && empty.err.contains("no slots"), "{empty:?}");
    bench.acquire(&["--name", "amber", "--holder", "somebody"]);
    let list = bench.ok(&["list"]);
    let mut lines = list.out.lines();
    assert!(
        lines.next().is_some_and(|head| head.starts_with("SLOT") && head.contains("KEPT BECAUSE"))
    );
    let row = lines.next().expect("a row");
    assert!(
        ["leased", "amber", "somebody", "wtpool/amber"].iter().all(|w| row.contains(w)),
        "{list:?}"
    );
    assert!(!list.out.contains('\u{1b}'), "no colours in a pipe");
    let doctor = bench.ok(&["doctor"]);
    assert!(doctor.out.lines().all(|line| !line.starts_with("WRONG")), "{doctor:?}");
    let doctor = bench.json(&["doctor"]);
    assert_eq!(doctor["ok"], true);
}

#[test]
fn completions_and_help() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ok(&["completions", shell]).out.contains("wtpool"));
    }
    let help = bench.ok(&["--help"]).out;
    assert!(help.contains("run") && !help.contains("reaper"), "{help}");
    let ran = bench.run(&["run", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("one document");
    assert_eq!(error["error"]["kind"], "invalid-input");
    let outside = finish(bench.wtpool(&["list"]).current_dir(bench.home.path()));
    assert_eq!(outside.code, Some(3));
}

/// As that of a shell that stands in a worktree which is gone.
#[test]
fn a_working_directory_that_is_gone_is_no_obstacle_where_the_pool_is_named() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held", "--linger", "0s"]);
    let (pool, repo) = (bench.pool(), bench.repo());
    let (pool, repo) = (pool.to_str().expect("UTF-8"), repo.to_str().expect("UTF-8"));
    let gone = bench.fixture.root().join("gone");
    let gone = gone.to_str().expect("UTF-8");
    let adrift = |args: &[&str]| {
        let script = "mkdir \"$1\" && cd \"$1\" && rmdir \"$1\" && shift && exec \"$@\"";
        finish(&mut bench.command("sh", &[&["-c", script, "sh", gone, WTPOOL], args].concat()))
    };
    let ran = adrift(&["list"]);
    assert!(ran.err.contains("find the working directory"), "{ran:?}");
    for relative in [["--pool-dir", "pool"], ["--repo", "repo"]] {
        let ran = adrift(&[&["list"], &relative[..]].concat());
        assert_ne!(ran.code, Some(0), "{ran:?}");
    }
    for named in [["--pool-dir", pool], ["--repo", repo]] {
        let ran = adrift(&[&["show", "held", "--json"], &named[..]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    assert_eq!(adrift(&["run", "--repo", repo, "--", "git", "status"]).code, Some(0));
    let ran = adrift(&["rescue", "restore", "some", "--into", "here", "--pool-dir", pool]);
    assert!(ran.err.contains("resolve the directory"), "{ran:?}");
    assert_eq!(adrift(&["release", "held", "--pool-dir", pool]).code, Some(0));
    assert!(bench.slots().is_empty());
}

#[test]
fn wtpool_started_in_a_lease_does_not_count_as_its_occupant() {
    let bench = Bench::new();
    let session = ["--name", "inside", "--session", "s"];
    for (lease, args) in [
        (&session[..2], &["release", ".", "--json"][..]),
        (&session[..2], &["release", "src/..", "--json"]),
        (&session, &["end-session", "s"]),
        (&session[..2], &["release", "inside"]),
    ] {
        let path = bench.acquire(lease);
        let ran = finish(bench.command(WTPOOL, args).current_dir(&path));
        assert_eq!(ran.code, Some(0), "{args:?} {ran:?}");
        assert!(!ran.out.contains("quarantined"), "{args:?} {ran:?}");
        assert!(!path.exists(), "{args:?} {ran:?}");
        assert!(bench.slots().is_empty(), "{args:?} {ran:?}");
    }
}

#[test]
fn shell_in_a_lease_is_waited_for_and_doctor_is_content() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "amber"]);
    let script = "wtpool release .; wtpool doctor; wtpool --json release .; true";
    let script = script.replace("wtpool", &quoted());
    let ran = finish(bench.command("sh", &["-c", &script]).current_dir(&path));
    assert!(ran.err.contains("it is cleaned up as soon as that process leaves"), "{ran:?}");
    assert!(ran.out.contains("\"disposition\":\"quarantined\""), "{ran:?}");
    let said: Vec<&str> = ran.out.lines().filter(|line| line.contains("quarantine ")).collect();
    assert!(said.len() == 1 && said[0].starts_with("note"), "{ran:?}");
    bench.ok(&["release", "amber"]);
    assert!(!path.exists());
}

#[test]
fn release_says_where_the_work_is() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "own"]);
    testkit::git(&path).args(["switch", "-q", "-c", "feat/own"]).stdout();
    testkit::git(&path).args(["commit", "-q", "--allow-empty", "-m", "work"]).stdout();
    let ran = bench.ok(&["release", "own"]);
    assert!(ran.err.contains("1 commit on feat/own"), "{ran:?}");
    let shown = bench.json(&["show", "own"]);
    assert_eq!(shown["branch"]["elsewhere"][0]["name"], "feat/own");

    let path = bench.acquire(&["--name", "renamed"]);
    testkit::git(&path).args(["branch", "-m", "feat/renamed"]).stdout();
    let ran = bench.ok(&["release", "renamed"]);
    assert!(ran.err.contains("was renamed to feat/renamed"), "{ran:?}");
    assert!(!ran.err.contains("is gone"), "{ran:?}");

    let path = bench.acquire(&["--name", "moved"]);
    let away = bench.fixture.root().join("away");
    let (from, to) = (path.to_str().expect("UTF-8"), away.to_str().expect("UTF-8"));
    testkit::git(bench.repo()).args(["worktree", "move", from, to]).stdout();
    let ran = bench.ok(&["release", "moved", "--linger", "0s"]);
    assert!(ran.err.contains(&format!("checked out in {to}")), "{ran:?}");
    assert!(!ran.err.contains("is gone") && away.join(".git").exists(), "{ran:?}");
}
