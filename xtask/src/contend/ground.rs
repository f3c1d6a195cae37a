//! A repository with a remote, a pool for it, and places for those who work there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use crate::{Result, secluded};

pub(super) struct Ground {
    pub(super) wtpool: PathBuf,
    pub(super) root: PathBuf,
    pub(super) cap: u32,
    /// Held for writing while git collects garbage, for reading while git makes objects that no
    /// reference leads to yet. Without it, stock git loses commits with no pool about, as `git help gc`
    /// says of `--prune=now`. What wtpool does keeps no distance from either.
    pub(super) objects: RwLock<()>,
    /// Held by a stranger who makes or removes a worktree, prunes, fetches, or collects garbage. Stock git trips
    /// over what it finds half made by another, or just gone.
    pub(super) registrations: Mutex<()>,
}

impl Ground {
    pub(super) fn new(
        wtpool: PathBuf,
        root: &Path,
        cap: u32,
        original: Option<&Path>,
    ) -> Result<Self> {
        let root = root.canonicalize()?;
        let ground =
            Self { wtpool, root, cap, objects: RwLock::default(), registrations: Mutex::default() };
        for dir in [ground.home(), ground.strangers()] {
            std::fs::create_dir(dir)?;
        }
        let repo = ground.repo();
        match original {
            Some(original) => {
                let clone =
                    ["clone", "--quiet", "--no-hardlinks", "-c", "advice.detachedHead=false"];
                let mut git = ground.command("git", &ground.root);
                checked(git.args(clone).arg(original.canonicalize()?).arg(&repo))?;
                ground.git(&repo, ["checkout", "--quiet", "-B", "main"])?;
                ground.git(&repo, ["remote", "remove", "origin"])?;
            }
            None => ground.make_repository(&repo)?,
        }
        // Git collects when the stranger says so, all the time.
        ground.git(&repo, ["config", "gc.auto", "0"])?;
        ground.git(&repo, ["config", "maintenance.auto", "false"])?;
        let remote = ground.root.join("remote.git");
        let clone = |more: &[&str], from: &Path, to: &Path| {
            let mut git = ground.command("git", &ground.root);
            checked(git.args(["clone", "--quiet", "--no-hardlinks"]).args(more).arg(from).arg(to))
        };
        clone(&["--bare"], &repo, &remote)?;
        clone(&[], &remote, &ground.upstream())?;
        ground.git(
            &repo,
            [OsStr::new("remote"), "add".as_ref(), "origin".as_ref(), remote.as_ref()],
        )?;
        ground.git(&repo, ["fetch", "--quiet", "origin"])?;
        Ok(ground)
    }

    fn make_repository(&self, repo: &Path) -> Result {
        std::fs::create_dir(repo)?;
        self.git(repo, ["init", "--quiet", "--initial-branch", "main"])?;
        for n in 1..=200 {
            let dir = repo.join(format!("dir-{}", n % 10));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(
                dir.join(format!("file-{n}.txt")),
                format!("content of {n}\n").repeat(n),
            )?;
        }
        self.git(repo, ["add", "--all"])?;
        self.git(repo, ["commit", "--quiet", "--message", "base"])?;
        Ok(())
    }

    pub(super) fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    /// Where others commit and push from.
    pub(super) fn upstream(&self) -> PathBuf {
        self.root.join("upstream")
    }

    pub(super) fn pool(&self) -> PathBuf {
        self.root.join("pool")
    }

    /// Where the stranger's own worktrees are.
    pub(super) fn strangers(&self) -> PathBuf {
        self.root.join("strangers")
    }

    fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// A command that sees nobody's own settings.
    fn command(&self, program: impl AsRef<OsStr>, dir: &Path) -> Command {
        let mut command =
            secluded::command(program, dir, &self.home(), "Contender", &secluded::SETTINGS);
        command.env("LC_ALL", "C");
        command
    }

    pub(super) fn wtpool(&self) -> Command {
        let mut command = self.command(&self.wtpool, &self.repo());
        command.arg("--pool-dir").arg(self.pool()).env("WTPOOL_MAX_LEASES", self.cap.to_string());
        command
    }

    /// Runs git and returns what it prints, without the end of the line. It must succeed, and have nothing to
    /// complain about.
    pub(super) fn git<S: AsRef<OsStr>>(
        &self,
        dir: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = self.command("git", dir);
        let output = command.args(args).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !stderr.is_empty() {
            return Err(failure(&command, &output).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// The pool's reaper may still be at its last work in there.
    pub(super) fn remove(&self) -> Result {
        for _ in 0..100 {
            match std::fs::remove_dir_all(&self.root) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                _ => return Ok(()),
            }
        }
        Ok(std::fs::remove_dir_all(&self.root)?)
    }
}

/// Runs it to its end and returns what it prints; an unsuccessful one is an error that tells all.
pub(super) fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(failure(command, &output).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(super) fn failure(command: &Command, output: &Output) -> String {
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().display();
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("`{program} {}`: {}: {}", args.join(" "), output.status, stderr.trim_end())
}
