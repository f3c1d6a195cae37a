//! Giving a slot that is used again what the base has of it once more.
//!
//! Whatever its last holder changed was written again when the worktree was reset, so cargo would build anew
//! all that was made from it, although the sources are those of the base again. Instead, the base's units take
//! the place of the holder's, and the sources get their old times back. Those old times would also have
//! cargo believe in whatever else the holder built from the changed files, or from what was made of
//! them: tests, other profiles, what the base lacks. All of that is told apart by what rustc and cargo
//! wrote down, and cargo's fingerprint of it is removed. What can't be told apart is built again. All of that holds
//! for whatever cargo built into anywhere in the worktree: for another workspace there, or for a tool.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use pool_core::{ContentId, Error, Result};

use crate::base::{self, Base, Manifest, Unit};
use crate::changes::Changes;
use crate::depinfo;
use crate::files::{self, Recorded};
use crate::fingerprint::{
    self, FINGERPRINTS, Fingerprint, OUTPUTS, dep_infos, disbelieve, profiles, subdirectories,
    values,
};
use crate::note::{self, Note};
use crate::seed::{self, Decision, Seeded};

/// What there is while a slot's target is neither what it was nor what it will be.
pub(crate) const UNFINISHED: &str = ".renewing";

/// What is to be done in a slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// Units that take the place of what the slot has.
    pub(crate) given: Vec<&'a Unit>,
    /// Directories of fingerprints that are not to be believed.
    pub(crate) outdated: Vec<PathBuf>,
    /// The times of the files that came back.
    pub(crate) times: BTreeMap<PathBuf, SystemTime>,
}

/// A unit in a slot's worktree that does not come from the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Other {
    /// The directory of its fingerprint.
    dir: PathBuf,
    fingerprint: Fingerprint,
    /// Rustc wrote what it was made from, and it is in the worktree.
    compiled_here: bool,
}

/// Where a worktree is, and where else its files may be said to be.
pub(crate) struct Places<'a> {
    pub(crate) worktree: &'a Path,
    pub(crate) canonical: &'a Path,
    pub(crate) target: &'a Path,
}

/// Finds out what is to be done in a slot that begins with these files, and as was decided, if anything is: files
/// changed since the latest lease began, or something is missing. `base` is that which was decided on, if there is one.
///
/// # Errors
///
/// When the worktree can't be read.
pub(crate) fn plan<'a>(
    decision: &Decision<'a>,
    base: Option<&(Base, Manifest)>,
    contents: &BTreeMap<PathBuf, ContentId>,
    places: &Places<'_>,
    note: &Note,
) -> io::Result<Option<Plan<'a>>> {
    let returned = differently_dated(&decision.times, places.worktree);
    let mut times: BTreeMap<PathBuf, SystemTime> =
        returned.into_iter().filter(|(path, _)| !note.undated.contains(path)).collect();
    let mut changes = Changes::find(places.worktree, contents.keys(), note.since);
    // Cargo would build anew what was made from those, whenever it is asked.
    let now = SystemTime::now();
    for path in &changes.ahead {
        times.entry(path.clone()).or_insert(now);
    }
    changes.files.extend(times.keys().cloned());
    let told = base.map(|(base, manifest)| inputs(base, manifest, places)).unwrap_or_default();
    let is_told = |path: &PathBuf| names(path).any(|name| told.contains(&name));
    let mut silently = base.is_some_and(|(_, manifest)| read_silently(manifest, &changes, is_told));
    // What is written for each lease comes with a new time, too.
    changes.files.retain(|path| !note.undated.contains(path));
    let target = places.target;
    let unchanged = changes.files.is_empty() && !silently;
    // What was built of the very same files is as good, and newer, where cargo wants it to be.
    let is_good = |unit: &&Unit| {
        let is_there = |file: &Recorded| {
            if unchanged { file.is_there(target) } else { file.is_intact(target) }
        };
        unit.files().all(is_there) && unit.links.iter().all(|link| link.is_intact(target))
    };
    let (kept, given): (Vec<_>, Vec<_>) = decision.units.iter().copied().partition(is_good);
    if unchanged && (given.is_empty() || kept.is_empty()) {
        return Ok(None);
    }
    changes.follow_links(places.worktree, contents);
    let of_base = decision.units.iter().filter_map(|unit| fingerprint_dir(unit));
    let of_base: BTreeSet<PathBuf> = of_base.map(|dir| target.join(dir)).collect();
    let believed = kept.iter().filter_map(|unit| fingerprint_dir(unit));
    let believed = believed.flat_map(|dir| values(&target.join(dir))).collect();
    let others = others(places, &of_base)?;
    // Who reads something and does not say so may be any macro or build script.
    silently |= !others.is_empty() && {
        let inputs = others.iter().filter_map(|other| other.fingerprint.inputs.as_ref());
        let inputs: HashSet<Input> =
            inputs.flatten().map(|path| Input::new(path, places)).collect();
        let is_input =
            |path: &PathBuf| is_told(path) || names(path).any(|name| inputs.contains(&name));
        changes.files.iter().any(|path| seed::may_be_data(path) && !is_input(path))
    };
    let units_of_base = base.into_iter().flat_map(|(_, manifest)| &manifest.units);
    let here: BTreeSet<&str> = units_of_base
        .filter(|unit| unit.local.is_some())
        .map(|unit| Path::new(&unit.name))
        .chain(others.iter().filter(|other| other.compiled_here).map(|other| &*other.dir))
        .filter_map(note::package_of)
        .collect();
    let changed: HashSet<Input> = changes.files.iter().flat_map(|path| names(path)).collect();
    let is_touched = |other: &Other| {
        let mut inputs = other.fingerprint.inputs.iter().flatten();
        silently && note::package_of(&other.dir).is_none_or(|package| here.contains(package))
            || inputs.any(|input| Input::new(input, places).is_among(&changed))
    };
    let outdated = outdated(&others, &believed, is_touched);
    Ok(Some(Plan { given, outdated, times }))
}

