//! Deleting where there are no directory handles: by the standard library, which follows no links.

use std::fs;
use std::io;
use std::path::Path;

use pool_core::{Error, Result};

/// Deletes everything in `trash`, but not `trash`.
pub(crate) fn contents(trash: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut first = Ok(());
    let entries =
        fs::read_dir(trash).map_err(|e| Error::io(format!("read {}", trash.display()), e))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let deleted = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match deleted {
            Ok(()) => progress(1),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                first = first.and(Err(Error::io(format!("delete {}", path.display()), e)));
            }
        }
    }
    first
}
