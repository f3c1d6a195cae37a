//! Which files of a slot nothing has written to since the pool checked them out.
//!
//! A lease may write a file and then have its index say that it is unchanged: with other settings for line
//! ends, `git update-index --assume-unchanged`, or another index altogether. So the pool keeps an index of
//! its own beside the slot. A file whose identity, size and times are those in it was not written to. That
//! it is what a checkout writes holds as long as nothing has changed that decides that, beside the
//! commit: git's configuration, attributes, and the process's umask.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::BStr;
use gix::index::Entry;
use gix::index::entry::{Flags, Stat, stat};
use pool_core::{Error, Result, SlotId};

use crate::conversions;
use crate::inspect::compare::STRICTLY;
use crate::inspect::{is_attributes, os};
use crate::site::{Site, gix_error, remove_file};

/// In a slot's directory: the name of a directory that is there for a moment.
pub(crate) const PROBE: &str = ".umask";
/// In a slot's directory: the index, and what decided beside the commit.
pub(crate) const NOTES: [&str; 2] = [".checked-out.index", ".checked-out"];

/// What a slot's files were when the pool had checked them out.
pub(crate) struct Baseline(gix::index::File);

impl Baseline {
    /// That of a slot, if what decided about its files is what decides today.
    pub(crate) fn load(
        site: &Site,
        slot: SlotId,
        repo: &gix::Repository,
        decides: &str,
    ) -> Option<Self> {
        let noted = fs::read_to_string(note(site, slot, 1)).ok()?;
        (noted == decides).then(|| Self::open(site, slot, repo)).flatten()
    }

    fn open(site: &Site, slot: SlotId, repo: &gix::Repository) -> Option<Self> {
        let path = note(site, slot, 0);
        fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
        gix::index::File::at(path, repo.object_hash(), false, Default::default()).ok().map(Self)
    }

    /// Whether the file with these times has not been written to since `entry` was checked out there.
    pub(crate) fn knows(&self, entry: &Entry, path: &BStr, found: &Stat) -> bool {
        self.0.entry_by_path(path).is_some_and(|known| {
            (known.id, known.mode) == (entry.id, entry.mode)
                && !known.flags.contains(Flags::SKIP_WORKTREE)
                && known.stat.matches(found, STRICTLY)
                && self.is_older(known.stat.mtime)
                && self.is_older(known.stat.ctime)
        })
    }

    /// What was written in the tick of the clock in which this was noted may have been written later.
    fn is_older(&self, time: stat::Time) -> bool {
        let noted = self.0.timestamp();
        (i64::from(time.secs), time.nsecs) < (noted.unix_seconds(), noted.nanoseconds())
    }
}

/// Notes that the files in the index of a slot are what a checkout has just written.
///
/// # Errors
///
/// If the index can't be read or a note can't be written.
pub(crate) fn save(site: &Site, slot: SlotId, repo: &gix::Repository, decides: &str) -> Result<()> {
    let doing = || format!("note what is checked out in slot {slot}");
    let mut index = repo.open_index().map_err(|e| gix_error(doing(), e))?;
    index.set_path(note(site, slot, 0));
    index.write(Default::default()).map_err(|e| gix_error(doing(), e))?;
    let path = note(site, slot, 1);
    fs::write(&path, decides).map_err(|e| Error::io(format!("write {}", path.display()), e))
}

/// Removes the probe that a killed process left.
fn remove_probe(site: &Site, slot: SlotId) -> Result<()> {
    let probe = site.slot_dir(slot).join(PROBE);
    match fs::remove_dir(&probe) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", probe.display()), e))
        }
        _ => Ok(()),
    }
}

/// Forgets all about a slot's files.
///
/// # Errors
///
/// If a note can't be removed.
pub(crate) fn forget(site: &Site, slot: SlotId) -> Result<()> {
    remove_probe(site, slot)?;
    (0..NOTES.len()).rev().try_for_each(|which| remove_file(&note(site, slot, which)))
}

/// Has the baseline follow a change of times that the pool makes: for each of the files, what was found
/// before and what is found now.
///
/// # Errors
///
/// If the note can't be written.
pub(crate) fn follow(
    site: &Site,
    slot: SlotId,
    repo: &gix::Repository,
    changed: &[(Vec<u8>, Stat, Stat)],
) -> Result<()> {
    let Some(mut baseline) = Baseline::open(site, slot, repo) else { return Ok(()) };
    for (path, before, now) in changed {
        let Some(known) = baseline.0.entry_by_path(path.as_slice().into()) else { continue };
        if known.stat.matches(before, STRICTLY)
            && baseline.is_older(known.stat.mtime)
            && baseline.is_older(known.stat.ctime)
            && let Some(known) = baseline.0.entry_mut_by_path_and_stage(
                path.as_slice().into(),
                gix::index::entry::Stage::Unconflicted,
            )
        {
            known.stat = *now;
        }
    }
    baseline
        .0
        .write(Default::default())
        .map_err(|e| gix_error(format!("note what is checked out in slot {slot}"), e))
}

