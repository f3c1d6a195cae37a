//! Holders that stop, several who clean up at once, others' locks, and a machine that has little left.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::bench::{Bench, Sleeper, eventually, finish, kill, skip, write};

/// As `kill -STOP` does it, and as a suspended job is.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

fn kept_because(bench: &Bench, name: &str) -> String {
    bench.json(&["show", name])["kept_because"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_holder_that_stopped_past_its_ttl_writes_where_it_stood() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s").var("WTPOOL_MAX_LEASES", "2");
    let path = bench.acquire(&["--name", "stopped", "--ttl", "1h", "--linger", "0s"]);
    let mut holder = Command::new("sh")
        .args(["-c", "kill -STOP $$; echo late > late; echo late >> README.md"])
        .current_dir(&path)
        .stdin(Stdio::null())
        .spawn()
        .expect("start sh");
    eventually("it has stopped", || is_stopped(holder.id()));
    bench.ok(&["renew", "stopped", "--ttl", "1s"]);
    eventually("its TTL is over", || kept_because(&bench, "stopped").contains("past its TTL"));
    bench.ok(&["prune"]);
    // Others come and go meanwhile.
    let next = bench.acquire(&["--name", "next"]);
    assert_ne!(next, path);
    assert_eq!(bench.run(&["acquire", "--wait", "0s"]).code, Some(4), "it is in nobody's way");

    kill(&holder.id().to_string(), Signal::CONT);
    assert!(holder.wait().expect("it ends").success(), "its ground was taken away");
    eventually("its lease is over", || bench.slots().len() == 1);
    assert!(!next.join("late").exists());
    assert_eq!(testkit::git(&next).args(["status", "--porcelain"]).stdout(), "");
    let [rescue] = bench.rescues().try_into().expect("one rescue");
    let rescue: Value = rescue;
    let saved = format!("{}:late", rescue["ref"].as_str().expect("a reference"));
    assert_eq!(bench.fixture.git().args(["show", &saved]).stdout(), "late");
}

#[test]
fn an_owner_that_stopped_is_alive() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s");
    let owner = Sleeper::new();
    kill(&owner.pid(), Signal::STOP);
    bench.acquire(&[
        "--name",
        "held",
        "--owner-pid",
        &owner.pid(),
        "--ttl",
        "1h",
        "--linger",
        "0s",
    ]);
    bench.ok(&["renew", "held", "--ttl", "1s"]);
    let ends = || bench.json(&["show", "held"])["expires_at"].as_str().map(str::parse);
    let is_over = || ends().is_some_and(|at| at.is_ok_and(|at: Timestamp| at < Timestamp::now()));
    eventually("its TTL is over", is_over);
    bench.ok(&["prune"]);
    assert_eq!(bench.json(&["show", "held"])["state"], "leased");
    owner.kill();
    bench.eventually_empty();
}

/// Time that the machine was suspended counts, and that is on the boot clock only. It looks the same in a
/// namespace in which that clock is two hours ahead, where nothing says that it is one.
#[test]
fn a_machine_that_was_suspended_counts_that_time() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s").var("WTPOOL_REAP_INTERVAL", "1h");
    bench.acquire(&["--name", "held", "--ttl", "1h", "--linger", "0s"]);
    bench.kill_reaper();
    let prune = |clock: &str| {
        let clock = format!("--{clock}=7200");
        let hide = "mount --bind /dev/null /proc/$$/timens_offsets && exec \"$0\" prune";
        let args = ["--fork", "--mount", "--time", &clock, "sh", "-c", hide, crate::bench::WTPOOL];
        finish(&mut bench.command("unshare", &args))
    };
    let ran = prune("monotonic");
    if ran.code != Some(0) {
        skip("time namespaces are not permitted here");
        return;
    }
    assert_eq!(bench.json(&["show", "held"])["state"], "leased", "{ran:?}");
    let ran = prune("boottime");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    bench.eventually_empty();
}

