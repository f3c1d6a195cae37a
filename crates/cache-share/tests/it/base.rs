//! The life cycle of a base, beside processes that build, read, condemn and remove it; and what of
//! it can't be removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use cache_share::{Seeded, Setup};
use pool_core::{CacheFinding, CommitId, ContentId, Prepared, Result, SlotId, Sources};

#[cfg(target_os = "linux")]
use crate::damage::{INSIDE, again};
use crate::support::{Lease, Workshop, commit, request, write};

const BUILT: Prepared = Prepared::Built { trouble: None };

/// So long something may take that is to happen by itself.
const PATIENCE: Duration = Duration::from_secs(120);

fn workshop() -> Workshop {
    workshop_with(|_| ())
}

fn workshop_with(change: impl FnOnce(&mut Setup)) -> Workshop {
    Workshop::with(&files(), change)
}

fn files() -> [(&'static str, &'static str); 2] {
    let manifest = "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    [("Cargo.toml", manifest), ("src/main.rs", "fn main() {\n    println!(\"one\");\n}\n")]
}

/// Another commit, whose program says that.
fn say(workshop: &Workshop, word: &str) {
    let main = format!("fn main() {{\n    println!(\"{word}\");\n}}\n");
    write(&workshop.repo(), "src/main.rs", &main);
    commit(&workshop.repo());
}

fn assert_warm(lease: &Lease, word: &str) {
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.built_anew("build"), Vec::<String>::new());
    assert_eq!(lease.shows("run --quiet"), word);
}

fn trim(workshop: &Workshop) -> u64 {
    let cache = workshop.pool().cache().expect("there is one");
    workshop.block_on(cache.trim(0)).expect("trimmed")
}

