//! Removing in two steps: a rename into the pool's trash, which is done at once or not at all, and
//! deleting there, which may take long, may be interrupted, and goes on in any later process.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::{Error, Result};

use crate::directory::Directory;
use crate::site::Site;

#[cfg(unix)]
#[path = "trash/unix.rs"]
mod delete;
#[cfg(not(unix))]
#[path = "trash/portable.rs"]
mod delete;

/// One directory in the trash, made when something is put into it.
pub(crate) struct Bin {
    trash: PathBuf,
    dir: Option<PathBuf>,
    count: u64,
}

impl Bin {
    pub(crate) fn new(site: &Site) -> Self {
        Self { trash: trash_dir(site), dir: None, count: 0 }
    }

    /// Moves a file, link or directory into the trash. Nothing is followed or copied.
    ///
    /// # Errors
    ///
    /// When it can't be renamed: it is gone, is on another filesystem, or something is mounted
    /// there. It is then where it was.
    pub(crate) fn put(&mut self, path: &Path) -> Result<()> {
        let make_movable = || {
            // To move a directory, it and its parent must be writable.
            let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
            path.parent().map_or(Ok(()), make_writable)?;
            if is_dir { make_writable(path) } else { Ok(()) }
        };
        self.put_by(path, &|to| fs::rename(path, to), &make_movable)
    }

    /// Moves an entry of a directory into the trash, wherever that directory's own path leads by now.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub(crate) fn put_from(&mut self, dir: &Directory, name: &OsStr) -> Result<()> {
        let path = dir.path().join(name);
        self.put_by(&path, &|to| dir.rename(name, to), &|| dir.make_movable(name))
    }

    fn put_by(
        &mut self,
        path: &Path,
        rename: &dyn Fn(&Path) -> io::Result<()>,
        make_movable: &dyn Fn() -> io::Result<()>,
    ) -> Result<()> {
        loop {
            let moved = self.try_put(path, rename, make_movable);
            let swept = self.dir.as_ref().is_some_and(|dir| !dir.exists());
            // Another process sweeps, and took away what nothing was in yet.
            if moved.is_err() && swept && fs::symlink_metadata(path).is_ok() {
                self.dir = None;
            } else {
                return moved;
            }
        }
    }

    fn try_put(
        &mut self,
        path: &Path,
        rename: &dyn Fn(&Path) -> io::Result<()>,
        make_movable: &dyn Fn() -> io::Result<()>,
    ) -> Result<()> {
        let doing = || format!("move {} into the trash", path.display());
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => {
                let dir = fs::create_dir_all(&self.trash)
                    .and_then(|()| tempfile::Builder::new().prefix("").tempdir_in(&self.trash))
                    .map_err(|e| Error::io(doing(), e))?
                    .keep();
                self.dir.insert(dir).clone()
            }
        };
        pool_core::fail_point!("git-backend::trash::opened");
        self.count += 1;
        let to = dir.join(self.count.to_string());
        let moved = rename(&to).or_else(|e| {
            if e.kind() != io::ErrorKind::PermissionDenied {
                return Err(e);
            }
            make_movable()?;
            rename(&to)
        });
        moved.map_err(|e| {
            let error = Error::io(doing(), e);
            if fs::symlink_metadata(path).is_ok() {
                error.with_hint("is something mounted there? then unmount it")
            } else {
                error
            }
        })
    }
}

/// Deletes all that is in the trash; several processes may do so at once.
pub(crate) fn sweep(site: &Site, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let trash = trash_dir(site);
    match fs::symlink_metadata(&trash) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("read {}", trash.display()), e)),
        Ok(meta) if meta.is_dir() => delete::contents(&trash, progress),
        Ok(_) => Err(crate::site::foreign(&trash, "it is not a directory")),
    }
}

/// Whether anything is in the trash.
pub(crate) fn is_there(site: &Site) -> bool {
    fs::read_dir(trash_dir(site)).is_ok_and(|mut entries| entries.next().is_some())
}

fn trash_dir(site: &Site) -> PathBuf {
    site.pool_dir.join("trash")
}

#[cfg(unix)]
fn make_writable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(meta.permissions().mode() | 0o700))
}

#[cfg(not(unix))]
fn make_writable(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_in_between_is_no_obstacle() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let trash = root.path().join("trash");
        let mut bin = Bin { trash: trash.clone(), dir: None, count: 0 };
        for name in ["one", "two"] {
            let tree = root.path().join(name);
            fs::create_dir(&tree).expect("made");
            bin.put(&tree).expect("it can be moved");
            assert!(!tree.exists());
            delete::contents(&trash, &mut |_| ()).expect("swept");
        }
        let gone = bin.put(&root.path().join("three")).expect_err("there is no such thing");
        assert!(gone.to_string().contains("three"), "{gone}");
    }
}
