//! A clone of the repository and a pool of it, in a directory of their own, and those who work there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Common;
use super::volume::Volume;
use crate::Result;

/// Where one strategy, or none, is measured. Dropped, nothing of it is left.
pub(crate) struct Ground {
    wtpool: PathBuf,
    strategy: String,
    edit: PathBuf,
    leases: u32,
    root: PathBuf,
    // In this order: a volume is unmounted before its mount point goes.
    volume: Option<Volume>,
    _dir: TempDir,
    _sweeper: Sweeper,
}

/// Removes a directory when this process has ended, however it did.
struct Sweeper(Child);

impl Sweeper {
    /// A process that waits for the end of its input, which only this one has the other end of. What is still at
    /// work in the directory (cargo, the pool's reaper) soon finds its ground gone.
    fn new(dir: &Path) -> Result<Self> {
        let script = "trap '' INT TERM HUP; read -r _; for _ in $(seq 60); do \
                      [ ! -d \"$1/volume\" ] || umount \"$1/volume\"; rm -rf \"$1\" && break; sleep 1; done";
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"]).arg(dir).stdin(Stdio::piped());
        sh.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(sh.spawn()?))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // By now there is nothing to remove.
        let _ = self.0.wait();
    }
}

/// A worktree that was leased.
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) slot: u64,
    pub(crate) warm: bool,
    pub(crate) reason: Option<String>,
    pub(crate) writable_roots: Vec<PathBuf>,
    env: BTreeMap<String, String>,
}

/// How a build went.
pub(crate) struct Built {
    pub(crate) took: Duration,
    /// How long cargo waited for locks, by what it calls them.
    pub(crate) waits: BTreeMap<String, Duration>,
}

impl Ground {
    pub(crate) fn new(common: &Common, wtpool: &Path, strategy: &str) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("wtpool-measure-");
        let dir = match &common.place {
            Some(place) => builder.tempdir_in(place)?,
            None => builder.tempdir()?,
        };
        let sweeper = Sweeper::new(dir.path())?;
        let volume = match common.filesystem {
            Some(kind) => Some(Volume::make(kind, common.size, dir.path())?),
            None => None,
        };
        let root = match &volume {
            Some(volume) => volume.mounted().to_owned(),
            None => dir.path().canonicalize()?,
        };
        let ground = Self {
            wtpool: wtpool.to_owned(),
            strategy: strategy.to_owned(),
            edit: common.edit.clone(),
            leases: common.leases,
            root,
            volume,
            _dir: dir,
            _sweeper: sweeper,
        };
        fs::create_dir(ground.root.join("settings"))?;
        clone(&common.repo.canonicalize()?, &ground.repo())?;
        if !ground.repo().join(&ground.edit).is_file() {
            let (edit, repo) = (ground.edit.display(), common.repo.display());
            return Err(format!("there is no file {edit} at HEAD of {repo}").into());
        }
        Ok(ground)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.root.join("pool")
    }

    pub(crate) fn volume(&self) -> Option<&Volume> {
        self.volume.as_ref()
    }

    /// Another clone, of its own.
    pub(crate) fn ordinary(&self) -> Result<PathBuf> {
        let path = self.root.join("ordinary");
        clone(&self.repo(), &path)?;
        Ok(path)
    }

    /// wtpool with the built-in settings, but for the strategy.
    fn wtpool<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let cap = (self.leases + 8).max(40);
        let mut command = clean(Command::new(&self.wtpool));
        command
            .current_dir(self.repo())
            .arg("--pool-dir")
            .arg(self.pool())
            .args(args)
            .env("XDG_CONFIG_HOME", self.root.join("settings"))
            .env("WTPOOL_MAX_LEASES", cap.to_string())
            .env("WTPOOL_CACHE__STRATEGY", &self.strategy);
        checked(&mut command)
    }

    /// Builds what leases start from.
    pub(crate) fn warm(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.wtpool(["warm", "0"])?;
        Ok(begun.elapsed())
    }

    /// Leases a worktree that ends with this process, if not before.
    pub(crate) fn acquire(&self, name: &str, base: &str) -> Result<Lease> {
        let own = std::process::id().to_string();
        let text = self.wtpool([
            "--json",
            "acquire",
            "--name",
            name,
            "--base",
            base,
            "--session",
            "measure",
            "--session-pid",
            &own,
            "--owner-pid",
            &own,
        ])?;
        let document: serde_json::Value = serde_json::from_str(&text)?;
        let strings = |value: &serde_json::Value| -> Vec<PathBuf> {
            let values = value.as_array().into_iter().flatten();
            values.filter_map(|value| value.as_str().map(PathBuf::from)).collect()
        };
        let env = document["env"].as_object().into_iter().flatten();
        let env = env.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let path = document["path"].as_str().ok_or("acquire names no path")?;
        Ok(Lease {
            name: name.to_owned(),
            path: path.into(),
            slot: document["slot"].as_u64().ok_or("acquire names no slot")?,
            warm: document["cache"]["warm"].as_bool().unwrap_or(false),
            reason: document["cache"]["reason"].as_str().map(str::to_owned),
            writable_roots: strings(&document["writable_roots"]),
            env: env.collect(),
        })
    }

    pub(crate) fn release(&self, lease: &Lease) -> Result {
        self.wtpool(["--quiet", "release", &lease.name, "--linger", "0s"]).map(drop)
    }

    /// Removes idle slots.
    pub(crate) fn forget_idle(&self) -> Result {
        self.wtpool(["prune", "--all"]).map(drop)
    }

    /// Ends all leases, so that nobody needs the pool any more.
    pub(crate) fn end(&self) -> Result {
        self.wtpool(["end-session", "measure"])?;
        self.forget_idle()
    }

    /// Changes the file in a worktree, each time otherwise.
    pub(crate) fn edit(&self, worktree: &Path, what: &str) -> Result {
        let mut file = fs::File::options().append(true).open(worktree.join(&self.edit))?;
        Ok(writeln!(file, "// {what}")?)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The pool's reaper may still be at its last work in there.
        for _ in 0..100 {
            match fs::remove_dir_all(self.pool()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                _ => break,
            }
        }
    }
}

