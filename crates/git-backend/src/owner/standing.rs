//! Whose a pool is, if its repository, or the pool itself, may have been moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::{Error, ErrorKind, Result};

use super::identity::{Identity, Memory};
use super::links::{Link, Paths};
use super::{OWNER_FILE, is_same, pool_owner};
use crate::dispose::numbered;
use crate::repository::Repository;
use crate::site::{read_link_file, resolved};

/// How a pool stands to a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It belongs to no repository yet, or is not there.
    Unclaimed,
    /// It is the repository's.
    Ours,
    /// It is the repository's for certain, and one of the two was moved: the paths in them are those
    /// of before.
    Moved,
    /// It is the repository's as far as can be seen; why that is not certain.
    Likely(String),
    /// It was the repository's, at whose old path a copy of it is now, which has the pool's worktrees.
    Copied,
    /// It belongs to a repository that was at this one's path before.
    Former,
    /// It is a copy of the pool at that path.
    Copy(PathBuf),
    /// It belongs to another repository, or to one that is gone.
    Another,
}

impl Standing {
    /// Whether the repository may use the pool.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Unclaimed | Self::Ours | Self::Moved)
    }

    /// The error of using the pool all the same.
    pub(crate) fn refusal(&self, pool_dir: &Path, owner: &Path, repository: &Repository) -> Error {
        let (pool, owner_dir) = (pool_dir.display(), owner.display());
        let refused = |message: String| Error::new(ErrorKind::InvalidInput, message);
        let (place, other) = (repository.place().display(), "name another pool with `--pool-dir`");
        match self {
            Self::Likely(why) if owner == repository.common_dir() => {
                refused(format!("the pool {pool} was at another path before: {why}"))
                    .with_hint(format!("if it was moved, run: wtpool adopt {pool}"))
            }
            Self::Likely(why) => {
                let now = match () {
                    () if is_gone(owner) => "is gone",
                    () if led_to(owner) == repository.common_dir() => "is now a link",
                    () => "is now another one",
                };
                refused(format!(
                    "the pool {pool} belongs to the repository {owner_dir}, which {now}, and \
                     {place} may be that repository: {why}"
                ))
                .with_hint(format!("if it is, run: wtpool adopt {pool}"))
            }
            Self::Former => refused(format!(
                "the pool {pool} belongs to a repository that was at {owner_dir} before"
            ))
            .with_hint(format!("start inside that repository where it is now, or {other}")),
            Self::Copy(original) => {
                refused(format!("the pool {pool} is a copy of the pool {}", original.display()))
                    .with_hint(other)
            }
            _ if is_gone(owner) => refused(format!(
                "the pool {pool} belongs to the repository {owner_dir}, which is gone"
            ))
            .with_hint(format!("start inside that repository where it is now, or {other}")),
            _ => super::pool_of_another(pool_dir, owner),
        }
    }
}

/// A pool, judged for a repository.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) standing: Standing,
    /// The common directory of the repository that the pool belongs to; none if it has none.
    pub(super) owner: Option<PathBuf>,
    pub(super) memory: Option<Memory>,
    /// Whether what the pool remembers is to be written again.
    pub(super) is_outdated: bool,
}

impl Judged {
    pub(super) fn new(pool_dir: &Path, repository: &Repository) -> Result<Self> {
        let pool_dir = &crate::site::resolved(pool_dir);
        let Some(owner) = pool_owner(pool_dir)? else {
            return Ok(Self {
                standing: Standing::Unclaimed,
                owner: None,
                memory: None,
                is_outdated: true,
            });
        };
        let memory = Memory::read(pool_dir)?;
        let common_dir = repository.common_dir();
        let standing = standing(pool_dir, common_dir, &owner, memory.as_ref())?;
        let identity = Identity::of(common_dir);
        let is_outdated = memory.as_ref().is_none_or(|memory| memory.is_outdated(identity));
        Ok(Self { standing, owner: Some(owner), memory, is_outdated })
    }

    /// The worktrees in the pool that the repository has registered.
    pub(super) fn links(&self, pool_dir: &Path, common_dir: &Path) -> Result<Vec<Link>> {
        self.with_paths(pool_dir, common_dir, |paths| paths.links())
    }

    /// See [`Paths::repair_of_deleted`].
    pub(super) fn repair_of_deleted(&self, pool_dir: &Path, common_dir: &Path) -> Result<()> {
        self.with_paths(pool_dir, common_dir, |paths| paths.repair_of_deleted())
    }

    /// See [`Paths::repair_of_nested`].
    pub(super) fn repair_of_nested(&self, pool_dir: &Path, common_dir: &Path) -> Result<()> {
        self.with_paths(pool_dir, common_dir, |paths| paths.repair_of_nested())
    }

