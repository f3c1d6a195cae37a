//! The truth table: is what a shared cache builds what a private one would have built?
//!
//! Each [`Hazard`] is a small cargo workspace, some commits of it, and a script: leases are taken, edited,
//! built and run, by turns and at the same time. The script is played with real cargo in leases of a real
//! [`Pool`] with the strategy in question, and beforehand, once for all strategies, in fresh clones whose
//! `target` is their own. Whatever a command shows in a lease (what the program prints, warnings and
//! errors, test results, pages of documentation) must be what it shows there.
//!
//! Beside that, no act in one lease may change a file of another one, and a lease that is handed out
//! must be clean for git.
//!
//! A strategy is plugged in by a [`Subject`]:
//!
//! ```no_run
//! use std::path::Path;
//! use testkit::truth::{self, Hazard, Pooled, Subject};
//!
//! # fn pool_with_my_strategy(repo: &Path, pool_dir: &Path) -> pool_core::Pool {
//! #     let isolator = std::sync::Arc::new(testkit::memory::MemoryIsolator::new());
//! #     pool_core::Pool::builder(isolator).open().unwrap()
//! # }
//! fn subject(_: &Hazard, repo: &Path, pool_dir: &Path) -> Box<dyn Subject> {
//!     Box::new(Pooled::new("mine", pool_with_my_strategy(repo, pool_dir)))
//! }
//!
//! let report = truth::examine("mine", &subject, &[]);
//! report.assert_never_wrong();
//! truth::assert_in_step(Path::new("TRUTH.md"), &report);
//! ```
//!
//! Without a tool that a strategy needs, its test skips it with a word: its column then stays as it is.
//!
//! [`control`] has strategies that are wrong. A hazard that all of them survive tests nothing: the tests of
//! `cache-share` see to it that each is seen to mislead one of them.
//!
//! # Limitations
//!
//! - A fresh clone is replayed from its last change of source: cargo's own blind spots inside one checkout
//!   (a file edited under an old date after a build, a vendored crate edited in place) are no
//!   hazards here, since a private target has them too.
//! - A file that is given an old date after a build was there before (by seeding, too) is `old-dates`, and
//!   the date is of the year 2000. What is older still is not tried.
//! - cargo's configuration in its home directory is that of the machine.

pub mod control;
mod hazard;
mod hazards;
mod play;
mod reference;
mod shell;
mod table;

use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pool_core::{CommitId, Pool};

pub use hazard::Hazard;
pub use hazards::all;
pub use shell::cargo;
pub use table::assert_in_step;

/// A pool with the strategy that is examined, for one hazard.
#[async_trait]
pub trait Subject: fmt::Debug + Send + Sync {
    /// The pool. All its leases have the strategy in question, as far as it sees fit.
    fn pool(&self) -> &Pool;

    /// What [`Attachment::strategy`](pool_core::Attachment::strategy) says when the strategy itself is in
    /// force. Anything else is a fallback.
    fn strategy(&self) -> &str;

    /// Makes whatever new leases start from, from that commit. Called once, before the first lease.
    ///
    /// # Errors
    ///
    /// A text that says why that can't be done for this workspace.
    async fn warm(&self, commit: &CommitId) -> Result<(), String> {
        let _ = commit;
        Ok(())
    }

    /// How often a script is played: after the first time, in slots that were used for it.
    fn rounds(&self) -> u32 {
        1
    }

    /// Whether what is built has less debug information than a fresh clone's: then a backtrace may show less
    /// than it does there, and nothing else.
    fn spares_debug_information(&self) -> bool {
        false
    }

    /// Called before each command of the script, the first of which is number 0. What a strategy changes under
    /// leases that live can be changed here.
    fn before(&self, command: usize) {
        let _ = command;
    }
}

/// A [`Subject`] that needs no warming up.
#[derive(Debug)]
pub struct Pooled {
    strategy: String,
    pool: Pool,
}

impl Pooled {
    /// A pool all of whose leases have the strategy of that name.
    pub fn new(strategy: impl Into<String>, pool: Pool) -> Self {
        Self { strategy: strategy.into(), pool }
    }
}

impl Subject for Pooled {
    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn strategy(&self) -> &str {
        &self.strategy
    }
}

/// Opens a pool for this hazard over the repository at the first path, with everything it makes in the second.
/// Called inside a tokio runtime, once for each hazard. Each lease must get a copy of the user's `.env`.
pub type Opener = dyn Fn(&Hazard, &Path, &Path) -> Box<dyn Subject> + Sync;

