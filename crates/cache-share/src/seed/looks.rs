//! Is what the units of a base looked at the same in a worktree?

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use pool_core::ContentId;

use crate::base::account::{Account, Look, State, below, names};
use crate::base::{Manifest, Unit, hash_in};

/// Files of a commit, by their paths.
pub(super) type Contents = BTreeMap<PathBuf, ContentId>;

/// What is looked at once for all units.
pub(crate) struct Looks<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) contents: &'a Contents,
    worktree: &'a Path,
    /// Whether the commit of the base is checked out there.
    pub(super) same_commit: bool,
    /// By the number of the look: why it is not the same, if it is not.
    differences: Vec<OnceCell<Option<String>>>,
}

impl<'a> Looks<'a> {
    /// Of a worktree that begins with these files. Nothing is looked at yet.
    pub(crate) fn new(
        manifest: &'a Manifest,
        same_commit: bool,
        contents: &'a Contents,
        worktree: &'a Path,
    ) -> Self {
        let differences = manifest.looks.iter().map(|_| OnceCell::new()).collect();
        Self { manifest, contents, worktree, same_commit, differences }
    }

    /// Whether it is a file of the base's commit, and the same here. What is in neither commit is
    /// something else: it is not known what it was.
    pub(super) fn is_same(&self, path: &Path) -> bool {
        let known = self.manifest.files.get(path);
        known.is_some() && known == self.contents.get(path)
    }

    /// Why what a unit looked at is not the same; `None` if it is.
    pub(super) fn difference(&self, account: &Account) -> Option<String> {
        if let Some(why) = &account.unaccounted {
            return Some(why.clone());
        }
        account.looks.iter().find_map(|number| {
            let known = self.differences.get(*number).zip(self.manifest.looks.get(*number));
            let Some((known, look)) = known else {
                return Some("it is not known what it looked at".to_owned());
            };
            known.get_or_init(|| self.compare(look)).clone()
        })
    }

    fn compare(&self, look: &Look) -> Option<String> {
        let (base, here) = (&self.manifest.files, self.contents);
        let differs = |path: &dyn Display| Some(format!("{path} differs"));
        match look {
            Look::Tree(path) => match base.get(path) {
                Some(_) if self.is_same(path) => None,
                Some(_) => differs(&path.display()),
                None if is_dir(base, path) => {
                    (!is_dir(here, path)).then(|| format!("{} is gone", path.display()))
                }
                // A set-up file is in no commit.
                None => {
                    let is_there = State::of(&self.worktree.join(path)) != State::Nothing;
                    is_there.then(|| format!("{} came", path.display()))
                }
            },
            Look::Commit => (!self.same_commit).then(|| "another commit is checked out".to_owned()),
            Look::Names(dir) => {
                let mut there = names(&self.worktree.join(dir));
                there.remove(Path::new(".git"));
                if self.manifest.target.parent() == Some(dir) {
                    there.retain(|name| self.manifest.target.file_name() != Some(name.as_os_str()));
                }
                (there != children(base, dir))
                    .then(|| format!("other files are in {}", super::shown(dir)))
            }
            Look::Elsewhere(path, state) => match State::of(path) {
                now if now == *state && now != State::Other => None,
                _ => differs(&path.display()),
            },
            Look::NamesElsewhere(dir, known) => match names(dir) {
                now if now == *known => None,
                _ => differs(&dir.display()),
            },
        }
    }
}

/// Whether some file is in that directory.
fn is_dir(files: &Contents, dir: &Path) -> bool {
    below(files, dir).next().is_some()
}

/// The names in a directory of a commit.
fn children(files: &Contents, dir: &Path) -> BTreeSet<PathBuf> {
    below(files, dir)
        .filter_map(|path| path.components().next())
        .map(|name| name.as_os_str().into())
        .collect()
}