/// `cargo build` in a lease.
pub(crate) fn build_in(lease: &Lease) -> Result<Built> {
    build(&lease.path, &lease.env)
}

/// `cargo build`, as whoever works there calls it.
pub(crate) fn build(dir: &Path, env: &BTreeMap<String, String>) -> Result<Built> {
    let begun = Instant::now();
    let mut command = clean(Command::new("cargo"));
    command.arg("build").current_dir(dir).envs(env).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    let mut waits: BTreeMap<String, Duration> = BTreeMap::new();
    let mut waiting: Option<(String, Instant)> = None;
    for line in BufReader::new(child.stderr.take().ok_or("stderr is piped")?).lines() {
        let line = line?;
        let now = Instant::now();
        if let Some((lock, since)) = waiting.take() {
            *waits.entry(lock).or_default() += now - since;
        }
        if let Some((_, lock)) = line.split_once("waiting for file lock on ") {
            waiting = Some((lock.to_owned(), now));
        }
        said.push(line);
    }
    if !child.wait()?.success() {
        return Err(format!("cargo build failed in {}:\n{}", dir.display(), said.join("\n")).into());
    }
    Ok(Built { took: begun.elapsed(), waits })
}

fn clone(from: &Path, to: &Path) -> Result {
    let mut git = clean(Command::new("git"));
    git.args(["clone", "--quiet", "--no-hardlinks", "-c", "advice.detachedHead=false"]);
    checked(git.arg(from).arg(to)).map(drop)
}

/// Without what this program's own cargo set for it, and without anybody's settings of git and wtpool.
fn clean(mut command: Command) -> Command {
    let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO") || text == "RUSTUP_TOOLCHAIN";
        let of_others = text.starts_with("GIT_") || text.starts_with("WTPOOL_");
        if (of_cargo && !kept.contains(&&*text)) || of_others {
            command.env_remove(&name);
        }
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Measure")
        .env("GIT_AUTHOR_EMAIL", "measure@example.invalid")
        .env("GIT_COMMITTER_NAME", "Measure")
        .env("GIT_COMMITTER_EMAIL", "measure@example.invalid")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end and returns what it prints; an unsuccessful one is an error that tells all.
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {stderr}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What git says in a directory.
pub(crate) fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let text = checked(clean(Command::new("git")).current_dir(dir).args(args))?;
    Ok(text.trim().to_owned())
}
