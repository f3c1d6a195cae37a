//! What is noted beside a slot, and what a slot that is used again must forget.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pool_core::{CommitId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::changes;
use crate::depinfo;
use crate::files;
use crate::fingerprint;
use crate::install;
use crate::renew;
use crate::sccache;

/// Where a slot's target directory, and copies of other directories, are put together.
pub(crate) const UNFINISHED_TREES: [&str; 2] = [".seeding", ".copying"];

/// The note's name.
const NAME: &str = "cache.json";

/// What is known of a slot from one lease to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    /// The base that it started from.
    pub(crate) base: Option<u64>,
    /// What the latest lease started from.
    pub(crate) commit: Option<CommitId>,
    /// Files that are the base's, but have other times, because git does not track them.
    pub(crate) undated: BTreeSet<PathBuf>,
    /// When all that lay in its target was known to be made from the files of its worktree, or from nothing that
    /// cargo would not notice.
    pub(crate) since: Option<SystemTime>,
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

    /// Removes it.
    ///
    /// # Errors
    ///
    /// When it is there and can't be removed.
    pub(crate) fn remove(slot_dir: &Path) -> Result<()> {
        files::discard(&slot_dir.join(NAME))
    }
}

/// Whether a strategy keeps something of that name beside a slot's worktree.
pub fn is_slot_entry(name: &str) -> bool {
    let own = [NAME, ".cargo", crate::confine::ASIDE, renew::UNFINISHED];
    own.contains(&name)
        || UNFINISHED_TREES.contains(&name)
        || name.starts_with(crate::files::UNFINISHED)
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
    discard_unfinished(slot_dir)?;
    renew::end(slot_dir)?;
    Note::remove(slot_dir)?;
    sccache::leave(slot_dir);
    Ok(())
}

/// Has cargo build anew what was made from files that are not what they were for the last lease, although their
/// times are. To be called when a lease begins, before anything is built.
///
/// # Errors
///
/// When the worktree can't be read, or a time not be set.
pub(crate) fn date_anew(slot_dir: &Path, worktree: &Path) -> Result<()> {
    let Some(since) = Note::read(slot_dir).since else { return Ok(()) };
    changes::date_anew(worktree, since)
        .map_err(|e| Error::io(format!("look at {}", worktree.display()), e))
}

/// Notes that all that is built beside the slot's files now was made from them, for all that can be told.
///
/// # Errors
///
/// When that can't be written.
pub(crate) fn in_step(slot_dir: &Path) -> Result<()> {
    let since = SystemTime::now();
    Note { since: Some(since), ..Note::read(slot_dir) }.write(slot_dir)?;
    let path = slot_dir.join(NAME);
    changes::wait_until_later(&path, since)
        .map_err(|e| Error::io(format!("set the time of {}", path.display()), e))
}

fn discard_unfinished(slot_dir: &Path) -> Result<()> {
    for entry in fs::read_dir(slot_dir).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let removed = if UNFINISHED_TREES.iter().any(|tree| name == *tree) {
            files::remove_tree(&path)
        } else if name.to_string_lossy().starts_with(files::UNFINISHED) {
            fs::remove_file(&path)
        } else {
            continue;
        };
        removed.map_err(|e| Error::io(format!("remove {}", path.display()), e))?;
    }
    Ok(())
}

