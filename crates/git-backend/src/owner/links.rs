//! Which worktrees in a pool a repository knows by its own registrations, though one of the two, or
//! both, were moved; and naming their paths again.
//!
//! A worktree's `.git` file names its registration, and that names the file. If the repository or the
//! pool was moved, one of the two paths is that of before, or both are. The path of before is known:
//! the pool remembers it. So a slot counts only if both sides still name each other by the paths of
//! before or of now.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use gix::config::{File, Source};
use pool_core::{Error, Result, SlotId};

use crate::dispose::numbered;
use crate::inspect::os::bytes;
use crate::provision::OWN_CONFIG;
use crate::site::{entries, gix_error, read_link_file, resolved};

use super::{is_same, replace};

/// A slot's worktree and its registration, which name each other.
#[derive(Debug)]
pub(super) struct Link {
    /// The slot's own directory, in the pool.
    slot_dir: PathBuf,
    /// Where the worktree's tree is: at its place, or set aside.
    tree: PathBuf,
    /// The last component of the slot's path.
    pub(super) name: String,
    admin: PathBuf,
    /// The path of the worktree that its registration names.
    named_place: PathBuf,
    /// Whether the paths in the two are relative.
    is_relative: bool,
}

/// Where a pool and its repository are, and where they were.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    pub(super) pool_dir: &'a Path,
    /// Where the pool was; empty if it does not remember that.
    pub(super) old_pool_dirs: Vec<PathBuf>,
    pub(super) common_dir: &'a Path,
    /// Where the repository was.
    pub(super) old_common_dirs: Vec<PathBuf>,
}

