//! What of a base's target directory belongs to which unit, and where else that would be valid.
//!
//! Which units there are is what cargo told rustc's wrapper: the hash, the package, where its manifest is,
//! and where the outputs go. What a unit was made from is what rustc wrote down.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::env::consts;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use pool_core::{ContentId, Error, ErrorKind, Result};

use super::account::{Account, Accountant, Places, Table};
use super::strays::{self, Traces, Units};
use super::{Base, Local, Unit, elf, inode};
use crate::cargo::Workspace;
use crate::confine;
use crate::depinfo;
use crate::files::{self, Link, Recorded};
use crate::observe::{self, Observation};
use crate::rustc::Call;

/// Where the target directory is, relative to the tree.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] when it is not in the tree, or when intermediate files go elsewhere.
pub(super) fn target_of(workspace: &Workspace, tree: &Path) -> Result<PathBuf> {
    let unsupported = |what: &str| Err(Error::new(ErrorKind::Unsupported, what.to_owned()));
    if let Some(why) = confine::why_apart(tree) {
        return unsupported(&why);
    }
    if workspace.build != workspace.target {
        return unsupported("the repository's settings name a `build-dir` of its own");
    }
    match workspace.target.strip_prefix(tree) {
        Ok(target) if target != Path::new("") => Ok(target.to_owned()),
        _ => unsupported("the repository's settings place `target` outside of it"),
    }
}

/// Where cargo keeps fingerprints, in the directory of each profile.
pub(super) const FINGERPRINTS: &str = ".fingerprint";

const NAMES_THE_BASE: &str = "the path of the base is in it";

/// What is to be analysed.
pub(super) struct Analysis<'a> {
    pub(super) base: &'a Base,
    pub(super) tree: &'a Path,
    pub(super) target: &'a Path,
    /// Where packages are that may change while nobody knows of it.
    pub(super) outside: &'a BTreeSet<PathBuf>,
    /// The files of the commit.
    pub(super) files: &'a BTreeMap<PathBuf, ContentId>,
    /// What the build looked at, where that can be observed.
    pub(super) observation: Option<&'a Observation>,
    /// Where the tree stands for incremental compilations.
    pub(super) canonical: Option<&'a Path>,
    /// When each file came and changed, before any was given another time.
    pub(super) traces: &'a Traces,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) units: Vec<Unit>,
    /// What they looked at.
    pub(super) looks: Table,
    pub(super) growth: u64,
    /// Where incremental state is, relative to the target directory.
    pub(super) states: Vec<PathBuf>,
}

impl Found {
    /// Whether a unit of the tree says that it was made from that file.
    pub(super) fn is_input(&self, path: &Path) -> bool {
        let local = self.units.iter().filter_map(|unit| unit.local.as_ref());
        local.flat_map(|local| &local.inputs).any(|input| input == path)
    }
}

/// The outputs of one profile and target.
struct Outputs {
    /// Relative to the target directory.
    dir: PathBuf,
    /// By hash: the files below `deps`, `examples` and `build`, relative to the target directory.
    by_hash: HashMap<String, Vec<PathBuf>>,
    /// By inode: the files that bear a final name.
    finals: HashMap<u64, Vec<PathBuf>>,
}

