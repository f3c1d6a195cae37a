//! One pass over a worktree, comparing it with its index.
//!
//! Nothing is collected: each finding goes to a callback, in a fixed order, so that neither the
//! number of files nor the amount of garbage matters for memory. Only the index decides what is
//! tracked; the file system monitor and the untracked cache are never asked, and the bits
//! *assume-unchanged* and *skip-worktree* are never believed. Symbolic links are never followed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};
use gix::index::entry::{Flags, Mode, Stage};
use pool_core::{Error, Result};

use super::compare::{Comparer, Verdict};
use super::{os, staged, text};
use crate::copy::Copied;
use crate::nested::misplaced::{self, Owner};
use crate::patterns::Patterns;

/// What a path was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Tracked; differs from what is staged.
    Modified,
    /// Tracked, but absent.
    Deleted,
    /// Neither tracked nor ignored.
    Untracked,
    /// Ignored, and neither regenerable nor an unchanged copy.
    Ignored,
    /// Tracked and the same to git, yet the bytes may not be what a checkout would write.
    Equivalent,
    /// Tracked and as it was checked out.
    Unchanged {
        /// Whether a checkout makes it executable.
        executable: bool,
    },
    /// A submodule.
    Submodule(Submodule),
    /// A directory that is not regenerable.
    Directory {
        /// Whether nothing at all is in it.
        empty: bool,
    },
    /// Nothing that a rescue could hold; the text says why.
    Unsavable(String),
}

/// What is in the place of a submodule, if that can be let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Submodule {
    /// Nothing, not even a directory.
    Absent,
    /// An empty directory.
    Empty,
    /// It is checked out, at the commit that is staged.
    AsStaged(ObjectId),
    /// It is checked out at another one.
    Moved(ObjectId),
}

/// One finding.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// Relative to the worktree, with slashes.
    pub(crate) path: &'a BStr,
    /// What it is.
    pub(crate) status: Status,
    /// As found on disk; `None` for what is absent.
    pub(crate) meta: Option<&'a Metadata>,
    /// When the directory that holds it was last changed.
    pub(crate) parent_written: Option<SystemTime>,
}

/// See [`Ground::submodule`].
pub(crate) type Judge<'a> =
    dyn Fn(&BStr, &Path) -> Result<std::result::Result<Option<ObjectId>, String>> + 'a;

/// What a walk needs to know.
pub(crate) struct Ground<'a> {
    pub(crate) repo: &'a gix::Repository,
    pub(crate) index: &'a gix::index::File,
    pub(crate) root: &'a Path,
    pub(crate) regenerable: &'a Patterns,
    pub(crate) copies: &'a Copied,
    /// Judges what is in the place of a submodule: at which commit it is, if it is checked out; or the
    /// reason why it can't be let go.
    pub(crate) submodule: &'a Judge<'a>,
    /// Linked worktrees inside this one, which are looked at by themselves.
    pub(crate) nested: HashSet<BString>,
}

/// One directory that is being read.
struct Level {
    names: std::vec::IntoIter<OsString>,
    /// Length of its path relative to the root, without the slash.
    len: usize,
    tracked: bool,
    ignored: bool,
    regenerable: bool,
    empty: bool,
    meta: Metadata,
}