/// What the base's units of the worktree say that they were made from.
fn inputs(base: &Base, manifest: &Manifest, places: &Places<'_>) -> HashSet<Input> {
    let target = base.tree().join(&manifest.target);
    let mut found = HashSet::new();
    for unit in &manifest.units {
        let Some(local) = &unit.local else { continue };
        // Those of a build script's run are what it told cargo.
        let run = local.inputs.is_empty().then(|| fingerprint_dir(unit)).flatten();
        let run = run
            .and_then(|dir| fingerprint::read(&target.join(dir), None))
            .and_then(|run| run.inputs);
        let all = local.inputs.iter().chain(run.iter().flatten());
        found.extend(all.map(|path| Input::new(path, places)));
    }
    found
}

/// Whether something changed that was read during the base's build, for all that is known, and that nobody
/// told cargo of.
fn read_silently(
    manifest: &Manifest,
    changes: &Changes,
    is_told: impl Fn(&PathBuf) -> bool,
) -> bool {
    match &manifest.read_silently {
        None => !changes.files.is_empty(),
        Some(paths) => {
            paths.iter().any(|path| changes.files.contains(path) && !is_told(path))
                || seed::listed_silently(manifest).any(|dir| changes.dirs.contains(dir))
        }
    }
}

/// The files that have another time than they should have, and that time.
pub(crate) fn differently_dated(
    times: &BTreeMap<PathBuf, SystemTime>,
    worktree: &Path,
) -> BTreeMap<PathBuf, SystemTime> {
    let is = |path: &Path| fs::symlink_metadata(worktree.join(path)).and_then(|m| m.modified());
    let differs = |(path, time): &(&PathBuf, &SystemTime)| is(path).ok().as_ref() != Some(*time);
    times.iter().filter(differs).map(|(path, time)| (path.clone(), *time)).collect()
}

/// Where an input is. It stands for all that is in it, if it is a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Input {
    /// There in the worktree.
    Inside(PathBuf),
    /// A path that ends like this: it is not known what it is relative to.
    Ending(PathBuf),
    Elsewhere,
    /// Not known.
    Anywhere,
}

