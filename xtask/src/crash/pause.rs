//! Stops a real `wtpool` process between two looks, or between a look and the change that acts on it, while others work
//! on the same pool. Then it goes on, and no live lease may have ended, and no worktree in use may be gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use clap::Args;

use super::ground::{Ground, checked};
use super::points::{self, Reached};
use super::{lock, random};
use crate::{Result, steps};

/// How much of it.
#[derive(Args)]
pub(crate) struct Options {
    /// Stop only where the name has this in it.
    #[arg(long, value_name = "NAME")]
    point: Option<String>,
    /// Have others do all of their work in one pause, not each in one of its own.
    #[arg(long)]
    brief: bool,
    /// Stop at each step that changes something as well, of those that these acts get to.
    #[arg(long)]
    steps: bool,
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
        Self { point: None, brief: true, steps: false, jobs: 3, program: None }
    }
}

/// For how long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a stopped process may keep others waiting, where it holds a lock. Then it goes on.
const HELD_UP: Duration = Duration::from_secs(10);

/// What the process does that is stopped: its arguments.
const ACTS: [&[&str]; 6] = [
    &["prune"],
    &["prune", "--all"],
    &["release", "own", "--linger", "0s"],
    &["acquire", "--name", "late", "--ttl", "2h"],
    &["end-session", "ending"],
    &["release", "held"],
];

/// Something that others do, and what it is called.
type Work = (&'static str, fn(&mut Scene) -> Result);

/// What others do meanwhile.
const WORKS: [Work; 8] = [
    ("acquire", |scene| scene.acquire("victim")),
    ("reuse of a slot", |scene| {
        scene.end("keeper")?;
        scene.acquire("second")?;
        scene.acquire("third")
    }),
    ("renew", |scene| {
        drop(scene.wtpool(&["renew", "gone"]));
        scene.wtpool(&["renew", "other"]).map(drop)
    }),
    ("prune", |scene| {
        scene.wtpool(&["prune"])?;
        scene.acquire("after-prune")
    }),
    ("prune --all", |scene| {
        scene.wtpool(&["prune", "--all"])?;
        scene.acquire("after-all")
    }),
    ("quarantine", |scene| {
        let place = scene.leased("occupied")?;
        let mut stands = Command::new("sleep").arg("100").current_dir(&place).spawn()?;
        let released = scene.wtpool(&["release", "occupied", "--linger", "0s"]);
        stands.kill()?;
        stands.wait()?;
        released.map(drop)
    }),
    ("rescue", |scene| {
        let place = scene.leased("dirty")?;
        fs::write(place.join("dirt"), "not committed\n")?;
        scene.wtpool(&["release", "dirty", "--linger", "0s"])?;
        scene.acquire("clean")
    }),
    ("end-session", |scene| {
        drop(scene.wtpool(&["end-session", "ending"]));
        scene.acquire("after-session")
    }),
];

/// A pool with leases that must go on, and others that are over.
struct Scene {
    ground: Ground,
    /// The names of the leases that must go on, and where they are.
    live: Vec<(String, PathBuf)>,
    children: Vec<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
        random::end(&self.ground.home());
    }
}

impl Scene {
    fn new(wtpool: &Path, root: &Path) -> Result<Self> {
        let ground = Ground::new(wtpool, root, 40, "private")?;
        let mut scene = Self { ground, live: Vec::new(), children: Vec::new() };
        for name in ["keeper", "other"] {
            scene.acquire(name)?;
        }
        let gone = scene.leased("gone")?;
        scene.leased("own")?;
        scene.wtpool(&["acquire", "--name", "in-session", "--session", "ending"])?;
        let mut owner = Command::new("sleep").arg("1000").spawn()?;
        let pid = owner.id().to_string();
        scene.wtpool(&["acquire", "--name", "owned", "--owner-pid", &pid, "--linger", "0s"])?;
        let mut held = scene.ground.wtpool();
        let held = held.args(["run", "--name", "held", "--", "sleep", "1000"]);
        scene.children.push(held.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        scene.until("a lease that is held", |scene| Ok(scene.states()?.contains("held leased")))?;
        let place = scene.place_of("held")?;
        scene.live.push(("held".to_owned(), place));
        // The reaper has looked once, and looks no more for an hour.
        owner.kill()?;
        owner.wait()?;
        fs::remove_dir_all(gone)?;
        // What the pool has no record of is taken in.
        fs::create_dir_all(scene.stranger())?;
        Ok(scene)
    }

    /// A directory in the place of a slot that the pool did not make.
    fn stranger(&self) -> PathBuf {
        self.ground.place(90)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.ground.wtpool();
        command.args(args).env("WTPOOL_REAP_INTERVAL", "1h");
        command
    }

    fn wtpool(&self, args: &[&str]) -> Result<String> {
        Ok(checked(&mut self.command(args))?.trim().to_owned())
    }

    /// Takes a lease, and says where it is.
    fn leased(&self, name: &str) -> Result<PathBuf> {
        Ok(self.wtpool(&["acquire", "--name", name, "--ttl", "2h"])?.into())
    }

    /// Takes a lease that must go on.
    fn acquire(&mut self, name: &str) -> Result {
        let place = self.leased(name)?;
        self.goes_on(name, place)
    }

    fn goes_on(&mut self, name: &str, place: PathBuf) -> Result {
        fs::write(place.join("mark"), name)?;
        self.live.push((name.to_owned(), place));
        Ok(())
    }

    /// Gives one of those back.
    fn end(&mut self, name: &str) -> Result {
        self.live.retain(|(live, _)| live != name);
        self.wtpool(&["release", name, "--linger", "0s"]).map(drop)
    }

    /// The name and state of each slot, a line each.
    fn states(&self) -> Result<String> {
        let listed: serde_json::Value = serde_json::from_str(&self.wtpool(&["list", "--json"])?)?;
        let slots = listed["slots"].as_array().ok_or("there is no list of slots")?;
        let line = |slot: &serde_json::Value| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            format!("{} {}\n", text(&slot["lease"]["name"]), text(&slot["state"]))
        };
        Ok(slots.iter().map(line).collect())
    }