    fn with_paths<T>(
        &self,
        pool_dir: &Path,
        common_dir: &Path,
        work: impl FnOnce(&Paths<'_>) -> Result<T>,
    ) -> Result<T> {
        let owner = self.owner.as_deref().unwrap_or(common_dir);
        work(&paths(pool_dir, common_dir, owner, self.memory.as_ref()))
    }
}

fn paths<'a>(
    pool_dir: &'a Path,
    common_dir: &'a Path,
    owner: &Path,
    memory: Option<&Memory>,
) -> Paths<'a> {
    let (mut old_pool_dirs, mut old_common_dirs) = (Vec::new(), vec![owner.to_owned()]);
    if let Some(memory) = memory {
        old_pool_dirs.extend(memory.pool_dir().into_iter().chain(memory.earlier()));
        old_common_dirs.extend(memory.taken_by());
    }
    Paths { pool_dir, old_pool_dirs, common_dir, old_common_dirs }
}

fn standing(
    pool_dir: &Path,
    common_dir: &Path,
    owner: &Path,
    memory: Option<&Memory>,
) -> Result<Standing> {
    let old_pool_dir = memory.and_then(Memory::pool_dir);
    let are_linked = |common_dir: &Path| {
        Ok::<_, Error>(!paths(pool_dir, common_dir, owner, memory).links()?.is_empty())
    };
    let has_links = || are_linked(common_dir);
    let is_empty = || Ok(numbered(&pool_dir.join("slots"))?.is_empty());
    let identity = Identity::of(common_dir);
    let is_at_its_path = owner == common_dir;
    let owner_now = led_to(owner);
    let is_led_to = owner_now == common_dir;
    if (is_at_its_path || is_led_to) && memory.is_some_and(|memory| memory.is_not_of(identity)) {
        // Made again at the same path: by a clone, or by a copy away and back.
        if !is_empty()? && !has_links()? {
            return Ok(Standing::Former);
        }
    }
    let was_moved = old_pool_dir.as_deref().is_some_and(|old| old != pool_dir);
    // The owner's path is that of another repository by now, or leads to one.
    let is_other = memory.is_some_and(|memory| memory.is_not_of(Identity::of(&owner_now)));
    if !is_at_its_path && !is_led_to && !is_gone(&owner_now) {
        let is_linked = || are_linked(&owner_now);
        // The other one has none of the pool's worktrees.
        if !is_other || is_linked()? {
            let was_ours = memory.is_some_and(|memory| match is_other {
                true => memory.is_of(identity),
                false => memory.was_of(identity),
            });
            return Ok(if was_ours { Standing::Copied } else { Standing::Another });
        }
    }
    if was_moved && let Some(original) = old_pool_dir.as_deref() {
        let is_there = fs::symlink_metadata(original.join(OWNER_FILE)).is_ok();
        match is_there && !is_same(original, pool_dir) {
            true => return Ok(Standing::Copy(original.to_owned())),
            // The same directory by another path.
            false if is_there && is_at_its_path => return Ok(Standing::Ours),
            false => {}
        }
    }
    // A process that was taking it over, when it was elsewhere, did not finish.
    let is_between = memory.is_some_and(|memory| memory.taken_by().next().is_some());
    if is_at_its_path && (!was_moved && !is_between || is_empty()?) {
        return Ok(Standing::Ours);
    }
    let Some(memory) = memory else {
        return Ok(match has_links()? {
            true => Standing::Likely("an older version made the pool".to_owned()),
            false => Standing::Another,
        });
    };
    if !memory.is_of(identity) {
        return Ok(match has_links()? {
            true => Standing::Likely("it may be a copy".to_owned()),
            false => Standing::Another,
        });
    }
    if !memory.is_of_this_view() {
        let why = "the pool was used in another container, whose paths may be others";
        return Ok(Standing::Likely(why.to_owned()));
    }
    Ok(Standing::Moved)
}

/// Returns the common directory that the path of a repository's one leads to by now: through
/// symlinks, and through a `.git` file as git follows it.
pub(super) fn led_to(owner: &Path) -> PathBuf {
    let found = resolved(owner);
    if !fs::symlink_metadata(&found).is_ok_and(|meta| meta.is_file()) {
        return found;
    }
    let (Ok(named), Some(dir)) = (read_link_file(&found, b"gitdir: "), found.parent()) else {
        return found;
    };
    let git_dir = resolved(&dir.join(named));
    match read_link_file(&git_dir.join("commondir"), b"") {
        Ok(common) => resolved(&git_dir.join(common)),
        Err(_) => git_dir,
    }
}

/// Whether a path is missing for certain.
fn is_gone(path: &Path) -> bool {
    let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    fs::symlink_metadata(path).is_err_and(|e| missing.contains(&e.kind()))
}
