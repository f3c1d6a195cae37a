//! Deleting by the handles of directories: a name that is given to something else meanwhile leads
//! nowhere. For the deleters of this workspace's crates.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// How a directory is opened, and no symlink to one.
pub const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The names in a directory. All are read before the first is deleted: what `readdir` returns while
/// entries disappear is not specified.
///
/// # Errors
///
/// Those of reading it.
pub fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Deletes a name in a directory, which is made writable if it is not.
///
/// # Errors
///
/// Those of `unlinkat` and `fchmod`.
pub fn unlink(dir: &OwnedFd, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::ACCESS | Errno::PERM) => {
            // By the handle, so it is this directory that becomes writable and nothing else.
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            rustix::fs::unlinkat(dir, name, flags)
        }
        done => done,
    }
}

/// Opens a directory in a directory, and makes it readable if it is not. Follows no symlink.
///
/// # Errors
///
/// Those of `openat` and of [`make_readable`].
pub fn open(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            make_readable(dir, name)?;
            rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
        }
        done => done,
    }
}

/// Lets its owner read and write a directory that can't be opened. Follows no symlink.
///
/// # Errors
///
/// Those of changing its mode, and `NOTDIR` if it is no directory.
#[cfg(target_os = "linux")]
pub fn make_readable(dir: &OwnedFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    // Kernels before 6.6 change no mode without following symlinks, other than through /proc, by a
    // handle that only names the directory.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)
}

/// Lets its owner read and write a directory that can't be opened. Follows no symlink.
///
/// # Errors
///
/// Those of changing its mode.
#[cfg(not(target_os = "linux"))]
pub fn make_readable(dir: &OwnedFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    /// The name may be given to a link between the look at it and the opening.
    #[test]
    fn a_link_where_a_directory_was_is_neither_opened_nor_made_readable() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a temporary directory");
        let sealed = root.path().join("sealed");
        std::fs::create_dir(&sealed).expect("made");
        std::os::unix::fs::symlink(&sealed, root.path().join("link")).expect("made");
        std::fs::set_permissions(&sealed, std::fs::Permissions::from_mode(0o000)).expect("set");
        let dir = rustix::fs::openat(CWD, root.path(), DIRECTORY, Mode::empty()).expect("opened");
        assert!(open(&dir, c"link").is_err());
        assert!(make_readable(&dir, c"link").is_err());
        let mode = std::fs::metadata(&sealed).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0);
        assert!(open(&dir, c"sealed").is_ok());
    }
}
