//! Lives of a pool, short ones, that between them reach every step. One process of each is killed at one
//! step; what comes after it is left undone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::audit::Expected;
use super::ground::Ground;
use super::points::Reached;
use super::process;
use crate::Result;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of them.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) cap: u32,
    pub(super) cache: &'static str,
    pub(super) expected: Expected,
    play: fn(&Play<'_>) -> Result,
}

/// What happened.
pub(super) enum Ended {
    Whole,
    /// A process was killed at the step, or, as that process was needed, right after it.
    Killed,
}

impl Scenario {
    /// Plays it on a ground of its own. The processes write to `log` which steps they reach; `kill` says
    /// where one of them is killed, at which time it gets there.
    pub(super) fn play(
        &self,
        ground: &Ground,
        points: &Path,
        log: &Path,
        kill: Option<(&str, u32)>,
    ) -> Result<Ended> {
        let kill = kill.map(|(step, hit)| format!("{step}={hit}"));
        let play = Play { ground, points, log, kill };
        match (self.play)(&play) {
            Err(error) if !play.was_killed() => Err(format!("{}: {error}", self.name).into()),
            // A reaper gets to the step later than all others do, and must not be killed in the middle of the audit.
            _ if play.kill.is_some() => {
                wait_for_agents(ground)?;
                Ok(if play.was_killed() { Ended::Killed } else { Ended::Whole })
            }
            _ => Ok(Ended::Whole),
        }
    }
}

/// Those who outlive a killed `wtpool` hold its lease until they are done. The reaper stays for longer.
pub(super) fn wait_for_agents(ground: &Ground) -> Result {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let all = process::of(&ground.home());
        if all.iter().all(|process| process.kind == "wtpool reaper") {
            for reaper in all {
                process::kill(&reaper, &ground.home());
            }
            if process::of(&ground.home()).is_empty() {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("these do not end: {:?}", process::of(&ground.home())).into())
}

/// One that is being played.
struct Play<'a> {
    ground: &'a Ground,
    points: &'a Path,
    log: &'a Path,
    kill: Option<String>,
}

