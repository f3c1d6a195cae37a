//! Where it all happens: a repository, a pool for it, and what the agents wrote down, in a directory of
//! their own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, secluded};

const AGENT: &str = include_str!("agent.sh");

/// One pool and all that belongs to it.
pub(super) struct Ground {
    pub(super) root: PathBuf,
    pub(super) cap: u32,
    /// How build artifacts are shared.
    pub(super) cache: &'static str,
    wtpool: PathBuf,
}

impl Ground {
    /// Makes one in `root`, which exists and is empty.
    pub(super) fn new(wtpool: &Path, root: &Path, cap: u32, cache: &'static str) -> Result<Self> {
        let root = root.canonicalize()?;
        let ground = Self { wtpool: wtpool.to_owned(), root, cap, cache };
        for dir in ["home", "logs", "working", "repo"] {
            std::fs::create_dir(ground.root.join(dir))?;
        }
        let repo = ground.repo();
        ground.git(["init", "--quiet", "--initial-branch", "main"])?;
        for n in 1..=40 {
            let dir = repo.join(format!("dir-{}", n % 5));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(format!("file-{n}.txt")), format!("content of {n}\n"))?;
        }
        for n in 1..=3 {
            std::fs::write(repo.join(format!("tracked-{n}.txt")), format!("tracked {n}\n"))?;
        }
        std::fs::create_dir(repo.join("src"))?;
        std::fs::write(repo.join("src/main.rs"), "fn main() {}\n")?;
        let manifest =
            "[package]\nname = \"tried\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n";
        std::fs::write(repo.join("Cargo.toml"), manifest)?;
        let lock = "version = 4\n\n[[package]]\nname = \"tried\"\nversion = \"0.0.0\"\n";
        std::fs::write(repo.join("Cargo.lock"), lock)?;
        std::fs::write(repo.join(".gitignore"), "*.env\n/target\n/modules\n")?;
        ground.commit("first")?;
        std::fs::write(repo.join("second.txt"), "second\n")?;
        ground.commit("second")?;
        // What is not tracked, and brought along.
        std::fs::write(repo.join("set-up.env"), "SET=up\n")?;
        std::fs::create_dir(repo.join("modules"))?;
        std::fs::write(repo.join("modules/one.js"), "one\n")?;
        Ok(ground)
    }

    fn commit(&self, message: &str) -> Result {
        self.git(["add", "--all"])?;
        self.git(["commit", "--quiet", "--message", message]).map(drop)
    }

    pub(super) fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    pub(super) fn pool(&self) -> PathBuf {
        self.root.join("pool")
    }

    pub(super) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where a slot's worktree is.
    pub(super) fn place(&self, slot: u64) -> PathBuf {
        self.pool().join("slots").join(slot.to_string()).join("repo")
    }

    /// A command in the repository that sees nobody's own settings. Its home tells whose it is.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let others = ["FAIL_", "CARGO", "RUSTC", "RUSTFLAGS", "LD_LIBRARY"];
        let without = [&secluded::SETTINGS[..], &others[..]].concat();
        let mut command = secluded::command(program, &self.repo(), &self.home(), "Agent", &without);
        if std::env::var_os("RUSTUP_HOME").is_none()
            && let Some(home) = std::env::var_os("HOME")
        {
            command.env("RUSTUP_HOME", Path::new(&home).join(".rustup"));
        }
        command.env("CARGO_HOME", self.home().join(".cargo")).env("CARGO_NET_OFFLINE", "true");
        command
    }

    /// The program, for this pool.
    pub(super) fn wtpool(&self) -> Command {
        let mut command = self.command(&self.wtpool);
        command
            .arg("--pool-dir")
            .arg(self.pool())
            .env("WTPOOL_MAX_LEASES", self.cap.to_string())
            .env("WTPOOL_COPY", "set-up.env")
            .env("WTPOOL_CACHE__STRATEGY", self.cache)
            .env("WTPOOL_CACHE__WARM_COMMAND", "cargo build --offline")
            .env("WTPOOL_CACHE__DIRECTORIES", "modules")
            .env("WTPOOL_SUBMODULES", "refuse")
            .env("WTPOOL_REGENERABLE", "target,modules")
            .env("WTPOOL_REAP_INTERVAL", "1s");
        command
    }

    /// The arguments that make a shell the agent of that name.
    pub(super) fn agent(&self, name: &str) -> Vec<std::ffi::OsString> {
        let log = self.logs().join(name);
        let working = self.root.join("working");
        let words = ["sh", "-c", AGENT, "agent"].map(std::ffi::OsString::from);
        words.into_iter().chain([log.into(), name.into(), working.into()]).collect()
    }

    /// Runs git in the repository and returns what it prints.
    pub(super) fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        checked(self.command("git").args(args))
    }

    /// Runs the program to its end, and returns the document that it prints.
    pub(super) fn json<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&checked(self.wtpool().arg("--json").args(args))?)?)
    }
}

/// Runs it to its end and returns what it prints; an unsuccessful one is an error that tells all.
pub(super) fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let program = command.get_program().to_string_lossy();
        return Err(format!("{program} {}: {}: {stderr}", args.join(" "), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
