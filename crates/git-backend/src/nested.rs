//! Linked worktrees of the same repository that an agent made in its slot's directory: inside the
//! slot's tree, or beside it.
//!
//! They are found by their registrations, so an ignored or regenerable directory hides none. Each is
//! inspected as strictly as the slot itself (`inspect.rs`), has a rescue of its own if there is work
//! in it (`rescue/write.rs`), is set aside together with the slot's tree (`aside.rs`), and is then
//! unregistered and removed. Its branch stays, as after `git worktree remove`.
//!
//! A registration whose worktree lies anywhere else is never touched.

pub(crate) mod misplaced;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pool_core::{Error, Result, SlotId};

use crate::aside;
use crate::directory;
use crate::dispose;
use crate::registration;
use crate::site::{Site, entries, read_link_file};
use crate::trash::Bin;
use misplaced::{Owner, owner};

/// A linked worktree in a slot's directory that is not the slot's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nested {
    /// Its administrative directory.
    pub(crate) admin: PathBuf,
    /// The path that it is registered with.
    pub(crate) root: PathBuf,
    /// Where it is now: somewhere else while it is set aside.
    pub(crate) now: PathBuf,
    /// What is there.
    pub(crate) state: State,
}

/// What is at the path of a registered worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The worktree, which names its registration.
    Sound,
    /// No worktree. The registration may still be all that knows some commits.
    Gone,
    /// Something else; the text says what.
    Obstructed(String),
}

/// Where to look for the trees of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// At their paths.
    Home,
    /// Where [`aside::take`] has moved them.
    Aside,
}

/// Finds the linked worktrees of the repository that are registered inside a slot's directory, apart
/// from the slot's own; outer ones before those inside of them.
///
/// # Errors
///
/// If the registrations cannot be read.
pub(crate) fn find(site: &Site, slot: SlotId, at: At) -> Result<Vec<Nested>> {
    let (dir, place) = (site.slot_dir(slot), site.place(slot));
    let mut found = Vec::new();
    for (admin, dot_git) in site.registrations()? {
        let Some(root) = dot_git.parent().filter(|_| dot_git.ends_with(".git")) else { continue };
        if root.starts_with(&dir) && root != dir && root != place {
            found.push((root.to_owned(), admin));
        }
    }
    found.sort();
    let locate = |root: &Path| match at {
        At::Home => root.to_owned(),
        At::Aside => {
            // Moved together with the outermost tree that it lies in.
            let movers = found.iter().map(|(outer, admin)| (outer, aside_path(outer, admin)));
            let own = (&place, aside::path(site, slot));
            let mut movers = std::iter::once(own).chain(movers);
            let moved = movers.find_map(|(outer, to)| {
                let inside = root.strip_prefix(outer).ok()?;
                // Joined with nothing, a path would end in a slash.
                let is_it = inside.as_os_str().is_empty();
                aside::is_there(&to).then(|| if is_it { to } else { to.join(inside) })
            });
            moved.unwrap_or_else(|| root.to_owned())
        }
    };
    let nested = found.iter().map(|(root, admin)| {
        let now = locate(root);
        let state = state(site, admin, root, &now, at);
        Nested { admin: admin.clone(), root: root.clone(), now, state }
    });
    Ok(nested.collect())
}

fn state(site: &Site, admin: &Path, root: &Path, now: &Path, at: At) -> State {
    let aside = aside_path(root, admin);
    if at == At::Home && aside::is_there(&aside) && aside::is_there(root) {
        return State::Obstructed(format!(
            "it was set aside as {}, and something else is in its place: move that away",
            aside.display()
        ));
    }
    let is_dir = fs::symlink_metadata(now).is_ok_and(|meta| meta.is_dir());
    match fs::symlink_metadata(now.join(".git")) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            State::Gone
        }
        Err(e) => State::Obstructed(format!("it cannot be looked at: {e}")),
        Ok(meta) if is_dir && meta.is_file() && site.is_linked(admin, now) => State::Sound,
        Ok(_) => State::Obstructed(match misnamed(site, admin, now) {
            true => format!(
                "its `.git` names another path: run `git --git-dir {} worktree repair {}`",
                site.common_dir.display(),
                root.display()
            ),
            false => "another repository is in its place: move that away".into(),
        }),
    }
}

/// Whether the `.git` of a tree names a registration of that name that is gone: the repository was
/// moved.
fn misnamed(site: &Site, admin: &Path, tree: &Path) -> bool {
    let Ok(named) = read_link_file(&tree.join(".git"), b"gitdir: ") else { return false };
    let named = tree.join(named);
    let is_gone = !aside::is_there(&named);
    is_gone && named.file_name() == admin.file_name() && site.is_common_dir_of(admin)
}

