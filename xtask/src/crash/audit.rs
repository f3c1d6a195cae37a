//! What must hold once everybody is gone and the pool was reconciled once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ground::{Ground, checked};
use super::{process, scenario};
use crate::Result;

/// How long a process may take to see that nothing is left for it to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was looked for, and what was found wrong.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) commits: usize,
    pub(super) objects: usize,
    /// How many leases the log tells of.
    pub(super) leases: usize,
    /// Locks that a killed git left, and that a person is told to remove.
    pub(super) locks: usize,
    pub(super) violations: Vec<String>,
}

impl Found {
    pub(super) fn violation(&mut self, text: impl Into<String>) {
        self.violations.push(text.into());
    }
}

/// What to expect of a ground beside the rules.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// Some git was killed, other than the program's own hand: its locks may be left.
    pub(super) locks: bool,
    /// The database was damaged on purpose: what it was lies beside it, and the log is lost.
    pub(super) damaged: bool,
    /// Somebody restored a rescue into a directory, which is that person's from then on.
    pub(super) restored: bool,
}

/// Reconciles once, and looks; then a second time, which must change nothing; then empties the pool, and
/// looks for everything that anybody wrote.
pub(super) fn audit(ground: &Ground, expected: Expected) -> Result<Found> {
    let mut found = Found::default();
    reconcile_once(ground, expected, &mut found)?;
    let listed = ground.json(["list"])?;
    states(&listed, &mut found)?;
    places(ground, &listed, expected, &mut found)?;
    references(ground, &listed, &mut found)?;
    log(ground, expected, &mut found)?;

    empty(ground, &listed, &mut found)?;
    everybody_ends(ground, &mut found)?;
    let listed = ground.json(["list"])?;
    for slot in slots(&listed)? {
        found.violation(format!("a slot can't be removed: {slot}"));
    }
    places(ground, &listed, expected, &mut found)?;
    references(ground, &listed, &mut found)?;
    claims(ground, &mut found)?;
    object_store(ground, &mut found)?;
    main_worktree(ground, &mut found)?;
    look_for_everything(ground, &mut found)?;
    Ok(found)
}

fn slots(listed: &serde_json::Value) -> Result<&Vec<serde_json::Value>> {
    listed["slots"].as_array().ok_or_else(|| "list --json has no slots".into())
}

/// The one reconciliation; and another one, which finds nothing to do and changes nothing.
fn reconcile_once(ground: &Ground, expected: Expected, found: &mut Found) -> Result {
    loop {
        ground.json(["prune"])?;
        let left = locks(&ground.repo().join(".git"))?;
        if left.is_empty() {
            break;
        }
        if !expected.locks {
            found.violation(format!("the lock {} is left", left[0].display()));
        }
        // Nobody lives who could hold one. The pool never removes a lock; it says which is in the way, and
        // that a person may.
        found.locks += left.len();
        for lock in left {
            std::fs::remove_file(lock)?;
        }
        // A reaper was started for what the lock had kept from being done, and might do it beside us.
        scenario::wait_for_agents(ground)?;
    }
    let begun = Instant::now();
    while is_at_work(ground)? {
        if begun.elapsed() > PATIENCE {
            found.violation("no reconciliation cleans up a slot".to_owned());
            break;
        }
        ground.json(["prune"])?;
    }
    let before = Snapshot::take(ground)?;
    let again = ground.json(["prune"])?;
    let after = Snapshot::take(ground)?;
    if again["done"].as_array().is_none_or(|done| !done.is_empty()) || again["files_deleted"] != 0 {
        found.violation(format!("a second reconciliation had something to do: {again}"));
    }
    for difference in before.differences(&after) {
        found.violation(format!("a second reconciliation changed something: {difference}"));
    }
    Ok(())
}

/// Whether a reaper cleans a slot up: a reconciliation leaves that slot to it.
fn is_at_work(ground: &Ground) -> Result<bool> {
    let listed = ground.json(["list"])?;
    let resting = ["leased", "lingering", "quarantined", "free"];
    Ok(slots(&listed)?.iter().any(|slot| {
        let state = slot["state"].as_str().unwrap_or_default();
        !resting.contains(&state)
    }))
}

