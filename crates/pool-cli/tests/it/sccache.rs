//! A cache of compilations whose server a build starts, and the lease that build is in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::bench::{Bench, eventually, finish, kill, ran, skip, write};

/// A repository with a package that depends on one from a registry, and leases that would wait an hour for
/// whatever still held them.
fn bench() -> Bench {
    let bench = Bench::new().var("WTPOOL_CACHE__STRATEGY", "sccache").var("WTPOOL_GRACE", "1h");
    let (root, repo) = (bench.fixture.root(), bench.repo());
    let registry = root.join("registry");
    for dir in [".cargo", "registry/leaf/src"] {
        fs::create_dir_all(root.join(dir)).expect("made");
    }
    fs::create_dir_all(repo.join("src")).expect("made");
    let config = format!(
        "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = {registry:?}\n"
    );
    write(root.join(".cargo/config.toml"), &config);
    let manifest = |name| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n");
    write(registry.join("leaf/Cargo.toml"), &manifest("leaf"));
    write(registry.join("leaf/src/lib.rs"), "pub fn word() {}\n");
    write(registry.join("leaf/.cargo-checksum.json"), "{\"files\":{}}");
    write(repo.join("Cargo.toml"), &(manifest("app") + "[dependencies]\nleaf = \"0.1\"\n"));
    write(repo.join("src/main.rs"), "fn main() {\n    leaf::word();\n}\n");
    bench.fixture.git().args(["add", "Cargo.toml", "src"]).ok();
    bench.fixture.git().args(["commit", "-qm", "a package"]).ok();
    bench
}

/// The program, with what cargo needs, and nothing of the cargo around this test.
fn with_cargo(bench: &Bench, args: &[&str]) -> Command {
    let mut command = bench.wtpool(args);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = ["CARGO", "RUSTC", "RUSTFLAGS", "SCCACHE_"];
        if text != "CARGO_HOME" && foreign.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    // rustup is at home there.
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    command.env("CARGO_NET_OFFLINE", "true");
    command
}

/// The servers of that pool: processes that have its socket in their environment. Clients end soon.
fn servers(pool: &Path) -> Vec<String> {
    let ours = format!("SCCACHE_SERVER_UDS={}/", pool.display());
    let has = |process: &PathBuf| {
        let vars = fs::read(process.join("environ")).unwrap_or_default();
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let is = vars.split(|byte| *byte == 0).any(|var| var.starts_with(ours.as_bytes()));
        is && name.trim() == "sccache"
    };
    let processes = fs::read_dir("/proc").expect("processes");
    let processes = processes.map(|process| process.expect("a process").path());
    let name = |process: PathBuf| process.file_name()?.to_str().map(str::to_owned);
    processes.filter(has).filter_map(name).collect()
}

#[test]
fn a_server_that_a_build_starts_does_not_hold_its_lease() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("sccache").is_file()) {
        return skip("sccache is not installed");
    }
    let bench = bench();
    let root = bench.fixture.root().canonicalize().expect("it exists");
    let pool = bench.pool();
    let mut other = with_cargo(&bench, &["acquire", "--json", "--name", "other"]);
    let other: serde_json::Value =
        serde_json::from_str(&finish(&mut other).out).expect("a document");
    assert_eq!(other["cache"]["strategy"], "sccache", "{other}");
    let script = format!(
        "wait_for() {{ until [ -e {0}/$1 ]; do sleep 0.02; done; }}; \
         touch {0}/ready; wait_for killed; cargo build -q || exit 1; touch {0}/built; wait_for seen",
        root.display()
    );
    let run = ["run", "--name", "one", "--", "sh", "-c", &script];
    let child = with_cargo(&bench, &run).spawn().expect("start wtpool");
    eventually("the command runs", || root.join("ready").exists());
    let before = servers(&pool);
    assert_eq!(before.len(), 1, "both leases have the same one");
    kill(&before[0], Signal::KILL);
    eventually("it is gone", || servers(&pool).is_empty());
    write(root.join("killed"), "");
    eventually("it is built", || root.join("built").exists());
    let after = servers(&pool);
    write(root.join("seen"), "");
    let ran = ran(child.wait_with_output().expect("it ends"));
    assert!(ran.code == Some(0) && !ran.err.contains("still runs"), "{ran:?}");
    assert_eq!(after.len(), 1, "the build started one");
    assert_eq!(servers(&pool), after, "it outlived that lease");
    let left: Vec<_> = bench.slots().iter().map(|slot| slot["lease"]["name"].clone()).collect();
    assert_eq!(left, ["other"]);
    // The last one turns off the light.
    bench.ok(&["release", "other", "--linger", "0s"]);
    bench.ok(&["prune", "--all"]);
    eventually("the server ends", || servers(&pool).is_empty());
}

/// An option says so, and not the settings, by which slots are removed.
#[test]
fn a_server_that_an_option_asked_for_ends_with_the_slots() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("sccache").is_file()) {
        return skip("sccache is not installed");
    }
    let bench = bench().var("WTPOOL_CACHE__STRATEGY", "private");
    let pool = bench.pool();
    let mut warm = with_cargo(&bench, &["warm", "1", "--cache", "sccache"]);
    let warmed = finish(&mut warm);
    assert_eq!(warmed.code, Some(0), "{warmed:?}");
    assert_eq!(servers(&pool).len(), 1);
    let mut one = with_cargo(&bench, &["acquire", "--name", "one", "--cache", "sccache"]);
    let mut other = with_cargo(&bench, &["acquire", "--name", "other", "--cache", "sccache"]);
    assert_eq!((finish(&mut one).code, finish(&mut other).code), (Some(0), Some(0)));
    let mut doctor = with_cargo(&bench, &["doctor"]);
    let said = finish(doctor.env("WTPOOL_CACHE__STRATEGY", "sccache")).out;
    assert!(said.contains("a server runs: 0 compilations were found"), "{said}");
    bench.ok(&["release", "one", "--linger", "0s"]);
    bench.ok(&["prune", "--all"]);
    assert_eq!(servers(&pool).len(), 1, "the other one still needs it");
    bench.ok(&["release", "other", "--linger", "0s"]);
    bench.ok(&["prune", "--all"]);
    eventually("the server ends", || servers(&pool).is_empty());
    let mut doctor = with_cargo(&bench, &["doctor"]);
    let said = finish(doctor.env("WTPOOL_CACHE__STRATEGY", "sccache")).out;
    assert!(said.contains("no server runs; the next lease starts one"), "{said}");
}

/// What sccache sees to by itself by now, for a program that doesn't.
#[test]
fn nor_does_any_daemon_of_a_wrapper() {
    let bench = bench();
    let pid_file = bench.fixture.root().join("pid");
    let wrapper = bench.fixture.root().join("wrapper");
    let script = format!(
        "#!/bin/sh\nsleep 1000 </dev/null >/dev/null 2>&1 &\necho $! > {}\nexec \"$@\"\n",
        pid_file.display()
    );
    write(&wrapper, &script);
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("set");
    let mut run = with_cargo(&bench, &["run", "--", "cargo", "build", "-q"]);
    let ran = finish(run.env("WTPOOL_CACHE__WRAPPER", &wrapper).stdin(Stdio::null()));
    let pid = fs::read_to_string(&pid_file).unwrap_or_else(|e| panic!("no daemon: {e}: {ran:?}"));
    let slots = bench.slots();
    kill(&pid, Signal::KILL);
    assert!(ran.code == Some(0) && !ran.err.contains("still runs"), "{ran:?}");
    assert!(slots.is_empty(), "{slots:?}");
}
