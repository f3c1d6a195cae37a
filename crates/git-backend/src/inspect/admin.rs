//! The administrative directory of a linked worktree: what in it belongs to the work.

use std::fs;
use std::path::Path;

use pool_core::{Error, Result};

use crate::registration::LOCK;

/// What says where the worktree is, or belongs to git's own machinery, or (submodules) is a
/// repository of its own.
const NOT_WORK: [&str; 5] = ["gitdir", "commondir", LOCK, "modules", "fsmonitor--daemon"];

/// The operations that git may be in the middle of, by the file or directory that says so.
const OPERATIONS: [(&str, &str); 8] = [
    ("rebase-merge", "rebase"),
    ("rebase-apply/applying", "am"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
    ("sequencer", "cherry-pick or revert"),
];

/// Tells `found` about every file of a worktree's administrative directory that is part of its
/// state: the path, and its name relative to the directory, with slashes.
pub(crate) fn files(dir: &Path, found: &mut dyn FnMut(&Path, &str) -> Result<()>) -> Result<()> {
    let mut pending = vec![String::new()];
    while let Some(prefix) = pending.pop() {
        let here = dir.join(&prefix);
        let reading = |e| Error::io(format_args!("read {}", here.display()), e);
        let mut entries = match fs::read_dir(&here) {
            Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(reading)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(reading(e)),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Git itself makes no other names here.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(reading)?;
            let name = format!("{prefix}{name}");
            if is_not_work(&name) {
                continue;
            }
            if kind.is_dir() {
                pending.push(format!("{name}/"));
            } else if kind.is_file() {
                found(&entry.path(), &name)?;
            }
        }
    }
    Ok(())
}

/// Whether a file of that name is no part of the worktree's state.
pub(crate) fn is_not_work(name: &str) -> bool {
    NOT_WORK.contains(&name) || name.ends_with(".lock")
}

/// The operation in progress, as a user would call it.
pub(crate) fn operation(dir: &Path) -> Option<String> {
    let found = OPERATIONS.iter().find(|(file, _)| dir.join(file).symlink_metadata().is_ok());
    found.map(|(_, name)| (*name).to_owned())
}