impl Paths<'_> {
    /// All slots' worktrees that the repository at `common_dir` has registered.
    ///
    /// # Errors
    ///
    /// If the directory of the slots can't be read.
    pub(super) fn links(&self) -> Result<Vec<Link>> {
        let slots = self.pool_dir.join("slots");
        let mut found = Vec::new();
        for slot in numbered(&slots)? {
            let slot_dir = slots.join(slot.to_string());
            if !is_dir(&slot_dir) {
                continue;
            }
            for entry in entries(&slot_dir)? {
                found.extend(self.link(slot, &slot_dir, entry.path()));
            }
        }
        Ok(found)
    }

    /// Has the registrations of worktrees that were deleted before the pool was moved name the
    /// paths of now: the slots' commits are found by them.
    ///
    /// # Errors
    ///
    /// If one can't be read or written.
    pub(super) fn repair_of_deleted(&self) -> Result<()> {
        for entry in entries(&self.common_dir.join("worktrees"))? {
            let admin = entry.path();
            let Ok(named) = read_link_file(&admin.join("gitdir"), b"") else { continue };
            let mut old = self.old_pool_dirs.iter().map(|old| old.join("slots"));
            let Some(inside) = old.find_map(|old| named.strip_prefix(old).ok().map(Path::to_owned))
            else {
                continue;
            };
            let now = self.pool_dir.join("slots").join(&inside);
            let is_slot = inside.components().count() == 3
                && inside.components().all(|part| matches!(part, Component::Normal(_)));
            let is_there = |path: &Path| path.parent().is_some_and(crate::aside::is_there);
            if is_slot && !is_there(&named) && !is_there(&now) {
                let line = [&*bytes(now.as_os_str()), b"\n"].concat();
                replace_unless_same(&admin.join("gitdir"), &line, &admin)?;
            }
        }
        Ok(())
    }

    /// Has the linked worktrees that agents made deeper in their slots' directories, and their
    /// registrations, name each other by the paths of now.
    ///
    /// What cannot be repaired stays as it is: no slot in which such a worktree lies is cleared.
    ///
    /// # Errors
    ///
    /// If the registrations cannot be listed.
    pub(super) fn repair_of_nested(&self) -> Result<()> {
        for entry in entries(&self.common_dir.join("worktrees"))? {
            let admin = entry.path();
            let Some((tree, is_relative)) = self.nested(&admin) else { continue };
            let slots = self.pool_dir.join("slots");
            let slot = tree.strip_prefix(&slots).ok().and_then(|inside| inside.iter().next());
            let slot_dir = slots.join(slot.unwrap_or_default());
            if let Err(error) = connect(&admin, &tree, &tree, is_relative, &slot_dir) {
                tracing::debug!(%error, "cannot repair a nested worktree");
            }
        }
        Ok(())
    }

    /// The worktree deeper in a slot's directory that a registration names, by a path of before or
    /// of now, and which names the registration; and whether its path is relative.
    fn nested(&self, admin: &Path) -> Option<(PathBuf, bool)> {
        let named_git = read_link_file(&admin.join("gitdir"), b"").ok()?;
        let admins = self.admins(admin.file_name()?);
        let pools = self.old_pool_dirs.iter().map(PathBuf::as_path).chain([self.pool_dir]);
        let slots: Vec<_> = pools.map(|pool| pool.join("slots")).collect();
        let (named, inside) = admins.iter().find_map(|from| {
            let named = lexical(from, &named_git);
            let inside = slots.iter().find_map(|slots| named.strip_prefix(slots).ok());
            inside.map(Path::to_owned).map(|inside| (named, inside))
        })?;
        let dot_git = self.pool_dir.join("slots").join(&inside);
        let tree = dot_git.parent()?.to_owned();
        // Those of fewer are the slots' and those right beside them.
        let is_deeper = inside.components().count() > 3 && dot_git.ends_with(".git");
        if !is_deeper || resolved(&tree) != tree || !is_file(&dot_git) {
            return None;
        }
        // What is at the path of before is the original, and this is a copy of it.
        if named != dot_git && crate::aside::is_there(&named) && !is_same(&named, &dot_git) {
            return None;
        }
        let named_admin = read_link_file(&dot_git, b"gitdir: ").ok()?;
        let mut trees = slots.iter().filter_map(|slots| Some(slots.join(inside.parent()?)));
        let names_admin = trees.any(|tree| admins.contains(&lexical(&tree, &named_admin)));
        let common = read_link_file(&admin.join("commondir"), b"").ok()?;
        let is_ours = resolved(&admin.join(common)) == self.common_dir;
        (names_admin && is_ours).then(|| (tree, named_git.is_relative()))
    }

    /// The paths of now and of before of the registration with that name, those of before first.
    fn admins(&self, id: &OsStr) -> Vec<PathBuf> {
        let common_dirs =
            self.old_common_dirs.iter().map(PathBuf::as_path).chain([self.common_dir]);
        common_dirs.map(|dir| dir.join("worktrees").join(id)).collect()
    }

    fn link(&self, slot: SlotId, slot_dir: &Path, tree: PathBuf) -> Option<Link> {
        let dot_git = tree.join(".git");
        if !is_dir(&tree) || !is_file(&dot_git) {
            return None;
        }
        let named_admin = read_link_file(&dot_git, b"gitdir: ").ok()?;
        let id = named_admin.file_name()?;
        let admin = self.common_dir.join("worktrees").join(id);
        if !is_dir(&admin) || !is_file(&admin.join("gitdir")) {
            return None;
        }
        let named_git = read_link_file(&admin.join("gitdir"), b"").ok()?;
        let name = lexical(&admin, &named_git).parent()?.file_name()?.to_str()?.to_owned();
        let place = slot_dir.join(&name);
        let inside = Path::new("slots").join(slot.to_string()).join(&name);
        let old_places: Vec<_> = self.old_pool_dirs.iter().map(|pool| pool.join(&inside)).collect();
        // By its path of now or of before.
        let admins = self.admins(id);
        let names_admin = old_places.iter().chain([&place]).any(|place| {
            let named = lexical(place, &named_admin);
            admins.contains(&named)
        });
        let is_before = |named: &Path| match old_places.is_empty() {
            true => named.ends_with(inside.join(".git")),
            false => named.parent().is_some_and(|named| old_places.iter().any(|old| *old == named)),
        };
        let named = admins.iter().map(|from| lexical(from, &named_git)).find(|named| {
            // What is at the path of before is the original, and this is a copy of it.
            *named == place.join(".git")
                || is_before(named)
                    && (fs::symlink_metadata(named).is_err() || is_same(named, &dot_git))
        })?;
        let common = read_link_file(&admin.join("commondir"), b"").ok()?;
        let is_ours = resolved(&admin.join(common)) == self.common_dir;
        let is_its_tree = tree == place || tree.ends_with(crate::aside::NAME);
        (names_admin && is_ours && is_its_tree).then(|| Link {
            slot_dir: slot_dir.to_owned(),
            is_relative: named_git.is_relative(),
            named_place: named.parent().unwrap_or(&named).to_owned(),
            tree,
            name,
            admin,
        })
    }
}

