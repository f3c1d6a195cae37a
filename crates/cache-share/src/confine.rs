//! Where cargo builds in a slot, whatever is set outside of the repository: a directory that several worktrees build into
//! runs one worktree's code in another.
//!
//! Cargo takes `build.target-dir` and `build.build-dir` from the nearest `.cargo/config.toml` that sets them, and from a
//! variable before any file. The slot's own file is nearer than all that are not in the worktree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use pool_core::{CacheFinding, Error, ErrorKind, Result, open_plain};

use crate::files;
use crate::install::{Build, CargoConfig, Variable};

/// What of a user's surroundings decides where cargo builds. The library looks for none of it by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Cargo's home directory, in which it looks for a `config.toml`.
    pub cargo_home: Option<PathBuf>,
    /// Variables that agents may inherit, of those that [`DIRECTORY_VARIABLES`] names.
    pub variables: BTreeMap<String, String>,
}

/// The variables that say where cargo builds.
pub const DIRECTORY_VARIABLES: [&str; 3] =
    ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_BUILD_DIR"];

const KEYS: [&str; 2] = ["target-dir", "build-dir"];

/// Each workspace's own `target`, as a template of cargo's.
const OWN: &str = "{workspace-root}/target";

/// In the slot's directory: where leases build whose repository names a directory that others build into as well.
pub(crate) const ASIDE: &str = ".target";

/// Where the cargos in one worktree build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    target: Option<PathBuf>,
    build: Option<PathBuf>,
    /// Variables that nested cargos would get from a configuration outside of the repository.
    nested: BTreeMap<String, Variable>,
    /// Why builds here share nothing: the repository itself names a directory outside of the worktree.
    pub(crate) trouble: Option<String>,
    /// The directory for such a worktree's builds.
    aside: Option<PathBuf>,
}

impl Confinement {
    /// That of the worktree in a slot's directory.
    pub(crate) fn of(worktree: &Path, slot_dir: &Path, around: &Surroundings) -> Self {
        let outside = Outside::find(worktree, slot_dir, around);
        let inside = Inside::find(worktree, slot_dir);
        let nested_in = |target: &Path| {
            let variables = outside.nested.iter();
            variables
                .map(|(name, is_table)| {
                    let is_build = name == DIRECTORY_VARIABLES[2];
                    let value = if is_build { OWN.into() } else { target.to_string_lossy() };
                    let value = value.into_owned();
                    let variable =
                        if *is_table { Variable::Table { value } } else { Variable::Plain(value) };
                    (name.clone(), variable)
                })
                .collect()
        };
        if let Some(trouble) = inside.leads_out {
            let target = slot_dir.join(ASIDE);
            return Self {
                build: Some(target.join("build").join("{workspace-path-hash}")),
                nested: nested_in(&target),
                target: Some(target.clone()),
                trouble: Some(trouble),
                aside: Some(target),
            };
        }
        let target = match (&inside.target, &inside.roots[..]) {
            (Some(own), _) => own.clone(),
            (None, [root]) => root.join("target"),
            (None, _) => worktree.join("target"),
        };
        // Without anything that might lead elsewhere, cargo finds the workspace's own target by itself. Where one
        // directory would have to do for several workspaces, or for a project that a build script makes and has
        // cargo build, which then waits for the build that it is a part of, it is set only if it must be.
        let is_simple =
            inside.roots.len() == 1 && !inside.has_scripts && !inside.has_own_below_the_root;
        let own = |target: &PathBuf| match &inside.target {
            Some(_) => target.clone(),
            None => OWN.into(),
        };
        let several = inside.roots.len() > 1 && outside.target.is_some();
        let build = outside.build.is_some() || outside.by_variable || several;
        Self {
            target: (outside.target.is_some() || is_simple).then(|| target.clone()),
            build: build.then(|| own(&target)),
            nested: nested_in(&target),
            trouble: None,
            aside: None,
        }
    }