impl Play<'_> {
    fn was_killed(&self) -> bool {
        Reached::read(self.log).killed > 0
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.ground.wtpool();
        command.args(args).env("FAIL_POINTS", self.points).env("FAIL_LOG", self.log);
        if let Some(kill) = &self.kill {
            command.env("FAIL_KILL", kill);
        }
        command
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        let output = self.command(args).output()?;
        // Where a process in the background was killed, what is in front may well go on; we need not.
        if self.was_killed() {
            return Err("killed".into());
        }
        Ok(output)
    }

    /// Runs the program, which must do what it is told.
    fn wtpool(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(format!("{args:?}: {}: {said}", output.status).into()),
        }
    }

    /// Runs the program, which must fail with that status.
    fn refused(&self, args: &[&str], status: i32) -> Result {
        let output = self.output(args)?;
        match output.status.code() {
            Some(code) if code == status => Ok(()),
            _ => Err(format!("{args:?}: {}, not {status}", output.status).into()),
        }
    }

    /// `wtpool run` with an agent.
    fn run(&self, options: &[&str], agent: &str) -> Result {
        let mut command = self.command(&["run"]);
        let output = command.args(options).arg("--").args(self.ground.agent(agent)).output()?;
        match output.status.success() && !self.was_killed() {
            true => Ok(()),
            false => Err(format!(
                "run {agent}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
            .into()),
        }
    }

    /// An agent in a worktree that was leased for it.
    fn work(&self, place: &str, agent: &str) -> Result {
        let args = self.ground.agent(agent);
        let mut command = self.ground.command(&args[0]);
        let output = command.args(&args[1..]).current_dir(place).env("PWD", place).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{agent}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    /// A process in that directory that does nothing, for ever.
    fn idler(&self, dir: &Path) -> Result<Child> {
        let mut command = self.ground.command("sleep");
        Ok(command.arg("1000").current_dir(dir).stdout(Stdio::null()).spawn()?)
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result {
        let begun = Instant::now();
        while !holds()? {
            if self.was_killed() {
                return Err("killed".into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("in vain waited for {what}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn pool_file(&self, name: &str) -> PathBuf {
        self.ground.pool().join(name)
    }
}

/// Ends it when it goes out of sight.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const PLAIN: Scenario = Scenario {
    name: "",
    cap: 3,
    cache: "private",
    expected: Expected { locks: false, damaged: false, restored: false },
    play: run,
};

/// All of them.
pub(super) const ALL: [Scenario; 17] = [
    Scenario { name: "run", ..PLAIN },
    Scenario { name: "session", play: session, ..PLAIN },
    Scenario { name: "lingering", cap: 1, play: lingering, ..PLAIN },
    Scenario { name: "acquire", play: acquire, ..PLAIN },
    Scenario { name: "warm", play: warm, ..PLAIN },
    Scenario { name: "seeded", cache: "seeded", play: seeded, ..PLAIN },
    Scenario { name: "condemned", cache: "seeded", play: condemned, ..PLAIN },
    Scenario { name: "shared-target", cache: "shared-target", play: shared_target, ..PLAIN },
    Scenario { name: "reaper", play: reaper, ..PLAIN },
    Scenario { name: "queue", cap: 1, play: queue, ..PLAIN },
    Scenario { name: "refused", play: refused, ..PLAIN },
    Scenario { name: "resumed", play: resumed, ..PLAIN },
    Scenario { name: "occupied", play: occupied, ..PLAIN },
    Scenario { name: "moved", play: moved, ..PLAIN },
    Scenario {
        name: "restore",
        play: restore,
        expected: Expected { restored: true, ..PLAIN.expected },
        ..PLAIN
    },
    Scenario {
        name: "damaged",
        play: damaged,
        expected: Expected { damaged: true, ..PLAIN.expected },
        ..PLAIN
    },
    Scenario {
        name: "unrecorded",
        play: unrecorded,
        expected: Expected { damaged: true, ..PLAIN.expected },
        ..PLAIN
    },
];

fn run(play: &Play<'_>) -> Result {
    play.run(&[], "one")
}

/// A slot that is used again, at another commit.
fn session(play: &Play<'_>) -> Result {
    play.run(&["--session", "s", "--linger", "0s"], "one")?;
    play.run(&["--session", "s", "--linger", "0s", "--base", "HEAD~1"], "two")?;
    play.wtpool(&["end-session", "s"]).map(drop)
}

/// A slot that is kept for inspection, and yields.
fn lingering(play: &Play<'_>) -> Result {
    play.run(&["--linger", "1h"], "one")?;
    play.run(&["--linger", "1h"], "two")?;
    play.wtpool(&["prune", "--all"]).map(drop)
}

fn acquire(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    play.wtpool(&["release", "a", "--outcome", "failure", "--linger", "1h"])?;
    play.wtpool(&["acquire", "--name", "b", "--detach"])?;
    play.wtpool(&["acquire", "--name", "c", "--branch", "wtpool/own"])?;
    play.wtpool(&["release", "b"])?;
    play.wtpool(&["prune", "--all"]).map(drop)
}

fn warm(play: &Play<'_>) -> Result {
    play.wtpool(&["warm", "2"])?;
    play.run(&["--base", "HEAD~1"], "one")?;
    play.wtpool(&["prune", "--all"]).map(drop)
}

/// Builds a base, seeds from it, uses a seeded slot again at another commit.
fn seeded(play: &Play<'_>) -> Result {
    play.wtpool(&["warm", "1"])?;
    play.run(&["--session", "s"], "one")?;
    play.run(&["--session", "s", "--base", "HEAD~1"], "two")?;
    play.wtpool(&["acquire", "--name", "a"])?;
    play.wtpool(&["release", "a"])?;
    play.wtpool(&["end-session", "s"])?;
    play.wtpool(&["prune", "--all"])?;
    play.wtpool(&["cache", "trim"]).map(drop)
}

/// A base that is damaged, one whose build comes to nothing, and one that takes their place.
fn condemned(play: &Play<'_>) -> Result {
    play.wtpool(&["warm", "0"])?;
    std::fs::remove_dir_all(play.pool_file("cache/base/1/tree/target"))?;
    play.run(&["--linger", "0s"], "one")?;
    let mut fails = play.command(&["warm", "0"]);
    let output = fails.env("WTPOOL_CACHE__WARM_COMMAND", "exit 3").output()?;
    if play.was_killed() {
        return Err("killed".into());
    }
    if output.status.code() != Some(1) {
        return Err(format!("a failing command: {}, not 1", output.status).into());
    }
    play.wtpool(&["warm", "0"])?;
    play.wtpool(&["cache", "trim"]).map(drop)
}

fn shared_target(play: &Play<'_>) -> Result {
    play.run(&["--session", "s", "--linger", "0s"], "one")?;
    play.run(&["--session", "s", "--linger", "0s", "--base", "HEAD~1"], "two")?;
    play.wtpool(&["prune", "--all"]).map(drop)
}

/// The lease of a process that ends: nobody but the reaper sees to it.
fn reaper(play: &Play<'_>) -> Result {
    let owner = Ends(play.idler(&play.ground.repo())?);
    let pid = owner.0.id().to_string();
    let options = ["acquire", "--name", "a", "--owner-pid", &pid, "--linger", "0s"];
    let place = play.wtpool(&options)?;
    play.work(&place, "one")?;
    drop(owner);
    play.until("the reaper to clear up", || {
        let listed = play.ground.json(["list"])?;
        Ok(listed["slots"].as_array().is_some_and(Vec::is_empty))
    })?;
    play.until("the reaper to end", || Ok(process::of(&play.ground.home()).is_empty()))
}

/// Those who wait: in vain, and until it is their turn.
fn queue(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    play.refused(&["acquire", "--name", "b", "--wait", "200ms"], 4)?;
    let mut waits = play.command(&["acquire", "--name", "c", "--wait", "60s"]);
    let mut waits = Ends(waits.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    play.until("a request to be queued", || {
        let listed = play.ground.json(["list"])?;
        Ok(listed["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty()))
    })?;
    play.wtpool(&["release", "a"])?;
    play.until("the request to be served", || Ok(waits.0.try_wait()?.is_some()))?;
    play.wtpool(&["release", "c"]).map(drop)
}

/// Requests whose worktree can't be made: where something of somebody else's stands, and of what the settings refuse.
fn refused(play: &Play<'_>) -> Result {
    let stranger = play.ground.place(1);
    std::fs::create_dir_all(&stranger)?;
    std::fs::write(stranger.join("mine"), "of a stranger\n")?;
    let beside =
        play.wtpool(&["acquire", "--name", "a"]).and_then(|_| play.wtpool(&["release", "a"]));
    if std::fs::read(stranger.join("mine"))? != b"of a stranger\n" {
        return Err("what a stranger wrote is not what it was".into());
    }
    std::fs::remove_dir_all(stranger)?;
    beside?;
    play.wtpool(&["prune"])?;
    // A commit on no branch, with a submodule, which the settings refuse.
    let head = play.ground.git(["rev-parse", "HEAD"])?;
    let mut tree = play.ground.command("git");
    let mut tree =
        tree.args(["mktree", "--missing"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let entry = format!("160000 commit {}\tsubmodule\n", head.trim());
    tree.stdin.take().ok_or("git takes no input")?.write_all(entry.as_bytes())?;
    let tree = String::from_utf8(tree.wait_with_output()?.stdout)?;
    let commit = play.ground.git(["commit-tree", "-m", "with a submodule", tree.trim()])?;
    play.refused(&["acquire", "--name", "b", "--base", commit.trim()], 7)?;
    play.wtpool(&["prune"]).map(drop)
}

/// Somebody was killed before, in the middle of its work; it is another's death that is tried here.
fn resumed(play: &Play<'_>) -> Result {
    for (name, step) in
        [("a", "git-backend::provision::checked-out"), ("b", "git-backend::rescue::trees-written")]
    {
        let log = play.log.with_extension("before");
        let mut command = play.ground.wtpool();
        command.env("FAIL_POINTS", play.points).env("FAIL_LOG", &log);
        command.env("FAIL_KILL", format!("{step}=1"));
        command.args(["run", "--name", name, "--"]).args(play.ground.agent(name));
        if command.output()?.status.success() {
            return Err(format!("nobody was killed at {step}").into());
        }
    }
    quiet(play)?;
    play.wtpool(&["prune"]).map(drop)
}

/// Somebody stands in a slot that is given back.
fn occupied(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    let stands = Ends(play.idler(Path::new(&place))?);
    play.wtpool(&["release", "a"])?;
    drop(stands);
    play.wtpool(&["prune"]).map(drop)
}

/// The repository is renamed, and back; a process may be killed that takes the pool over.
fn moved(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    quiet(play)?;
    let repo = play.ground.repo();
    let away = repo.with_file_name("moved");
    std::fs::rename(&repo, &away)?;
    let listed = play.command(&["list"]).current_dir(&away).output();
    std::fs::rename(&away, &repo)?;
    if !listed?.status.success() {
        return Err("a renamed repository has no pool".into());
    }
    play.wtpool(&["list"])?;
    play.wtpool(&["release", "a"]).map(drop)
}

/// The ways back.
fn restore(play: &Play<'_>) -> Result {
    play.run(&["--name", "one"], "one")?;
    let rescues = play.ground.json(["rescue", "list"])?;
    let id = rescues[0]["id"].as_str().ok_or("nothing was rescued")?.to_owned();
    let into = play.ground.root.join("restored");
    play.wtpool(&["rescue", "restore", &id, "--into", &into.to_string_lossy()])?;
    let place = play.wtpool(&["rescue", "restore", &id])?;
    play.wtpool(&["release", &place]).map(drop)
}

/// The database is damaged, then put back from an older copy.
fn damaged(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    let files = ["pool.db", "pool.db-wal"];
    let kept: Vec<_> = files.iter().map(|name| std::fs::read(play.pool_file(name)).ok()).collect();
    play.wtpool(&["acquire", "--name", "b"])?;
    quiet(play)?;
    for (name, kept) in files.iter().zip(kept) {
        match kept {
            Some(content) => std::fs::write(play.pool_file(name), content)?,
            None => drop(std::fs::remove_file(play.pool_file(name))),
        }
    }
    drop(std::fs::remove_file(play.pool_file("pool.db-shm")));
    play.wtpool(&["list"])?;
    play.wtpool(&["release", "b"])?;
    quiet(play)?;
    let mut database = std::fs::OpenOptions::new().write(true).open(play.pool_file("pool.db"))?;
    database.write_all(&[0x55; 4096])?;
    drop(database);
    play.wtpool(&["list"])?;
    play.wtpool(&["release", "a"]).map(drop)
}

/// All records are gone, and a worktree with work in it is there.
fn unrecorded(play: &Play<'_>) -> Result {
    let place = play.wtpool(&["acquire", "--name", "a"])?;
    play.work(&place, "one")?;
    quiet(play)?;
    for name in ["pool.db", "pool.db-wal", "pool.db-shm", "pool.json", "slots/1/slot.json"] {
        drop(std::fs::remove_file(play.pool_file(name)));
    }
    play.wtpool(&["prune"]).map(drop)
}

/// No reaper looks at the files that are about to be changed under it.
fn quiet(play: &Play<'_>) -> Result {
    let home = play.ground.home();
    play.until("the reaper to be gone", || {
        let all = process::of(&home);
        for process in &all {
            process::kill(process, &home);
        }
        Ok(all.is_empty())
    })
}
