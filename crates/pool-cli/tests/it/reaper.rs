//! What `doctor` says of a reaper, and when a reaper ends.

use std::fs;
use std::io::Write as _;

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

/// The test is a reaper of an older version, which holds the lock.
#[test]
fn older_reaper_is_asked_to_end_and_replaced() {
    for known in ["1\n0.0.0\n", "1\n", ""] {
        let bench = Bench::new();
        let slot = bench.acquire(&["--ttl", "1h"]);
        drop(bench.reaper_lock());
        bench.kill_reaper();
        let pool = bench.pool();
        let mut lock = fs::File::options().append(true).open(pool.join("reaper.lock"));
        let lock = lock.as_mut().expect("it is there");
        fs4::FileExt::lock(lock).expect("locked");
        lock.set_len(0).and_then(|()| lock.write_all(known.as_bytes())).expect("written");
        let doctor = bench.ok(&["doctor"]);
        assert!(doctor.out.contains("older version"), "{known:?}: {doctor:?}");
        let request = pool.join("reaper.end");
        for _ in 0..3 {
            bench.ok(&["prune"]);
        }
        let asked = || fs::read_to_string(&request).unwrap_or_default();
        eventually("it is asked", || asked().trim() == env!("CARGO_PKG_VERSION"));
        eventually("one reaper waits", || bench.reapers().len() == 1);
        fs4::FileExt::unlock(lock).expect("unlocked");
        eventually("another one watches", || {
            bench.run(&["doctor"]).out.contains("ok     reaper       watches")
        });
        assert!(!request.exists() && slot.is_dir());
    }
}

/// The test is a reaper that waits, of that version.
#[test]
fn reaper_ends_for_a_newer_one_only() {
    let bench = Bench::new();
    bench.acquire(&["--ttl", "1h"]);
    let lock = bench.reaper_lock();
    let path = bench.pool().join("reaper.end");
    let version: Vec<u64> =
        env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().expect("a number")).collect();
    let newer = format!("{}.0.0\n", version[0] + 1);
    let ask = |text: &str, is_waiting: bool| {
        fs::write(&path, text).expect("written");
        let request = fs::File::open(&path).expect("it is there");
        if is_waiting {
            fs4::FileExt::lock(&request).expect("locked");
        }
        request
    };
    let beats = || lock.metadata().and_then(|meta| meta.modified()).expect("it tells");
    for (text, is_waiting) in
        [(env!("CARGO_PKG_VERSION"), true), ("0.0.0", true), ("soon", true), (&*newer, false)]
    {
        let request = ask(text, is_waiting);
        // It looks twice, and goes on.
        for _ in 0..2 {
            let beat = beats();
            eventually("it looks", || beats() > beat);
        }
        assert!(!is_free(&lock), "{text}");
        drop(request);
    }
    let request = ask(&newer, true);
    eventually("it ends", || is_free(&lock));
    drop(request);
    fs::remove_file(&path).expect("removed");
}
