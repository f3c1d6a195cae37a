//! Giving a slot whose target is empty what it may have of a base.
//!
//! Cargo calls a unit fresh when its fingerprint is the same and no file it was made from is newer than it.
//! So a slot gets a unit's files with their times; and the files of its worktree get the times of the
//! base's, each one only if it is the very same file. Whatever differs is newer, and cargo builds anew what
//! was made from it.

mod looks;
mod unobserved;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pool_core::{Error, Result};

use crate::base::{self, Base, Manifest, Unit, times};
use crate::files;
use crate::note::UNFINISHED_TREES;

pub(crate) use looks::Looks;
use unobserved::Unobserved;

/// What a slot gets of a base.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision<'a> {
    pub(crate) units: Vec<&'a Unit>,
    /// Units of the workspace that are built anew, and why.
    pub(crate) left: Vec<(&'a Unit, String)>,
    /// The times that the files get which are the same.
    pub(crate) times: BTreeMap<PathBuf, SystemTime>,
}

/// Decides what a slot may have in the worktree that is looked at. Pure, but for those looks.
pub(crate) fn decide<'a>(looks: &Looks<'a>) -> Decision<'a> {
    let manifest = looks.manifest;
    let same_files = manifest.files.keys().filter(|path| looks.is_same(path));
    let times = same_files.map(|path| (path.clone(), times::of_sources())).collect();
    // A base whose build was observed needs none of it.
    let unobserved = LazyCell::new(|| Unobserved::new(looks));
    let (mut candidates, mut left) = (Vec::new(), Vec::new());
    for unit in &manifest.units {
        let bound = unit.local.as_ref().and_then(|local| local.bound.clone());
        let why_not = bound.or_else(|| match &unit.account {
            Some(account) => looks.difference(account),
            None => unobserved.difference(unit),
        });
        match why_not {
            None => candidates.push(unit),
            Some(why) => left.push((unit, why)),
        }
    }
    let (units, without) = looks::with_their_needs(candidates);
    let why = "what it was made from is not given";
    left.extend(without.into_iter().map(|unit| (unit, why.to_owned())));
    Decision { units, left, times }
}

/// A directory of the worktree, for people.
fn shown(dir: &Path) -> std::path::Display<'_> {
    if dir == Path::new("") { Path::new("the root") } else { dir }.display()
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
    let unfinished = slot_dir.join(UNFINISHED_TREES[0]);
    let target = worktree.join(&manifest.target);
    // Whoever was killed at it left it there.
    files::discard_tree(&unfinished)?;
    let made = fill(base, manifest, &decision.units, &unfinished).and_then(|seeded| {
        fs::create_dir_all(target.parent().unwrap_or(worktree))
            .and_then(|()| {
                pool_core::fail_point!("cache-share::seed::filled");
                fs::rename(&unfinished, &target)
            })
            .map(|()| seeded)
            .map_err(|e| (unfinished.clone(), e))
    });
    made.map_err(|(path, e)| {
        // The first error is the one to report.
        let _ = files::discard_tree(&unfinished);
        Error::io(format!("seed {}", path.display()), e)
    })
}

/// Puts units into a target directory, in which nothing of them is. One that is damaged is left out.
pub(crate) fn fill(
    base: &Base,
    manifest: &Manifest,
    units: &[&Unit],
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
    for unit in units {
        if let Some(path) = unit.damage(&from) {
            seeded.damage = Some(format!("{} is not what it was", from.join(path).display()));
            continue;
        }
        give(unit, &from, to, &mut made)?;
        seeded.units += 1;
        pool_core::fail_point!("cache-share::seed::unit-given");
    }
    Ok(seeded)
}

