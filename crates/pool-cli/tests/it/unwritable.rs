//! Output that cannot be written: a full disk, a closed pipe, a closed descriptor.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::bench::{Bench, WTPOOL, eventually, finish, is_free};

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    FullDisk,
    ClosedPipe,
    ClosedDescriptor,
}

const SINKS: [Sink; 3] = [Sink::FullDisk, Sink::ClosedPipe, Sink::ClosedDescriptor];

impl Sink {
    /// Runs the program with that in the place of descriptor 1 or 2, and returns its exit status.
    fn run(self, bench: &Bench, descriptor: u8, args: &[&str]) -> Option<i32> {
        let mut command = match self {
            Self::ClosedDescriptor => {
                let line = format!("exec \"$@\" {descriptor}>&-");
                bench.command("sh", &[&["-c", &line, "sh", WTPOOL], args].concat())
            }
            _ => bench.wtpool(args),
        };
        let sink = || match self {
            Self::FullDisk => Stdio::from(File::create("/dev/full").expect("/dev/full")),
            Self::ClosedPipe => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                drop(reader);
                Stdio::from(writer)
            }
            Self::ClosedDescriptor => Stdio::null(),
        };
        match descriptor {
            1 => command.stdout(sink()),
            _ => command.stderr(sink()),
        };
        finish(&mut command).code
    }
}

/// Each verb, with the status it ends with when all is well.
const VERBS: [(&[&str], i32); 19] = [
    (&["acquire", "--name", "a"], 0),
    (&["acquire", "--name", "a"], 1),
    (&["list"], 0),
    (&["show", "a"], 0),
    (&["show", "none"], 6),
    (&["renew", "a"], 0),
    (&["config"], 0),
    (&["doctor"], 0),
    (&["events"], 0),
    (&["rescue", "list"], 0),
    (&["cache", "usage"], 0),
    (&["completions", "bash"], 0),
    (&["run", "--", "sh", "-c", "echo work > work; exit 3"], 3),
    (&["release", "a"], 0),
    (&["warm", "1"], 0),
    (&["end-session", "s"], 6),
    (&["prune", "--all"], 0),
    (&["frobnicate"], 2),
    (&["list", "--repo", "/"], 3),
];

#[test]
fn unwritable_stderr_changes_no_exit_status() {
    for sink in SINKS {
        for verbose in [None, Some("-v"), Some("-vv")] {
            let bench = Bench::new().var("WTPOOL_LINGER", "0s");
            for (args, expected) in VERBS {
                let args: Vec<&str> = verbose.into_iter().chain(args.iter().copied()).collect();
                assert_eq!(sink.run(&bench, 2, &args), Some(expected), "{sink:?}: {args:?}");
            }
            assert_eq!(bench.rescues().len(), 1, "{sink:?}: the work of `run` was saved");
            assert_eq!(bench.slots(), [0; 0], "{sink:?}: all was done");
        }
    }
}

/// A result that cannot be written is an error, unless its reader left; the work is done.
#[test]
fn unwritable_stdout_fails_only_what_has_a_result() {
    for (sink, failed) in [(Sink::FullDisk, 1), (Sink::ClosedPipe, 0)] {
        let bench = Bench::new().var("WTPOOL_LINGER", "0s");
        // The caller does not know of the lease, so it is given back.
        assert_eq!(sink.run(&bench, 1, &["acquire", "--name", "untold"]), Some(1), "{sink:?}");
        assert_eq!(sink.run(&bench, 1, &["acquire", "--json"]), Some(1), "{sink:?}");
        let leased = bench.slots().into_iter().filter(|slot| slot["state"] == "leased").count();
        assert_eq!(leased, 0, "{sink:?}");
        bench.acquire(&["--name", "a"]);
        for args in [
            &["list"][..],
            &["list", "--json"],
            &["show", "a"],
            &["config"],
            &["events"],
            &["completions", "bash"],
            &["renew", "a", "--json"],
            &["warm", "1"],
        ] {
            assert_eq!(sink.run(&bench, 1, args), Some(failed), "{sink:?}: {args:?}");
        }
        // The output is the command's own.
        assert_eq!(sink.run(&bench, 1, &["run", "--", "true"]), Some(0), "{sink:?}");
        assert_eq!(sink.run(&bench, 1, &["release", "a"]), Some(0), "{sink:?}");
        // The reaper may have left it nothing to tell of.
        sink.run(&bench, 1, &["prune", "--all"]);
        assert_eq!(bench.slots(), [0; 0], "{sink:?}: all was done");
    }
}

#[test]
fn reaper_with_a_full_log_disk_ends_leases() {
    let bench = Bench::new().var("WTPOOL_LINGER", "0s");
    let owner = crate::bench::Sleeper::new();
    bench.acquire(&["--name", "a", "--owner-pid", &owner.pid()]);
    bench.kill_reaper();
    let pool = bench.pool();
    let args = ["-vv", "reaper", "--pool-dir", pool.to_str().expect("UTF-8")];
    let mut command: Command = bench.wtpool(&args);
    let full = File::create("/dev/full").expect("/dev/full");
    let mut reaper = command.stderr(full).spawn().expect("start wtpool");
    let lock = File::open(pool.join("reaper.lock")).expect("the lock");
    eventually("the reaper watches or is dead", || {
        !is_free(&lock) || reaper.try_wait().expect("its status").is_some()
    });
    owner.kill();
    let status = reaper.wait().expect("it ends when nothing is left");
    assert_eq!(status.code(), Some(0));
    assert_eq!(bench.slots(), [0; 0], "the lease has ended");
}