fn numbers(workshop: &Workshop) -> Vec<u64> {
    let entries = fs::read_dir(workshop.pool_dir().join("cache/base")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut found: Vec<u64> = names
        .map(|name| name.to_str().and_then(|name| name.parse().ok()).expect("a number"))
        .collect();
    found.sort_unstable();
    found
}

/// What `doctor` says.
fn findings(workshop: &Workshop) -> Vec<CacheFinding> {
    let cache = workshop.pool().cache().expect("there is one");
    workshop.block_on(cache.examine(&workshop.repo()))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory in which nothing is but a manifest is no base.
#[test]
fn manifest_in_an_empty_directory_is_no_base() {
    let workshop = workshop();
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    for entry in fs::read_dir(workshop.base(1)).expect("built").flatten() {
        if entry.file_name() != "manifest.json" {
            let (path, is_dir) = (entry.path(), entry.file_type().expect("a type").is_dir());
            if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        }
    }
    let lease = workshop.lease("main");
    assert!(!lease.is_warm());
    assert!(lease.reason().contains("base 1 is damaged"), "{}", lease.reason());
    assert!(lease.0.lease().attachment.unprepared);
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_warm(&workshop.lease("main"), "one");
}

/// The same for a base without any unit, of which no file can be missed.
#[test]
fn manifest_without_units_in_an_empty_directory_is_no_base() {
    let workshop = workshop_with(|setup| setup.wrapper = None);
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_eq!(workshop.warm("main").expect("there"), Prepared::Present);
    let lease = workshop.lease("main");
    assert!(!lease.is_warm() && lease.reason().contains("nothing in base 1"), "{}", lease.reason());
    workshop.release(lease);
    fs::remove_dir_all(workshop.base(1).join("tree")).expect("removed");
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
}

#[test]
fn whole_base_is_used_instead_of_a_newer_broken_one() {
    let workshop = workshop();
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    let first = workshop.lease("main");
    // Nothing is made from it, so that a slot of it may have all of the first base.
    write(&workshop.repo(), "notes.md", "two\n");
    commit(&workshop.repo());
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_eq!(numbers(&workshop), [1, 2], "a slot uses the first one");
    fs::remove_dir_all(workshop.base(2).join("tree/target")).expect("removed");
    let lease = workshop.lease("main");
    assert_warm(&lease, "one");
    assert!(lease.reason().contains("base 2 is damaged"), "{}", lease.reason());
    assert!(lease.0.lease().attachment.unprepared, "nothing asks for a new one");
    let next = workshop.lease("main");
    assert_warm(&next, "one");
    assert!(!next.0.lease().attachment.unprepared, "it was asked for already");
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_warm(&workshop.lease("main"), "one");
    assert_eq!(numbers(&workshop), [1, 3]);
    assert_eq!(first.shows("run --quiet"), "one");
}

#[test]
fn build_that_comes_to_nothing_leaves_no_base_and_shows_its_log() {
    let command = "echo it goes wrong; exit 3";
    let workshop = workshop_with(|setup| setup.warm_command = Some(command.to_owned()));
    let error = workshop.warm("main").expect_err("nothing is built");
    assert!(error.to_string().contains("it goes wrong"), "{error}");
    assert!(error.hint().expect("a hint").contains("cache/base/1/build.log"), "{error:?}");
    assert!(!workshop.base(1).join("manifest.json").exists());
    assert!(!workshop.base(1).join("tree").exists(), "it takes disk for nothing");
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("base 1 came to nothing"), "{}", lease.reason());
    assert!(lease.reason().contains("exit status: 3"), "{}", lease.reason());
    // The next lease of that commit does not try it again; a person may.
    assert!(!lease.is_warm() && !lease.0.lease().attachment.unprepared);
    workshop.warm("main").expect_err("nothing is built");
    assert_eq!(numbers(&workshop), [2]);
    say(&workshop, "two");
    let next = workshop.lease("main");
    assert!(next.0.lease().attachment.unprepared, "another commit may be built");
}

#[test]
fn command_that_builds_nothing_leaves_no_base() {
    let workshop = workshop_with(|setup| setup.warm_command = Some("true".to_owned()));
    let error = workshop.warm("main").expect_err("nothing is built");
    assert!(error.to_string().contains("`true` built nothing"), "{error}");
}

#[test]
fn build_that_comes_to_nothing_displaces_no_base() {
    let workshop = workshop_with(|setup| {
        let command = "if grep -q two src/main.rs; then echo broken; exit 1; else cargo build; fi";
        setup.warm_command = Some(command.to_owned());
    });
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    say(&workshop, "two");
    let Prepared::Failed { why } = workshop.warm("main").expect("there is one") else {
        panic!("it was built");
    };
    assert!(why.contains("start from base 1") && why.contains("broken"), "{why}");
    assert_warm(&workshop.lease("main~1"), "one");
    assert_eq!(numbers(&workshop), [1, 2]);
}

/// Says where to stop, and is told to go on.
#[derive(Debug)]
struct Gate {
    reached: Sender<()>,
    go_on: Receiver<()>,
}

/// Stops the next task that asks for the files of a commit. A slot does so after the choice of its
/// base, and before its record names the base.
#[derive(Debug)]
struct Stopping {
    inner: Arc<dyn Sources>,
    gate: Arc<Mutex<Option<Gate>>>,
}

#[async_trait]
impl Sources for Stopping {
    async fn files(&self, commit: &CommitId) -> Result<BTreeMap<PathBuf, ContentId>> {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(gate) = gate {
            let waited = tokio::task::spawn_blocking(move || {
                gate.reached.send(()).expect("the test waits");
                gate.go_on.recv().expect("the test says so");
            });
            waited.await.expect("it does not panic");
        }
        self.inner.files(commit).await
    }

    async fn export(&self, commit: &CommitId, into: &Path) -> Result<()> {
        self.inner.export(commit, into).await
    }

    async fn stamp(&self, slot: SlotId, times: BTreeMap<PathBuf, SystemTime>) -> Result<()> {
        self.inner.stamp(slot, times).await
    }
}

#[test]
fn base_that_a_slot_is_about_to_use_is_kept() {
    let gate: Arc<Mutex<Option<Gate>>> = Arc::default();
    let of_pool = gate.clone();
    let workshop = Workshop::using(&files(), |mut setup| {
        setup.sources = Arc::new(Stopping { inner: setup.sources.clone(), gate: of_pool });
        Arc::new(Seeded::new(setup))
    });
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    say(&workshop, "two");
    let (reached, is_reached) = channel();
    let (go_on, told) = channel();
    let stopped = Gate { reached, go_on: told };
    *gate.lock().expect("not poisoned") = Some(stopped);
    let pool = workshop.pool().clone();
    let asked = workshop.spawn(async move { pool.acquire(request("main~1")).await });
    is_reached.recv_timeout(PATIENCE).expect("a slot is given files of the base");
    assert_eq!(trim(&workshop), 0);
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_eq!(numbers(&workshop), [1, 2]);
    go_on.send(()).expect("it waits");
    let lease = Lease(workshop.block_on(asked).expect("no panic").expect("given"));
    assert_warm(&lease, "one");
    // From now on the slot's record keeps it.
    trim(&workshop);
    assert_eq!(numbers(&workshop), [1]);
}

/// Writes a file when it is dropped: a build that waits for it ends even if the test fails.
struct Touches<'a>(&'a Path);

