//! What must hold when everybody is gone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Ground, Tally, checked};
use crate::Result;

/// For how long the pool may take to notice that the last holders are gone.
const PATIENCE: Duration = Duration::from_secs(180);

/// When all processes of the run are gone, so that nobody holds a lock any more.
const LOCKS_ARE_STALE: Duration = Duration::from_secs(60);

/// How much was looked for.
pub(super) struct Found {
    pub(super) commits: usize,
    pub(super) objects: usize,
}

/// Empties the pool, then looks for everything that anybody wrote.
pub(super) fn audit(ground: &Ground, tally: &Tally) -> Result<Found> {
    empty_the_pool(ground, tally)?;

    if let Some(tree) = find_tree(&ground.root.join("pool"))? {
        tally.violation(format!("a worktree's files are left in {}", tree.display()));
    }
    let worktrees = ground.git(["worktree", "list", "--porcelain"])?;
    let count = worktrees.lines().filter(|line| line.starts_with("worktree ")).count();
    if count != 1 {
        tally.violation(format!("git still lists {count} worktrees, not only the main one"));
    }
    let status = ground.git(["status", "--porcelain"])?;
    if !status.is_empty() {
        tally.violation(format!("the main worktree was changed: {status}"));
    }
    let branch = ground.git(["symbolic-ref", "HEAD"])?;
    if branch.trim() != "refs/heads/main"
        || ground.git(["rev-list", "--count", "HEAD"])?.trim() != "1"
    {
        tally.violation(format!("the main worktree's {} was moved", branch.trim()));
    }
    if let Err(error) = ground.git(["fsck", "--full", "--strict", "--no-dangling", "--no-progress"])
    {
        tally.violation(error.to_string());
    }
    look_for_everything(ground, tally)
}

/// Those whose `wtpool run` was killed may work on for a while; then nothing may be left.
fn empty_the_pool(ground: &Ground, tally: &Tally) -> Result {
    let begin = Instant::now();
    loop {
        checked(ground.wtpool().args(["prune", "--all"]))?;
        let listed = checked(ground.wtpool().args(["list", "--json"]))?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let slots = listed["slots"].as_array().ok_or("list --json has no slots")?;
        if slots.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > LOCKS_ARE_STALE {
            // An agent's git was killed while it held a lock. The pool never removes one; it says which, and that
            // a person may.
            slots.iter().filter_map(lock_in_the_way).try_for_each(|lock| {
                println!("stress: {} was left by a git that was killed", lock.display());
                std::fs::remove_file(lock)
            })?;
        }
        if begin.elapsed() > PATIENCE {
            tally.violation(format!("slots are left in the pool: {}", listed["slots"]));
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The lock of git's that keeps a slot in quarantine, as `list` tells it.
fn lock_in_the_way(slot: &serde_json::Value) -> Option<PathBuf> {
    let why = slot["kept_because"].as_str()?;
    let named = why.split('"').map(Path::new);
    let mut locks = named.filter(|path| path.extension().is_some_and(|e| e == "lock"));
    locks.find(|path| path.is_absolute() && path.is_file()).map(Path::to_owned)
}

/// The first directory, trash included, that has a file of the repository.
fn find_tree(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in dir.read_dir()? {
        let entry = entry?;
        if entry.file_name() == "tracked-2.txt" {
            return Ok(Some(dir.to_owned()));
        }
        if entry.file_type()?.is_dir()
            && let Some(found) = find_tree(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Reachable from a reference means: git keeps it, and stock git can show it.
fn look_for_everything(ground: &Ground, tally: &Tally) -> Result<Found> {
    let listed = ground.git(["rev-list", "--objects", "--all"])?;
    let reachable: HashSet<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut found = Found { commits: 0, objects: 0 };
    for entry in ground.logs().read_dir()? {
        let path = entry?.path();
        if path.extension().is_some() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for line in read(&path)?.lines() {
            let mut words = line.splitn(3, ' ');
            let (what, id, file) =
                (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
            match what {
                Some("commit") => found.commits += 1,
                Some("object") => found.objects += 1,
                Some("violation") => {
                    tally.violation(line.to_owned());
                    continue;
                }
                _ => continue,
            }
            if !reachable.contains(id) {
                tally.violation(format!("run {name}: {} {id} {file} is lost", what.unwrap_or("")));
            }
        }
    }
    Ok(found)
}

/// A log whose writer was killed in the middle of a line: what is not a whole line was not yet said.
fn read(path: &Path) -> Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_the_one_that_is_named_and_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lock = dir.path().join("topic.lock");
        std::fs::write(&lock, "").expect("written");
        let slot = |path: &Path| {
            let why =
                format!("cannot delete: the lock \"{}\" could not be obtained", path.display());
            serde_json::json!({ "kept_because": why })
        };
        assert_eq!(lock_in_the_way(&slot(&lock)), Some(lock));
        assert_eq!(lock_in_the_way(&slot(&dir.path().join("gone.lock"))), None);
        assert_eq!(lock_in_the_way(&slot(dir.path())), None);
        assert_eq!(lock_in_the_way(&serde_json::json!({ "kept_because": null })), None);
    }
}
