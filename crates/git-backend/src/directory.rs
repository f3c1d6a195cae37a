//! A directory of a worktree, held open: what is done to its entries is done to those of this very
//! directory, even if its name, or one above, is given to a link meanwhile. Where there are no
//! handles, by path.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    #[cfg(unix)]
    handle: std::os::fd::OwnedFd,
}

impl Directory {
    /// Where it was when it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(unix)]
impl Directory {
    /// Opens the directory at `path`; a link to one is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(rustix::fs::CWD, path.as_os_str(), path.to_owned())
    }

    /// Opens a directory in it; a link to one is none.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Self> {
        use std::os::fd::AsFd;
        Self::open_at(self.handle.as_fd(), name, self.path.join(name))
    }

    fn open_at(at: std::os::fd::BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(at, name, flags, Mode::empty())?;
        Ok(Self { path, handle })
    }

    /// The names of all its entries.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.handle)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// Whether that entry is a directory, and no link to one.
    pub(crate) fn is_dir(&self, name: &OsStr) -> io::Result<bool> {
        use rustix::fs::{AtFlags, FileType, statat};
        let found = statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(found.st_mode).is_dir())
    }

    /// Moves an entry away; a link as a link.
    pub(crate) fn rename(&self, name: &OsStr, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, name, rustix::fs::CWD, to)?)
    }

    /// Makes a directory in it.
    pub(crate) fn create_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.handle, name, rustix::fs::Mode::from_raw_mode(0o777))?)
    }

    /// Makes it, and the directory in it of that name, if it is one, writable for its owner, as is needed
    /// to move that.
    pub(crate) fn make_movable(&self, name: &OsStr) -> io::Result<()> {
        use rustix::fs::{Mode, fchmod, fstat};
        let mode = Mode::from_raw_mode(fstat(&self.handle)?.st_mode & 0o7777);
        fchmod(&self.handle, mode | Mode::RWXU)?;
        if self.is_dir(name)? {
            pool_core::handles::make_readable(&self.handle, name)?;
        }
        Ok(())
    }
}

#[cfg(not(unix))]
impl Directory {
    /// Opens the directory at `path`; a link to one is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path)?.is_dir() {
            true => Ok(Self { path: path.to_owned() }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Opens a directory in it; a link to one is none.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Self> {
        Self::open(&self.path.join(name))
    }

    /// The names of all its entries.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(&self.path)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    /// Whether that entry is a directory, and no link to one.
    pub(crate) fn is_dir(&self, name: &OsStr) -> io::Result<bool> {
        Ok(std::fs::symlink_metadata(self.path.join(name))?.is_dir())
    }

    /// Moves an entry away; a link as a link.
    pub(crate) fn rename(&self, name: &OsStr, to: &Path) -> io::Result<()> {
        std::fs::rename(self.path.join(name), to)
    }

    /// Makes a directory in it.
    pub(crate) fn create_dir(&self, name: &OsStr) -> io::Result<()> {
        std::fs::create_dir(self.path.join(name))
    }

    /// Nothing has to be done here.
    pub(crate) fn make_movable(&self, _: &OsStr) -> io::Result<()> {
        Ok(())
    }
}

/// The directory that holds what is at `path` below `place`, if anything is, and no link on the way to it
/// leads elsewhere; and its name there.
pub(crate) fn find<'a>(place: &Path, path: &'a Path) -> Option<(Directory, &'a OsStr)> {
    let mut dir = Directory::open(place).ok()?;
    for part in path.parent().into_iter().flat_map(Path::components) {
        dir = dir.child(part.as_os_str()).ok()?;
    }
    let name = path.file_name()?;
    dir.is_dir(name).is_ok().then_some((dir, name))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_that_is_given_to_a_link_leads_nowhere() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        for dir in [&tree.join("a"), &outside] {
            fs::create_dir_all(dir).expect("made");
            fs::write(dir.join("file"), dir.as_os_str().as_encoded_bytes()).expect("written");
        }
        let tree = Directory::open(&tree).expect("opened");
        let a = tree.child("a".as_ref()).expect("opened");
        // Between the look and what is done.
        tree.rename("a".as_ref(), &root.path().join("moved")).expect("moved");
        symlink(&outside, tree.path().join("a")).expect("linked");
        assert_eq!(a.names().expect("read"), ["file"]);
        a.rename("file".as_ref(), &root.path().join("taken")).expect("moved");
        assert!(outside.join("file").exists());
        assert!(!root.path().join("moved/file").exists());
        assert!(!tree.is_dir("a".as_ref()).expect("it is there"));
        assert!(tree.child("a".as_ref()).is_err());
        assert!(Directory::open(&tree.path().join("a")).is_err());
    }
}