fn note(site: &Site, slot: SlotId, which: usize) -> PathBuf {
    site.slot_dir(slot).join(NOTES[which])
}

/// Sections of git's configuration that have no part in what a checkout writes. All others count.
const NO_PART: [&str; 16] = [
    "alias",
    "author",
    "branch",
    "committer",
    "credential",
    "fetch",
    "gc",
    "http",
    "maintenance",
    "pull",
    "push",
    "remote",
    "sendemail",
    "submodule",
    "url",
    "user",
];

/// Returns what decides, beside a commit's files, what a checkout of them writes: a text that differs
/// when that may.
///
/// # Errors
///
/// If the text can't be hashed.
pub(crate) fn decides(
    site: &Site,
    repo: &gix::Repository,
    files: &gix::index::State,
    modes: Modes,
) -> Result<String> {
    let mut text = format!("{} {modes:?}\n", env!("CARGO_PKG_VERSION")).into_bytes();
    let mut add = |parts: &[&[u8]]| {
        for part in parts {
            text.extend(format!("{} ", part.len()).into_bytes());
            text.extend(*part);
        }
        text.push(b'\n');
    };
    let config = repo.config_snapshot();
    for section in config.plumbing().sections() {
        let name = section.header().name().to_string().to_ascii_lowercase();
        if NO_PART.contains(&name.as_str()) {
            continue;
        }
        add(&[b"section", name.as_bytes(), section.header().subsection_name().unwrap_or_default()]);
        for key in section.value_names() {
            for value in section.values(&key.to_string()) {
                add(&[key.to_string().to_ascii_lowercase().as_bytes(), &value]);
            }
        }
    }
    // `git replace` has other objects stand for those of the commit.
    let replacing = || format!("list what is replaced in {}", site.common_dir.display());
    let references = repo.references().map_err(|e| gix_error(replacing(), e))?;
    let replaced = references.prefixed("refs/replace/").map_err(|e| gix_error(replacing(), e))?;
    for one in replaced {
        let one = one.map_err(|e| Error::io(replacing(), io::Error::other(e)))?;
        let target = one.target().try_id().map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        add(&[b"replaced", one.name().as_bstr(), &target]);
    }
    for path in conversions::attributes_beside(repo, &site.settings) {
        let content = fs::read(&path).unwrap_or_default();
        add(&[b"attributes", &os::bytes(path.as_os_str()), &content]);
    }
    for entry in files.entries().iter().filter(|entry| is_attributes(entry.path(files))) {
        add(&[b"attributes", entry.path(files), entry.id.as_slice()]);
    }
    gix::objs::compute_hash(repo.object_hash(), gix::objs::Kind::Blob, &text)
        .map(|id| format!("{id}\n"))
        .map_err(|e| Error::new(pool_core::ErrorKind::Other, format!("cannot hash settings: {e}")))
}

/// The permissions that this process gives to what it makes in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    directory: u32,
}

impl Modes {
    /// Finds out by making a directory, which is removed.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub(crate) fn find(site: &Site, slot: SlotId) -> Result<Self> {
        let probe = site.slot_dir(slot).join(PROBE);
        let doing = |e| Error::io(format!("create {}", probe.display()), e);
        remove_probe(site, slot)?;
        fs::create_dir(&probe).map_err(doing)?;
        pool_core::fail_point!("git-backend::baseline::probed");
        let directory = fs::symlink_metadata(&probe).map(|meta| os::mode(&meta));
        fs::remove_dir(&probe).and(directory).map(|directory| Self { directory }).map_err(doing)
    }

    /// Whether a file has the mode of one that was made just now, and no other name.
    pub(crate) fn are_of(self, meta: &Metadata, executable: bool) -> bool {
        let wanted = self.directory & if executable { 0o777 } else { 0o666 };
        !cfg!(unix) || (os::mode(meta) == wanted && has_one_name(meta))
    }

    /// Gives a directory the mode of one that was made just now.
    ///
    /// # Errors
    ///
    /// If it can't be looked at or changed.
    pub(crate) fn give_directory(self, path: &Path) -> io::Result<()> {
        give(path, self.directory)
    }

    /// The same for a file.
    ///
    /// # Errors
    ///
    /// If it can't be looked at or changed.
    pub(crate) fn give_file(self, path: &Path) -> io::Result<()> {
        give(path, self.directory & 0o666)
    }
}

fn give(path: &Path, mode: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if cfg!(unix) && !meta.is_symlink() && os::mode(&meta) != mode {
        os::set_mode(path, mode)?;
    }
    Ok(())
}

#[cfg(unix)]
fn has_one_name(meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.nlink() == 1
}

#[cfg(not(unix))]
fn has_one_name(_: &Metadata) -> bool {
    true
}
