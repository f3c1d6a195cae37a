//! Giving a slot that is used again what the base has of it once more.
//!
//! Whatever its last holder changed was written again when the worktree was reset, so cargo would build anew
//! all that was made from it, although the sources are those of the base again. Instead, the base's units take
//! the place of the holder's, and the sources get their old times back. Those old times would also have
//! cargo believe in whatever else the holder built from the changed files, or from what was made of
//! them: tests, other profiles, what the base lacks. All of that is told apart by what rustc and cargo
//! wrote down, and cargo's fingerprint of it is removed. What can't be told apart is built again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use pool_core::{Error, Result};
use serde::Deserialize;

use crate::base::{self, Base, Manifest, Unit};
use crate::depinfo;
use crate::files;
use crate::seed::{self, Decision, Seeded};

/// What there is while a slot's target is neither what it was nor what it will be.
const UNFINISHED: &str = ".renewing";

/// What is to be done in a slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// Units that take the place of what the slot has.
    pub(crate) given: Vec<&'a Unit>,
    /// Directories of fingerprints, relative to the target directory, that are not to be believed.
    pub(crate) outdated: Vec<PathBuf>,
    /// The times of the files that came back.
    pub(crate) times: BTreeMap<PathBuf, SystemTime>,
}

/// A unit in a slot's target that does not come from the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Other {
    /// The directory of its fingerprint, relative to the target directory.
    dir: PathBuf,
    fingerprint: Fingerprint,
}

/// What cargo wrote down of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    /// The value by which units that depend on it name it.
    value: Option<u64>,
    /// The values of the units it depends on.
    dependencies: Vec<u64>,
    /// What it was made from, in full or relative to something; `None` where that is not known.
    inputs: Option<Vec<PathBuf>>,
}

/// Where a worktree is, and where else its files may be said to be.
pub(crate) struct Places<'a> {
    pub(crate) worktree: &'a Path,
    pub(crate) canonical: &'a Path,
    pub(crate) target: &'a Path,
}

/// Finds out what is to be done in a slot that begins as was decided, if anything is: files of the base came
/// back, and have other times. `undated` are files that never have the base's.
///
/// # Errors
///
/// When the target directory can't be read.
pub(crate) fn plan<'a>(
    decision: &Decision<'a>,
    places: &Places<'_>,
    undated: &BTreeSet<PathBuf>,
) -> io::Result<Option<Plan<'a>>> {
    let returned = differently_dated(&decision.times, places.worktree);
    let times: BTreeMap<PathBuf, SystemTime> =
        returned.into_iter().filter(|(path, _)| !undated.contains(path)).collect();
    if times.is_empty() {
        return Ok(None);
    }
    let target = places.target;
    let is_intact = |unit: &&Unit| unit.files().all(|file| file.is_intact(target));
    let (kept, given): (Vec<_>, Vec<_>) = decision.units.iter().copied().partition(is_intact);
    let of_base = decision.units.iter().filter_map(|unit| fingerprint_dir(unit));
    let of_base: BTreeSet<&Path> = of_base.collect();
    let believed = kept.iter().filter_map(|unit| fingerprint_dir(unit));
    let believed = believed.flat_map(|dir| values(&target.join(dir))).collect();
    let others = others(target, &of_base)?;
    let came_back = |input: &Path| times.keys().any(|path| concerns(input, path, places));
    let outdated = outdated(&others, &believed, came_back);
    Ok(Some(Plan { given, outdated, times }))
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

/// Whether an input is that file, or a directory that it is in. Of relative paths it is not known what they are
/// relative to. Pure.
fn concerns(input: &Path, file: &Path, places: &Places<'_>) -> bool {
    if input.is_absolute() {
        let inside = input
            .strip_prefix(places.worktree)
            .or_else(|_| input.strip_prefix(places.canonical))
            .map(|inside| file.starts_with(inside) || has_parents(inside));
        // What is elsewhere may still come back here.
        return inside.unwrap_or_else(|_| has_parents(input));
    }
    let plain: PathBuf = input.components().filter(|part| *part != Component::CurDir).collect();
    has_parents(&plain)
        || plain.as_os_str().is_empty()
        || file.ancestors().any(|path| path.ends_with(&plain))
}

