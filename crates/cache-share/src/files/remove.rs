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
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use pool_core::handles::{self, DIRECTORY};
    use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags};
    use rustix::io::Errno;

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
            let unlink = |flags| match is_inside {
                true => handles::unlink(parent, name, flags),
                false => rustix::fs::unlinkat(parent, name, flags),
            };
            if !FileType::from_raw_mode(found.st_mode).is_dir() {
                return unlink(AtFlags::empty());
            }
            let dir = handles::open(parent, name)?;
            // The name may have been given to another directory since.
            if rustix::fs::fstat(&dir)?.st_dev != self.device {
                return Err(Errno::XDEV);
            }
            let before = self.first;
            for name in handles::names(&dir)? {
                self.entry(&dir, &name, true);
            }
            match unlink(AtFlags::REMOVEDIR) {
                // What stayed in it is the reason, and was noted.
                Err(Errno::NOTEMPTY | Errno::EXIST) if before != self.first => Ok(()),
                removed => removed,
            }
        }
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
