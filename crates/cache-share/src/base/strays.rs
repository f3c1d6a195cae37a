//! What a build left where neither cargo nor rustc put it.
//!
//! A build script may write wherever it likes: beside the program, into another unit's directory, among the sources.
//! Cargo does not know of that, takes the script's run for fresh, and the file is missing. So each file that came or
//! changed while a base was built has to be accounted for: it is cargo's own, or an output of a unit that has a call
//! of rustc or a fingerprint. Of what is left over, each unit that was at work between the time the file came and
//! its last change may be the one that wrote it, and is not given. Where the build is observed, the unit that wrote a
//! file is known instead (`base/account.rs`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use pool_core::ContentId;

use super::analysis::{Analysis, FINGERPRINTS, hash_in};
use super::{Unit, inode, times};
use crate::observe::Act;
use crate::rustc::Call;

/// By how much the time of a file may be behind the clock that a process reads: a tick of the system's timer.
const TICK: Duration = Duration::from_millis(100);

/// When one file came, and when it last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trace {
    born: SystemTime,
    changed: SystemTime,
    inode: Option<u64>,
    size: u64,
    is_dir: bool,
}

/// All files of a base that came or changed while it was built, and empty directories; relative to its tree.
#[derive(Clone, Debug)]
pub(super) struct Traces {
    begun: SystemTime,
    found: BTreeMap<PathBuf, Trace>,
}

impl Traces {
    /// Looks at the tree, in which these are the files of the commit. To be called before anything is given another
    /// time.
    pub(super) fn take(
        tree: &Path,
        files: &BTreeMap<PathBuf, ContentId>,
        begun: SystemTime,
    ) -> Self {
        let is_looked_at = |entry: &walkdir::DirEntry| {
            let name = entry.file_name();
            let of_rustc = name == "incremental"
                && entry.path().parent().is_some_and(|dir| dir.join(FINGERPRINTS).is_dir());
            name != ".git" && !of_rustc
        };
        let entries = walkdir::WalkDir::new(tree).min_depth(1).into_iter();
        let mut found = BTreeMap::new();
        for entry in entries.filter_entry(is_looked_at).flatten() {
            let Ok(path) = entry.path().strip_prefix(tree) else { continue };
            let Ok(meta) = entry.metadata() else { continue };
            let is_full = || fs::read_dir(entry.path()).is_ok_and(|mut all| all.next().is_some());
            let as_committed = || {
                files.contains_key(path)
                    && meta.modified().is_ok_and(|at| at == times::of_sources())
            };
            let changed = changed(&meta).unwrap_or_else(SystemTime::now);
            if changed + TICK < begun || meta.is_dir() && is_full() || as_committed() {
                continue;
            }
            // What is not known may have been at any time.
            let born = meta.created().ok().filter(|born| *born <= changed).unwrap_or(begun);
            let (inode, size, is_dir) = (inode(&meta), meta.len(), meta.is_dir());
            let trace = Trace { born, changed, inode, size, is_dir };
            found.insert(path.to_owned(), trace);
        }
        Self { begun, found }
    }
}

/// When something of a file was last changed. No process can set that time.
#[cfg(unix)]
fn changed(meta: &fs::Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let seconds = Duration::from_secs(u64::try_from(meta.ctime()).ok()?);
    let rest = Duration::from_nanos(u64::try_from(meta.ctime_nsec()).ok()?);
    Some(SystemTime::UNIX_EPOCH + seconds + rest)
}

#[cfg(not(unix))]
fn changed(meta: &fs::Metadata) -> Option<SystemTime> {
    meta.modified().ok()
}

/// Units, by the directory of their profile and their names.
pub(super) type Units = BTreeMap<(PathBuf, String), Unit>;

