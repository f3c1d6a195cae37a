//! Many processes on one pool, while somebody else works in the same repository with git: fetches,
//! collects garbage, prunes, makes worktrees of their own. Nobody may be overtaken, nothing lost, and
//! nobody may see an error of git's. Or, with `--keepers`, leases that no process holds, while others prune.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use crate::{Result, steps};

mod audit;
mod ground;
mod holder;
mod keepers;
mod log;
mod strangers;

use ground::Ground;
use holder::Round;

/// How much contention.
#[derive(Args)]
pub(crate) struct Options {
    /// How many want leases at the same time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// How many leases each of them has, one after the other.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// How many leases there may be at once.
    #[arg(long, default_value_t = 8)]
    cap: u32,
    /// Play it on a clone of this repository, not on a small one made for it.
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Use this `wtpool` and build none.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Leaves the repository and the pool where they are.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    keepers: keepers::Keepers,
}

impl Options {
    /// So much of it as continuous integration has time for.
    pub(crate) fn slice() -> Self {
        let keepers = keepers::Keepers::NONE;
        Self { processes: 8, rounds: 10, cap: 3, repo: None, program: None, keep: false, keepers }
    }

    /// The same of the leases that no process holds.
    pub(crate) fn slice_of_keepers() -> Self {
        Self { keepers: keepers::Keepers::SLICE, ..Self::slice() }
    }
}

/// What was seen of all that must not be.
#[derive(Default)]
struct Tally {
    violations: Mutex<Vec<String>>,
    /// What the strangers did, and how often.
    deeds: Mutex<BTreeMap<&'static str, u32>>,
    over: AtomicBool,
}

impl Tally {
    fn violation(&self, text: String) {
        eprintln!("violation: {text}");
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn did(&self, what: &'static str) {
        *self.deeds.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Whether the holders have had all their leases.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Runs the whole of it.
///
/// # Errors
///
/// When any process saw an error, somebody was overtaken, or anything was lost or left behind; the
/// message says what, and where the remains are.
pub(crate) fn run(options: &Options) -> Result {
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Dev)?,
    };
    let tmp = tempfile::Builder::new().prefix("wtpool-contend-").disable_cleanup(true).tempdir()?;
    if options.keepers.is_wanted() {
        eprintln!("\n== contend: leases that no process holds, in {}", tmp.path().display());
        let cap = options.keepers.cap() + 1;
        let ground = Ground::new(wtpool, tmp.path(), cap, options.repo.as_deref())?;
        let tally = Tally::default();
        keepers::run(&ground, &tally, options.keepers)?;
        return judge(&ground, tally, options);
    }
    eprintln!(
        "\n== contend: {} processes, {} leases each, {} at once, in {}",
        options.processes,
        options.rounds,
        options.cap,
        tmp.path().display()
    );
    let ground = Ground::new(wtpool, tmp.path(), options.cap, options.repo.as_deref())?;
    let tally = Tally::default();
    let log = log::Follower::start(&ground)?;
    let begun = Instant::now();
    let rounds = std::thread::scope(|scope| {
        let strangers = strangers::all().map(|stranger| {
            let (ground, tally) = (&ground, &tally);
            scope.spawn(move || strangers::live(ground, tally, stranger))
        });
        let holders: Vec<_> = (0..options.processes)
            .map(|process| {
                let (ground, tally, rounds) = (&ground, &tally, options.rounds);
                scope.spawn(move || holder::live(ground, tally, process, rounds))
            })
            .collect();
        let rounds: Vec<Round> =
            holders.into_iter().filter_map(|holder| holder.join().ok()).flatten().collect();
        tally.over.store(true, Ordering::Relaxed);
        strangers.into_iter().for_each(|stranger| drop(stranger.join()));
        rounds
    });
    let took = begun.elapsed();
    if let Err(error) = audit::audit(&ground, &tally, &rounds) {
        tally.violation(format!("the audit: {error}"));
    }
    let events = log.finish()?;
    audit::order(&ground, &tally, &rounds, &events);
    report(&tally, &rounds, took);

    let expected = (options.processes * options.rounds) as usize;
    if rounds.len() != expected {
        tally.violation(format!("there were {} leases, not {expected}", rounds.len()));
    }
    judge(&ground, tally, options)
}

/// Says what was wrong. A ground without violations is removed.
fn judge(ground: &Ground, tally: Tally, options: &Options) -> Result {
    let violations = tally.violations.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("contend: {} violations", violations.len());
    if let Some(first) = violations.first() {
        let (number, remains) = (violations.len(), ground.root.display());
        return Err(format!(
            "{number} violations, the first: {first}\n  all is left for a look in {remains}"
        )
        .into());
    }
    if options.keep { Ok(()) } else { ground.remove() }
}

fn report(tally: &Tally, rounds: &[Round], took: Duration) {
    let deeds = tally.deeds.lock().unwrap_or_else(PoisonError::into_inner);
    let deeds: Vec<_> = deeds.iter().map(|(what, n)| format!("{n} × {what}")).collect();
    println!(
        "contend: {} leases in {:.1} s, {:.1} a second; meanwhile {}",
        rounds.len(),
        took.as_secs_f64(),
        rounds.len() as f64 / took.as_secs_f64(),
        deeds.join(", ")
    );
    let of = |what: &str, mut times: Vec<Duration>| {
        times.sort();
        let at = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or_default().as_millis()
        };
        println!(
            "contend: {what}: median {} ms, 95 % within {} ms, longest {} ms ({} times)",
            at(50),
            at(95),
            at(100),
            times.len()
        );
    };
    let hand_overs = holder::hand_overs(rounds);
    of(
        "from the end of a release until the next has the worktree",
        hand_overs.iter().map(|(_, after)| *after).collect(),
    );
    of("from its beginning until then", hand_overs.iter().map(|(whole, _)| *whole).collect());
}
