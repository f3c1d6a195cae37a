//! Many at once.

use std::collections::BTreeSet;
use std::process::Child;

use crate::bench::{Bench, ran};

/// Each makes a file of its own, commits it, and says what it sees.
fn crowd(bench: &Bench, n: usize) -> Vec<crate::bench::Ran> {
    let script = "echo $WTPOOL_NAME > file-$WTPOOL_NAME; git add . && git commit -qm \"$WTPOOL_NAME\" \
                  && pwd && echo $WTPOOL_BRANCH && ls | grep file-";
    let children: Vec<Child> =
        (0..n).map(|_| bench.spawn(&["run", "--", "sh", "-c", script])).collect();
    children.into_iter().map(|child| ran(child.wait_with_output().expect("wait"))).collect()
}

fn check(bench: &Bench, all: &[crate::bench::Ran]) {
    let mut branches = BTreeSet::new();
    for ran in all {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let lines: Vec<&str> = ran.out.lines().collect();
        let [_, branch, file] = lines[..] else { panic!("it saw another's file: {ran:?}") };
        assert_eq!(file.replace("file-", "wtpool/"), branch);
        assert!(branches.insert(branch.to_owned()), "{branch} twice");
        let subject = bench.fixture.git().args(["log", "-1", "--format=%s", branch]).stdout();
        assert_eq!(format!("wtpool/{subject}"), branch);
    }
    // What `git commit` leaves running may outlast a run's patience on a busy machine; the run says so
    // then, and the reaper sees to it. Nothing else is left.
    let survivors = all.iter().filter(|ran| ran.err.contains("still runs")).count();
    let left = bench.slots();
    assert!(left.len() <= survivors, "{survivors} said that something still runs: {left:#?}");
    bench.eventually_empty();
    assert_eq!(bench.worktrees(), 1);
    bench.fixture.git().args(["fsck", "--strict"]).ok();
    assert_eq!(bench.fixture.git().args(["status", "--porcelain"]).stdout(), "");
}

#[test]
fn thirty_at_once_each_in_its_own() {
    let bench = Bench::new();
    let all = crowd(&bench, 30);
    check(&bench, &all);
}

#[test]
fn never_more_than_the_cap_and_first_come_first_served() {
    let bench = Bench::new().var("WTPOOL_MAX_LEASES", "3");
    let all = crowd(&bench, 12);
    check(&bench, &all);
    let (mut queued, mut granted, mut busy) = (Vec::new(), Vec::new(), BTreeSet::new());
    for event in bench.events() {
        let slot = event["slot"].as_u64();
        match event["event"].as_str().expect("a kind") {
            "queued" => queued.push(event["lease"].clone()),
            "granted" => {
                granted.push(event["lease"].clone());
                assert!(busy.insert(slot), "{event}: the slot was in use");
                assert!(busy.len() <= 3, "{event}: above the cap");
            }
            "freed" | "lingering" | "retiring" | "removed" => drop(busy.remove(&slot)),
            _ => {}
        }
    }
    assert_eq!(queued.len(), 12);
    assert_eq!(queued, granted, "somebody was overtaken");
}

#[test]
fn a_full_pool_is_said_at_once_to_who_does_not_wait() {
    let bench = Bench::new().var("WTPOOL_MAX_LEASES", "1");
    bench.acquire(&["--name", "only"]);
    let ran = bench.run(&["run", "--wait", "0s", "--json", "--", "true"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""));
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("one document");
    assert_eq!(error["error"]["kind"], "pool-full");
    assert!(error["error"]["message"].is_string() && error["error"]["hint"].is_string());
    assert_eq!(bench.run(&["acquire", "--wait", "200ms"]).code, Some(4));
    assert_eq!(bench.slots().len(), 1);
}

#[test]
fn a_lingering_slot_yields_to_who_waits() {
    let bench = Bench::new().var("WTPOOL_MAX_LEASES", "1");
    assert_eq!(bench.run(&["run", "--", "sh", "-c", "echo precious > new; exit 1"]).code, Some(1));
    bench.ok(&["run", "--wait", "0s", "--", "test", "!", "-e", "new"]);
    assert_eq!(bench.rescues().len(), 1);
}
