//! What others do to a pool, and what the machine does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, write};

/// The work is in place still, or it is in a rescue.
fn is_saved(bench: &Bench, path: &Path, name: &str, content: &str) -> bool {
    if fs::read_to_string(path.join(name)).is_ok_and(|text| text == content) {
        return true;
    }
    bench.rescues().iter().any(|rescue| {
        let id = rescue["id"].as_str().expect("an id");
        let dir = tempfile::tempdir_in(bench.fixture.root()).expect("a directory");
        let into = dir.path().join("restored");
        bench.ok(&["rescue", "restore", id, "--into", into.to_str().expect("UTF-8")]);
        fs::read_to_string(into.join(name)).is_ok_and(|text| text == content)
    })
}

#[test]
fn a_worktree_deleted_by_hand_is_noticed() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "gone", "--linger", "0s"]);
    write(path.join("new"), "x");
    testkit::git(&path).args(["add", "new"]).ok();
    testkit::git(&path).args(["commit", "--quiet", "-m", "work"]).ok();
    fs::remove_dir_all(&path).expect("delete it");
    bench.eventually_empty();
    assert_eq!(bench.worktrees(), 1);
    let subject = bench.fixture.git().args(["log", "-1", "--format=%s", "wtpool/gone"]).stdout();
    assert_eq!(subject, "work");
    bench.ok(&["run", "--", "true"]);
}

#[test]
fn a_worktree_pruned_by_git_is_not_lost() {
    let bench = Bench::new();
    let path = bench.acquire(&["--name", "pruned", "--linger", "0s"]);
    write(path.join("new"), "precious");
    let aside = bench.fixture.root().join("aside");
    fs::rename(&path, &aside).expect("move it away");
    bench.fixture.git().args(["worktree", "prune", "--expire=now"]).ok();
    // The reaper may have seen it missing meanwhile, and cleared its place.
    fs::create_dir_all(path.parent().expect("a parent")).expect("its place");
    fs::rename(&aside, &path).expect("move it back");
    bench.run(&["release", "pruned"]);
    bench.ok(&["prune"]);
    assert!(is_saved(&bench, &path, "new", "precious"));
    bench.acquire(&[]);
    assert!(is_saved(&bench, &path, "new", "precious"), "the next lease took it");
}

#[test]
fn records_that_are_lost_are_made_again() {
    for damage in ["deleted", "corrupt"] {
        let bench = Bench::new();
        let before = bench.json(&["acquire", "--name", "held"]);
        let path = PathBuf::from(before["path"].as_str().expect("a path"));
        write(path.join("new"), "precious");
        let db = bench.pool().join("pool.db");
        for suffix in ["-wal", "-shm"] {
            // It is there only while somebody has the records open.
            let _ = fs::remove_file(bench.pool().join(format!("pool.db{suffix}")));
        }
        match damage {
            "deleted" => fs::remove_file(&db).expect("delete it"),
            _ => write(&db, &"not a database at all".repeat(1000)),
        }
        let after = bench.json(&["acquire", "--name", "next"]);
        assert_ne!(after["path"], before["path"], "{damage}");
        assert!(after["generation"].as_u64() > before["generation"].as_u64(), "{damage}: {after}");
        bench.ok(&["prune"]);
        assert!(is_saved(&bench, &path, "new", "precious"), "{damage}");
    }
}

/// A small filesystem of its own; `None`, said aloud, where that is not permitted.
struct Mount(PathBuf);

