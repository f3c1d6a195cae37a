//! Many agents on one repository, on a disk whose power fails at any moment. Whatever a lease, a rescue or a
//! branch was reported as by then must be there when the machine is on again.
//!
//! The disk is a file that this program serves by FUSE (see `fuse.rs`), a loop device on it, and an ordinary
//! filesystem on that. So it knows what was written and what was flushed, and makes images of what may be left:
//! all that was flushed, and any part of the rest. Each image is mounted where the original was, in namespaces
//! of its own and under a new boot id, as after a restart; there the pool is asked what it still has.
//!
//! Everything happens in a mount and a process namespace that end with it: whatever becomes of this program,
//! no mount, loop device or process stays behind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum as _};
use serde_json::{Value, json};

use crate::{Result, secluded, steps};

mod agent;
mod check;
mod disk;
mod fuse;
mod life;

/// How many losses of power one filesystem lives through, each by itself.
const LOSSES_OF_A_LIFE: u32 = 25;

/// How often the power fails, and on what.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many losses of power.
    #[arg(long, default_value_t = 200)]
    losses: u32,
    /// What the repository and the pool are on.
    #[arg(long, default_value = "ext4")]
    filesystem: Filesystem,
    /// Repeats the random choices of an earlier run, though not its timing.
    #[arg(long)]
    seed: Option<u64>,
    /// Use this `wtpool` and build none.
    #[arg(long)]
    program: Option<PathBuf>,
    /// In the namespaces: one filesystem's life, in this directory.
    #[arg(long, hide = true)]
    life: Option<PathBuf>,
    /// In the namespaces: what a loss of power left, in this directory.
    #[arg(long, hide = true)]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl Filesystem {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The program that makes one, and how large they want to be.
    fn maker(self) -> (&'static str, &'static [&'static str], u64) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "nodiscard"], 256 << 20),
            Self::Xfs => ("mkfs.xfs", &["-q", "-K"], 400 << 20),
            Self::Btrfs => ("mkfs.btrfs", &["--quiet", "--nodiscard"], 400 << 20),
        }
    }
}

/// A repository and a pool for it, on the disk.
struct Ground {
    wtpool: PathBuf,
    /// Where the filesystem is mounted.
    root: PathBuf,
}

impl Ground {
    fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    /// A command in `dir` that sees nobody's own settings.
    fn command(&self, program: impl AsRef<OsStr>, dir: &Path) -> Command {
        let home = self.root.join("home");
        secluded::command(program, dir, &home, "Power", &secluded::SETTINGS)
    }

    fn wtpool(&self) -> Command {
        let mut command = self.command(&self.wtpool, &self.repo());
        command
            .arg("--pool-dir")
            .arg(self.root.join("pool"))
            // Without a cache: what it keeps can be made again, and takes its time.
            .env("WTPOOL_CACHE__STRATEGY", "private");
        command
    }

    fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        checked(self.command("git", &self.repo()).args(args))
    }
}

/// Runs it to its end and returns what it prints; an unsuccessful one is an error that tells all.
fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        return Err(format!("`{}`: {}: {}", words.join(" "), output.status, stderr.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the whole of it.
///
/// # Errors
///
/// When anything that was reported is lost, the pool or the repository is of no use afterwards, or
/// this machine can't do it; the message says what.
pub(crate) fn run(options: &Options) -> Result {
    if let Some(dir) = &options.check {
        println!("{}", check::check(dir)?);
        return Ok(());
    }
    if let Some(dir) = &options.life {
        println!("{}", life::live(options, dir)?);
        return Ok(());
    }
    require(options.filesystem)?;
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Dev)?,
    };
    let tmp = tempfile::Builder::new().prefix("wtpool-power-").tempdir()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let filesystem = options.filesystem.name();
    eprintln!("\n== power: {} losses on {filesystem}, seed {seed}", options.losses);
    let begin = Instant::now();
    let mut sum = Sum::default();
    for life in 0.. {
        let left = options.losses.saturating_sub(sum.count("losses"));
        if left == 0 {
            break;
        }
        let dir = tmp.path().join(life.to_string());
        std::fs::create_dir(&dir)?;
        let mut command = alone();
        command
            .args(["--losses", &left.min(LOSSES_OF_A_LIFE).to_string()])
            .args(["--filesystem", &filesystem])
            .args(["--seed", &seed.wrapping_add(life).to_string()])
            .arg("--program")
            .arg(&wtpool)
            .arg("--life")
            .arg(&dir)
            .stderr(Stdio::inherit());
        let lived: Value = serde_json::from_str(&checked(&mut command)?)?;
        if lived["losses"].as_u64().unwrap_or(0) == 0 {
            return Err("a life without any loss of power proves nothing".into());
        }
        sum.add(&lived);
        eprintln!("power: {} s: {}", begin.elapsed().as_secs(), sum.text());
        // What was damaged is left for a look.
        if lived["violations"].as_array().is_none_or(Vec::is_empty) {
            std::fs::remove_dir_all(&dir)?;
        }
    }
    println!("power: {}; {} violations", sum.text(), sum.violations.len());
    if sum.violations.is_empty() {
        return Ok(());
    }
    let dir = tmp.keep();
    Err(format!(
        "{} violations, the first: {}\n  the images are left for a look in {}; --seed {seed} makes the same choices",
        sum.violations.len(),
        sum.violations[0],
        dir.display()
    )
    .into())
}

/// This program in namespaces of its own.
fn alone() -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
        .arg(std::env::current_exe().unwrap_or_default())
        .arg("power");
    command
}

/// What this takes, and is not to be had everywhere.
fn require(filesystem: Filesystem) -> Result {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root, to mount filesystems".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            missing.push(format!("{device} (a kernel with FUSE and loop devices)"));
        }
    }
    for program in ["unshare", "mount", filesystem.maker().0, "git"] {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path)
                .chain([PathBuf::from("/sbin"), PathBuf::from("/usr/sbin")])
                .any(|dir| dir.join(program).is_file())
        });
        if !found {
            missing.push(format!("the program {program}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("this needs what is missing here: {}", missing.join("; ")).into())
}

/// What was found in many lives: numbers, added up.
#[derive(Default)]
struct Sum {
    numbers: std::collections::BTreeMap<String, u64>,
    violations: Vec<String>,
}

impl Sum {
    fn add(&mut self, found: &Value) {
        for (what, value) in found.as_object().into_iter().flatten() {
            match value {
                Value::Number(number) => {
                    *self.numbers.entry(what.clone()).or_default() += number.as_u64().unwrap_or(0);
                }
                Value::Array(violations) => {
                    self.violations
                        .extend(violations.iter().map(|v| v.as_str().unwrap_or("").to_owned()));
                }
                _ => {}
            }
        }
    }

    fn count(&self, what: &str) -> u32 {
        u32::try_from(self.numbers.get(what).copied().unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn more(&mut self, what: &str) {
        *self.numbers.entry(what.to_owned()).or_default() += 1;
    }

    fn text(&self) -> String {
        let numbers: Vec<_> = self.numbers.iter().map(|(what, n)| format!("{n} {what}")).collect();
        numbers.join(", ")
    }

    fn json(&self) -> Value {
        let mut all: serde_json::Map<_, _> =
            self.numbers.iter().map(|(what, n)| (what.clone(), json!(n))).collect();
        all.insert("violations".into(), json!(self.violations));
        Value::Object(all)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
