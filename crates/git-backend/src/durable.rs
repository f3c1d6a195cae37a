//! Bringing files to the disk, so that what was reported survives a loss of power.
//!
//! Neither gix nor git does so for loose objects, references, or the files of a worktree's registration; and
//! whoever else syncs a file of their own, such as the pool's database, may bring *names* to the disk along with
//! it: what is left after a loss of power is then an empty file. So before a lease, a rescue or a
//! kept branch is reported, and before anything is deleted that was the other copy, the files that stand for it are
//! brought to the disk here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use pool_core::{Error, Result};

/// How many are synced at the same time: a journal takes those that wait for it in one go.
const AT_ONCE: usize = 8;

/// Brings these files (those that are there) and the directories they are in to the disk.
pub(crate) fn files(paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    let mut all = BTreeSet::new();
    for path in paths {
        if let Some(parent) = path.parent() {
            all.insert(parent.to_owned());
        }
        all.insert(path);
    }
    let count = all.len();
    let (rest, first) = (Mutex::new(all.into_iter()), Mutex::new(Ok(())));
    let work = || {
        loop {
            let next = rest.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(path) = next else { return };
            if let Err(error) = file(&path) {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.is_ok() {
                    *first = Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..count.min(AT_ONCE) {
            scope.spawn(work);
        }
        work();
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Brings a file or directory to the disk, where the system can; whether there is one.
pub(crate) fn file(path: &Path) -> Result<bool> {
    let failed = |e| Error::io(format!("sync {}", path.display()), e);
    if !cfg!(unix) && path.is_dir() {
        return Ok(true);
    }
    match File::open(path) {
        Ok(file) => file.sync_all().map(|()| true).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

/// Writes a file and brings it to the disk, with the directory it is in and the one that is in.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    path.ancestors().skip(1).take(2).try_for_each(|dir| file(dir).map(drop))
}

/// The files and directories that a reference of that name is in: its own one, or the packed ones.
pub(crate) fn reference(common_dir: &Path, name: &str) -> Vec<PathBuf> {
    let own = common_dir.join(name);
    if !own.is_file() {
        return vec![common_dir.join("packed-refs")];
    }
    let until = common_dir.join("refs");
    own.ancestors().take_while(|path| path.starts_with(&until)).map(Path::to_owned).collect()
}

/// Brings all of a filesystem to the disk; whether the system can.
#[cfg(target_os = "linux")]
pub(crate) fn filesystem(path: &Path) -> Result<bool> {
    let doing = || format!("sync the filesystem of {}", path.display());
    let directory = File::open(path).map_err(|e| Error::io(doing(), e))?;
    rustix::fs::syncfs(&directory).map_err(|e| Error::io(doing(), e.into()))?;
    Ok(true)
}

/// Brings all of a filesystem to the disk; whether the system can.
#[cfg(not(target_os = "linux"))]
pub(crate) fn filesystem(_: &Path) -> Result<bool> {
    Ok(false)
}
