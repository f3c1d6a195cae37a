//! What is staged: the difference between the tree of HEAD and the index.

use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};
use gix::index::entry::{Flags, Mode, Stage};
use gix::objs::tree::EntryKind;
use pool_core::Result;

use super::{failed, text};

/// One staged change.
#[derive(Debug)]
pub(crate) enum Staged<'a> {
    /// The path has this content in the index.
    Set(&'a BStr, EntryKind, ObjectId),
    /// The path is not in the index.
    Removed(&'a BStr),
    /// The path has several stages, since a merge left a conflict, or is only intended to be added;
    /// stage 0 does not have it.
    Unmerged(&'a BStr),
}

impl<'a> Staged<'a> {
    pub(crate) fn path(&self) -> &'a BStr {
        match self {
            Self::Set(path, ..) | Self::Removed(path) | Self::Unmerged(path) => path,
        }
    }
}

/// Tells `found` about each path that the index has differently from `tree`, in the index's order.
pub(crate) fn compare(
    repo: &gix::Repository,
    tree: ObjectId,
    index: &gix::index::State,
    found: &mut dyn FnMut(&Staged<'_>) -> Result<()>,
) -> Result<()> {
    let head = tree_index(repo, tree)?;
    let mut old = head.entries().iter().peekable();
    let mut new = index.entries().iter().peekable();
    loop {
        let old_path = old.peek().map(|e| e.path(&head));
        let Some(entry) = new.peek() else {
            let Some(path) = old_path else { return Ok(()) };
            found(&Staged::Removed(path))?;
            old.next();
            continue;
        };
        let path = entry.path(index);
        if entry.mode == Mode::DIR {
            // A directory that sparse checkout left out stands in the index as one entry.
            let dir = path.trim_end_with(|c| c == '/').as_bstr();
            while old
                .next_if(|e| e.path(&head) < path)
                .is_some_and(|e| found(&Staged::Removed(e.path(&head))).is_err())
            {}
            while old.next_if(|e| e.path(&head).starts_with(path)).is_some() {}
            if subtree(repo, tree, dir) != Some(entry.id) {
                found(&Staged::Set(dir, EntryKind::Tree, entry.id))?;
            }
            new.next();
            continue;
        }
        let unmerged =
            entry.stage() != Stage::Unconflicted || entry.flags.contains(Flags::INTENT_TO_ADD);
        match old_path.map(|old| old.cmp(path)) {
            Some(std::cmp::Ordering::Less) => {
                if let Some(path) = old_path {
                    found(&Staged::Removed(path))?;
                }
                old.next();
                continue;
            }
            _ if unmerged => found(&Staged::Unmerged(path))?,
            Some(std::cmp::Ordering::Equal) => {
                if old.peek().is_some_and(|old| old.id != entry.id || old.mode != entry.mode) {
                    found(&Staged::Set(path, kind(entry.mode), entry.id))?;
                }
            }
            _ => found(&Staged::Set(path, kind(entry.mode), entry.id))?,
        }
        // All stages of one path count once.
        while new.next_if(|e| e.path(index) == path).is_some() {}
        old.next_if(|e| e.path(&head) == path);
    }
}

/// Which names are allowed: whatever the disk could hold, but git's own.
pub(crate) const ANY_NAME: gix::validate::path::component::Options =
    gix::validate::path::component::Options {
        protect_windows: false,
        protect_hfs: false,
        protect_ntfs: false,
    };

/// All paths of a tree.
pub(crate) fn tree_index(repo: &gix::Repository, tree: ObjectId) -> Result<gix::index::State> {
    if tree == repo.empty_tree().id {
        return Ok(gix::index::State::new(repo.object_hash()));
    }
    gix::index::State::from_tree(&tree, &repo.objects, ANY_NAME)
        .map_err(|e| failed(format_args!("read the tree {tree}"), e))
}

fn kind(mode: Mode) -> EntryKind {
    match mode {
        Mode::FILE_EXECUTABLE => EntryKind::BlobExecutable,
        Mode::SYMLINK => EntryKind::Link,
        Mode::COMMIT => EntryKind::Commit,
        Mode::DIR => EntryKind::Tree,
        _ => EntryKind::Blob,
    }
}

fn subtree(repo: &gix::Repository, tree: ObjectId, dir: &BStr) -> Option<ObjectId> {
    let found = repo.find_tree(tree).ok()?.lookup_entry(dir.split_str("/")).ok()??;
    Some(found.object_id())
}

/// The objects that staged content needs and that are not there, by path.
pub(crate) fn missing(repo: &gix::Repository, staged: &Staged<'_>) -> Option<String> {
    match staged {
        Staged::Set(path, kind, id) if *kind != EntryKind::Commit && !repo.has_object(id) => {
            Some(format!("{}: its staged content {id} is missing from the repository", text(path)))
        }
        _ => None,
    }
}
