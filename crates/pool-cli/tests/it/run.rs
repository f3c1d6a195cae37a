//! `wtpool run`.

use std::fs;
use std::os::unix::process::CommandExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{Bench, eventually, finish, kill, ran};

#[test]
fn runs_inside_a_worktree_and_leaves_nothing() {
    let bench = Bench::new();
    let head = bench.fixture.head();
    let script = "pwd; git rev-parse HEAD; git status --porcelain; echo $WTPOOL_BRANCH $PWD";
    let ran = bench.ok(&["run", "--name", "a", "--", "sh", "-c", script]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "the command's output and nothing else: {ran:?}");
    assert!(lines[0].starts_with(bench.pool().to_str().expect("UTF-8")), "{ran:?}");
    assert_eq!(lines[1], head);
    assert_eq!(lines[2], format!("wtpool/a {}", lines[0]));
    assert!(ran.err.contains(lines[0]) && ran.err.contains("wtpool/a"), "{ran:?}");
    assert!(bench.slots().is_empty());
    assert_eq!(bench.branches(), ["main", "side"]);
    assert_eq!(bench.worktrees(), 1);
    let slots = bench.pool().join("slots");
    assert_eq!(fs::read_dir(slots).map_or(0, Iterator::count), 0);
    let lock = fs::File::open(bench.pool().join("reaper.lock")).expect("there was a reaper");
    eventually("the reaper ends", || crate::bench::is_free(&lock));
}

#[test]
fn keeps_a_branch_with_commits() {
    let bench = Bench::new();
    let commit = "echo new > new && git add new && git commit -qm new && git rev-parse HEAD";
    let ran = bench.ok(&["run", "--name", "work", "--", "sh", "-c", commit]);
    let at = bench.fixture.git().args(["rev-parse", "wtpool/work"]).stdout();
    assert_eq!(at, ran.out.trim());
    assert!(ran.err.contains("1 commit"), "{ran:?}");
    assert!(bench.rescues().is_empty());
}

#[test]
fn has_the_exit_status_of_its_command() {
    let bench = Bench::new();
    let status =
        |command: &[&str]| bench.run(&[&["run", "--linger", "0s", "--"], command].concat()).code;
    assert_eq!(status(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(status(&["sh", "-c", "kill -TERM $$"]), Some(128 + 15));
    assert_eq!(status(&["no-such-command-anywhere"]), Some(127));
    let file = bench.fixture.root().join("not-executable");
    crate::bench::write(&file, "text");
    assert_eq!(status(&[file.to_str().expect("UTF-8")]), Some(126));
    assert!(bench.slots().is_empty(), "each lease was released");
}

#[test]
fn has_the_exit_status_of_its_command_even_when_its_lease_can_t_be_given_back() {
    let bench = Bench::new();
    let (records, aside) = (bench.pool().join("pool.db"), bench.pool().join("aside"));
    // No rebuild helps where something else has the name.
    // The reaper may put a new database there in between.
    let script = format!(
        "mv '{0}' '{1}'; until mkdir '{0}'; do rm -f '{0}'; done 2>/dev/null; exit 3",
        records.display(),
        aside.display()
    );
    let ran = bench.run(&["run", "--linger", "0s", "--", "sh", "-c", &script]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("error: "), "{ran:?}");
    fs::remove_dir(&records).expect("it is empty");
    fs::rename(&aside, &records).expect("back");
    bench.ok(&["prune"]);
    bench.eventually_empty();
}

#[test]
fn failure_lingers_and_success_does_not() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["run", "--", "false"]).code, Some(1));
    let slots = bench.slots();
    assert_eq!(slots[0]["state"], "lingering");
    assert!(
        slots[0]["kept_because"].as_str().is_some_and(|why| why.contains("failure")),
        "{slots:?}"
    );
    let again = bench.ok(&["run", "--", "true"]);
    assert!(again.out.is_empty());
    bench.ok(&["prune", "--all"]);
    assert!(bench.slots().is_empty());
}