/// All that a pool consists of, but for what any process changes that looks at it.
struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    fn take(ground: &Ground) -> Result<Self> {
        let mut all = BTreeMap::new();
        let mut listed = ground.json(["list"])?;
        for slot in listed["slots"].as_array_mut().into_iter().flatten() {
            slot["bytes"] = serde_json::Value::Null;
            // Told by the wall clock of something that is kept by another.
            slot["lease"]["expires_at"] = serde_json::Value::Null;
            all.insert(format!("slot {}", slot["slot"]), slot.to_string());
        }
        all.insert("waiting".to_owned(), listed["waiting"].to_string());
        let events = checked(ground.wtpool().args(["--json", "events"]))?;
        all.insert("events".to_owned(), events);
        for line in ground.git(["for-each-ref"])?.lines() {
            all.insert(format!("reference {line}"), String::new());
        }
        for name in names(&ground.repo().join(".git/worktrees"))? {
            all.insert(format!("registration {name}"), String::new());
        }
        let pool = ground.pool();
        walk(&pool, &mut |path, meta| {
            let inside = path.strip_prefix(&pool).unwrap_or(path);
            let top = inside.components().next().map(|c| c.as_os_str().to_string_lossy());
            let top = top.unwrap_or_default();
            let restless = ["pool.db-wal", "pool.db-shm", "pool.db", "locks"].contains(&&*top)
                || top.ends_with(".lock")
                || top.ends_with(".log");
            if !restless {
                let what = match meta.is_file() {
                    true => format!("{} bytes of {:?}", meta.len(), meta.modified().ok()),
                    false => "no file".to_owned(),
                };
                all.insert(inside.display().to_string(), what);
            }
        })?;
        Ok(Self(all))
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differ = keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key));
        differ.map(|key| format!("{key}: {:?} → {:?}", self.0.get(key), other.0.get(key))).collect()
    }
}

/// Nobody lives who could hold a lease, save the detached ones; and what is kept must have a reason.
fn states(listed: &serde_json::Value, found: &mut Found) -> Result {
    for slot in slots(listed)? {
        // Only one that nobody holds has an end of its own.
        let detached = slot["lease"]["expires_at"].is_string();
        let rests = match slot["state"].as_str().unwrap_or_default() {
            "free" | "lingering" => true,
            "leased" => detached,
            _ => false,
        };
        if !rests {
            found.violation(format!("after one reconciliation a slot is not at rest: {slot}"));
        }
    }
    if listed["waiting"].as_array().is_none_or(|waiting| !waiting.is_empty()) {
        found.violation(format!("somebody who is dead waits: {}", listed["waiting"]));
    }
    Ok(())
}