    fn place_of(&self, name: &str) -> Result<PathBuf> {
        let shown: serde_json::Value =
            serde_json::from_str(&self.wtpool(&["show", name, "--json"])?)?;
        Ok(shown["path"].as_str().ok_or("it has no path")?.into())
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result {
        let begun = Instant::now();
        while !holds(self)? {
            if begun.elapsed() > PATIENCE {
                return Err(format!("in vain waited for {what}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Each lease that must go on is in place, with what was written there.
    fn audit(&self) -> Result {
        let states = self.states()?;
        for (name, place) in &self.live {
            if !states.lines().any(|line| line == format!("{name} leased")) {
                let events = self.wtpool(&["events"]).unwrap_or_default();
                return Err(format!("the lease {name} ended: {states}{events}").into());
            }
            if !place.join("tracked-1.txt").exists() {
                return Err(format!("the worktree of {name} is gone: {}", place.display()).into());
            }
            let mark = fs::read_to_string(place.join("mark")).unwrap_or_default();
            if name != "held" && mark != *name {
                return Err(format!("the work of {name} is gone: {mark:?}").into());
            }
        }
        self.ground.git(["fsck", "--no-dangling", "--no-progress"]).map(drop)
    }

    /// All can be given back, and then nothing is left.
    fn clear(&mut self) -> Result {
        for child in &mut self.children {
            child.kill()?;
            child.wait()?;
        }
        for (name, _) in self.live.clone() {
            if name != "held" {
                self.end(&name)?;
            }
        }
        for name in ["own", "in-session"] {
            // It may be over already.
            drop(self.wtpool(&["release", name, "--linger", "0s"]));
        }
        if !self.stranger().is_dir() {
            return Err("what a stranger made is gone".into());
        }
        fs::remove_dir_all(self.stranger())?;
        // What `run` has left behind.
        random::end(&self.ground.home());
        self.until("an empty pool", |scene| {
            scene.wtpool(&["prune", "--all"])?;
            Ok(scene.states()?.is_empty())
        })
    }
}

/// What happened.
#[derive(Default)]
struct Tally {
    pauses: AtomicUsize,
    violations: Mutex<Vec<String>>,
}

/// Runs it.
///
/// # Errors
///
/// When a lease ended early, work was lost, or a place was never reached; the message says what, and where it is left.
pub(crate) fn run(options: &Options) -> Result {
    let begun = Instant::now();
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Failpoints)?,
    };
    let dir = tempfile::Builder::new().prefix("wtpool-pause-").disable_cleanup(true).tempdir()?;
    eprintln!("\n== pause: in {}", dir.path().display());
    let own = dir.path().join("wtpool");
    fs::copy(wtpool, &own)?;
    let must_be_reached = points::between_looks()?;
    let mut places = must_be_reached.clone();
    if options.steps {
        places.extend(points::all()?);
    }
    let names = dir.path().join("points");
    fs::write(&names, Vec::from_iter(places.iter().map(String::as_str)).join("\n"))?;

    let tally = Tally::default();
    let reached: Mutex<BTreeSet<(usize, String)>> = Mutex::default();
    let root = |name: &str| -> Result<PathBuf> {
        let root = dir.path().join(name);
        fs::create_dir(&root)?;
        Ok(root)
    };
    // Which acts get to which places.
    each(options.jobs, &Vec::from_iter(0..ACTS.len()), &tally, |act| {
        let root = root(&format!("act-{act}"))?;
        let scene = Scene::new(&own, &root)?;
        let log = root.join("reached");
        let mut command = scene.command(ACTS[*act]);
        drop(command.env("FAIL_POINTS", &names).env("FAIL_LOG", &log).output()?);
        let hits = Reached::read(&log).hits.into_keys().map(|name| (*act, name));
        lock(&reached).extend(hits);
        drop(scene);
        Ok(fs::remove_dir_all(root)?)
    });
    let reached = reached.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for place in &must_be_reached {
        if !reached.iter().any(|(_, name)| name == place) {
            lock(&tally.violations).push(format!("no act gets to {place}"));
        }
    }
    let mut cases = Vec::new();
    for (act, place) in &reached {
        if options.point.as_ref().is_some_and(|wanted| !place.contains(wanted)) {
            continue;
        }
        match options.brief {
            // One act for each place.
            true if cases.iter().any(|(_, _, done, _): &(usize, &str, _, _)| *done == place) => {}
            true => cases.push((*act, "all of it", place, &WORKS[..])),
            false => cases
                .extend(WORKS.iter().map(|work| (*act, work.0, place, std::slice::from_ref(work)))),
        }
    }
    let number = AtomicUsize::new(0);
    each(options.jobs, &cases, &tally, |(act, what, place, works)| {
        let root = root(&format!("case-{}", number.fetch_add(1, Ordering::SeqCst)))?;
        match pause(&own, &root, *act, place, works) {
            Ok(stopped) => {
                tally.pauses.fetch_add(usize::from(stopped), Ordering::SeqCst);
                Ok(fs::remove_dir_all(root)?)
            }
            Err(error) => Err(format!(
                "`wtpool {}` stopped at {place}, meanwhile {what}: {error}; see {}",
                ACTS[*act].join(" "),
                root.display()
            )
            .into()),
        }
    });
    let violations = lock(&tally.violations);
    println!(
        "pause: {} pauses at {} places, {} of them between two looks, {} violations; {} s",
        tally.pauses.load(Ordering::SeqCst),
        BTreeSet::from_iter(cases.iter().map(|(_, _, place, _)| place)).len(),
        must_be_reached.len(),
        violations.len(),
        begun.elapsed().as_secs()
    );
    match violations.first() {
        None if tally.pauses.load(Ordering::SeqCst) == 0 => Err("nothing was tried".into()),
        None => Ok(fs::remove_dir_all(dir.path())?),
        Some(first) => Err(format!("{} violations, the first: {first}", violations.len()).into()),
    }
}

/// One case. Whether the process got to that place.
fn pause(wtpool: &Path, root: &Path, act: usize, place: &str, works: &[Work]) -> Result<bool> {
    let mut scene = Scene::new(wtpool, root)?;
    let gate = root.join("gate");
    fs::create_dir(&gate)?;
    let mut command = scene.command(ACTS[act]);
    command.env("FAIL_PAUSE", place).env("FAIL_GATE", &gate).process_group(0);
    let mut late = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let begun = Instant::now();
    let stopped = loop {
        if gate.join("stopped").exists() {
            break true;
        }
        if late.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
            break false;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let go_on = || fs::write(gate.join("go-on"), "");
    let (done, is_done) = mpsc::channel::<()>();
    let (worked, went_on) = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let done = done;
            works.iter().filter(|_| stopped).try_for_each(|(what, work)| {
                work(&mut scene).map_err(|error| format!("{what}: {error}"))?;
                done.send(()).map_err(|error| error.to_string())
            })
        });
        // Until all are done, or one waits for a lock of the stopped process.
        while is_done.recv_timeout(HELD_UP).is_ok() {}
        let went_on = go_on();
        // So that no work fails to say that it is done.
        is_done.iter().for_each(drop);
        (work.join().unwrap_or_else(|_| Err("the work panicked".to_owned())), went_on)
    });
    went_on?;
    let output = late.wait_with_output()?;
    worked?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if ACTS[act][0] == "acquire" {
        if !output.status.success() {
            return Err(format!("it was given no lease: {}", output.status).into());
        }
        scene.goes_on("late", printed.into())?;
    }
    scene.audit()?;
    scene.wtpool(&["prune"])?;
    scene.audit()?;
    scene.clear()?;
    Ok(stopped)
}

/// Does `work` with each of `all`, several at a time.
fn each<T: Sync>(jobs: u32, all: &[T], tally: &Tally, work: impl Fn(&T) -> Result + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(error) = work(one) {
                        eprintln!("violation: {error}");
                        lock(&tally.violations).push(error.to_string());
                    }
                }
            });
        }
    });
}
