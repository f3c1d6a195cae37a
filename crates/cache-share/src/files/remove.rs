//! Removes directory trees: read-only directories too, as far as the system permits it, and nothing
//! outside.

use std::io;
use std::path::Path;

/// Removes a directory and all in it, if it is there. Makes directories writable that are not,
/// follows no symlink, and stays on the filesystem that the parent of `dir` is on. Goes on where
/// something can't be removed.
///
/// # Errors
///
/// The first failure. All else that could be removed is gone then.
#[cfg(unix)]
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    unix::remove_tree(dir)
}

/// Removes a directory and all in it, if it is there.
///
/// # Errors
///
/// When something can't be removed.
#[cfg(not(unix))]
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(unix)]
mod unix {
    use std::ffi::{CStr, CString};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Dev, Dir, FileType, Mode, OFlags};
    use rustix::io::Errno;

    const DIRECTORY: OFlags =
        OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
        let name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let name = CString::new(name.as_bytes())?;
        let parent = dir.parent().filter(|parent| *parent != Path::new(""));
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let parent =
            rustix::fs::openat(CWD, parent.unwrap_or(Path::new(".")), flags, Mode::empty());
        let parent = match parent {
            Err(Errno::NOENT) => return Ok(()),
            parent => parent?,
        };
        // Something that is mounted at `dir` itself stays as well.
        let device = rustix::fs::fstat(&parent)?.st_dev;
        let mut removal = Removal { device, first: None };
        removal.entry(&parent, &name, false);
        removal.first.map_or(Ok(()), |e| Err(e.into()))
    }

    struct Removal {
        device: Dev,
        first: Option<Errno>,
    }

    impl Removal {
        /// Removes one entry of `parent`, which is made writable for that if it is a part of the
        /// tree.
        fn entry(&mut self, parent: &OwnedFd, name: &CStr, is_inside: bool) {
            match self.try_entry(parent, name, is_inside) {
                // Another process was faster.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => self.first = self.first.or(Some(e)),
            }
        }

        fn try_entry(
            &mut self,
            parent: &OwnedFd,
            name: &CStr,
            is_inside: bool,
        ) -> Result<(), Errno> {
            let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if found.st_dev != self.device {
                return Err(Errno::XDEV);
            }
            if !FileType::from_raw_mode(found.st_mode).is_dir() {
                return unlink(parent, name, AtFlags::empty(), is_inside);
            }
            let dir = open(parent, name)?;
            // The name may have been given to another directory since.
            if rustix::fs::fstat(&dir)?.st_dev != self.device {
                return Err(Errno::XDEV);
            }
            let before = self.first;
            for name in names(&dir)? {
                self.entry(&dir, &name, true);
            }
            match unlink(parent, name, AtFlags::REMOVEDIR, is_inside) {
                // What stayed in it is the reason, and was noted.
                Err(Errno::NOTEMPTY | Errno::EXIST) if before != self.first => Ok(()),
                removed => removed,
            }
        }
    }

    /// All names are read before the first entry is removed: what `readdir` returns meanwhile is
    /// not specified.
    fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir.as_fd())? {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    fn unlink(dir: &OwnedFd, name: &CStr, flags: AtFlags, may_change: bool) -> Result<(), Errno> {
        match rustix::fs::unlinkat(dir, name, flags) {
            Err(Errno::ACCESS | Errno::PERM) if may_change => {
                rustix::fs::fchmod(dir, Mode::RWXU)?;
                rustix::fs::unlinkat(dir, name, flags)
            }
            done => done,
        }
    }

    fn open(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
        match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
            Err(Errno::ACCESS) => {
                make_readable(dir, name)?;
                rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
            }
            done => done,
        }
    }

    /// Lets its owner read a directory, following no symlink.
    #[cfg(target_os = "linux")]
    fn make_readable(dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        use std::os::fd::AsRawFd as _;
        // Kernels before 6.6 change no mode without following symlinks, other than through /proc.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)
    }

    #[cfg(not(target_os = "linux"))]
    fn make_readable(dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    /// As root nothing is read-only: the tests of this crate that run as another user see the rest.
    #[test]
    fn read_only_directories_are_removed_and_no_link_is_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b/c")).expect("made");
        fs::create_dir_all(&outside).expect("made");
        fs::write(tree.join("a/b/file"), "x").expect("written");
        fs::write(outside.join("file"), "x").expect("written");
        symlink(&outside, tree.join("a/link")).expect("linked");
        set_mode(&outside, 0o555);
        set_mode(&tree.join("a/b/c"), 0o000);
        set_mode(&tree.join("a/b"), 0o555);
        set_mode(&tree, 0o500);
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists() && outside.join("file").exists());
        let mode = fs::metadata(&outside).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o555);
        remove_tree(&tree).expect("it is not there");
        remove_tree(&dir.path().join("no/such")).expect("it is not there");
        symlink(&outside, &tree).expect("linked");
        remove_tree(&tree).expect("the link is removed");
        assert!(fs::symlink_metadata(&tree).is_err() && outside.join("file").exists());
    }
}