impl Analysis<'_> {
    pub(super) fn root(&self) -> PathBuf {
        self.tree.join(self.target)
    }

    /// All units that slots may have.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when cargo's files are not where they are known to be.
    pub(super) fn units(&self) -> Result<Found> {
        let calls = self.calls()?;
        let included = included(&calls);
        let root = self.root();
        let mut accountant = Accountant::new(Places {
            base: &self.base.dir,
            tree: self.tree,
            target: &root,
            canonical: self.canonical,
            files: self.files,
        });
        let mut outputs: BTreeMap<PathBuf, Outputs> = BTreeMap::new();
        let mut units = Units::new();
        let mut missing = 0;
        let is_known =
            |call: &&Call| !call.hash.is_empty() && !self.outside.contains(&call.manifest_dir);
        for call in calls.iter().filter(is_known) {
            let Some(dir) = self.profile_of(&call.out_dir) else {
                missing += 1;
                continue;
            };
            if !outputs.contains_key(&dir) {
                outputs.insert(dir.clone(), self.outputs(&dir)?);
            }
            let Some(outputs) = outputs.get(&dir) else { continue };
            let name = format!("{}-{}", call.package, call.hash);
            match self.compiled(call, outputs, &name)? {
                Some(mut unit) => {
                    let of = observe::Unit::Compilation(call.hash.clone());
                    unit.account = self.account(&mut accountant, &of, &call.hash);
                    if !self.is_local(call) {
                        unit.bind(self.foreign(call, &unit));
                    }
                    units.insert((dir.clone(), name), unit);
                }
                None => missing += 1,
            }
            if let Some(script) = call.script_out.as_deref().and_then(Path::parent)
                && let Some(name) = script.file_name().and_then(|name| name.to_str())
                && !units.contains_key(&(dir.clone(), name.to_owned()))
                && let Some(mut unit) = self.script_run(call, outputs, script, name, &included)?
            {
                let of = observe::Unit::Script(script.join("out"));
                let hash = hash_in(Path::new(name)).unwrap_or_default();
                unit.account = self.account(&mut accountant, &of, &hash);
                if !self.is_local(call) {
                    unit.bind(self.says_where_it_ran(script));
                }
                units.insert((dir.clone(), name.to_owned()), unit);
            }
        }
        if units.is_empty() && missing > 0 {
            let message = "this cargo lays its files out in a way that is not known here";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("use `cache.strategy = \"private\"` until wtpool knows it"));
        }
        strays::withdraw(&mut units, self, &calls);
        let units: Vec<Unit> = units.into_values().collect();
        let states: Vec<PathBuf> = outputs
            .keys()
            .map(|dir| dir.join("incremental"))
            .filter(|dir| self.root().join(dir).is_dir())
            .collect();
        let growth = self.growth(&units, &states);
        let looks = accountant.into_table();
        Ok(Found { units, looks, growth, states })
    }

    fn calls(&self) -> Result<Vec<Call>> {
        match fs::read_to_string(self.base.calls()) {
            // A line that is not whole was being written when its process died.
            Ok(text) => {
                Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(format!("read {}", self.base.calls().display()), e)),
        }
    }

    /// The directory of the profile that an output directory belongs to, relative to the target directory.
    fn profile_of(&self, out_dir: &Path) -> Option<PathBuf> {
        let root = self.root();
        let mut dirs = out_dir.ancestors().take_while(|dir| **dir != root);
        let dir = dirs.find(|dir| dir.join(FINGERPRINTS).is_dir())?;
        dir.strip_prefix(&root).ok().map(Path::to_owned)
    }

    fn outputs(&self, dir: &Path) -> Result<Outputs> {
        let root = self.root();
        let full = root.join(dir);
        let failed = |e: io::Error| Error::io(format!("read {}", full.display()), e);
        let mut by_hash: HashMap<String, Vec<PathBuf>> = HashMap::new();
        for part in ["deps", "examples", "build"] {
            let found = files::whole_tree(&full.join(part)).map_err(failed)?;
            let links = found.links.into_iter().map(|link| link.path);
            for path in found.files.into_iter().chain(links).chain(found.others) {
                if let Some(hash) = hash_in(&path) {
                    by_hash.entry(hash).or_default().push(dir.join(part).join(&path));
                }
            }
        }
        let mut finals: HashMap<u64, Vec<PathBuf>> = HashMap::new();
        for place in [dir.to_owned(), dir.join("examples")] {
            for entry in fs::read_dir(root.join(&place)).into_iter().flatten().flatten() {
                let path = place.join(entry.file_name());
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_file()
                    && hash_in(&path).is_none()
                    && let Some(inode) = inode(&meta)
                {
                    finals.entry(inode).or_default().push(path);
                }
            }
        }
        Ok(Outputs { dir: dir.to_owned(), by_hash, finals })
    }

    /// A unit that rustc compiled.
    fn compiled(&self, call: &Call, outputs: &Outputs, name: &str) -> Result<Option<Unit>> {
        let root = self.root();
        let Some(fingerprint) = self.fingerprint(outputs, name)? else { return Ok(None) };
        let mut unit = Unit { name: name.to_owned(), ..Unit::default() };
        for path in outputs.by_hash.get(&call.hash).into_iter().flatten() {
            // What only says where things are.
            if path.extension().is_some_and(|extension| extension == "d")
                || path.components().any(|part| part.as_os_str() == "out")
            {
                continue;
            }
            // Rustc makes no links, and no pipes.
            let Ok(file) = Recorded::of(&root, path) else { return Ok(None) };
            let inode = fs::symlink_metadata(root.join(path)).ok().and_then(|meta| inode(&meta));
            let finals = inode.and_then(|inode| outputs.finals.get(&inode));
            let finals = finals.into_iter().flatten();
            let finals: Vec<_> = finals.filter_map(|path| Recorded::of(&root, path).ok()).collect();
            let place = match is_replaced(call, path, !finals.is_empty()) {
                true => &mut unit.shared,
                false => &mut unit.copied,
            };
            place.extend(finals);
            place.push(file);
        }
        for files in [&mut unit.shared, &mut unit.copied] {
            files.sort_by(|a, b| a.path.cmp(&b.path));
            files.dedup();
        }
        if unit.files().next().is_none() {
            return Ok(None);
        }
        unit.local = self.is_local(call).then(|| self.origin(call, unit.files()));
        unit.copied.extend(fingerprint);
        Ok(Some(unit))
    }

    /// What a build script left when it ran.
    fn script_run(
        &self,
        call: &Call,
        outputs: &Outputs,
        script: &Path,
        name: &str,
        included: &HashSet<PathBuf>,
    ) -> Result<Option<Unit>> {
        let root = self.root();
        let Some(mut copied) = self.fingerprint(outputs, name)? else { return Ok(None) };
        let failed = |e: io::Error| Error::io(format!("read {}", script.display()), e);
        let Ok(dir) = script.strip_prefix(&root) else { return Ok(None) };
        let later = written_later(script);
        if later && !self.is_local(call) {
            return Ok(None);
        }
        let said = fs::read(script.join("output")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let archived = match self.is_local(call) {
            false => archived(&script.join("out"), &said),
            true => HashSet::new(),
        };
        let tree = files::whole_tree(script).map_err(failed)?;
        let mut unit = Unit { name: name.to_owned(), ..Unit::default() };
        unit.dirs.push(dir.to_owned());
        unit.dirs.extend(tree.dirs.iter().map(|path| dir.join(path)));
        let links = tree.links.into_iter();
        unit.links.extend(links.map(|link| Link { path: dir.join(link.path), ..link }));
        let leads_out = unit.links.iter().find(|link| !link.stays_in(dir)).map(|link| &link.path);
        if let Some(path) = leads_out.or(tree.others.first()) {
            let place = path.display();
            tracing::debug!(target: "wtpool", name, %place, "its build script made what can't be given");
            return Ok(None);
        }
        for path in tree.files {
            let full = script.join(&path);
            if !archived.contains(&full) || included.contains(&full) {
                copied.push(Recorded::of(&root, &dir.join(path)).map_err(failed)?);
            }
        }
        let local = self.is_local(call).then(|| {
            let told = said.lines().any(|line| {
                let line = line.trim_start_matches("cargo::").trim_start_matches("cargo:");
                line.starts_with("rerun-if-")
            });
            let bound = later.then(|| "something else wrote into its `OUT_DIR`".to_owned());
            let bound = bound.or_else(|| self.says_where_it_ran(script));
            let package = self.package(call);
            Local { package, inputs: Vec::new(), this_commit_only: !told, bound }
        });
        Ok(Some(Unit { local, copied, ..unit }))
    }

    /// What a unit looked at; `None` where builds cannot be observed.
    fn account(
        &self,
        accountant: &mut Accountant<'_>,
        unit: &observe::Unit,
        hash: &str,
    ) -> Option<Account> {
        let acts = self.observation?.units.get(unit);
        Some(match acts {
            Some(acts) => accountant.account(hash, acts),
            None => Account::unknown("what it looked at was not seen"),
        })
    }

    /// Why a unit that is not of the tree is valid in the base only, if it is. Cargo would watch files of
    /// the tree by the paths of the base.
    fn foreign(&self, call: &Call, unit: &Unit) -> Option<String> {
        let root = self.root();
        let info = fs::read(call.dep_info()).map(|text| depinfo::parse(&text)).unwrap_or_default();
        let mut inputs = info.inputs.iter().map(|input| normal(&call.manifest_dir.join(input)));
        let in_tree = |path: &PathBuf| path.starts_with(self.tree) && !path.starts_with(&root);
        if let Some(input) = inputs.find(in_tree) {
            return Some(format!("it includes {}", input.display()));
        }
        let mut outputs = unit.files().map(|file| root.join(&file.path));
        outputs.any(|path| self.names_the_base(&path)).then(|| NAMES_THE_BASE.to_owned())
    }

    /// How the run of a build script told where that was, if it did. Cargo replaces the path of its
    /// directory in what it said.
    fn says_where_it_ran(&self, script: &Path) -> Option<String> {
        let out = script.join("out");
        let said = fs::read(script.join("output")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).replace(&*out.to_string_lossy(), "");
        let mut wrote = files::tree(&out).unwrap_or_default().into_iter();
        if wrote.any(|path| self.names_the_base(&out.join(path))) {
            return Some("its build script wrote down where it ran".to_owned());
        }
        let says = said.contains(&*self.tree.to_string_lossy());
        says.then(|| "its build script says where it ran".to_owned())
    }

    fn fingerprint(&self, outputs: &Outputs, name: &str) -> Result<Option<Vec<Recorded>>> {
        let root = self.root();
        let dir = outputs.dir.join(FINGERPRINTS).join(name);
        if !root.join(&dir).is_dir() {
            return Ok(None);
        }
        let failed = |e: io::Error| Error::io(format!("read {}", root.join(&dir).display()), e);
        let paths = files::tree(&root.join(&dir)).map_err(failed)?;
        paths
            .into_iter()
            .map(|path| Recorded::of(&root, &dir.join(path)).map_err(failed))
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }

    fn is_local(&self, call: &Call) -> bool {
        call.manifest_dir.starts_with(self.tree)
    }

    /// The directory of the package, relative to the tree.
    fn package(&self, call: &Call) -> PathBuf {
        call.manifest_dir.strip_prefix(self.tree).map(Path::to_owned).unwrap_or_default()
    }

    /// What a unit of the tree was made from, and whether it would be the same elsewhere.
    fn origin<'r>(&self, call: &Call, mut outputs: impl Iterator<Item = &'r Recorded>) -> Local {
        let Ok(text) = fs::read(call.dep_info()) else {
            let bound = Some("it is not known what it was made from".to_owned());
            return Local { package: self.package(call), bound, ..Local::default() };
        };
        let info = depinfo::parse(&text);
        let tree = self.tree.to_string_lossy();
        let mut local = Local { package: self.package(call), ..Local::default() };
        for (name, value) in &info.env {
            if value.as_ref().is_some_and(|value| value.contains(&*tree)) {
                local.bound = Some(format!("it contains {name}, which is a path"));
            }
        }
        for input in &info.inputs {
            let path = normal(&self.tree.join(input));
            if path.starts_with(self.root()) {
                local.bound = Some(format!("it includes {}", input.display()));
            } else if let Ok(inside) = path.strip_prefix(self.tree) {
                if !path.starts_with(&call.manifest_dir) {
                    local.bound =
                        Some(format!("it includes {}, outside of its package", input.display()));
                }
                local.inputs.push(inside.to_owned());
            }
        }
        if outputs.any(|file| self.names_the_base(&self.root().join(&file.path))) {
            local.bound.get_or_insert_with(|| NAMES_THE_BASE.to_owned());
        }
        local
    }

    /// Whether the base's path is somewhere in a file.
    fn names_the_base(&self, file: &Path) -> bool {
        let needle = self.tree.as_os_str().as_encoded_bytes();
        fs::read(file).map_or(true, |bytes| memchr::memmem::find(&bytes, needle).is_some())
    }

    /// By about how much a slot grows that edits one crate and builds. Of the incremental state that it got, rustc
    /// writes anew what it knows of the crate, and the code that changed. The crate that most is known of
    /// counts: mostly the program's, which any change compiles again. Besides, the largest program is linked. Copies
    /// of the others are the slot's own from the beginning.
    fn growth(&self, units: &[Unit], states: &[PathBuf]) -> u64 {
        let crates = states.iter().flat_map(|dir| fs::read_dir(self.root().join(dir)));
        let sessions = crates.flatten().flatten().map(|state| session(&state.path()));
        let mut counted = HashSet::new();
        let (mut copies, mut largest) = (0, (0, 0));
        let compiled = units.iter().filter(|unit| unit.dirs.is_empty());
        let files = compiled.flat_map(|unit| unit.copied.iter().map(move |file| (unit, file)));
        for (unit, file) in files {
            let full = self.root().join(&file.path);
            let inode = fs::symlink_metadata(&full).ok().and_then(|meta| inode(&meta));
            if inode.is_some_and(|inode| !counted.insert(inode)) {
                continue;
            }
            copies += file.size;
            if unit.local.is_some() && file.path.extension().is_none() {
                let linked = elf::unpacked(&full).unwrap_or(file.size);
                largest = largest.max((linked, file.size));
            }
        }
        let (linked, before) = largest;
        sessions.max().unwrap_or(0) + linked + copies.saturating_sub(before)
    }
}