impl Drop for Touches<'_> {
    fn drop(&mut self) {
        let _ = fs::write(self.0, "");
    }
}

#[test]
fn base_that_is_being_built_is_not_trimmed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [begun, go_on] = ["begun", "go-on"].map(|name| dir.path().join(name));
    let command = format!(
        "if grep -q two src/main.rs; then touch '{}'; while ! [ -e '{}' ]; do sleep 0.05; done; fi; \
         cargo build --quiet",
        begun.display(),
        go_on.display()
    );
    let workshop = workshop_with(|setup| setup.warm_command = Some(command));
    let _ends = Touches(&go_on);
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    say(&workshop, "two");
    let pool = workshop.pool().clone();
    let warming = workshop
        .spawn(async move { pool.prepare_cache(Some("main".to_owned()), None, &|_| ()).await });
    until("a build", || begun.exists());
    // The others go, in the middle of it.
    assert!(trim(&workshop) > 0, "a build keeps what nothing uses");
    assert_eq!(numbers(&workshop), [2]);
    assert_eq!(workshop.warm("main").expect("asked"), Prepared::Busy);
    let lease = workshop.lease("main");
    assert!(
        !lease.is_warm() && lease.reason().contains("base 2 is being built"),
        "{}",
        lease.reason()
    );
    fs::write(&go_on, "").expect("written");
    assert_eq!(workshop.block_on(warming).expect("no panic").expect("built"), BUILT);
    assert_warm(&workshop.lease("main"), "two");
}

/// The build itself deletes what it is built in.
#[test]
fn base_whose_directory_goes_while_it_is_built_is_none() {
    let command = "cargo build --quiet && rm -rf ../../../base ../tree";
    let workshop = workshop_with(|setup| setup.warm_command = Some(command.to_owned()));
    let error = workshop.warm("main").expect_err("there is nothing");
    assert!(!workshop.base(1).exists(), "{error}");
    let lease = workshop.lease("main");
    assert!(!lease.is_warm() && !lease.reason().is_empty());
}

