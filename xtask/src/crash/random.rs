//! A busy pool in which anything may be killed at any instant: the program in all its verbs, the agents, and
//! what either of them runs; one alone, one with its parent, or all at once.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Tally;
use super::ground::Ground;
use super::process::{self, Process};
use crate::Result;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// For so long at most nobody is killed, in order that an agent gets to work.
const BREATH: Duration = Duration::from_secs(5);

/// How much, and for how long at most.
pub(super) struct Round {
    pub(super) workers: u32,
    pub(super) kills: u64,
    pub(super) until: Instant,
}

/// Makes the pool busy, and kills; in the end, everybody at once. Returns how many were killed.
pub(super) fn play(ground: &Ground, round: &Round, tally: &Tally, seed: u64) -> u64 {
    let over = AtomicBool::new(false);
    let touched = Mutex::new(HashSet::new());
    let number = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..round.workers {
            let (over, touched, number) = (&over, &touched, &number);
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(worker.into()));
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let n = number.fetch_add(1, Ordering::SeqCst);
                    if let Err(error) = act(ground, &n.to_string(), over, touched, &mut random) {
                        tally.violation(format!("{error} (in {})", ground.root.display()));
                    }
                    tally.acts.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let killed = kill_at_random(ground, round, tally, &touched, seed);
        over.store(true, Ordering::SeqCst);
        killed + kill_all(ground, tally, &touched)
    })
}