impl Input {
    /// Pure.
    fn new(path: &Path, places: &Places<'_>) -> Self {
        let inside = match path.is_absolute() {
            true => path
                .strip_prefix(places.worktree)
                .or_else(|_| path.strip_prefix(places.canonical))
                .map(|inside| Self::Inside(inside.to_owned()))
                .unwrap_or(Self::Elsewhere),
            false => Self::Ending(path.components().filter(|c| *c != Component::CurDir).collect()),
        };
        // What is elsewhere may still come back here.
        if has_parents(path) || inside == Self::Ending(PathBuf::new()) {
            return Self::Anywhere;
        }
        inside
    }

    /// Whether it may be one of those files that are called by these names, or a directory that one is in.
    fn is_among(&self, names: &HashSet<Self>) -> bool {
        match self {
            Self::Elsewhere => false,
            Self::Anywhere => !names.is_empty(),
            Self::Inside(_) | Self::Ending(_) => names.contains(self),
        }
    }
}

/// All inputs that are that file of the worktree, or a directory that it is in. Pure.
fn names(file: &Path) -> impl Iterator<Item = Input> {
    file.ancestors().flat_map(|path| {
        let endings = (0..path.components().count())
            .map(|from| Input::Ending(path.components().skip(from).collect()));
        endings.chain([Input::Inside(path.to_owned())])
    })
}

fn has_parents(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// Which of the other units cargo must not take for fresh: those of which it is not known what they were made
/// from; which were made from something that changed; or which depend on something that is neither
/// believed nor one of those that may be. Pure.
fn outdated(
    others: &[Other],
    believed: &BTreeSet<u64>,
    is_touched: impl Fn(&Other) -> bool,
) -> Vec<PathBuf> {
    let is_clean = |other: &Other| other.fingerprint.inputs.is_some() && !is_touched(other);
    let mut bearers: HashMap<u64, Vec<usize>> = HashMap::new();
    for (number, other) in others.iter().enumerate() {
        if let Some(value) = other.fingerprint.value {
            bearers.entry(value).or_default().push(number);
        }
    }
    let mut sound: BTreeSet<usize> = BTreeSet::new();
    // From the leaves up. What never gets its turn depends on something that is not believed.
    loop {
        let is_believed = |value: &u64| {
            let bearers = bearers.get(value);
            bearers.map_or(believed.contains(value), |all| all.iter().all(|n| sound.contains(n)))
        };
        let more: Vec<usize> = others
            .iter()
            .enumerate()
            .filter(|(number, other)| {
                !sound.contains(number)
                    && is_clean(other)
                    && other.fingerprint.dependencies.iter().all(is_believed)
            })
            .map(|(number, _)| number)
            .collect();
        if more.is_empty() {
            break;
        }
        sound.extend(more);
    }
    let outdated = others.iter().enumerate().filter(|(number, _)| !sound.contains(number));
    outdated.map(|(_, other)| other.dir.clone()).collect()
}

/// Where a unit of the base has its fingerprint, relative to the target directory.
fn fingerprint_dir(unit: &Unit) -> Option<&Path> {
    let mut paths = unit.copied.iter().map(|file| &*file.path);
    let path = paths.find(|path| path.components().any(|part| part.as_os_str() == FINGERPRINTS))?;
    path.parent()
}

/// All units in a worktree but those whose fingerprints are in `known`.
fn others(places: &Places<'_>, known: &BTreeSet<PathBuf>) -> io::Result<Vec<Other>> {
    let mut found = Vec::new();
    for profile in profiles(places.worktree)? {
        let mut written: Option<HashMap<String, PathBuf>> = None;
        let fingerprints = profile.join(FINGERPRINTS);
        for dir in subdirectories(&fingerprints)? {
            let dir = fingerprints.join(dir);
            if known.contains(&dir) {
                continue;
            }
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(dep_infos(&profile)?),
            };
            let name = dir.file_name().map(Path::new);
            let inputs = name.and_then(base::hash_in).and_then(|hash| written.get(&hash));
            let inputs = inputs.map(fs::read).transpose()?;
            let inputs = inputs.map(|text| depinfo::parse(&text).inputs);
            let is_here = |input: &PathBuf| {
                let of_worktree = [places.worktree, places.canonical];
                input.is_relative() || of_worktree.iter().any(|place| input.starts_with(place))
            };
            let compiled_here = inputs.iter().flatten().any(is_here);
            let fingerprint = fingerprint::read(&dir, inputs).unwrap_or_default();
            found.push(Other { dir, fingerprint, compiled_here });
        }
    }
    Ok(found)
}

