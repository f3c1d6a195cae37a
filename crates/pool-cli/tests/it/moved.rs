//! A repository, or its pool, that was renamed or moved; and what only looks like one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::fixture::Layout;

use crate::bench::{Bench, Ran, Sleeper, eventually, finish, write};

/// A directory of the fixture that has another name for now.
struct Renamed {
    from: PathBuf,
    to: PathBuf,
}

impl Renamed {
    fn new(from: &Path, name: &str) -> Self {
        let (from, to) = (from.to_owned(), from.with_file_name(name));
        fs::rename(&from, &to).expect("renamed");
        Self { from, to }
    }
}

impl Drop for Renamed {
    /// The end of a test looks for everything where it was.
    fn drop(&mut self) {
        if !self.from.exists() {
            let _ = fs::rename(&self.to, &self.from);
        }
    }
}

fn run_in(bench: &Bench, dir: &Path, args: &[&str]) -> Ran {
    finish(bench.wtpool(args).current_dir(dir))
}

fn ok_in(bench: &Bench, dir: &Path, args: &[&str]) -> Ran {
    let ran = run_in(bench, dir, args);
    assert_eq!(ran.code, Some(0), "{args:?} in {}: {ran:?}", dir.display());
    ran
}

fn list_in(bench: &Bench, dir: &Path) -> Value {
    serde_json::from_str(&ok_in(bench, dir, &["list", "--json"]).out).expect("a document")
}

/// The state and the lease's name of each slot.
fn slots_in(bench: &Bench, dir: &Path) -> Vec<(String, String)> {
    let list = list_in(bench, dir);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let slots = list["slots"].as_array().expect("an array");
    slots.iter().map(|slot| (text(&slot["state"]), text(&slot["lease"]["name"]))).collect()
}

fn leased(name: &str) -> Vec<(String, String)> {
    vec![("leased".to_owned(), name.to_owned())]
}

fn git_in(bench: &Bench, dir: &Path, args: &[&str]) -> Ran {
    finish(bench.command("git", args).current_dir(dir))
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("UTF-8")
}

/// All that says whose a pool and its slots are.
fn traces(pool: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = vec![pool.join("repository"), pool.join(".repository.identity")];
    for slot in fs::read_dir(pool.join("slots")).into_iter().flatten().flatten() {
        let trees = fs::read_dir(slot.path()).expect("a slot").flatten();
        files.extend(trees.map(|tree| tree.path().join(".git")).filter(|file| file.is_file()));
    }
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(&file).expect("it is there"))).collect()
}

#[test]
fn renamed_repository_keeps_its_leases() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    write(slot.join("work"), "work\n");
    // One that only begins finds nothing at its path, and ends.
    drop(bench.reaper_lock());
    let moved = Renamed::new(&bench.repo(), "renamed");
    assert_eq!(slots_in(&bench, &moved.to), leased("kept"));
    assert!(git_in(&bench, &slot, &["status", "-s"]).out.contains("?? work"));
    let doctor = ok_in(&bench, &moved.to, &["doctor"]);
    assert!(!doctor.out.contains("WRONG"), "{doctor:?}");
    ok_in(&bench, &moved.to, &["acquire", "--ttl", "1h", "--name", "second"]);
    ok_in(&bench, &slot, &["release", "second"]);
    let released = ok_in(&bench, &moved.to, &["release", path(&slot)]);
    assert!(released.err.contains("saved 1 uncommitted file"), "{released:?}");
    assert!(!slot.exists());
    let worktrees = git_in(&bench, &moved.to, &["worktree", "list"]).out;
    assert_eq!(worktrees.lines().count(), 1, "{worktrees}");
}

#[test]
fn repository_moved_with_its_pool_keeps_its_leases() {
    let bench = Bench::of(Layout::Nested);
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    write(slot.join("work"), "work\n");
    let parent = bench.repo().parent().expect("it has one").to_owned();
    let moved = Renamed::new(&parent, "elsewhere");
    let slot_now = moved.to.join(slot.strip_prefix(&parent).expect("inside"));
    // First from within the worktree, where git finds no repository.
    assert_eq!(slots_in(&bench, &slot_now), leased("kept"));
    assert!(git_in(&bench, &slot_now, &["status", "-s"]).out.contains("?? work"));
    let repo = moved.to.join("codewhale");
    assert_eq!(slots_in(&bench, &repo), leased("kept"));
    // By the path that the caller was told.
    let released = ok_in(&bench, &repo, &["release", path(&slot)]);
    assert!(released.err.contains("saved 1 uncommitted file"), "{released:?}");
    assert!(!slot_now.exists() && !parent.exists(), "nothing is made at the path of before");
}

