//! What a build looks at is seen, whichever way it looks.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const HASH: &str = "0123456789abcdef";

/// What was done with paths below a directory, relative to it; or what cannot be accounted for.
type Acts = BTreeSet<(String, PathBuf)>;

struct Play {
    dir: TempDir,
}

impl Play {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("inner")).expect("made");
        fs::write(dir.path().join("there"), "").expect("written");
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("it is there")
    }

    /// Runs a shell script, as if cargo ran rustc in its place.
    fn observe(&self, script: &str) -> (Output, BTreeMap<String, Acts>) {
        let compiler = self.root().join("compiler");
        fs::write(&compiler, script).expect("written");
        self.observe_command(&["sh", "-c", &format!("sh {} {}", compiler.display(), call())])
    }

    fn observe_command(&self, command: &[&str]) -> (Output, BTreeMap<String, Acts>) {
        let log = self.root().join("log");
        let mut observer = Command::new(env!("CARGO_BIN_EXE_wtpool-rustc"));
        observer.arg("--observe").arg(&log).args(command).current_dir(self.root());
        let output = observer.output().expect("the observer runs");
        let text = fs::read(&log).unwrap_or_default();
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<serde_json::Value>();
        let units = lines.map(|line| {
            let line = line.expect("JSON");
            let acts = line["acts"].as_array().expect("a list").iter().filter_map(|act| {
                let (what, path) = (act[0].as_str()?, Path::new(act[1].as_str()?));
                let inside = path.strip_prefix(self.root()).ok();
                let told = inside.or((what == "Unaccountable").then_some(path))?;
                Some((what.to_owned(), told.to_owned()))
            });
            (line["unit"].to_string(), acts.collect())
        });
        (output, units.collect())
    }
}

fn call() -> String {
    format!("--crate-name app --out-dir /out -C metadata=1 -C extra-filename=-{HASH}")
}

/// Asserts that this is all that the script does below its directory.
fn assert_seen(script: &str, expected: &[(&str, &str)]) {
    let play = Play::new();
    let (output, units) = play.observe(script);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(units.len(), 1, "{script}: {units:?}");
    let mut acts = units.into_values().next().expect("one unit");
    // The shell reads the script, and asks where it is.
    acts.remove(&("Looked".to_owned(), "compiler".into()));
    acts.remove(&("Looked".to_owned(), "".into()));
    let expected = expected.iter().map(|(act, path)| ((*act).to_owned(), PathBuf::from(path)));
    assert_eq!(acts, expected.collect(), "{script}");
}

#[test]
fn what_is_opened_is_seen_whether_it_is_there_or_not() {
    assert_seen("cat there > /dev/null", &[("Looked", "there")]);
    assert_seen("cat absent 2> /dev/null || true", &[("Looked", "absent")]);
    assert_seen("test -e inner/absent || true", &[("Looked", "inner/absent")]);
    assert_seen("cd inner; : < ../there", &[("Looked", "inner"), ("Looked", "inner/../there")]);
}

#[test]
fn what_is_listed_and_what_is_written_is_told_apart() {
    assert_seen("set -- $(echo inner/*)", &[("Listed", "inner"), ("Looked", "inner")]);
    assert_seen("echo x > inner/new", &[("Wrote", "inner/new")]);
    assert_seen("mkdir a; rmdir a", &[("Wrote", "a")]);
    assert_seen("ln -s there link", &[("Wrote", "link")]);
}

#[test]
fn what_is_started_by_it_belongs_to_it() {
    assert_seen("sh -c 'sh -c \"cat there\" &  wait' > /dev/null", &[("Looked", "there")]);
    // Also if it looks like another one.
    let other = call().replace(HASH, "fedcba9876543210");
    assert_seen(&format!("sh -c 'cat there' x {other} > /dev/null"), &[("Looked", "there")]);
}

#[test]
fn threads_are_followed() {
    let script = "python3 -Ic 'import threading, os; t = [threading.Thread(target=lambda: \
                  os.path.exists(\"inner/thread\")) for _ in range(9)]; \
                  [x.start() for x in t]; [x.join() for x in t]'";
    if Command::new("python3").arg("--version").output().is_err() {
        crate::support::skipped("python3 is not installed");
        return;
    }
    let (_, units) = Play::new().observe(script);
    let looked = ("Looked".to_owned(), "inner/thread".into());
    assert!(units.values().any(|acts| acts.contains(&looked)), "{units:?}");
}

#[test]
fn each_unit_has_its_own() {
    let play = Play::new();
    let compiler = play.root().join("compiler");
    fs::write(&compiler, "cat $CARGO_TEST_FILE").expect("written");
    let one = format!("sh {} {}", compiler.display(), call());
    let other = one.replace(HASH, "fedcba9876543210");
    let both = format!("CARGO_TEST_FILE=there {one} & CARGO_TEST_FILE=inner/x {other}; wait");
    let (_, units) = play.observe_command(&["sh", "-c", &both]);
    assert_eq!(units.len(), 2, "{units:?}");
    let looked = |hash: &str, path: &str| {
        let unit = units.iter().find(|(unit, _)| unit.contains(hash)).expect("it is there");
        unit.1.contains(&("Looked".to_owned(), path.into()))
    };
    assert!(looked(HASH, "there") && !looked(HASH, "inner/x"));
    assert!(looked("fedcba9876543210", "inner/x") && !looked("fedcba9876543210", "there"));
}

#[test]
fn exit_statuses_and_signals_are_passed_on() {
    let status = |script: &str| Play::new().observe(script).0.status.code();
    assert_eq!(status("exit 0"), Some(0));
    assert_eq!(status("exit 3"), Some(3));
    let (output, _) = Play::new().observe_command(&["sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.code(), Some(143));
    let (output, _) = Play::new().observe_command(&["/no/such/program"]);
    assert_eq!(output.status.code(), Some(127));
}

/// A build that was given up must not go on.
#[test]
fn what_is_observed_ends_with_the_observer() {
    let play = Play::new();
    let (log, begun) = (play.root().join("log"), play.root().join("begun"));
    let mut observer = Command::new(env!("CARGO_BIN_EXE_wtpool-rustc"));
    let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", begun.display());
    let observer = observer.arg("--observe").arg(&log).args(["sh", "-c", &script]);
    let mut observer = observer.current_dir(play.root()).spawn().expect("the observer runs");
    let pid = loop {
        match fs::read_to_string(&begun) {
            Ok(pid) => break pid.trim().to_owned(),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    observer.kill().expect("killed");
    observer.wait().expect("it ends");
    let proc = Path::new("/proc").join(pid);
    // A zombie has no memory any more.
    let is_gone = || fs::read_to_string(proc.join("statm")).map_or(true, |m| m.starts_with("0 "));
    while !is_gone() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