/// The records, the directories of the pool, and what git knows of are the same slots; and nothing else lies
/// anywhere in the pool.
fn places(
    ground: &Ground,
    listed: &serde_json::Value,
    expected: Expected,
    found: &mut Found,
) -> Result {
    let pool = ground.pool();
    let numbers: BTreeSet<String> =
        slots(listed)?.iter().map(|slot| slot["slot"].to_string()).collect();
    let mut only = |dir: &str, allowed: &dyn Fn(&str) -> bool| -> Result {
        for name in names(&pool.join(dir))? {
            if !allowed(&name) {
                found.violation(format!("left behind: {}", pool.join(dir).join(name).display()));
            }
        }
        Ok(())
    };
    only("", &|name| {
        [
            "pool.db",
            "pool.db-wal",
            "pool.db-shm",
            "pool.json",
            "pool.lock",
            "pool.sharing",
            "pool.turn",
            "reserve",
            "reserve-inodes",
            "told-remotes",
            ".repository.identity",
            "repository",
            "source-worktrees",
            "registration.lock",
            "reaper.lock",
            "reaper.log",
            "build-base.log",
            "locks",
            "slots",
            "branches",
            "trash",
            "cache",
        ]
        .contains(&name)
            || (expected.damaged && name.starts_with("pool.db.corrupt-"))
    })?;
    only("slots", &|name| numbers.contains(name))?;
    only("branches", &|name| numbers.contains(name))?;
    only("trash", &|_| false)?;
    only("cache", &|name| {
        [
            "base",
            "base.lock",
            "base.locks",
            "lean",
            "shared",
            "worktree",
            "wrapper.lock",
            "wtpool-rustc",
        ]
        .contains(&name)
    })?;
    for number in &numbers {
        let slot = format!("slots/{number}");
        only(&slot, &|name| {
            [
                "repo",
                "slot.json",
                "cache.json",
                "copied.json",
                ".left-out",
                ".cargo",
                ".config.worktree",
                ".info-sparse-checkout",
                ".checked-out",
                ".checked-out.index",
            ]
            .contains(&name)
        })?;
        only(&format!("{slot}/.cargo"), &is_configuration)?;
    }
    for base in names(&pool.join("cache/base"))? {
        let dir = format!("cache/base/{base}");
        // One that is of no use stays for a slot that uses it, or to say why its build came to
        // nothing.
        let has = |name: &str| pool.join(&dir).join(name).exists();
        if !has("manifest.json") && !has("condemned.json") {
            only("cache/base", &|name| name != base)?;
        }
        only(&dir, &|name| {
            [
                "tree",
                "tree.git",
                ".cargo",
                "calls.jsonl",
                "looks.jsonl",
                "build.log",
                "manifest.json",
                "condemned.json",
            ]
            .contains(&name)
        })?;
        only(&format!("{dir}/.cargo"), &is_configuration)?;
    }

    let mut registered = BTreeSet::new();
    let mut count = 0;
    for line in ground.git(["worktree", "list", "--porcelain"])?.lines() {
        let Some(path) = line.strip_prefix("worktree ") else { continue };
        count += 1;
        match Path::new(path).strip_prefix(pool.join("slots")) {
            Ok(inside) => {
                let number = inside.components().next().map(|c| c.as_os_str().to_string_lossy());
                registered.extend(number.map(|number| number.into_owned()));
            }
            Err(_) if Path::new(path) == ground.repo() => {}
            Err(_) if expected.restored => {}
            Err(_) => found.violation(format!("git lists a worktree of nobody: {path}")),
        }
    }
    if registered != numbers {
        found.violation(format!("git lists the slots {registered:?}, the pool {numbers:?}"));
    }
    let registrations = names(&ground.repo().join(".git/worktrees"))?;
    if registrations.len() + 1 != count {
        found.violation(format!("of the registrations {registrations:?} git lists {count} - 1"));
    }
    for number in &numbers {
        if !ground.place(number.parse()?).join(".git").is_file() {
            found.violation(format!("slot {number} has no worktree"));
        }
    }
    Ok(())
}

fn is_configuration(name: &str) -> bool {
    ["config.toml", "wtpool-rustc", "wtpool-rustc.json"].contains(&name)
}

/// References are those that the pool may have made and may keep: a slot's branch, one that gained commits,
/// and rescues, each of which can be listed.
fn references(ground: &Ground, listed: &serde_json::Value, found: &mut Found) -> Result {
    let held: HashSet<&str> =
        slots(listed)?.iter().filter_map(|slot| slot["lease"]["branch"].as_str()).collect();
    let mut rescues = BTreeSet::new();
    let all = ground.git(["for-each-ref", "--format=%(refname) %(objectname)"])?;
    for line in all.lines() {
        let (name, id) = line.split_once(' ').unwrap_or((line, ""));
        if name == "refs/heads/main" || name.starts_with("refs/heads/restored") {
            continue;
        }
        if let Some(id) = name.strip_prefix("refs/wtpool/rescue/") {
            rescues.insert(id.to_owned());
            continue;
        }
        let branch = name.strip_prefix("refs/heads/").filter(|b| b.starts_with("wtpool/"));
        let Some(branch) = branch else {
            found.violation(format!("nobody made the reference {name}"));
            continue;
        };
        let count = ground.git(["rev-list", "--count", &format!("main..{id}")])?;
        if count.trim() == "0" && !held.contains(branch) {
            found.violation(format!("the branch {branch} has no commit, and is left"));
        }
    }
    let known = ground.json(["rescue", "list"])?;
    let known: BTreeSet<String> = known
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rescue| rescue["id"].as_str().map(str::to_owned))
        .collect();
    if known != rescues {
        found.violation(format!("references are {rescues:?}, rescues {known:?}"));
    }
    Ok(())
}