impl Mount {
    fn new(dir: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(dir).expect("make the mount point");
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir.to_owned()));
        }
        crate::bench::skip("mounting a filesystem is not permitted here");
        None
    }

    /// The same on ext4, in an image beside the mount point.
    fn ext4(dir: &Path, size: u64) -> Option<Self> {
        fs::create_dir_all(dir).expect("make the mount point");
        let image = dir.with_extension("img");
        let file = fs::File::create(&image).expect("make an image");
        file.set_len(size).expect("give it a size");
        let succeeds = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
        // Nothing is reserved for root, as which the tests may run.
        if !succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image)) {
            crate::bench::skip("there is no mkfs.ext4 here");
            return None;
        }
        if !succeeds(Command::new("mount").args(["-o", "loop"]).args([&image, dir])) {
            crate::bench::skip("mounting an image is not permitted here");
            return None;
        }
        Some(Self(dir.to_owned()))
    }

    /// Takes the rest of it, to the last block.
    fn fill(&self, name: &str) -> PathBuf {
        let filler = self.0.join(name);
        let mut block = 1 << 16;
        let mut file = fs::File::create(&filler).expect("create");
        while block > 0 {
            match std::io::Write::write_all(&mut file, &vec![1; block]) {
                Ok(()) => {}
                Err(_) => block /= 2,
            }
        }
        // What is only promised so far may turn out not to fit.
        let _ = file.sync_all();
        filler
    }

    fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        let mounted = Command::new("mount").args(["-o", &options]).arg(&self.0).output();
        mounted.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a reaper may be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_fails_one_lease_and_loses_nothing() {
    let disk = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::new(&disk.path().join("small"), "3m") else { return };
    let bench = Bench::new().in_pool_dir(&mount.0.join("pool"));
    let path = bench.acquire(&["--name", "held"]);
    write(path.join("new"), "precious");
    let filler = mount.fill("filler");
    let ran = bench.run(&["acquire", "--name", "more", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("no-space") || ran.err.contains("store"), "{ran:?}");
    assert_eq!(fs::read_to_string(path.join("new")).expect("still there"), "precious");
    fs::remove_file(&filler).expect("make room");
    bench.ok(&["prune"]);
    bench.ok(&["run", "--name", "more", "--", "true"]);
    bench.ok(&["release", "held"]);
    assert!(is_saved(&bench, &path, "new", "precious"));
}

#[test]
fn a_disk_that_leases_fill_is_cleared_by_pruning() {
    let disk = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::ext4(&disk.path().join("small"), 64 << 20) else { return };
    let bench = Bench::new().in_pool_dir(&mount.0.join("pool"));
    write(bench.repo().join("large"), &"a large file\n".repeat(600_000));
    bench.fixture.git().args(["add", "large"]).ok();
    bench.fixture.git().args(["commit", "--quiet", "-m", "large"]).ok();
    let path = bench.acquire(&["--name", "held"]);
    write(path.join("new"), "precious");
    write(path.join("README.md"), "changed");
    let over = bench.acquire(&["--name", "over"]);
    fs::create_dir(over.join("target")).expect("make it");
    write(over.join("target/built"), &"a large file\n".repeat(900_000));
    bench.ok(&["release", "over", "--linger", "1h"]);

    // Worktrees until no more fits.
    let failed = (0..20).find_map(|n| {
        let ran = bench.run(&["acquire", "--name", &format!("more-{n}"), "--json"]);
        (ran.code != Some(0)).then_some(ran)
    });
    let failed = failed.expect("the disk is smaller than that");
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""), "{failed:?}");
    assert!(failed.err.contains("\"kind\":\"no-space\""), "{failed:?}");

    // Not a byte is left, and every change of the records needs some.
    let filler = mount.fill("filler");
    let ran = bench.run(&["acquire", "--name", "another", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("\"kind\":\"no-space\""), "{ran:?}");
    let ran = bench.run(&["release", "held", "--json"]);
    assert!(ran.code == Some(0) || ran.err.contains("\"kind\":\"no-space\""), "{ran:?}");
    assert!(is_saved(&bench, &path, "new", "precious"));
    assert!(is_saved(&bench, &path, "README.md", "changed"));

    // What nobody needs any more makes room, without anybody else making some first.
    mount.fill("filler-2");
    bench.ok(&["prune", "--all"]);
    bench.ok(&["run", "--name", "another", "--", "true"]);
    assert!(is_saved(&bench, &path, "new", "precious"));
    fs::remove_file(&filler).expect("make room");
    for slot in bench.slots() {
        if let Some(lease) = slot["lease"]["lease"].as_str() {
            bench.ok(&["release", lease, "--linger", "0s"]);
        }
    }
    bench.eventually_empty();
    // Those that were restored for a look are not the pool's.
    let left = bench.fixture.git().args(["worktree", "list", "--porcelain"]).stdout();
    assert!(!left.contains(disk.path().to_str().expect("UTF-8")), "{left}");
    assert!(is_saved(&bench, &path, "new", "precious"));
    assert!(is_saved(&bench, &path, "README.md", "changed"));
}

#[test]
fn a_read_only_pool_is_said_to_be_one() {
    let disk = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::new(&disk.path().join("small"), "8m") else { return };
    let bench = Bench::new().in_pool_dir(&mount.0.join("pool"));
    bench.ok(&["run", "--", "true"]);
    let lock = fs::File::open(mount.0.join("pool/reaper.lock")).expect("a lock");
    crate::bench::eventually("the reaper ends", || crate::bench::is_free(&lock));
    drop(lock);
    if !mount.remount("ro") {
        crate::bench::skip("remounting is not permitted here");
        return;
    }
    let ran = bench.run(&["acquire", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("permission-denied"), "{ran:?}");
    assert!(mount.remount("rw"));
    bench.ok(&["run", "--", "true"]);
}

#[test]
fn a_reaper_that_was_killed_is_replaced() {
    let bench = Bench::new().var("WTPOOL_QUIET", "0s");
    bench.acquire(&["--ttl", "1h"]);
    let pool = bench.pool();
    let lock = fs::File::open(pool.join("reaper.lock")).expect("a lock");
    let reaper_pid = || {
        let listed = fs::read_dir("/proc").expect("/proc");
        let pids = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())).find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("\0reaper\0") && line.contains(pool.to_str().expect("UTF-8"))
        })
    };
    crate::bench::eventually("a reaper watches", || !crate::bench::is_free(&lock));
    crate::bench::kill(&reaper_pid().expect("a reaper"), rustix::process::Signal::KILL);
    crate::bench::eventually("the reaper is dead", || crate::bench::is_free(&lock));
    let doctor = bench.run(&["doctor"]);
    assert_eq!(doctor.code, Some(1));
    assert!(doctor.out.contains("no reaper watches"), "{doctor:?}");
    bench.acquire(&["--ttl", "1s", "--linger", "0s"]);
    crate::bench::eventually("the new one does its work", || bench.slots().len() == 1);
}

/// Killed while it wrote down whose pool it is.
#[test]
fn half_an_owner_is_no_owner_and_does_not_stay() {
    let bench = Bench::new();
    let unfinished = bench.pool().join(".repository.new");
    // Before it had the name.
    fs::create_dir_all(bench.pool()).expect("make it");
    fs::write(&unfinished, "/half").expect("write half of it");
    bench.ok(&["run", "--", "true"]);
    assert!(!unfinished.exists());
    let owner = fs::read_to_string(bench.pool().join("repository")).expect("it is written");
    assert_eq!(owner.trim_end(), bench.repo().join(".git").to_string_lossy());
    // After it.
    fs::write(&unfinished, &owner).expect("write it");
    bench.ok(&["list"]);
    assert!(!unfinished.exists());
}
