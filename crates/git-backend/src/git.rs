//! The one module that runs the git program: for what gix can't do, which is to run
//! filters as git does, to read a large object without holding it in memory, or to make and delete references while
//! others are packed, and for anything else that has to be exactly as git does it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pool_core::{Error, ErrorKind, Result};

use crate::settings::GitSettings;
use crate::site::Site;

/// A lock file of git that somebody else holds is waited for, never removed: nobody can tell
/// whether its owner is dead.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// One command of git, cut off from hooks, monitors, pagers, prompts, and all `GIT_*` variables but
/// those that the settings have for it.
pub(crate) struct Git {
    command: Command,
    shown: String,
}

impl Git {
    /// A command in a worktree whose administrative directory is known and checked: git is not left
    /// to find it, or another one.
    pub(crate) fn in_worktree(site: &Site, admin: &Path, worktree: &Path) -> Self {
        let mut git = Self::scrubbed(&site.settings);
        git.command
            .current_dir(worktree)
            .env("GIT_DIR", admin)
            // Whatever the administrative directory says.
            .env("GIT_COMMON_DIR", &site.common_dir)
            .env("GIT_WORK_TREE", worktree);
        git
    }

    /// A command that finds its repository from the directory it runs in.
    pub(crate) fn in_directory(directory: &Path, settings: &GitSettings) -> Self {
        let mut git = Self::scrubbed(settings);
        git.command.current_dir(directory);
        git
    }

    /// A command on a repository that needs no worktree.
    pub(crate) fn in_repository(git_dir: &Path, settings: &GitSettings) -> Self {
        let mut git = Self::scrubbed(settings);
        git.command.current_dir(git_dir).env("GIT_DIR", git_dir);
        git
    }

    /// Has it look for no worktree. The configuration of a submodule names one, and git stops if that
    /// is not there, as while the tree around it is set aside.
    pub(crate) fn without_worktree(mut self, git_dir: &Path) -> Self {
        self.command.env("GIT_WORK_TREE", git_dir);
        self
    }

    /// Has it read and write objects there, and not in the repository.
    pub(crate) fn with_objects_in(mut self, dir: &Path) -> Self {
        self.command.env("GIT_OBJECT_DIRECTORY", dir);
        self
    }