/// Puts one unit into a target directory. `made` are the directories that are known to be there.
fn give(
    unit: &Unit,
    from: &Path,
    to: &Path,
    made: &mut BTreeSet<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    for dir in unit.dirs.iter().map(|dir| to.join(dir)) {
        fs::create_dir_all(&dir).map_err(|e| (dir.clone(), e))?;
        made.insert(dir);
    }
    let mut make_parent = |target: &Path| {
        let parent = target.parent().unwrap_or(to);
        if made.insert(parent.to_owned()) {
            fs::create_dir_all(parent).map_err(|e| (parent.to_owned(), e))?;
        }
        Ok(())
    };
    // Two units may have the same final name; the first has it.
    let unless_there = |given: io::Result<()>, target: PathBuf| match given {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| (target, e)),
    };
    for file in &unit.shared {
        let target = to.join(&file.path);
        make_parent(&target)?;
        unless_there(files::share(&from.join(&file.path), &target, file.modified), target)?;
    }
    // A file of several names in the base is one of as many names in the slot.
    let mut own: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for file in &unit.copied {
        let (source, target) = (from.join(&file.path), to.join(&file.path));
        make_parent(&target)?;
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        let meta = fs::symlink_metadata(&source).map_err(|e| (source.clone(), e))?;
        let several = files::names(&meta).is_some_and(|names| names > 1);
        let inode = base::inode(&meta).filter(|_| several);
        let first = inode.and_then(|inode| own.get(&inode));
        if first.is_some_and(|first| fs::hard_link(first, &target).is_ok()) {
            continue;
        }
        files::copy(&source, &target, file.modified).map_err(|e| (target.clone(), e))?;
        own.extend(inode.map(|inode| (inode, target)));
    }
    for link in &unit.links {
        let target = to.join(&link.path);
        make_parent(&target)?;
        unless_there(link.make(to), target)?;
    }
    // Last, and from within: nothing can be put into a directory that is read-only.
    for dir in unit.dirs.iter().rev() {
        let target = to.join(dir);
        files::copy_mode(&from.join(dir), &target).map_err(|e| (target, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pool_core::ContentId;

    use super::*;
    use crate::base::Local;

    type Contents = BTreeMap<PathBuf, ContentId>;

    fn contents(files: &[(&str, &str)]) -> Contents {
        files.iter().map(|(path, id)| (PathBuf::from(path), ContentId((*id).to_owned()))).collect()
    }

    fn commit() -> Contents {
        contents(&[
            ("Cargo.toml", "1"),
            ("a/Cargo.toml", "1"),
            ("a/src/lib.rs", "1"),
            ("a/src/part/one.rs", "1"),
            ("a/data/word.txt", "1"),
            ("b/Cargo.toml", "1"),
            ("b/src/lib.rs", "1"),
        ])
    }

    fn unit(name: &str, local: Option<Local>) -> Unit {
        Unit { name: name.to_owned(), local, ..Unit::default() }
    }

    fn local(package: &str, inputs: &[&str]) -> Local {
        let inputs = inputs.iter().map(PathBuf::from).collect();
        Local { package: package.into(), inputs, ..Local::default() }
    }

    /// A base with the crates `a` and `b`, and one of the registry.
    fn manifest() -> Manifest {
        let a = local("a", &["a/src/lib.rs", "a/src/part/one.rs"]);
        let units = vec![
            unit("a", Some(a)),
            unit("b", Some(local("b", &["b/src/lib.rs"]))),
            unit("registry", None),
        ];
        let mut manifest = Manifest::empty();
        manifest.files = commit();
        manifest.read_silently = Some(Vec::new());
        manifest.units = units;
        manifest
    }

    /// In a worktree in which nothing is beside the files of the commit.
    fn decided<'a>(
        manifest: &'a Manifest,
        same_commit: bool,
        contents: &'a Contents,
    ) -> Decision<'a> {
        decide(&Looks::new(manifest, same_commit, contents, Path::new("/no/such/worktree")))
    }

    fn given(manifest: &Manifest, same_commit: bool, contents: &Contents) -> Vec<String> {
        let decision = decided(manifest, same_commit, contents);
        assert_eq!(decision.units.len() + decision.left.len(), manifest.units.len());
        decision.units.iter().map(|unit| unit.name.clone()).collect()
    }

    fn with(path: &str, id: &str) -> Contents {
        let mut all = commit();
        all.insert(path.into(), ContentId(id.to_owned()));
        all
    }

    fn without(path: &str) -> Contents {
        let mut all = commit();
        assert!(all.remove(Path::new(path)).is_some());
        all
    }

    fn a_of(manifest: &mut Manifest) -> &mut Local {
        manifest.units[0].local.as_mut().expect("it is of the workspace")
    }

    #[test]
    fn everything_is_given_where_nothing_differs() {
        assert_eq!(given(&manifest(), true, &commit()), ["a", "b", "registry"]);
        assert_eq!(given(&manifest(), false, &commit()), ["a", "b", "registry"]);
    }

    #[test]
    fn an_input_that_differs_or_is_gone() {
        assert_eq!(given(&manifest(), false, &with("a/src/lib.rs", "2")), ["b", "registry"]);
        assert_eq!(given(&manifest(), false, &without("a/src/part/one.rs")), ["b", "registry"]);
        // Whatever the commit is called: set-up files may differ.
        assert_eq!(given(&manifest(), true, &with("a/src/lib.rs", "2")), ["b", "registry"]);
        let decision = manifest();
        let changed = with("a/src/lib.rs", "2");
        let decision = decided(&decision, false, &changed);
        assert_eq!(decision.left[0].1, "a/src/lib.rs differs");
    }

    #[test]
    fn an_input_that_is_in_no_commit() {
        let mut manifest = manifest();
        a_of(&mut manifest).inputs.push("a/src/link/mod.rs".into());
        assert_eq!(given(&manifest, true, &commit()), ["b", "registry"]);
    }

    #[test]
    fn what_differs_keeps_its_own_time() {
        let (manifest, changed) = (manifest(), with("a/src/lib.rs", "2"));
        let times = decided(&manifest, false, &changed).times;
        assert!(!times.contains_key(Path::new("a/src/lib.rs")));
        assert_eq!(times.len(), commit().len() - 1);
        assert!(times.values().all(|time| *time == times::of_sources()));
        let fewer = without("a/data/word.txt");
        assert!(
            !decided(&manifest, false, &fewer).times.contains_key(Path::new("a/data/word.txt"))
        );
    }

    #[test]
    fn what_is_bound_is_never_given() {
        let mut manifest = manifest();
        a_of(&mut manifest).bound = Some("the path of the base is in it".to_owned());
        assert_eq!(given(&manifest, true, &commit()), ["b", "registry"]);
        assert_eq!(decided(&manifest, true, &commit()).left[0].1, "the path of the base is in it");
    }

    #[test]
    fn a_script_that_tells_nothing_is_good_for_its_commit() {
        let mut manifest = manifest();
        a_of(&mut manifest).this_commit_only = true;
        assert_eq!(given(&manifest, true, &commit()), ["a", "b", "registry"]);
        assert_eq!(given(&manifest, false, &commit()), ["b", "registry"]);
        // A file that was brought along differs.
        assert_eq!(given(&manifest, true, &with(".env", "set-up")), ["registry"]);
    }

    #[test]
    fn what_was_read_silently_may_be_anywhere() {
        let mut manifest = manifest();
        manifest.read_silently = Some(vec!["a/data/word.txt".into()]);
        assert_eq!(given(&manifest, false, &commit()), ["a", "b", "registry"]);
        assert_eq!(given(&manifest, false, &with("a/data/word.txt", "2")), ["registry"]);
        assert_eq!(given(&manifest, false, &with("a/data/more.txt", "1")), ["registry"]);
        // Where that can't be observed, it is good for its commit only.
        manifest.read_silently = None;
        assert_eq!(given(&manifest, true, &commit()), ["a", "b", "registry"]);
        assert_eq!(given(&manifest, false, &commit()), ["registry"]);
    }

    #[test]
    fn what_was_listed_silently_may_be_anywhere() {
        let mut manifest = manifest();
        manifest.listed = ["", "a", "a/src", "a/data"].map(PathBuf::from).into();
        assert_eq!(given(&manifest, false, &commit()), ["a", "b", "registry"]);
        assert_eq!(given(&manifest, false, &with("a/data/more.txt", "1")), ["registry"]);
        // A directory is an entry of the one it is in; what is in it then is not.
        assert_eq!(given(&manifest, false, &with("a/data/new/x/more.txt", "1")), ["registry"]);
        assert_eq!(given(&manifest, false, &without("a/data/word.txt")), ["registry"]);
        // Cargo lists that by itself, to find targets.
        assert_eq!(given(&manifest, false, &with("a/src/bin/x.rs", "1")), ["b", "registry"]);
        // And all of a package whose build script tells nothing.
        a_of(&mut manifest).this_commit_only = true;
        assert_eq!(given(&manifest, false, &with("a/data/more.txt", "1")), ["b", "registry"]);
    }

    #[test]
    fn files_beside_an_input_that_came_or_went() {
        assert_eq!(given(&manifest(), false, &with("a/src/part/two.rs", "1")), ["b", "registry"]);
        assert_eq!(given(&manifest(), false, &with("a/src/more/two.rs", "1")), ["b", "registry"]);
        assert_eq!(given(&manifest(), false, &with("a/data/more.txt", "1")).len(), 3);
    }

    #[test]
    fn settings_that_came_or_went() {
        assert_eq!(given(&manifest(), false, &with("a/askama.toml", "1")), ["b", "registry"]);
        assert_eq!(given(&manifest(), false, &with("clippy.toml", "1")), ["registry"]);
        for harmless in ["README.md", "LICENSE", ".gitignore", "a/CHANGES.md", "docs/x.txt"] {
            assert_eq!(given(&manifest(), false, &with(harmless, "1")).len(), 3, "{harmless}");
        }
    }

    #[test]
    fn a_build_that_writes_among_the_sources_is_never_shared() {
        let mut manifest = manifest();
        manifest.written = vec!["a/src/generated.rs".into()];
        assert_eq!(given(&manifest, true, &commit()), ["registry"]);
        assert_eq!(given(&manifest, false, &commit()), ["registry"]);
    }

    #[test]
    fn what_is_of_the_registry_is_always_given() {
        assert_eq!(given(&manifest(), false, &Contents::new()), ["registry"]);
    }
}
