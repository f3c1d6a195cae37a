//! What a slot remembers of the base that its target began with, and what a slot must forget.

use std::fs;
use std::io;
use std::path::Path;

use pool_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::install;
use crate::sccache;

/// Where a slot's target directory, and copies of other directories, are put together.
pub(crate) const UNFINISHED_TREES: [&str; 2] = [".seeding", ".copying"];

/// The note's name.
const NAME: &str = "cache.json";

/// What is known of a slot's target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    /// The base that it began with, which is kept for as long as the slot refers to it.
    pub(crate) base: Option<u64>,
}

impl Note {
    /// Without one, nothing is known.
    pub(crate) fn read(slot_dir: &Path) -> Self {
        let text = fs::read(slot_dir.join(NAME)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes it whole.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub(crate) fn write(&self, slot_dir: &Path) -> Result<()> {
        let path = slot_dir.join(NAME);
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| files::write(&path, &text))
            .map_err(|e| Error::io(format!("write {}", path.display()), e))
    }
}

/// Whether a strategy keeps something of that name beside a slot's worktree.
pub fn is_slot_entry(name: &str) -> bool {
    [NAME, ".cargo", crate::confine::ASIDE].contains(&name)
        || UNFINISHED_TREES.contains(&name)
        || name.starts_with(files::UNFINISHED)
}

/// Removes what is known of the lease before, whose target is gone, and what was not finished when its maker was
/// killed.
///
/// # Errors
///
/// When something can't be removed.
pub(crate) fn begin(slot_dir: &Path) -> Result<()> {
    for entry in fs::read_dir(slot_dir).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if UNFINISHED_TREES.iter().any(|tree| name == *tree) {
            files::discard_tree(&path)?;
        } else if name.to_string_lossy().starts_with(files::UNFINISHED) {
            files::discard(&path)?;
        }
    }
    files::discard(&slot_dir.join(NAME))
}

/// Removes what any strategy put beside a slot: the note, what cargo was told, and what was not finished when its
/// maker was killed. A cache's server that only this slot needed is stopped.
///
/// # Errors
///
/// When something can't be removed.
pub(crate) fn forget(slot_dir: &Path) -> Result<()> {
    install::take_away(slot_dir)?;
    pool_core::fail_point!("cache-share::note::uninstalled");
    begin(slot_dir)?;
    sccache::leave(slot_dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_removes_the_note_and_what_is_unfinished() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in [".seeding/debug/deps/half", ".copying/bin/half", ".unfinished-1", "other"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, "x").expect("written");
        }
        Note { base: Some(7) }.write(dir.path()).expect("written");
        assert_eq!(Note::read(dir.path()).base, Some(7));
        begin(dir.path()).expect("removed");
        begin(dir.path()).expect("there is nothing to remove");
        assert_eq!(Note::read(dir.path()), Note::default());
        let left = fs::read_dir(dir.path()).expect("read").map(|e| e.expect("one").file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn what_was_not_finished_is_forgotten_as_well() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in [".cargo/config.toml", ".seeding/debug/x", ".copying/y", ".unfinished-1", NAME]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, "{}").expect("written");
        }
        fs::write(dir.path().join("slot.json"), "somebody else's").expect("written");
        forget(dir.path()).expect("forgotten");
        let left = fs::read_dir(dir.path()).expect("read").map(|e| e.expect("one").file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["slot.json"]);
    }
}