/// By the log nobody was given a slot that was somebody's, and generations grew.
fn log(ground: &Ground, expected: Expected, found: &mut Found) -> Result {
    let text = checked(ground.wtpool().args(["--json", "events"]))?;
    let mut held: HashMap<u64, String> = HashMap::new();
    let (mut sequence, mut generation) = (0, 0);
    for event in serde_json::Deserializer::from_str(&text).into_iter() {
        let event: serde_json::Value = event?;
        let number = event["sequence"].as_u64().unwrap_or(0);
        if number <= sequence {
            found.violation(format!("the log's numbers do not grow: {event}"));
        }
        sequence = number;
        let Some(slot) = event["slot"].as_u64() else { continue };
        match event["event"].as_str().unwrap_or_default() {
            "granted" => {
                let new = event["generation"].as_u64().unwrap_or(0);
                if new <= generation {
                    found.violation(format!("generation {generation} was given before: {event}"));
                }
                generation = new;
                if let Some(other) = held.get(&slot) {
                    found
                        .violation(format!("the slot of the lease {other} is given away: {event}"));
                }
            }
            "leased" => {
                found.leases += 1;
                let lease = event["lease"].to_string();
                if let Some(other) = held.insert(slot, lease)
                    && !expected.damaged
                {
                    found.violation(format!("two leases at once, {other} before: {event}"));
                }
            }
            "releasing" | "removed" | "quarantined" | "freed" | "lingering" | "retiring" => {
                held.remove(&slot);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives back what nobody will give back any more, and removes all that rests.
fn empty(ground: &Ground, listed: &serde_json::Value, found: &mut Found) -> Result {
    for slot in slots(listed)? {
        if slot["state"] == "leased"
            && let Some(lease) = slot["lease"]["lease"].as_str()
        {
            let released = ground.json(["release", lease])?;
            if released["disposition"] == "quarantined" {
                found.violation(format!("a lease can't be given back: {released}"));
            }
        }
    }
    ground.json(["prune", "--all"]).map(drop)
}

/// The reaper sees that nothing is left; and nobody else is there.
fn everybody_ends(ground: &Ground, found: &mut Found) -> Result {
    let begun = Instant::now();
    loop {
        let left = process::of(&ground.home());
        match left.first() {
            None => return Ok(()),
            Some(one) if begun.elapsed() > PATIENCE => {
                found.violation(format!("a process is left: {} ({})", one.kind, one.pid));
                for process in &left {
                    process::kill(process, &ground.home());
                }
                return Ok(());
            }
            Some(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Nobody is there, so nobody has a claim. That of a reaper which was killed at its very end is found by the next
/// reconciliation.
fn claims(ground: &Ground, found: &mut Found) -> Result {
    if !names(&ground.pool().join("locks"))?.is_empty() {
        ground.json(["prune"])?;
    }
    for name in names(&ground.pool().join("locks"))? {
        found.violation(format!("a claim of nobody is left: {name}"));
    }
    for name in names(&ground.root.join("working"))? {
        // Of an agent that was killed. The next one in that slot has looked whether it lives.
        drop(std::fs::remove_file(ground.root.join("working").join(name)));
    }
    Ok(())
}

/// What git makes no use of, or must not delete, and nobody is at work with. Git's own `gc` takes away only what is
/// called `tmp_`.
fn object_store(ground: &Ground, found: &mut Found) -> Result {
    let store = ground.repo().join(".git/objects");
    for path in unfinished(&store)? {
        found.violation(format!("left among the objects: {}", path.display()));
    }
    Ok(())
}

fn unfinished(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(store, &mut |path, meta| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_mark = path.extension().is_some_and(|extension| extension == "keep");
        let is_partial = name.ends_with(".pack") && !path.with_extension("idx").exists();
        if meta.is_file() && (name.starts_with('.') || is_mark || is_partial) {
            found.push(path.to_owned());
        }
    })?;
    Ok(found)
}

fn main_worktree(ground: &Ground, found: &mut Found) -> Result {
    let status = ground.git(["status", "--porcelain"])?;
    if !status.is_empty() {
        found.violation(format!("the main worktree was changed: {status}"));
    }
    let branch = ground.git(["symbolic-ref", "HEAD"])?;
    if branch.trim() != "refs/heads/main"
        || ground.git(["rev-list", "--count", "HEAD"])?.trim() != "2"
    {
        found.violation(format!("the main worktree's {} was moved", branch.trim()));
    }
    for (file, content) in [("set-up.env", "SET=up\n"), ("modules/one.js", "one\n")] {
        if std::fs::read_to_string(ground.repo().join(file)).ok().as_deref() != Some(content) {
            found.violation(format!("the main worktree's {file} was changed"));
        }
    }
    let check = ["fsck", "--full", "--strict", "--no-dangling", "--no-progress"];
    if let Err(error) = ground.git(check) {
        found.violation(error.to_string());
    }
    Ok(())
}

/// Reachable from a reference means: git keeps it, and stock git can show it.
fn look_for_everything(ground: &Ground, found: &mut Found) -> Result {
    let listed = ground.git(["rev-list", "--objects", "--all"])?;
    let reachable: HashSet<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for name in names(&ground.logs())? {
        let text = whole_lines(&std::fs::read_to_string(ground.logs().join(&name))?).to_owned();
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let (what, id, file) =
                (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
            match what {
                Some("commit") => found.commits += 1,
                Some("object") => found.objects += 1,
                Some("violation") => {
                    found.violation(line);
                    continue;
                }
                _ => continue,
            }
            if !reachable.contains(id) {
                let what = what.unwrap_or_default();
                found.violation(format!("agent {name}: {what} {id} {file} is lost"));
            }
        }
    }
    Ok(())
}

/// A log whose writer was killed in the middle of a line: what is not a whole line was not yet said.
fn whole_lines(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

/// The entries of a directory; none, where there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("read {}: {error}", dir.display()).into()),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What git's own processes leave when they are killed.
fn locks(git_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(git_dir, &mut |path, _| {
        if path.extension().is_some_and(|extension| extension == "lock") {
            found.push(path.to_owned());
        }
    })?;
    Ok(found)
}

/// All below a directory, which others may change meanwhile.
fn walk(dir: &Path, see: &mut dyn FnMut(&Path, &std::fs::Metadata)) -> Result {
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("read {}: {error}", dir.display()).into()),
    };
    for entry in entries {
        let path = entry?.path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        see(&path, &meta);
        if meta.is_dir() {
            walk(&path, see)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_was_not_said() {
        assert_eq!(whole_lines("commit 1\nobject 2"), "commit 1\n");
        assert_eq!(whole_lines("commit"), "");
    }

    #[test]
    fn a_difference_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            Snapshot(pairs.collect())
        };
        let before = of(&[("slot 1", "free"), ("events", "7")]);
        assert!(before.differences(&of(&[("events", "7"), ("slot 1", "free")])).is_empty());
        let after = before.differences(&of(&[("events", "8"), ("slots/2", "no file")]));
        let named: Vec<_> = after.iter().map(|d| d.split(':').next().unwrap_or_default()).collect();
        assert_eq!(named, ["events", "slot 1", "slots/2"]);
    }

    #[test]
    fn what_is_left_among_objects_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in
            ["pack-1.pack", "pack-1.idx", "pack-2.pack", "pack-1.keep", ".pack-3.idx", "tmp_pack_4"]
        {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let mut found = unfinished(dir.path()).expect("read");
        found.sort();
        assert_eq!(
            found,
            [".pack-3.idx", "pack-1.keep", "pack-2.pack"].map(|n| dir.path().join(n))
        );
    }

    #[test]
    fn locks_are_found_at_any_depth() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lock = dir.path().join("refs/heads/topic.lock");
        std::fs::create_dir_all(lock.parent().expect("it has one")).expect("made");
        std::fs::write(&lock, "").expect("written");
        assert_eq!(locks(dir.path()).expect("read"), [lock]);
        assert!(locks(&dir.path().join("absent")).expect("read").is_empty());
    }
}
