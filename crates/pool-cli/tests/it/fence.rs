//! A path is handed from one holder to the next: a late or repeated release by path ends no lease
//! of the next one.

use std::path::Path;

use crate::bench::{Bench, Ran, WTPOOL, finish, write};

/// The path in a session, where worktrees stay warm and are used again.
fn acquire(bench: &Bench, args: &[&str]) -> String {
    let path = bench.acquire(&[&["--session", "s"], args].concat());
    path.to_str().expect("UTF-8").to_owned()
}

fn shell(bench: &Bench, script: &str) -> Ran {
    let path = Path::new(WTPOOL).parent().expect("it has a directory").to_owned();
    let rest = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{rest}", path.to_str().expect("UTF-8"));
    finish(bench.command("sh", &["-c", script]).env("PATH", path))
}

fn live(bench: &Bench) -> Vec<String> {
    let slots = bench.slots();
    let live = slots.iter().filter(|slot| slot["state"] == "leased");
    live.map(|slot| slot["lease"]["name"].as_str().expect("a name").to_owned()).collect()
}

/// Expects that `args`, with a path that several leases have had, changes nothing and says what to
/// type instead.
fn refused(bench: &Bench, args: &[&str], next: &str) {
    let id = bench.json(&["show", next])["lease"].as_str().expect("an id").to_owned();
    let renewals = || bench.events().iter().filter(|event| event["event"] == "renewed").count();
    let before = renewals();
    let ran = bench.run(args);
    assert_eq!((ran.code, ran.out.as_str()), (Some(6), ""), "{args:?}: {ran:?}");
    assert!(ran.err.contains("several leases have had it"), "{args:?}: {ran:?}");
    assert!(ran.err.contains(&format!("wtpool {} {id}", args[0])), "{args:?}: {ran:?}");
    assert_eq!(renewals(), before, "{args:?}");
    assert_eq!(live(bench), [next], "{args:?}");
}

#[test]
fn release_by_path_in_a_shell_as_documented() {
    let bench = Bench::new();
    for round in 0..3 {
        let ran = shell(
            &bench,
            "set -e; dir=$(wtpool acquire -q --ttl 2h); cd \"$dir\"; wtpool renew -q \"$dir\" --ttl 2h
             cd /; wtpool release \"$dir\"; wtpool release \"$dir\"",
        );
        assert_eq!(ran.code, Some(0), "round {round}: {ran:?}");
        let said: Vec<&str> = ran.err.lines().collect();
        assert!(said[0].starts_with("wtpool: released "), "{ran:?}");
        assert!(
            said.iter().any(|line| line.ends_with("was over already: it was released")),
            "{ran:?}"
        );
    }
    assert_eq!(bench.slots().len(), 0);
}

#[test]
fn removed_worktree_leaves_its_path_to_no_other_lease() {
    let bench = Bench::new();
    let first = bench.acquire(&["--name", "same"]);
    let first = first.to_str().expect("UTF-8");
    bench.ok(&["release", first]);
    let next = bench.acquire(&["--name", "same"]);
    assert_ne!(next, Path::new(first));
    for _ in 0..2 {
        let ran = bench.ok(&["release", first]);
        assert!(ran.err.contains("was over already"), "{ran:?}");
        assert_eq!(bench.run(&["renew", first]).code, Some(6));
        assert_eq!(live(&bench), ["same"]);
    }
    assert_eq!(bench.json(&["show", first])["state"], "ended");
    let ran = bench.ok(&["release", next.to_str().expect("UTF-8")]);
    assert!(ran.err.contains("released same ("), "{ran:?}");
    assert_eq!(live(&bench), [""; 0]);
}

#[test]
fn late_release_by_path_ends_no_lease_of_the_next_holder() {
    let bench = Bench::new();
    let first = acquire(&bench, &["--name", "first"]);
    bench.ok(&["release", &first]);
    bench.ok(&["release", &first]);
    // The same shell, another name, the same name, another shell: the next lease has the path.
    for next in ["next", "first"] {
        assert_eq!(acquire(&bench, &["--name", next]), first, "the path is used again");
        write(Path::new(&first).join("work"), "precious");
        for verb in ["release", "renew"] {
            refused(&bench, &[verb, &first], next);
            refused(&bench, &[verb, &format!("{first}/src")], next);
            refused(&bench, &[verb, &format!("{first}/./nowhere/../")], next);
        }
        let script = format!("(wtpool release '{first}' &); cd '{first}'; wtpool release .");
        assert_eq!(shell(&bench, &script).code, Some(6));
        let cron = finish(bench.command(WTPOOL, &["release", &first]).env_clear().current_dir("/"));
        assert_eq!(cron.code, Some(6), "{cron:?}");
        assert_eq!(live(&bench), [next]);
        assert!(Path::new(&first).join("work").exists());
        let id = bench.json(&["show", next])["lease"].as_str().expect("an id").to_owned();
        let ran = bench.ok(&["release", &id]);
        assert!(ran.err.contains(&format!("released {next} ({id})")), "{ran:?}");
        // Nothing is leased there, so there is nothing to end.
        let ran = bench.ok(&["release", &first]);
        assert!(ran.err.contains(&format!("{next} ({id}) was over already")), "{ran:?}");
    }
    assert_eq!(bench.rescues().len(), 2);
}