    fn scrubbed(settings: &GitSettings) -> Self {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"GIT_") {
                command.env_remove(name);
            }
        }
        command
            .envs(settings.environment.given(settings.user_config))
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_COMMITTER_NAME", "wtpool")
            .env("GIT_COMMITTER_EMAIL", "wtpool@localhost")
            .env("GIT_AUTHOR_NAME", "wtpool")
            .env("GIT_AUTHOR_EMAIL", "wtpool@localhost");
        if !settings.user_config {
            command
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_SYSTEM", NULL_FILE)
                .env("GIT_CONFIG_GLOBAL", NULL_FILE)
                .env("GIT_ATTR_NOSYSTEM", "1");
        }
        for setting in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "submodule.recurse=false",
            // A file is believed to be unchanged only where everything says so.
            "core.trustctime=true",
            "core.checkStat=default",
            "core.ignoreStat=false",
            "core.untrackedCache=false",
            "gc.auto=0",
            "maintenance.auto=false",
            "advice.detachedHead=false",
            // In milliseconds: what it waits for one lock; `run` tries again.
            "core.packedRefsTimeout=100",
        ] {
            command.args(["-c", setting]);
        }
        Self { command, shown: "git".to_owned() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    ///
    /// With git's own message: `Busy` when somebody holds one of git's locks for longer than two
    /// seconds, `NoSpace`, `PermissionDenied`, else `Other`.
    pub(crate) fn run(mut self) -> Result<Vec<u8>> {
        for attempt in 1.. {
            let output = self.once()?;
            if output.status.success() {
                return Ok(output.stdout);
            }
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if !(is_locked(&message) && attempt < LOCK_ATTEMPTS) {
                return Err(self.failed(&output, &message));
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        unreachable!("the loop only ends by returning")
    }

    /// Runs it and hands on what it prints as it comes, without holding it in memory. Returns how
    /// much that was.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), without waiting for locks; and those of `to`, as `doing` it.
    pub(crate) fn run_into(mut self, to: &mut impl Write, doing: &str) -> Result<u64> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(cannot_run)?;
        let copied = match child.stdout.take() {
            Some(mut printed) => std::io::copy(&mut printed, to),
            None => Ok(0),
        };
        // Its end of the pipe is closed here, so that it ends, whether it has printed everything or not.
        let output = child.wait_with_output().map_err(cannot_run)?;
        let copied = copied.map_err(|e| Error::io(doing, e))?;
        if output.status.success() {
            return Ok(copied);
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.failed(&output, &message))
    }

    /// Runs it with that for its standard input, all of which it reads before it prints anything, and returns
    /// what it printed.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), without waiting for locks.
    pub(crate) fn run_with_input(mut self, input: &[u8]) -> Result<Vec<u8>> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(cannot_run)?;
        let given = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(input),
            None => Ok(()),
        };
        let output = child.wait_with_output().map_err(cannot_run)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(self.failed(&output, &message));
        }
        given.map_err(cannot_run)?;
        Ok(output.stdout)
    }

    fn once(&mut self) -> Result<Output> {
        self.command.stdin(Stdio::null()).output().map_err(cannot_run)
    }

    fn failed(&self, output: &Output, message: &str) -> Error {
        let kind = kind_of(message);
        let said = if message.is_empty() { output.status.to_string() } else { message.to_owned() };
        let error = Error::new(kind, format!("`{}` failed: {said}", self.shown));
        match kind {
            ErrorKind::Busy => error.with_hint(
                "another git process works there; if none does, it died, and its lock file can be removed",
            ),
            ErrorKind::NoSpace => error.with_hint("free some disk space and try again"),
            _ => error,
        }
    }
}

fn cannot_run(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::Unsupported, "the git program is not installed")
                .with_hint("install git 2.35 or newer, and have it in PATH")
        }
        _ => Error::io("run git", e),
    }
}

/// What is wrong, by what git says of it.
fn kind_of(message: &str) -> ErrorKind {
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    match () {
        () if is_locked(message) => ErrorKind::Busy,
        // The last is what git says of a pack that it can't go on writing.
        () if says(&["No space left on device", "quota exceeded", "Out of diskspace"]) => {
            ErrorKind::NoSpace
        }
        () if says(&["Permission denied", "Read-only file system"]) => ErrorKind::PermissionDenied,
        () => ErrorKind::Other,
    }
}

fn is_locked(message: &str) -> bool {
    message.contains(".lock': File exists")
        || message.contains("Unable to create lock")
        || (message.contains("could not lock config file") && message.contains("File exists"))
}

#[cfg(unix)]
const NULL_FILE: &str = "/dev/null";
#[cfg(not(unix))]
const NULL_FILE: &str = "NUL";

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let repo = gix::init(root.path()).expect("made");
        let blob = repo.write_blob("some").expect("written").to_string();
        let settings = GitSettings { user_config: false, ..Default::default() };
        // Every write to this fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", root.path().join("full")).expect("linked");
        let pack = |to: &str| {
            let script = format!("echo {blob} | git pack-objects --quiet --stdout > {to}");
            let output = Command::new("sh").args(["-c", &script]).current_dir(root.path()).output();
            let message = String::from_utf8_lossy(&output.expect("it runs").stderr).into_owned();
            (kind_of(&message), message)
        };
        let (kind, message) = pack("full");
        assert_eq!(kind, ErrorKind::NoSpace, "{message}");
        let ended = Git::in_directory(root.path(), &settings).arg("no-such-command").run();
        assert_eq!(ended.expect_err("there is none").kind(), ErrorKind::Other);
    }
}
