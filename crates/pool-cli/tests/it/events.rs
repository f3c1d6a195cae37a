//! The log.

use std::io::{BufRead as _, BufReader};

use crate::bench::Bench;

/// A display that is started first sees the first lease all the same.
#[test]
fn whoever_follows_a_pool_sees_it_come_into_being() {
    let bench = Bench::new();
    let mut follower = bench.spawn(&["events", "--follow", "--json"]);
    let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    assert!(!bench.pool().exists());
    bench.ok(&["run", "--name", "first", "--", "true"]);
    let events = lines.map(|line| {
        serde_json::from_str::<serde_json::Value>(&line.expect("UTF-8")).expect("an event")
    });
    let names: Vec<_> = events
        .take_while(|event| event["event"] != "removed")
        .map(|event| event["name"].clone())
        .collect();
    assert!(names.contains(&"first".into()), "{names:?}");
    follower.kill().expect("killed");
    follower.wait().expect("ended");
}
