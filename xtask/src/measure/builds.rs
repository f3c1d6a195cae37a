//! How long builds take.
//!
//! All figures are of one run, taken in turns, since other work on the machine comes and goes: only their ratios
//! count.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use clap::Args;

use super::Common;
use super::ground::{Built, Ground, Lease, build, build_in, git};
use super::table::Table;
use crate::Result;

/// How builds are measured.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How often each is measured; the median is shown. Cold builds are measured once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many commits away the other base is.
    #[arg(long, value_name = "COMMITS", default_value_t = 50)]
    away: u32,
    /// Do not build in all leases at once, which takes long where nothing is shared.
    #[arg(long)]
    no_crowd: bool,
}

/// What was measured for one strategy, in order.
#[derive(Default)]
struct Found(Vec<(String, Vec<Duration>)>);

impl Found {
    fn add(&mut self, what: &str, took: Duration) {
        // It takes long until there is a table.
        eprintln!("{what}: {}", seconds(took));
        match self.0.iter_mut().find(|(known, _)| known == what) {
            Some((_, all)) => all.push(took),
            None => self.0.push((what.to_owned(), vec![took])),
        }
    }

    fn median(&self, what: &str) -> Option<Duration> {
        self.0.iter().find(|(known, _)| known == what).map(|(_, all)| median(all.clone()))
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

const COLD: &str = "cold, private";
const NO_OP: &str = "nothing to do, ordinary checkout";
const CHANGED: &str = "after a change, ordinary checkout";

pub(crate) fn run(options: &Options) -> Result {
    let common = &options.common;
    let wtpool = common.program()?;
    let mut table = Table::default();
    for strategy in &common.strategies {
        eprintln!("\n== {strategy}");
        let ground = Ground::new(common, &wtpool, strategy)?;
        let mut found = Found::default();
        let measured = rounds(options, &ground, &mut found);
        let crowd = match &measured {
            Ok(()) if !options.no_crowd => crowd(common.leases, &ground).map(Some),
            _ => Ok(None),
        };
        ground.end()?;
        measured?;
        show(&mut table, strategy, &found);
        if let Some(crowd) = crowd? {
            crowd.show(&mut table, common.leases);
        }
    }
    table.print();
    Ok(())
}

/// What is measured one after the other.
fn rounds(options: &Options, ground: &Ground, found: &mut Found) -> Result {
    let ordinary = ground.repo();
    let none = BTreeMap::new();
    let in_ordinary = |found: &mut Found, what: &str| -> Result {
        found.add(what, build(&ordinary, &none)?.took);
        Ok(())
    };
    in_ordinary(found, COLD)?;
    found.add("wtpool warm", ground.warm()?);
    let away = away(&ordinary, options.away)?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        in_ordinary(found, NO_OP)?;
        let mut first = ground.acquire(&format!("fresh-{round}"), "HEAD")?;
        if let (1, false, Some(reason)) = (round, first.warm, &first.reason) {
            eprintln!("not warm: {reason}");
        }
        build_and(found, "fresh lease", &first)?;

        // The same slot once more.
        first = again(ground, first, &format!("recycled-{round}"), "HEAD")?;
        build_and(found, "recycled slot, same base", &first)?;
        // The first change in an ordinary checkout that was built is not the first for its incremental state,
        // and so it is in a recycled slot; in a fresh one it is.
        ground.edit(&ordinary, &format!("round {round}"))?;
        in_ordinary(found, CHANGED)?;
        ground.edit(&first.path, &format!("recycled, round {round}"))?;
        build_and(found, "after a change, recycled slot", &first)?;
        ground.edit(&first.path, &format!("recycled, again, round {round}"))?;
        build_and(found, "after another change, recycled slot", &first)?;

        let second = ground.acquire(&format!("second-{round}"), "HEAD")?;
        ground.edit(&second.path, &format!("fresh, round {round}"))?;
        build_and(found, "after a change, fresh lease", &second)?;
        ground.edit(&second.path, &format!("fresh, again, round {round}"))?;
        build_and(found, "after another change, fresh lease", &second)?;

        first = again(ground, first, &format!("changed-{round}"), "HEAD")?;
        build_and(found, "recycled slot, in which was a change", &first)?;
        if let Some((commit, count)) = &away {
            first = again(ground, first, &format!("away-{round}"), commit)?;
            build_and(found, &format!("recycled slot, {count} commits away"), &first)?;
            let third = ground.acquire(&format!("third-{round}"), commit)?;
            build_and(found, &format!("fresh lease, {count} commits away"), &third)?;
            ground.release(&third)?;
        }
        ground.release(&first)?;
        ground.release(&second)?;
        // So that the next round's are fresh.
        ground.forget_idle()?;
    }
    Ok(())
}

fn build_and(found: &mut Found, what: &str, lease: &Lease) -> Result {
    found.add(what, build_in(lease)?.took);
    Ok(())
}

/// Gives a lease back, and takes the slot for the next one.
fn again(ground: &Ground, lease: Lease, name: &str, base: &str) -> Result<Lease> {
    ground.release(&lease)?;
    let next = ground.acquire(name, base)?;
    if next.slot != lease.slot {
        return Err(format!("{name} got slot {}, not slot {}", next.slot, lease.slot).into());
    }
    Ok(next)
}

/// The commit that is so many before HEAD, or the first one, and how many it is before.
fn away(repo: &Path, count: u32) -> Result<Option<(String, u32)>> {
    let all = git(repo, &["rev-list", "--first-parent", "--count", "HEAD"])?.parse::<u32>()?;
    let count = count.min(all.saturating_sub(1));
    if count == 0 {
        return Ok(None);
    }
    let commit = git(repo, &["rev-parse", &format!("HEAD~{count}")])?;
    Ok(Some((commit, count)))
}

/// Many at once.
struct Crowd {
    all: Duration,
    slowest: Duration,
    waits: BTreeMap<String, Duration>,
}

fn crowd(leases: u32, ground: &Ground) -> Result<Crowd> {
    eprintln!("{leases} at once");
    let mut all = Vec::new();
    for number in 1..=leases {
        let lease = ground.acquire(&format!("crowd-{number}"), "HEAD")?;
        ground.edit(&lease.path, &lease.name)?;
        all.push(lease);
    }
    let together = Barrier::new(all.len());
    let begun = Instant::now();
    let built: Vec<Built> = std::thread::scope(|scope| {
        let builders: Vec<_> = all
            .iter()
            .map(|lease| {
                scope.spawn(|| {
                    together.wait();
                    build_in(lease).map_err(|e| e.to_string())
                })
            })
            .collect();
        let ended = builders.into_iter().map(|builder| match builder.join() {
            Ok(built) => Ok(built?),
            Err(_) => Err("a build ended unexpectedly".into()),
        });
        ended.collect::<Result<_>>()
    })?;
    let mut waits: BTreeMap<String, Duration> = BTreeMap::new();
    for (lock, waited) in built.iter().flat_map(|built| &built.waits) {
        let longest = waits.entry(lock.clone()).or_default();
        *longest = (*longest).max(*waited);
    }
    let slowest = built.iter().map(|built| built.took).max().unwrap_or_default();
    Ok(Crowd { all: begun.elapsed(), slowest, waits })
}

impl Crowd {
    fn show(&self, table: &mut Table, leases: u32) {
        table.row([format!("{leases} at once, each after a change: all"), seconds(self.all)]);
        table.row(["  the slowest of them".to_owned(), seconds(self.slowest)]);
        if self.waits.is_empty() {
            table.row(["  none waited for a lock", ""]);
        }
        for (lock, longest) in &self.waits {
            table.row([format!("  longest wait for a lock on {lock}"), seconds(*longest)]);
        }
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

fn show(table: &mut Table, strategy: &str, found: &Found) {
    table.row([strategy, "median", "least", "most", "compared with"]);
    for (what, all) in &found.0 {
        let took = median(all.clone());
        let ratio = |to: &str, name: &str| {
            let to = found.median(to)?.as_secs_f64();
            Some(format!("{:.2} × {name}", took.as_secs_f64() / to))
        };
        let compared = match &**what {
            COLD | NO_OP | CHANGED | "wtpool warm" => None,
            text if text.starts_with("after") => ratio(CHANGED, "ordinary"),
            _ => found.median(COLD).zip(ratio(NO_OP, "nothing to do")).map(|(cold, ratio)| {
                format!("{ratio}, cold ÷ {:.0}", cold.as_secs_f64() / took.as_secs_f64())
            }),
        };
        let (least, most) = (all.iter().min(), all.iter().max());
        let ends = [least, most].map(|end| end.copied().map(seconds).unwrap_or_default());
        let [least, most] = ends;
        table.row([format!("  {what}"), seconds(took), least, most, compared.unwrap_or_default()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_build_does_not_move_the_median() {
        let mut found = Found::default();
        for seconds in [2, 1, 90] {
            found.add("a build", Duration::from_secs(seconds));
        }
        assert_eq!(found.median("a build"), Some(Duration::from_secs(2)));
        assert_eq!(found.median("another"), None);
    }
}
