//! Claims that every process on the machine can see: locked files.
//!
//! # How it stays free of races
//!
//! Only a claimer locks exclusively; everyone who merely looks takes the lock shared, so two who look
//! never take each other for a holder. A claim's file is locked *before* it gets its final name,
//! so there is no moment at which a fresh claim looks like a dead one. Keys are never claimed twice,
//! so once a file under a final name is unlocked it stays so, and may be removed at leisure.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

// Called by their full names: since Rust 1.89 `File` has methods of the same names, which our
// `rust-version` does not have yet.
use fs4::{FileExt, TryLockError};
use tempfile::NamedTempFile;

use super::{Claim, ClaimGuard, Liveness, Occupant, ProcessIdentity, Vital, process};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ClaimKey;
use crate::plain::open_plain;

/// Starts the name of a claim that is being made. No [`ClaimKey`] starts with a dot.
const UNFINISHED: &str = ".claim-";

/// How often a claimer starts afresh after a [sweep](FileLiveness::sweep) got in its way.
const ATTEMPTS: usize = 16;

/// Claims as locked files in one directory, and processes as the operating system shows them.
///
/// A claim is held as long as one descriptor of its open file is: its owner's, or that of any
/// descendant that inherited it. The operating system closes them when a process dies, however
/// it dies.
///
/// # Limitations
///
/// - The directory must be on a local filesystem. Locks on a network filesystem may not be
///   seen by other machines, and process ids mean nothing there.
/// - A claim whose file is deleted by hand looks like one that was never made.
/// - Of a process in another PID namespace (another container) it can't be known whether it runs, nor,
///   unless that namespace is inside of one's own, where it stands. Its claims can be seen as well as any.
/// - A child inherits the file only where it is handed over explicitly, on Unix. On other systems
///   a claim lives as long as the process that made it.
#[derive(Clone, Debug)]
pub struct FileLiveness {
    dir: PathBuf,
}

impl FileLiveness {
    /// The claims of the pool on disk in `pool_dir`: every process that opens that pool must look
    /// for claims in this one place, or it takes the others' holders for dead. Nothing is touched
    /// yet.
    pub fn of_pool(pool_dir: &Path) -> Self {
        Self::new(pool_dir.join("locks"))
    }

    /// Claims live in `dir`, which is created by the first claim. Nothing is touched yet. For the
    /// claims of a pool, use [`of_pool`](Self::of_pool).
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the claims are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the traces of every claim that nobody holds, those of a claimer that died half way
    /// included, and returns how many there were. It changes no answer of [`holds`](Liveness::holds).
    ///
    /// # Errors
    ///
    /// When the directory exists but can't be read.
    pub fn sweep(&self) -> Result<usize> {
        let failed =
            |error| Error::io(format_args!("list the claims in {}", self.dir.display()), error);
        let entries = match self.dir.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed(error)),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Never touch, nor wait on, what is not ours: a directory, a link, a pipe.
            let ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(UNFINISHED) || ClaimKey::new(name).is_ok());
            if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                removed += usize::from(remove_unless_held(&entry.path()));
            }
        }
        Ok(removed)
    }

    fn path(&self, key: &ClaimKey) -> PathBuf {
        self.dir.join(key.as_str())
    }

    fn try_claim(&self, key: &ClaimKey) -> Result<Option<File>> {
        let path = self.path(key);
        let failed = |error| Error::io(format_args!("create the claim {}", path.display()), error);
        let unnamed =
            tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir).map_err(failed)?;
        crate::fail_point!("pool-core::claim::unlocked");
        match FileExt::try_lock(unnamed.as_file()) {
            Ok(()) => {}
            // A sweep looks at the fresh file and is about to remove it.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format_args!("lock the claim {}", path.display()), error)
                    .with_hint(
                        "keep the pool's directory on a local filesystem that has file locks",
                    ));
            }
        }
        crate::fail_point!("pool-core::claim::unnamed");
        match NamedTempFile::persist_noclobber(unnamed, &path) {
            Ok(file) => Ok(Some(file)),
            Err(refused) => match refused.error.kind() {
                io::ErrorKind::AlreadyExists => Err(Error::new(
                    ErrorKind::Busy,
                    format!("{key} is claimed already, in {}", path.display()),
                )
                .with_hint("claim a new key: no key is ever claimed twice")),
                // A sweep removed it just before it was locked.
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(failed(refused.error)),
            },
        }
    }
}

#[derive(Debug)]
struct FileGuard {
    // Only ever closed, never unlocked: unlocking would take the claim from the children who
    // share the open file.
    file: File,
}

impl ClaimGuard for FileGuard {
    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

impl Liveness for FileLiveness {
    fn claim(&self, key: &ClaimKey) -> Result<Claim> {
        std::fs::create_dir_all(&self.dir)
            .map_err(|error| Error::io(format_args!("create {}", self.dir.display()), error))?;
        for _ in 0..ATTEMPTS {
            if let Some(file) = self.try_claim(key)? {
                return Ok(Claim::new(key.clone(), Box::new(FileGuard { file })));
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "cannot create the claim {}: it was removed again each time",
                self.path(key).display()
            ),
        )
        .with_hint("find out who deletes the files in that directory, and try again"))
    }

    fn holds(&self, key: &ClaimKey) -> Vital {
        look(&self.path(key)).0
    }

    fn forget(&self, key: &ClaimKey) {
        remove_unless_held(&self.path(key));
    }

    fn tidy(&self) {
        if let Err(error) = self.sweep() {
            tracing::debug!(%error, "cannot tidy up dead claims");
        }
    }

    fn claims_dir(&self) -> Option<&Path> {
        Some(&self.dir)
    }

    fn identify(&self, pid: u32) -> Option<ProcessIdentity> {
        process::identify(pid)
    }

    fn runs(&self, process: &ProcessIdentity) -> Vital {
        process::runs(process)
    }

    fn occupants(&self, dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>> {
        process::occupants(dirs)
    }

    fn holders(&self, key: &ClaimKey) -> Vec<Occupant> {
        process::holders(&self.path(key))
    }
}

/// Whether the claim is held; if not, the file, with a shared lock that lasts until it is dropped.
fn look(path: &Path) -> (Vital, Option<File>) {
    let file = match open_plain(File::options().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vital::Gone, None),
        Err(_) => return (Vital::Unknown, None),
    };
    match FileExt::try_lock_shared(&file) {
        Ok(()) => (Vital::Gone, Some(file)),
        Err(TryLockError::WouldBlock) => (Vital::Alive, None),
        Err(TryLockError::Error(_)) => (Vital::Unknown, None),
    }
}

/// Removes the file under a shared lock, which excludes a holder. The name is never given to
/// another file, so what is unlinked is what was locked. Whether this call removed it.
fn remove_unless_held(path: &Path) -> bool {
    let (_, unheld) = look(path);
    unheld.is_some_and(|_lock| match std::fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => {
            // What stays behind is a dead claim's trace: the next sweep finds it.
            tracing::debug!(path = %path.display(), %error, "cannot remove a dead claim");
            false
        }
    })
}
