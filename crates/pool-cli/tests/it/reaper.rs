//! What `doctor` says of a reaper, and when a reaper ends.

use std::fs;

use rustix::process::Signal;

use crate::bench::{Bench, eventually, finish, is_free, kill};

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
    let lock = bench.reaper_lock();
    let away = bench.repo().with_file_name("elsewhere");
    let (repo, copy) = (bench.repo(), away.to_str().expect("UTF-8").to_owned());
    let copied = finish(&mut bench.command("cp", &["-a", repo.to_str().expect("UTF-8"), &copy]));
    assert_eq!(copied.code, Some(0), "{copied:?}");
    fs::remove_dir_all(&repo).expect("removed");
    eventually("the reaper ends", || is_free(&lock));
    fs::rename(&away, &repo).expect("put back");
    assert_eq!(fs::read_to_string(&work).expect("it is there"), "work\n");
    assert_eq!(bench.slots()[0]["state"], "leased");
    bench.ok(&["prune"]);
    eventually("another reaper watches", || !is_free(&lock));
}
