//! What a build looks at: every path that a compiler, a procedural macro in it, a build script, or a
//! program started by one of them names to the kernel, whether something is there or not.
//!
//! `wtpool-rustc --observe LOG COMMAND` runs a build under ptrace with a seccomp filter that stops it
//! at the system calls that take a path. That takes no privileges, sees programs that are linked
//! statically or make system calls of their own, and ends with the build: if the observer is killed,
//! the kernel kills what it observes (`PTRACE_O_EXITKILL`).
//!
//! What is seen belongs to a [`Unit`]: the call of rustc, or the run of the build script, that it
//! happened in. Everything that such a process starts belongs to the same unit.
//!
//! Not seen: variables of the environment; what comes through a file that was open before; times,
//! random numbers, and all else that the kernel gives without a path.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tracer;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

pub(crate) use unit::Unit;

/// Asked for in place of a compiler: run a build and write down what it looks at.
const OBSERVE: &str = "--observe";

/// Asked for in place of a compiler: become that command, observed by the parent process.
const OBSERVED: &str = "--observed";

/// What was done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Act {
    /// It was opened, executed, or asked for its state or its target; what is there matters, or that
    /// nothing is.
    Looked,
    /// The names in it were read.
    Listed,
    /// A git that was asked for nothing but the commit looked at it.
    AskedForCommit,
    /// It was opened for writing, made, replaced or removed, or its mode or times were set.
    Wrote,
    /// The system call cannot be followed, or goes to another machine; the path says which.
    Unaccountable,
}

/// All that was seen of one unit.
pub(crate) type Acts = BTreeSet<(Act, PathBuf)>;

/// All that was seen of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) units: BTreeMap<Unit, Acts>,
}

/// A line of the log: a unit, and what was seen of it.
#[derive(Serialize, Deserialize)]
struct Line<U, A> {
    unit: U,
    acts: A,
}

impl Observation {
    /// Writes a line for each unit.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or a path is not Unicode.
    fn write(&self, log: &Path) -> io::Result<()> {
        let mut text = Vec::new();
        for (unit, acts) in &self.units {
            serde_json::to_writer(&mut text, &Line { unit, acts })?;
            text.push(b'\n');
        }
        fs::write(log, text)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is not whole.
    pub(crate) fn read(log: &Path) -> io::Result<Self> {
        let text = fs::read(log)?;
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<Line<Unit, Acts>>();
        let units = lines.map(|line| line.map(|line| (line.unit, line.acts)));
        Ok(Self { units: units.collect::<Result<_, _>>()? })
    }
}

/// Makes a command of the wrapper of rustc one that runs `program` observed. The arguments of that are to
/// be added.
pub(crate) fn with(command: &mut Command, log: &Path, program: &OsStr) {
    // By which it knows what it is to do: its file may have another name.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(command, crate::rustc::PROGRAM);
    command.arg(OBSERVE).arg(log).arg(program);
}

/// Whether builds can be observed here: on this system, and in this container.
pub(crate) fn is_possible(wrapper: &Path) -> bool {
    let Ok(log) = tempfile::NamedTempFile::new() else { return false };
    let mut probe = Command::new(wrapper);
    with(&mut probe, log.path(), OsStr::new("true"));
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Does what is asked of the wrapper of rustc if that is to observe, or to be observed. Must be called
/// while there is only one thread. The exit status is that of the command, or 128 and the number of
/// the signal that killed it; 127 if it cannot be run.
pub(crate) fn requested(own: &Path, what: &OsStr, arguments: &[OsString]) -> Option<ExitCode> {
    let done = match arguments {
        [log, command @ ..] if what == OBSERVE => run(Path::new(log), command),
        command if what == OBSERVED => Err(become_observed(command)),
        _ => return None,
    };
    Some(done.map_or_else(
        |e| {
            // A build whose output is closed cannot be told.
            let _ = writeln!(io::stderr(), "error: {}: cannot observe: {e}", own.display());
            ExitCode::from(127)
        },
        ExitCode::from,
    ))
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn run(log: &Path, command: &[OsString]) -> io::Result<u8> {
    let (observation, status) = tracer::run(command)?;
    observation.write(log)?;
    Ok(status)
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
use tracer::become_observed;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn run(_: &Path, _: &[OsString]) -> io::Result<u8> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn become_observed(_: &[OsString]) -> io::Error {
    io::ErrorKind::Unsupported.into()
}
