//! Filesystems in which nothing can be written: those without a free inode, and read-only ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, eventually, skip};

/// A filesystem of its own in memory, which goes away at the end.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this user cannot mount.
    fn new(dir: &Path, options: &str) -> Option<Self> {
        fs::create_dir(dir).expect("made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir);
        mount.output().is_ok_and(|ran| ran.status.success()).then(|| Self(dir.to_owned()))
    }

    /// Whether it is read-only now.
    fn make_read_only(&self) -> bool {
        let mut mount = Command::new("mount");
        let ran = mount.args(["-o", "remount,ro"]).arg(&self.0).output();
        ran.expect("mount runs").status.success()
    }

    fn fill(&self) {
        let mut files = (0..).map(|n: u32| File::create(self.0.join(format!("filler-{n}"))));
        files.find(Result::is_err).expect("there is a limit").expect_err("no inode");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The verbs that only look, with the status that they end with there.
const LOOKS: [(&[&str], i32); 7] = [
    (&["list"], 0),
    (&["show", "held"], 0),
    (&["events"], 0),
    (&["config"], 0),
    (&["rescue", "list"], 0),
    (&["show", "none"], 6),
    // It says what is wrong.
    (&["doctor"], 1),
];

fn looks_work(bench: &Bench, why: &str) {
    for (verb, status) in LOOKS {
        let ran = bench.run(verb);
        assert_eq!(ran.code, Some(status), "{why}: {verb:?}: {} {}", ran.out, ran.err);
        let is_said = ran.err.contains("only looking") && ran.err.contains(why);
        assert!(verb[0] == "config" || is_said, "{verb:?}: {}", ran.err);
    }
    let slots = bench.slots();
    assert!(slots.iter().any(|slot| slot["lease"]["name"] == "held"), "{slots:?}");
}

#[test]
fn verbs_that_look_need_no_inode_and_prune_frees_some() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::new(&dir.path().join("small"), "size=40m,nr_inodes=600") else {
        return skip("mount a filesystem of few inodes");
    };
    let bench = Bench::new().in_pool_dir(&mount.0.join("pool"));
    let held = bench.acquire(&["--name", "held", "--ttl", "2h"]);
    bench.ok(&["warm", "1"]);
    mount.fill();
    looks_work(&bench, "no free inodes on the filesystem of");
    let refused = bench.run(&["acquire", "--name", "more"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("no free inodes on the filesystem of"), "{}", refused.err);

    let pruned = bench.ok(&["prune", "--all"]);
    assert_eq!(bench.slots().len(), 1, "the idle slot is gone: {} {}", pruned.out, pruned.err);
    assert!(held.is_dir());
    bench.ok(&["release", "held"]);
    bench.kill_reaper();
}

#[test]
fn verbs_that_look_work_on_a_read_only_filesystem() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::new(&dir.path().join("small"), "size=40m") else {
        return skip("mount a filesystem that becomes read-only");
    };
    let bench = Bench::new().in_pool_dir(&mount.0.join("pool"));
    let held = bench.acquire(&["--name", "held", "--ttl", "2h"]);
    bench.kill_reaper();
    eventually("nothing has a file of it open", || mount.make_read_only());
    looks_work(&bench, "Read-only file system");
    let refused = bench.run(&["release", "held"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(held.is_dir() && bench.reapers().is_empty(), "no reaper is started");
}