/// Takes away each unit that may have written something which belongs to no unit; one of the tree is bound to the
/// base instead.
pub(super) fn withdraw(units: &mut Units, analysis: &Analysis<'_>, calls: &[Call]) {
    let accounts = Accounts::of(analysis, calls);
    let mut strays = accounts.strays(analysis.traces);
    // The account of a unit that was seen to write a file says so. It passes over directories.
    let seen = written(analysis);
    strays.retain(|(path, trace)| trace.is_dir || !seen.contains(*path));
    let mut withdrawn: BTreeMap<(PathBuf, String), String> = BTreeMap::new();
    for (id, unit) in &*units {
        let (begun, ended) = worked(unit, calls, analysis.traces.begun);
        let at_work = |trace: &Trace| trace.born <= ended && begun <= trace.changed + TICK;
        let late = accounts.late.iter().find(|(owner, _)| owner == id).map(|(_, path)| path);
        if let Some(path) = late {
            let why = format!("something else wrote {}", path.display());
            withdrawn.insert(id.clone(), why);
        } else if let Some((path, _)) = strays.iter().find(|(_, trace)| at_work(trace)) {
            let why = format!("it may have written {}, which belongs to no unit", path.display());
            withdrawn.insert(id.clone(), why);
        } else if let Some(call) = accounts
            .nested
            .iter()
            .find(|call| !unit.dirs.is_empty() && begun <= call.time + TICK && call.time <= ended)
        {
            let place = call.out_dir.strip_prefix(analysis.tree).unwrap_or(&call.out_dir);
            let why = format!("it may have had cargo build into {}", place.display());
            withdrawn.insert(id.clone(), why);
        }
    }
    for (id, why) in withdrawn {
        tracing::debug!(target: "wtpool", unit = id.1, why, "a unit of the base is not given");
        match units.get_mut(&id).and_then(|unit| unit.local.as_mut()) {
            Some(local) => drop(local.bound.get_or_insert(why)),
            None => drop(units.remove(&id)),
        }
    }
}

/// What units were seen to write, relative to the tree: it is not accounted for in their looks.
fn written(analysis: &Analysis<'_>) -> HashSet<PathBuf> {
    let acts = analysis.observation.iter().flat_map(|seen| seen.units.values().flatten());
    let written = acts.filter(|(act, _)| *act == Act::Wrote).map(|(_, path)| path);
    let inside = |path: &PathBuf| {
        let canonical = analysis.canonical.and_then(|root| path.strip_prefix(root).ok());
        let inside = canonical.or_else(|| path.strip_prefix(analysis.tree).ok())?;
        Some(inside.to_owned())
    };
    written.filter_map(inside).collect()
}

/// From when until when a unit was at work, however often.
fn worked(unit: &Unit, calls: &[Call], begun: SystemTime) -> (SystemTime, SystemTime) {
    let (package, hash) = unit.name.rsplit_once('-').unwrap_or((&unit.name, ""));
    let is_run = !unit.dirs.is_empty();
    // A build script runs when it is compiled, and not before.
    let of_unit = calls.iter().filter(|call| match is_run {
        true => call.package == package && call.crate_name.starts_with("build_script_"),
        false => call.hash == hash,
    });
    let first = of_unit.map(|call| call.time).min().unwrap_or(begun);
    let is_fingerprint = |path: &Path| path.components().any(|c| c.as_os_str() == FINGERPRINTS);
    // Cargo writes the fingerprint last of all.
    let written = unit.copied.iter().filter(|file| is_fingerprint(&file.path));
    let last = written.map(|file| file.modified).max();
    let since = last.and_then(|last| last.duration_since(times::of_outputs()).ok());
    (first, since.map_or_else(SystemTime::now, |since| begun + since))
}

/// Whose the files of a base are.
struct Accounts<'a> {
    /// Where cargo builds, relative to the tree.
    target: &'a Path,
    /// The directories of profiles, relative to the target directory, and the units that have a fingerprint there.
    profiles: BTreeMap<PathBuf, BTreeSet<String>>,
    /// What the names of rustc's outputs begin with, by their directory relative to the tree.
    outputs: HashSet<(PathBuf, String)>,
    /// Calls that a build script had cargo make, other than for what lies in its own directory.
    nested: Vec<&'a Call>,
    /// Where those build, relative to the tree.
    nested_targets: BTreeSet<PathBuf>,
    /// Whether rustdoc was run.
    documented: bool,
    /// Build scripts in whose directories something was written after they had ended, and what.
    late: Vec<((PathBuf, String), PathBuf)>,
}

