//! The corpus of dirty trees: each shape, through each end that a lease can have, with the program itself.
//! What goes comes back as it was; what can't be saved stays where it is, and is reported.
//!
//! Every shape plays one end in an ordinary run. `WTPOOL_CORPUS=all` plays all of them at each, and those that
//! need gigabytes; `WTPOOL_CORPUS=stash,socket` those shapes at each end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use testkit::fixture::dirty::{Cell, Fate, Need, Shape, assert_in_step};
use testkit::fixture::{Snapshot, State, snapshot, state, states};
use testkit::git;

use crate::bench::{Bench, PATIENCE, PROGRAM_COPY, WTPOOL, eventually_within, skip};

/// The table that users read.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CORPUS.md");

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// `wtpool release`.
    Release,
    /// Its TTL runs out, and the reaper sees it.
    Expiry,
    /// `wtpool run` and its command are killed.
    Crash,
    /// `wtpool end-session`, and `wtpool prune --all`.
    Prune,
}

impl End {
    const ALL: [Self; 4] = [Self::Release, Self::Expiry, Self::Crash, Self::Prune];

    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Expiry => "expiry",
            Self::Crash => "crash",
            Self::Prune => "end of session",
        }
    }
}

/// What has to become of a shape at that end.
fn expected(shape: Shape, end: End) -> Fate {
    match (shape, end) {
        // It can't be looked at, so nobody can tell whether its holder still writes there.
        (Shape::IndexCorrupt | Shape::GitFileDeleted | Shape::GitFileReplaced, End::Expiry) => {
            Fate::Kept("not known to be quiet")
        }
        _ => shape.fate(),
    }
}

/// A lease of a worktree, and what holds it.
struct Held<'a> {
    bench: &'a Bench,
    end: End,
    path: PathBuf,
    run: Option<Child>,
}

impl<'a> Held<'a> {
    fn new(bench: &'a Bench, end: End) -> Self {
        let options = ["--name", "shaped", "--linger", "0s"];
        if end != End::Crash {
            // While a session lives, a slot is reset and kept idle; else it is removed.
            let session: &[&str] = if end == End::Expiry { &[] } else { &["--session", "s"] };
            let path = bench.acquire(&[&options[..], &["--ttl", "1h"], session].concat());
            return Self { bench, end, path, run: None };
        }
        let script = ["--", "sh", "-c", "pwd; exec sleep 1000"];
        let mut command = bench.wtpool(&[&["run"], &options[..], &script].concat());
        let mut run = command.process_group(0).stderr(Stdio::null()).spawn().expect("start wtpool");
        let mut line = String::new();
        let out = run.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it is");
        let path = PathBuf::from(line.trim_end_matches('\n'));
        assert!(path.is_dir(), "{line:?}");
        Self { bench, end, path, run: Some(run) }
    }

    fn end(mut self) {
        match self.end {
            End::Release => drop(self.bench.run(&["release", "shaped"])),
            End::Expiry => drop(self.bench.ok(&["renew", "shaped", "--ttl", "1ms"])),
            End::Crash => self.kill(),
            End::Prune => {
                self.bench.run(&["end-session", "s"]);
                self.bench.run(&["prune", "--all"]);
            }
        }
    }

