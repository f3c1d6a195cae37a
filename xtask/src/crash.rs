//! Kills real `wtpool` processes, and what they and their agents run: at each step that the sources name, and
//! at random instants. Then the pool is reconciled once, and audited: no commit and no byte may be lost, nothing
//! left behind, nothing leased twice, and a second reconciliation must find nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use self::audit::{Expected, Found, audit};
use self::ground::Ground;
use self::points::Reached;
use self::scenario::{Ended, Scenario};
use crate::{Result, steps};

mod audit;
mod ground;
pub(crate) mod pause;
mod points;
mod process;
mod random;
mod scenario;

/// How much of it.
#[derive(Args)]
pub(crate) struct Options {
    /// How many processes are killed at random instants.
    #[arg(long, default_value_t = 3000)]
    kills: u64,
    /// No more is begun after that time: half of it is for the steps, half for random instants. Without it, all
    /// of both is done.
    #[arg(long)]
    seconds: Option<u64>,
    /// Repeats the random choices of an earlier run, though not its timing.
    #[arg(long)]
    seed: Option<u64>,
    /// Kill at the steps only whose names have this in them, each time that any of them is reached, and at no
    /// random instant.
    #[arg(long, value_name = "NAME")]
    point: Option<String>,
    /// Kill at random instants only.
    #[arg(long, conflicts_with = "point")]
    random_only: bool,
    /// How many pools are tried at the same time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Use this `wtpool`, which must have been built with the feature `failpoints`, and build none.
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Options {
    /// As much as everyday integration has time for.
    pub(crate) fn slice() -> Self {
        Self {
            kills: 3000,
            seconds: Some(60),
            seed: None,
            point: None,
            random_only: false,
            jobs: 3,
            program: None,
        }
    }
}

/// What happened in all pools together.
#[derive(Default)]
struct Tally {
    /// By step.
    at_steps: Mutex<BTreeMap<String, u64>>,
    /// By what was killed.
    at_random: Mutex<BTreeMap<String, u64>>,
    acts: AtomicU64,
    pools: AtomicU64,
    commits: AtomicUsize,
    objects: AtomicUsize,
    leases: AtomicUsize,
    locks: AtomicUsize,
    violations: Mutex<Vec<String>>,
}

impl Tally {
    fn violation(&self, text: String) {
        eprintln!("violation: {text}");
        lock(&self.violations).push(text);
    }

    fn killed(&self, kind: &str) {
        *lock(&self.at_random).entry(kind.to_owned()).or_default() += 1;
    }

    fn found(&self, found: &Found) {
        self.pools.fetch_add(1, Ordering::SeqCst);
        self.commits.fetch_add(found.commits, Ordering::SeqCst);
        self.objects.fetch_add(found.objects, Ordering::SeqCst);
        self.leases.fetch_add(found.leases, Ordering::SeqCst);
        self.locks.fetch_add(found.locks, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// All that a run has in common.
struct Run {
    wtpool: PathBuf,
    dir: PathBuf,
    points: BTreeSet<String>,
    names: PathBuf,
    seed: u64,
    jobs: u32,
    tally: Tally,
    number: AtomicU64,
}

/// Runs it.
///
/// # Errors
///
/// When anything was lost, left behind or given twice, or a step was never reached; the message says what, and
/// where the remains are.
pub(crate) fn run(options: &Options) -> Result {
    let begun = Instant::now();
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Failpoints)?,
    };
    let dir = tempfile::Builder::new().prefix("wtpool-crash-").disable_cleanup(true).tempdir()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("\n== crash: in {}, seed {seed}", dir.path().display());
    // A build in the meantime must not change what is tried.
    let own = dir.path().join("wtpool");
    std::fs::copy(wtpool, &own)?;
    let points = points::all()?;
    let names = dir.path().join("points");
    std::fs::write(&names, Vec::from_iter(points.iter().map(String::as_str)).join("\n"))?;
    let run = Run {
        wtpool: own,
        dir: dir.path().canonicalize()?,
        points,
        names,
        seed,
        jobs: options.jobs,
        tally: Tally::default(),
        number: AtomicU64::new(0),
    };

    let half = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds) / 2);
    if !options.random_only {
        let reached = run.reach_all()?;
        run.kill_at_steps(&reached, options.point.as_deref(), half)?;
    }
    if options.point.is_none() {
        let end = options.seconds.map(|_| begun_later(half, options.seconds));
        run.kill_at_random(options.kills, end)?;
    }
    run.summary(begun.elapsed())?;
    Ok(std::fs::remove_dir_all(dir.path())?)
}

