//! What a slot may have of a base whose build could not be observed: what nothing is known to be
//! against. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::looks::{Contents, Looks};
use super::shown;
use crate::base::{Manifest, Unit};

/// What is known of a worktree and a base without looks of units.
pub(super) struct Unobserved<'l, 'a> {
    looks: &'l Looks<'a>,
    /// Whether all files are the same.
    all_same: bool,
    listing: BTreeMap<PathBuf, BTreeSet<Entry>>,
    /// What was read without being recorded, and differs: it may be in any unit of the workspace.
    silently: Option<String>,
}

impl<'l, 'a> Unobserved<'l, 'a> {
    pub(super) fn new(looks: &'l Looks<'a>) -> Self {
        let manifest = looks.manifest;
        let listing = changed_listing(manifest, looks.contents);
        let all_same = looks.same_commit && manifest.files == *looks.contents;
        let mut this = Self { looks, all_same, listing, silently: None };
        this.silently = this.differs_silently();
        this
    }

    fn differs_silently(&self) -> Option<String> {
        let manifest = self.looks.manifest;
        match &manifest.read_silently {
            _ if !manifest.written.is_empty() => {
                manifest.written.first().map(|path| format!("its build writes {}", path.display()))
            }
            _ if self.all_same => None,
            None => Some("what its build read can't be told here".to_owned()),
            Some(paths) => paths
                .iter()
                .find(|path| !self.looks.is_same(path) || self.relisted(path).is_some())
                .map(|path| format!("its build read {}, which differs", path.display()))
                .or_else(|| {
                    let mut dirs = listed_silently(manifest);
                    let dir = dirs.find(|dir| self.listing.contains_key(*dir))?;
                    Some(format!("its build listed {}, where other files are", shown(dir)))
                }),
        }
    }

    /// The directory of a file, if files came or went there.
    fn relisted(&self, path: &Path) -> Option<PathBuf> {
        let dir = path.parent().unwrap_or(path);
        self.listing.contains_key(dir).then(|| dir.to_owned())
    }

    /// Why a unit would come out another here; `None` if nothing is known to be against it.
    pub(super) fn difference(&self, unit: &Unit) -> Option<String> {
        let local = unit.local.as_ref()?;
        if let Some(path) = local.inputs.iter().find(|path| !self.looks.is_same(path)) {
            return Some(format!("{} differs", path.display()));
        }
        if !self.all_same && local.this_commit_only {
            return Some("its build script does not say what it depends on".to_owned());
        }
        // A macro may take in all files of a directory.
        if let Some(dir) = local.inputs.iter().find_map(|path| self.relisted(path)) {
            return Some(format!("other files are in {}", shown(&dir)));
        }
        // And a macro or a tool may look for its settings: that it did not find them is not recorded.
        let mut above =
            local.package.ancestors().filter_map(|dir| Some((dir, self.listing.get(dir)?)));
        let settings = above.find_map(|(dir, names)| {
            Some((dir, names.iter().find(|name| name.may_be_settings())?))
        });
        settings
            .map(|(dir, name)| {
                format!("{} is in {}, or is not any more", name.0.display(), shown(dir))
            })
            .or_else(|| self.silently.clone())
    }
}

/// Directories that something listed during the build, other than what cargo lists to find targets, or in
/// order to see whether a package changed.
fn listed_silently(manifest: &Manifest) -> impl Iterator<Item = &PathBuf> {
    let packages: BTreeSet<&Path> = manifest
        .files
        .keys()
        .filter(|path| path.ends_with("Cargo.toml"))
        .filter_map(|path| path.parent())
        .collect();
    let locals = manifest.units.iter().filter_map(|unit| unit.local.as_ref());
    let watched: BTreeSet<&Path> =
        locals.filter(|local| local.this_commit_only).map(|local| &*local.package).collect();
    manifest.listed.iter().filter(move |dir| {
        let package = dir.ancestors().find(|dir| packages.contains(dir));
        let inside = package.and_then(|package| dir.strip_prefix(package).ok()).unwrap_or(dir);
        let of_targets = ["", "src", "src/bin", "tests", "examples", "benches"];
        let known = of_targets.iter().any(|known| inside == Path::new(known));
        !known && package.is_none_or(|package| !watched.contains(package))
    })
}

/// The name of what came or went in a directory, and whether it is a directory itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(PathBuf, bool);

impl Entry {
    /// Whether it may be something that a macro or a tool looks for without being told to.
    fn may_be_settings(&self) -> bool {
        !self.1 && may_be_read(&self.0.to_string_lossy())
    }
}

/// Whether a file of that name may be read by a macro or a tool.
fn may_be_read(name: &str) -> bool {
    let for_people = ["README", "LICENSE", "COPYING", "CHANGELOG"];
    // Cargo keeps track of its own; and these never reach a compiler.
    let known = ["Cargo.toml", "Cargo.lock", "rustfmt.toml", ".rustfmt.toml", ".editorconfig"];
    !name.ends_with(".md")
        && !name.starts_with(".git")
        && !for_people.iter().any(|prefix| name.starts_with(prefix))
        && !known.contains(&name)
}

/// The directories in which files or directories came or went, and those.
fn changed_listing(manifest: &Manifest, contents: &Contents) -> BTreeMap<PathBuf, BTreeSet<Entry>> {
    let mut changed: BTreeMap<PathBuf, BTreeSet<Entry>> = BTreeMap::new();
    for (those, others) in [(&manifest.files, contents), (contents, &manifest.files)] {
        let known: BTreeSet<&Path> =
            others.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        for path in those.keys().filter(|path| !others.contains_key(*path)) {
            let mut is_dir = false;
            for path in path.ancestors() {
                let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { break };
                changed.entry(dir.to_owned()).or_default().insert(Entry(name.into(), is_dir));
                // In what is there in both, that directory itself neither came nor went.
                if known.contains(dir) {
                    break;
                }
                is_dir = true;
            }
        }
    }
    changed
}