/// Of these units, those whose needs are among them as well.
pub(super) fn with_their_needs(mut units: Vec<&Unit>) -> (Vec<&Unit>, Vec<&Unit>) {
    let mut left = Vec::new();
    loop {
        let given: BTreeSet<String> =
            units.iter().filter_map(|unit| hash_in(Path::new(&unit.name))).collect();
        let has_all = |unit: &&Unit| {
            unit.account.as_ref().is_none_or(|account| account.needs.is_subset(&given))
        };
        let (whole, rest): (Vec<_>, Vec<_>) = units.into_iter().partition(has_all);
        units = whole;
        if rest.is_empty() {
            return (units, left);
        }
        left.extend(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &str)]) -> Contents {
        files.iter().map(|(path, id)| (PathBuf::from(path), ContentId((*id).to_owned()))).collect()
    }

    #[test]
    fn directories_of_a_commit_are_those_of_its_files() {
        let files = contents(&[("a-b", "1"), ("a/x", "1"), ("a/y/z", "1"), ("b", "1")]);
        for dir in ["a", "a/y", ""] {
            assert!(is_dir(&files, Path::new(dir)), "{dir}");
        }
        for other in ["a/z", "c", "a/y/a"] {
            assert!(!is_dir(&files, Path::new(other)), "{other}");
        }
        let children = |dir: &str| children(&files, Path::new(dir));
        assert_eq!(children("a"), BTreeSet::from(["x".into(), "y".into()]));
        assert_eq!(children(""), BTreeSet::from(["a-b".into(), "a".into(), "b".into()]));
        assert_eq!(children("c"), BTreeSet::new());
    }

    #[test]
    fn each_kind_of_look_is_compared() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let worktree = dir.path();
        let mut manifest = Manifest::empty();
        manifest.files = contents(&[("a/lib.rs", "1"), ("a/word.txt", "1")]);
        std::fs::create_dir(worktree.join("a")).expect("made");
        for path in ["a/lib.rs", "a/word.txt"] {
            std::fs::write(worktree.join(path), "x").expect("written");
        }
        let elsewhere = worktree.join("elsewhere");
        let absent = Look::Elsewhere(elsewhere.clone(), State::Nothing);
        let tree = |path: &str| Look::Tree(path.into());
        let looks = [tree("a/lib.rs"), tree("a"), tree(".env"), Look::Names("a".into()), absent];
        let difference = |look: &Look, here: &Contents| {
            let looks = Looks::new(&manifest, true, here, worktree);
            looks.compare(look)
        };
        for look in &looks {
            assert_eq!(difference(look, &manifest.files), None, "{look:?}");
        }
        let other = contents(&[("a/lib.rs", "2"), ("a/word.txt", "1")]);
        assert_eq!(difference(&looks[0], &other).as_deref(), Some("a/lib.rs differs"));
        assert_eq!(difference(&looks[1], &Contents::new()).as_deref(), Some("a is gone"));
        std::fs::write(worktree.join(".env"), "x").expect("written");
        assert_eq!(difference(&looks[2], &manifest.files).as_deref(), Some(".env came"));
        std::fs::write(worktree.join("a/more"), "x").expect("written");
        let more = difference(&looks[3], &manifest.files);
        assert_eq!(more.as_deref(), Some("other files are in a"));
        std::fs::write(&elsewhere, "x").expect("written");
        assert!(difference(&looks[4], &manifest.files).is_some());
    }

    #[test]
    fn without_what_it_needs_a_unit_is_left_out_and_so_are_its_dependents() {
        let unit = |number: u32, needs: &[u32]| {
            let hash = |number: &u32| format!("{number:016x}");
            let needs = needs.iter().map(hash).collect();
            let account = Account { needs, ..Account::default() };
            Unit { name: format!("x-{}", hash(&number)), account: Some(account), ..Unit::default() }
        };
        let units = [unit(1, &[]), unit(2, &[1]), unit(3, &[9]), unit(4, &[3]), unit(5, &[2])];
        let (given, left) = with_their_needs(units.iter().collect());
        assert_eq!(given, [&units[0], &units[1], &units[4]]);
        assert_eq!(left, [&units[2], &units[3]]);
    }
}
