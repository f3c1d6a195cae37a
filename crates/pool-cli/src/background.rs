//! This program once more, for work that outlasts the one that begins it.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use git_backend::GitEnvironment;
use pool_core::{Error, Result, open_plain};

use crate::output::LEASE_VARIABLES;

/// A log that is longer is begun anew.
const LOG_LIMIT: u64 = 256 * 1024;

/// Starts this program with those arguments, for that pool. What it says goes to a log in the pool's directory.
pub(crate) fn start(pool_dir: &Path, args: &[&str], log_name: &str) -> Result<()> {
    let program = std::env::current_exe().map_err(|e| Error::io("find this program", e))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .arg("--pool-dir")
        .arg(pool_dir)
        // Never a slot: whoever stands in one keeps it.
        .current_dir(pool_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log(pool_dir, log_name).map_or_else(|_| Stdio::null(), Stdio::from));
    // Another directory: what is relative to this one would be elsewhere.
    let here = std::env::current_dir().unwrap_or_default();
    command.envs(GitEnvironment::of(std::env::vars_os(), &here).variables());
    for name in LEASE_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|e| Error::io("start wtpool in the background", e))?;
    pool_core::fail_point!("pool-cli::background::started");
    // So that it leaves no zombie behind should it end before this process does.
    std::thread::spawn(move || drop(child.wait()));
    Ok(())
}

fn log(pool_dir: &Path, name: &str) -> std::io::Result<File> {
    let file = open_plain(File::options().create(true).append(true), &pool_dir.join(name))?;
    if file.metadata()?.len() > LOG_LIMIT {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Closes what this process got from the one that started it, other than the standard streams: a lease whose
/// command started it would not end before it does, nor would whoever waits for the end of a pipe see that. To
/// be called before anything is opened.
pub(crate) fn let_go() {
    let open = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> =
        open.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for fd in open {
        // The one that the directory was read by is closed by now.
        let _ = nix::unistd::close(fd);
    }
}

/// A session of its own: no terminal's hangup or Ctrl-C reaches this process. It fails for one that leads a
/// session already, which is as good.
pub(crate) fn detach() {
    let _ = rustix::process::setsid();
}

/// Lets everybody else go first.
pub(crate) fn yield_to_others() {
    // A matter of courtesy: it goes on without, if it must.
    let _ = rustix::process::nice(10);
}
