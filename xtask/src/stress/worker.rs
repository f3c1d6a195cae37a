//! Those who use the pool, and those who kill them.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Ground, Tally};
use crate::Result;

const AGENT: &str = include_str!("agent.sh");

/// A run that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who kills whom.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nobody.
    Lives,
    /// The agent kills itself at some step: `wtpool run` sees it and gives the lease back.
    AgentDies,
    /// The agent kills the `wtpool run` that started it, and goes on: the lease goes with it.
    HolderDies,
    /// Somebody kills `wtpool run` at any moment, also while it makes the worktree ready.
    HolderKilled,
    /// The same with its process group: most often, everyone is gone at once.
    AllKilled,
}

impl Fate {
    fn choose(random: &mut fastrand::Rng) -> Self {
        match random.u8(0..10) {
            0..4 => Self::Lives,
            4..6 => Self::AgentDies,
            6 => Self::HolderDies,
            7 => Self::HolderKilled,
            _ => Self::AllKilled,
        }
    }

    fn of_the_agent(self) -> &'static str {
        match self {
            Self::AgentDies => "dies",
            Self::HolderDies => "kills-parent",
            Self::Lives | Self::HolderKilled | Self::AllKilled => "lives",
        }
    }
}

/// Starts one run after another until the time is over.
pub(super) fn agents(
    ground: &Ground,
    tally: &Tally,
    worker: u32,
    mut random: fastrand::Rng,
    until: Instant,
) {
    let mut number = 0;
    while Instant::now() < until {
        let name = format!("{worker}-{number}");
        number += 1;
        let fate = Fate::choose(&mut random);
        if let Err(error) = agent(ground, tally, &name, fate, &mut random) {
            tally.violation(format!("run {name} ({fate:?}): {error}"));
        }
        tally.runs.fetch_add(1, Ordering::Relaxed);
    }
}

fn agent(
    ground: &Ground,
    tally: &Tally,
    name: &str,
    fate: Fate,
    random: &mut fastrand::Rng,
) -> Result {
    let log = ground.logs().join(name);
    let errors = ground.logs().join(format!("{name}.stderr"));
    let stderr = File::create(&errors)?;
    let mut child = ground
        .wtpool()
        .args(["run", "--", "sh", "-c", AGENT, "agent"])
        .arg(&log)
        .args([name, fate.of_the_agent()])
        .stdout(stderr.try_clone()?)
        .stderr(stderr)
        .process_group(0)
        .spawn()?;
    // Before it is waited for, nobody else can have its id.
    let group = Pid::from_child(&child);
    match fate {
        Fate::HolderKilled | Fate::AllKilled => {
            std::thread::sleep(Duration::from_millis(random.u64(0..1500)));
            if child.try_wait()?.is_none() {
                tally.killed.fetch_add(1, Ordering::Relaxed);
                if fate == Fate::AllKilled {
                    kill_process_group(group, Signal::KILL)?;
                } else {
                    child.kill()?;
                }
            }
            wait(&mut child)?;
        }
        Fate::AgentDies | Fate::HolderDies => {
            if !wait(&mut child)? {
                tally.killed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Fate::Lives => {
            if !wait(&mut child)? {
                return Err(format!("failed, and nobody had killed it: {}", tail(&errors)).into());
            }
            if !std::fs::read_to_string(&log)?.ends_with("end\n") {
                return Err("reported success before its agent had ended".into());
            }
        }
    }
    Ok(())
}

/// Waits for its end. Whether it was successful.
fn wait(child: &mut Child) -> Result<bool> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if begin.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("hung for {} s and was killed", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Lists and prunes in between, and kills every other prune in the middle.
pub(super) fn housekeeping(
    ground: &Ground,
    tally: &Tally,
    mut random: fastrand::Rng,
    until: Instant,
) {
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(random.u64(200..2000)));
        if let Err(error) = keep_house(ground, &mut random) {
            tally.violation(format!("housekeeping: {error}"));
        }
    }
}

fn keep_house(ground: &Ground, random: &mut fastrand::Rng) -> Result {
    let listed = super::checked(ground.wtpool().args(["list", "--json"]))?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let slots = listed["slots"].as_array().ok_or("list --json has no slots")?;
    let leased = slots.iter().filter(|slot| slot["state"] == "leased").count();
    if leased > ground.cap as usize {
        return Err(format!("{leased} slots are leased, the cap is {}", ground.cap).into());
    }
    let mut prune = ground.wtpool();
    prune.args(["prune", "--all"]);
    if random.bool() {
        super::checked(&mut prune)?;
    } else {
        let mut child = prune.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}
