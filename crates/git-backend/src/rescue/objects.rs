//! Writing git objects so that they survive a crash.

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, Write as _};
use pool_core::{Error, Result};

use crate::durable;
use crate::inspect::{failed, os};

/// How many objects are synced each by itself, which costs up to a millisecond apiece. For more of them the
/// whole filesystem is, where the system can: that costs whatever others have written to it, once.
const ONE_BY_ONE: usize = 64;

/// Writes objects to a repository, and remembers them until they are [`sync`](Self::sync)ed.
pub(super) struct Objects<'a> {
    repo: &'a gix::Repository,
    /// Buffered, since a repository's own writer names neither what it wrote nor where.
    written: RefCell<Vec<ObjectId>>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(repo: &'a gix::Repository) -> Self {
        Self { repo, written: RefCell::default() }
    }

    /// Goes on from where another one stopped.
    pub(super) fn with_written(repo: &'a gix::Repository, written: Vec<ObjectId>) -> Self {
        Self { repo, written: RefCell::new(written) }
    }

    /// What has not been brought to the disk yet.
    pub(super) fn into_written(self) -> Vec<ObjectId> {
        self.written.into_inner()
    }

    /// Writes a small object.
    pub(super) fn write(&self, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
        let id = gix::objs::compute_hash(self.repo.object_hash(), kind, bytes)
            .map_err(|e| failed("hash an object", e))?;
        // That there is one is not enough: a loss of power can have left it empty.
        if !self.is_readable(id) {
            self.repo
                .objects
                .write_buf(kind, bytes)
                .map_err(|e| failed(format_args!("write the object {id}"), e))?;
        }
        self.written.borrow_mut().push(id);
        Ok(id)
    }

    /// Whether an object is there, and not only its name.
    pub(super) fn is_readable(&self, id: ObjectId) -> bool {
        self.repo.find_header(id).is_ok()
    }

    /// One that somebody else wrote, and perhaps did not bring to the disk.
    pub(super) fn found(&self, id: ObjectId) {
        self.written.borrow_mut().push(id);
    }

    /// Writes a commit, tree or tag.
    pub(super) fn write_object(&self, object: &impl gix::objs::WriteTo) -> Result<ObjectId> {
        let mut bytes = Vec::new();
        object.write_to(&mut bytes).map_err(|e| Error::io("encode an object", e))?;
        self.write(object.kind(), &bytes)
    }

    /// Writes a file as a blob, byte for byte, without holding it in memory.
    pub(super) fn write_file(&self, path: &Path, len: u64) -> Result<ObjectId> {
        let file =
            os::open(path).map_err(|e| Error::io(format_args!("open {}", path.display()), e))?;
        // A file that grows meanwhile is noticed afterwards; its blob has to be well-formed anyhow.
        let mut exact = file.take(len).chain(std::io::empty());
        let id = self
            .repo
            .objects
            .write_stream(Kind::Blob, len, &mut exact)
            .map_err(|e| failed(format_args!("save {}", path.display()), e))?;
        self.written.borrow_mut().push(id);
        Ok(id)
    }

    /// Brings all that was written to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        let store = self.repo.objects.store_ref().path().to_owned();
        let written = std::mem::take(&mut *self.written.borrow_mut());
        if written.is_empty() {
            return Ok(());
        }
        if written.len() > ONE_BY_ONE && durable::filesystem(&store)? {
            return Ok(());
        }
        // What is not loose is in a pack, whose writer has seen to it.
        let loose = written.iter().map(|id| loose_path(&store, *id)).filter(|path| path.is_file());
        // The directories that these are in may be new.
        durable::files(loose.chain([store.join("info")]))
    }
}

/// Writes the trees of an editor.
pub(super) fn write_tree(
    objects: &Objects<'_>,
    editor: &mut gix::objs::tree::Editor<'_>,
) -> Result<ObjectId> {
    editor.write(|tree| objects.write_object(tree))
}

/// Puts something into a tree, at a path with slashes.
pub(super) fn put(
    editor: &mut gix::objs::tree::Editor<'_>,
    path: &BStr,
    kind: EntryKind,
    id: ObjectId,
) -> Result<()> {
    editor
        .upsert(path.split_str("/").map(BStr::new), kind, id)
        .map(drop)
        .map_err(|e| failed(format_args!("add {} to a tree", crate::inspect::text(path)), e))
}

/// Takes something out of a tree.
pub(super) fn take(editor: &mut gix::objs::tree::Editor<'_>, path: &BStr) -> Result<()> {
    editor
        .remove_if_leaf(path.split_str("/").map(BStr::new))
        .map(drop)
        .map_err(|e| failed(format_args!("remove {} from a tree", crate::inspect::text(path)), e))
}

/// An editor that begins with an existing tree.
pub(super) fn edit(repo: &gix::Repository, tree: ObjectId) -> Result<gix::objs::tree::Editor<'_>> {
    let root = if tree == repo.empty_tree().id {
        gix::objs::Tree::default()
    } else {
        let reading = || format!("read the tree {tree}");
        let found = repo.find_tree(tree).map_err(|e| failed(reading(), e))?;
        found.decode().map_err(|e| failed(reading(), e))?.into()
    };
    Ok(gix::objs::tree::Editor::new(root, &repo.objects, repo.object_hash()))
}

fn loose_path(store: &Path, id: ObjectId) -> PathBuf {
    let hex = id.to_hex().to_string();
    store.join(&hex[..2]).join(&hex[2..])
}