fn begun_later(half: Option<Instant>, seconds: Option<u64>) -> Instant {
    half.unwrap_or_else(Instant::now) + Duration::from_secs(seconds.unwrap_or(0)) / 2
}

impl Run {
    /// A directory of its own for one pool.
    fn root(&self, name: &str) -> Result<PathBuf> {
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        let root = self.dir.join(format!("{number}-{name}"));
        std::fs::create_dir(&root)?;
        Ok(root)
    }

    /// Does `work` with each of `all`, several at a time, until `until`. How many were begun.
    fn each<T: Sync>(
        &self,
        all: &[T],
        until: Option<Instant>,
        work: impl Fn(&T) -> Result + Sync,
    ) -> usize {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while until.is_none_or(|until| Instant::now() < until) {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let Some(one) = all.get(n) else { break };
                        if let Err(error) = work(one) {
                            self.tally.violation(error.to_string());
                        }
                    }
                });
            }
        });
        next.into_inner().min(all.len())
    }

    /// Plays each scenario once, with nobody killed. By scenario, which steps it reaches, and how often one
    /// process does.
    fn reach_all(&self) -> Result<Vec<(&'static Scenario, BTreeMap<String, u32>)>> {
        let reached = Mutex::new(Vec::new());
        let all: Vec<&'static Scenario> = scenario::ALL.iter().collect();
        self.each(&all, None, |scenario| {
            let hits = self.try_one(scenario, None)?;
            lock(&reached).push((*scenario, hits));
            Ok(())
        });
        let mut reached = reached.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        reached.sort_by_key(|(scenario, _)| scenario.name);
        let known: BTreeSet<&String> = reached.iter().flat_map(|(_, hits)| hits.keys()).collect();
        for step in self.points.iter().filter(|step| !known.contains(step)) {
            self.tally.violation(format!("no scenario reaches {step}"));
        }
        Ok(reached)
    }

    /// Kills at each step: first once at every one, then in every scenario that reaches it, the first and
    /// the last time.
    fn kill_at_steps(
        &self,
        reached: &[(&'static Scenario, BTreeMap<String, u32>)],
        wanted: Option<&str>,
        until: Option<Instant>,
    ) -> Result {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (mut first, mut more) = (Vec::new(), Vec::new());
        for step in &self.points {
            if wanted.is_some_and(|wanted| !step.contains(wanted)) {
                continue;
            }
            let mut ways = Vec::new();
            for (scenario, hits) in reached {
                let most = hits.get(step).copied().unwrap_or(0);
                ways.extend((most > 0).then_some((step, *scenario, 1)));
                ways.extend((most > 1).then_some((step, *scenario, most)));
                if most > 2 {
                    ways.push((step, *scenario, random.u32(2..most)));
                }
            }
            random.shuffle(&mut ways);
            let rest = ways.split_off(ways.len().min(1));
            first.extend(ways);
            // Of the steps that are part of everything, not all of the many ways.
            more.extend(rest.into_iter().take(if wanted.is_some() { usize::MAX } else { 4 }));
        }
        random.shuffle(&mut first);
        random.shuffle(&mut more);
        first.append(&mut more);
        let begun = self.each(&first, until, |(step, scenario, hit)| {
            self.try_one(scenario, Some((step, *hit))).map(drop)
        });
        if begun < first.len() {
            println!("crash: {begun} of {} kills at steps, in the time there was", first.len());
        }
        Ok(())
    }

    /// One scenario on a pool of its own, and the audit. Which steps were reached, and how often.
    fn try_one(
        &self,
        scenario: &Scenario,
        kill: Option<(&str, u32)>,
    ) -> Result<BTreeMap<String, u32>> {
        let root = self.root(scenario.name)?;
        let ground = Ground::new(&self.wtpool, &root, scenario.cap, scenario.cache)?;
        // Not in there: it is read when the ground may be gone.
        let log = root.with_extension("reached");
        let told = match kill {
            Some((step, hit)) => format!("killed at {step} ({hit}) in {}", scenario.name),
            None => format!("nobody killed in {}", scenario.name),
        };
        let done = scenario.play(&ground, &self.names, &log, kill).and_then(|ended| {
            if let (Some((step, _)), Ended::Killed) = (kill, &ended) {
                *lock(&self.tally.at_steps).entry(step.to_owned()).or_default() += 1;
            }
            audit(&ground, scenario.expected)
        });
        self.judge(&ground, &told, done)?;
        Ok(Reached::read(&log).hits)
    }

    /// Takes in what an audit found. A ground without violations is removed.
    fn judge(&self, ground: &Ground, told: &str, done: Result<Found>) -> Result {
        random::end(&ground.home());
        let violations = match done {
            Ok(found) => {
                self.tally.found(&found);
                found.violations
            }
            Err(error) => vec![error.to_string()],
        };
        if violations.is_empty() {
            return Ok(std::fs::remove_dir_all(&ground.root)?);
        }
        for violation in violations {
            self.tally.violation(format!("{violation}; {told}, see {}", ground.root.display()));
        }
        Ok(())
    }

    /// Busy pools, one after another, until so many were killed.
    fn kill_at_random(&self, kills: u64, until: Option<Instant>) -> Result {
        let mut left = kills;
        let far = Instant::now() + Duration::from_secs(86_400);
        let end = until.unwrap_or(far);
        let mut random = fastrand::Rng::with_seed(self.seed ^ 0x5eed);
        while left > 0 && Instant::now() < end {
            let seed = random.u64(..);
            let cache = if random.u8(0..4) == 0 { "seeded" } else { "private" };
            let workers = random.u32(4..12);
            let cap = random.u32(2..7);
            let root = self.root("random")?;
            let ground = Ground::new(&self.wtpool, &root, cap, cache)?;
            let round = random::Round {
                workers,
                kills: random.u64(20..100).min(left),
                until: end.min(Instant::now() + Duration::from_secs(60)),
            };
            let killed = random::play(&ground, &round, &self.tally, seed);
            left = left.saturating_sub(killed);
            let told = format!("{killed} killed at random");
            let expected = Expected { locks: true, ..Expected::default() };
            self.judge(&ground, &told, audit(&ground, expected))?;
        }
        Ok(())
    }

    fn summary(&self, took: Duration) -> Result {
        let tally = &self.tally;
        let shown = |kills: &BTreeMap<String, u64>| {
            let each: Vec<_> = kills.iter().map(|(what, n)| format!("{n} {what}")).collect();
            each.join(", ")
        };
        let (at_steps, at_random) = (lock(&tally.at_steps), lock(&tally.at_random));
        println!(
            "crash: {} kills at {} of {} steps",
            at_steps.values().sum::<u64>(),
            at_steps.len(),
            self.points.len()
        );
        let missed: Vec<&str> =
            self.points.iter().map(String::as_str).filter(|p| !at_steps.contains_key(*p)).collect();
        if !missed.is_empty() && missed.len() < 10 {
            println!("crash: nobody was killed at {}", missed.join(", "));
        }
        println!(
            "crash: {} kills at random instants ({})",
            at_random.values().sum::<u64>(),
            shown(&at_random)
        );
        let violations = lock(&tally.violations);
        println!(
            "crash: {} pools audited, with {} acts, {} leases; {} commits and {} files looked for; {} locks of \
             killed gits removed by hand; {} violations; {} s",
            tally.pools.load(Ordering::SeqCst),
            tally.acts.load(Ordering::SeqCst),
            tally.leases.load(Ordering::SeqCst),
            tally.commits.load(Ordering::SeqCst),
            tally.objects.load(Ordering::SeqCst),
            tally.locks.load(Ordering::SeqCst),
            violations.len(),
            took.as_secs()
        );
        let nothing = tally.commits.load(Ordering::SeqCst) == 0;
        if nothing || at_steps.is_empty() && at_random.is_empty() {
            return Err(format!("nothing was tried: see {}", self.dir.display()).into());
        }
        match violations.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} violations, the first: {first}\n  all is left for a look in {}; --seed {} makes the same choices",
                violations.len(),
                self.dir.display(),
                self.seed
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_is_counted_by_its_kind() {
        let tally = Tally::default();
        for kind in ["git", "agent", "git"] {
            tally.killed(kind);
        }
        let counted = lock(&tally.at_random);
        assert_eq!((counted["git"], counted["agent"]), (2, 1));
    }

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: BTreeSet<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), scenario::ALL.len());
    }
}
