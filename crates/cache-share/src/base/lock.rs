//! The locks of bases.
//!
//! Each base has a lock file `<cache>/base.locks/<number>`, outside of the directory that is
//! removed with the base. Its builder holds the lock exclusively, and so does a process that
//! removes the base. A process that gives a slot files of the base holds it shared. No process
//! waits for one of these locks: a base whose lock is taken is passed over. `<cache>/base.lock` is
//! held by the one process that builds.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};
use pool_core::{has_name, open_plain};

use super::Base;

/// The directory of the lock files, in that of the strategy.
pub(super) const LOCKS: &str = "base.locks";

/// Taken by the process that builds a base.
const TURN: &str = "base.lock";

/// A lock that this process holds.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`; `None` if another process has it.
    fn take(path: PathBuf, kind: Kind) -> io::Result<Option<Self>> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        loop {
            let file = open_plain(File::options().create(true).read(true).append(true), &path)?;
            let taken = match kind {
                Kind::Shared => FileExt::try_lock_shared(&file),
                Kind::Exclusive => FileExt::try_lock(&file),
            };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e),
            }
            let lock = Self { file, path: path.clone() };
            // The file may have been removed between its opening and its locking.
            if lock.is_current() {
                return Ok(Some(lock));
            }
        }
    }

    /// Whether the file is still the one that other processes find at its path.
    pub(crate) fn is_current(&self) -> bool {
        has_name(&self.file, &self.path)
    }

    /// A handle for a process that is started: the lock stays taken until that process has ended,
    /// even if this one is killed. It reads as an empty file.
    #[cfg(unix)]
    pub(crate) fn for_child(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a daemon that the build started may have inherited the handle.
        let _ = FileExt::unlock(&self.file);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Shared,
    Exclusive,
}

impl Base {
    /// The lock file of the base.
    pub(super) fn lock_file(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default();
        self.cache().join(LOCKS).join(name)
    }

    /// Keeps the base as it is: until the lock is dropped, no process removes it. `None` while it
    /// is being built or removed.
    pub(crate) fn lock_shared(&self) -> io::Result<Option<Lock>> {
        Lock::take(self.lock_file(), Kind::Shared)
    }

    /// Keeps all other processes away from the base. `None` while another one reads, builds or
    /// removes it.
    pub(super) fn lock_exclusive(&self) -> io::Result<Option<Lock>> {
        Lock::take(self.lock_file(), Kind::Exclusive)
    }
}

/// Takes the turn to build; `None` while another process has it.
pub(crate) fn turn(cache: &Path) -> io::Result<Option<Lock>> {
    Lock::take(cache.join(TURN), Kind::Exclusive)
}

/// Whether a process is building a base.
pub(crate) fn is_being_built(cache: &Path) -> bool {
    let Ok(file) = open_plain(File::options().read(true), &cache.join(TURN)) else { return false };
    // Shared: processes that look do not take each other for a builder.
    matches!(FileExt::try_lock_shared(&file), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(cache: &Path) -> Base {
        Base { dir: cache.join("base/7") }
    }

    #[test]
    fn readers_share_a_base_and_exclude_its_remover() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = base(dir.path());
        let first = base.lock_shared().expect("opened").expect("free");
        let second = base.lock_shared().expect("opened").expect("shared");
        assert!(base.lock_exclusive().expect("opened").is_none());
        drop((first, second));
        let removing = base.lock_exclusive().expect("opened").expect("free");
        assert!(base.lock_shared().expect("opened").is_none());
        // A process that inherited the handle does not keep it.
        let inherited = removing.for_child().expect("cloned");
        drop(removing);
        assert!(base.lock_shared().expect("opened").is_some());
        drop(inherited);
    }

    #[test]
    fn lock_whose_file_was_removed_is_no_lock() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = base(dir.path());
        let lock = base.lock_exclusive().expect("opened").expect("free");
        assert!(lock.is_current());
        fs::remove_file(base.lock_file()).expect("removed");
        assert!(!lock.is_current());
        let other = base.lock_exclusive().expect("opened").expect("another file");
        assert!(other.is_current() && !lock.is_current());
    }
}