/// Whether something of a unit is only ever replaced by another file, and never written into: rustc renames a new
/// library of Rust's to its place. The shared object of a macro is the linker's, before which the wrapper
/// removes it; if people take it by a final name, they do with it as they like.
fn is_replaced(call: &Call, path: &Path, has_final_name: bool) -> bool {
    let stem = call.stem();
    let name = path.file_name().unwrap_or_default();
    let libraries = [format!("lib{stem}.rlib"), format!("lib{stem}.rmeta")];
    let object = format!("{}{stem}{}", consts::DLL_PREFIX, consts::DLL_SUFFIX);
    libraries.iter().any(|library| name == &**library)
        || call.is_macro && !has_final_name && name == &*object
}

/// What rustc writes to a crate's incremental state after a small change: all that it knows, and one object.
fn session(state: &Path) -> u64 {
    let (mut known, mut object) = (0, 0);
    for path in files::tree(state).unwrap_or_default() {
        let size = fs::metadata(state.join(&path)).map_or(0, |meta| meta.len());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("bin") => known += size,
            Some("o") => object = size.max(object),
            _ => {}
        }
    }
    known + object
}

/// Whether something wrote into a build script's directory when the script had ended: another package's script, or a
/// test. That is not made again with the unit. What the script said is written down when it has ended; `output`
/// has the time of the beginning.
fn written_later(script: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let Some(ended) = modified(&script.join("root-output")) else { return true };
    let out = script.join("out");
    let written = files::tree(&out).unwrap_or_default();
    written.iter().filter_map(|path| modified(&out.join(path))).any(|at| at > ended)
}