fn has_parents(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// Which of the other units cargo must not take for fresh: those of which it is not known what they were made
/// from; which were made from something that came back; or which depend on something that is neither
/// believed nor one of those that may be. Pure.
fn outdated(
    others: &[Other],
    believed: &BTreeSet<u64>,
    came_back: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let is_clean = |other: &Other| {
        other.fingerprint.inputs.as_ref().is_some_and(|inputs| !inputs.iter().any(|i| came_back(i)))
    };
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

/// Where cargo keeps fingerprints, in the directory of each profile.
pub(crate) const FINGERPRINTS: &str = ".fingerprint";

/// All units of a target directory but those whose fingerprints are in `known`.
fn others(target: &Path, known: &BTreeSet<&Path>) -> io::Result<Vec<Other>> {
    let mut found = Vec::new();
    for profile in profiles(target)? {
        let mut written: Option<HashMap<String, PathBuf>> = None;
        for dir in subdirectories(&target.join(&profile).join(FINGERPRINTS))? {
            let dir = profile.join(FINGERPRINTS).join(dir);
            if known.contains(&*dir) {
                continue;
            }
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(dep_infos(&target.join(&profile))?),
            };
            let inputs = base::hash_in(&dir).and_then(|hash| written.get(&hash)).map(fs::read);
            let inputs = inputs.transpose()?.map(|text| depinfo::parse(&text).inputs);
            let fingerprint = read(&target.join(&dir), inputs).unwrap_or_default();
            found.push(Other { dir, fingerprint });
        }
    }
    Ok(found)
}

/// The directories in which cargo builds, relative to the target directory: `debug`, say, or a target's triple
/// and that.
pub(crate) fn profiles(target: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for outer in subdirectories(target)? {
        let nested = subdirectories(&target.join(&outer))?.into_iter();
        found.extend(nested.map(|inner| outer.join(inner)));
        found.push(outer);
    }
    found.retain(|dir| target.join(dir).join(FINGERPRINTS).is_dir());
    Ok(found)
}

/// The names of the directories in a directory; none if there is no such directory.
pub(crate) fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.file_name().into());
        }
    }
    Ok(found)
}

/// What rustc wrote of what it read, by the hash of the unit.
pub(crate) fn dep_infos(profile: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let mut dirs = vec![profile.join("deps"), profile.join("examples")];
    let build = profile.join("build");
    dirs.extend(subdirectories(&build)?.into_iter().map(|dir| build.join(dir)));
    let mut found = HashMap::new();
    for entry in dirs.iter().flat_map(fs::read_dir).flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "d")
            && let Some(hash) = path.file_name().and_then(|name| base::hash_in(name.as_ref()))
        {
            found.insert(hash, path);
        }
    }
    Ok(found)
}

/// The part of what cargo writes beside a fingerprint, for people, that matters here (`Fingerprint` in its
/// `core::compiler::fingerprint`).
#[derive(Deserialize)]
struct Written {
    deps: Vec<(u64, String, bool, u64)>,
    local: Vec<LocalPart>,
}

#[derive(Deserialize)]
enum LocalPart {
    Precalculated(String),
    CheckDepInfo {},
    RerunIfChanged { paths: Vec<PathBuf> },
    RerunIfEnvChanged {},
}

/// What is known of the unit whose fingerprint is in `dir`, and of which rustc wrote that it was made from
/// `compiled`; `None` if that is not enough.
fn read(dir: &Path, compiled: Option<Vec<PathBuf>>) -> Option<Fingerprint> {
    let [json] = &descriptions(dir)[..] else { return None };
    let written: Written = serde_json::from_slice(&fs::read(json).ok()?).ok()?;
    let mut inputs = Vec::new();
    for part in written.local {
        match part {
            // A version, which never changes, or the time of the newest file.
            LocalPart::Precalculated(text) if text.contains("s (") => return None,
            LocalPart::Precalculated(_) | LocalPart::RerunIfEnvChanged {} => {}
            LocalPart::CheckDepInfo {} => inputs.extend(compiled.clone()?),
            LocalPart::RerunIfChanged { paths } => inputs.extend(paths),
        }
    }
    Some(Fingerprint {
        value: value(&json.with_extension("")),
        dependencies: written.deps.into_iter().map(|(_, _, _, value)| value).collect(),
        inputs: Some(inputs),
    })
}

pub(crate) fn descriptions(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}

/// The values of the fingerprints in a directory.
fn values(dir: &Path) -> Vec<u64> {
    descriptions(dir).iter().filter_map(|json| value(&json.with_extension(""))).collect()
}

/// The value of a fingerprint: cargo writes its bytes, least first, in hexadecimal digits.
fn value(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let bytes = (text.len() == 16).then(|| u64::from_str_radix(&text, 16).ok())?;
    bytes.map(u64::swap_bytes)
}