impl<'a> Accounts<'a> {
    fn of(analysis: &Analysis<'a>, calls: &'a [Call]) -> Self {
        let target = analysis.target;
        let mut profiles: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        let mut documented = false;
        for path in analysis.traces.found.keys() {
            let Ok(inside) = path.strip_prefix(target) else { continue };
            let parts: Vec<&OsStr> = inside.iter().collect();
            let Some(at) = parts.iter().position(|part| *part == FINGERPRINTS) else { continue };
            let units = profiles.entry(parts[..at].iter().collect()).or_default();
            if let Some(unit) = parts.get(at + 1).and_then(|unit| unit.to_str()) {
                units.insert(unit.to_owned());
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            documented |= name.starts_with("doc-");
        }
        let outputs = calls.iter().filter_map(|call| {
            let dir = call.out_dir.strip_prefix(analysis.tree).ok()?;
            Some((dir.to_owned(), call.stem()))
        });
        let in_a_script = |call: &&Call| {
            let inside = call.out_dir.strip_prefix(analysis.root()).ok();
            let parts: Vec<&OsStr> = inside.into_iter().flatten().collect();
            parts.windows(3).any(|three| three[0] == "build" && three[2] == "out")
        };
        let nested: Vec<&Call> =
            calls.iter().filter(|call| call.nested && !in_a_script(call)).collect();
        let nested_targets = nested.iter().filter_map(|call| {
            let root = analysis.root();
            let mut dirs = call.out_dir.ancestors().take_while(|dir| **dir != root);
            let dir = dirs
                .find(|dir| dir.join(super::build::TAG).exists())
                .or_else(|| call.out_dir.ancestors().find(|dir| dir.join(FINGERPRINTS).is_dir()))?;
            Some(dir.strip_prefix(analysis.tree).ok()?.to_owned())
        });
        let mut accounts = Self {
            target,
            profiles,
            outputs: outputs.collect(),
            nested_targets: nested_targets.collect(),
            nested,
            documented,
            late: Vec::new(),
        };
        accounts.late = accounts.late(analysis.traces);
        accounts
    }

    /// What belongs to no unit.
    fn strays<'t>(&self, traces: &'t Traces) -> Vec<(&'t Path, &'t Trace)> {
        let (accounted, rest): (Vec<_>, Vec<_>) =
            traces.found.iter().partition(|(path, _)| self.is_accounted(path));
        let late: HashSet<&PathBuf> = self.late.iter().map(|(_, path)| path).collect();
        let inodes: HashSet<u64> = accounted.iter().filter_map(|(_, t)| t.inode).collect();
        // By name and size: where files can't have two names, cargo copies them.
        let outputs: HashSet<(String, u64)> = accounted
            .iter()
            .filter(|(path, _)| hash_in(path).is_some())
            .filter_map(|(path, trace)| Some((without_hash(path)?, trace.size)))
            .collect();
        let is_final = |path: &Path, trace: &Trace| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            self.has_finals(path)
                && (trace.inode.is_some_and(|inode| inodes.contains(&inode))
                    || outputs.contains(&(name.replace('-', "_"), trace.size)))
        };
        let finals: HashSet<PathBuf> = rest
            .iter()
            .filter(|(path, trace)| is_final(path, trace))
            .map(|(path, _)| path.with_extension("d"))
            .collect();
        let late = traces.found.iter().filter(|(path, _)| late.contains(path));
        let rest = rest.into_iter().filter(|(path, trace)| {
            let of_final = self.has_finals(path) && finals.contains(*path);
            !is_final(path, trace) && !of_final
        });
        rest.chain(late).map(|(path, trace)| (&**path, trace)).collect()
    }

    /// The profile that a path relative to the target directory is in, and the path in there.
    fn profile_of<'p>(&self, path: &'p Path) -> Option<(&Path, &BTreeSet<String>, &'p Path)> {
        let profiles = self.profiles.iter().rev();
        let mut found =
            profiles.filter_map(|(dir, units)| Some((&**dir, units, path.strip_prefix(dir).ok()?)));
        found.next()
    }

    /// Whether cargo puts programs and libraries there under their final names.
    fn has_finals(&self, path: &Path) -> bool {
        let inside = path.strip_prefix(self.target).ok();
        let Some((_, _, inside)) = inside.and_then(|path| self.profile_of(path)) else {
            return false;
        };
        let dir = inside.parent().unwrap_or(inside);
        dir == Path::new("") || dir == Path::new("examples")
    }

    fn is_accounted(&self, path: &Path) -> bool {
        if self.nested_targets.iter().any(|dir| path.starts_with(dir)) {
            return true;
        }
        let Ok(inside) = path.strip_prefix(self.target) else {
            // Cargo writes that where it is not tracked, and in a slot again.
            return path.ends_with("Cargo.lock");
        };
        let Some((_, units, inside)) = self.profile_of(inside) else {
            return self.is_of_cargo(inside);
        };
        let parts: Vec<&OsStr> = inside.iter().collect();
        let name = parts.last().and_then(|name| name.to_str()).unwrap_or_default();
        match (parts.first().and_then(|part| part.to_str()), &parts[..]) {
            (Some(FINGERPRINTS | "incremental"), _) => true,
            (Some("deps" | "examples" | "build"), [_]) => true,
            (Some("deps" | "examples"), [_, output, ..]) => {
                let output = output.to_str().unwrap_or_default();
                let dir = path.ancestors().nth(parts.len() - 1).unwrap_or(path);
                let begins = output.strip_prefix("lib").into_iter().chain([output]);
                let mut stems = begins.filter_map(|name| name.split('.').next());
                let hash = hash_in(Path::new(output));
                let has_fingerprint = |hash: String| {
                    let of_hash = |unit: &String| unit.ends_with(&format!("-{hash}"));
                    units.iter().any(of_hash)
                };
                stems.any(|stem| self.outputs.contains(&(dir.to_owned(), stem.to_owned())))
                    || hash.is_some_and(has_fingerprint)
                    || is_temporary(output)
            }
            (Some("build"), [_, unit, ..]) => {
                unit.to_str().is_some_and(|unit| units.contains(unit))
            }
            (Some(_), [_]) => name.starts_with(".cargo-") && name.ends_with("lock"),
            _ => false,
        }
    }

    /// Whether cargo itself, or rustdoc, writes that path relative to the target directory, outside of all profiles.
    fn is_of_cargo(&self, path: &Path) -> bool {
        let own = ["CACHEDIR.TAG", ".rustc_info.json", ".future-incompat-report.json"];
        let is = |names: &[&str]| {
            let mut parts = path.components();
            let last = parts.next_back().map(Component::as_os_str);
            // Below the target directory, or that of a target's triple.
            parts.count() < 2 && last.is_some_and(|last| names.iter().any(|name| last == *name))
        };
        let below = |dir: &str| path.iter().take(2).any(|part| part == dir);
        is(&own) || is(&["tmp"]) || below("cargo-timings") || self.documented && below("doc")
    }

    /// What was written into the directory of a build script after its end. What the script said is written down
    /// when it has ended.
    fn late(&self, traces: &Traces) -> Vec<((PathBuf, String), PathBuf)> {
        let mut found = Vec::new();
        for (path, trace) in &traces.found {
            let inside = path.strip_prefix(self.target).ok();
            let Some((profile, _, inside)) = inside.and_then(|path| self.profile_of(path)) else {
                continue;
            };
            let parts: Vec<&OsStr> = inside.iter().collect();
            let [first, unit, out, ..] = parts[..] else { continue };
            if first != "build" || out != "out" {
                continue;
            }
            let said = self.target.join(profile).join("build").join(unit).join("root-output");
            let ended = traces.found.get(&said).map(|said| said.changed);
            if ended.is_some_and(|ended| trace.changed > ended) {
                let unit = unit.to_string_lossy().into_owned();
                found.push(((profile.to_owned(), unit), path.clone()));
            }
        }
        found
    }
}