    /// The configuration of a strategy's, completed by that. What the strategy sets holds.
    pub(crate) fn within(&self, mut cargo: CargoConfig) -> CargoConfig {
        let Build { target_dir, build_dir, .. } = &mut cargo.build;
        *target_dir = target_dir.take().or_else(|| self.target.clone());
        *build_dir = build_dir.take().or_else(|| self.build.clone());
        cargo.env.extend(self.nested.clone());
        cargo
    }

    /// Variables for all that runs in the lease. Only where no configuration is enough: the repository's own is nearer.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match (&self.aside, &self.target, &self.build) {
            (Some(_), Some(target), Some(build)) => BTreeMap::from([
                (DIRECTORY_VARIABLES[0].to_owned(), text(target)),
                (DIRECTORY_VARIABLES[2].to_owned(), text(build)),
            ]),
            _ => BTreeMap::new(),
        }
    }

    /// The directory beside the worktree that its builds go to, if they do. What an earlier lease built there is not known
    /// to be made from this one's files.
    pub(crate) fn aside(&self) -> Option<&Path> {
        self.aside.as_deref()
    }
}

/// Removes what builds have left beside a worktree.
///
/// # Errors
///
/// When it can't be removed, or is the worktree itself.
pub(crate) fn empty(aside: &Path, worktree: &Path) -> Result<()> {
    if files::real(worktree).starts_with(files::real(aside)) {
        let message = format!("cannot build beside the worktree {}", worktree.display());
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(
            "take the directory that others build into out of the repository's settings",
        ));
    }
    files::discard_tree(aside)
}

/// Where the cargos of a lease are to build, as its slot's configuration says: values for those of [`DIRECTORY_VARIABLES`]
/// that lead elsewhere in the environment of whatever is to run there.
pub fn directories_of(worktree: &Path) -> BTreeMap<String, String> {
    let slot_dir = crate::setup::slot_dir(worktree);
    let own = read(&slot_dir.join(".cargo/config.toml")).unwrap_or_default();
    let value = |key| own.get("build")?.get(key)?.as_str().map(str::to_owned);
    let target =
        value(KEYS[0]).unwrap_or_else(|| worktree.join("target").to_string_lossy().into_owned());
    let build = value(KEYS[1]).unwrap_or_else(|| OWN.to_owned());
    let values = [target.clone(), target, build];
    DIRECTORY_VARIABLES.iter().map(|name| (*name).to_owned()).zip(values).collect()
}

/// Whether a variable's value leads cargo out of the slot of that worktree, when it is started at its root. Pure.
///
/// ```
/// use std::path::Path;
/// let leads_out = |value| cache_share::leads_out(Path::new("/pool/slots/1/repo"), value);
/// assert!(leads_out("/shared") && leads_out("../../shared") && leads_out("{cargo-cache-home}/build"));
/// assert!(!leads_out("out") && !leads_out("") && !leads_out("{workspace-root}/build"));
/// ```
pub fn leads_out(worktree: &Path, value: &str) -> bool {
    let path = Path::new(value.strip_prefix("{workspace-root}/").unwrap_or(value));
    value.starts_with("{cargo-cache-home}")
        || !normal(&worktree.join(path)).starts_with(crate::setup::slot_dir(worktree))
}

/// What `doctor` says of what is set outside of the repository, and by itself.
pub(crate) fn examine(around: &Surroundings, workspace: &Path) -> Vec<CacheFinding> {
    let parent = workspace.parent().unwrap_or(workspace);
    // Of the user's own checkout, all directories above it count; beside a slot there is the pool's own file.
    let outside = Outside::find(workspace, workspace, around);
    let mut found = Vec::new();
    for source in outside.target.iter().chain(&outside.build) {
        if source.is_variable {
            continue;
        }
        found.push(CacheFinding::fine(format!(
            "{}: it does not hold in worktrees, which build into their own",
            source.text
        )));
    }
    if let Some(trouble) = Inside::find(workspace, parent).leads_out {
        found.push(CacheFinding::trouble(
            trouble,
            "leases share nothing, and their environment names another directory; a shell that did not get it needs \
             `export CARGO_TARGET_DIR=…` as `wtpool show` says. Better: take the setting out of the repository",
        ));
    }
    found
}