#[test]
fn repository_that_is_moved_back_has_everything_back() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    let before = traces(&bench.pool());
    let pool = bench.pool();
    let moved = Renamed::new(&bench.repo(), "renamed");
    assert_eq!(slots_in(&bench, &moved.to), leased("kept"));
    assert_ne!(traces(&pool), before, "it was taken over");
    drop(moved);
    assert_eq!(bench.slots()[0]["lease"]["name"], "kept");
    assert_eq!((traces(&bench.pool()), bench.pool()), (before, pool));
    assert_eq!(git_in(&bench, &slot, &["status", "-s"]).code, Some(0));
}

#[test]
fn reaper_follows_a_renamed_repository() {
    for layout in [Layout::Plain, Layout::Nested] {
        let is_nested = layout == Layout::Nested;
        let bench = Bench::of(layout);
        let owner = Sleeper::new();
        let slot = bench.acquire(&["--owner-pid", &owner.pid(), "--linger", "0s"]);
        drop(bench.reaper_lock());
        let repo = bench.repo();
        let parent = repo.parent().expect("it has one");
        let moved = Renamed::new(if is_nested { parent } else { &repo }, "renamed");
        let now = |path: &Path| {
            path.strip_prefix(&moved.from).map_or(path.to_owned(), |inside| {
                if inside.as_os_str().is_empty() { moved.to.clone() } else { moved.to.join(inside) }
            })
        };
        // Only the reaper sees this: no verb is run.
        let slot_now = now(&slot);
        eventually("git works there again", || {
            git_in(&bench, &slot_now, &["status", "-s"]).code == Some(0)
        });
        owner.kill();
        eventually("the reaper ends the lease", || !slot_now.exists());
        drop(moved);
    }
}

/// A directory that has another name for now, to which a symlink at its old path leads.
struct Linked(Renamed);

impl Linked {
    fn new(from: &Path, name: &str) -> Self {
        let renamed = Renamed::new(from, name);
        std::os::unix::fs::symlink(name, from).expect("linked");
        Self(renamed)
    }

    fn to(&self) -> &Path {
        &self.0.to
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0.from);
    }
}

/// Has the repository's `.git` be a file that leads to a directory beside it.
fn separate(bench: &Bench) -> PathBuf {
    let store = bench.repo().with_file_name("store");
    let option = format!("--separate-git-dir={}", store.display());
    assert_eq!(git_in(bench, &bench.repo(), &["init", "-q", &option]).code, Some(0));
    store
}

#[test]
fn repository_with_a_symlink_at_its_old_path_keeps_its_leases() {
    for (is_nested, verb) in [(true, "list"), (false, "list"), (true, "release"), (false, "adopt")]
    {
        let bench = Bench::of(if is_nested { Layout::Nested } else { Layout::Plain });
        let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
        write(slot.join("work"), "work\n");
        // One that only begins finds nothing at its path, and ends.
        drop(bench.reaper_lock());
        let (repo, pool) = (bench.repo(), bench.pool());
        let parent = repo.parent().expect("it has one").to_owned();
        let moved = Linked::new(if is_nested { &parent } else { &repo }, "elsewhere");
        match verb {
            // By the old path, too.
            "list" => assert_eq!(slots_in(&bench, &repo), leased("kept")),
            "adopt" => assert_eq!(run_in(&bench, &repo, &["adopt", path(&pool)]).code, Some(0)),
            _ => {}
        }
        let doctor = ok_in(&bench, &repo, &["doctor"]);
        assert!(!doctor.out.contains("WRONG"), "{doctor:?}");
        let released = ok_in(&bench, bench.home.path(), &["release", path(&slot)]);
        assert!(released.err.contains("saved 1 uncommitted file"), "{released:?}");
        let repo_now = repo.canonicalize().expect("it is there");
        assert!(repo_now.starts_with(moved.to()) && !slot.exists());
        assert!(slots_in(&bench, &repo_now).is_empty());
    }
}