/// Notes that a lease begins at `commit` in a slot that builds into `target`. Build scripts that may have written
/// among the sources run again. If the lease before began elsewhere, packages whose build script does not say what it depends on are built again: cargo would do
/// so only for a changed file of the package, while the script may have asked git for the commit.
///
/// # Errors
///
/// When the note, or cargo's, can't be changed.
pub(crate) fn begin(
    slot_dir: &Path,
    worktree: &Path,
    target: &Path,
    commit: &CommitId,
) -> Result<()> {
    discard_unfinished(slot_dir)?;
    // Else it is not only this slot's.
    let inside = target.starts_with(worktree);
    let profiles = fingerprint::profiles(if inside { worktree } else { target })
        .map_err(|e| Error::io(format!("read {}", target.display()), e))?;
    if inside {
        let unrun = unrun(&profiles, target, worktree)
            .map_err(|e| Error::io(format!("read {}", target.display()), e))?;
        unrun.iter().try_for_each(|fingerprint| fingerprint::disbelieve_one(fingerprint))?;
    }
    let mut note = Note::read(slot_dir);
    if note.commit.as_ref() == Some(commit) {
        return Ok(());
    }
    untold(&profiles)
        .iter()
        .try_for_each(|fingerprint| fingerprint::disbelieve_one(fingerprint))?;
    pool_core::fail_point!("cache-share::note::fingerprints-removed");
    note.commit = Some(commit.clone());
    note.write(slot_dir)
}

/// The fingerprints of those runs of the worktree's own build scripts that may have written among the sources,
/// which the slot's reset has undone: in whose package some file is newer than the run, or is missing
/// that something was made from. Cargo would find the run as fresh as before, and never repeat it.
fn unrun(profiles: &[PathBuf], target: &Path, worktree: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for profile in profiles {
        let build = profile.join("build");
        let infos = fingerprint::dep_infos(profile)?;
        let inputs = |info: &Path| -> Vec<PathBuf> {
            let text = fs::read(info).unwrap_or_default();
            let inputs = depinfo::parse(&text).inputs.into_iter().map(|path| worktree.join(path));
            inputs.filter(|path| path.starts_with(worktree) && !path.starts_with(target)).collect()
        };
        // Where the packages are whose build scripts were compiled here.
        let mut packages: BTreeMap<String, PathBuf> = BTreeMap::new();
        for info in infos.values().filter(|info| info.starts_with(&build)) {
            let script = inputs(info).into_iter().next();
            let package = script.as_deref().and_then(|script| {
                let mut dirs = script.ancestors().skip(1);
                dirs.find(|dir| dir.join("Cargo.toml").is_file())
            });
            let name = info.parent().and_then(package_of);
            packages.extend(name.map(str::to_owned).zip(package.map(Path::to_owned)));
        }
        if packages.is_empty() {
            continue;
        }
        let missing: Vec<PathBuf> =
            infos.values().flat_map(|info| inputs(info)).filter(|path| !path.exists()).collect();
        for unit in fingerprint::subdirectories(&profile.join(fingerprint::FINGERPRINTS))? {
            let Some(package) = package_of(&unit).and_then(|name| packages.get(name)) else {
                continue;
            };
            let Ok(run) = fs::metadata(build.join(&unit).join("output")) else { continue };
            let ran = run.modified()?;
            let undone = missing.iter().any(|path| path.starts_with(package))
                || is_newer(package, target, ran);
            if undone {
                let dir = profile.join(fingerprint::FINGERPRINTS).join(&unit);
                let stems =
                    fingerprint::descriptions(&dir).into_iter().map(|json| json.with_extension(""));
                found.extend(stems.filter(|path| path.exists()));
            }
        }
    }
    Ok(found)
}

/// Whether a file of a package is newer than that.
fn is_newer(package: &Path, target: &Path, than: SystemTime) -> bool {
    let entries = walkdir::WalkDir::new(package).into_iter();
    let sources =
        entries.filter_entry(|entry| entry.path() != target && entry.file_name() != ".git");
    let mut files = sources.flatten().filter(|entry| entry.file_type().is_file());
    files.any(|file| {
        let written = file.metadata().ok().and_then(|meta| meta.modified().ok());
        written.is_some_and(|written| written > than)
    })
}