impl Nested {
    /// Its path as an agent in the slot's tree would name it.
    pub(crate) fn label(&self, site: &Site, slot: SlotId) -> String {
        let inside = self.root.strip_prefix(site.place(slot)).map(Path::to_owned);
        let path = inside.unwrap_or_else(|_| {
            let beside = self.root.strip_prefix(site.slot_dir(slot)).unwrap_or(&self.root);
            Path::new("..").join(beside)
        });
        path.to_string_lossy().into_owned()
    }

    /// Why it has to stay, whatever is in it.
    pub(crate) fn obstacle(&self, site: &Site, slot: SlotId) -> Option<String> {
        let root = self.root.display();
        if let State::Obstructed(what) = &self.state {
            return Some(format!("the linked worktree {root} is not there: {what}"));
        }
        let is_inside = self.root.starts_with(site.place(slot));
        let first = self.root.strip_prefix(site.slot_dir(slot)).ok().filter(|_| !is_inside);
        let first = first.and_then(|inside| inside.components().next());
        if first.is_some_and(|first| site.is_own_entry(slot, first.as_os_str())) {
            return Some(format!(
                "the linked worktree {root} has a name that the pool itself uses: run \
                 `git worktree move {root} NEW-PATH`"
            ));
        }
        if let Some(reason) = self.locked() {
            let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
            return Some(format!(
                "the linked worktree {root} is locked{reason}: run `git worktree unlock {root}`"
            ));
        }
        None
    }

    /// Why a process other than the pool has locked it, if one has.
    fn locked(&self) -> Option<String> {
        let reason = fs::read(self.admin.join(registration::LOCK)).ok()?;
        let is_of_pool = reason == aside::REASON.as_bytes();
        let reason = String::from_utf8_lossy(&reason).trim().replace(char::is_control, " ");
        (!is_of_pool).then_some(reason)
    }

    /// Where it is set aside, if it lies beside the slot's tree. In the same directory, so that
    /// relative paths in it still hold.
    pub(crate) fn aside(&self) -> PathBuf {
        aside_path(&self.root, &self.admin)
    }
}

fn aside_path(root: &Path, admin: &Path) -> PathBuf {
    let name = admin.file_name().unwrap_or_default().to_string_lossy();
    root.with_file_name(format!("{}{name}", aside::PREFIX))
}

/// The worktrees that must be moved to set all of them aside: those beside the slot's tree that lie
/// in no other one.
pub(crate) fn movers(site: &Site, slot: SlotId, nested: &[Nested]) -> Vec<Nested> {
    let place = site.place(slot);
    let mut movers: Vec<Nested> = Vec::new();
    for one in nested.iter().filter(|one| one.state == State::Sound) {
        let is_inside = |outer: &Path| one.root.starts_with(outer);
        if !is_inside(&place) && !movers.iter().any(|mover| is_inside(&mover.root)) {
            movers.push(one.clone());
        }
    }
    movers
}