#[test]
fn repository_whose_git_directory_was_separated_keeps_its_leases() {
    for verb in ["list", "release", "list in the slot"] {
        let bench = Bench::new();
        let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
        write(slot.join("work"), "work\n");
        let pool = bench.pool();
        let store = separate(&bench);
        match verb {
            "list" => assert_eq!(slots_in(&bench, &bench.repo()), leased("kept")),
            "release" => {}
            _ => assert_eq!(slots_in(&bench, &slot), leased("kept")),
        }
        // From a directory without a repository.
        let home = bench.home.path();
        ok_in(&bench, home, &["list", "--pool-dir", path(&pool)]);
        let released = ok_in(&bench, home, &["release", path(&slot)]);
        assert!(released.err.contains("saved 1 uncommitted file"), "{released:?}");
        assert_eq!(list_in(&bench, &bench.repo())["pool_dir"], path(&pool), "also without slots");
        fs::remove_file(bench.repo().join(".git")).expect("removed");
        fs::rename(&store, bench.repo().join(".git")).expect("moved back");
    }
}

#[test]
fn git_directory_replaced_by_a_linked_worktree_keeps_leases() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    let repo = bench.repo();
    assert_eq!(git_in(&bench, &repo, &["checkout", "-q", "--detach"]).code, Some(0));
    let bare = repo.with_file_name("bare.git");
    fs::rename(repo.join(".git"), &bare).expect("moved");
    fs::remove_dir_all(&repo).expect("removed");
    fs::remove_file(bare.join("index")).expect("removed");
    git_in(&bench, &bare, &["config", "core.bare", "true"]);
    assert_eq!(git_in(&bench, &bare, &["worktree", "add", "-q", path(&repo)]).code, Some(0));
    assert_eq!(slots_in(&bench, &repo), leased("kept"));
    assert_eq!(git_in(&bench, &slot, &["status", "-s"]).code, Some(0));
    ok_in(&bench, &repo, &["release", "kept"]);
    let removed = git_in(&bench, &bare, &["worktree", "remove", path(&repo)]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    git_in(&bench, &bare, &["config", "core.bare", "false"]);
    fs::create_dir(&repo).expect("made");
    fs::rename(&bare, repo.join(".git")).expect("moved back");
}

#[test]
fn reaper_follows_a_repository_that_its_old_path_leads_to() {
    for is_separated in [false, true] {
        let bench = Bench::of(Layout::Nested);
        let owner = Sleeper::new();
        let slot = bench.acquire(&["--owner-pid", &owner.pid(), "--linger", "0s"]);
        drop(bench.reaper_lock());
        let (repo, pool) = (bench.repo(), bench.pool());
        let parent = repo.parent().expect("it has one").to_owned();
        let was = fs::read(pool.join("repository")).expect("read");
        let linked = (!is_separated).then(|| Linked::new(&parent, "elsewhere"));
        let store = is_separated.then(|| separate(&bench));
        // Only the reaper sees this: no verb is run.
        eventually("the reaper takes it over", || {
            fs::read(pool.join("repository")).is_ok_and(|now| now != was)
        });
        owner.kill();
        eventually("the reaper ends the lease", || !slot.exists());
        drop(linked);
        if let Some(store) = store {
            fs::remove_file(repo.join(".git")).expect("removed");
            fs::rename(&store, repo.join(".git")).expect("moved back");
        }
    }
}