/// Removes a slot's target if somebody who was at it did not end it; or if it is somewhere else, by a link, where
/// nothing is the slot's.
///
/// # Errors
///
/// When it can't be removed.
pub(crate) fn recover(slot_dir: &Path, worktree: &Path, target: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("read {}", target.display()), e);
    unlink(worktree, target)?;
    let unfinished = slot_dir.join(UNFINISHED).exists();
    if unfinished || leads_elsewhere(target).map_err(failed)? {
        files::discard_tree(target)?;
    }
    if unfinished { end(slot_dir) } else { Ok(()) }
}

/// Removes what is in the place of a target directory, or of one that it is in.
fn unlink(worktree: &Path, target: &Path) -> Result<()> {
    let inside = |dir: &&Path| dir.starts_with(worktree) && *dir != worktree;
    let mut dirs: Vec<&Path> = target.ancestors().take_while(inside).collect();
    dirs.reverse();
    let is_dir = |dir: &&&Path| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
    match dirs.iter().find(|dir| !is_dir(dir)) {
        Some(found) => files::discard(found),
        None => Ok(()),
    }
}

/// Whether cargo builds a part of what goes into a target directory somewhere else, by a link.
fn leads_elsewhere(target: &Path) -> io::Result<bool> {
    let is_linked = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
            && fs::metadata(path).is_ok_and(|meta| meta.is_dir())
    };
    let of_profiles = profiles(target)?.into_iter();
    let mut outputs = of_profiles.flat_map(|dir| OUTPUTS.map(|output| dir.join(output)));
    if outputs.any(|output| is_linked(&output)) {
        return Ok(true);
    }
    let entries = walkdir::WalkDir::new(target).max_depth(2).into_iter();
    let links = entries.flatten().filter(|entry| entry.path_is_symlink()).map(|e| e.into_path());
    Ok(links.filter(|link| is_linked(link)).any(|link| link.join(FINGERPRINTS).is_dir()))
}

/// Puts the base's units in their place, and removes the fingerprints that are outdated. Then the sources
/// are to be given their times, and after that [`end`] is to be called: should that not come to pass, the
/// target is not to be used.
///
/// # Errors
///
/// When something can't be removed or written.
pub(crate) fn apply(
    base: &Base,
    manifest: &Manifest,
    plan: &Plan<'_>,
    slot_dir: &Path,
    target: &Path,
) -> Result<Seeded> {
    let from = base.tree().join(&manifest.target);
    if let Some(path) = plan.given.iter().find_map(|unit| unit.damage(&from)) {
        let damage = format!("{} is not what it was", from.join(path).display());
        // They are the last holder's.
        let given = plan.given.iter().filter_map(|unit| fingerprint_dir(unit));
        given.map(|dir| target.join(dir)).try_for_each(|dir| disbelieve(&dir))?;
        outdate(plan)?;
        return Ok(Seeded { damage: Some(damage), ..Seeded::default() });
    }
    let begun = slot_dir.join(UNFINISHED);
    files::write(&begun, b"").map_err(|e| Error::io(format!("write {}", begun.display()), e))?;
    outdate(plan)?;
    for unit in &plan.given {
        fingerprint_dir(unit).map_or(Ok(()), |dir| files::discard_tree(&target.join(dir)))?;
        unit.dirs.iter().try_for_each(|dir| files::discard_tree(&target.join(dir)))?;
        unit.files().try_for_each(|file| files::discard(&target.join(&file.path)))?;
        unit.links.iter().try_for_each(|link| files::discard(&target.join(&link.path)))?;
    }
    seed::fill(base, manifest, &plan.given, target)
        .map_err(|(path, e)| Error::io(format!("seed {}", path.display()), e))
}

/// Removes the fingerprints that are outdated.
///
/// # Errors
///
/// When one can't be removed.
pub(crate) fn outdate(plan: &Plan<'_>) -> Result<()> {
    plan.outdated.iter().try_for_each(|dir| disbelieve(dir))
}

