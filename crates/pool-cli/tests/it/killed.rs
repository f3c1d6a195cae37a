//! `wtpool` killed at every stage of its work with a slot. Each is reached by having something that it
//! waits for: a lock that the test holds, or a filter of git's that waits.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::bench::{Bench, eventually, write};

/// A lock that is held until it is dropped.
fn held(path: &Path) -> File {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.expect("a lock file");
    eventually("the lock is free", || fs4::FileExt::try_lock(&file).is_ok());
    file
}

/// As `kill -9` does.
fn killed(mut child: Child) {
    child.kill().expect("kill wtpool");
    child.wait().expect("wait");
}

/// A filter for `a.txt` that waits in its n-th call, as long as it is told to.
struct Filter(PathBuf);

impl Filter {
    fn new(bench: &Bench, kind: &str) -> Self {
        let filter = Self(bench.fixture.root().join(format!("{kind}-filter")));
        fs::create_dir(&filter.0).expect("make a directory");
        let script = "cd \"$1\"; echo >> calls; if [ \"$(wc -l < calls)\" = \"$(cat nth)\" ]; then \
                      touch waits; while [ -e nth ]; do sleep 0.02; done; fi; exec cat";
        write(filter.0.join("script"), script);
        let command = format!("sh '{0}/script' '{0}' 2>/dev/null", filter.0.display());
        write(bench.repo().join(".gitattributes"), "a.txt filter=waits\n");
        write(bench.repo().join("a.txt"), "a\n");
        for args in [
            &["add", ".gitattributes", "a.txt"][..],
            &["commit", "--quiet", "-m", "filtered"],
            &["config", &format!("filter.waits.{kind}"), &command],
        ] {
            bench.fixture.git().args(args).ok();
        }
        filter
    }

    /// From now on, the n-th call waits.
    fn wait_in_call(&self, nth: usize) {
        let _ = fs::remove_file(self.0.join("calls"));
        write(self.0.join("nth"), &nth.to_string());
    }

    fn waits(&self) {
        eventually("the filter is called", || self.0.join("waits").exists());
    }

    fn go_on(&self) {
        fs::remove_file(self.0.join("nth")).expect("it waits");
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // A test that failed leaves no script behind that waits for ever.
        let _ = fs::remove_file(self.0.join("nth"));
    }
}

fn state_of(bench: &Bench, name: &str) -> String {
    bench.json(&["show", name])["state"].as_str().expect("a state").to_owned()
}

/// Nothing is left of the lease that was being made, and its name can be had.
fn rolled_back(bench: &Bench) {
    bench.ok(&["prune"]);
    bench.eventually_empty();
    assert_eq!(bench.worktrees(), 1);
    assert_eq!(bench.branches(), ["main", "side"]);
    let seen = |kind: &str| bench.events().iter().any(|event| event["event"] == kind);
    assert!(seen("granted") && !seen("leased"), "it was handed out");
    let slots = fs::read_dir(bench.pool().join("slots")).map_or(0, Iterator::count);
    assert_eq!(slots, 0);
    bench.ok(&["run", "--name", "victim", "--", "true"]);
}

#[test]
fn after_the_intent_and_before_the_registration() {
    let bench = Bench::new();
    fs::create_dir_all(bench.pool()).expect("make it");
    let registration = held(&bench.pool().join("registration.lock"));
    let child = bench.spawn(&["acquire", "--name", "victim"]);
    let making = bench.pool().join("slots/1/making");
    eventually("it is about to register", || making.exists());
    assert_eq!((state_of(&bench, "victim").as_str(), bench.worktrees()), ("provisioning", 1));
    killed(child);
    drop(registration);
    rolled_back(&bench);
}

#[test]
fn in_the_middle_of_the_checkout() {
    let bench = Bench::new();
    let filter = Filter::new(&bench, "smudge");
    filter.wait_in_call(1);
    let child = bench.spawn(&["acquire", "--name", "victim"]);
    filter.waits();
    assert_eq!((state_of(&bench, "victim").as_str(), bench.worktrees()), ("provisioning", 2));
    assert!(bench.branches().contains(&"wtpool/victim".to_owned()));
    killed(child);
    filter.go_on();
    rolled_back(&bench);
}

#[test]
fn after_the_checkout_and_before_it_is_recorded() {
    let bench = Bench::new();
    let filter = Filter::new(&bench, "smudge");
    filter.wait_in_call(1);
    let child = bench.spawn(&["acquire", "--name", "victim"]);
    filter.waits();
    let turn = held(&bench.pool().join("pool.turn"));
    filter.go_on();
    let slot = bench.pool().join("slots/1");
    eventually("the worktree is made", || !slot.join("making").exists());
    assert_eq!(state_of(&bench, "victim"), "provisioning");
    killed(child);
    drop(turn);
    rolled_back(&bench);
}