/// A path that leads to a copy, or to a clone, does not make that the pool's repository.
#[test]
fn copy_that_the_old_path_leads_to_gets_no_lease() {
    for kind in ["copy", "clone"] {
        let bench = Bench::new();
        bench.acquire(&["--ttl", "1h", "--name", "of-the-original"]);
        drop(bench.reaper_lock());
        bench.kill_reaper();
        let (repo, pool) = (bench.repo(), bench.pool());
        let before = traces(&pool);
        let moved = Renamed::new(&repo, "original");
        let other = repo.with_file_name("other");
        let (from, to) = (path(&moved.to), path(&other));
        let made = match kind {
            "copy" => finish(bench.command("cp", &["-a", from, to]).current_dir(&moved.to)),
            _ => git_in(&bench, &moved.to, &["clone", "-q", ".", to]),
        };
        assert_eq!(made.code, Some(0));
        std::os::unix::fs::symlink("other", &repo).expect("linked");
        assert!(slots_in(&bench, &repo).is_empty(), "{kind}");
        let refused = run_in(&bench, &repo, &["acquire", "--pool-dir", path(&pool)]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(!refused.err.contains("which is gone"), "{refused:?}");
        assert_eq!(traces(&pool), before, "{kind}");
        let original = run_in(&bench, &moved.to, &["list"]);
        match kind {
            "copy" => assert!(original.err.contains(path(&pool)), "{original:?}"),
            _ => assert!(original.out.contains("of-the-original"), "{original:?}"),
        }
        fs::remove_file(&repo).expect("removed");
        fs::remove_dir_all(&other).expect("removed");
        assert_eq!(slots_in(&bench, &moved.to), leased("of-the-original"));
    }
}

#[test]
fn original_whose_old_path_has_a_copy_is_told_of_its_leases() {
    let bench = Bench::new();
    bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    drop(bench.reaper_lock());
    bench.kill_reaper();
    let (repo, pool) = (bench.repo(), bench.pool());
    let moved = Renamed::new(&repo, "original");
    let mut copy = bench.command("cp", &["-a", path(&moved.to), path(&repo)]);
    let copied = finish(copy.current_dir(&moved.to));
    assert_eq!(copied.code, Some(0));
    let command = format!("wtpool list --repo {}", repo.join(".git").display());
    // Before and after the copy uses the pool.
    for _ in 0..2 {
        for verb in ["list", "doctor"] {
            let said = run_in(&bench, &moved.to, &[verb]);
            let said = said.out + &said.err;
            assert!(said.contains(path(&pool)) && said.contains(&command), "{verb}: {said}");
        }
        assert_eq!(slots_in(&bench, &repo), leased("kept"));
        assert!(!run_in(&bench, &repo, &["list"]).err.contains("copy"));
        ok_in(&bench, &repo, &["prune"]);
    }
    ok_in(&bench, &repo, &["release", "kept"]);
    fs::remove_dir_all(&moved.to).expect("removed");
}

#[test]
fn copy_of_a_repository_gets_no_lease_of_the_original() {
    let bench = Bench::new();
    bench.acquire(&["--ttl", "1h", "--name", "of-the-original"]);
    let before = traces(&bench.pool());
    let copy = bench.repo().with_file_name("copy");
    assert_eq!(
        finish(&mut bench.command("cp", &["-a", path(&bench.repo()), path(&copy)])).code,
        Some(0)
    );
    assert!(slots_in(&bench, &copy).is_empty());
    let pool = bench.pool();
    for args in [&["adopt", path(&pool)][..], &["acquire", "--pool-dir", path(&pool)]] {
        let refused = run_in(&bench, &copy, args);
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    ok_in(&bench, &copy, &["run", "--linger", "0s", "--", "true"]);
    assert_eq!(traces(&bench.pool()), before);
    assert_eq!(bench.slots()[0]["lease"]["name"], "of-the-original");
}

#[test]
fn repository_made_at_the_old_path_gets_no_lease_of_the_one_before() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "of-the-first"]);
    // Nothing follows: what is tried is what the verbs do.
    drop(bench.reaper_lock());
    bench.kill_reaper();
    let (pool, repo) = (bench.pool(), bench.repo());
    let before = traces(&pool);
    let moved = Renamed::new(&repo, "first");
    assert_eq!(git_in(&bench, &moved.to, &["clone", "-q", ".", path(&repo)]).code, Some(0));
    assert!(slots_in(&bench, &repo).is_empty());
    let doctor = run_in(&bench, &repo, &["doctor"]);
    assert!(doctor.out.contains("was at") && doctor.out.contains(path(&pool)), "{doctor:?}");
    let refused = run_in(&bench, &repo, &["acquire", "--pool-dir", path(&pool)]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    ok_in(&bench, &repo, &["run", "--linger", "0s", "--", "true"]);
    ok_in(&bench, &repo, &["prune", "--all"]);
    assert_eq!(traces(&pool), before);
    // The first one has its pool still, at the other's default path; and both go on.
    assert_eq!(slots_in(&bench, &moved.to), leased("of-the-first"));
    assert_eq!(git_in(&bench, &slot, &["status", "-s"]).code, Some(0));
    ok_in(&bench, &repo, &["run", "--linger", "0s", "--", "true"]);
    assert_eq!(slots_in(&bench, &moved.to), leased("of-the-first"));
    ok_in(&bench, &moved.to, &["release", "of-the-first"]);
    fs::remove_dir_all(&repo).expect("removed");
    drop(moved);
}

