//! Has this process killed at a step of its own choosing, for `cargo xtask crash`, or stopped there for a while, for
//! `cargo xtask pause`. Not in any release build.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

/// A file with the names of all steps, a line each.
const POINTS: &str = "FAIL_POINTS";

/// A file to which each step that is reached is appended: process, step.
const LOG: &str = "FAIL_LOG";

/// `STEP=N`: the process that reaches it for the n-th time is killed there.
const KILL: &str = "FAIL_KILL";

/// The step at which the first process stops that reaches it, with a directory: it makes the file `stopped` there, and
/// goes on once there is the file `go-on`.
const PAUSE: &str = "FAIL_PAUSE";
const GATE: &str = "FAIL_GATE";

/// Nothing is stopped for longer, should its test have gone away.
const LONGEST: Duration = Duration::from_secs(120);

/// Does what the environment says; nothing, if it says nothing. What this process starts in the background
/// does the same.
pub(crate) fn arm() {
    if let (Ok(name), Some(gate)) = (std::env::var(PAUSE), std::env::var_os(GATE)) {
        let gate = PathBuf::from(gate);
        if let Err(error) = fail::cfg_callback(name, move || stop(&gate)) {
            tracing::warn!(error, "not armed");
        }
        return;
    }
    let Ok(names) = std::env::var(POINTS)
        .and_then(|path| std::fs::read_to_string(path).map_err(|_| std::env::VarError::NotPresent))
    else {
        return;
    };
    let log = std::env::var_os(LOG);
    let kill = std::env::var(KILL).unwrap_or_default();
    let (at, wanted) = kill.rsplit_once('=').unwrap_or((&kill, "1"));
    let wanted: u32 = wanted.parse().unwrap_or(1);
    for name in names.lines() {
        let wanted = (name == at).then_some(wanted);
        let (log, hits, shown) = (log.clone(), AtomicU32::new(0), name.to_owned());
        let reach = move || {
            let is_last = wanted == Some(hits.fetch_add(1, Ordering::SeqCst) + 1);
            if let Some(log) = &log {
                tell(Path::new(log), if is_last { "killed" } else { "reached" }, &shown);
            }
            if is_last {
                // Nothing more is run here, should the signal take a moment.
                loop {
                    let _ = kill_process(getpid(), Signal::KILL);
                }
            }
        };
        if let Err(error) = fail::cfg_callback(name, reach) {
            tracing::warn!(name, error, "not armed");
        }
    }
}

/// Waits at the gate, if no process has stopped there yet.
fn stop(gate: &Path) {
    if File::create_new(gate.join("stopped")).is_err() {
        return;
    }
    let begun = Instant::now();
    while !gate.join("go-on").exists() && begun.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// In one write, since many processes append to the file.
fn tell(log: &Path, what: &str, name: &str) {
    let line = format!("{} {what} {name}\n", std::process::id());
    let file = OpenOptions::new().create(true).append(true).open(log);
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
