//! The git program, run so that nothing of the machine or of its user reaches in.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Makes `command` independent of the machine's and the user's git configuration, and of every
/// `GIT_*` variable around it. Author, committer and dates are fixed, so equal content gives equal
/// commit ids.
///
/// For any child that runs git, directly or not: the program under test, a shell, git itself.
pub fn scrub(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "file")
        .env("GIT_EDITOR", "true")
        .env("GIT_AUTHOR_NAME", "Fixture Author")
        .env("GIT_AUTHOR_EMAIL", "author@example.invalid")
        .env("GIT_AUTHOR_DATE", "2020-02-02T02:02:02+00:00")
        .env("GIT_COMMITTER_NAME", "Fixture Committer")
        .env("GIT_COMMITTER_EMAIL", "committer@example.invalid")
        .env("GIT_COMMITTER_DATE", "2020-02-02T02:02:02+00:00")
        .env("LC_ALL", "C")
        // Deliberately a directory that is never made: nothing is to be found in it, or put there.
        .env("HOME", std::env::temp_dir().join("wtpool-testkit-no-home"))
        .env_remove("XDG_CONFIG_HOME")
}

/// A git command in `dir`; see [`Git`].
pub fn git(dir: impl AsRef<Path>) -> Git {
    Git { dir: dir.as_ref().to_owned(), args: Vec::new(), env: Vec::new(), stdin: None }
}

/// One git command, hermetic (see [`scrub`]), that starts no background process.
///
/// ```no_run
/// # use testkit::git;
/// let head = git("some/repo").args(["rev-parse", "HEAD"]).stdout();
/// git("some/repo").args(["checkout", "--quiet", "--detach"]).ok();
/// ```
#[derive(Clone, Debug)]
#[must_use = "the command only runs when asked for its outcome"]
pub struct Git {
    dir: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
}

impl Git {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable for the command.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives the command something to read.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs the command and returns whatever comes of it.
    ///
    /// # Panics
    ///
    /// When git can't be started.
    pub fn output(&self) -> Output {
        let mut command = Command::new("git");
        scrub(&mut command)
            .current_dir(&self.dir)
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"])
            .args(["-c", "core.fsmonitor=false", "-c", "advice.detachedHead=false"])
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start git: {e}"));
        let feeder = self.stdin.clone().zip(child.stdin.take()).map(|(bytes, mut pipe)| {
            // From a thread of its own, so that neither side waits for the other's full pipe. A
            // command that does not read all of it closes the pipe, which is not an error here.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let output =
            child.wait_with_output().unwrap_or_else(|e| panic!("cannot wait for git: {e}"));
        if let Some(feeder) = feeder {
            feeder.join().expect("writing to a pipe does not panic");
        }
        output
    }

    /// Runs the command, which must succeed.
    ///
    /// # Panics
    ///
    /// When it fails; the message has the command and its standard error.
    pub fn ok(&self) {
        drop(self.bytes());
    }

    /// Runs the command, which must succeed, and returns what it printed, without the line end.
    ///
    /// # Panics
    ///
    /// When it fails, or prints what is not UTF-8.
    pub fn stdout(&self) -> String {
        let mut text = String::from_utf8(self.bytes())
            .unwrap_or_else(|e| panic!("{self}: printed what is not UTF-8: {e}"));
        text.truncate(text.trim_end_matches('\n').len());
        text
    }

    /// Runs the command, which must succeed, and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn bytes(&self) -> Vec<u8> {
        let output = self.output();
        assert!(
            output.status.success(),
            "{self}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        output.stdout
    }

    /// Runs the command, which must fail, and returns its standard error.
    ///
    /// # Panics
    ///
    /// When it succeeds.
    pub fn fails(&self) -> String {
        let output = self.output();
        assert!(!output.status.success(), "{self}: succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs the command and says whether it succeeded.
    pub fn succeeds(&self) -> bool {
        self.output().status.success()
    }
}

impl std::fmt::Display for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "git")?;
        for arg in &self.args {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        write!(f, " (in {})", self.dir.display())
    }
}
