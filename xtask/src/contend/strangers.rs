//! Somebody who works in the same repository with git alone, and knows nothing of a pool.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use super::Tally;
use super::ground::Ground;
use crate::Result;

/// Something that is done again and again, each time with another number.
pub(super) type Stranger = (&'static str, fn(&Ground, &Tally, u32) -> Result);

/// What they do, each beside the others.
pub(super) fn all() -> [Stranger; 5] {
    [
        ("git fetch", fetch),
        ("git gc --prune=now", collect),
        ("git worktree prune", prune),
        ("git worktree add and remove", add_and_remove),
        ("git commit in the main worktree", commit),
    ]
}

/// Does it until the holders are done, and at least once.
pub(super) fn live(ground: &Ground, tally: &Tally, (what, deed): Stranger) {
    let mut number = 0;
    loop {
        if let Err(error) = deed(ground, tally, number) {
            tally.violation(format!("{what}: {error}"));
        }
        tally.did(what);
        number += 1;
        if tally.is_over() {
            return;
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(20..400)));
    }
}

fn fetch(ground: &Ground, _: &Tally, number: u32) -> Result {
    let upstream = ground.upstream();
    let subject = format!("upstream {number}");
    std::fs::write(upstream.join("news"), &subject)?;
    ground.git(&upstream, ["add", "news"])?;
    ground.git(&upstream, ["commit", "--quiet", "--message", &subject])?;
    if number.is_multiple_of(3) {
        let topic = format!("HEAD:refs/heads/topic-{number}");
        ground.git(&upstream, ["push", "--quiet", "origin", &topic])?;
    }
    ground.git(&upstream, ["push", "--quiet", "origin", "HEAD"])?;
    let _whole_ones = ground.registrations.lock().unwrap_or_else(PoisonError::into_inner);
    let _keeps_off = ground.objects.read().unwrap_or_else(PoisonError::into_inner);
    ground.git(&ground.repo(), ["fetch", "--quiet", "origin"]).map(drop)
}

fn collect(ground: &Ground, _: &Tally, _: u32) -> Result {
    let _keeps_off = ground.registrations.lock().unwrap_or_else(PoisonError::into_inner);
    let _alone = ground.objects.write().unwrap_or_else(PoisonError::into_inner);
    match ground.git(&ground.repo(), ["gc", "--quiet", "--prune=now"]) {
        // Git says so, and goes on, whenever somebody deletes a branch while it packs references, be it by `git
        // branch --delete`.
        Err(error) if is_deleted_branch(&error.to_string()) => Ok(()),
        other => other.map(drop),
    }
}

fn is_deleted_branch(error: &str) -> bool {
    error.contains("exit status: 0")
        && error.contains("unable to resolve reference 'refs/heads/wtpool/")
}

fn prune(ground: &Ground, _: &Tally, _: u32) -> Result {
    let _alone = ground.registrations.lock().unwrap_or_else(PoisonError::into_inner);
    ground.git(&ground.repo(), ["worktree", "prune"]).map(drop)
}

fn add_and_remove(ground: &Ground, tally: &Tally, number: u32) -> Result {
    let path = ground.strangers().join(format!("tree-{number}"));
    add(ground, &path, &["-b", &format!("stranger/{number}")])?;
    let text = format!("the stranger's {number}\n");
    std::fs::write(path.join("untracked"), &text)?;
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
    if std::fs::read_to_string(path.join("untracked")).ok().as_deref() != Some(&*text)
        || ground.git(&path, ["status", "--porcelain"])? != "?? untracked"
    {
        tally.violation(format!("somebody was in the stranger's {}", path.display()));
    }
    let remove = [Path::new("worktree"), "remove".as_ref(), "--force".as_ref(), &path];
    let _alone = ground.registrations.lock().unwrap_or_else(PoisonError::into_inner);
    ground.git(&ground.repo(), remove)?;
    ground.git(&ground.repo(), ["branch", "--quiet", "-D", &format!("stranger/{number}")]).map(drop)
}

/// Makes a worktree of the stranger's own.
pub(super) fn add(ground: &Ground, path: &Path, more: &[&str]) -> Result {
    let _alone = ground.registrations.lock().unwrap_or_else(PoisonError::into_inner);
    let words = ["worktree", "add", "--quiet"].iter().chain(more).map(Path::new);
    ground.git(&ground.repo(), words.chain([path])).map(drop)
}

fn commit(ground: &Ground, _: &Tally, number: u32) -> Result {
    let repo = ground.repo();
    let _keeps_off = ground.objects.read().unwrap_or_else(PoisonError::into_inner);
    std::fs::write(repo.join("main-work"), format!("{number}\n"))?;
    ground.git(&repo, ["add", "main-work"])?;
    ground.git(&repo, ["commit", "--quiet", "--message", &format!("main {number}")]).map(drop)
}
