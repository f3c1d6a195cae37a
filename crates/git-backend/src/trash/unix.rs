//! Deleting by directory handles: a directory that is swapped for a link in the middle of it
//! leads nowhere, and what is mounted inside stays.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use pool_core::handles::{DIRECTORY, names, open, unlink};
use pool_core::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

/// Below this depth, directories are first moved up into the trash: a tree of any depth is deleted
/// with a bounded number of open handles.
const DEPTH: usize = 64;

/// How many deletions are reported at once.
const REPORT: u64 = 256;

/// Deletes everything in `trash`, but not `trash`.
pub(crate) fn contents(trash: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let io = |e: Errno| Error::io(format!("read {}", trash.display()), e.into());
    let root = rustix::fs::openat(CWD, trash, DIRECTORY, Mode::empty()).map_err(io)?;
    let device = rustix::fs::fstat(&root).map_err(io)?.st_dev;
    let mut deleter =
        Deleter { trash, root: &root, device, first: Ok(()), count: 0, moved: 0, progress };
    // Again as long as directories were moved up, out of too deep a tree.
    loop {
        deleter.moved = 0;
        deleter.empty(&root, &mut trash.to_owned(), 0);
        if deleter.moved == 0 {
            break;
        }
    }
    let Deleter { count, first, progress, .. } = deleter;
    progress(count % REPORT);
    first
}

struct Deleter<'a> {
    trash: &'a Path,
    root: &'a OwnedFd,
    device: rustix::fs::Dev,
    first: Result<()>,
    count: u64,
    moved: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Deleter<'_> {
    /// Deletes what is in a directory; what can't be is reported and left.
    fn empty(&mut self, dir: &OwnedFd, path: &mut std::path::PathBuf, depth: usize) {
        let names = match names(dir) {
            Ok(names) => names,
            Err(e) => return self.report(path, e),
        };
        for name in names {
            path.push(as_path(&name));
            match self.delete(dir, &name, path, depth) {
                Ok(()) => {
                    pool_core::fail_point!("git-backend::trash::deleted-one");
                    self.count += 1;
                    if self.count.is_multiple_of(REPORT) {
                        (self.progress)(REPORT);
                    }
                }
                // Another process was faster.
                Err(Errno::NOENT) => {}
                Err(e) => self.report(path, e),
            }
            path.pop();
        }
    }

    fn delete(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        path: &mut std::path::PathBuf,
        depth: usize,
    ) -> Result<(), Errno> {
        let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if found.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
            return unlink(dir, name, AtFlags::empty());
        }
        // An empty one needs no opening, so may be unreadable.
        match unlink(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS | Errno::PERM) => {}
            done => return done,
        }
        if depth >= DEPTH {
            let up = format!("deep-{}-{}-{}", std::process::id(), self.count, self.moved);
            let Ok(up) = CString::new(up) else { return Err(Errno::INVAL) };
            rustix::fs::renameat(dir, name, self.root, &up)?;
            self.moved += 1;
            return Err(Errno::NOENT);
        }
        let child = open(dir, name)?;
        // The name may have been given to something else since it was looked at.
        if rustix::fs::fstat(&child)?.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        self.empty(&child, path, depth + 1);
        drop(child);
        match unlink(dir, name, AtFlags::REMOVEDIR) {
            // What stayed in it was reported already; or it is where another process is just putting
            // something, which the next sweep deletes.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.first.is_err() || depth == 0 => {
                Err(Errno::NOENT)
            }
            done => done,
        }
    }

    fn report(&mut self, path: &Path, e: Errno) {
        let error = match e {
            Errno::XDEV | Errno::BUSY => Error::new(
                ErrorKind::Busy,
                format!(
                    "{} is on another device, and stays in {}",
                    path.display(),
                    self.trash.display()
                ),
            )
            .with_hint("unmount it, and prune again"),
            e => Error::io(format!("delete {}", path.display()), e.into()),
        };
        if self.first.is_ok() {
            self.first = Err(error);
        }
    }
}

fn as_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_it_is_swept_is_left_for_the_next_sweep() {
        let trash = tempfile::tempdir().expect("a temporary directory");
        let bin = trash.path().join("bin");
        std::fs::create_dir(&bin).expect("made");
        for n in 0..=REPORT {
            std::fs::write(bin.join(n.to_string()), "").expect("written");
        }
        let mut late = Some(bin.join("late"));
        let mut come = |_| {
            if let Some(late) = late.take() {
                std::fs::write(late, "").expect("written");
            }
        };
        contents(trash.path(), &mut come).expect("that is no trouble");
        assert!(bin.join("late").exists());
        contents(trash.path(), &mut |_| ()).expect("swept");
        assert!(!bin.exists());
    }
}
