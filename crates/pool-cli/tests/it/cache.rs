//! Builds in leases, with real cargo, and the room that a pool takes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::{Bench, PATIENCE, eventually, write};

/// A repository with a cargo workspace in it, and cargo where it is for this process.
pub(crate) fn cargo_bench() -> Bench {
    let home = |variable: &str, name: &str| {
        let given = std::env::var_os(variable).map(PathBuf::from);
        let usual = || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(name);
        given.unwrap_or_else(usual).to_str().expect("UTF-8").to_owned()
    };
    let bench = Bench::new()
        .var("RUSTUP_HOME", &home("RUSTUP_HOME", ".rustup"))
        .var("CARGO_HOME", &home("CARGO_HOME", ".cargo"))
        .var("WTPOOL_CACHE__AUTO", "false");
    let write = |path: &str, text: &str| {
        let path = bench.repo().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("created");
        fs::write(path, text).expect("written");
    };
    write("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    write("src/main.rs", "fn main() {\n    println!(\"{}\", include_str!(\"word\"));\n}\n");
    write("src/word", "one");
    write(".gitignore", "target\n");
    let locked = bench.command("cargo", &["generate-lockfile", "--offline"]).output();
    assert!(locked.expect("cargo runs").status.success());
    let git = |args: &[&str]| bench.fixture.git().args(args).ok();
    git(&["add", "-A"]);
    git(&["commit", "-qm", "a workspace"]);
    bench
}

const BUILD: &str = "cargo build --message-format=json 2>/dev/null | grep -c '\"fresh\":false'; \
                     ./target/debug/app";

#[test]
fn a_new_slot_is_warm_once_a_base_is_built() {
    let bench = cargo_bench();
    let cold = bench.acquire(&["--name", "cold"]);
    let shown = bench.json(&["show", "cold"]);
    assert_eq!(shown["cache"]["strategy"], "seeded");
    assert_eq!(shown["cache"]["warm"], false);
    assert!(shown["cache"]["reason"].as_str().expect("a reason").contains("wtpool warm"));
    bench.ok(&["release", cold.to_str().expect("UTF-8")]);

    let warmed = bench.ok(&["warm", "0"]);
    assert!(warmed.err.contains("the base of the build cache is built"), "{warmed:?}");
    let ran = bench.ok(&["run", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
    // An edit counts, under whatever date.
    let edit = "printf two > src/word; touch -d 2000-01-01 src/word; cargo run -q 2>/dev/null";
    let ran = bench.ok(&["run", "--", "sh", "-c", edit]);
    assert_eq!(ran.out, "two\n", "{ran:?}");
    let warm = bench.acquire(&["--name", "warm"]);
    assert_eq!(bench.json(&["show", "warm"])["cache"]["warm"], true);
    let status = testkit::git(&warm).args(["status", "--porcelain"]).stdout();
    assert_eq!(status, "", "nothing was written into the checkout");

    let usage = bench.json(&["cache", "usage"]);
    assert!(usage["cache_bytes"].as_u64().expect("a number") > 0, "{usage}");
    assert_eq!(usage["slots"].as_array().expect("an array").len(), 1);
    // What a slot started from stays as long as the slot does.
    assert_eq!(bench.json(&["cache", "trim"])["freed_bytes"], 0);
    bench.ok(&["release", "warm"]);
    bench.eventually_empty();
    assert!(bench.json(&["cache", "trim"])["freed_bytes"].as_u64().expect("a number") > 0);
}

#[test]
fn a_lease_that_stays_has_the_base_built_in_the_background() {
    let bench = cargo_bench().var("WTPOOL_CACHE__AUTO", "true");
    bench.ok(&["run", "--", "true"]);
    assert!(
        !bench.pool().join("cache/base").exists(),
        "nothing is built for who only looks around"
    );
    let lease = bench.acquire(&[]);
    let built = || {
        bench.json(&["cache", "usage"])["cache_bytes"].as_u64().unwrap_or(0) > 0
            && bench.pool().join("cache/base/1/manifest.json").exists()
    };
    eventually("the base is built", built);
    bench.ok(&["release", lease.to_str().expect("UTF-8")]);
    let ran = bench.ok(&["run", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
}

/// What the doctor says of the cache.
fn said_of_cache(bench: &Bench) -> Vec<(String, String)> {
    let document = bench.json(&["doctor"]);
    let findings = document["findings"].as_array().expect("an array").iter();
    let of_cache = findings.filter(|finding| finding["check"] == "cache");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    of_cache.map(|finding| (text(&finding["status"]), text(&finding["message"]))).collect()
}

fn says(bench: &Bench, status: &str, part: &str) {
    let said = said_of_cache(bench);
    let found = said.iter().any(|(is, message)| is == status && message.contains(part));
    assert!(found, "{status} {part:?} is not in {said:?}");
}

#[test]
fn the_doctor_knows_the_base() {
    let bench = cargo_bench();
    bench.ok(&["warm", "1"]);
    let head = bench.fixture.git().args(["rev-parse", "--short=12", "HEAD"]).stdout();
    says(&bench, "ok", "the strategy is seeded");
    says(&bench, "ok", &format!("start from base 1 (commit {head}, rustc "));
    assert!(said_of_cache(&bench).iter().any(|(_, said)| said.contains("mount namespaces are")));
    let base = |number: u32| bench.pool().join(format!("cache/base/{number}"));
    // Another toolchain made it.
    let manifest = base(1).join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("read");
    write(&manifest, &text.replacen("\"rustc\":\"rustc 1.", "\"rustc\":\"rustc 0.", 1));
    says(&bench, "note", "is of no use: it was built by rustc 0.");
    let warmed = bench.ok(&["warm", "0"]);
    assert!(warmed.err.contains("the base of the build cache is built"), "{warmed:?}");
    says(&bench, "ok", "start from base 2");
    // Somebody writes into a file of it.
    let deps = base(2).join("tree/target/debug/deps");
    let program = fs::read_dir(deps).expect("built").flatten().map(|entry| entry.path());
    let program = program.into_iter().find(|path| path.extension().is_none()).expect("a program");
    fs::File::options().write(true).open(&program).and_then(|f| f.set_len(7)).expect("cut");
    says(&bench, "note", "base 2 (commit");
    says(&bench, "note", "is not what it was");
    let warmed = bench.ok(&["warm", "0"]);
    assert!(warmed.err.contains("the base of the build cache is built"), "{warmed:?}");
    says(&bench, "ok", "start from base 3");
    let ran = bench.ok(&["run", "--base", "HEAD", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
}

/// What a killed process has started still builds: its base is neither deleted nor built into.
#[test]
fn base_of_a_killed_warm_stays_until_its_build_has_ended() {
    let bench = cargo_bench();
    let [begun, go_on] = ["begun", "go-on"].map(|name| bench.home.path().join(name));
    let waits = format!(
        "touch '{0}'; while [ -e '{0}' ] && ! [ -e '{1}' ]; do sleep 0.05; done; \
         mkdir -p target/late; cargo build",
        begun.display(),
        go_on.display()
    );
    let slow = bench.wtpool(&["warm", "0"]).env("WTPOOL_CACHE__WARM_COMMAND", waits).spawn();
    let mut slow = slow.expect("it starts");
    eventually("the build begins", || begun.exists());
    slow.kill().expect("it runs");
    slow.wait().expect("it ends");
    let base = |number: u32| bench.pool().join(format!("cache/base/{number}"));
    bench.ok(&["cache", "trim"]);
    bench.ok(&["prune"]);
    assert!(base(1).join("tree/Cargo.toml").exists(), "deleted under a build");
    let warmed = bench.ok(&["warm", "0"]);
    assert!(warmed.err.contains("the base of the build cache is built"), "{warmed:?}");
    assert!(base(2).join("manifest.json").exists() && !base(2).join("tree/target/late").exists());
    fs::write(&go_on, "").expect("written");
    eventually("what it left is removed", || {
        bench.ok(&["prune"]);
        !base(1).exists()
    });
    let ran = bench.ok(&["run", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
}

#[test]
fn warm_that_leaves_no_base_fails_and_shows_the_log() {
    let bench = cargo_bench().var("WTPOOL_CACHE__WARM_COMMAND", "echo it goes wrong; exit 3");
    let ran = bench.run(&["warm", "1"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("there is no base of the build cache"), "{ran:?}");
    assert!(ran.err.contains("the end of its log:\n  it goes wrong\n"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "the slot is made all the same: {ran:?}");
    let ran = bench.run(&["warm", "1", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("one document");
    assert!(error["error"]["message"].as_str().expect("text").contains("it goes wrong"), "{error}");
    says(&bench, "note", "base 2 was given up: `echo it goes wrong; exit 3` failed");
    bench.acquire(&["--name", "cold"]);
    let shown = bench.json(&["show", "cold"]);
    assert!(shown["cache"]["reason"].as_str().expect("a reason").contains("exit status: 3"));
}

/// A second `warm` returns when there is a base, not before.
#[test]
fn warm_waits_for_another_that_builds() {
    let bench = cargo_bench();
    let [begun, go_on] = ["begun", "go-on"].map(|name| bench.home.path().join(name));
    let waits = format!(
        "touch '{0}'; while [ -e '{0}' ] && ! [ -e '{1}' ]; do sleep 0.05; done; cargo build",
        begun.display(),
        go_on.display()
    );
    let bench = bench.var("WTPOOL_CACHE__WARM_COMMAND", &waits);
    let first = bench.spawn(&["warm", "0"]);
    eventually("the build begins", || begun.exists());
    let mut second = bench.spawn(&["warm", "0"]);
    let mut said = BufReader::new(second.stderr.take().expect("a pipe")).lines();
    let waits = said.find(|line| line.as_ref().expect("UTF-8").contains("waiting for another"));
    assert!(waits.is_some(), "it does not wait");
    fs::write(&go_on, "").expect("written");
    let rest = std::thread::spawn(move || said.map_while(|line| line.ok()).collect::<Vec<_>>());
    for warm in [first, second] {
        let ended = warm.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{ended:?}");
    }
    rest.join().expect("read");
    assert!(bench.pool().join("cache/base/1/manifest.json").exists());
    assert!(!bench.pool().join("cache/base/2").exists());
}

#[test]
fn the_doctor_knows_that_there_is_no_base() {
    let bench = cargo_bench();
    bench.acquire(&["--name", "cold"]);
    says(&bench, "note", "there is no base: the first build in a new worktree compiles everything");
    let bench = bench.var("WTPOOL_CACHE__STRATEGY", "private");
    assert_eq!(said_of_cache(&bench), [("ok".to_owned(), "the strategy is private".to_owned())]);
    let bench = bench.var("WTPOOL_CACHE__STRATEGY", "sccache");
    let bench = bench.var("WTPOOL_CACHE__WRAPPER", "/no/such/program");
    says(&bench, "note", "/no/such/program can't be run");
    let bench = bench.var("WTPOOL_CACHE__WRAPPER", "no-such-program");
    says(&bench, "note", "is not installed");
    assert_eq!(bench.json(&["doctor"])["ok"], true, "builds are slow, and right");
}

/// An option names another strategy than the settings do: its base is built all the same.
#[test]
fn a_base_is_built_for_whom_asks_for_one() {
    let bench = cargo_bench().var("WTPOOL_CACHE__AUTO", "true");
    let bench = bench.var("WTPOOL_CACHE__STRATEGY", "private");
    bench.acquire(&["--name", "seeded", "--cache", "seeded"]);
    let manifest = bench.pool().join("cache/base/1/manifest.json");
    eventually("the base is built", || manifest.exists());
}

/// Killed at any moment of it: nothing of it is left, and the next lease is as good as any.
#[test]
fn a_process_that_is_killed_while_it_seeds() {
    let bench = cargo_bench();
    // Much to copy.
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
                  let out = std::env::var(\"OUT_DIR\").unwrap();\n    for number in 0..8000 {\n        \
                  std::fs::write(format!(\"{out}/{number}\"), \"x\").unwrap();\n    }\n}\n";
    write(bench.repo().join("build.rs"), script);
    bench.fixture.git().args(["add", "-A"]).ok();
    bench.fixture.git().args(["commit", "-qm", "a build script"]).ok();
    bench.ok(&["warm", "0"]);
    let slots = || {
        let dirs = fs::read_dir(bench.pool().join("slots")).into_iter().flatten().flatten();
        dirs.map(|dir| dir.path()).collect::<Vec<_>>()
    };
    let name = bench.repo().file_name().expect("it has a name").to_owned();
    let seeding = || slots().into_iter().find(|slot| slot.join(".seeding").exists());
    let interrupt = || {
        let mut child = bench.spawn(&["acquire", "--name", "killed"]);
        let begun = Instant::now();
        while seeding().is_none() && child.try_wait().expect("it can be asked").is_none() {
            assert!(begun.elapsed() < PATIENCE, "nothing is being seeded");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It may have ended meanwhile.
        let _ = child.kill();
        child.wait().expect("it ends");
        seeding().is_some_and(|slot| !slot.join(&name).join("target").exists())
    };
    // On a machine with much else to do, it may be through before we look.
    let interrupted = (0..20).any(|_| {
        let interrupted = interrupt();
        if !interrupted {
            bench.run(&["release", "killed", "--linger", "0s"]);
            bench.ok(&["prune", "--all"]);
        }
        interrupted
    });
    assert!(interrupted, "nothing is tested");
    bench.ok(&["prune"]);
    // A reaper that an earlier lease started may be at it.
    eventually("nothing is left of it", || slots().is_empty());
    bench.eventually_empty();
    assert_eq!(bench.worktrees(), 1);
    let ran = bench.ok(&["run", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
    // Nor does it hold up those who do not wait for anybody to clean up.
    assert!((0..20).any(|_| {
        let interrupted = interrupt();
        if !interrupted {
            bench.run(&["release", "killed", "--linger", "0s"]);
        }
        interrupted
    }));
    let ran = bench.ok(&["run", "--", "sh", "-c", BUILD]);
    assert_eq!(ran.out, "0\none\n", "{ran:?}");
    bench.ok(&["prune", "--all"]);
    bench.eventually_empty();
    eventually("nothing is left of it", || slots().is_empty());
}

#[test]
fn a_repository_names_no_command() {
    let bench = cargo_bench();
    let text = "[cache]\nwarm_command = \"touch /tmp/wtpool-was-here\"\n";
    fs::write(bench.repo().join(".wtpool.toml"), text).expect("written");
    let refused = bench.run(&["list"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("names a command to run"), "{refused:?}");
}

#[test]
fn idle_slots_make_room_and_what_is_in_use_does_not() {
    let bench = Bench::new();
    bench.ok(&["warm", "2"]);
    assert_eq!(bench.slots().len(), 2);
    let bench = bench.var("WTPOOL_MAX_DISK", "1KB");
    let refused = bench.run(&["acquire", "--json"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let error: serde_json::Value = serde_json::from_str(&refused.err).expect("one document");
    assert_eq!(error["error"]["kind"], "no-space");
    assert!(
        error["error"]["hint"].as_str().expect("a hint").contains("the build cache"),
        "{error}"
    );
    assert_eq!(bench.slots().len(), 0, "idle slots are given up first");
    let bench = bench.var("WTPOOL_MAX_DISK", "1GB");
    bench.acquire(&[]);
}

/// Two leases of one program, of which one says another word: each runs its own, in a shell that has what the
/// caller has.
fn runs_its_own(bench: &Bench) {
    let [one, two] = ["first", "second"].map(|name| bench.acquire(&["--name", name]));
    fs::write(two.join("src/word"), "two").expect("written");
    for (place, word) in [(&one, "one\n"), (&two, "two\n"), (&one, "one\n")] {
        let ran = bench.command("cargo", &["run", "-q", "--offline"]).current_dir(place).output();
        let ran = ran.expect("cargo runs");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), word, "{ran:?}");
    }
}

#[test]
fn target_dir_of_a_users_cargo_home_holds_in_no_lease() {
    let bench = cargo_bench();
    let config = bench.home.path().join("cargo/config.toml");
    let shared = bench.home.path().join("shared");
    fs::create_dir(config.parent().expect("it has one")).expect("made");
    write(&config, &format!("[build]\ntarget-dir = {shared:?}\n"));
    let bench = bench.var("CARGO_HOME", config.parent().and_then(Path::to_str).expect("UTF-8"));
    runs_its_own(&bench);
    says(&bench, "ok", &format!("sets build.target-dir to {}: it does not hold", shared.display()));
    let ran = bench.ok(&["acquire"]);
    assert!(!ran.err.contains("leads cargo out"), "there is nothing to warn of: {ran:?}");
}

#[test]
fn target_dir_of_a_parents_cargo_config_holds_in_no_lease() {
    let bench = cargo_bench();
    let repo = bench.repo();
    let config = repo.parent().expect("it has one").join(".cargo/config.toml");
    fs::create_dir(config.parent().expect("it has one")).expect("made");
    write(&config, "[build]\ntarget-dir = 'shared'\n");
    runs_its_own(&bench);
    says(&bench, "ok", "sets build.target-dir to shared: it does not hold");
}

#[test]
fn exported_target_dir_is_named_by_acquire_show_and_doctor() {
    let bench = cargo_bench();
    let shared = bench.home.path().join("shared");
    let shared = shared.to_str().expect("UTF-8").to_owned();
    let bench = bench.var("CARGO_TARGET_DIR", &shared);
    let warning = format!("CARGO_TARGET_DIR={shared} leads cargo out of the worktree");
    for quiet in [&[][..], &["--quiet"]] {
        let ran = bench.ok(&[&["acquire"], quiet].concat());
        assert!(ran.err.contains(&warning), "{ran:?}");
        assert!(ran.err.contains("run: unset CARGO_TARGET_DIR"), "{ran:?}");
        assert!(Path::new(ran.out.trim_end()).is_dir(), "{ran:?}");
    }
    let acquired = bench.json(&["acquire", "--name", "mine"]);
    for document in [acquired, bench.json(&["show", "mine"])] {
        let reason = document["cache"]["reason"].as_str().expect("a reason");
        assert!(reason.contains(&warning), "{document}");
        let own = document["env"]["CARGO_TARGET_DIR"].as_str().expect("a value");
        let path = document["path"].as_str().expect("a path");
        assert_eq!(Path::new(own), Path::new(path).join("target"), "{document}");
    }
    says(&bench, "note", &warning);
    // `run` has its command build in the worktree, whatever the caller exported.
    let ran =
        bench.ok(&["run", "--", "sh", "-c", "cargo build -q --offline && ./target/debug/app"]);
    assert_eq!(ran.out, "one\n", "{ran:?}");
    assert!(!Path::new(&shared).exists());
    // A directory within the worktree leads nowhere else.
    let bench = bench.var("CARGO_TARGET_DIR", "out");
    let ran = bench.ok(&["acquire"]);
    assert!(!ran.err.contains("leads cargo out"), "{ran:?}");
}
