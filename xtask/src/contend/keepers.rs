//! Leases that no process holds: each is kept for a while, looked at, and given back, while others prune without pause.
//! None may end before that.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::Tally;
use super::ground::{Ground, checked};
use super::log::Follower;
use crate::Result;

/// How many of each.
#[derive(Args, Clone, Copy)]
pub(crate) struct Keepers {
    /// Play this instead: so many processes keep leases that none holds, while others prune.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    keepers: u32,
    /// How many leases the keepers have in all.
    #[arg(long, default_value_t = 2000)]
    leases: u32,
    /// How many processes prune, again and again, beside a reaper that never rests.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    prunes: u32,
}

impl Keepers {
    pub(super) const NONE: Self = Self { keepers: 0, leases: 0, prunes: 0 };

    /// As much as everyday integration has time for.
    pub(super) const SLICE: Self = Self { keepers: 20, leases: 60, prunes: 3 };

    pub(super) fn is_wanted(self) -> bool {
        self.keepers > 0
    }

    /// How many leases there may be at once.
    pub(super) fn cap(self) -> u32 {
        self.keepers
    }
}

/// How long a lease is kept at most before it is looked at, and after.
const KEPT: u64 = 1000;

/// Plays it, and tells what was wrong.
///
/// # Errors
///
/// When the pool's log can't be read.
pub(super) fn run(ground: &Ground, tally: &Tally, options: Keepers) -> Result {
    // Before the first lease there is no pool to follow.
    checked(wtpool(ground).args(["acquire", "--name", "first", "--ttl", "2h"]))?;
    let log = Follower::start(ground)?;
    let begun = Instant::now();
    let (next, kept, pruned) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let keepers: Vec<_> = (0..options.keepers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= options.leases {
                            return;
                        }
                        match keep(ground, &format!("k{number}")) {
                            Ok(()) => drop(kept.fetch_add(1, Ordering::SeqCst)),
                            Err(error) => tally.violation(format!("lease k{number}: {error}")),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..options.prunes {
            scope.spawn(|| {
                while !tally.is_over() {
                    if let Err(error) = checked(wtpool(ground).args(["prune", "--quiet"])) {
                        tally.violation(error.to_string());
                    }
                    pruned.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        keepers.into_iter().for_each(|keeper| drop(keeper.join()));
        tally.over.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    checked(wtpool(ground).args(["release", "first", "--linger", "0s"]))?;
    let events = log.finish()?;
    let early = ended_early(&events);
    for event in &early {
        tally.violation(format!("a lease ended early: {event}"));
    }
    let kept = kept.into_inner();
    println!(
        "contend: {kept} of {} leases kept by {} keepers in {:.1} s, beside {} prunes; {} ended early",
        options.leases,
        options.keepers,
        took.as_secs_f64(),
        pruned.into_inner(),
        early.len()
    );
    if kept != options.leases {
        tally.violation(format!("{kept} leases were kept, not {}", options.leases));
    }
    checked(wtpool(ground).args(["prune", "--all"]))?;
    Ok(())
}

fn wtpool(ground: &Ground) -> Command {
    let mut command = ground.wtpool();
    command.env("WTPOOL_REAP_INTERVAL", "10ms");
    command
}

/// One lease, from its beginning to its end.
fn keep(ground: &Ground, name: &str) -> Result {
    let path = checked(wtpool(ground).args(["acquire", "--name", name, "--ttl", "2h"]))?;
    let path = Path::new(path.trim_end());
    let mark = path.join("mark");
    std::fs::write(&mark, name)?;
    let wait = || std::thread::sleep(Duration::from_millis(fastrand::u64(0..KEPT)));
    let is_there = || match std::fs::read_to_string(&mark) {
        Ok(found) if found == name => Ok(()),
        Ok(found) => Err(format!("{} is that of {found}", path.display())),
        Err(error) => Err(format!("{} is gone: {error}", path.display())),
    };
    wait();
    is_there()?;
    let shown: Value =
        serde_json::from_str(&checked(wtpool(ground).args(["show", name, "--json"]))?)?;
    if shown["state"] != "leased" {
        return Err(format!("it is not leased any more: {shown}").into());
    }
    wait();
    is_there()?;
    std::fs::remove_file(&mark)?;
    checked(wtpool(ground).args(["release", name, "--linger", "0s", "--quiet"]))?;
    Ok(())
}

/// The ends of leases that no keeper asked for.
fn ended_early(events: &[Value]) -> Vec<&Value> {
    let ends = events.iter().filter(|event| event["event"] == "releasing");
    ends.filter(|event| event["note"] != "released").collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn end_that_nobody_asked_for_is_early() {
        let events = [
            json!({"event": "releasing", "name": "a", "note": "released"}),
            json!({"event": "releasing", "name": "b", "note": "workspacegone"}),
            json!({"event": "leased", "name": "c"}),
        ];
        assert_eq!(ended_early(&events), [&events[1]]);
    }
}
