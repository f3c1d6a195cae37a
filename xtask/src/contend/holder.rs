//! Those who want leases: acquire, work, release, and again.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Tally;
use super::ground::{Ground, failure};
use crate::Result;

/// One lease, from asking for it to having given it back.
pub(super) struct Round {
    pub(super) name: String,
    path: PathBuf,
    asked: Instant,
    got: Instant,
    giving_back: Instant,
    gave_back: Instant,
    /// What was committed, if anything was.
    pub(super) commit: Option<String>,
    /// The content that was left uncommitted, if any was.
    pub(super) left: Option<String>,
}

/// Where somebody works at this moment.
static BUSY: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

/// One holder's life: its leases, one after the other.
pub(super) fn live(ground: &Ground, tally: &Tally, process: u32, rounds: u32) -> Vec<Round> {
    let one = |round| match lease(ground, tally, process, round) {
        Ok(round) => Some(round),
        Err(error) => {
            tally.violation(format!("holder {process}, lease {round}: {error}"));
            None
        }
    };
    (0..rounds).filter_map(one).collect()
}

fn lease(ground: &Ground, tally: &Tally, process: u32, round: u32) -> Result<Round> {
    let name = format!("p{process}-{round}");
    let asked = Instant::now();
    let path = wtpool(ground, tally, &["acquire", "--name", &name, "--wait", "2h"])?;
    let got = Instant::now();
    let path = PathBuf::from(path.trim_end());
    enter(ground, tally, &path);
    let worked = work(ground, tally, &name, round, &path);
    leave(&path);
    let giving_back = Instant::now();
    wtpool(ground, tally, &["release", &name, "--linger", "0s"])?;
    let gave_back = Instant::now();
    let (commit, left) = worked?;
    Ok(Round { name, path, asked, got, giving_back, gave_back, commit, left })
}

/// Commits and leaves something for the pool to save, each in some rounds.
fn work(
    ground: &Ground,
    tally: &Tally,
    name: &str,
    round: u32,
    path: &Path,
) -> Result<(Option<String>, Option<String>)> {
    let status = ground.git(path, ["--no-optional-locks", "status", "--porcelain"])?;
    if !status.is_empty() {
        tally.violation(format!("{name} starts in a dirty worktree: {status}"));
    }
    let branch = ground.git(path, ["symbolic-ref", "--short", "HEAD"])?;
    if branch != format!("wtpool/{name}") {
        tally.violation(format!("{name} was put on the branch {branch}"));
    }
    if round % 4 == 1 {
        return Ok((None, None));
    }
    let file = format!("work-of-{name}");
    std::fs::write(path.join(&file), format!("committed by {name}\n"))?;
    let commit = {
        let _keeps_off = ground.objects.read().unwrap_or_else(PoisonError::into_inner);
        ground.git(path, ["add", &file])?;
        ground.git(path, ["commit", "--quiet", "--message", name])?;
        ground.git(path, ["rev-parse", "HEAD"])?
    };
    if round % 4 != 3 {
        return Ok((Some(commit), None));
    }
    std::fs::write(path.join(&file), format!("left by {name}\n"))?;
    let left = ground.git(path, ["hash-object", "--no-filters", &file])?;
    Ok((Some(commit), Some(left)))
}

/// Runs wtpool, which may only speak for itself.
fn wtpool(ground: &Ground, tally: &Tally, args: &[&str]) -> Result<String> {
    let mut command = ground.wtpool();
    let output = command.args(args).output()?;
    if !output.status.success() {
        return Err(failure(&command, &output).into());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    for line in stderr.lines().filter(|line| !is_a_story(line)) {
        tally.violation(format!("`wtpool {}` says: {line}", args.join(" ")));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether that is one of the lines that tell what became of the work.
fn is_a_story(line: &str) -> bool {
    let is = |start: &str, middle: &str| line.starts_with(start) && line.contains(middle);
    is("wtpool: p", "; give it back with: ")
        || is("wtpool: released p", " (")
        || is("wtpool: branch wtpool/", " kept, with ")
        || is("wtpool: branch wtpool/", " had no commits of its own, and is gone")
        || is("wtpool: saved ", " as rescue ")
}

fn enter(ground: &Ground, tally: &Tally, path: &Path) {
    let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let busy = busy.get_or_insert_default();
    if !busy.insert(path.to_owned()) {
        tally.violation(format!("two were given {}", path.display()));
    }
    if busy.len() > ground.cap as usize {
        tally.violation(format!("{} have leases at once", busy.len()));
    }
}

fn leave(path: &Path) {
    let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    busy.get_or_insert_default().remove(path);
}

/// For each worktree that went to somebody who had waited for it: how long that took from the beginning of
/// the release, and from its end.
pub(super) fn hand_overs(rounds: &[Round]) -> Vec<(Duration, Duration)> {
    let mut by_path: BTreeMap<&Path, Vec<&Round>> = BTreeMap::new();
    for round in rounds {
        by_path.entry(&round.path).or_default().push(round);
    }
    let mut found = Vec::new();
    for rounds in by_path.values_mut() {
        rounds.sort_by_key(|round| round.got);
        let pairs = rounds.windows(2).filter_map(|pair| match pair {
            [before, after] if after.asked < before.giving_back => Some((
                after.got.saturating_duration_since(before.giving_back),
                after.got.saturating_duration_since(before.gave_back),
            )),
            _ => None,
        });
        found.extend(pairs);
    }
    found
}
