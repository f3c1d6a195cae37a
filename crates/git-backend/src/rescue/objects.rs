//! Writing git objects so that they survive a crash, and somebody else's `git gc`.
//!
//! No reference leads to them before the last one is written, and `git gc --prune=now` deletes what no
//! reference leads to, even some time after it looked for one. So they are written beside the slot first,
//! and then come into the repository all at once: in a pack that is marked to be kept, as `git fetch` and `git
//! push` mark theirs, until there is the reference.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, Write as _};
use pool_core::{Error, Result, SlotId};

use crate::durable;
use crate::git::Git;
use crate::inspect::{failed, os};
use crate::site::{Site, remove_file};

/// How many objects are synced each by itself, which costs up to a millisecond apiece. For more of them the
/// whole filesystem is, where the system can: that costs whatever others have written to it, once.
const ONE_BY_ONE: usize = 64;

/// What a pack consists of. The index last: it is what makes a pack of the others.
const PARTS: [&str; 3] = ["pack", "rev", "idx"];

/// Where objects are until all of them are there. Goes away when dropped.
pub(super) struct Staging {
    slot: SlotId,
    dir: PathBuf,
    store: gix::odb::loose::Store,
}

/// What is left of a slot's staging when its process died.
pub(crate) fn staging(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(".rescuing")
}

impl Staging {
    pub(super) fn new(site: &Site, slot: SlotId) -> Result<Self> {
        let dir = staging(site, slot);
        let doing = |e| Error::io(format_args!("make {}", dir.display()), e);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(doing(e)),
            _ => fs::create_dir_all(&dir).map_err(doing)?,
        }
        let store = gix::odb::loose::Store::at(&dir, site.repo().object_hash());
        Ok(Self { slot, dir, store })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::debug!(dir = %self.dir.display(), %error, "is left behind");
        }
    }
}

/// A pack that nobody's `git gc` deletes while this lives.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(keep = %self.0.display(), %error, "is left behind");
        }
    }
}

/// How the mark of a slot's pack begins. That is for people who find one, too.
fn mark(site: &Site, slot: SlotId) -> String {
    format!("wtpool: slot {slot} of {} is being saved", site.pool_dir.display())
}

/// Takes back what somebody who died while saving this slot left among the repository's objects: nobody's `git gc`
/// would ever delete it.
///
/// # Errors
///
/// When it can't be looked for, or can't be removed.
pub(crate) fn take_back(site: &Site, slot: SlotId) -> Result<()> {
    let packs = site.repo().objects.store_ref().path().join("pack");
    let mark = mark(site, slot);
    let begins_so = |path: &Path| {
        let mut begin = Vec::new();
        let read = os::open(path).and_then(|f| f.take(mark.len() as u64).read_to_end(&mut begin));
        read.is_ok() && begin == mark.as_bytes()
    };
    let entries = match fs::read_dir(&packs) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries =
        entries.map_err(|e| Error::io(format_args!("look into {}", packs.display()), e))?;
    let marks = entries.into_iter().map(|entry| entry.path());
    let marks = marks.filter(|path| path.extension().is_some_and(|e| e == "keep"));
    for keep in marks.filter(|path| begins_so(path)) {
        let parts = PARTS.map(|extension| keep.with_extension(extension));
        if !keep.with_extension("idx").exists() {
            parts.iter().try_for_each(|part| remove_file(part))?;
        }
        parts.iter().try_for_each(|part| remove_file(&beside(part)))?;
        // The last, for as long as it is there all of this is done again.
        remove_file(&keep)?;
    }
    Ok(())
}

/// Writes objects, and remembers which.
pub(super) struct Objects<'a> {
    staging: &'a Staging,
    written: RefCell<Vec<ObjectId>>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(staging: &'a Staging) -> Self {
        Self { staging, written: RefCell::default() }
    }

    /// Goes on from where another one stopped.
    pub(super) fn with_written(staging: &'a Staging, written: Vec<ObjectId>) -> Self {
        Self { staging, written: RefCell::new(written) }
    }

    /// What was written.
    pub(super) fn into_written(self) -> Vec<ObjectId> {
        self.written.into_inner()
    }

    /// Writes a small object.
    pub(super) fn write(&self, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
        let written = self.staging.store.write_buf(kind, bytes);
        let id = written.map_err(|e| failed("write an object", e))?;
        self.written.borrow_mut().push(id);
        Ok(id)
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
        let mut exact = file.take(len).chain(io::empty());
        let written = self.staging.store.write_stream(Kind::Blob, len, &mut exact);
        let id = written.map_err(|e| failed(format_args!("save {}", path.display()), e))?;
        self.written.borrow_mut().push(id);
        Ok(id)
    }

    /// Brings all that was written into the repository, and to the disk. It stays there as long as what is
    /// returned lives; then, as long as a reference leads to it. `what` it is, is for people who find the mark.
    pub(super) fn publish(&self, site: &Site, what: &str) -> Result<Kept> {
        let mut ids: Vec<_> = self.written.borrow().iter().map(ToString::to_string).collect();
        ids.sort_unstable();
        ids.dedup();
        let packed = Git::in_repository(&site.common_dir, &site.settings)
            .with_objects_in(&self.staging.dir)
            .args(["-c", "core.bigFileThreshold=1m", "-c", "pack.compression=1"])
            // One pack, whatever the repository's own are to be. The option for it doesn't take 0 for no limit.
            .args(["-c", "pack.packSizeLimit=0"])
            .args(["pack-objects", "--quiet", "--window=0", "--threads=1"])
            .arg(self.staging.dir.join("rescue"))
            .run_with_input((ids.join("\n") + "\n").as_bytes())?;
        let hash = packed.trim_ascii().to_str_lossy().into_owned();
        let packs = site.repo().objects.store_ref().path().join("pack");
        let doing = |e| Error::io(format_args!("write a pack to {}", packs.display()), e);
        fs::create_dir_all(&packs).map_err(doing)?;
        let at = |extension: &str| packs.join(format!("pack-{hash}.{extension}"));
        let mark = mark(site, self.staging.slot);
        fs::write(at("keep"), format!("{mark}, as {what}\n")).map_err(doing)?;
        let kept = Kept(at("keep"));
        for extension in PARTS {
            let from = self.staging.dir.join(format!("rescue-{hash}.{extension}"));
            match bring(&from, &at(extension)) {
                // Only some versions of git write it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && extension == "rev" => {}
                brought => brought.map_err(doing)?,
            }
        }
        durable::file(&packs)?;
        Ok(kept)
    }
}

