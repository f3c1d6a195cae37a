//! The base: a target directory that the pool built from a clean commit, in a tree that nobody else writes
//! to. Slots start from it. Once it is complete it never changes.
//!
//! ```text
//! <cache>/base/<number>/
//!   tree/            the checkout, with its target directory
//!   tree.git/        what git needs to know of it
//!   .cargo/          config.toml, the wrapper of rustc, and what that is told
//!   calls.jsonl      each call of rustc, written by the wrapper
//!   looks.jsonl      what each of them looked at
//!   build.log        what the build said
//!   manifest.json    what slots may have of it; written last
//!   condemned.json   why no slot may start from it; the manifest is removed then
//! <cache>/base.lock  held by the process that builds
//! <cache>/base.locks/<number>      the lock of that base
//! <cache>/base.removed/<number>    what is left of a base that was removed, until it is deleted
//! ```
//!
//! `life.rs` has the states of a base and the steps between them.

pub(crate) mod account;
mod analysis;
mod build;
mod choose;
mod elf;
mod life;
mod lock;
mod strays;
pub(crate) mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pool_core::{CommitId, ContentId};
use serde::{Deserialize, Serialize};

use account::{Account, Look};

use crate::cargo::Toolchain;
use crate::files::{self, Link, Recorded};

pub(crate) use analysis::hash_in;
pub(crate) use build::{Recipe, build};
pub(crate) use choose::{Choice, choose, preferred};
pub(crate) use life::{Leftover, State, is_tidy, leftovers, tidy};
pub(crate) use lock::{Lock, is_being_built};

/// Of this program's own format. Another one: the base is of no use.
const FORMAT: u32 = 2;

/// All that is known of a complete base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    pub(crate) commit: CommitId,
    pub(crate) toolchain: Toolchain,
    /// The target directory, relative to the tree.
    pub(crate) target: PathBuf,
    /// Where the tree stood for incremental compilations; `None` where that is not permitted.
    pub(crate) canonical: Option<PathBuf>,
    /// The files of the commit.
    pub(crate) files: BTreeMap<PathBuf, ContentId>,
    pub(crate) units: Vec<Unit>,
    /// What units looked at, by the numbers that they name.
    pub(crate) looks: Vec<Look>,
    /// Files of the tree that something read during the build without telling cargo; `None` where that
    /// can't be observed.
    pub(crate) read_silently: Option<Vec<PathBuf>>,
    /// Directories of the tree that were listed during the build, for all that is known.
    pub(crate) listed: BTreeSet<PathBuf>,
    /// Files that the build wrote among the sources.
    pub(crate) written: Vec<PathBuf>,
    /// Where it keeps incremental state, relative to the target directory.
    pub(crate) states: Vec<PathBuf>,
    /// By about how many bytes a slot grows that edits one crate and builds: incremental state, and the
    /// largest program.
    pub(crate) growth: u64,
    /// Bytes of all of it.
    pub(crate) size: u64,
    /// What went wrong while it was built, if anything.
    pub(crate) trouble: Option<String>,
}

impl Manifest {
    /// Whether it names nothing outside of a target directory that is to be copied to, linked to, made or
    /// removed there: damaged or not, it must lead nowhere else.
    fn stays_inside(&self) -> bool {
        let of_units = self.units.iter().flat_map(|unit| {
            let files = unit.files().map(|file| &file.path);
            files.chain(&unit.dirs).chain(unit.links.iter().map(|link| &link.path))
        });
        let mut links = self.units.iter().flat_map(|unit| &unit.links);
        links.all(|link| link.stays_in(Path::new("")))
            && of_units.chain(&self.states).chain([&self.target]).all(|path| {
                let mut parts = path.components().peekable();
                parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
            })
    }
}

#[cfg(test)]
impl Manifest {
    /// Of a base in which nothing was built.
    pub(crate) fn empty() -> Self {
        Self {
            format: FORMAT,
            commit: CommitId::new("0123456789012345678901234567890123456789").expect("an id"),
            toolchain: Toolchain::default(),
            target: "target".into(),
            canonical: None,
            files: BTreeMap::new(),
            units: Vec::new(),
            looks: Vec::new(),
            read_silently: None,
            listed: BTreeSet::new(),
            written: Vec::new(),
            states: Vec::new(),
            growth: 0,
            size: 0,
            trouble: None,
        }
    }
}

/// What cargo builds, and checks the freshness of, as one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// The package's name and cargo's hash of the unit.
    pub(crate) name: String,
    /// `None`: of a package that can't change, from a registry or a git commit.
    pub(crate) local: Option<Local>,
    /// What rustc only ever replaces: libraries of Rust's, and procedural macros.
    pub(crate) shared: Vec<Recorded>,
    /// All else: something may write into it.
    pub(crate) copied: Vec<Recorded>,
    /// Directories that must be there, even if nothing is in them. Each comes before those in it.
    pub(crate) dirs: Vec<PathBuf>,
    /// What it looked at; `None` where that cannot be observed.
    pub(crate) account: Option<Account>,
    /// Symbolic links.
    pub(crate) links: Vec<Link>,
}

impl Unit {
    /// Says why it is never valid elsewhere, if there is a reason.
    fn bind(&mut self, why: Option<String>) {
        if let Some(why) = why {
            self.account.get_or_insert_default().unaccounted.get_or_insert(why);
        }
    }