/// Removes a slot's target if somebody who was at it did not end it.
///
/// # Errors
///
/// When it can't be removed.
pub(crate) fn recover(slot_dir: &Path, target: &Path) -> Result<()> {
    if !slot_dir.join(UNFINISHED).exists() {
        return Ok(());
    }
    seed::discard(target)?;
    end(slot_dir)
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
    let mut files = plan.given.iter().flat_map(|unit| unit.files());
    if let Some(file) = files.find(|file| !file.is_intact(&from)) {
        let damage = format!("{} is not what it was", from.join(&file.path).display());
        return Ok(Seeded { damage: Some(damage), ..Seeded::default() });
    }
    let begun = slot_dir.join(UNFINISHED);
    files::write(&begun, b"").map_err(|e| Error::io(format!("write {}", begun.display()), e))?;
    for dir in plan.outdated.iter().map(|dir| target.join(dir)) {
        for fingerprint in descriptions(&dir) {
            remove(&fingerprint.with_extension(""))?;
        }
    }
    for unit in &plan.given {
        fingerprint_dir(unit).map_or(Ok(()), |dir| seed::discard(&target.join(dir)))?;
        unit.dirs.iter().try_for_each(|dir| seed::discard(&target.join(dir)))?;
        unit.files().try_for_each(|file| remove(&target.join(&file.path)))?;
    }
    seed::fill(base, manifest, &plan.given, target)
        .map_err(|(path, e)| Error::io(format!("seed {}", path.display()), e))
}

fn remove(file: &Path) -> Result<()> {
    files::remove(file).map_err(|e| Error::io(format!("remove {}", file.display()), e))
}

/// Says that the slot's target can be used, or that there is none any more.
///
/// # Errors
///
/// When that can't be said.
pub(crate) fn end(slot_dir: &Path) -> Result<()> {
    remove(&slot_dir.join(UNFINISHED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str, value: u64, dependencies: &[u64], inputs: &[&str]) -> Other {
        let inputs = Some(inputs.iter().map(PathBuf::from).collect());
        let dependencies = dependencies.to_vec();
        let fingerprint = Fingerprint { value: Some(value), dependencies, inputs };
        Other { dir: name.into(), fingerprint }
    }

    fn outdated_by(others: &[Other], believed: &[u64], came_back: &str) -> Vec<String> {
        let believed = believed.iter().copied().collect();
        let found = outdated(others, &believed, |input| input == Path::new(came_back));
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
        let unknown = Other { dir: "doc".into(), fingerprint: Fingerprint::default() };
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
        let concerns = |input: &str| concerns(Path::new(input), Path::new("a/src/lib.rs"), &places);
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

    #[test]
    fn fingerprints_are_read_as_cargo_writes_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("written");
        };
        write("lib-a", "49a6e71761674e87");
        write("dep-lib-a", "");
        let json = |local: &str| {
            write(
                "lib-a.json",
                &format!(
                    "{{\"rustc\":7,\"deps\":[[1680466948137670546,\"core_detect\",false,\
                     802111572846038113]],\"local\":[{local}],\"rustflags\":[]}}"
                ),
            );
        };
        json("{\"CheckDepInfo\":{\"dep_info\":\"debug/x\",\"checksum\":false}}");
        assert_eq!(read(dir.path(), None), None, "it is not known what it was made from");
        let inputs = vec![PathBuf::from("src/lib.rs")];
        let found = read(dir.path(), Some(inputs.clone())).expect("it is understood");
        assert_eq!(found.value, Some(0x874e_6761_17e7_a649));
        assert_eq!(found.dependencies, [802_111_572_846_038_113]);
        assert_eq!(found.inputs, Some(inputs));
        json("{\"RerunIfChanged\":{\"output\":\"x\",\"paths\":[\"build.rs\"]}}");
        let found = read(dir.path(), None).expect("it is understood");
        assert_eq!(found.inputs, Some(vec!["build.rs".into()]));
        json("{\"Precalculated\":\"1.0.0\"}");
        assert_eq!(read(dir.path(), None).expect("it is understood").inputs, Some(Vec::new()));
        for unknown in ["{\"Precalculated\":\"347155200.0s (GUIDE.md)\"}", "{\"Later\":{}}"] {
            json(unknown);
            assert_eq!(read(dir.path(), None), None, "{unknown}");
        }
    }
}