/// All at once, again and again; each lease is what its commit says, and cold only for a reason.
#[test]
fn trimming_warming_and_leasing_exclude_each_other() {
    let workshop = workshop();
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    say(&workshop, "two");
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, trimmed) = (stop.clone(), workshop.pool().clone());
    let trimming = workshop.spawn(async move {
        while !ended.load(Relaxed) {
            trimmed.cache().expect("there is one").trim(0).await.expect("trimmed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (ended, pool) = (stop.clone(), workshop.pool().clone());
    let warming = workshop.spawn(async move {
        for round in 0.. {
            if ended.load(Relaxed) {
                break;
            }
            let base = if round % 2 == 0 { "main" } else { "main~1" };
            let built = pool.prepare_cache(Some(base.to_owned()), None, &|_| ()).await;
            assert!(
                matches!(built, Ok(Prepared::Present | Prepared::Built { trouble: None })),
                "{built:?}"
            );
        }
    });
    for round in 0..8 {
        let (revision, word) = if round % 2 == 0 { ("main", "two") } else { ("main~1", "one") };
        let lease = workshop.lease(revision);
        assert!(lease.is_warm() || !lease.reason().is_empty(), "cold without a reason");
        assert!(!lease.reason().contains("damaged"), "{}", lease.reason());
        assert_eq!(lease.shows("run --quiet"), word);
        workshop.release(lease);
    }
    stop.store(true, Relaxed);
    workshop.block_on(trimming).expect("no panic");
    workshop.block_on(warming).expect("no panic");
}

/// A build script that leaves a read-only directory, as caches of modules do.
#[cfg(target_os = "linux")]
fn read_only_workshop() -> Workshop {
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
                  let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
                  let dir = std::path::Path::new(&out).join(\"modules\");\n    \
                  std::fs::create_dir_all(&dir).unwrap();\n    \
                  std::fs::write(dir.join(\"file\"), \"x\").unwrap();\n    \
                  let mut mode = std::fs::metadata(&dir).unwrap().permissions();\n    \
                  mode.set_readonly(true);\n    \
                  std::fs::set_permissions(&dir, mode).unwrap();\n}\n";
    let [manifest, main] = files();
    Workshop::new(&[manifest, main, ("build.rs", script)])
}

/// As a user who is not above permissions.
#[cfg(target_os = "linux")]
#[test]
fn base_with_read_only_directories_is_removed_like_any_other() {
    if std::env::var_os(INSIDE).is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drop = "exec setpriv --bounding-set -all --inh-caps -all --no-new-privs \"$0\" \"$@\"";
        let test = "base::base_with_read_only_directories_is_removed_like_any_other";
        return again(test, &["-Ur"], drop, dir.path());
    }
    let workshop = read_only_workshop();
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert!(trim(&workshop) > 0);
    assert_eq!(numbers(&workshop), [0; 0]);
    // One that its builder left, and one that another displaces.
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    fs::remove_file(workshop.base(2).join("manifest.json")).expect("removed");
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    say(&workshop, "two");
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_eq!(numbers(&workshop), [4]);
    assert!(!workshop.pool_dir().join("cache/base.removed").exists());
    let lease = workshop.lease("main");
    assert_warm(&lease, "two");
}

/// Something is mounted in a base, in a mount namespace of this test's own.
#[cfg(target_os = "linux")]
#[test]
fn base_that_cant_be_removed_is_set_aside_and_named() {
    if std::env::var_os(INSIDE).is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let test = "base::base_that_cant_be_removed_is_set_aside_and_named";
        return again(test, &["-rm"], "exec \"$0\" \"$@\"", dir.path());
    }
    let mount = |dir: &Path| {
        let mut mount = std::process::Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "none"]).arg(dir).status().expect("mount runs");
        assert!(done.success());
        fs::write(dir.join("precious"), "x").expect("written");
    };
    let workshop = workshop();
    for (number, below) in [(1, "tree/target/debug/deps"), (2, "")] {
        assert_eq!(workshop.warm("main").expect("built"), BUILT, "base {number}");
        assert_warm_again(&workshop);
        mount(&workshop.base(number).join(below));
        say(&workshop, &format!("commit {number}"));
    }
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    assert_warm_again(&workshop);
    assert_eq!(workshop.warm("main").expect("there"), Prepared::Present);
    let aside = workshop.pool_dir().join("cache/base.removed/1");
    let inside = aside.join("tree/target/debug/deps");
    assert_eq!(fs::read(inside.join("precious")).expect("another filesystem's file"), b"x");
    let said = findings(&workshop);
    let names = |path: &Path| {
        let path = path.display().to_string();
        said.iter().any(|one| one.advice.is_some() && one.message.contains(&path))
    };
    assert!(names(&aside) && names(&workshop.base(2)), "{said:?}");
    assert_eq!(fs::read(workshop.base(2).join("precious")).expect("there"), b"x");
    trim(&workshop);
    assert_eq!(workshop.warm("main").expect("built"), BUILT);
    let unmounted = std::process::Command::new("umount").arg(&inside).status().expect("it runs");
    assert!(unmounted.success());
    workshop.block_on(workshop.pool().reconcile()).expect("reconciled");
    assert!(!aside.exists(), "it is tried no more");
}

#[cfg(target_os = "linux")]
fn assert_warm_again(workshop: &Workshop) {
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    workshop.release(lease);
    // No slot keeps a base.
    let all = pool_core::PruneOptions { all: true, ..pool_core::PruneOptions::default() };
    workshop.block_on(workshop.pool().prune(all, &|_| ())).expect("pruned");
}