/// What any unit includes of what build scripts wrote.
fn included(calls: &[Call]) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    for call in calls.iter().filter(|call| call.script_out.is_some()) {
        let text = fs::read(call.dep_info());
        let inputs = text.map(|text| depinfo::parse(&text).inputs).unwrap_or_default();
        found.extend(inputs.iter().map(|input| normal(&call.manifest_dir.join(input))));
    }
    found
}

/// Objects that a build script only made to put them into an archive beside them. It speaks of the archive, and
/// nobody reads the objects again: one that runs once more makes them anew.
fn archived(out: &Path, said: &str) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|e| e == extension);
    let files = files::tree(out).unwrap_or_default();
    let archives: Vec<Vec<u8>> = files
        .iter()
        .filter(|path| is(path, "a"))
        .filter_map(|path| fs::read(out.join(path)).ok())
        .collect();
    for path in files.iter().filter(|path| is(path, "o")) {
        let spoken_of = path.file_name().is_none_or(|name| said.contains(&*name.to_string_lossy()));
        let Ok(object) = fs::read(out.join(path)) else { continue };
        let within = |archive: &Vec<u8>| memchr::memmem::find(archive, &object).is_some();
        if !spoken_of && !object.is_empty() && archives.iter().any(within) {
            found.insert(out.join(path));
        }
    }
    found
}

