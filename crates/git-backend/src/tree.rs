//! What a slot takes on disk, and cleaning it of what the last lease left.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use gix::bstr::{BStr, ByteVec};
use gix::index::entry::{Flags, Mode};
use pool_core::{Error, Result, SlotId};

use crate::baseline::Modes;
use crate::directory::Directory;
use crate::site::Site;
use crate::trash::Bin;

/// Bytes that removing a slot would free: those of its directory and of its registration. A file with several
/// names counts once, and not at all if one of them is elsewhere: then it stays. Other filesystems mounted
/// inside don't count.
pub(crate) fn usage(site: &Site, slot: SlotId) -> Result<u64> {
    let mut linked = Linked::default();
    let mut bytes = 0;
    let roots = [Some(site.slot_dir(slot)), site.admin_dir(slot).ok()];
    for root in roots.into_iter().flatten() {
        for entry in walkdir::WalkDir::new(&root).same_file_system(true) {
            match entry.and_then(|entry| entry.metadata()) {
                Ok(meta) => bytes += linked.allocated(&meta),
                // The agent is at work in there: files come and go.
                Err(e) if e.io_error().is_none_or(|e| e.kind() == std::io::ErrorKind::NotFound) => {
                }
                Err(e) if e.depth() > 0 => {
                    tracing::debug!(error = %e, "not counted");
                }
                Err(e) => return Err(Error::io(format!("measure {}", root.display()), e.into())),
            }
        }
    }
    Ok(bytes)
}

/// How many names were seen of each file that has several.
#[derive(Default)]
struct Linked(HashMap<(u64, u64), u64>);

impl Linked {
    /// What one more name adds to what is allocated: all of the file with its last one.
    #[cfg(unix)]
    fn allocated(&mut self, meta: &fs::Metadata) -> u64 {
        use std::os::unix::fs::MetadataExt;
        if !meta.is_dir() && meta.nlink() > 1 {
            let seen = self.0.entry((meta.dev(), meta.ino())).or_default();
            *seen += 1;
            if *seen < meta.nlink() {
                return 0;
            }
        }
        meta.blocks() * 512
    }

    #[cfg(not(unix))]
    fn allocated(&mut self, meta: &fs::Metadata) -> u64 {
        meta.len()
    }
}

/// Moves each file and directory out of the worktree at `root` that is not at a path of `files`, ignored or not, in
/// one step each; and gives the directories that stay the modes of new ones. So the next lease finds no build output
/// and no set-up file of the last one.
///
/// # Errors
///
/// If something can't be read, or moved: a mount point, for one.
pub(crate) fn clean(
    root: &Path,
    files: &gix::index::State,
    modes: Modes,
    bin: &mut Bin,
) -> Result<()> {
    let mut cleaner = Cleaner { index: files, modes, bin };
    let dir =
        Directory::open(root).map_err(|e| Error::io(format!("read {}", root.display()), e))?;
    cleaner.directory(&dir, BStr::new(b""))
}

struct Cleaner<'a> {
    index: &'a gix::index::State,
    modes: Modes,
    bin: &'a mut Bin,
}

impl Cleaner<'_> {
    fn directory(&mut self, dir: &Directory, relative: &BStr) -> Result<()> {
        self.modes.give_directory(dir.path()).map_err(|e| reading(dir.path(), e))?;
        for name in dir.names().map_err(|e| reading(dir.path(), e))? {
            if relative.is_empty() && name == ".git" {
                continue;
            }
            let mut child = relative.to_owned();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.push_str(name.as_encoded_bytes());
            let is_dir = dir.is_dir(&name).map_err(|e| reading(&dir.path().join(&name), e))?;
            self.entry(dir, &name, child.as_ref(), is_dir)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &Directory,
        name: &OsStr,
        relative: &BStr,
        is_dir: bool,
    ) -> Result<()> {
        match self.index.entry_by_path(relative) {
            Some(entry) if entry.mode == Mode::COMMIT => return self.submodule(dir, name),
            // Outside a sparse checkout, so not to be here.
            Some(entry) if entry.flags.contains(Flags::SKIP_WORKTREE) => {}
            Some(_) => return Ok(()),
            None => {}
        }
        if self.holds_tracked(relative) {
            if !is_dir {
                // A link there would lead what is written elsewhere.
                return self.bin.put_from(dir, name);
            }
            let child = dir.child(name).map_err(|e| reading(&dir.path().join(name), e))?;
            return self.directory(&child, relative);
        }
        self.bin.put_from(dir, name)
    }

    fn holds_tracked(&self, dir: &BStr) -> bool {
        let mut prefix = dir.to_owned();
        prefix.push(b'/');
        self.index.prefixed_entries(prefix.as_ref()).is_some_and(|entries| {
            entries.iter().any(|entry| !entry.flags.contains(Flags::SKIP_WORKTREE))
        })
    }

    /// A submodule's directory is left empty, as it is in a fresh worktree.
    fn submodule(&mut self, dir: &Directory, name: &OsStr) -> Result<()> {
        let path = dir.path().join(name);
        let is_empty = || Ok(dir.is_dir(name)? && dir.child(name)?.names()?.is_empty());
        if is_empty().map_err(|e| reading(&path, e))? {
            return Ok(());
        }
        self.bin.put_from(dir, name)?;
        dir.create_dir(name).map_err(|e| Error::io(format!("create {}", path.display()), e))
    }
}

fn reading(path: &Path, e: std::io::Error) -> Error {
    Error::io(format!("read {}", path.display()), e)
}
