//! The pool's own files, which are all plain ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a file that the pool keeps for itself: a lock, a note, a log. What else stands in its place is
/// neither waited for, as a pipe would be, nor followed, as a link.
///
/// # Errors
///
/// Those of opening it, and `InvalidInput` when it is not a plain file.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// let mut options = std::fs::File::options();
/// pool_core::open_plain(options.create(true).append(true), &dir.path().join("some.lock"))?;
/// assert!(pool_core::open_plain(std::fs::File::options().read(true), dir.path()).is_err());
/// # Ok(())
/// # }
/// ```
pub fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    }
    let opened = options.open(path);
    let found = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => path.symlink_metadata(),
    };
    match found {
        Ok(found) if !found.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"))
        }
        _ => opened,
    }
}

/// Whether an open file still is the one at its path: another process may have replaced or removed it
/// between its opening and its locking. Elsewhere than on Unix: whether there is a file.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("some.lock");
/// let file = std::fs::File::create(&path)?;
/// assert!(pool_core::has_name(&file, &path));
/// std::fs::remove_file(&path)?;
/// assert!(!pool_core::has_name(&file, &path));
/// # Ok(())
/// # }
/// ```
#[cfg(unix)]
pub fn has_name(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let named = path.symlink_metadata();
    file.metadata()
        .ok()
        .zip(named.ok())
        .is_some_and(|(open, named)| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Whether an open file still is the one at its path: another process may have replaced or removed it
/// between its opening and its locking. Elsewhere than on Unix: whether there is a file.
#[cfg(not(unix))]
pub fn has_name(_: &File, path: &Path) -> bool {
    path.exists()
}
