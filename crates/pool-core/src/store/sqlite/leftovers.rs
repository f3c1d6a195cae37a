//! What is left by processes that were killed in the middle of a change. It is in nobody's way, and nobody
//! else takes it away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::{Layout, Lock};

/// No longer than this is waited for those who are just changing something: whoever comes next sweeps as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Removes it. What is there is somebody's, or of use, as long as that one holds the pool's lock.
pub(super) fn sweep(layout: &Layout) {
    if find(layout).is_empty() {
        return;
    }
    let Ok(_alone) = Lock::exclusive(layout, PATIENCE) else { return };
    for path in find(layout) {
        let removed = match path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            // Only if nothing is in it.
            true => fs::remove_dir(&path),
            false => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %path.display(), %error, "a leftover stays");
        }
    }
}

/// What was staged and not published, what was replaced, what was to be set aside; and the directories of
/// slots that never came to be, in an order in which they can be removed.
fn find(layout: &Layout) -> Vec<PathBuf> {
    let is_left = |name: &str| {
        (name.starts_with(".sidecar-") && name.ends_with(".old"))
            || name.starts_with(".reserve-")
            || name == "pool.json.new"
    };
    let mut found: Vec<PathBuf> = entries(layout.directory())
        .filter(|(name, _)| is_left(name))
        .map(|(_, path)| path)
        .collect();
    for (name, slot) in entries(&layout.slots()) {
        let is_slot = name.parse::<u64>().is_ok_and(|number| number.to_string() == name)
            && slot.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_slot {
            continue;
        }
        let inside: Vec<String> = entries(&slot).map(|(name, _)| name).collect();
        if inside.iter().any(|name| name == "slot.json.new") {
            found.push(slot.join("slot.json.new"));
        }
        if inside.iter().all(|name| name == "slot.json.new") {
            found.push(slot);
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_left_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        let gone = [".sidecar-7-0.old", "pool.json.new", ".reserve-12", "slots/1/slot.json.new"];
        let kept =
            ["pool.json", "reserve", "slots/2/slot.json", "slots/3/mine", "slots/x/slot.json.new"];
        for name in gone.iter().chain(&kept) {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "x").unwrap();
        }
        fs::write(at("slots/2/slot.json.new"), "x").unwrap();
        fs::create_dir(at("slots/4")).unwrap();
        // Somebody is in the middle of a change: it may be that one's.
        let changing = Lock::shared(&layout, Duration::ZERO).unwrap();
        assert!(Lock::exclusive(&layout, Duration::ZERO).is_err());
        drop(changing);
        sweep(&layout);
        for name in gone.iter().chain(&["slots/1", "slots/2/slot.json.new", "slots/4"]) {
            assert!(!at(name).exists(), "{name}");
        }
        for name in kept {
            assert!(at(name).exists(), "{name}");
        }
    }
}
