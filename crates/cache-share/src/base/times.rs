//! When the files of a base, and of what slots have of it, claim to have been written: long ago.
//!
//! Cargo takes a file for changed when it is newer than what was made from it. A file with an old date
//! (from an archive, or by `touch -d`) is older than anything that was built today, so a slot that starts
//! with something built would not be built anew for it. Nothing is older than a base.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pool_core::{Error, Result};

use crate::files;

/// Seconds from 1970 to the beginning of 1981: some archivers know no time before 1980.
const LONG_AGO: Duration = Duration::from_secs(4018 * 86_400);

/// When all sources were written.
pub(crate) fn of_sources() -> SystemTime {
    SystemTime::UNIX_EPOCH + LONG_AGO
}

/// Whether a file has that time.
pub(crate) fn is_of_sources(file: &Path) -> bool {
    let modified = std::fs::symlink_metadata(file).and_then(|meta| meta.modified());
    modified.is_ok_and(|modified| modified == of_sources())
}

/// When the first output was, half a year later. The others keep their distance to it.
pub(super) fn of_outputs() -> SystemTime {
    of_sources() + Duration::from_secs(181 * 86_400)
}

/// Sends all that was written into `target` since `begun` back to those days.
///
/// # Errors
///
/// When a time can't be set.
pub(super) fn send_back(target: &Path, begun: SystemTime) -> Result<()> {
    let failed =
        |path: &Path, e: io::Error| Error::io(format!("set the time of {}", path.display()), e);
    let mut done = std::collections::HashSet::new();
    for path in files::tree(target).map_err(|e| failed(target, e))? {
        let path = target.join(path);
        let meta = std::fs::symlink_metadata(&path).map_err(|e| failed(&path, e))?;
        // A file of several names is sent back once.
        if super::inode(&meta).is_some_and(|inode| !done.insert(inode)) {
            continue;
        }
        let written = meta.modified().map_err(|e| failed(&path, e))?;
        let since = written.duration_since(begun).unwrap_or_default();
        files::set_modified(&path, of_outputs() + since).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_keep_their_order_and_sources_are_older() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let begun = SystemTime::now();
        for (name, after) in [("first", 1), ("second", 2)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").expect("written");
            files::set_modified(&path, begun + Duration::from_secs(after)).expect("set");
        }
        std::fs::hard_link(dir.path().join("second"), dir.path().join("twin")).expect("linked");
        send_back(dir.path(), begun).expect("sent back");
        let modified = |name: &str| {
            std::fs::metadata(dir.path().join(name)).and_then(|meta| meta.modified()).expect("read")
        };
        assert!(of_sources() < modified("first") && modified("first") < modified("second"));
        assert_eq!(modified("second"), of_outputs() + Duration::from_secs(2));
        assert_eq!(modified("twin"), modified("second"));
    }
}
