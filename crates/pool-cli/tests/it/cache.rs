//! Builds in leases, with real cargo, and the room that a pool takes.

use std::fs;
use std::path::PathBuf;

use crate::bench::{Bench, eventually};

/// A repository with a cargo workspace in it, and cargo where it is for this process.
fn cargo_bench() -> Bench {
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