/// Why a repository's builds can't be shared: its own settings, by name.
pub(crate) fn why_apart(worktree: &Path) -> Option<String> {
    Inside::find(worktree, worktree.parent().unwrap_or(worktree)).leads_out
}

/// Something that says where cargo builds.
struct Source {
    /// For people.
    text: String,
    is_variable: bool,
}

/// What is set outside of the repository.
#[derive(Default)]
struct Outside {
    target: Option<Source>,
    build: Option<Source>,
    /// Whether a variable says where to build: no configuration overrules that.
    by_variable: bool,
    /// Which of the variables a configuration sets for what cargo runs, and whether by a table.
    nested: BTreeMap<String, bool>,
}

impl Outside {
    fn find(worktree: &Path, slot_dir: &Path, around: &Surroundings) -> Self {
        let mut found = Self::default();
        for (name, value) in &around.variables {
            if value.is_empty() || !leads_out(worktree, value) {
                continue;
            }
            let text = format!("the variable {name} is {value}");
            let source = Some(Source { text, is_variable: true });
            match *name == DIRECTORY_VARIABLES[2] {
                true => found.build = source,
                false => (found.target, found.by_variable) = (source, true),
            }
        }
        let above = slot_dir.ancestors().skip(1).map(|dir| dir.join(".cargo"));
        for dir in above.chain(around.cargo_home.clone()) {
            let Some(path) = config_in(&dir) else { continue };
            for (path, table) in with_included(&path) {
                for (key, place) in KEYS.iter().zip([&mut found.target, &mut found.build]) {
                    if let Some(value) = string(&table, key)
                        && place.is_none()
                    {
                        let text = format!("{} sets build.{key} to {value}", path.display());
                        *place = Some(Source { text, is_variable: false });
                    }
                }
                let env = table.get("env").and_then(toml::Value::as_table);
                found.nested.extend(DIRECTORY_VARIABLES.iter().filter_map(|name| {
                    let value = env?.get(*name)?;
                    Some(((*name).to_owned(), value.is_table()))
                }));
            }
        }
        found
    }
}

/// What there is in a worktree.
#[derive(Default)]
struct Inside {
    /// The roots of cargo's workspaces.
    roots: Vec<PathBuf>,
    /// Whether a package has a build script.
    has_scripts: bool,
    /// Where the repository's own settings at its root say that all is built.
    target: Option<PathBuf>,
    /// Whether there are such settings elsewhere, which hold only there.
    has_own_below_the_root: bool,
    /// What of it leads out of the slot.
    leads_out: Option<String>,
}

impl Inside {
    fn find(worktree: &Path, slot_dir: &Path) -> Self {
        let mut found = Self::default();
        let mut manifests = BTreeMap::new();
        let slot = files::real(slot_dir);
        let skipped = |entry: &walkdir::DirEntry| {
            let name = entry.file_name();
            entry.depth() > 0
                && (name == "target" || name == ".git" || name == "node_modules")
                && entry.file_type().is_dir()
        };
        let entries = walkdir::WalkDir::new(worktree).sort_by_file_name().into_iter();
        for entry in entries.filter_entry(|entry| !skipped(entry)).flatten() {
            let path = entry.path();
            if entry.file_name() == "Cargo.toml" {
                if let Some(table) = read(path) {
                    manifests.insert(path.parent().unwrap_or(path).to_owned(), table);
                }
            } else if entry.file_name() == ".cargo" {
                found.settings(path, worktree, &slot);
            } else if entry.file_name() == "target" && entry.path_is_symlink() {
                // Tracked, or copied along: nothing is set, and yet worktrees build into one directory.
                if !files::real(path).starts_with(&slot) {
                    let shown = shown(path, worktree);
                    let text = format!("the repository's {shown} is a link that leads out of it");
                    found.leads_out.get_or_insert(text);
                }
            }
        }
        for (dir, manifest) in &manifests {
            let package = manifest.get("package").and_then(toml::Value::as_table);
            let script = package.and_then(|package| package.get("build"));
            let is_package = package.is_some();
            found.has_scripts |= is_package
                && (dir.join("build.rs").is_file()
                    || script.is_some_and(|script| script.as_bool() != Some(false)));
            let is_member = || {
                let mut above = dir.ancestors().skip(1);
                let root = above.find(|dir| {
                    manifests.get(*dir).is_some_and(|table| table.contains_key("workspace"))
                });
                package.is_some_and(|package| package.contains_key("workspace"))
                    || root.is_some_and(|root| !is_excluded(&manifests[root], root, dir))
            };
            if manifest.contains_key("workspace") || (is_package && !is_member()) {
                found.roots.push(dir.clone());
            }
        }
        found
    }