#[test]
fn forwards_signals_to_its_command() {
    let bench = Bench::new();
    let ready = bench.fixture.root().join("ready");
    let script =
        format!("trap 'exit 9' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let child = bench.spawn(&["run", "--linger", "0s", "--", "sh", "-c", &script]);
    eventually("the command runs", || ready.exists());
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::TERM).expect("kill");
    let ran = ran(child.wait_with_output().expect("wait"));
    assert_eq!(ran.code, Some(9), "{ran:?}");
    assert!(bench.slots().is_empty());
}

#[test]
fn git_variables_of_a_hook_do_not_reach_the_command() {
    let bench = Bench::new();
    let mut command = bench.wtpool(&["run", "--", "git", "rev-parse", "--show-toplevel"]);
    command.env("GIT_DIR", bench.repo().join(".git")).env("GIT_WORK_TREE", bench.repo());
    command
        .env("GIT_INDEX_FILE", bench.repo().join(".git/index"))
        .env("CARGO_TARGET_DIR", "/nowhere");
    let ran = finish(&mut command);
    assert!(ran.out.starts_with(bench.pool().to_str().expect("UTF-8")), "{ran:?}");
    let mut command = bench.wtpool(&["run", "--", "sh", "-c", "echo [$CARGO_TARGET_DIR]"]);
    let ran = finish(command.env("CARGO_TARGET_DIR", "/nowhere"));
    assert_eq!(ran.out, "[]\n", "a target shared by accident would run another lease's programs");
}

#[test]
fn a_killed_wtpool_leaves_the_lease_to_its_command() {
    let bench = Bench::new();
    let pid_file = bench.fixture.root().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid_file.display());
    let mut child =
        bench.spawn(&["run", "--linger", "0s", "--name", "held", "--", "sh", "-c", &script]);
    eventually("the command runs", || pid_file.exists());
    child.kill().expect("kill wtpool");
    child.wait().expect("wait");
    bench.ok(&["prune"]);
    assert_eq!(bench.json(&["show", "held"])["state"], "leased");
    kill(&fs::read_to_string(&pid_file).expect("a pid"), Signal::KILL);
    // After a death the slot lingers for inspection; with 0s it goes.
    bench.eventually_empty();
}

#[test]
fn a_surviving_grandchild_keeps_the_lease() {
    let bench = Bench::new();
    let pid_file = bench.fixture.root().join("pid");
    let script =
        format!("sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > {}", pid_file.display());
    let ran = bench.ok(&["run", "--name", "held", "--", "sh", "-c", &script]);
    let survivor = fs::read_to_string(&pid_file).expect("a pid");
    let survivor = format!("process {} (sleep)", survivor.trim());
    assert!(ran.err.contains(&format!("{survivor}, which it started, still runs")), "{ran:?}");
    let named = |show: &serde_json::Value| {
        show["kept_because"].as_str().is_some_and(|why| why.contains(&survivor))
    };
    assert!(named(&bench.json(&["show", "held"])) && named(&bench.slots()[0]));
    bench.ok(&["prune"]);
    let show = bench.json(&["show", "held"]);
    assert_eq!(show["state"], "leased");
    assert!(named(&show), "{show}");
    kill(&fs::read_to_string(&pid_file).expect("a pid"), Signal::KILL);
    bench.eventually_empty();
}

#[test]
fn what_is_over_at_some_time_ends_then_however_seldom_the_reaper_looks() {
    let bench = Bench::new().var("WTPOOL_REAP_INTERVAL", "1h");
    // Watched from here on by a reaper that knows of no other grace.
    bench.acquire(&["--name", "other"]);
    let pid_file = bench.fixture.root().join("pid");
    let script = format!(
        "cd / && {{ sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > {}; }}",
        pid_file.display()
    );
    let mut command = bench.wtpool(&["run", "--name", "held", "--", "sh", "-c", &script]);
    let ran = finish(command.env("WTPOOL_GRACE", "3s"));
    let survivor = fs::read_to_string(&pid_file).expect("a pid");
    let named = format!("process {} (sleep), which it started, still runs", survivor.trim());
    assert!(ran.err.contains(&named), "{ran:?}");
    eventually("the daemon's grace is over", || bench.slots().len() == 1);
    kill(&fs::read_to_string(&pid_file).expect("a pid"), Signal::KILL);
    bench.ok(&["release", "other", "--linger", "1s"]);
    bench.eventually_empty();
}