/// The fingerprints of all units of packages whose build script told cargo nothing, and whose files can
/// change. For the run of such a script, cargo notes the time of the newest file, and which that is
/// (`LocalFingerprint::Precalculated` in cargo's `fingerprint` module; for others it holds a version).
/// What the script says is not in the fingerprint, so that running it again alone would leave the
/// package as it is.
fn untold(profiles: &[PathBuf]) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut found = Vec::new();
    for profile in profiles {
        let units = below(&profile.join(".fingerprint"));
        // With the file beside it that cargo keeps for people.
        let described = |unit: &PathBuf| {
            let files = below(unit).into_iter();
            files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect::<Vec<_>>()
        };
        let silent: Vec<&str> = units
            .iter()
            .filter(|unit| described(unit).iter().any(|json| is_untold(json)))
            .filter_map(|unit| package_of(unit))
            .collect();
        let concerned = units
            .iter()
            .filter(|unit| package_of(unit).is_some_and(|package| silent.contains(&package)));
        found.extend(concerned.flat_map(described).map(|json| json.with_extension("")));
    }
    found.retain(|path| path.exists());
    found
}

fn is_untold(json: &Path) -> bool {
    let name = json.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.starts_with(fingerprint::RUN) {
        return false;
    }
    let text = fs::read_to_string(json).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let local = json["local"].as_array().into_iter().flatten();
    local
        .filter_map(|one| one["Precalculated"].as_str())
        .any(|noted| noted.contains("s (") && noted.ends_with(')'))
}

/// The package's name in that of a unit: all but the hash.
pub(crate) fn package_of(unit: &Path) -> Option<&str> {
    unit.file_name()?.to_str()?.rsplit_once('-').map(|(package, _)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unfinished_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let leave = || {
            for name in [".seeding/debug/deps", ".copying/bin"] {
                fs::create_dir_all(dir.path().join(name)).expect("made");
                fs::write(dir.path().join(name).join("half"), "x").expect("written");
            }
        };
        let left = || {
            let entries = fs::read_dir(dir.path()).expect("it is there").flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        leave();
        let commit = CommitId::new("0123abcd").expect("a commit id");
        begin(dir.path(), &dir.path().join("tree"), &dir.path().join("tree/target"), &commit)
            .expect("begun");
        assert_eq!(left(), [NAME]);
        leave();
        forget(dir.path()).expect("forgotten");
        assert!(left().is_empty());
        forget(dir.path()).expect("there is nothing to forget");
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

    #[test]
    fn scripts_that_say_nothing_run_again_at_another_commit() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("target");
        let file = |unit: &str, stem: &str, local: &str| {
            let unit = target.join("debug/.fingerprint").join(unit);
            fs::create_dir_all(&unit).expect("created");
            let stem = unit.join(stem);
            fs::write(&stem, "0123456789abcdef").expect("written");
            let json = format!("{{\"local\":[{local}]}}");
            fs::write(stem.with_extension("json"), json).expect("written");
            stem
        };
        let unit =
            |unit: &str, local: &str| file(unit, "run-build-script-build-script-build", local);
        let program = file("my-app-9", "bin-my-app", "");
        let other = file("app-9", "bin-app", "");
        let untold = unit("my-app-1", "{\"Precalculated\":\"347155200.000000000s (GUIDE.md)\"}");
        let told =
            unit("lib-2", "{\"RerunIfChanged\":{\"output\":\"x\",\"paths\":[\"build.rs\"]}}");
        let fixed = unit("dep-3", "{\"Precalculated\":\"1.0.0\"}");
        let commit = |id: &str| CommitId::new(id).expect("a commit id");
        begin(dir.path(), dir.path(), &target, &commit("0123abcd")).expect("begun");
        assert!(!untold.exists() && told.exists() && fixed.exists());
        assert!(!program.exists(), "what the script says is not in cargo's fingerprint of it");
        assert!(other.exists());
        fs::write(&untold, "run again").expect("written");
        begin(dir.path(), dir.path(), &target, &commit("0123abcd")).expect("begun");
        assert!(untold.exists(), "the same commit needs no other run");
        begin(dir.path(), dir.path(), &target, &commit("4567abcd")).expect("begun");
        assert!(!untold.exists());
        Note::remove(dir.path()).expect("removed");
        assert_eq!(Note::read(dir.path()), Note::default());
    }
}