#[test]
fn release_after_the_lease_expired_ends_no_lease_of_the_next_holder() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s");
    let first = acquire(&bench, &["--name", "first", "--ttl", "1s", "--linger", "0s"]);
    crate::bench::eventually("it is over", || live(&bench).is_empty());
    crate::bench::eventually("its worktree is idle", || bench.slots()[0]["state"] == "free");
    let ran = bench.ok(&["release", &first]);
    assert!(ran.err.contains("was over already: its time to live ran out"), "{ran:?}");
    let released = bench.json(&["release", &first]);
    assert_eq!((&released["reason"], &released["by_another"]), (&"expired".into(), &true.into()));
    assert_eq!(acquire(&bench, &["--name", "next"]), first, "the path is used again");
    for verb in ["release", "renew"] {
        refused(&bench, &[verb, &first], "next");
    }
    let ran = bench.run(&["release", &first, "--json"]);
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("one document");
    assert_eq!(error["error"]["kind"], "stale-lease");
}

/// A holder that waits at the cap gets the worktree at once.
#[test]
fn repeated_release_at_the_cap_ends_no_lease_of_who_waited() {
    let bench = Bench::new().var("WTPOOL_MAX_LEASES", "1");
    let first = bench.acquire(&["--name", "first"]);
    let first = first.to_str().expect("UTF-8");
    let waiting = bench.spawn(&["acquire", "--name", "next"]);
    crate::bench::eventually("it waits", || {
        bench.json(&["list"])["waiting"].as_array().is_some_and(|waiting| waiting.len() == 1)
    });
    bench.ok(&["release", first]);
    let next = crate::bench::ran(waiting.wait_with_output().expect("it ends"));
    assert_eq!(next.out.trim(), first, "{next:?}");
    refused(&bench, &["release", first], "next");
    bench.ok(&["release", "next"]);
}

#[test]
fn release_by_path_inside_a_lease_ends_that_lease() {
    let bench = Bench::new();
    let path = acquire(&bench, &["--name", "first"]);
    let id = |name: &str| bench.json(&["show", name])["lease"].as_str().expect("an id").to_owned();
    let first = id("first");
    bench.ok(&["release", &path]);
    assert_eq!(acquire(&bench, &["--name", "next"]), path, "the path is used again");
    let next = id("next");
    let inside = |lease: &str, args: &[&str]| finish(bench.wtpool(args).env("WTPOOL_LEASE", lease));
    // What the first lease left behind means the first.
    let ran = inside(&first, &["release", &path]);
    assert!(ran.err.contains(&format!("first ({first}) was over already")), "{ran:?}");
    assert_eq!((ran.code, live(&bench)), (Some(0), vec!["next".to_owned()]));
    // A lease of elsewhere says nothing of this path.
    let elsewhere = bench.acquire(&["--name", "elsewhere"]);
    assert_eq!(inside(&id("elsewhere"), &["release", &path]).code, Some(6));
    assert_eq!(live(&bench).len(), 2);
    bench.ok(&["release", elsewhere.to_str().expect("UTF-8")]);
    assert_eq!(inside(&next, &["renew", &path]).code, Some(0));
    let ran = inside(&next, &["release", &format!("{path}/src")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(&format!("released next ({next})")), "{ran:?}");
    assert_eq!(live(&bench), [""; 0]);
}

#[test]
fn option_lease_says_which_one_a_path_means() {
    let bench = Bench::new();
    let path = acquire(&bench, &["--name", "first"]);
    let first = bench.json(&["show", "first"])["lease"].as_str().expect("an id").to_owned();
    assert_eq!(bench.run(&["release", &path, "--lease", "nothing-at-all"]).code, Some(6));
    let other = bench.acquire(&["--name", "other"]);
    let ran = bench.run(&["release", &path, "--lease", "other"]);
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.err.contains("is not the lease"), "{ran:?}");
    assert_eq!(live(&bench).len(), 2);
    bench.ok(&["release", other.to_str().expect("UTF-8"), "--lease", "other"]);
    bench.ok(&["release", &path, "--lease", &first]);
    acquire(&bench, &["--name", "next"]);
    let ran = bench.ok(&["release", &path, "--lease", &first]);
    assert!(ran.err.contains("was over already"), "{ran:?}");
    assert_eq!(live(&bench), ["next"]);
    bench.ok(&["renew", &path, "--lease", "next"]);
    bench.ok(&["release", &path, "--lease", "next"]);
    assert_eq!(live(&bench), [""; 0]);
}

#[test]
fn path_says_which_pool_is_meant_from_any_directory() {
    let (bench, other) = (Bench::new(), Bench::new());
    let path = bench.acquire(&["--name", "first"]);
    other.acquire(&["--name", "theirs"]);
    let text = path.to_str().expect("UTF-8");
    let at = |dir: &Path, args: &[&str]| finish(bench.wtpool(args).current_dir(dir));
    for dir in [Path::new("/"), &other.repo(), &path.join("src")] {
        assert_eq!(at(dir, &["show", text, "--json"]).code, Some(0), "{dir:?}");
        assert_eq!(at(dir, &["renew", text]).code, Some(0), "{dir:?}");
    }
    let slots = path.ancestors().nth(2).expect("slots");
    let relative = path.strip_prefix(slots).expect("below").to_str().expect("UTF-8");
    let ran = at(slots, &["release", relative]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!path.exists());
    // The worktree is gone, the path still says which lease it was.
    for dir in [Path::new("/"), &other.repo()] {
        let ran = at(dir, &["release", text]);
        assert_eq!(ran.code, Some(0), "{dir:?}: {ran:?}");
        assert!(ran.err.contains("first (") && ran.err.contains("was over already"), "{ran:?}");
    }
    assert_eq!(live(&other), ["theirs"]);
}

#[test]
fn first_lease_of_a_warm_worktree_is_released_by_path() {
    let bench = Bench::new();
    bench.ok(&["warm", "1"]);
    let path = bench.acquire(&["--name", "first"]);
    assert_eq!(bench.slots().len(), 1);
    let ran = bench.ok(&["release", path.to_str().expect("UTF-8")]);
    assert!(ran.err.contains("released first ("), "{ran:?}");
}