/// Walks the worktree and tells `found` about every path in it that is not regenerable.
pub(crate) fn walk(
    ground: &Ground<'_>,
    found: &mut dyn FnMut(&Seen<'_>) -> Result<()>,
) -> Result<()> {
    let mut excludes = ground
        .repo
        .excludes(ground.index, None, Default::default())
        .map_err(|e| super::failed("read the ignore patterns", e))?;
    let mut comparer = Comparer::new(ground.repo, ground.index)?;
    let mounts = mounts_below(ground.root);
    let mut present = vec![false; ground.index.entries().len()];

    let root_meta = std::fs::symlink_metadata(ground.root)
        .map_err(|e| Error::io(format_args!("look at {}", ground.root.display()), e))?;
    let device = os::device(&root_meta);
    let names = list(ground.root)
        .map_err(|e| Error::io(format_args!("read {}", ground.root.display()), e))?;
    let mut rel = BString::default();
    let mut stack = vec![Level {
        empty: names.len() == 0,
        names,
        len: 0,
        tracked: true,
        ignored: false,
        regenerable: false,
        meta: root_meta,
    }];

    while let Some(level) = stack.last_mut() {
        rel.truncate(level.len);
        let Some(name) = level.names.next() else {
            if level.len > 0 && !level.regenerable {
                found(&Seen {
                    path: rel.as_ref(),
                    status: Status::Directory { empty: level.empty },
                    meta: Some(&level.meta),
                    parent_written: None,
                })?;
            }
            stack.pop();
            continue;
        };
        if level.len == 0 && name == ".git" {
            continue;
        }
        if level.len > 0 {
            rel.push(b'/');
        }
        rel.extend_from_slice(&os::bytes(&name));
        let parent_written = level.meta.modified().ok();
        let (tracked, ignored, regenerable) = (level.tracked, level.ignored, level.regenerable);
        let path: &BStr = rel.as_ref();
        let full = ground.root.join(os::path(path));
        let mut tell = |status: Status, meta: Option<&Metadata>| {
            found(&Seen { path, status, meta, parent_written })
        };
        let meta = match std::fs::symlink_metadata(&full) {
            Ok(meta) => meta,
            // Gone since the directory was read: a tracked one is reported as deleted below.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                tell(Status::Unsavable(format!("it cannot be looked at: {e}")), None)?;
                continue;
            }
        };
        if name == ".git" {
            if !regenerable {
                let what = repository_at(ground.repo, &full, &meta);
                tell(Status::Unsavable(what), Some(&meta))?;
            }
            continue;
        }
        if let Err(why) = nameable(&name, &meta)
            && !regenerable
        {
            tell(Status::Unsavable(why), Some(&meta))?;
            continue;
        }
        let is_dir = meta.is_dir();
        let entries = if tracked { ground.index.entry_range(path) } else { None };

        if is_dir && ground.nested.contains(path) {
            // Added as if it were a submodule, its commit is kept by its own references, or by its rescue.
            let gitlink = entries.and_then(|mut r| r.find(|i| is_gitlink(ground.index, *i)));
            if let Some(i) = gitlink {
                present[i] = true;
                tell(Status::Submodule(Submodule::Empty), Some(&meta))?;
            }
            continue;
        }
        if is_dir {
            if let Some(i) =
                entries.clone().and_then(|r| r.into_iter().find(|i| is_gitlink(ground.index, *i)))
            {
                present[i] = true;
                let staged = ground.index.entries()[i].id;
                let status = match (ground.submodule)(path, &full)? {
                    Ok(None) => Status::Submodule(Submodule::Empty),
                    Ok(Some(at)) if at == staged => Status::Submodule(Submodule::AsStaged(at)),
                    Ok(Some(at)) => Status::Submodule(Submodule::Moved(at)),
                    Err(why) => Status::Unsavable(why),
                };
                tell(status, Some(&meta))?;
                continue;
            }
            let holds_tracked =
                tracked && ground.index.prefixed_entries_range(below(path).as_ref()).is_some();
            let ignored =
                ignored || (!holds_tracked && is_excluded(&mut excludes, path, Some(Mode::DIR))?);
            let regenerable = regenerable || (ignored && ground.regenerable.matches(path, true));
            if regenerable && !holds_tracked {
                continue;
            }
            if mounts.contains(&full) || os::device(&meta) != device {
                tell(Status::Unsavable("another filesystem is mounted here".into()), Some(&meta))?;
                continue;
            }
            match list(&full) {
                Ok(names) => stack.push(Level {
                    empty: names.len() == 0,
                    names,
                    len: rel.len(),
                    tracked: holds_tracked,
                    ignored,
                    regenerable,
                    meta,
                }),
                Err(e) => tell(Status::Unsavable(format!("it cannot be read: {e}")), Some(&meta))?,
            }
            continue;
        }

        let savable = meta.is_file() || meta.file_type().is_symlink();
        if let Some(range) = entries {
            // A conflicted path has no stage 0; its file is stored whatever it is.
            let plain =
                range.clone().find(|i| ground.index.entries()[*i].stage() == Stage::Unconflicted);
            present[range].fill(true);
            let status = match plain {
                _ if !savable => Status::Unsavable(special(&meta)),
                None => Status::Modified,
                Some(i) => match comparer.compare(i, path, &full, &meta) {
                    Ok(Verdict::Unchanged) => Status::Unchanged {
                        executable: ground.index.entries()[i].mode == Mode::FILE_EXECUTABLE,
                    },
                    Ok(Verdict::Equivalent) => Status::Equivalent,
                    Ok(Verdict::Different) => Status::Modified,
                    Err(e) => Status::Unsavable(format!("it cannot be read: {e}")),
                },
            };
            tell(status, Some(&meta))?;
            continue;
        }
        if regenerable {
            continue;
        }
        let ignored = ignored || is_excluded(&mut excludes, path, None)?;
        if (ignored && ground.regenerable.matches(path, false))
            || ground.copies.is_unchanged(ground.repo, ground.root, path)
        {
            continue;
        }
        let status = if !savable || mounts.contains(&full) {
            Status::Unsavable(special(&meta))
        } else if let Err(e) = readable(&full, &meta) {
            Status::Unsavable(format!("it cannot be read: {e}"))
        } else if ignored {
            Status::Ignored
        } else {
            Status::Untracked
        };
        tell(status, Some(&meta))?;
    }

    absent(ground, &present, found)
}