/// As a move to another filesystem does, which makes a copy and removes the original.
#[test]
fn repository_on_another_filesystem_adopts_its_pool() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    let (pool, repo) = (bench.pool(), bench.repo());
    let before = traces(&pool);
    let moved = Renamed { from: repo.clone(), to: repo.with_file_name("moved") };
    assert_eq!(
        finish(&mut bench.command("cp", &["-a", path(&repo), path(&moved.to)])).code,
        Some(0)
    );
    fs::remove_dir_all(&repo).expect("removed");
    let adopt = format!("wtpool adopt {}", pool.display());
    let listed = ok_in(&bench, &moved.to, &["list"]);
    assert!(listed.err.contains(&adopt), "{listed:?}");
    assert!(run_in(&bench, &moved.to, &["doctor"]).out.contains(&adopt));
    assert_eq!(list_in(&bench, &moved.to)["other_pools"][0]["slots"], 1);
    assert_eq!(traces(&pool), before, "nothing is changed by that");
    ok_in(&bench, &moved.to, &["adopt", path(&pool)]);
    assert_eq!(slots_in(&bench, &moved.to), leased("kept"));
    assert_eq!(git_in(&bench, &slot, &["status", "-s"]).code, Some(0));
}

#[test]
fn repository_copied_back_to_its_path_keeps_its_leases() {
    let bench = Bench::new();
    bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    let (repo, copy) = (bench.repo(), bench.repo().with_file_name("copy"));
    assert_eq!(finish(&mut bench.command("cp", &["-a", path(&repo), path(&copy)])).code, Some(0));
    fs::remove_dir_all(&repo).expect("removed");
    fs::rename(&copy, &repo).expect("moved");
    assert_eq!(bench.slots()[0]["lease"]["name"], "kept");
    // The reaper ended if it saw the repository gone.
    bench.ok(&["prune"]);
    assert!(!bench.run(&["doctor"]).out.contains("WRONG"));
    // What it remembers is that of the copy from now on.
    let moved = Renamed::new(&repo, "renamed");
    assert_eq!(slots_in(&bench, &moved.to), leased("kept"));
}

#[test]
fn pool_that_stays_while_its_repository_moves_is_found() {
    for layout in [Layout::Plain, Layout::Bare] {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().canonicalize().expect("it exists").join("pool");
        let bench = Bench::of(layout).in_pool_dir(&dir);
        let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
        let moved = Renamed::new(&bench.repo(), "renamed.git");
        assert_eq!(slots_in(&bench, &moved.to), leased("kept"));
        assert_eq!(git_in(&bench, &slot, &["status", "-s"]).code, Some(0));
        drop(moved);
    }
}

#[test]
fn pool_that_is_moved_by_hand_is_found() {
    let bench = Bench::new();
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    write(slot.join("work"), "work\n");
    let pool = bench.pool();
    let moved = Renamed::new(&pool, "by-hand-0123abcd");
    let slot_now = moved.to.join(slot.strip_prefix(&pool).expect("inside"));
    assert_eq!(slots_in(&bench, &bench.repo()), leased("kept"));
    assert!(git_in(&bench, &slot_now, &["status", "-s"]).out.contains("?? work"));
    // A copy of it is none.
    let copy = pool.with_file_name("copy-0123abcd");
    assert_eq!(
        finish(&mut bench.command("cp", &["-a", path(&moved.to), path(&copy)])).code,
        Some(0)
    );
    let refused = bench.run(&["list", "--pool-dir", path(&copy)]);
    assert!(refused.err.contains("is a copy of the pool"), "{refused:?}");
    assert_eq!(bench.run(&["adopt", path(&copy)]).code, Some(2));
    fs::remove_dir_all(&copy).expect("removed");
    assert_eq!(slots_in(&bench, &bench.repo()), leased("kept"));
}

#[test]
fn holder_in_a_moved_worktree_keeps_its_lease_and_its_work() {
    let bench = Bench::of(Layout::Nested);
    let repo = bench.repo();
    let parent = repo.parent().expect("it has one").to_owned();
    let go = bench.home.path().join("go");
    let script = format!("echo work > work; until [ -e {} ]; do sleep 0.05; done", path(&go));
    let mut child =
        bench.spawn(&["run", "--name", "inside", "--linger", "0s", "--", "sh", "-c", &script]);
    eventually("it runs", || {
        bench.slots().iter().any(|slot| {
            let place = slot["path"].as_str().expect("a path");
            slot["state"] == "leased" && Path::new(place).join("work").exists()
        })
    });
    let moved = Renamed::new(&parent, "elsewhere");
    let repo_now = moved.to.join("codewhale");
    ok_in(&bench, &repo_now, &["prune"]);
    assert_eq!(slots_in(&bench, &repo_now), leased("inside"));
    write(&go, "");
    let _ = child.wait().expect("it ends");
    eventually("its work is saved", || {
        ok_in(&bench, &repo_now, &["prune"]);
        slots_in(&bench, &repo_now).is_empty()
    });
    assert!(ok_in(&bench, &repo_now, &["rescue", "list"]).out.contains("inside"));
    assert!(!parent.exists(), "nothing is made at the path of before");
}

