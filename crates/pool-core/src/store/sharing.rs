//! Keeps records on disk and records in memory apart: the workspaces of one directory have one or
//! the other.
//!
//! Every store on disk holds a shared lock on `pool.sharing`, and a store in memory an exclusive
//! one, for as long as it lives.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

// Called by their full names: since Rust 1.89 `File` has methods of the same names, which our
// `rust-version` does not have yet.
use fs4::{FileExt, TryLockError};

use crate::error::{Error, ErrorKind, Result};
use crate::plain::open_plain;

const FILE: &str = "pool.sharing";

/// A lock on the way in which a directory's records are kept.
#[derive(Debug)]
pub(super) struct Sharing {
    file: File,
    dir: PathBuf,
}

impl Sharing {
    /// For records on disk, in an existing directory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while a store in memory has the directory.
    #[cfg(feature = "sqlite")]
    pub(super) fn on_disk(dir: &Path) -> Result<Self> {
        let (path, mut file) = open(dir)?;
        match FileExt::try_lock_shared(&file) {
            Ok(()) => Ok(Self { file, dir: dir.to_owned() }),
            Err(TryLockError::WouldBlock) => {
                Err(busy(format!("{} keeps its records in memory", holder(&mut file)), dir))
            }
            Err(TryLockError::Error(error)) => {
                Err(Error::io(format_args!("lock {}", path.display()), error))
            }
        }
    }

    /// For records in memory. Makes the directory if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if a pool on disk is there, [`ErrorKind::Busy`] while another
    /// store has the directory.
    pub(super) fn in_memory(dir: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(|e| Error::io(format_args!("create {}", dir.display()), e))?;
        let dir = fs::canonicalize(dir)
            .map_err(|e| Error::io(format_args!("resolve {}", dir.display()), e))?;
        let (path, mut file) = open(&dir)?;
        let failed = |e| Error::io(format_args!("lock {}", path.display()), e);
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let other = match FileExt::try_lock_shared(&file) {
                    Ok(()) => "another process has it open on disk".to_owned(),
                    Err(_) => format!("{} keeps its records in memory", holder(&mut file)),
                };
                return Err(busy(other, &dir));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Only now: a store on disk takes its lock before it makes anything.
        if let Some(records) = records_on_disk(&dir)? {
            let message = format!(
                "cannot keep the records of the pool {} in memory: there is a pool on disk ({}), \
                 and a second set of records would end its leases",
                dir.display(),
                records.display()
            );
            return Err(Error::new(ErrorKind::InvalidInput, message).with_hint(
                "leave the store out to open that pool on disk, or choose another pool directory",
            ));
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { file, dir })
    }

    /// The directory, with all symlinks resolved.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        // Not by closing alone: a child that is just being started may have a copy of it.
        if let Err(error) = FileExt::unlock(&self.file) {
            tracing::debug!(%error, "the lock is released by closing it");
        }
    }
}

fn open(dir: &Path) -> Result<(PathBuf, File)> {
    let path = dir.join(FILE);
    let mut options = File::options();
    let opened = open_plain(options.create(true).truncate(false).read(true).write(true), &path);
    let file = opened.map_err(|e| Error::io(format_args!("open {}", path.display()), e))?;
    Ok((path, file))
}

/// The process that has the exclusive lock.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match read.ok().and_then(|_| text.parse::<u32>().ok()) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

fn busy(why: String, dir: &Path) -> Error {
    Error::new(ErrorKind::Busy, format!("cannot open the pool {}: {why}", dir.display()))
        .with_hint("end that process, or choose another pool directory")
}

/// A file of a pool on disk.
fn records_on_disk(dir: &Path) -> Result<Option<PathBuf>> {
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    let of_pool = ["pool.db", "pool.json"].map(|name| dir.join(name));
    if let Some(found) = of_pool.into_iter().find(|path| is_there(path)) {
        return Ok(Some(found));
    }
    let slots = dir.join("slots");
    let failed = |e| Error::io(format_args!("read {}", slots.display()), e);
    let entries = match fs::read_dir(&slots) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let sidecar = entry.map_err(failed)?.path().join("slot.json");
        if is_there(&sidecar) {
            return Ok(Some(sidecar));
        }
    }
    Ok(None)
}