    fn kill(&mut self) {
        let Some(mut run) = self.run.take() else { return };
        let group = i32::try_from(run.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process_group(group, Signal::KILL).expect("they run");
        run.wait().expect("it was killed");
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What no end of a lease may touch.
#[derive(PartialEq)]
struct Elsewhere {
    main: State,
    outside: Option<Snapshot>,
}

impl Elsewhere {
    fn look(bench: &Bench) -> Self {
        let outside = bench.fixture.root().join("outside");
        let mut main = state(bench.repo());
        // Both have these in common, and they are looked at there.
        main.references.clear();
        main.files.retain(|path, _| !path.starts_with(b".git/"));
        main.directories.retain(|path, _| !path.starts_with(b".git/"));
        Self { main, outside: outside.exists().then(|| snapshot(outside)) }
    }
}

/// How long the end of a lease may take. Gigabytes are read, saved, and read once more.
fn patience(shape: Shape) -> Duration {
    if shape.need() == Some(Need::Space) { 20 * PATIENCE } else { PATIENCE }
}

/// Plays one shape at one end, and says what became of the worktree.
fn play(shape: Shape, end: End) -> Fate {
    /// There may be space for one of these.
    static LARGE: Mutex<()> = Mutex::new(());
    let _alone = (shape.need() == Some(Need::Space))
        .then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let bench = Bench::of(shape.layout()).var("WTPOOL_QUIET", "0s");
    // git clones no submodule from a local path unless the user's own configuration allows it.
    let allow = "[protocol \"file\"]\n\tallow = always\n";
    std::fs::write(bench.home.path().join(".gitconfig"), allow).expect("a home");
    let held = Held::new(&bench, end);
    let path = held.path.clone();
    shape.apply(&path);
    let before = states(&path);
    let elsewhere = Elsewhere::look(&bench);
    let known = commits(&path);
    let checked_out = submodules(&path);
    held.end();

    let mut slots = Vec::new();
    eventually_within(patience(shape), "the lease's end is dealt with", || {
        slots = bench.slots();
        slots.iter().all(|slot| {
            let why = slot["kept_because"].as_str().unwrap_or_default();
            match expected(shape, end) {
                Fate::Kept(expected) if why.contains(expected) => true,
                _ => slot["state"] == "quarantined" || slot["state"] == "free",
            }
        })
    });
    if slots.iter().any(|slot| slot["state"] == "free") {
        let args = ["status", "--porcelain", "--ignored", "--untracked-files=all"];
        assert_eq!(git(&path).args(args).stdout(), "", "it was not reset");
        bench.ok(&["prune", "--all"]);
        slots = bench.slots();
    }
    let fate = match slots.first() {
        Some(slot) => {
            let why = slot["kept_because"].as_str().expect("a reason");
            let fate = expected(shape, end);
            let Fate::Kept(expected) = fate else { panic!("kept: {why}") };
            assert!(why.contains(expected), "kept for another reason: {why}");
            let shown = bench.json(&["show", path.to_str().expect("UTF-8")]);
            assert_eq!(shown["kept_because"], slot["kept_because"]);
            let after = states(&path);
            assert!(before.keys().eq(after.keys()), "it was kept");
            for (before, after) in before.values().zip(after.values()) {
                assert_eq!(before.differences(after), Vec::<String>::new(), "it was kept");
            }
            fate
        }
        None => {
            assert!(!path.exists(), "it is neither listed nor gone");
            forget_all(&bench);
            for commit in known {
                let there = bench.fixture.git().args(["cat-file", "-e", &commit]).succeeds();
                assert!(there, "the commit {commit} is lost");
            }
            let rescues = bench.rescues();
            let worktrees: BTreeSet<_> = rescues.iter().map(|r| r["worktree"].as_str()).collect();
            assert_eq!(worktrees.len(), rescues.len(), "{rescues:?}");
            let fate = if rescues.is_empty() { Fate::Clean } else { Fate::Restored };
            let into = bench.fixture.root().join("back");
            let mut reference = "HEAD".to_owned();
            for (n, (worktree, before)) in before.into_iter().enumerate() {
                let is_of = |rescue: &&Value| rescue["worktree"].as_str() == worktree.as_deref();
                let rescue = rescues.iter().find(is_of);
                let into = match worktree {
                    Some(_) => bench.fixture.root().join(format!("back-{n}")),
                    None => into.clone(),
                };
                if let (None, Some(rescue)) = (&worktree, rescue) {
                    reference = rescue["ref"].as_str().expect("a reference").to_owned();
                }
                bring_back(&bench, &before, rescue, &into);
                compare(&bench, before, rescue, &into);
            }
            for (submodule, commit) in checked_out {
                let name = format!("{reference}:{submodule}");
                assert_eq!(git(&into).args(["rev-parse", &name]).stdout(), commit, "{submodule}");
            }
            fate
        }
    };
    assert!(elsewhere == Elsewhere::look(&bench), "something else was touched");
    fate
}

/// Each commit that a worktree's HEAD or reflog knows.
fn commits(worktree: &Path) -> Vec<String> {
    let known = git(worktree).args(["rev-list", "--reflog", "HEAD"]).output().stdout;
    String::from_utf8_lossy(&known).lines().map(str::to_owned).collect()
}

/// The submodules that are checked out, and at which commit.
fn submodules(worktree: &Path) -> BTreeMap<String, String> {
    let links = git(worktree).args(["ls-files", "--stage"]).output().stdout;
    let links = String::from_utf8_lossy(&links).into_owned();
    let paths = links.lines().filter(|line| line.starts_with("160000 "));
    let paths = paths.filter_map(|line| line.split_once('\t').map(|(_, path)| path.to_owned()));
    paths
        .filter(|path| worktree.join(path).join(".git").exists())
        .map(|path| {
            let head = git(worktree.join(&path)).args(["rev-parse", "HEAD"]).stdout();
            (path, head)
        })
        .collect()
}

/// Has git throw away all that no reference keeps. The stash is one by its reflog.
fn forget_all(bench: &Bench) {
    let git = || bench.fixture.git();
    let branches = git().args(["for-each-ref", "--format=%(refname)", "refs/heads"]).stdout();
    git()
        .args(["reflog", "expire", "--expire=all", "--expire-unreachable=all", "HEAD"])
        .args(branches.lines())
        .ok();
    git().args(["gc", "--quiet", "--prune=now"]).ok();
}

/// Makes the worktree again: from the rescue if there is one, else from the commit it stood at.
fn bring_back(bench: &Bench, before: &State, rescue: Option<&Value>, into: &Path) {
    let Some(rescue) = rescue else {
        let head = before.head.lines().next().expect("it had a commit");
        bench
            .fixture
            .git()
            .args(["worktree", "add", "--quiet", "--detach"])
            .arg(into)
            .arg(head)
            .ok();
        return;
    };
    let id = rescue["id"].as_str().expect("an id");
    bench.ok(&["rescue", "restore", id, "--into", into.to_str().expect("UTF-8")]);
}

/// Asserts that the worktree is back as it was.
fn compare(bench: &Bench, mut before: State, rescue: Option<&Value>, back: &Path) {
    let mut after = state(back);
    if rescue.is_none() {
        // What git does not keep by itself: how it came there, modes, and that it was on a branch.
        for state in [&mut before, &mut after] {
            state.own.clear();
            state.index_bytes = None;
            state.directories.clear();
            state.status.clear();
            state.head.truncate(state.head.find('\n').unwrap_or_default());
            state.files.values_mut().for_each(|entry| entry.mode &= 0o100);
        }
    }
    if before.index_bytes.is_none() {
        // A new one, as empty.
        after.index_bytes = None;
    }
    // A branch that a lease was given, and made nothing of, goes with it.
    let unused = format!("refs/heads/wtpool/shaped {}", bench.fixture.head());
    for state in [&mut before, &mut after] {
        state.references.remove(&unused);
    }
    // A worktree's own configuration may name commands. So it is saved, and restored only as far as it says
    // which files are there.
    let own = "config.worktree";
    if let (Some(saved), Some(rescue)) = (before.own.get(own).cloned(), rescue)
        && after.own.get(own) != Some(&saved)
    {
        let place = format!("{}^3:state/config.worktree", rescue["ref"].as_str().expect("a ref"));
        let second = place.replace("^3:", "^2:");
        let git = |place: &str| bench.fixture.git().args(["cat-file", "-p", place]);
        let found = if git(&place).succeeds() { git(&place).bytes() } else { git(&second).bytes() };
        assert_eq!(found, saved, "it is not saved");
        for state in [&mut before, &mut after] {
            state.own.remove(own);
            // It is what that made git see.
            state.status.clear();
        }
    }
    assert_eq!(before.differences(&after), Vec::<String>::new(), "it is not what it was");
    bench.fixture.git().args(["fsck", "--no-dangling"]).ok();
}

/// Plays these, four at a time, and asserts that of each became what had to.
fn play_all(plays: &[(Shape, End)]) {
    let todo = Mutex::new(plays.iter().rev().copied().collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((shape, end)) = todo.lock().expect("no panic here").pop() else {
                        return;
                    };
                    let text = match std::panic::catch_unwind(|| play(shape, end)) {
                        Ok(fate) if fate == expected(shape, end) => continue,
                        Ok(fate) => format!("{fate:?} instead of {:?}", expected(shape, end)),
                        Err(panic) => said(panic.as_ref()),
                    };
                    let text = format!("{} at {}: {text}", shape.name(), end.name());
                    failed.lock().expect("no panic here").push(text);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic here");
    assert!(failed.is_empty(), "{} of them:\n\n{}", failed.len(), failed.join("\n\n"));
}

/// Asserts that the table says of these what they came to, which is what they had to.
fn assert_in_table(plays: &[(Shape, End)]) {
    let cell = |(shape, end): &(Shape, End)| Cell {
        shape: *shape,
        end: end.name().to_owned(),
        fate: expected(*shape, *end),
    };
    let cells: Vec<Cell> = plays.iter().map(cell).collect();
    assert_in_step(Path::new(TABLE), &End::ALL.map(End::name), &cells);
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "it panicked".to_owned(),
    }
}

/// Which shapes and ends to play, of those that `may` be: what is asked for at each end, or each shape at
/// one of them.
fn wanted(may: impl Fn(Shape) -> bool) -> Vec<(Shape, End)> {
    let all = Shape::all();
    let asked = std::env::var("WTPOOL_CORPUS").ok();
    let names: Option<Vec<&str>> =
        asked.as_deref().filter(|names| *names != "all").map(|names| names.split(',').collect());
    for name in names.iter().flatten() {
        assert!(all.iter().any(|s| s.name() == *name), "WTPOOL_CORPUS: there is no shape {name}");
    }
    let everyday = asked.is_none();
    let mut plays = Vec::new();
    for (n, shape) in all.into_iter().enumerate().filter(|(_, shape)| may(*shape)) {
        let name = shape.name();
        let wanted = match &names {
            Some(names) => names.contains(&&*name),
            None => !everyday || shape.need() != Some(Need::Space),
        };
        for (m, end) in End::ALL.into_iter().enumerate() {
            if wanted && (!everyday || n % End::ALL.len() == m) {
                plays.push((shape, end));
            }
        }
    }
    plays
}

fn has_lfs() -> bool {
    Command::new("git").args(["lfs", "version"]).output().is_ok_and(|o| o.status.success())
}

#[test]
fn nothing_is_lost() {
    let lfs = has_lfs();
    if !lfs {
        skip("git-lfs is not installed");
    }
    let plays = wanted(|shape| match shape.need() {
        Some(Need::User) => false,
        Some(Need::GitLfs) => lfs,
        _ => true,
    });
    play_all(&plays);
    assert_in_table(&plays);
}

/// Root may read everything. So this is played as another user, by a process of its own.
#[test]
fn nothing_is_lost_that_may_not_be_read() {
    let plays = wanted(|shape| shape.need() == Some(Need::User));
    if !rustix::process::geteuid().is_root() {
        play_all(&plays);
        return assert_in_table(&plays);
    }
    let home = reachable_dir();
    // The checkout, and so what was built there, may lie where only root may go, as may `TMPDIR`.
    let [wtpool, this] =
        [Path::new(WTPOOL), &std::env::current_exe().expect("this program")].map(|program| {
            let copy = home.path().join(program.file_name().expect("a program's name"));
            std::fs::copy(program, &copy).expect("copied");
            copy
        });
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let program = Command::new("setpriv").args(nobody).arg(&wtpool).arg("--version").output();
    let owned = Command::new("chown").arg("65534:65534").arg(home.path()).status();
    if !program.is_ok_and(|o| o.status.success()) || !owned.is_ok_and(|status| status.success()) {
        skip("this runs as root, and can't become another user who may run the program");
        return;
    }
    let output = Command::new("setpriv")
        .args(nobody)
        .arg(&this)
        .args(["corpus::not_as_root", "--exact", "--ignored", "--nocapture"])
        .env("TMPDIR", home.path())
        .env(PROGRAM_COPY, &wtpool)
        .env("HOME", home.path())
        .current_dir(home.path())
        .output()
        .expect("it was started before");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    assert_in_table(&plays);
}

/// A temporary directory that other users may enter.
fn reachable_dir() -> tempfile::TempDir {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let may_enter = |dir: &Path| {
        let real = dir.canonicalize();
        real.is_ok_and(|real| {
            real.ancestors()
                .all(|dir| dir.metadata().is_ok_and(|meta| meta.mode() & 0o005 == 0o005))
        })
    };
    let places = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()];
    let place = places.into_iter().find(|dir| may_enter(dir)).unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(place).expect("a directory");
    // What is copied into it is made by root, under whatever mask of modes.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its own");
    dir
}

#[test]
#[ignore = "run by another test as a user who is not root"]
fn not_as_root() {
    if !rustix::process::geteuid().is_root() {
        play_all(&wanted(|shape| shape.need() == Some(Need::User)));
    }
}
