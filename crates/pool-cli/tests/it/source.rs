//! Repositories without a main worktree: settings and set-up files come from the caller's worktree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::{Bench, Ran, finish, write};

/// A bare repository in `project/.bare`, which `project/.git` leads to, and its pool.
struct Project {
    bench: Bench,
    dir: PathBuf,
}

impl Project {
    fn new() -> Self {
        let bench = Bench::new();
        let root = bench.fixture.root().to_owned();
        let dir = root.join("project");
        fs::create_dir(&dir).expect("made");
        testkit::git(&dir).args(["clone", "-q", "--bare", "../repo", ".bare"]).ok();
        write(dir.join(".git"), "gitdir: ./.bare\n");
        Self { bench: bench.in_pool_dir(&root.join("pool")), dir }
    }

    /// Adds a worktree with settings and an `.env` of its own.
    fn worktree(&self, name: &str, ttl: &str) -> PathBuf {
        let branch = format!("of-{name}");
        testkit::git(&self.dir).args(["worktree", "add", "-q", "-b", &branch, name, "main"]).ok();
        let worktree = self.dir.join(name);
        write(worktree.join(".wtpool.toml"), &format!("copy = ['.env']\nttl = '{ttl}'\n"));
        write(worktree.join(".env"), name);
        worktree
    }

    fn run(&self, start: &Path, args: &[&str]) -> Ran {
        let ran = finish(self.bench.wtpool(args).current_dir(start));
        assert_eq!(ran.code, Some(0), "{args:?} in {}: {ran:?}", start.display());
        ran
    }

    fn config(&self, start: &Path) -> serde_json::Value {
        serde_json::from_str(&self.run(start, &["config", "--json"]).out).expect("a document")
    }

    fn assert_source(&self, start: &Path, worktree: &Path, ttl: &str) {
        let config = self.config(start);
        let origin = worktree.join(".wtpool.toml").display().to_string();
        let expected = serde_json::json!({ "value": ttl, "origin": origin });
        assert_eq!(config["settings"]["ttl"], expected, "from {}", start.display());
        assert_eq!(config["source_worktree"], worktree.to_str().expect("UTF-8"));
        let name = worktree.file_name().unwrap_or_default();
        let base = ["run", "-q", "--base", "main", "--", "cat", ".env"];
        assert_eq!(self.run(start, &base).out, name.to_string_lossy(), "from {}", start.display());
    }
}

#[test]
fn settings_and_copies_are_those_of_the_callers_worktree() {
    let project = Project::new();
    let (one, two) = (project.worktree("one", "1h1m"), project.worktree("two", "2h2m"));
    project.assert_source(&one, &one, "1h1m");
    project.assert_source(&two, &two, "2h2m");
    let doctor = project.run(&one, &["doctor"]).out;
    assert!(doctor.contains(&format!("{} has a .wtpool.toml", one.display())), "{doctor}");
    // From no worktree, and from a lease: that of the last lease.
    let slot = PathBuf::from(project.run(&two, &["acquire", "-q"]).out.trim_end());
    for start in [&project.dir, &project.dir.join(".bare"), &slot] {
        project.assert_source(start, &two, "2h2m");
    }
    write(slot.join(".wtpool.toml"), "ttl = '3h3m'\n");
    project.assert_source(&slot, &two, "2h2m");
    project.assert_source(&slot.join("src"), &two, "2h2m");
}

#[test]
fn missing_source_is_said() {
    let project = Project::new();
    project.worktree("one", "1h1m");
    let doctor = project.run(&project.dir, &["doctor"]).out;
    assert!(doctor.contains("no worktree is known to read .wtpool.toml from"), "{doctor}");
    let config = project.config(&project.dir);
    assert!(config["source_worktree"].is_null(), "{config}");
    assert!(project.run(&project.dir, &["config"]).err.contains("no worktree is known"));
    let bench = &project.bench;
    let mut command = bench.wtpool(&["run", "--base", "main", "--", "true"]);
    let ran = finish(command.env("WTPOOL_COPY", ".env").current_dir(&project.dir));
    assert!(ran.err.contains("`copy` has no source"), "{ran:?}");
}

/// The repository's file is read under the same rules wherever it is.
#[test]
fn settings_of_a_linked_worktree_are_a_regular_file_too() {
    let project = Project::new();
    let one = project.worktree("one", "1h1m");
    let secret = project.bench.home.path().join("secret");
    write(&secret, "token = 'hunter2'\n");
    fs::remove_file(one.join(".wtpool.toml")).expect("removed");
    std::os::unix::fs::symlink(&secret, one.join(".wtpool.toml")).expect("linked");
    let ran = finish(project.bench.wtpool(&["acquire"]).current_dir(&one));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("not a regular file") && !ran.err.contains("hunter2"), "{ran:?}");
    fs::remove_file(one.join(".wtpool.toml")).expect("removed");
    write(one.join(".wtpool.toml"), "pool_dir = '/elsewhere'\n");
    let ran = finish(project.bench.wtpool(&["acquire"]).current_dir(&one));
    assert_eq!(ran.code, Some(2), "{ran:?}");
}