/// The hash in the name of a file or directory of cargo's: sixteen hexadecimal digits at the end of
/// the stem.
pub(crate) fn hash_in(path: &Path) -> Option<String> {
    path.components().find_map(|part| {
        let name = part.as_os_str().to_str()?;
        let stem = name.split('.').next()?;
        let hash = stem.rsplit_once('-')?.1;
        (hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then(|| hash.to_owned())
    })
}

/// Without `.` and `..`; nothing is asked of the disk.
fn normal(path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(found.pop()),
            Component::CurDir => {}
            other => found.push(other),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_where_cargo_puts_them() {
        let hash = |path: &str| hash_in(Path::new(path));
        assert_eq!(hash("librg-0123456789abcdef.rlib").as_deref(), Some("0123456789abcdef"));
        assert_eq!(hash("rg-0123456789abcdef").as_deref(), Some("0123456789abcdef"));
        assert_eq!(hash("a-0123456789abcdef/out/x").as_deref(), Some("0123456789abcdef"));
        assert_eq!(hash("rg"), None);
        assert_eq!(hash("libgrep-matcher.rlib"), None);
    }

    #[test]
    fn objects_are_spared_that_are_in_an_archive_and_nowhere_mentioned() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, content: &str| {
            fs::write(dir.path().join(name), content).expect("written");
        };
        write("liball.a", "!<arch> first second");
        write("first.o", "first");
        write("second.o", "second");
        write("third.o", "third");
        write("empty.o", "");
        let spared = archived(dir.path(), "cargo:rustc-link-arg=/w/out/second.o");
        assert_eq!(spared, HashSet::from([dir.path().join("first.o")]));
    }

    #[test]
    fn a_session_is_what_is_known_and_one_object() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let sizes = [("dep-graph.bin", 50), ("query-cache.bin", 7), ("a.o", 300), ("b.o", 400)];
        fs::create_dir(dir.path().join("s-1")).expect("made");
        for (name, size) in sizes {
            fs::write(dir.path().join("s-1").join(name), vec![0; size]).expect("written");
        }
        fs::write(dir.path().join("s-1.lock"), "").expect("written");
        assert_eq!(session(dir.path()), 457);
        assert_eq!(session(&dir.path().join("gone")), 0);
    }

    #[test]
    fn what_a_script_did_not_write_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, seconds: u64| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(&path, "").expect("written");
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            files::set_modified(&path, at).expect("set");
        };
        assert!(written_later(dir.path()), "it is not known when it ended");
        write("output", 1);
        write("root-output", 2);
        assert!(!written_later(dir.path()));
        write("out/a/own", 2);
        write("invoked.timestamp", 3);
        assert!(!written_later(dir.path()));
        write("out/a/foreign", 3);
        assert!(written_later(dir.path()));
    }

    #[test]
    fn paths_are_made_normal() {
        assert_eq!(normal(Path::new("/w/a/src/../../outside.txt")), Path::new("/w/outside.txt"));
    }
}
