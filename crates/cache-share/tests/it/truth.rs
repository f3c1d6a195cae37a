//! The truth table of `testkit`, for each strategy, and for two that are wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cache_share::{Lean, Private, Sccache, Seeded, Setup, SharedTarget};
use pool_core::{CacheStrategy, CommitId, LeaseGuard, Pool, PruneOptions, Release, Request, Wish};
use testkit::truth::control::{NaiveSeed, NaiveShared};
use testkit::truth::{self, Hazard, Pooled, Report, Subject, Verdict};

use crate::support::{self, isolator, over};

/// The table that users read.
fn table() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/TRUTH.md"))
}

fn pool(repo: &Path, pool_dir: &Path, cache: Arc<dyn CacheStrategy>) -> Pool {
    over(isolator(repo, pool_dir), cache)
}

/// A column of all hazards is a minute or two of two processors. Each ordinary run plays all of them with the
/// strategy that is the default; of each other column, it plays every fourth hazard, another fourth for each.
const PART: usize = 4;

/// Plays these hazards, or all if it is none. `part` is the part of them that an ordinary run plays, if it
/// does not play all. `WTPOOL_TRUTH` plays others: those that it names, separated by commas, or `all`.
fn examine(strategy: &str, open: &truth::Opener, only: &[&str], part: Option<usize>) -> Report {
    let all: Vec<&str> = truth::all().iter().map(Hazard::name).collect();
    let wanted = std::env::var("WTPOOL_TRUTH").ok();
    let wanted: Option<Vec<&str>> = wanted.as_deref().map(|names| names.split(',').collect());
    let plays = |(index, name): &(usize, &str)| match (&wanted, part) {
        (Some(wanted), _) => wanted == &["all"] || wanted.contains(name),
        (None, Some(part)) => index % PART == part,
        (None, None) => true,
    };
    if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != ["all"]) {
        let known = wanted.iter().all(|name| all.contains(name));
        assert!(known, "WTPOOL_TRUTH names a hazard that there is not");
    }
    let candidates = all.iter().copied().filter(|name| only.is_empty() || only.contains(name));
    let played: Vec<&str> = candidates.enumerate().filter(plays).map(|(_, name)| name).collect();
    if played.is_empty() {
        return Report { strategy: strategy.to_owned(), rows: Vec::new() };
    }
    truth::examine(strategy, open, &played)
}