/// A container may have a boot clock of its own. Deadlines and the times at which processes started are the
/// machine's.
#[test]
fn a_boot_clock_of_its_own_ends_nobodys_lease() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s").var("WTPOOL_REAP_INTERVAL", "1h");
    let owner = Sleeper::new();
    bench.acquire(&["--name", "owned", "--owner-pid", &owner.pid(), "--linger", "0s"]);
    bench.acquire(&["--name", "timed", "--ttl", "1h", "--linger", "0s"]);
    bench.kill_reaper();
    let ahead = |args: &[&str]| {
        let unshare = ["--fork", "--time", "--boottime=7200", crate::bench::WTPOOL];
        finish(&mut bench.command("unshare", &[&unshare, args].concat()))
    };
    let ran = ahead(&["prune"]);
    if ran.code != Some(0) {
        skip("time namespaces are not permitted here");
        return;
    }
    let slots = bench.slots();
    assert!(slots.len() == 2 && slots.iter().all(|slot| slot["state"] == "leased"), "{ran:?}");
    // And the other way round.
    let made = ["acquire", "--name", "inside", "--owner-pid", &owner.pid(), "--linger", "0s"];
    assert_eq!(ahead(&made).code, Some(0));
    bench.ok(&["prune"]);
    assert_eq!(bench.json(&["show", "inside"])["state"], "leased");
    owner.kill();
    bench.ok(&["prune"]);
    bench.ok(&["release", "timed"]);
    bench.eventually_empty();
}