/// Unregisters and removes worktrees that were [set aside](aside::take) with the slot's tree.
///
/// # Errors
///
/// If one cannot be moved into the trash, or cannot be unregistered. What was done stays done.
pub(crate) fn remove(
    site: &Site,
    slot: SlotId,
    nested: &[Nested],
    interrupt: &AtomicBool,
    bin: &mut Bin,
) -> Result<()> {
    if nested.is_empty() {
        return Ok(());
    }
    // Those inside another one first.
    for one in nested.iter().rev().filter(|one| one.state == State::Sound) {
        let moved = |outer: &Path| one.now.strip_prefix(outer).ok();
        let tree = aside::path(site, slot);
        let outer = nested.iter().map(Nested::aside).find(|outer| moved(outer).is_some());
        let outer = Some(tree).filter(|tree| moved(tree).is_some()).or(outer);
        match outer.as_deref().and_then(|outer| Some((outer, moved(outer)?))) {
            Some((_, inside)) if inside.as_os_str().is_empty() => bin.put(&one.now)?,
            Some((outer, inside)) => match directory::find(outer, inside) {
                Some((dir, name)) => bin.put_from(&dir, name)?,
                None => return Err(not_found(&one.now)),
            },
            None => return Err(not_found(&one.now)),
        }
    }
    registration::exclusively(site, interrupt, || {
        for one in nested {
            // It may have been moved, or repaired, to lie somewhere else.
            let dot_git = one.root.join(".git");
            if !aside::is_there(&dot_git)
                && site.registrations()?.contains(&(one.admin.clone(), dot_git))
            {
                registration::unregister(&one.admin, bin)?;
            }
        }
        Ok(())
    })?;
    for one in nested {
        // Directories that only led to it.
        let outside = |dir: &&Path| dir.starts_with(site.slot_dir(slot));
        let parents = one.root.ancestors().skip(1).take_while(outside);
        let parents = parents.take_while(|dir| *dir != site.slot_dir(slot));
        for dir in parents {
            if dir.starts_with(site.place(slot)) || fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Something in a slot's directory that is not the pool's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Whose directory it is in.
    pub slot: SlotId,
    /// Where it is.
    pub path: PathBuf,
    /// What it is, such as `a directory`.
    pub what: String,
    /// Whether it is inside the slot's worktree, not beside it.
    pub is_inside: bool,
    /// The command that keeps it when the lease ends, or clears it.
    pub command: String,
}

/// Finds what is beside the worktrees of slots, and the linked worktrees that are nested in them.
/// `is_known` tells by its name what another part of the pool keeps beside a worktree.
///
/// # Errors
///
/// If a directory or the registrations cannot be read.
pub(crate) fn others(site: &Site, is_known: &dyn Fn(&OsStr) -> bool) -> Result<Vec<Other>> {
    let mut found = Vec::new();
    for slot in dispose::numbered(&site.slots_dir())? {
        let nested = find(site, slot, At::Home)?;
        for one in &nested {
            let path = one.root.clone();
            let shown = path.display();
            let (what, command) = match &one.state {
                State::Sound => (
                    "a linked worktree of this repository",
                    format!("git -C {shown} worktree move {shown} NEW-PATH"),
                ),
                State::Gone => (
                    "a linked worktree of this repository that is gone",
                    format!("git --git-dir {} worktree prune", site.common_dir.display()),
                ),
                State::Obstructed(_) => {
                    ("something in the place of a linked worktree", format!("mv {shown} NEW-PATH"))
                }
            };
            let is_inside = path.starts_with(site.place(slot));
            found.push(Other { slot, path, what: what.to_owned(), is_inside, command });
        }
        for path in strays(site, slot, &nested, is_known)? {
            let reading = |e| Error::io(format!("look at {}", path.display()), e);
            let kind = match fs::symlink_metadata(&path) {
                Ok(meta) => meta.file_type(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(reading(e)),
            };
            let what = match fs::symlink_metadata(path.join(".git")) {
                Ok(meta) if kind.is_dir() && meta.is_dir() => "a repository of its own",
                Ok(_) if kind.is_dir() => {
                    let dot_git = path.join(".git");
                    let named = read_link_file(&dot_git, b"gitdir: ");
                    let owner = named.map(|named| owner(&site.common_dir, &dot_git, &named));
                    match owner.unwrap_or(Owner::Other) {
                        Owner::This => "a linked worktree of this repository that was moved",
                        Owner::Gone => "a worktree of a repository that is gone",
                        Owner::Other => "a worktree of another repository",
                    }
                }
                _ if kind.is_dir() => "a directory",
                _ if kind.is_symlink() => "a symlink",
                _ => "a file",
            };
            let shown = path.display();
            let command = match what {
                "a worktree of another repository" => {
                    format!("git -C {shown} worktree move {shown} NEW-PATH")
                }
                "a linked worktree of this repository that was moved" => {
                    format!("git --git-dir {} worktree repair {shown}", site.common_dir.display())
                }
                _ => format!("mv {shown} NEW-PATH"),
            };
            found.push(Other { slot, path, what: what.to_owned(), is_inside: false, command });
        }
    }
    found.sort_by(|a, b| (a.slot, &a.path).cmp(&(b.slot, &b.path)));
    Ok(found)
}

/// What is beside a slot's worktree and neither the pool's nor one of the `nested` worktrees, nor a
/// directory that only leads to one.
fn strays(
    site: &Site,
    slot: SlotId,
    nested: &[Nested],
    is_known: &dyn Fn(&OsStr) -> bool,
) -> Result<Vec<PathBuf>> {
    let top = site.slot_dir(slot);
    let mut pending = vec![top.clone()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        let reading = |e| Error::io(format!("read {}", dir.display()), e);
        for entry in entries(&dir)? {
            let (name, path) = (entry.file_name(), entry.path());
            let is_pools = dir == top && (site.is_own_entry(slot, &name) || is_known(&name));
            if is_pools || nested.iter().any(|one| one.root == path) {
                continue;
            }
            let is_dir = entry.file_type().map_err(reading)?.is_dir();
            match is_dir && nested.iter().any(|one| one.root.starts_with(&path)) {
                true => pending.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

/// Fails if the slot has something beside its worktree, so that it is not to be used again.
///
/// # Errors
///
/// `Unsupported` if so; if a directory or the registrations cannot be read.
pub(crate) fn check_alone(site: &Site, slot: SlotId) -> Result<()> {
    let Some(is_known) = site.known_beside.get() else { return Ok(()) };
    let nested = find(site, slot, At::Home)?;
    let Some(stray) = strays(site, slot, &nested, is_known)?.into_iter().next() else {
        return Ok(());
    };
    let message = format!("cannot use slot {slot} again: {} is in its directory", stray.display());
    Err(Error::new(pool_core::ErrorKind::Unsupported, message))
}

fn not_found(path: &Path) -> Error {
    let message = format!("cannot remove {}: it is not where it was set aside", path.display());
    Error::new(pool_core::ErrorKind::Busy, message)
}