#[test]
fn private_is_right() {
    let open: &truth::Opener = &|_, repo, pool_dir| {
        Box::new(Pooled::new(Private::NAME, pool(repo, pool_dir, Arc::new(Private::new()))))
    };
    let report = examine(Private::NAME, open, &[], Some(0));
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

/// Builds what the hazard's script builds; with `WTPOOL_TRUTH=all`, all that can be built.
fn warm_command(hazard: &Hazard) -> String {
    let everything = std::env::var("WTPOOL_TRUTH").is_ok_and(|wanted| wanted == "all");
    let also = [
        ("check", "cargo check --workspace --all-targets"),
        ("clippy", "cargo clippy --workspace"),
        ("--release", "cargo build --workspace --release"),
        ("doc", "cargo doc --no-deps"),
    ];
    let also = also.into_iter().filter(|(word, _)| everything || hazard.runs(word));
    let commands = also.map(|(_, command)| command);
    let build = ["cargo build --workspace --all-targets"];
    build.into_iter().chain(commands).collect::<Vec<_>>().join("; ")
}

/// A pool that starts from a base of what can be built.
#[derive(Debug)]
struct Based {
    pool: Pool,
    lean: Lean,
    /// While it is there, all build lean, if that is up to the pool.
    flag: PathBuf,
}

impl Based {
    fn new(hazard: &Hazard, repo: &Path, pool_dir: &Path, lean: Lean) -> Self {
        let pool = support::seeded(repo, pool_dir, |setup| {
            setup.warm_command = Some(warm_command(hazard));
            setup.lean = lean;
        });
        Self { pool, lean, flag: pool_dir.join("cache/lean") }
    }
}

#[async_trait]
impl Subject for Based {
    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn strategy(&self) -> &str {
        Seeded::NAME
    }

    async fn warm(&self, commit: &CommitId) -> Result<(), String> {
        let base = Some(commit.as_str().to_owned());
        // Where there can be none, leases begin cold, which the table says.
        drop(self.pool.prepare_cache(base, None, &|_| ()).await);
        Ok(())
    }

    fn spares_debug_information(&self) -> bool {
        self.lean != Lean::Never
    }

    /// In an order by which each of two leases that build by turns builds both ways, one after the other and
    /// the other way round.
    fn before(&self, command: usize) {
        if self.lean != Lean::Auto {
            return;
        }
        let changed = match command.count_ones() % 2 {
            1 => std::fs::write(&self.flag, ""),
            _ => match std::fs::remove_file(&self.flag) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        };
        changed.expect("the pool's directory can be written to");
    }

    /// What a slot gets once more is another matter than what a new one gets.
    fn rounds(&self) -> u32 {
        2
    }
}

#[test]
fn seeded_is_right() {
    let open: &truth::Opener =
        &|hazard, repo, pool_dir| Box::new(Based::new(hazard, repo, pool_dir, Lean::Never));
    let report = examine(Seeded::NAME, open, &[], None);
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

/// The hazards in which it may matter whether there is incremental state, debug information, or a symbol. A column
/// of all of them takes minutes of processor time.
const LEAN: [&str; 22] = [
    "edit-after-warm-up",
    "at-the-same-time",
    "clippy",
    "test",
    "doctest",
    "manifest-dir",
    "bin-exe",
    "locations",
    "backtrace",
    "test-backtrace",
    "baked-into-a-file",
    "in-place",
    "script-profile",
    "compiler-probe",
    "objects",
    "macro-tracked",
    "macro-whereabouts",
    "release",
    "profile",
    "branch-switch",
    "used-slot",
    "back-again",
];

/// [`LEAN`], as far as there are such hazards on this platform.
fn lean_hazards() -> Vec<&'static str> {
    truth::all().iter().map(Hazard::name).filter(|name| LEAN.contains(name)).collect()
}

#[test]
fn seeded_and_lean_is_right() {
    let open: &truth::Opener =
        &|hazard, repo, pool_dir| Box::new(Based::new(hazard, repo, pool_dir, Lean::Always));
    let report = examine("seeded, lean", open, &lean_hazards(), Some(1));
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

/// As it is when others come and go, while one works.
#[test]
fn seeded_and_lean_by_turns_is_right() {
    let open: &truth::Opener =
        &|hazard, repo, pool_dir| Box::new(Based::new(hazard, repo, pool_dir, Lean::Auto));
    let report = examine("seeded, lean by turns", open, &lean_hazards(), Some(3));
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

#[test]
fn shared_target_is_right() {
    let open: &truth::Opener = &|_, repo, pool_dir| {
        let isolator = isolator(repo, pool_dir);
        let setup = Setup {
            wrapper: Some(env!("CARGO_BIN_EXE_wtpool-rustc").into()),
            ..Setup::new(pool_dir, isolator.clone())
        };
        let pool = over(isolator, Arc::new(SharedTarget::new(setup)));
        Box::new(Pooled::new(SharedTarget::NAME, pool))
    };
    let report = examine(SharedTarget::NAME, open, &[], Some(1));
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

/// A pool with a cache of compilations, in which everything was built once.
#[derive(Debug)]
struct Cached {
    pool: Pool,
    /// Held, so that the first leases get other places.
    first: Mutex<Option<LeaseGuard>>,
}

impl Cached {
    fn new(repo: &Path, pool_dir: &Path, program: &Path) -> Self {
        let isolator = isolator(repo, pool_dir);
        let setup = Setup {
            wrapper: Some(env!("CARGO_BIN_EXE_wtpool-rustc").into()),
            ..Setup::new(pool_dir, isolator.clone())
        };
        let cache = Sccache::new(setup, Some(program.to_owned()), BTreeMap::new());
        Self { pool: over(isolator, Arc::new(cache)), first: Mutex::default() }
    }
}

#[async_trait]
impl Subject for Cached {
    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn strategy(&self) -> &str {
        Sccache::NAME
    }

    async fn warm(&self, commit: &CommitId) -> Result<(), String> {
        let wish = Wish { base: Some(commit.as_str().to_owned()), ..Wish::default() };
        let lease = self.pool.acquire(Request { wish, ..Request::new("first") }).await;
        let lease = lease.map_err(|e| e.to_string())?;
        build_all(&lease)?;
        *self.first.lock().expect("nothing panics here") = Some(lease);
        Ok(())
    }
}

impl Drop for Cached {
    /// The server ends with the slots. The game's own runtime is gone by now.
    fn drop(&mut self) {
        let first = self.first.lock().expect("nothing panics here").take();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            if let Some(lease) = first {
                drop(lease.release(Release::default()).await);
            }
            let options = PruneOptions { all: true, ..PruneOptions::default() };
            self.pool.prune(options, &|_| ()).await.expect("the pool can be pruned");
        });
    }
}

#[test]
fn sccache_is_right() {
    let Some(program) = crate::sccache::program() else { return };
    let pools = Arc::new(Mutex::new(Vec::new()));
    let made = pools.clone();
    let open = move |_: &Hazard, repo: &Path, pool_dir: &Path| -> Box<dyn Subject> {
        made.lock().expect("nothing panics here").push(pool_dir.to_owned());
        Box::new(Cached::new(repo, pool_dir, &program))
    };
    let report = examine(Sccache::NAME, &open, &[], Some(2));
    for pool_dir in &*pools.lock().expect("nothing panics here") {
        crate::sccache::wait_for_server(pool_dir);
    }
    report.assert_never_wrong();
    truth::assert_in_step(table(), &report);
}

/// The hazards that were played and in which nothing wrong was shown.
fn missed(report: &Report) -> Vec<&'static str> {
    let misled = report.misled();
    let played = report.rows.iter().map(|row| row.hazard);
    played.filter(|hazard| !misled.contains(hazard)).collect()
}

/// What everybody writes first. A hazard that it survives is no hazard, unless another control fails in it.
#[test]
fn a_shared_target_is_seen_to_be_wrong() {
    let open: &truth::Opener = &|_, repo, pool_dir| {
        let cache = NaiveShared::new(pool_dir.join("shared-target"));
        Box::new(Pooled::new(NaiveShared::NAME, pool(repo, pool_dir, Arc::new(cache))))
    };
    let report = examine(NaiveShared::NAME, open, &[], Some(3));
    // These are below.
    let others = [
        "dot-env",
        "own-wrapper",
        "back-again",
        "left-object",
        "left-ignored-file",
        "left-fixture",
        "left-edit",
        "left-dot-env",
        "left-variable",
        "left-state",
        "left-tmpdir",
    ];
    let missed: Vec<_> = missed(&report).into_iter().filter(|h| !others.contains(h)).collect();
    assert_eq!(missed, Vec::<&str>::new(), "{report}");
}

/// Telling the members apart is better, and still wrong in what is no member, and in what is not compiled.
#[cfg(unix)]
#[test]
fn a_wrapper_per_slot_is_seen_to_be_wrong() {
    use testkit::truth::control::NaiveWrapper;

    let open: &truth::Opener = &|_, repo, pool_dir| {
        let cache = NaiveWrapper::new(pool_dir.join("cache"));
        Box::new(Pooled::new(NaiveWrapper::NAME, pool(repo, pool_dir, Arc::new(cache))))
    };
    let hazards = [
        "excluded-path-dependency",
        "excluded-build-script",
        "clippy",
        "two-workspaces",
        "target-tmpdir",
        "own-wrapper",
        "target-dir-above",
    ];
    let report = examine(NaiveWrapper::NAME, open, &hazards, None);
    assert_eq!(missed(&report), Vec::<&str>::new(), "{report}");
}

/// Cloning a target with all that is in it, by links, is wrong in ways of its own.
#[test]
fn a_linked_target_is_seen_to_be_wrong() {
    let hazards = [
        "old-dates",
        "attributes",
        "bin-exe",
        "dot-env",
        "git-head",
        "absolute-rerun-if",
        "in-place",
        "linker-in-place",
        "macro-untracked",
        "back-again",
        "left-object",
        "left-ignored-file",
        "left-fixture",
        "left-edit",
        "left-dot-env",
        "left-variable",
        "left-state",
        "left-tmpdir",
    ];
    let open: &truth::Opener = &|_, repo, pool_dir| Box::new(Linked::new(repo, pool_dir));
    let report = examine(NaiveSeed::NAME, open, &hazards, None);
    assert_eq!(missed(&report), Vec::<&str>::new(), "{report}");
    let in_place = report.rows.iter().find(|row| row.hazard == "in-place");
    if let Some(Verdict::Wrong { touched, .. }) = in_place.map(|row| &row.verdict) {
        assert!(!touched.is_empty(), "what is written through a link was not noticed: {report}");
    }
}

/// A pool with [`NaiveSeed`], whose donor is a lease that was built.
#[derive(Debug)]
struct Linked {
    pool: Pool,
    cache: Arc<NaiveSeed>,
    donor: Mutex<Option<LeaseGuard>>,
}

impl Linked {
    fn new(repo: &Path, pool_dir: &Path) -> Self {
        let cache = Arc::new(NaiveSeed::new());
        Self { pool: pool(repo, pool_dir, cache.clone()), cache, donor: Mutex::default() }
    }
}

#[async_trait]
impl Subject for Linked {
    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn strategy(&self) -> &str {
        NaiveSeed::NAME
    }

    async fn warm(&self, commit: &CommitId) -> Result<(), String> {
        let wish = Wish { base: Some(commit.as_str().to_owned()), ..Wish::default() };
        let lease = self.pool.acquire(Request { wish, ..Request::new("donor") }).await;
        let lease = lease.map_err(|e| e.to_string())?;
        build_all(&lease)?;
        self.cache.set_donor(lease.path());
        *self.donor.lock().expect("nothing panics here") = Some(lease);
        Ok(())
    }
}

/// Builds what is committed, in all the ways in which the hazards do.
fn build_all(lease: &LeaseGuard) -> Result<(), String> {
    drop(std::fs::remove_file(lease.path().join(".env")));
    for args in ["build --all-targets", "clippy", "doc --no-deps"] {
        let mut cargo = truth::cargo(&lease.path(), &lease.lease().attachment.env);
        let built = cargo.args(args.split(' ')).output().map_err(|e| e.to_string())?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
    }
    Ok(())
}