#[test]
fn while_it_saves_what_is_there() {
    let bench = Bench::new();
    let filter = Filter::new(&bench, "clean");
    let path = bench.acquire(&["--name", "victim", "--linger", "0s"]);
    // Only one of another size is not compared by way of the filter at each look.
    write(path.join("a.txt"), "b\n");
    write(path.join("new"), "precious");
    bench.kill_reaper();
    // First to see what there is, then again to begin with, and then to store it.
    filter.wait_in_call(3);
    let child = bench.spawn(&["release", "victim"]);
    filter.waits();
    assert_eq!(state_of(&bench, "victim"), "releasing");
    assert_eq!(bench.rescues(), [serde_json::Value::Null; 0]);
    killed(child);
    filter.go_on();
    assert_eq!(fs::read_to_string(path.join("new")).expect("it is there"), "precious");
    assert_eq!(fs::read_to_string(path.join("a.txt")).expect("it is there"), "b\n");
    bench.ok(&["prune"]);
    bench.eventually_empty();
    let [rescue] = bench.rescues().try_into().expect("one rescue");
    let rescue: serde_json::Value = rescue;
    let into = bench.fixture.root().join("restored");
    let id = rescue["id"].as_str().expect("an id");
    bench.ok(&["rescue", "restore", id, "--into", into.to_str().expect("UTF-8")]);
    assert_eq!(fs::read_to_string(into.join("new")).expect("saved"), "precious");
    assert_eq!(fs::read_to_string(into.join("a.txt")).expect("saved"), "b\n");
    assert!(!path.exists());
}

/// Nobody knows yet of a lease that is being filled with what was saved.
#[test]
fn in_the_middle_of_restoring_into_a_lease() {
    let bench = Bench::new().var("WTPOOL_LINGER", "0s");
    let filter = Filter::new(&bench, "smudge");
    let path = bench.acquire(&["--name", "first"]);
    write(path.join("a.txt"), "staged\n");
    write(path.join("new"), "precious");
    // Older than the index, which is then believed: so it is checked out again, by way of the filter.
    let file = File::options().write(true).open(path.join("a.txt")).expect("it is there");
    file.set_modified(std::time::UNIX_EPOCH).expect("set");
    testkit::git(&path).args(["add", "a.txt"]).ok();
    bench.ok(&["release", "first"]);
    let rescues = bench.rescues();
    let id = rescues[0]["id"].as_str().expect("an id");
    bench.kill_reaper();
    // First to make the worktree, then to write what was staged.
    filter.wait_in_call(2);
    let child = bench.spawn(&["rescue", "restore", id]);
    filter.waits();
    let slots = bench.slots();
    let [slot] = &slots[..] else { panic!("one slot: {slots:?}") };
    assert_eq!(slot["state"], "leased");
    let half = Path::new(slot["path"].as_str().expect("a path"));
    assert_eq!(fs::read_to_string(half.join("new")).expect("it is there"), "precious");
    // Whoever sees it there can't take it from under the process that fills it.
    let name = slot["lease"]["name"].as_str().expect("a name");
    assert_eq!(bench.run(&["release", name]).code, Some(5));
    killed(child);
    filter.go_on();
    bench.ok(&["prune"]);
    bench.eventually_empty();
    assert_eq!(bench.worktrees(), 1);

    let leased = bench.json(&["rescue", "restore", id]);
    assert_eq!(leased["state"], "leased");
    assert!(leased["expires_at"].is_string(), "{leased}");
    let path = Path::new(leased["path"].as_str().expect("a path"));
    let status = testkit::git(path).args(["status", "--porcelain"]).stdout();
    assert_eq!(status, "M  a.txt\n?? new");
    bench.ok(&["prune"]);
    assert_eq!(bench.slots()[0]["state"], "leased", "it lasts without whoever restored it");
}

#[test]
fn between_the_trash_and_the_deletion() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "victim", "--linger", "0s"]);
    fs::create_dir(path.join("target")).expect("make it");
    for n in 0..2000 {
        write(path.join(format!("target/{n}")), "");
    }
    bench.kill_reaper();
    let registration = held(&bench.pool().join("registration.lock"));
    let child = bench.spawn(&["release", "victim"]);
    let trash = bench.pool().join("trash");
    let bins = || fs::read_dir(&trash).map_or(0, Iterator::count);
    eventually("the tree is in the trash", || bins() > 0 && !path.exists());
    killed(child);
    assert!(bins() > 0 && bench.worktrees() == 2, "neither deleted nor unregistered");
    drop(registration);

    // Killed again in the middle of the deletion, if it is not over before.
    let child = bench.spawn(&["prune"]);
    let files = || walk(&trash);
    eventually("it deletes", || files() < 2000);
    killed(child);
    bench.ok(&["prune"]);
    bench.eventually_empty();
    assert_eq!((bins(), bench.worktrees()), (0, 1));
    assert_eq!(bench.branches(), ["main", "side"]);
}

/// How many files are below a directory, from which some may just disappear.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.map(|e| if e.path().is_dir() { walk(&e.path()) } else { 1 }).sum()
}