#[test]
fn a_killed_holder_loses_nothing() {
    let bench = Bench::new();
    let ready = bench.fixture.root().join("ready");
    let script = format!(
        "printf 'a\\0b' > binary; echo x > tool; chmod 755 tool; ln -s nowhere to-nowhere; \
         mkdir -p deep/er; echo staged > deep/er/s; git add deep; touch {}; exec sleep 1000",
        ready.display()
    );
    let mut command =
        bench.wtpool(&["run", "--linger", "0s", "--name", "victim", "--", "sh", "-c", &script]);
    let mut child = command.process_group(0).spawn().expect("start wtpool");
    eventually("the command runs", || ready.exists());
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    rustix::process::kill_process_group(group, Signal::KILL).expect("kill");
    child.wait().expect("wait");
    // Nobody calls anything that would clean up: the reaper does it.
    bench.eventually_empty();
    let rescues = bench.rescues();
    assert_eq!(rescues.len(), 1, "{rescues:?}");
    let id = rescues[0]["id"].as_str().expect("an id");
    let restored = bench.ok(&["rescue", "restore", id]);
    let path = std::path::Path::new(restored.out.trim_end());
    assert_eq!(fs::read(path.join("binary")).expect("binary"), b"a\0b");
    assert_eq!(
        fs::read_link(path.join("to-nowhere")).expect("link"),
        std::path::Path::new("nowhere")
    );
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path.join(name)).expect("metadata").permissions().mode() & 0o777
    };
    assert_eq!((mode("tool"), mode("binary") & 0o111), (0o755, 0));
    let staged = testkit::git(path).args(["diff", "--cached", "--name-only"]).stdout();
    assert_eq!(staged, "deep/er/s");
}

#[test]
fn says_what_happens_as_documents() {
    let bench = Bench::new();
    let ran =
        bench.run(&["run", "--json", "--linger", "0s", "--", "sh", "-c", "echo out; echo x > new"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "out\n"));
    let documents: Vec<serde_json::Value> =
        ran.err.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(documents.len(), 2, "{ran:?}");
    assert_eq!(documents[0]["lease"], documents[1]["lease"]);
    assert_eq!(documents[1]["disposition"], "removed");
    assert!(
        documents[1]["rescue"]["ref"]
            .as_str()
            .is_some_and(|r| r.starts_with("refs/wtpool/rescue/"))
    );
}

/// A command may use the pool itself, and so be the one who starts its reaper.
#[test]
fn a_reaper_that_a_command_starts_holds_nothing_of_that_commands() {
    let bench = Bench::new();
    bench.acquire(&["--name", "first"]);
    let reaper = bench.reapers().pop().expect("a reaper watches");
    let script = format!(
        "kill -9 {reaper}; while kill -0 {reaper} 2>&-; do sleep 0.1; done; '{}' acquire --name inner",
        crate::bench::WTPOOL
    );
    let ran = bench.ok(&["run", "--name", "outer", "--", "sh", "-c", &script]);
    eventually("one reaper watches", || bench.reapers().len() == 1);
    assert!(!ran.err.contains("still runs"), "{ran:?}");
    assert!(bench.slots().iter().all(|slot| slot["lease"]["name"] != "outer"), "{ran:?}");

    // Nor does it keep anybody waiting who waits for the end of the output.
    bench.kill_reaper();
    let script = format!("exec 7>&1; '{}' acquire --name next", crate::bench::WTPOOL);
    finish(&mut bench.command("sh", &["-c", &script]));
    eventually("one reaper watches", || bench.reapers().len() == 1);
}
