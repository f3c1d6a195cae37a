//! The command inside a lease.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use command_fds::CommandFdExt;
use pool_core::{Error, LeaseGuard, Outcome};
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

use crate::context::Context;
use crate::error::signalled;
use crate::output::environment;
use crate::signals::Signals;

/// What says which repository git works on. Git sets some of them for the hooks it runs; inside a
/// lease they would speak of another worktree.
const REPOSITORY_VARIABLES: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
    "GIT_IMPLICIT_WORK_TREE",
];

/// Where cargo builds. Handed down from around the lease they would let every lease build into one
/// directory, and then run each other's programs; the lease's own environment may set them again.
const BUILD_VARIABLES: [&str; 3] =
    ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_BUILD_DIR"];

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It ran.
    Ran(ExitStatus),
    /// It could not be started.
    NotStarted(io::Error),
}

impl Ended {
    /// The exit status that shells use for it.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Ran(status) => match (status.code(), status.signal()) {
                (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
                (None, signal) => signalled(signal.unwrap_or(0)),
            },
            Self::NotStarted(e) if e.kind() == io::ErrorKind::NotFound => 127,
            Self::NotStarted(_) => 126,
        }
    }

    /// Whether the work went well.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Ran(status) if status.success() => Outcome::Success,
            _ => Outcome::Failure,
        }
    }
}

/// Runs `command` in the lease's worktree until it ends. It stays in this process's group, so that a
/// terminal's keys reach it, and it keeps the lease's claim should this process be killed.
pub(crate) async fn inside(
    context: &Context,
    guard: &LeaseGuard,
    command: &[OsString],
    signals: &mut Signals,
) -> pool_core::Result<Ended> {
    let child = match start(context, guard, command)? {
        Ok(child) => child,
        Err(e) => return Ok(Ended::NotStarted(e)),
    };
    wait(child, signals).await.map(Ended::Ran)
}

/// Starts it. The inner error is the command's own.
fn start(
    context: &Context,
    guard: &LeaseGuard,
    command: &[OsString],
) -> pool_core::Result<io::Result<Child>> {
    let (program, args) =
        command.split_first().ok_or_else(|| crate::error::invalid("no command"))?;
    let path = guard.path();
    let mut command = Command::new(program);
    command.args(args).current_dir(&path).env("PWD", &path);
    for name in REPOSITORY_VARIABLES.into_iter().chain(BUILD_VARIABLES) {
        command.env_remove(name);
    }
    command.envs(environment(&context.pool_dir, &path, guard.lease()));
    // As they are: a document could not say what is not UTF-8, and another path is another pool.
    command.env("WTPOOL_POOL_DIR", &context.pool_dir).env("WTPOOL_PATH", &path);
    if let Some(file) = guard.claim().and_then(|claim| claim.file()) {
        let file = file.try_clone().map_err(|e| Error::io("hand the claim to the command", e))?;
        command.preserved_fds(vec![OwnedFd::from(file)]);
    }
    let child = command.spawn();
    pool_core::fail_point!("pool-cli::run::started");
    // With it, `command` goes away, and our copy of the claim.
    Ok(child)
}

/// Waits for the child, and passes on the signals that are meant for it.
async fn wait(mut child: Child, signals: &mut Signals) -> pool_core::Result<ExitStatus> {
    let failed = |e: io::Error| Error::io("wait for the command", e);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    // Only looks: until it is reaped below, its process id can't be anybody else's.
    let mut over = tokio::task::spawn_blocking(move || {
        loop {
            match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map(drop),
            }
        }
    });
    loop {
        tokio::select! {
            done = &mut over => {
                done.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?;
                return child.wait().map_err(failed);
            }
            arrived = signals.next() => {
                if !arrived.from_terminal {
                    // It may have ended just now, which is what the signal asked for.
                    let _ = kill_process(pid, arrived.signal());
                }
            }
        }
    }
}