/// Brings objects to the disk that somebody else wrote to the repository, and perhaps left to the system.
pub(super) fn sync(repo: &gix::Repository, objects: &[ObjectId]) -> Result<()> {
    let store = repo.objects.store_ref().path().to_owned();
    if objects.is_empty() || (objects.len() > ONE_BY_ONE && durable::filesystem(&store)?) {
        return Ok(());
    }
    // What is not loose is in a pack, whose writer has seen to it.
    let loose = objects.iter().map(|id| loose_path(&store, *id)).filter(|path| path.is_file());
    // The directories that these are in may be new.
    durable::files(loose.chain([store.join("info")]))
}

/// Whether an object is there, and not only its name, as a loss of power can leave it.
pub(super) fn is_readable(repo: &gix::Repository, id: ObjectId) -> bool {
    repo.find_header(id).is_ok()
}

/// Moves a file to where it may be on another filesystem, and to the disk.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let beside = beside(to);
            fs::copy(from, &beside)?;
            File::open(&beside)?.sync_all()?;
            fs::rename(&beside, to)
        }
        renamed => renamed,
    }
}

/// Where a file is until all of it is there.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
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
    let hex = id.to_string();
    store.join(&hex[..2]).join(&hex[2..])
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::Repository;
    use crate::settings::GitSettings;

    /// A repository that is bare, and a pool beside it.
    fn ground() -> (tempfile::TempDir, PathBuf, Site) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let repo = root.path().join("demo.git");
        gix::init_bare(&repo).expect("made");
        let settings = GitSettings { user_config: false, ..Default::default() };
        let repository = Repository::find(&repo).expect("found");
        let site = Site::open(&repository, &root.path().join("pool"), settings).expect("opened");
        (root, repo, site)
    }

    /// Writes one blob into a pack of its own, and dies right after that. Gives what it wrote, and its mark.
    fn die_while_saving(site: &Site, slot: SlotId, content: &[u8]) -> (ObjectId, PathBuf) {
        let staging = Staging::new(site, slot).expect("made");
        let objects = Objects::new(&staging);
        let id = objects.write(Kind::Blob, content).expect("written");
        let kept = objects.publish(site, "a test").expect("published");
        let mark = kept.0.clone();
        std::mem::forget((kept, staging));
        (id, mark)
    }

    #[test]
    fn only_marks_of_a_slots_own_are_taken_back() {
        let (_root, repo, site) = ground();
        let one = SlotId(1);
        let (id, ours) = die_while_saving(&site, one, b"ours");
        let (_, of_another_slot) = die_while_saving(&site, SlotId(11), b"of another slot");
        let others = ours.with_file_name("pack-1.keep");
        fs::write(&others, "fetch-pack 1 on a machine\n").expect("written");
        fs::write(others.with_extension("pack"), "is on its way").expect("written");
        fs::create_dir(ours.with_file_name("pack-2.keep")).expect("made");

        take_back(&site, one).expect("taken back");
        assert!(!ours.exists(), "it stays for ever");
        assert!(
            of_another_slot.exists() && others.exists() && others.with_extension("pack").exists()
        );
        let git = |args: &[&str]| testkit::git(&repo).args(args).output().status.success();
        assert!(git(&["cat-file", "-e", &id.to_string()]), "a reference may lead to it");
        take_back(&site, one).expect("there is nothing more");
    }

    #[test]
    fn half_a_pack_is_taken_back() {
        let (_root, _, site) = ground();
        let one = SlotId(1);
        let (_, mark) = die_while_saving(&site, one, b"ours");
        fs::rename(mark.with_extension("idx"), beside(&mark.with_extension("idx"))).expect("moved");
        take_back(&site, one).expect("taken back");
        let left = fs::read_dir(mark.parent().expect("it has one")).expect("read");
        assert_eq!(left.map(|entry| entry.expect("read").file_name()).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn what_no_reference_leads_to_yet_survives_a_collection() {
        let (_root, repo, site) = ground();
        let git = |args: &[&str]| testkit::git(&repo).args(args).output().status.success();

        let staging = Staging::new(&site, SlotId(1)).expect("made");
        let objects = Objects::new(&staging);
        let blob = objects.write(Kind::Blob, b"precious").expect("written").to_string();
        let again = objects.write(Kind::Blob, b"precious").expect("written").to_string();
        assert_eq!(blob, again);
        let kept = objects.publish(&site, "a test").expect("published");
        assert!(git(&["gc", "--quiet", "--prune=now"]));
        assert!(git(&["cat-file", "-e", &blob]), "it was collected");

        drop(kept);
        assert!(git(&["gc", "--quiet", "--prune=now"]));
        assert!(!git(&["cat-file", "-e", &blob]), "it stays for ever");
        drop(objects);
        drop(staging);
        assert!(!super::staging(&site, SlotId(1)).exists());
    }
}