/// What was seen of a strategy in one hazard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Each command showed what it shows in a fresh clone.
    Right {
        /// Whether any lease had something to start from before its first build. Without that, being right
        /// is no merit.
        warm: bool,
    },
    /// The same, but for lines of backtraces that are missing, by a strategy that
    /// [spares debug information](Subject::spares_debug_information).
    Spared,
    /// The same, but some lease got another strategy than the one asked for.
    FallsBack {
        /// The strategy it got.
        to: String,
        /// Why, in the strategy's own words; paths are masked.
        reason: String,
    },
    /// No lease was given, for that reason.
    Refused(String),
    /// Something was not as it must be. Each list is in the order in which it was seen.
    Wrong {
        /// What showed something else than in a fresh clone.
        shown: Vec<String>,
        /// What changed a file of a lease that did nothing at the time, or made a new lease dirty.
        touched: Vec<String>,
    },
    /// The hazard can't be tried on this machine, for that reason.
    Untried(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right { warm: true } => f.write_str("right"),
            Self::Right { warm: false } => f.write_str("right, cold"),
            Self::Spared => f.write_str("right, with shorter backtraces"),
            Self::FallsBack { to, reason } => write!(f, "falls back to {to}: {reason}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Wrong { .. } => f.write_str("**wrong**"),
            Self::Untried(why) => write!(f, "not tried: {why}"),
        }
    }
}

/// One hazard's line of a [`Report`].
#[derive(Clone, Debug)]
pub struct Row {
    /// The hazard's name.
    pub hazard: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What was seen.
    pub verdict: Verdict,
    /// What leases were told about their cache, each once; paths are masked.
    pub reasons: Vec<String>,
    /// How long it took, the fresh clones included if this was the first to need them.
    pub took: Duration,
}

/// What was seen of one strategy: a column of the table.
#[derive(Clone, Debug)]
#[must_use = "a report says nothing until it is asked"]
pub struct Report {
    /// The column's name.
    pub strategy: String,
    /// A line for each hazard that was played, in the order of [`all`].
    pub rows: Vec<Row>,
}

impl Report {
    /// The names of the hazards in which it was wrong.
    pub fn wrong(&self) -> Vec<&'static str> {
        let wrong = self.rows.iter().filter(|row| matches!(row.verdict, Verdict::Wrong { .. }));
        wrong.map(|row| row.hazard).collect()
    }

    /// The names of the hazards in which something showed what it doesn't show in a fresh clone: where it was
    /// wrong for everybody to see.
    pub fn misled(&self) -> Vec<&'static str> {
        let misled = self.rows.iter().filter(
            |row| matches!(&row.verdict, Verdict::Wrong { shown, .. } if !shown.is_empty()),
        );
        misled.map(|row| row.hazard).collect()
    }

    /// Asserts that it was wrong nowhere.
    ///
    /// # Panics
    ///
    /// With all that was wrong.
    pub fn assert_never_wrong(&self) {
        assert!(self.wrong().is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.strategy)?;
        for row in &self.rows {
            writeln!(f, "{:6.1} s  {}: {}", row.took.as_secs_f32(), row.hazard, row.verdict)?;
            for reason in &row.reasons {
                writeln!(f, "    (it says: {reason})")?;
            }
            if let Verdict::Wrong { shown, touched } = &row.verdict {
                for difference in shown {
                    writeln!(f, "    {}", difference.replace('\n', "\n    "))?;
                }
                // Of these, one tends to bring many.
                for change in touched.iter().take(3) {
                    writeln!(f, "    {change}")?;
                }
            }
        }
        Ok(())
    }
}

/// Plays hazards with a strategy, two at a time: those named in `only`, or all of them if it is empty.
///
/// # Panics
///
/// When a name in `only` is no hazard's, or when git or cargo can't be run.
pub fn examine(strategy: &str, open: &Opener, only: &[&str]) -> Report {
    let mut hazards = all();
    for name in only {
        assert!(hazards.iter().any(|h| h.name() == *name), "there is no hazard {name}");
    }
    hazards.retain(|h| only.is_empty() || only.contains(&h.name()));
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(hazard) = hazards.get(index) else { break };
                    let begun = Instant::now();
                    let (verdict, reasons) = play::play(hazard, open);
                    let (name, about, took) = (hazard.name(), hazard.about(), begun.elapsed());
                    let row = Row { hazard: name, about, verdict, reasons, took };
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((index, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(index, _)| *index);
    Report { strategy: strategy.to_owned(), rows: rows.into_iter().map(|(_, row)| row).collect() }
}
