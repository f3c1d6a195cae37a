//! Giving a slot whose target is empty what it may have of a base.
//!
//! Cargo calls a unit fresh when its fingerprint is the same and no file it was made from is newer than it.
//! So a slot gets a unit's files with their times; and the files of its worktree get the times of the
//! base's, each one only if it is the very same file. Whatever differs is newer, and cargo builds anew what
//! was made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pool_core::{ContentId, Error, Result};

use crate::base::{Base, Manifest, Unit, times};
use crate::files;

/// What a slot gets of a base.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision<'a> {
    pub(crate) units: Vec<&'a Unit>,
    /// Units of the workspace that are built anew, and why.
    pub(crate) left: Vec<(&'a Unit, String)>,
    /// The times that the files get which are the same.
    pub(crate) times: BTreeMap<PathBuf, SystemTime>,
}

/// Decides what a slot may have that begins with these files, at the commit of the base or at another.
/// Pure.
pub(crate) fn decide<'a>(
    manifest: &'a Manifest,
    same_commit: bool,
    contents: &BTreeMap<PathBuf, ContentId>,
) -> Decision<'a> {
    let same = |path: &Path| manifest.files.get(path) == contents.get(path);
    let all_same = same_commit && manifest.files == *contents;
    let listing = changed_listing(manifest, contents);
    let relisted = |path: &Path| {
        let dir = path.parent().unwrap_or(path);
        listing.contains(dir).then(|| dir.to_owned())
    };
    // What was read without telling anybody may be in any unit of the workspace.
    let silently = match &manifest.read_silently {
        _ if all_same => None,
        None => Some("what its build read can't be told here".to_owned()),
        Some(paths) => paths
            .iter()
            .find(|path| !same(path) || relisted(path).is_some())
            .map(|path| format!("its build read {}, which differs", path.display())),
    };
    let same_files = manifest.files.keys().filter(|path| same(path));
    let times = same_files.map(|path| (path.clone(), times::of_sources())).collect();
    let mut decision = Decision { times, ..Decision::default() };
    for unit in &manifest.units {
        let why_not = unit.local.as_ref().and_then(|local| {
            if let Some(why) = &local.bound {
                return Some(why.clone());
            }
            if let Some(path) = local.inputs.iter().find(|path| !same(path)) {
                return Some(format!("{} differs", path.display()));
            }
            if !all_same && local.this_commit_only {
                return Some("its build script does not say what it depends on".to_owned());
            }
            // A macro may take in all files of a directory.
            let dir = local.inputs.iter().find_map(|path| relisted(path))?;
            Some(format!("other files are in {}", dir.display()))
        });
        match why_not.or_else(|| unit.local.as_ref().and(silently.clone())) {
            None => decision.units.push(unit),
            Some(why) => decision.left.push((unit, why)),
        }
    }
    decision
}

/// The directories in which files came or went.
fn changed_listing(
    manifest: &Manifest,
    contents: &BTreeMap<PathBuf, ContentId>,
) -> BTreeSet<PathBuf> {
    let came = contents.keys().filter(|path| !manifest.files.contains_key(*path));
    let went = manifest.files.keys().filter(|path| !contents.contains_key(*path));
    came.chain(went).filter_map(|path| path.parent().map(Path::to_owned)).collect()
}

/// How a seeding went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seeded {
    /// How many units were given.
    pub(crate) units: usize,
    /// A file of the base that is not what it was.
    pub(crate) damage: Option<String>,
}

/// Makes the slot's target directory, whole or not at all: it is put together beside the worktree.
///
/// # Errors
///
/// When it can't be written (the disk is full, for one). Nothing of it is left then.
pub(crate) fn apply(
    base: &Base,
    manifest: &Manifest,
    decision: &Decision<'_>,
    slot_dir: &Path,
    worktree: &Path,
) -> Result<Seeded> {
    let unfinished = slot_dir.join(".seeding");
    let target = worktree.join(&manifest.target);
    // Whoever was killed at it left it there.
    discard(&unfinished)?;
    let made = fill(base, manifest, decision, &unfinished).and_then(|seeded| {
        fs::create_dir_all(target.parent().unwrap_or(worktree))
            .and_then(|()| fs::rename(&unfinished, &target))
            .map(|()| seeded)
            .map_err(|e| (unfinished.clone(), e))
    });
    made.map_err(|(path, e)| {
        // The first error is the one to report.
        let _ = discard(&unfinished);
        Error::io(format!("seed {}", path.display()), e)
    })
}

fn discard(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

fn fill(
    base: &Base,
    manifest: &Manifest,
    decision: &Decision<'_>,
    to: &Path,
) -> Result<Seeded, (PathBuf, io::Error)> {
    let from = base.tree().join(&manifest.target);
    let mut seeded = Seeded::default();
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    let tag = Path::new("CACHEDIR.TAG");
    fs::create_dir_all(to).map_err(|e| (to.to_owned(), e))?;
    if from.join(tag).is_file() {
        fs::copy(from.join(tag), to.join(tag)).map_err(|e| (to.join(tag), e))?;
    }
    for unit in &decision.units {
        let files = || unit.shared.iter().chain(&unit.copied);
        if let Some(file) = files().find(|file| !file.is_intact(&from)) {
            seeded.damage = Some(format!("{} is not what it was", from.join(&file.path).display()));
            continue;
        }
        for dir in unit.dirs.iter().map(|dir| to.join(dir)) {
            fs::create_dir_all(&dir).map_err(|e| (dir.clone(), e))?;
        }
        for (file, shared) in unit
            .shared
            .iter()
            .map(|file| (file, true))
            .chain(unit.copied.iter().map(|file| (file, false)))
        {
            let target = to.join(&file.path);
            let parent = target.parent().unwrap_or(to);
            if made.insert(parent.to_owned()) {
                fs::create_dir_all(parent).map_err(|e| (parent.to_owned(), e))?;
            }
            let source = from.join(&file.path);
            let give = if shared { files::share } else { files::copy };
            match give(&source, &target, file.modified) {
                // Two units may have the same final name; the first has it.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(|e| (target, e))?,
            }
        }
        seeded.units += 1;
    }
    Ok(seeded)
}