#[test]
fn several_who_clean_up_at_once_do_each_thing_once() {
    let bench = Bench::new();
    let owners = [0, 1, 2].map(|n| {
        let owner = Sleeper::new();
        let options = ["--owner-pid", &owner.pid(), "--linger", "0s", "--name", &format!("l{n}")];
        let path = bench.acquire(&options);
        write(path.join("new"), &format!("work {n}"));
        owner
    });
    // Before there is anything to do: who takes its work over does a part of it once more.
    bench.kill_reaper();
    owners.into_iter().for_each(Sleeper::kill);
    let all: Vec<_> = (0..6).map(|_| bench.spawn(&["prune"])).collect();
    for child in all {
        let ran = crate::bench::ran(child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    bench.eventually_empty();
    assert_eq!(bench.rescues().len(), 3);
    let events = bench.events();
    for kind in ["releasing", "rescued", "removed"] {
        let seen = events.iter().filter(|event| event["event"] == kind).count();
        assert_eq!(seen, 3, "{kind}: {events:?}");
    }
    // And who has nothing to do does nothing.
    bench.ok(&["prune"]);
    assert_eq!(bench.events(), events);
}

#[test]
fn of_several_reapers_one_watches() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held"]);
    eventually("a reaper watches", || bench.reapers().len() == 1);
    let first = bench.reapers();
    let pool = bench.pool();
    let args = ["reaper", "--pool-dir", pool.to_str().expect("UTF-8")];
    let others: Vec<_> = (0..4).map(|_| bench.spawn(&args)).collect();
    for child in others {
        let ran = crate::bench::ran(child.wait_with_output().expect("it ends by itself"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    assert_eq!(bench.reapers(), first);
    assert_eq!(bench.json(&["show", "held"])["state"], "leased");
}

/// Goes on when dropped.
struct Stopped(String);

impl Stopped {
    fn new(pid: &str) -> Self {
        kill(pid, Signal::STOP);
        Self(pid.to_owned())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(&self.0, Signal::CONT);
    }
}

#[test]
fn who_waits_does_not_depend_on_a_reaper_that_stopped() {
    let bench = Bench::new().var("WTPOOL_MAX_LEASES", "1");
    let owner = Sleeper::new();
    bench.acquire(&["--owner-pid", &owner.pid(), "--linger", "0s"]);
    let reapers = bench.reapers();
    let [reaper] = &reapers[..] else { panic!("one reaper: {reapers:?}") };
    let _stopped = Stopped::new(reaper);
    owner.kill();
    bench.acquire(&["--name", "next", "--linger", "0s", "--wait", "1m"]);
    bench.ok(&["release", "next"]);
}

/// Nobody can tell whether such a lock's owner is dead.
#[test]
fn locks_that_others_left_are_waited_for_and_stay() {
    let bench = Bench::new();
    let git_dir = bench.repo().join(".git");
    let lock = |name: &str| write(git_dir.join(name), "somebody's");
    let unlock = |name: &str| {
        let text = fs::read_to_string(git_dir.join(name)).expect("nobody removed it");
        assert_eq!(text, "somebody's", "{name}");
        fs::remove_file(git_dir.join(name)).expect("it is there");
    };
    // These are for what the pool never does.
    let unconcerned = ["config.lock", "index.lock", "HEAD.lock"];
    unconcerned.iter().for_each(|name| lock(name));
    let path = bench.acquire(&["--name", "held", "--linger", "0s"]);
    bench.ok(&["run", "--", "true"]);
    unconcerned.iter().for_each(|name| unlock(name));

    // And this one is needed to delete a branch: neither to make one, nor to save anything.
    lock("packed-refs.lock");
    bench.acquire(&["--name", "next", "--linger", "0s"]);
    write(path.join("new"), "precious");
    let ran = bench.run(&["release", "held"]);
    assert!(ran.err.contains("packed-refs.lock"), "{ran:?}");
    assert_eq!(bench.rescues().len(), 1, "{ran:?}");
    unlock("packed-refs.lock");
    bench.ok(&["release", "next"]);
    bench.ok(&["prune"]);
    bench.eventually_empty();
    let [rescue] = bench.rescues().try_into().expect("one rescue");
    let rescue: Value = rescue;
    let saved = format!("{}:new", rescue["ref"].as_str().expect("a reference"));
    assert_eq!(bench.fixture.git().args(["show", &saved]).stdout(), "precious");
    assert_eq!((bench.branches(), bench.worktrees()), (vec!["main".into(), "side".into()], 1));
}

#[test]
fn a_repository_that_is_cleared_of_garbage_keeps_what_leases_and_rescues_hold() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "held", "--linger", "0s"]);
    let at = |args: &[&str]| testkit::git(&path).args(args).ok();
    at(&["checkout", "--quiet", "--detach"]);
    write(path.join("committed"), "committed");
    at(&["add", "committed"]);
    at(&["commit", "--quiet", "-m", "on no branch"]);
    write(path.join("staged"), "staged");
    at(&["add", "staged"]);
    write(path.join("staged"), "changed since");
    let collect = || {
        bench.fixture.git().args(["reflog", "expire", "--expire=now", "--all"]).ok();
        bench.fixture.git().args(["gc", "--quiet", "--prune=now"]).ok();
    };
    collect();
    assert_eq!(testkit::git(&path).args(["show", ":staged"]).stdout(), "staged");
    bench.ok(&["release", "held"]);
    bench.eventually_empty();
    collect();
    let [rescue] = bench.rescues().try_into().expect("one rescue");
    let rescue: Value = rescue;
    let into = bench.fixture.root().join("restored");
    let id = rescue["id"].as_str().expect("an id");
    bench.ok(&["rescue", "restore", id, "--into", into.to_str().expect("UTF-8")]);
    assert_eq!(testkit::git(&into).args(["show", "HEAD:committed"]).stdout(), "committed");
    assert_eq!(testkit::git(&into).args(["show", ":staged"]).stdout(), "staged");
    assert_eq!(fs::read_to_string(into.join("staged")).expect("it is back"), "changed since");
}

#[test]
fn few_descriptors_are_an_error_and_lose_nothing() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "held", "--linger", "0s"]);
    write(path.join("new"), "precious");
    write(path.join("README.md"), "changed");
    bench.kill_reaper();
    let limited = |count: usize, verb: &str| {
        let script = format!("ulimit -n {count}; exec '{}' {verb} --json", crate::bench::WTPOOL);
        let mut command = bench.command("sh", &["-c", &script]);
        finish(command.process_group(0))
    };
    let mut failed = 0;
    for count in (4..60).step_by(4) {
        let ran = limited(count, "acquire --linger 0s");
        match ran.code {
            Some(0) => {
                let made: Value = serde_json::from_str(&ran.out).expect("a document");
                bench.ok(&["release", made["lease"].as_str().expect("an id"), "--linger", "0s"]);
            }
            // So few that not even the program's parts are found.
            _ if count < 12 => failed += 1,
            code => {
                failed += 1;
                assert_eq!((code, ran.out.as_str()), (Some(1), ""), "{count}: {ran:?}");
                let error = ran.err.lines().last().unwrap_or_default();
                let error: Value =
                    serde_json::from_str(error).unwrap_or_else(|e| panic!("{count}: {e}: {ran:?}"));
                assert!(error["error"]["kind"].is_string(), "{count}: {ran:?}");
            }
        }
        // Neither may a look that saw little take anything for gone.
        limited(count, "prune");
        assert_eq!(fs::read_to_string(path.join("new")).expect("in place"), "precious", "{count}");
    }
    assert!(failed > 0, "there was no shortage");
    for count in (8..60).step_by(8) {
        let ran = limited(count, "release held");
        if ran.code == Some(0) {
            break;
        }
    }
    bench.ok(&["prune"]);
    bench.run(&["release", "held", "--linger", "0s"]);
    bench.eventually_empty();
    let [rescue] = bench.rescues().try_into().expect("one rescue");
    let rescue: Value = rescue;
    let saved = format!("{}:new", rescue["ref"].as_str().expect("a reference"));
    assert_eq!(bench.fixture.git().args(["show", &saved]).stdout(), "precious");
    bench.ok(&["run", "--", "true"]);
}