impl Link {
    /// Has the worktree and its registration name each other by the paths of now. Interrupted
    /// anywhere, they still are a link, and this can be done again.
    ///
    /// # Errors
    ///
    /// If one of their files can't be written.
    pub(super) fn repair(&self) -> Result<()> {
        let place = self.slot_dir.join(&self.name);
        connect(&self.admin, &place, &self.tree, self.is_relative, &self.slot_dir)?;
        // What the pool remembers of it must stay the same as what git reads.
        for config in [
            self.admin.join(OWN_CONFIG[0]),
            self.slot_dir.join(crate::provision::remembered_name(OWN_CONFIG[0])),
        ] {
            self.repair_config(&config, &place)?;
        }
        Ok(())
    }

    /// Changes a `core.worktree` that names the worktree's path of before.
    fn repair_config(&self, path: &Path, place: &Path) -> Result<()> {
        if self.named_place == place || !is_file(path) {
            return Ok(());
        }
        let doing = || format!("set core.worktree in {}", path.display());
        let Ok(mut config) = File::from_path_no_includes(path.to_owned(), Source::Worktree) else {
            // Of a lease that damaged it: recycling writes it again.
            return Ok(());
        };
        let old = bytes(self.named_place.as_os_str());
        if !config.raw_value("core.worktree").is_ok_and(|value| **value == *old) {
            return Ok(());
        }
        config
            .set_raw_value("core.worktree", &*bytes(place.as_os_str()))
            .map_err(|e| gix_error(doing(), e))?;
        let mut text = Vec::new();
        config.write_to(&mut text).map_err(|e| Error::io(doing(), e))?;
        replace(path, &text)
    }
}

/// Has a registration and its worktree name each other. That belongs at `place`, and is at `tree`; its
/// `.git` file is put together in `staging`.
fn connect(
    admin: &Path,
    place: &Path,
    tree: &Path,
    is_relative: bool,
    staging: &Path,
) -> Result<()> {
    let dot_git = place.join(".git");
    let (to_tree, to_admin) = match is_relative {
        true => (relative(admin, &dot_git), relative(place, admin)),
        false => (dot_git, admin.to_owned()),
    };
    // The registration first: as long as it names a path that is gone, `git worktree prune` takes it.
    let line = [&*bytes(to_tree.as_os_str()), b"\n"].concat();
    replace_unless_same(&admin.join("gitdir"), &line, admin)?;
    pool_core::fail_point!("git-backend::owner::registration-repaired");
    let line = [b"gitdir: ", &*bytes(to_admin.as_os_str()), b"\n"].concat();
    // Put together outside of the tree, where a leftover would be taken for work.
    replace_unless_same(&tree.join(".git"), &line, staging)?;
    pool_core::fail_point!("git-backend::owner::worktree-repaired");
    Ok(())
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// A path that starts at `from`, with `.` and `..` taken out. What it names need not exist.
fn lexical(from: &Path, path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for part in from.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                found.pop();
            }
            part => found.push(part),
        }
    }
    found
}

/// The relative path that leads from a directory to `to`; both are absolute.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

fn replace_unless_same(path: &Path, content: &[u8], staging: &Path) -> Result<()> {
    match fs::read(path) {
        Ok(found) if found == content => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("read {}", path.display()), e))
        }
        _ => super::replace_by(path, content, &staging.join(super::UNFINISHED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_path_leads_back() {
        for (from, to) in [("/a/b/c", "/a/x/y"), ("/a", "/a/b"), ("/a/b", "/a"), ("/a", "/b")] {
            let (from, to) = (Path::new(from), Path::new(to));
            assert_eq!(lexical(from, &relative(from, to)), to);
        }
    }
}
