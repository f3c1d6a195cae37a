//! The processes that belong to a pool's ground, and killing them.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process of a ground.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// What it is: a verb of the program's, `agent`, or the name of another program.
    pub(super) kind: String,
}

/// All that run with that home; nobody else has it. A zombie has none any more.
pub(super) fn of(home: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| belongs(*pid, home)).filter_map(look).collect()
}

fn belongs(pid: i32, home: &Path) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = [b"HOME=".as_slice(), home.as_os_str().as_bytes()].concat();
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
}

fn look(pid: i32) -> Option<Process> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> =
        command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word)).collect();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    Some(Process { pid, parent, kind: kind(&words) })
}

fn kind<S: AsRef<str>>(words: &[S]) -> String {
    let mut words = words.iter().map(AsRef::as_ref);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or(program);
    match program {
        "sh" => "agent".to_owned(),
        "wtpool" => {
            let mut verb = None;
            while let Some(word) = words.next() {
                match word {
                    "--pool-dir" => drop(words.next()),
                    "--json" => {}
                    word => {
                        verb = Some(word);
                        break;
                    }
                }
            }
            format!("wtpool {}", verb.unwrap_or_default())
        }
        other => other.to_owned(),
    }
}

/// The one of `tops` that `process` descends from.
pub(super) fn top_of(process: &Process, all: &[Process], top: i32) -> Option<i32> {
    let parents: HashMap<i32, i32> = all.iter().map(|p| (p.pid, p.parent)).collect();
    let mut at = process.pid;
    // No chain is longer than there are processes.
    for _ in 0..=all.len() {
        match parents.get(&at) {
            Some(parent) if *parent == top => return Some(at),
            Some(parent) => at = *parent,
            None => return None,
        }
    }
    None
}

/// Kills that very process, if it still runs: by a handle, so that no other can have its id by now.
pub(super) fn kill(process: &Process, home: &Path) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    belongs(process.pid, home) && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_called_after_what_it_does() {
        assert_eq!(kind(&["/x/wtpool", "--pool-dir", "/p", "run", "--", "sh"]), "wtpool run");
        assert_eq!(kind(&["wtpool", "reaper", "--pool-dir", "/p"]), "wtpool reaper");
        assert_eq!(kind(&["wtpool", "--pool-dir", "/p", "--json", "list"]), "wtpool list");
        assert_eq!(kind(&["/usr/bin/git", "reset"]), "git");
        assert_eq!(kind(&["sh", "-c", "…"]), "agent");
    }

    #[test]
    fn a_process_descends_from_what_was_started() {
        let process = |pid, parent| Process { pid, parent, kind: String::new() };
        let all = [process(2, 1), process(3, 2), process(4, 3), process(9, 7)];
        assert_eq!(top_of(&all[2], &all, 1), Some(2));
        assert_eq!(top_of(&all[0], &all, 1), Some(2));
        assert_eq!(top_of(&all[3], &all, 1), None);
    }
}
