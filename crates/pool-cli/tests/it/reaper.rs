//! What `doctor` says of a reaper, and when a reaper ends.

use std::fs;

use rustix::process::Signal;

use crate::bench::{Bench, eventually, is_free, kill};

#[test]
fn stopped_reaper_is_reported_by_doctor() {
    let bench = Bench::new();
    bench.acquire(&["--ttl", "1h"]);
    eventually("a reaper watches", || bench.run(&["doctor"]).out.contains("watches"));
    let reapers = bench.reapers();
    let [pid] = &reapers[..] else { panic!("one reaper: {reapers:?}") };
    kill(pid, Signal::STOP);
    let is_reported = || {
        let doctor = bench.run(&["doctor"]);
        let says = [format!("process {pid} has not looked"), format!("kill -CONT {pid}")];
        doctor.code == Some(1) && says.iter().all(|text| doctor.out.contains(text))
    };
    eventually("doctor names the stopped reaper", is_reported);
    kill(pid, Signal::CONT);
    eventually("it watches again", || bench.run(&["doctor"]).code == Some(0));
}

#[test]
fn reaper_of_a_repository_that_is_gone_ends_and_harms_nothing() {
    let bench = Bench::new();
    let work = bench.acquire(&["--ttl", "1h"]).join("work");
    fs::write(&work, "work\n").expect("written");
    let lock = fs::File::open(bench.pool().join("reaper.lock")).expect("there is a reaper");
    eventually("a reaper watches", || !is_free(&lock));
    let away = bench.repo().with_file_name("elsewhere");
    fs::rename(bench.repo(), &away).expect("moved");
    eventually("the reaper ends", || is_free(&lock));
    fs::rename(&away, bench.repo()).expect("moved back");
    assert_eq!(fs::read_to_string(&work).expect("it is there"), "work\n");
    assert_eq!(bench.slots()[0]["state"], "leased");
    bench.ok(&["prune"]);
    eventually("another reaper watches", || !is_free(&lock));
}