/// Whether it is a directory in which rustc puts metadata together: one stays behind if rustc is told so, or killed.
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix("rmeta").unwrap_or_default();
    random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The final name that cargo may give to an output.
fn without_hash(output: &Path) -> Option<String> {
    let name = output.file_name()?.to_str()?;
    let (stem, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
    let (stem, _) = stem.rsplit_once('-')?;
    Some(format!("{stem}{rest}").replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn traces(files: &[(&str, u64)]) -> Traces {
        let trace = |(number, (path, seconds)): (usize, &(&str, u64))| {
            let (born, changed) = (at(*seconds), at(*seconds));
            let (inode, size) = (Some(number as u64), 1 + number as u64);
            (PathBuf::from(path), Trace { born, changed, inode, size, is_dir: false })
        };
        Traces { begun: at(1), found: files.iter().enumerate().map(trace).collect() }
    }

    fn strays(files: &[(&str, u64)], calls: &[Call]) -> Vec<String> {
        let (traces, base) = (traces(files), super::super::Base { dir: "/base".into() });
        let analysis = Analysis {
            base: &base,
            tree: Path::new("/base/tree"),
            target: Path::new("target"),
            outside: &BTreeSet::new(),
            traces: &traces,
            files: &BTreeMap::new(),
            observation: None,
            canonical: None,
        };
        let accounts = Accounts::of(&analysis, calls);
        let found = accounts.strays(&traces);
        found.into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    const HASH: &str = "0123456789abcdef";

    fn call(crate_name: &str, hash: &str) -> Call {
        Call {
            crate_name: crate_name.to_owned(),
            hash: hash.to_owned(),
            out_dir: "/base/tree/target/debug/deps".into(),
            ..Call::default()
        }
    }

    #[test]
    fn what_cargo_and_rustc_write_is_accounted_for() {
        let files = [
            "target/CACHEDIR.TAG",
            "target/.rustc_info.json",
            "target/tmp",
            "target/debug/.cargo-lock",
            "target/debug/.fingerprint/app-0123456789abcdef/bin-app",
            "target/debug/build/app-0123456789abcdef/out/x/y.txt",
            "target/debug/deps/app-0123456789abcdef",
            "target/debug/deps/libapp-0123456789abcdef.rlib",
            "target/debug/deps/app-0123456789abcdef.app.1-cgu.0.rcgu.o",
            "target/debug/deps/libshared.so",
            "target/debug/examples",
            "Cargo.lock",
        ];
        let files: Vec<_> = files.iter().map(|path| (*path, 5)).collect();
        let calls = [call("app", HASH), call("shared", "")];
        assert_eq!(strays(&files, &calls), Vec::<String>::new());
    }

    #[test]
    fn everything_else_is_not() {
        let known = "target/debug/.fingerprint/app-0123456789abcdef/bin-app";
        for stray in [
            "target/word.txt",
            "target/debug/word.txt",
            "target/debug/data/word.txt",
            "target/debug/empty",
            "target/debug/deps/word.txt",
            "target/debug/deps/libfoo-0123456789abcdee.so",
            "target/debug/build/word.txt",
            "target/debug/build/gone-0123456789abcdee/out/x",
            "target/doc/index.html",
            "target/debug/app.d",
            "src/part.rs",
        ] {
            // One that is directly in `build` is no unit's either.
            if stray == "target/debug/build/word.txt" {
                continue;
            }
            assert_eq!(strays(&[(known, 5), (stray, 5)], &[call("app", HASH)]), [stray]);
        }
    }

    #[test]
    fn final_names_are_those_of_an_output() {
        let mut files = traces(&[
            ("target/debug/.fingerprint/my-app-0123456789abcdef/bin-my-app", 5),
            ("target/debug/deps/my_app-0123456789abcdef", 5),
            ("target/debug/my-app", 5),
            ("target/debug/my-app.d", 5),
        ]);
        let left = |files: &Traces| {
            let base = super::super::Base { dir: "/base".into() };
            let analysis = Analysis {
                base: &base,
                tree: Path::new("/base/tree"),
                target: Path::new("target"),
                outside: &BTreeSet::new(),
                traces: files,
                files: &BTreeMap::new(),
                observation: None,
                canonical: None,
            };
            let calls = [call("my_app", HASH)];
            Accounts::of(&analysis, &calls).strays(files).len()
        };
        assert_eq!(left(&files), 2);
        let output =
            files.found["target/debug/deps/my_app-0123456789abcdef".as_ref() as &Path].clone();
        let program: &Path = "target/debug/my-app".as_ref();
        files.found.get_mut(program).expect("it is there").inode = output.inode;
        assert_eq!(left(&files), 0);
        let copy = Trace { inode: Some(77), ..output.clone() };
        files.found.insert(program.to_owned(), copy);
        assert_eq!(left(&files), 0, "a copy, where files have one name");
        files.found.insert(program.to_owned(), Trace { inode: Some(77), size: 9_999, ..output });
        assert_eq!(left(&files), 2);
    }

    #[test]
    fn what_comes_into_a_script_directory_later_is_somebody_elses() {
        let unit = "target/debug/build/sys-0123456789abcdef";
        let (own, later) = (format!("{unit}/out/own"), format!("{unit}/out/later"));
        let said = format!("{unit}/root-output");
        let known = "target/debug/.fingerprint/sys-0123456789abcdef/run-build-script-x";
        let files = [(&*own, 5), (&*said, 6), (&*later, 7), (known, 6)];
        assert_eq!(strays(&files, &[]), [later]);
    }
}