/// Reports what the index has and the disk has not.
fn absent(
    ground: &Ground<'_>,
    present: &[bool],
    found: &mut dyn FnMut(&Seen<'_>) -> Result<()>,
) -> Result<()> {
    let mut last: Option<&BStr> = None;
    for (entry, present) in ground.index.entries().iter().zip(present) {
        // What sparse checkout left out was never there.
        let expected = entry.mode != Mode::DIR && !entry.flags.contains(Flags::SKIP_WORKTREE);
        let path = entry.path(ground.index);
        if *present || !expected || last == Some(path) {
            continue;
        }
        last = Some(path);
        if entry.mode.is_submodule() {
            // Not checked out, it has no bytes.
            let status = Status::Submodule(Submodule::Absent);
            found(&Seen { path, status, meta: None, parent_written: None })?;
            continue;
        }
        let parent = ground.root.join(os::path(path));
        let parent_written = parent
            .parent()
            .and_then(|p| std::fs::symlink_metadata(p).ok())
            .and_then(|m| m.modified().ok());
        found(&Seen { path, status: Status::Deleted, meta: None, parent_written })?;
    }
    Ok(())
}

/// What a `.git` inside the worktree says is nested there.
fn repository_at(repo: &gix::Repository, dot_git: &Path, meta: &Metadata) -> String {
    let own = "a repository of its own is nested here".to_owned();
    if !meta.is_file() {
        return own;
    }
    match crate::site::read_link_file(dot_git, b"gitdir: ") {
        Ok(git_dir) => {
            let of = match misplaced::owner(repo.common_dir(), dot_git, &git_dir) {
                Owner::This => "a linked worktree of this repository",
                Owner::Gone => "a worktree of a repository that is gone",
                Owner::Other => "a worktree of another repository",
            };
            let git_dir = text(os::bytes(git_dir.as_os_str()).as_ref().into());
            format!("{of} is nested here, with its git directory at {git_dir}")
        }
        Err(_) => own,
    }
}

/// The reason why no tree of git's can hold something of that name.
fn nameable(name: &std::ffi::OsStr, meta: &Metadata) -> std::result::Result<(), String> {
    use gix::validate::path::component::Mode::Symlink;
    let mode = meta.file_type().is_symlink().then_some(Symlink);
    gix::validate::path::component(os::bytes(name).as_ref().into(), mode, staged::ANY_NAME)
        .map(drop)
        .map_err(|why| format!("git can hold no such name: {why}"))
}

fn is_gitlink(index: &gix::index::File, i: usize) -> bool {
    index.entries()[i].mode.is_submodule()
}

fn below(path: &BStr) -> BString {
    let mut prefix = path.to_owned();
    prefix.push(b'/');
    prefix
}

fn is_excluded(
    stack: &mut gix::AttributeStack<'_>,
    path: &BStr,
    mode: Option<Mode>,
) -> Result<bool> {
    match stack.at_path(os::path(path), mode) {
        Ok(platform) => Ok(platform.is_excluded()),
        // Not classified means untracked, and that is always saved.
        Err(error) => {
            tracing::debug!(path = %text(path), %error, "cannot tell whether it is ignored");
            Ok(false)
        }
    }
}

fn list(dir: &Path) -> std::io::Result<std::vec::IntoIter<OsString>> {
    let mut names = std::fs::read_dir(dir)?
        .map(|e| e.map(|e| e.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    // The order is part of what makes two walks comparable.
    names.sort_unstable();
    Ok(names.into_iter())
}

fn readable(full: &Path, meta: &Metadata) -> std::io::Result<()> {
    if meta.is_file() { os::open(full).map(drop) } else { std::fs::read_link(full).map(drop) }
}

fn special(meta: &Metadata) -> String {
    format!("it is {}", os::kind(meta))
}

/// Mount points below `root`. Another device number would not tell a bind mount.
fn mounts_below(root: &Path) -> HashSet<PathBuf> {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else { return HashSet::new() };
    let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    table
        .lines()
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| os::path(unescape(field).as_ref()))
        .filter(|mount| mount.starts_with(&root) && *mount != root)
        .collect()
}

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescape(field: &[u8]) -> BString {
    let mut out = BString::default();
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(|d| d.to_str().ok());
        if let Some(code) = octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}