/// As in a sandbox that has no `/proc`, or an empty one.
#[test]
fn where_processes_cannot_be_seen_nobodys_ground_is_taken_away() {
    let bench = Bench::new().var("WTPOOL_REAP_INTERVAL", "1h");
    let path = bench.acquire(&["--name", "held", "--linger", "0s"]);
    write(path.join("new"), "precious");
    bench.kill_reaper();
    let mut holder = Command::new("sleep")
        .arg("1000")
        .current_dir(&path)
        .stdin(Stdio::null())
        .spawn()
        .expect("start sleep");
    let script = format!("mount -t tmpfs none /proc && exec '{}' \"$@\"", crate::bench::WTPOOL);
    let blind = |args: &[&str]| {
        let unshare = ["--map-root-user", "--mount", "sh", "-c", &script, "wtpool"];
        finish(&mut bench.command("unshare", &[&unshare, args].concat()))
    };
    if blind(&["list"]).code != Some(0) {
        skip("nothing can be mounted here");
    } else {
        let ran = blind(&["release", "held"]);
        assert!(ran.err.contains("somebody may be in it"), "{ran:?}");
        blind(&["prune", "--all"]);
        assert_eq!(fs::read_to_string(path.join("new")).expect("in place"), "precious");
        assert_eq!(bench.slots()[0]["state"], "quarantined");
    }
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    bench.ok(&["prune"]);
    bench.run(&["release", "held", "--linger", "0s"]);
    bench.eventually_empty();
}

/// As in a container that shares the pool with the machine it is on.
#[test]
fn an_owner_that_cannot_be_seen_from_a_container_is_not_taken_for_dead() {
    let bench = Bench::new().var("WTPOOL_REAP_INTERVAL", "1h").var("WTPOOL_QUIET", "0s");
    let (owner, host) = (Sleeper::new(), Sleeper::new());
    let own = ["--owner-pid", &owner.pid(), "--linger", "0s"];
    bench.acquire(&[&["--name", "owned"], &own[..]].concat());
    let session = ["--session", "s", "--session-pid", &host.pid(), "--linger", "0s"];
    bench.acquire(&[&["--name", "within"], &session[..]].concat());
    bench.kill_reaper();
    let inside = |verb: &str, ttl: &str| {
        let unshare = ["--map-root-user", "--pid", "--fork", "--mount-proc", crate::bench::WTPOOL];
        let mut command = bench.command("unshare", &[&unshare[..], &[verb]].concat());
        finish(command.env("WTPOOL_TTL", ttl))
    };
    if inside("list", "1h").code != Some(0) {
        skip("process namespaces are not permitted here");
        return;
    }
    let ran = inside("prune", "1h");
    let slots = bench.slots();
    assert!(slots.len() == 2 && slots.iter().all(|slot| slot["state"] == "leased"), "{ran:?}");
    // Not for ever: what is past the TTL and quiet is over.
    let ran = inside("prune", "0s");
    assert!(ran.out.contains("end lease owned: it is past its TTL and quiet"), "{ran:?}");
    assert_eq!(bench.json(&["show", "within"])["state"], "leased", "{ran:?}");
    host.kill();
    bench.ok(&["prune"]);
    bench.eventually_empty();
    owner.kill();
}

/// As of a hook in which somebody calls the program.
#[test]
fn variables_of_git_do_not_reach_the_pools_own_git() {
    let bench = Bench::new();
    bench.ok(&["warm", "1"]);
    write(bench.repo().join("new"), "new");
    bench.fixture.git().args(["add", "new"]).ok();
    bench.fixture.git().args(["commit", "--quiet", "-m", "new"]).ok();
    write(bench.repo().join("staged"), "staged");
    bench.fixture.git().args(["add", "staged"]).ok();
    let index = bench.repo().join(".git/index");
    let before = fs::read(&index).expect("an index");
    // The idle slot is reset to the new commit by git itself.
    let mut command = bench.wtpool(&["acquire", "--name", "held"]);
    command.env("GIT_DIR", bench.repo().join(".git")).env("GIT_WORK_TREE", bench.repo());
    command.env("GIT_INDEX_FILE", &index).env("GIT_OBJECT_DIRECTORY", "/nowhere");
    let ran = finish(&mut command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fs::read(&index).expect("an index"), before);
    let path = std::path::PathBuf::from(ran.out.trim_end());
    assert!(path.starts_with(bench.pool()) && path.join("new").exists(), "{ran:?}");
    assert_eq!(testkit::git(&path).args(["status", "--porcelain"]).stdout(), "");
    assert_eq!(bench.fixture.git().args(["status", "--porcelain"]).stdout(), "A  staged");
}
