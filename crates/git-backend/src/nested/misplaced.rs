//! Linked worktrees of the same repository in a slot's directory whose registrations do not lead
//! there: moved by hand, made under another path (in a container, say), or with a damaged
//! registration.
//!
//! Such a registration tells neither where its worktree is nor where it is not, and may be pruned
//! by `git worktree prune` or `git gc`. So the slot's directory is searched for `.git` files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use pool_core::{Result, SlotId};

use super::{Nested, State};
use crate::aside;
use crate::dispose::numbered;
use crate::site::{Site, entries, read_link_file, resolved};

/// The registrations of a repository's worktrees, by whether they lead to these.
struct Registrations {
    /// The administrative directories of those that do, or whose worktrees are set aside.
    verified: BTreeSet<PathBuf>,
    /// The names of the others.
    doubtful: BTreeSet<OsString>,
}

/// Finds what may be a misplaced linked worktree in a slot's directory, at any depth and whether it
/// is ignored or not, and says why it has to stay. `nested` are those that the registrations lead to.
///
/// # Errors
///
/// If the registrations cannot be listed.
pub(crate) fn find(site: &Site, slot: SlotId, nested: &[Nested]) -> Result<Vec<String>> {
    let registrations = Registrations::read(site, slot, nested)?;
    let (place, aside) = (site.place(slot), aside::path(site, slot));
    // By its path while nothing is set aside: the user can go there, and what a killed process left
    // aside comes back there.
    let at_home = |path: &Path| {
        let moved = nested
            .iter()
            .rev()
            .flat_map(|one| [one.now.clone(), one.aside()].map(|now| (now, &*one.root)));
        let mut moved = moved.chain([(aside.clone(), &*place)]);
        let home = moved.find_map(|(now, home)| {
            let inside = path.strip_prefix(now).ok()?;
            let is_it = inside.as_os_str().is_empty();
            Some(if is_it { home.to_owned() } else { home.join(inside) })
        });
        home.unwrap_or_else(|| path.to_owned())
    };
    let is_known = |home: &Path| home == place || nested.iter().any(|one| one.root == home);
    let mut found = Vec::new();
    let own_dir = site.slot_dir(slot);
    // It may have been moved to another slot; its registration goes with this one.
    let gone = nested.iter().filter(|one| one.state == State::Gone);
    let gone: BTreeSet<_> = gone.filter_map(|one| one.admin.file_name()).collect();
    let mut pending = vec![own_dir.clone()];
    if !gone.is_empty() {
        let others = numbered(&site.slots_dir())?.into_iter().filter(|other| *other != slot);
        pending.extend(others.map(|other| site.slot_dir(other)));
    }
    while let Some(dir) = pending.pop() {
        let is_own = dir.starts_with(&own_dir);
        let listed = fs::read_dir(&dir).and_then(|entries| {
            let entries = entries.map(|entry| entry.and_then(|e| Ok((e.path(), e.file_type()?))));
            entries.collect::<io::Result<Vec<_>>>()
        });
        let entries = match listed {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound || !is_own => continue,
            // What git ignores and the user may not read is lost with the slot anyway.
            Err(_) if registrations.doubtful.is_empty() => continue,
            Err(e) => {
                let dir = at_home(&dir);
                found.push(format!(
                    "{} cannot be searched for linked worktrees: {e}",
                    dir.display()
                ));
                continue;
            }
        };
        for (path, kind) in entries {
            let is_git = path.file_name().is_some_and(|name| name == ".git");
            let may_be = || {
                let named = git_dir(&dir, &path, kind).ok();
                named.is_some_and(|named| named.file_name().is_some_and(|id| gone.contains(id)))
            };
            if is_git && (is_own || may_be()) {
                let home = at_home(&dir);
                let why = registrations.obstacle(site, &dir, &path, kind, &home);
                found.extend(why.filter(|_| !is_known(&home)));
            }
            if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Registrations {
    fn read(site: &Site, slot: SlotId, nested: &[Nested]) -> Result<Self> {
        let mut found = Self { verified: BTreeSet::new(), doubtful: BTreeSet::new() };
        let pools_mount = mount(&site.slot_dir(slot));
        for entry in entries(&site.worktrees_dir())? {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let admin = entry.path();
            let is_nested =
                nested.iter().any(|one| one.admin == admin && one.state == State::Sound);
            if is_nested || is_verified(site, &admin, pools_mount) {
                found.verified.insert(admin);
            } else {
                found.doubtful.insert(entry.file_name());
            }
        }
        Ok(found)
    }

    /// Why a directory in which there is a `.git` has to stay; `None` if that is no misplaced
    /// worktree. `shown` is the directory's path for the user.
    fn obstacle(
        &self,
        site: &Site,
        dir: &Path,
        dot_git: &Path,
        kind: FileType,
        shown: &Path,
    ) -> Option<String> {
        let shown = shown.display();
        let named = match git_dir(dir, dot_git, kind) {
            Ok(named) => named,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return Some(format!("{shown}/.git may be a linked worktree's: {e}")),
        };
        let git_dir = resolved(&named);
        let name = git_dir.file_name()?;
        let is_of_worktrees = git_dir.parent().is_some_and(|dir| dir.ends_with("worktrees"));
        if self.doubtful.contains(name) && is_of_worktrees {
            return Some(format!(
                "{shown} is a linked worktree of this repository, whose registration does not lead \
                 there: run `git --git-dir {} worktree repair {shown}`",
                site.common_dir.display()
            ));
        }
        // A copy of one that is where it is registered; or another repository, which is what its
        // directory is.
        if self.verified.contains(&git_dir) || git_dir.is_dir() && !is_here(site, &git_dir) {
            return None;
        }
        // Another repository's, unless this one was moved.
        let may_be_here = is_of_worktrees && !self.doubtful.is_empty() || is_here(site, &git_dir);
        may_be_here.then(|| {
            format!(
                "{shown} is a linked worktree whose registration {} is gone: take what you need from \
                 it, then run `rm -r {shown}`",
                git_dir.display()
            )
        })
    }
}

/// Whether a registration and the worktree at the path that it names lead to each other.
fn is_verified(site: &Site, admin: &Path, pools_mount: Option<u64>) -> bool {
    let Ok(named) = read_link_file(&admin.join("gitdir"), b"") else { return false };
    let dot_git = resolved(&admin.join(named));
    let Some(root) = dot_git.parent().filter(|_| dot_git.ends_with(".git")) else { return false };
    let is_linked = |root: &Path| {
        let is_file = fs::symlink_metadata(root.join(".git")).is_ok_and(|meta| meta.is_file());
        is_file && site.is_linked(admin, root)
    };
    if is_linked(root) {
        // What is on another mount may be the slot's directory under another path.
        return root.starts_with(site.slots_dir()) || mount(root) == pools_mount;
    }
    // A slot that is being given back.
    let slot = root.parent().filter(|_| root.ends_with(site.name()));
    let is_slots = slot.and_then(Path::parent) == Some(&*site.slots_dir());
    is_slots && is_linked(&root.with_file_name(aside::NAME))
}

/// Whether a git directory is of this repository.
fn is_here(site: &Site, git_dir: &Path) -> bool {
    let common = read_link_file(&git_dir.join("commondir"), b"");
    git_dir.parent() == Some(&*site.worktrees_dir())
        || common.is_ok_and(|common| resolved(&git_dir.join(common)) == site.common_dir)
}

/// Whose a linked worktree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The repository's at hand.
    This,
    /// Another one's.
    Other,
    /// Nothing is at the path that it names, as after one of the two was moved.
    Gone,
}

/// Whose the worktree is whose `.git` file names that git directory.
pub(crate) fn owner(common_dir: &Path, dot_git: &Path, named: &Path) -> Owner {
    let git_dir = dot_git.parent().map_or_else(|| named.to_owned(), |dir| dir.join(named));
    let git_dir = resolved(&git_dir);
    match git_dir.parent() == Some(&*resolved(common_dir).join("worktrees")) {
        true => Owner::This,
        false if aside::is_there(&git_dir) => Owner::Other,
        false => Owner::Gone,
    }
}

/// The git directory that a `.git` is or names.
fn git_dir(dir: &Path, dot_git: &Path, kind: FileType) -> io::Result<PathBuf> {
    if kind.is_dir() {
        return Ok(dot_git.to_owned());
    }
    if kind.is_symlink() {
        let target = dir.join(fs::read_link(dot_git)?);
        match fs::metadata(&target) {
            Ok(meta) if meta.is_file() => {}
            _ => return Ok(target),
        }
    }
    read_link_file(dot_git, b"gitdir: ").map(|named| dir.join(named))
}

/// Tells mounts apart, also those of the same filesystem. `None` if the kernel does not tell.
#[cfg(target_os = "linux")]
fn mount(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

#[cfg(not(target_os = "linux"))]
fn mount(_path: &Path) -> Option<u64> {
    None
}
