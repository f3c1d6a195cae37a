//! A loss of power: what is reported is on the disk by then, in the right order. What a disk makes of it is tried
//! by `cargo xtask power`, which has to be root; here it is asked what the program told the system to do.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::{Bench, skip, write};

/// The calls that bring something to the disk or move or remove something, in order.
struct Trace(Vec<String>);

impl Trace {
    /// Runs wtpool and looks at what it does; `None`, said aloud, where that can't be seen.
    fn of(bench: &Bench, args: &[&str]) -> Option<Self> {
        let file = bench.fixture.root().join("trace");
        let calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,rmdir";
        let mut all = vec!["-f", "-y", "-qq", "-s", "4096", "-e", calls, "-o"];
        all.extend([file.to_str()?, env!("CARGO_BIN_EXE_wtpool")]);
        all.extend(args);
        let traced = match bench.command("strace", &all).output() {
            Ok(output) => output,
            Err(error) => {
                skip(&format!("there is no strace: {error}"));
                return None;
            }
        };
        let said = String::from_utf8_lossy(&traced.stderr);
        if said.contains("ptrace") || said.contains("PTRACE") {
            skip(&format!("processes can't be traced here: {said}"));
            return None;
        }
        assert!(traced.status.success(), "{args:?}: {said}");
        let lines = fs::read_to_string(&file).expect("a trace");
        Some(Self(
            lines.lines().filter(|line| !line.contains("resumed>")).map(str::to_owned).collect(),
        ))
    }

    /// When it was brought to the disk last.
    fn synced(&self, path: &Path) -> usize {
        let shown = format!("<{}>", path.display());
        let is = |line: &String| line.contains("sync(") && line.contains(&shown);
        self.0
            .iter()
            .rposition(is)
            .unwrap_or_else(|| panic!("{} is not synced:\n{}", path.display(), self.0.join("\n")))
    }

    /// When it was first moved away or removed, by name.
    fn gone(&self, path: &Path) -> usize {
        let shown = format!("\"{}\"", path.display());
        let is = |line: &String| {
            (line.contains("rename") || line.contains("unlink"))
                && line
                    .split(", ")
                    .find(|word| word.contains('"'))
                    .is_some_and(|w| w.contains(&shown))
        };
        self.0
            .iter()
            .position(is)
            .unwrap_or_else(|| panic!("{} stays:\n{}", path.display(), self.0.join("\n")))
    }
}

fn repository(bench: &Bench) -> PathBuf {
    bench.repo().canonicalize().expect("it is there").join(".git")
}

#[test]
fn a_lease_is_on_the_disk_before_it_is_reported() {
    let bench = Bench::new();
    // So that there is a reaper, which outlives the verb that starts it.
    bench.acquire(&["--name", "first"]);
    let Some(trace) = Trace::of(&bench, &["acquire", "--name", "second"]) else { return };
    let shown = bench.json(&["show", "second"]);
    let place =
        PathBuf::from(shown["path"].as_str().or(shown["lease"]["path"].as_str()).expect("a path"));
    let dot_git = fs::read_to_string(place.join(".git")).expect("git's file");
    let admin = PathBuf::from(dot_git.trim().strip_prefix("gitdir: ").expect("a directory"));
    let slot = place.parent().expect("the slot's directory");

    let unmarked = trace.gone(&slot.join("making"));
    assert!(trace.synced(&slot.join("making")) < unmarked, "half made before anything is made");
    for file in ["HEAD", "commondir", "gitdir", "index"] {
        assert!(trace.synced(&admin.join(file)) < unmarked, "{file}");
    }
    assert!(trace.synced(&place.join(".git")) < unmarked);
    assert!(trace.synced(&repository(&bench).join("refs/heads/wtpool/second")) < unmarked);
    // Else what somebody does there later is taken for what nobody did.
    let unmarked_for_good = trace.synced(slot);
    assert!(unmarked < unmarked_for_good);
    assert!(unmarked_for_good < trace.synced(&bench.pool().join("pool.db-wal")));
}

#[test]
fn work_is_on_the_disk_before_its_worktree_goes() {
    let bench = Bench::new();
    for dirty in [false, true] {
        let name = if dirty { "dirty" } else { "clean" };
        let path = bench.acquire(&["--name", name]);
        let git = |args: &[&str]| testkit::git(&path).args(args).ok();
        write(path.join("committed"), name);
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "work"]);
        if dirty {
            write(path.join("staged"), "only in the index");
            git(&["add", "."]);
            write(path.join("staged"), "in the worktree");
            write(path.join("untracked"), "untracked");
            git(&["checkout", "--quiet", "--detach"]);
            git(&["commit", "--quiet", "--allow-empty", "-m", "on no branch"]);
            write(path.join("staged-again"), "for the index");
            git(&["add", "staged-again"]);
        }
        let Some(trace) = Trace::of(&bench, &["release", name, "--linger", "0s"]) else { return };
        let gone = trace.gone(&path);
        let branch = format!("refs/heads/wtpool/{name}");
        let mut references = vec![branch];
        references
            .extend(bench.rescues().iter().map(|r| r["ref"].as_str().expect("a ref").to_owned()));
        assert_eq!(references.len() > 1, dirty);
        let mut listing = vec!["rev-list", "--objects", "--no-object-names"];
        listing.extend(references.iter().map(String::as_str));
        listing.extend(["--not", "main"]);
        let objects = bench.fixture.git().args(listing).stdout();
        assert!(objects.lines().count() > if dirty { 12 } else { 2 }, "{objects}");
        let store = repository(&bench).join("objects");
        // What a rescue is made of comes in a pack, which is put together beside the slot.
        let packs = fs::read_dir(store.join("pack")).into_iter().flatten().flatten();
        let packs = packs.filter_map(|entry| entry.file_name().into_string().ok());
        let staging = path.parent().expect("the slot's directory").join(".rescuing");
        for pack in packs.filter(|name| name.ends_with(".idx") || name.ends_with(".pack")) {
            let staged = staging.join(pack.replacen("pack-", "rescue-", 1));
            assert!(trace.synced(&staged) < gone && trace.synced(&store.join("pack")) < gone);
        }
        for id in objects.lines() {
            let file = store.join(&id[..2]).join(&id[2..]);
            if !file.exists() {
                let packed = bench.fixture.git().args(["cat-file", "-t", id]).stdout();
                assert!(dirty && !packed.is_empty(), "{id}");
                continue;
            }
            assert!(trace.synced(&file) < gone, "{id}");
            assert!(trace.synced(file.parent().expect("a directory")) < gone, "{id}");
        }
        for reference in references {
            assert!(trace.synced(&repository(&bench).join(&reference)) < gone, "{reference}");
        }
    }
}

#[test]
fn whose_the_pool_is_survives_an_empty_file() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held"]);
    let owner = bench.pool().join("repository");
    let said = fs::read(&owner).expect("it says whose it is");
    write(&owner, "");
    bench.ok(&["release", "held", "--linger", "0s"]);
    assert_eq!(fs::read(&owner).expect("it says so again"), said);
    bench.ok(&["prune", "--pool-dir", bench.pool().to_str().expect("UTF-8")]);
}