/// Empties the directory in which tests may keep something (`CARGO_TARGET_TMPDIR`). Cargo makes it when it compiles
/// them.
///
/// # Errors
///
/// When something can't be removed.
pub(crate) fn empty_tmp(target: &Path) -> Result<()> {
    let tmp = target.join("tmp");
    if !fs::symlink_metadata(&tmp).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    files::discard_tree(&tmp)?;
    fs::create_dir(&tmp).map_err(|e| Error::io(format!("create {}", tmp.display()), e))
}

/// Says that the slot's target can be used, or that there is none any more.
///
/// # Errors
///
/// When that can't be said.
pub(crate) fn end(slot_dir: &Path) -> Result<()> {
    files::discard(&slot_dir.join(UNFINISHED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str, value: u64, dependencies: &[u64], inputs: &[&str]) -> Other {
        let inputs = Some(inputs.iter().map(PathBuf::from).collect());
        let dependencies = dependencies.to_vec();
        let fingerprint = Fingerprint { value: Some(value), dependencies, inputs };
        Other { dir: name.into(), fingerprint, compiled_here: true }
    }

    fn outdated_by(others: &[Other], believed: &[u64], came_back: &str) -> Vec<String> {
        let believed = believed.iter().copied().collect();
        let is_touched = |other: &Other| {
            other.fingerprint.inputs.iter().flatten().any(|input| input == Path::new(came_back))
        };
        let found = outdated(others, &believed, is_touched);
        found.iter().map(|dir| dir.display().to_string()).collect()
    }

    #[test]
    fn what_was_made_from_something_that_came_back_is_outdated_and_all_that_depends_on_it() {
        let others = [
            other("test of a", 1, &[10], &["a.rs"]),
            other("test of b", 2, &[10, 3], &["b.rs"]),
            other("helper", 3, &[], &["helper.rs"]),
            other("of the registry", 4, &[], &["/registry/x.rs"]),
        ];
        assert_eq!(outdated_by(&others, &[10], "a.rs"), ["test of a"]);
        assert_eq!(outdated_by(&others, &[10], "helper.rs"), ["test of b", "helper"]);
        assert!(outdated_by(&others, &[10], "c.rs").is_empty());
        // The base's unit takes the place of what they were linked with.
        assert_eq!(outdated_by(&others, &[], "c.rs"), ["test of a", "test of b"]);
    }

    #[test]
    fn what_is_not_known_is_outdated() {
        let unknown = Other { dir: "doc".into(), ..Other::default() };
        let others = [unknown, other("test", 1, &[7], &[]), other("circle", 2, &[2], &[])];
        assert_eq!(outdated_by(&others, &[], "x"), ["doc", "test", "circle"]);
        // Of two that are called the same, one is not believed: which one is meant is not known.
        let twins = [
            other("one", 1, &[], &["a.rs"]),
            other("two", 1, &[], &["b.rs"]),
            other("test", 2, &[1], &[]),
        ];
        assert_eq!(outdated_by(&twins, &[], "a.rs"), ["one", "test"]);
        assert!(outdated_by(&twins, &[], "x").is_empty());
    }

    #[test]
    fn inputs_are_known_by_any_of_their_names() {
        let places = Places {
            worktree: Path::new("/pool/slots/1/w"),
            canonical: Path::new("/pool/cache/worktree"),
            target: Path::new("/pool/slots/1/w/target"),
        };
        let names: HashSet<Input> = names(Path::new("a/src/lib.rs")).collect();
        let concerns = |input: &str| Input::new(Path::new(input), &places).is_among(&names);
        for input in [
            "a/src/lib.rs",
            "./a/src/lib.rs",
            "src/lib.rs",
            "src",
            "a",
            "",
            ".",
            "../b/x.rs",
            "/pool/slots/1/w/a/src/lib.rs",
            "/pool/slots/1/w/a",
            "/pool/cache/worktree/a/src",
            "/elsewhere/../pool/slots/1/w/a",
        ] {
            assert!(concerns(input), "{input}");
        }
        for input in ["b/src/lib.rs", "lib", "/pool/slots/1/w/b", "/registry/a/src/lib.rs"] {
            assert!(!concerns(input), "{input}");
        }
    }
}