#[test]
fn settings_of_git_that_name_the_worktree_follow_it() {
    let bench = Bench::of(Layout::Nested);
    let repo = bench.repo();
    for (key, value) in [("core.worktree", path(&repo)), ("extensions.worktreeConfig", "true")] {
        assert_eq!(git_in(&bench, &repo, &["config", key, value]).code, Some(0));
    }
    let slot = bench.acquire(&["--ttl", "1h", "--name", "kept"]);
    let parent = repo.parent().expect("it has one").to_owned();
    let moved = Renamed::new(&parent, "elsewhere");
    let repo_now = moved.to.join("codewhale");
    git_in(&bench, &repo_now, &["config", "core.worktree", path(&repo_now)]);
    assert_eq!(slots_in(&bench, &repo_now), leased("kept"));
    let slot_now = moved.to.join(slot.strip_prefix(&parent).expect("inside"));
    let top = git_in(&bench, &slot_now, &["rev-parse", "--show-toplevel"]).out;
    assert_eq!(Path::new(top.trim()), slot_now);
    ok_in(&bench, &repo_now, &["release", "kept"]);
    git_in(&bench, &repo_now, &["config", "--unset", "core.worktree"]);
}

fn slot_of(bench: &Bench, name: &str) -> Value {
    let list = bench.json(&["list"]);
    let slots = list["slots"].as_array().expect("an array");
    slots.iter().find(|slot| slot["lease"]["name"] == name).expect("a slot").clone()
}

#[test]
fn reports_say_where_a_worktree_was_moved_to() {
    for (name, kind) in [("attached", &[][..]), ("detached", &["--detach"])] {
        let bench = Bench::new();
        let slot = bench.acquire(&[&["--name", name], kind].concat());
        let to = bench.repo().with_file_name(name);
        testkit::git(bench.repo()).args(["worktree", "move", path(&slot), path(&to)]).ok();
        assert_eq!(slot_of(&bench, name)["moved_to"], path(&to));
        assert_eq!(bench.json(&["show", name])["moved_to"], path(&to));
        for verb in [&["list"][..], &["show", name], &["doctor"]] {
            let said = bench.run(verb).out;
            assert!(said.contains(path(&to)) && !said.contains(" gone"), "{verb:?}: {said}");
        }
        // The reaper may have ended it already; then the slot lingers.
        bench.ok(&["release", name, "--linger", "0s"]);
        for verb in [&["events"][..], &["show", name]] {
            let said = bench.run(verb).out;
            assert!(said.contains(path(&to)) && !said.contains(" gone"), "{verb:?}: {said}");
        }
        let ended = bench.json(&["show", name]);
        assert_eq!(ended["branch"]["kept"].as_bool(), kind.is_empty().then_some(true));
        // Another lease in that slot is not in that worktree.
        let next = bench.acquire(&["--name", "next"]);
        assert!(slot_of(&bench, "next").get("moved_to").is_none());
        fs::remove_dir_all(&next).expect("removed");
        assert!(slot_of(&bench, "next").get("moved_to").is_none());
        testkit::git(bench.repo()).args(["worktree", "remove", path(&to)]).ok();
    }
}

#[test]
fn renamed_branch_is_listed_by_its_present_name() {
    let bench = Bench::new();
    bench.acquire(&["--name", "lease"]);
    testkit::git(bench.repo()).args(["branch", "-m", "wtpool/lease", "first"]).ok();
    testkit::git(bench.repo()).args(["branch", "-m", "first", "second"]).ok();
    let slot = slot_of(&bench, "lease");
    assert_eq!(
        (&slot["lease"]["branch"], &slot["branch_was"]),
        (&"second".into(), &"wtpool/lease".into())
    );
    assert_eq!(bench.json(&["show", "lease"])["branch"], "second");
    assert!(bench.ok(&["list"]).out.contains("second"));
    bench.ok(&["release", "lease"]);
}