fn kill_at_random(
    ground: &Ground,
    round: &Round,
    tally: &Tally,
    touched: &Mutex<HashSet<i32>>,
    seed: u64,
) -> u64 {
    let mut random = fastrand::Rng::with_seed(!seed);
    let home = ground.home();
    let mut killed = 0;
    while killed < round.kills && Instant::now() < round.until {
        std::thread::sleep(Duration::from_millis(random.u64(5..400)));
        if random.u8(0..3) == 0 {
            let_work(ground, round.until.min(Instant::now() + BREATH));
        }
        let all = process::of(&home);
        if all.is_empty() {
            continue;
        }
        // First which kind, so that those of which there are few are killed as well.
        let mut kinds: Vec<&str> = all.iter().map(|process| process.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kind = kinds[random.usize(0..kinds.len())];
        let alike: Vec<&Process> = all.iter().filter(|process| process.kind == kind).collect();
        let victim = alike[random.usize(0..alike.len())].clone();
        let mut victims = vec![victim.clone()];
        match random.u8(0..20) {
            0..3 => victims.extend(all.iter().find(|p| p.pid == victim.parent).cloned()),
            3..6 => victims.extend(all.iter().filter(|p| p.parent == victim.pid).cloned()),
            6 => victims = all.clone(),
            _ => {}
        }
        killed += kill(ground, &victims, &all, tally, touched);
    }
    killed
}

/// Waits until another agent is at work, so that there is something to lose on a slow machine as well.
fn let_work(ground: &Ground, until: Instant) {
    let agents = || ground.logs().read_dir().map_or(0, Iterator::count);
    let before = agents();
    while agents() == before && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Again and again, until no new one has been started by one of those that were still to be killed.
fn kill_all(ground: &Ground, tally: &Tally, touched: &Mutex<HashSet<i32>>) -> u64 {
    let mut killed = 0;
    let mut quiet = 0;
    while quiet < 3 {
        let all = process::of(&ground.home());
        quiet = if all.is_empty() { quiet + 1 } else { 0 };
        killed += kill(ground, &all, &all, tally, touched);
        std::thread::sleep(Duration::from_millis(10));
    }
    killed
}

fn kill(
    ground: &Ground,
    victims: &[Process],
    all: &[Process],
    tally: &Tally,
    touched: &Mutex<HashSet<i32>>,
) -> u64 {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut killed = 0;
    for victim in victims {
        // Before it is felt.
        if let Some(top) = process::top_of(victim, all, own) {
            lock(touched).insert(top);
        }
        if process::kill(victim, &ground.home()) {
            tally.killed(&victim.kind);
            killed += 1;
        }
    }
    killed
}

/// One thing that somebody does with the pool.
fn act(
    ground: &Ground,
    name: &str,
    over: &AtomicBool,
    touched: &Mutex<HashSet<i32>>,
    random: &mut fastrand::Rng,
) -> Result {
    let session = format!("s{}", random.u8(0..3));
    let base = if random.u8(0..3) == 0 { "HEAD~1" } else { "HEAD" };
    let mut args: Vec<OsString> = Vec::new();
    let mut say = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    match random.u8(0..20) {
        0..11 => {
            say(&["run", "--base", base]);
            if random.bool() {
                say(&["--session", &session, "--linger", "0s"]);
            }
            say(&["--"]);
            args.extend(ground.agent(name));
        }
        11..14 => return host(ground, name, over, touched, random),
        14..16 => say(if random.bool() { &["prune", "--all"] } else { &["prune"] }),
        16 => say(&["warm", "1", "--base", base]),
        17 => say(&["end-session", &session]),
        18 => return look(ground),
        _ => say(&["acquire", "--wait", "0s", "--ttl", "1h", "--linger", "0s"]),
    }
    start(ground, name, &args, touched).map(drop)
}

/// A host that leases a worktree, has an agent work in it, and mostly gives it back.
fn host(
    ground: &Ground,
    name: &str,
    over: &AtomicBool,
    touched: &Mutex<HashSet<i32>>,
    random: &mut fastrand::Rng,
) -> Result {
    let lease = format!("host-{name}");
    let args = ["acquire", "--name", &lease, "--wait", "20s"].map(OsString::from);
    let Some(place) = start(ground, name, &args, touched)? else { return Ok(()) };
    let agent = ground.agent(name);
    let mut command = ground.command(&agent[0]);
    command.args(&agent[1..]).current_dir(place.trim()).env("PWD", place.trim());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    wait(&mut command.spawn()?)?;
    // Some are killed themselves before they get to it.
    if over.load(Ordering::SeqCst) || random.u8(0..5) == 0 {
        return Ok(());
    }
    let outcome = if random.bool() { "success" } else { "failure" };
    let args = ["release", &lease, "--outcome", outcome].map(OsString::from);
    start(ground, name, &args, touched).map(drop)
}

/// Starts the program and waits for its end. What it printed; nothing, when it, or something that it
/// started, was killed. Where nothing of it was, it must be successful.
fn start(
    ground: &Ground,
    name: &str,
    args: &[OsString],
    touched: &Mutex<HashSet<i32>>,
) -> Result<Option<String>> {
    let said = ground.root.join("said");
    std::fs::create_dir_all(&said)?;
    let (out, err) = (said.join(format!("{name}.out")), said.join(format!("{name}.err")));
    let mut command = ground.wtpool();
    let mut child =
        command.args(args).stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
    let pid = i32::try_from(child.id())?;
    let success = wait(&mut child)?;
    let was_touched = lock(touched).contains(&pid);
    if success {
        return Ok(Some(std::fs::read_to_string(&out)?));
    }
    let why = std::fs::read_to_string(&err).unwrap_or_default();
    if was_touched || is_no_fault(&why) {
        return Ok(None);
    }
    let verb = args.first().map(|verb| verb.to_string_lossy()).unwrap_or_default();
    let last: Vec<_> = why.lines().rev().take(4).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join(" | ");
    Err(format!("{verb} {name} failed, and nothing of it was killed: {last}").into())
}

/// What may happen to somebody of whom nothing was killed: that others use all slots, end the session or the
/// lease, or that a git that was killed elsewhere has left a lock.
fn is_no_fault(why: &str) -> bool {
    ["slots are in use", "session", "no lease or slot", ".lock"].iter().any(|s| why.contains(s))
}

fn wait(child: &mut Child) -> Result<bool> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("hung for {} s and was killed", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// At any instant there are no more leases than the cap allows, and no two of one slot, place or branch.
fn look(ground: &Ground) -> Result {
    let mut command = ground.wtpool();
    let output = command.args(["--json", "list"]).output()?;
    if !output.status.success() {
        // It was killed.
        return Ok(());
    }
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let slots = listed["slots"].as_array().ok_or("list --json has no slots")?;
    if slots.len() > ground.cap as usize {
        return Err(format!("{} slots, the cap is {}", slots.len(), ground.cap).into());
    }
    let mut seen = HashSet::new();
    for slot in slots.iter().filter(|slot| slot["state"] == "leased") {
        let lease = &slot["lease"];
        for what in [&slot["slot"], &slot["path"], &lease["branch"], &lease["lease"]] {
            if !what.is_null() && !seen.insert(what.to_string()) {
                return Err(format!("two leases at once of {what}: {listed}").into());
            }
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes sure that nothing of a ground runs any more, whatever became of it.
pub(super) fn end(home: &Path) {
    for _ in 0..100 {
        let all = process::of(home);
        if all.is_empty() {
            return;
        }
        for process in &all {
            process::kill(process, home);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
