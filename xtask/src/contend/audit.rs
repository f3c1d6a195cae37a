//! What must hold when everybody is done.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Tally;
use super::ground::{Ground, checked};
use super::holder::Round;
use crate::Result;

/// For how long the pool may take to remove what nobody uses any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Empties the pool, and looks for everything that anybody made.
pub(super) fn audit(ground: &Ground, tally: &Tally, rounds: &[Round]) -> Result {
    let repo = ground.repo();
    empty_the_pool(ground, tally)?;
    for (args, expected) in [
        (&["status", "--porcelain"][..], ""),
        (&["symbolic-ref", "HEAD"], "refs/heads/main"),
        (&["log", "-1", "--format=%an", "HEAD"], "Contender"),
    ] {
        let found = ground.git(&repo, args)?;
        if found != expected {
            tally.violation(format!("`git {}` in the main worktree: {found}", args.join(" ")));
        }
    }
    let listed = ground.git(&repo, ["worktree", "list", "--porcelain"])?;
    let paths: Vec<_> = listed.lines().filter_map(|l| l.strip_prefix("worktree ")).collect();
    if paths != [repo.to_string_lossy()] {
        tally.violation(format!("git still lists {paths:?}"));
    }
    let fsck = ["fsck", "--full", "--strict", "--no-dangling", "--no-progress"];
    if let Err(error) = ground.git(&repo, fsck) {
        tally.violation(error.to_string());
    }
    left_over(&ground.repo().join(".git"), &|name| name.ends_with(".lock"), tally)?;
    left_over(&ground.pool().join("slots"), &|_| true, tally)?;

    let listed = ground.git(&repo, ["rev-list", "--objects", "--all"])?;
    let reachable: HashSet<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let is_lost = |id: &str| !reachable.contains(id);
    for Round { name, commit, left, .. } in rounds {
        if let Some(commit) = commit.as_deref().filter(|commit| is_lost(commit)) {
            tally.violation(format!("the commit {commit} of {name} is lost"));
        }
        if let Some(left) = left.as_deref().filter(|left| is_lost(left)) {
            tally.violation(format!("what {name} left uncommitted is lost: {left}"));
        }
    }
    Ok(())
}

fn empty_the_pool(ground: &Ground, tally: &Tally) -> Result {
    let begun = Instant::now();
    loop {
        checked(ground.wtpool().args(["prune", "--all"]))?;
        let listed: Value =
            serde_json::from_str(&checked(ground.wtpool().args(["list", "--json"]))?)?;
        if listed["slots"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            tally.violation(format!("slots are left in the pool: {}", listed["slots"]));
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn left_over(dir: &Path, is: &dyn Fn(&str) -> bool, tally: &Tally) -> Result {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if is(&entry.file_name().to_string_lossy()) {
            tally.violation(format!("{} is left", entry.path().display()));
        } else if entry.file_type()?.is_dir() {
            left_over(&entry.path(), is, tally)?;
        }
    }
    Ok(())
}

/// By the pool's log: whether slots were granted in the order in which they were asked for, and never
/// more than there may be.
pub(super) fn order(ground: &Ground, tally: &Tally, rounds: &[Round], events: &[Value]) {
    let (mut queued, mut granted, mut busy) = (Vec::new(), Vec::new(), BTreeSet::new());
    for event in events {
        let (slot, name) = (event["slot"].as_u64(), event["name"].as_str().unwrap_or(""));
        match event["event"].as_str().unwrap_or("") {
            "queued" => queued.push(name),
            "granted" => {
                granted.push(name);
                if !busy.insert(slot) || busy.len() > ground.cap as usize {
                    tally.violation(format!("too much was granted: {event}, with {busy:?} in use"));
                }
            }
            "freed" | "lingering" | "retiring" | "removed" => drop(busy.remove(&slot)),
            "quarantined" | "left-queue" => tally.violation(format!("the log has {event}")),
            _ => {}
        }
    }
    if queued.len() != rounds.len() {
        tally.violation(format!("{} leases, but {} in the log", rounds.len(), queued.len()));
    }
    if let Some((first, instead)) = queued.iter().zip(&granted).find(|(a, b)| a != b) {
        tally.violation(format!("{first} was overtaken by {instead}"));
    }
    if queued.len() != granted.len() {
        tally.violation(format!("{} asked, {} were served", queued.len(), granted.len()));
    }
}
