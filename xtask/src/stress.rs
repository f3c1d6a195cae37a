//! Many agents on one repository, through the real `wtpool`, some killed in the middle. Afterwards
//! everything that any of them is known to have written must still be there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Args;

use crate::{Result, steps};

mod audit;
mod worker;

/// How much stress.
#[derive(Args)]
pub(crate) struct Options {
    /// For how long new runs are started.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many run at the same time. The pool's cap is two less, so that some always wait.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=1000))]
    workers: u32,
    /// Repeats the random choices of an earlier run, though not its timing.
    #[arg(long)]
    seed: Option<u64>,
    /// Use this `wtpool` and build none.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Leaves the repository and the pool where they are.
    #[arg(long)]
    keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 60, workers: 8, seed: None, program: None, keep: false }
    }
}

/// A repository, a pool for it, and the logs of the agents, in a directory of their own.
struct Ground {
    wtpool: PathBuf,
    root: PathBuf,
    cap: u32,
}

impl Ground {
    fn new(wtpool: PathBuf, root: &Path, cap: u32) -> Result<Self> {
        let ground = Self { wtpool, root: root.canonicalize()?, cap };
        for dir in [ground.home(), ground.logs(), ground.repo()] {
            std::fs::create_dir(dir)?;
        }
        ground.git(["init", "--quiet", "--initial-branch", "main"])?;
        for n in 1..=200 {
            let (dir, name) =
                (ground.repo().join(format!("dir-{}", n % 10)), format!("file-{n}.txt"));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(name), format!("content of {n}\n").repeat(n))?;
        }
        for n in 1..=3 {
            std::fs::write(
                ground.repo().join(format!("tracked-{n}.txt")),
                format!("tracked {n}\n"),
            )?;
        }
        std::fs::write(ground.repo().join(".gitignore"), "*.env\n")?;
        ground.git(["add", "--all"])?;
        ground.git(["commit", "--quiet", "--message", "base"])?;
        Ok(ground)
    }

    fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// A command in the repository that sees nobody's own settings.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("GIT_") || text.starts_with("WTPOOL_") || text.starts_with("XDG_") {
                command.env_remove(&name);
            }
        }
        command
            .current_dir(self.repo())
            .env("HOME", self.home())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Stress")
            .env("GIT_AUTHOR_EMAIL", "stress@example.invalid")
            .env("GIT_COMMITTER_NAME", "Stress")
            .env("GIT_COMMITTER_EMAIL", "stress@example.invalid")
            .stdin(Stdio::null());
        command
    }

    fn wtpool(&self) -> Command {
        let mut command = self.command(&self.wtpool);
        command
            .arg("--pool-dir")
            .arg(self.root.join("pool"))
            .env("WTPOOL_MAX_LEASES", self.cap.to_string());
        command
    }

    /// Runs git in the repository and returns what it prints.
    fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        checked(self.command("git").args(args))
    }
}

/// Runs it to its end and returns what it prints; an unsuccessful one is an error that tells all.
fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {stderr}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What happened, as far as it can be counted.
#[derive(Default)]
struct Tally {
    runs: AtomicU64,
    killed: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl Tally {
    fn violation(&self, text: String) {
        eprintln!("violation: {text}");
        self.violations.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(text);
    }
}

/// Runs the whole of it.
///
/// # Errors
///
/// When anything was lost or left behind, or any run failed that nobody had killed; the
/// message says what, and where the remains are.
pub(crate) fn run(options: &Options) -> Result {
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Dev)?,
    };
    let tmp = tempfile::Builder::new().prefix("wtpool-stress-").disable_cleanup(true).tempdir()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!(
        "\n== stress: {} workers for {} s in {}, seed {seed}",
        options.workers,
        options.seconds,
        tmp.path().display()
    );
    let ground = Ground::new(wtpool, tmp.path(), options.workers - 2)?;
    let tally = Tally::default();
    let until = Instant::now() + Duration::from_secs(options.seconds);
    std::thread::scope(|scope| {
        for worker in 0..options.workers {
            let (ground, tally) = (&ground, &tally);
            let random = fastrand::Rng::with_seed(seed.wrapping_add(worker.into()));
            scope.spawn(move || worker::agents(ground, tally, worker, random, until));
        }
        scope.spawn(|| {
            worker::housekeeping(&ground, &tally, fastrand::Rng::with_seed(!seed), until)
        });
    });
    let found = audit::audit(&ground, &tally)?;

    let (runs, killed) = (tally.runs.into_inner(), tally.killed.into_inner());
    let violations = tally.violations.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!(
        "stress: {runs} runs, {killed} of them killed; {} commits and {} files looked for; {} violations",
        found.commits,
        found.objects,
        violations.len()
    );
    if runs == 0 || found.commits == 0 || found.objects == 0 {
        return Err(format!("nothing was tried: see {}", ground.root.display()).into());
    }
    if !violations.is_empty() {
        return Err(format!(
            "{} violations, the first: {}\n  all is left for a look in {}; --seed {seed} makes the same choices",
            violations.len(),
            violations[0],
            ground.root.display()
        )
        .into());
    }
    if options.keep { Ok(()) } else { remove(tmp.path()) }
}

/// The pool's reaper may still be at its last work in there.
fn remove(dir: &Path) -> Result {
    for _ in 0..100 {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => return Ok(()),
        }
    }
    Ok(std::fs::remove_dir_all(dir)?)
}