    /// All its files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Recorded> {
        self.shared.iter().chain(&self.copied)
    }

    /// What of it is not what it was, if anything is, in the base's target directory.
    pub(crate) fn damage(&self, target: &Path) -> Option<&Path> {
        let mut files = self.files().filter(|file| !file.is_intact(target));
        let mut links = self.links.iter().filter(|link| !link.is_intact(target));
        let file = files.next().map(|file| &*file.path);
        file.or_else(|| links.next().map(|link| &*link.path))
    }
}

/// A unit of a package that lies in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Local {
    /// Its package's directory, relative to the tree.
    pub(crate) package: PathBuf,
    /// What it was made from, relative to the tree.
    pub(crate) inputs: Vec<PathBuf>,
    /// Valid only at the very commit of the base: a build script that told nothing of what it read.
    pub(crate) this_commit_only: bool,
    /// Why it is never valid elsewhere.
    pub(crate) bound: Option<String>,
}

/// Where one base is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) dir: PathBuf,
}

impl Base {
    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    fn calls(&self) -> PathBuf {
        self.dir.join("calls.jsonl")
    }

    /// What the build looked at.
    fn looks(&self) -> PathBuf {
        self.dir.join("looks.jsonl")
    }

    fn manifest(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// The directory of the strategy.
    fn cache(&self) -> &Path {
        self.dir.parent().and_then(Path::parent).unwrap_or(&self.dir)
    }

    /// Whether slots may start from it, for all that its manifest says.
    pub(crate) fn is_whole(&self) -> bool {
        self.manifest().exists() && !self.condemned().exists()
    }

    /// Its number; higher ones are newer.
    pub(crate) fn number(&self) -> u64 {
        number_of(&self.dir)
    }

    /// What is known of it; `None` when it is not whole, or not of this program's format.
    pub(crate) fn load(&self) -> Option<Manifest> {
        if !self.is_whole() {
            return None;
        }
        let text = fs::read(self.manifest()).ok()?;
        let manifest: Manifest = serde_json::from_slice(&text).ok()?;
        (manifest.format == FORMAT && manifest.stays_inside()).then_some(manifest)
    }

    /// Whether its manifest is of another version of this program, as far as can be read.
    fn is_foreign(&self) -> bool {
        let text = fs::read(self.manifest()).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        manifest["format"].as_u64().is_some_and(|format| format != u64::from(FORMAT))
    }

    /// How it differs from what the manifest says, if it does: whether its tree is there, and each
    /// file that a slot may have. No file is read.
    pub(crate) fn damage(&self, manifest: &Manifest) -> Option<String> {
        let target = self.tree().join(&manifest.target);
        let has_target = !manifest.units.is_empty() || !manifest.states.is_empty();
        let dirs = [Some(self.tree()), has_target.then(|| target.clone())];
        let mut dirs = dirs.into_iter().flatten();
        // A link to a directory elsewhere is not what was built.
        let is_dir = |dir: &PathBuf| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
        if let Some(missing) = dirs.find(|dir| !is_dir(dir)) {
            return Some(format!("{} is not there", missing.display()));
        }
        let mut damaged = manifest.units.iter().filter_map(|unit| unit.damage(&target));
        damaged.next().map(|path| format!("{} is not what it was", target.join(path).display()))
    }

    /// Why it would be built anew for slots that start from its own commit, if it would; where everything is
    /// the way it is in `workspace`.
    pub(crate) fn obsolete(&self, manifest: &Manifest, workspace: &Path) -> Option<String> {
        if let Some(damage) = self.damage(manifest) {
            return Some(damage);
        }
        // Without a toolchain, none better can be built.
        let found = Toolchain::find(workspace).ok()?;
        manifest.toolchain.difference(&found)
    }

    /// Whether it still has the incremental state of what it was made from, as far as there was any.
    pub(crate) fn has_state(&self, manifest: &Manifest) -> bool {
        manifest.states.is_empty() || self.states(manifest).any(|state| state.is_dir())
    }

    /// Removes the incremental state, which nobody uses who builds lean.
    pub(crate) fn drop_state(&self) {
        let Some(manifest) = self.load() else { return };
        for state in self.states(&manifest) {
            // What stays takes disk, and does no harm.
            let _ = files::remove_tree(&state);
        }
    }

    fn states(&self, manifest: &Manifest) -> impl Iterator<Item = PathBuf> {
        let target = self.tree().join(&manifest.target);
        manifest.states.iter().map(move |dir| target.join(dir))
    }
}

/// Leaves out the files whose names are not Unicode, which can't be written into a manifest: what is made from one
/// is made from something unknown.
pub(crate) fn keep_unicode(files: &mut BTreeMap<PathBuf, ContentId>) {
    files.retain(|path, _| path.to_str().is_some());
}

/// The number that the name of a file is; 0 if it is none.
fn number_of(path: &Path) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// All bases, in whichever state, newest first.
pub(crate) fn all(cache: &Path) -> Vec<Base> {
    let mut found: Vec<Base> = fs::read_dir(cache.join("base"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Base { dir: entry.path() })
        .filter(|base| base.number() > 0)
        .collect();
    found.sort_by_key(|base| std::cmp::Reverse(base.number()));
    found
}

#[cfg(unix)]
pub(crate) fn inode(meta: &fs::Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(meta.ino())
}

#[cfg(not(unix))]
pub(crate) fn inode(_: &fs::Metadata) -> Option<u64> {
    None
}