    /// Takes in what a `.cargo` directory of the worktree says.
    fn settings(&mut self, dir: &Path, worktree: &Path, slot: &Path) {
        let Some(config) = config_in(dir) else { return };
        let base = dir.parent().unwrap_or(dir);
        let mut own: [Option<PathBuf>; 2] = [None, None];
        for (path, table) in with_included(&config) {
            for (key, place) in KEYS.iter().zip(&mut own) {
                let Some(value) = string(&table, key).filter(|_| place.is_none()) else {
                    continue;
                };
                let relative = value.strip_prefix("{workspace-root}/").unwrap_or(&value);
                let to = normal(&base.join(relative));
                let leads_out = Path::new(relative).is_absolute()
                    || value.starts_with("{cargo-cache-home}")
                    || !files::real(&to).starts_with(slot);
                if leads_out {
                    self.leads_out.get_or_insert_with(|| {
                        let shown = shown(&path, worktree);
                        format!(
                            "the repository's {shown} sets build.{key} to {value}, outside of the worktree"
                        )
                    });
                }
                *place = Some(to);
            }
        }
        match own {
            [Some(target), _] if base == worktree => self.target = Some(target),
            [None, None] => {}
            _ => self.has_own_below_the_root |= base != worktree,
        }
    }
}

fn is_excluded(workspace: &toml::Table, root: &Path, dir: &Path) -> bool {
    let list = |name| {
        let list = workspace.get("workspace").and_then(|workspace| workspace.get(name));
        let list = list.and_then(toml::Value::as_array).into_iter().flatten();
        list.filter_map(toml::Value::as_str).map(|path| normal(&root.join(path)))
    };
    list("exclude").any(|path| dir.starts_with(path)) && !list("members").any(|path| path == dir)
}

fn shown(path: &Path, worktree: &Path) -> String {
    path.strip_prefix(worktree).unwrap_or(path).display().to_string()
}

fn string(table: &toml::Table, key: &str) -> Option<String> {
    table.get("build")?.get(key)?.as_str().map(str::to_owned)
}

/// Which file of a directory cargo reads: of two, the one without an ending.
fn config_in(dir: &Path) -> Option<PathBuf> {
    ["config", "config.toml"].iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// A configuration, and what it includes; what overrules comes first.
fn with_included(path: &Path) -> Vec<(PathBuf, toml::Table)> {
    let mut found = Vec::new();
    include(path, 8, &mut found);
    found
}

fn include(path: &Path, depth: u32, found: &mut Vec<(PathBuf, toml::Table)>) {
    let Some(table) = read(path).filter(|_| depth > 0) else { return };
    let included: Vec<PathBuf> = match table.get("include") {
        Some(toml::Value::Array(list)) => list.iter().filter_map(included_path).collect(),
        Some(one) => included_path(one).into_iter().collect(),
        None => Vec::new(),
    };
    found.push((path.to_owned(), table));
    let dir = path.parent().unwrap_or(path);
    for file in included.into_iter().rev() {
        include(&dir.join(file), depth - 1, found);
    }
}

fn included_path(value: &toml::Value) -> Option<PathBuf> {
    let path = value.as_str().or_else(|| value.get("path")?.as_str());
    path.map(PathBuf::from)
}

/// A file that is not larger than such files are, and no pipe.
fn read(path: &Path) -> Option<toml::Table> {
    const LARGEST: u64 = 1 << 20;
    let real = fs::canonicalize(path).ok()?;
    let file = open_plain(File::options().read(true), &real).ok()?;
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Without `.` and `..`, by the text alone, as cargo takes a path from its settings.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}
