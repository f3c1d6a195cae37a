//! Finding a repository's pool where the repository, or both, were moved.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pool_core::Result;

use super::identity::Memory;
use super::links::relative;
use super::standing::{Judged, Standing, led_to};
use super::{check_above, pool_owner};
use crate::dispose::numbered;
use crate::repository::Repository;
use crate::site::{read_link_file, resolved};

/// The directory in which default pools are.
const POOLS: &str = ".wtpool";
/// How many pools a repository's default path may be taken by.
const ALTERNATIVES: u32 = 100;

/// A pool beside a repository, or one that its registrations name, and that it does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherPool {
    /// The pool's directory.
    pub pool_dir: PathBuf,
    /// The common directory of the repository that the pool says it belongs to.
    pub owner: PathBuf,
    /// How many slots it has.
    pub slots: usize,
    /// What it is, as the end of a sentence that begins with the path: "is …".
    pub what: String,
    /// What to do about it: a command to type, or a sentence.
    pub advice: String,
}

/// The pool that a repository uses unless told otherwise: the one at `nominal`, which follows from
/// its path, or the one that it had at an earlier path. Changes nothing.
pub(crate) fn default_pool(repository: &Repository, nominal: PathBuf) -> PathBuf {
    let standing = |dir: &Path| Judged::new(dir, repository).map(|judged| judged.standing);
    let at_nominal = standing(&nominal);
    if matches!(at_nominal, Ok(Standing::Ours | Standing::Moved) | Err(_)) {
        return nominal;
    }
    let others: Vec<_> = candidates(repository)
        .into_iter()
        .filter_map(|dir| standing(&dir).ok().map(|standing| (standing, dir)))
        .collect();
    for wanted in [Standing::Ours, Standing::Moved] {
        if let Some((_, dir)) = others.iter().find(|(standing, _)| *standing == wanted) {
            return dir.clone();
        }
    }
    if matches!(at_nominal, Ok(Standing::Unclaimed)) {
        return nominal;
    }
    // Another repository's pool is there, which was at this path before.
    let numbered = (2..ALTERNATIVES).map(|n| {
        let mut path = nominal.clone().into_os_string();
        path.push(format!("-{n}"));
        PathBuf::from(path)
    });
    let mut free = numbered.filter(|dir| matches!(standing(dir), Ok(Standing::Unclaimed)));
    free.next().unwrap_or(nominal)
}

/// All default pools that may once have been the repository's: those beside it, and those that its
/// registrations name. None lies where a lease could have made it.
fn candidates(repository: &Repository) -> BTreeSet<PathBuf> {
    // Beside the main worktree, too: the git directory may have been there before.
    let beside = [Some(repository.beside()), repository.main_worktree().and_then(Path::parent)];
    let beside = beside.into_iter().flatten();
    let entries = beside.flat_map(|dir| fs::read_dir(dir.join(POOLS)).into_iter().flatten());
    let mut found: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let worktrees = repository.common_dir().join("worktrees");
    let mut trees: Vec<PathBuf> =
        repository.main_worktree().map(Path::to_owned).into_iter().collect();
    for entry in fs::read_dir(worktrees).into_iter().flatten().flatten() {
        let admin = entry.path();
        let Ok(named) = read_link_file(&admin.join("gitdir"), b"") else { continue };
        let dot_git = resolved(&admin.join(named));
        trees.extend(dot_git.parent().map(Path::to_owned));
        let slots = dot_git.ancestors().nth(3).filter(|slots| slots.ends_with("slots"));
        found.extend(slots.and_then(Path::parent).map(Path::to_owned));
    }
    let is_default = |dir: &Path| dir.parent().is_some_and(|pools| pools.ends_with(POOLS));
    let is_inside = |dir: &Path| {
        dir.starts_with(repository.common_dir()) || trees.iter().any(|tree| dir.starts_with(tree))
    };
    let is_safe = |dir: &Path| {
        let is_dir = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
        is_dir
            && check_above(dir).is_ok()
            && dir.parent().is_some_and(|dir| check_above(dir).is_ok())
    };
    found.retain(|dir| is_default(dir) && resolved(dir) == *dir && !is_inside(dir) && is_safe(dir));
    found
}

impl Repository {
    /// Returns the pools, beside it or named by its registrations, that are, were or may have been
    /// this repository's, other than the one in `pool_dir`. Changes nothing.
    pub fn other_pools(&self, pool_dir: &Path) -> Vec<OtherPool> {
        let other = |dir: &PathBuf| self.other_pool(dir).ok().flatten();
        candidates(self).iter().filter(|dir| *dir != pool_dir).filter_map(other).collect()
    }

    fn other_pool(&self, dir: &Path) -> Result<Option<OtherPool>> {
        let judged = Judged::new(dir, self)?;
        let Some(owner) = judged.owner else { return Ok(None) };
        let slots = numbered(&dir.join("slots"))?.len();
        let path = dir.display();
        let (what, advice) = match judged.standing {
            Standing::Ours | Standing::Moved => (
                "is another pool of this repository".to_owned(),
                format!("run: wtpool list --pool-dir {path}"),
            ),
            Standing::Likely(why) => (
                format!(
                    "may be the pool of this repository, from when it was {}: {why}",
                    owner.display()
                ),
                format!("if it is, run: wtpool adopt {path}"),
            ),
            Standing::Copied if slots > 0 => (
                format!(
                    "is the pool of this repository from when it was {}, where a copy of it is \
                     now, which has the pool's leases",
                    owner.display()
                ),
                format!("run: wtpool list --repo {}", owner.display()),
            ),
            Standing::Former if slots > 0 => (
                format!("is the pool of a repository that was at {} before", owner.display()),
                "use it inside that repository where it is now; if that is gone, save what is in \
                 the pool's slots, then delete the pool"
                    .to_owned(),
            ),
            _ => return Ok(None),
        };
        Ok(Some(OtherPool { pool_dir: dir.to_owned(), owner, slots, what, advice }))
    }
}

/// Returns the repository of a pool that the path in the pool leads to, by a symlink or a `.git`
/// file, or that was moved together with the pool, such as by renaming the directory that both are
/// in; `None` if there is none for certain.
///
/// # Errors
///
/// If the pool's files can't be read.
pub fn repository_beside(pool_dir: &Path) -> Result<Option<Repository>> {
    let (owner, memory) = (pool_owner(pool_dir)?, Memory::read(pool_dir)?);
    let (Some(owner), Some(old)) = (owner, memory.and_then(|memory| memory.pool_dir())) else {
        return Ok(None);
    };
    let beside = pool_dir.join(relative(&old, &owner));
    for path in [owner, beside] {
        // A `.git` file is that of the directory which it is in.
        let start = if path.is_file() { path.parent().unwrap_or(&path) } else { &path };
        let Ok(repository) = Repository::find(start) else { continue };
        if repository.common_dir() == led_to(&path)
            && Judged::new(pool_dir, &repository)?.standing == Standing::Moved
        {
            return Ok(Some(repository));
        }
    }
    Ok(None)
}
