//! What a unit of the base looked at, in terms that can be compared with another worktree; or why that
//! cannot be accounted for.
//!
//! Each path that was seen is of one of these kinds, and of no other: a file of the tree, or one that is
//! not there; the names in a directory of the tree; what the unit itself made; an output of another
//! unit, which then has to be given too; what cargo unpacked and never changes; and anything else on
//! this machine, whose size and time are remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use pool_core::ContentId;
use serde::{Deserialize, Serialize};

use super::analysis::hash_in;
use crate::observe::{Act, Acts};

/// Something that was looked at while a base was built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Look {
    /// A path of the tree, relative to it: a file, a link, a directory, or nothing.
    Tree(PathBuf),
    /// The names in a directory of the tree, relative to it.
    Names(PathBuf),
    /// Which commit is checked out.
    Commit,
    /// What is anywhere else.
    Elsewhere(PathBuf, State),
    /// The names in a directory anywhere else.
    NamesElsewhere(PathBuf, BTreeSet<PathBuf>),
}

/// What is at a path, as far as can be told without reading it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum State {
    Nothing,
    Directory,
    File {
        size: u64,
        modified: SystemTime,
    },
    Link(PathBuf),
    /// A device, a socket, or one that cannot be asked for.
    Other,
}

impl State {
    /// What is there now.
    pub(crate) fn of(path: &Path) -> Self {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Self::Directory,
            Ok(meta) if meta.is_symlink() => fs::read_link(path).map_or(Self::Other, Self::Link),
            Ok(meta) if meta.is_file() => match meta.modified() {
                Ok(modified) => Self::File { size: meta.len(), modified },
                Err(_) => Self::Other,
            },
            Ok(_) => Self::Other,
            Err(e) if is_absence(&e) => Self::Nothing,
            Err(_) => Self::Other,
        }
    }
}

fn is_absence(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names in a directory, none if it cannot be read.
pub(crate) fn names(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into()).collect()
}

/// The files of a commit at that path or below it, with their paths relative to it.
pub(crate) fn below<'a>(
    files: &'a BTreeMap<PathBuf, ContentId>,
    path: &'a Path,
) -> impl Iterator<Item = &'a Path> {
    let from = files.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
    from.map_while(move |(file, _)| file.strip_prefix(path).ok())
}

/// What one unit looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Numbers of the [`Table`].
    pub(crate) looks: BTreeSet<usize>,
    /// The hashes of units whose outputs it looked at.
    pub(crate) needs: BTreeSet<String>,
    /// What it did that cannot be accounted for.
    pub(crate) unaccounted: Option<String>,
}

impl Account {
    /// Of a unit that must not be given.
    pub(crate) fn unknown(why: &str) -> Self {
        Self { unaccounted: Some(why.to_owned()), ..Self::default() }
    }
}

/// Everything that any unit looked at, each once.
#[derive(Debug, Default)]
pub(crate) struct Table {
    numbers: BTreeMap<Look, usize>,
}

impl Table {
    fn number(&mut self, look: Look) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(look).or_insert(next)
    }

    /// All of them, by their numbers.
    pub(crate) fn into_looks(self) -> Vec<Look> {
        let mut all: Vec<(Look, usize)> = self.numbers.into_iter().collect();
        all.sort_by_key(|(_, number)| *number);
        all.into_iter().map(|(look, _)| look).collect()
    }
}

/// Where a base is.
pub(crate) struct Places<'a> {
    /// The directory of the base, in which its tree is.
    pub(crate) base: &'a Path,
    pub(crate) tree: &'a Path,
    /// The target directory.
    pub(crate) target: &'a Path,
    /// Where the tree stands for incremental compilations.
    pub(crate) canonical: Option<&'a Path>,
    /// The files of the commit.
    pub(crate) files: &'a BTreeMap<PathBuf, ContentId>,
}

/// Turns what was seen into accounts.
pub(crate) struct Accountant<'a> {
    places: Places<'a>,
    table: Table,
    /// Where paths really lead, and the links on the way there.
    resolved: HashMap<PathBuf, (PathBuf, Vec<PathBuf>)>,
}

/// Links that lead to themselves end somewhere.
const LINKS: usize = 40;

impl<'a> Accountant<'a> {
    pub(crate) fn new(places: Places<'a>) -> Self {
        Self { places, table: Table::default(), resolved: HashMap::new() }
    }

    pub(crate) fn into_table(self) -> Table {
        self.table
    }

    /// The account of a unit: a compilation with that hash, or the run of a build script whose directory
    /// has it in its name.
    pub(crate) fn account(&mut self, hash: &str, acts: &Acts) -> Account {
        let mut account = Account::default();
        // Cargo hands on what these say, in variables and otherwise.
        for config in [".cargo/config.toml", ".cargo/config"] {
            account.looks.insert(self.table.number(Look::Tree(config.into())));
        }
        let made: BTreeSet<&Path> =
            acts.iter().filter(|(act, _)| *act == Act::Wrote).map(|(_, path)| &**path).collect();
        for (act, path) in acts {
            if *act == Act::Unaccountable {
                account.unaccounted.get_or_insert_with(|| format!("it makes {}", path.display()));
                continue;
            }
            let act = match act {
                Act::AskedForCommit if is_of_git(path) => {
                    account.looks.insert(self.table.number(Look::Commit));
                    continue;
                }
                // Its libraries, and other files that are not git's.
                Act::AskedForCommit => Act::Looked,
                act => *act,
            };
            if goes_by_a_process(path) {
                let why = || format!("it looks at {}", path.display());
                account.unaccounted.get_or_insert_with(why);
                continue;
            }
            let path = self.in_tree(path);
            let (path, links) = match is_of_the_kernel(&path) {
                true => (path, Vec::new()),
                false => self.resolve(&path, 0),
            };
            for link in links {
                self.look(hash, Act::Looked, &link, &mut account);
            }
            let is_own = path.ancestors().any(|path| made.contains(path));
            if is_own && act != Act::Wrote && !path.starts_with(self.places.target) {
                continue;
            }
            self.look(hash, act, &path, &mut account);
        }
        account
    }

    /// The path as it is outside of the namespace.
    fn in_tree(&self, path: &Path) -> PathBuf {
        let inside = self.places.canonical.and_then(|root| path.strip_prefix(root).ok());
        match inside {
            Some(inside) if inside.as_os_str().is_empty() => self.places.tree.to_owned(),
            Some(inside) => self.places.tree.join(inside),
            None => path.to_owned(),
        }
    }

    /// The path without links, `.` and `..`; and the links that were followed. What a link leads to is
    /// looked at as well, even if the call asked for the link alone.
    fn resolve(&mut self, path: &Path, followed: usize) -> (PathBuf, Vec<PathBuf>) {
        if let Some(known) = self.resolved.get(path) {
            return known.clone();
        }
        let Some(parent) = path.parent() else { return (path.to_owned(), Vec::new()) };
        let (mut real, mut links) = self.resolve(parent, followed);
        match path.components().next_back() {
            Some(Component::Normal(name)) => real.push(name),
            Some(Component::ParentDir) => drop(real.pop()),
            _ => {}
        }
        if followed < LINKS
            && let Ok(to) = fs::read_link(&real)
        {
            let to = real.parent().unwrap_or(&real).join(to);
            links.push(real);
            let (at, more) = self.resolve(&to, followed + 1);
            real = at;
            links.extend(more);
        }
        self.resolved.insert(path.to_owned(), (real.clone(), links.clone()));
        (real, links)
    }

    /// Whether it is a file of the commit, a directory of one, or nothing.
    fn is_accounted(&self, inside: &Path, path: &Path) -> bool {
        below(self.places.files, inside).next().is_some() || State::of(path) == State::Nothing
    }

    /// Puts one look into an account.
    fn look(&mut self, hash: &str, act: Act, path: &Path, account: &mut Account) {
        match self.seen(hash, act, path) {
            Seen::Own => {}
            Seen::Look(look) => drop(account.looks.insert(self.table.number(look))),
            Seen::Output(of) => drop(account.needs.insert(of)),
            Seen::Unaccounted(what) => {
                account.unaccounted.get_or_insert_with(|| format!("it {what} {}", path.display()));
            }
        }
    }

    fn seen(&self, hash: &str, act: Act, path: &Path) -> Seen {
        let places = &self.places;
        if let Ok(inside) = path.strip_prefix(places.target) {
            return of_target(hash, act, path, inside);
        }
        if let Ok(inside) = path.strip_prefix(places.tree) {
            return match act {
                Act::Wrote if is_left(path) => Seen::Unaccounted("writes"),
                _ if inside.starts_with(".git") => Seen::Unaccounted("looks into git's files:"),
                _ if !self.is_accounted(inside, path) => Seen::Unaccounted("looks at"),
                Act::Listed => Seen::Look(Look::Names(inside.to_owned())),
                _ => Seen::Look(Look::Tree(inside.to_owned())),
            };
        }
        match act {
            Act::Wrote if is_unpacked(path) && path.exists() => Seen::Unaccounted("writes"),
            _ if is_of_the_kernel(path) || path.starts_with(places.base) || is_unpacked(path) => {
                Seen::Own
            }
            Act::Wrote if is_left(path) => Seen::Unaccounted("writes"),
            Act::Listed => Seen::Look(Look::NamesElsewhere(path.to_owned(), names(path))),
            _ => Seen::Look(Look::Elsewhere(path.to_owned(), State::of(path))),
        }
    }
}

/// What a path is for the unit that looked at it.
enum Seen {
    /// Its own, or what cannot differ.
    Own,
    /// What has to be the same elsewhere.
    Look(Look),
    /// An output of the unit with that hash.
    Output(String),
    /// What it did there cannot be accounted for.
    Unaccounted(&'static str),
}

/// What a path of the target directory is, which is `inside` relative to that.
fn of_target(hash: &str, act: Act, path: &Path, inside: &Path) -> Seen {
    let of = hash_in(inside);
    if of.as_deref() == Some(hash) || inside.components().any(|c| c.as_os_str() == "incremental") {
        return Seen::Own;
    }
    match (act, State::of(path), of) {
        // Gone, or not there in a slot either, which has no other files than those of units. A process
        // that makes a directory which is there already leaves nothing.
        (_, State::Nothing, _) | (Act::Looked | Act::Wrote, State::Directory, _) => Seen::Own,
        (Act::Wrote, ..) => Seen::Unaccounted("writes"),
        // Where rustc looks for crates; those that it reads are named besides.
        (Act::Listed, ..) if inside.ends_with("deps") => Seen::Own,
        (_, _, Some(of)) => Seen::Output(of),
        (Act::Listed, ..) => Seen::Unaccounted("lists"),
        _ => Seen::Unaccounted("reads"),
    }
}

/// Whether something that was written is still there. What is a directory may have been one before.
fn is_left(path: &Path) -> bool {
    !matches!(State::of(path), State::Nothing | State::Directory)
}

/// What the kernel shows as files, and what differs for each process.
fn is_of_the_kernel(path: &Path) -> bool {
    let is_device = path.starts_with("/dev") && !path.starts_with("/dev/shm");
    // Of the dynamic loader: it names the libraries, each of which is looked at besides.
    let is_loaders = path == Path::new("/etc/ld.so.cache");
    is_device || is_loaders || path.starts_with("/proc") || path.starts_with("/sys")
}

/// Whether a path may be of git's own files, of a repository or of its configuration.
fn is_of_git(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name.ends_with(".git")
            || name.starts_with(".gitconfig")
            || name == "gitconfig"
            || name == "git"
    })
}

/// Whether a path leads by way of a process, such as `/proc/self/cwd/x`: it is not known where to.
fn goes_by_a_process(path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix("/proc") else { return false };
    let names: Vec<_> = inside.components().map(|part| part.as_os_str()).collect();
    let leads = |name: &&OsStr| ["cwd", "root", "fd"].iter().any(|lead| name == lead);
    names.iter().position(leads).is_some_and(|at| at + 2 < names.len())
        || names.iter().any(|name| *name == "cwd" || *name == "root")
}

/// Whether a path is in what cargo unpacked or checked out, and marks as whole: a package of a registry,
/// or a commit of git's. Cargo never changes it.
fn is_unpacked(path: &Path) -> bool {
    let is_place = |dir: &Path| dir.ends_with("registry/src") || dir.ends_with("git/checkouts");
    let inside = path.ancestors().find_map(|dir| {
        path.strip_prefix(dir).ok().filter(|_| is_place(dir)).map(|inside| (dir, inside))
    });
    let Some((place, inside)) = inside else { return false };
    let package: PathBuf = place.join(inside.components().take(2).collect::<PathBuf>());
    // Above a package there is nothing but packages.
    inside.components().count() < 2 || package.join(".cargo-ok").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    struct Place {
        dir: tempfile::TempDir,
        files: BTreeMap<PathBuf, ContentId>,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let files = ["src/lib.rs", "real/word.txt", "link"];
            let id = |path: &str| (path.into(), ContentId("1".to_owned()));
            let place = Self { dir, files: files.map(id).into() };
            for dir in ["base/tree/src", "base/tree/target/debug/deps", "elsewhere"] {
                fs::create_dir_all(place.root().join(dir)).expect("made");
            }
            place
        }

        fn root(&self) -> PathBuf {
            self.dir.path().canonicalize().expect("it is there")
        }

        fn write(&self, path: &str) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, "x").expect("written");
        }

        fn account(&self, acts: &[(Act, &str)]) -> (Account, Vec<Look>) {
            let root = self.root();
            let (base, tree) = (root.join("base"), root.join("base/tree"));
            let places = Places {
                base: &base,
                tree: &tree,
                target: &tree.join("target"),
                canonical: Some(&root.join("canonical")),
                files: &self.files,
            };
            let mut accountant = Accountant::new(places);
            let acts = acts.iter().map(|(act, path)| (*act, root.join(path))).collect();
            let account = accountant.account(HASH, &acts);
            let mut looks = accountant.into_table().into_looks();
            // All units look at these.
            looks.retain(|look| !matches!(look, Look::Tree(path) if path.starts_with(".cargo")));
            (account, looks)
        }
    }

    #[test]
    fn paths_of_the_tree_are_relative_to_it_wherever_it_stands() {
        let place = Place::new();
        place.write("base/tree/src/lib.rs");
        let acts = [
            (Act::Looked, "canonical/src/lib.rs"),
            (Act::Looked, "base/tree/src/../absent"),
            (Act::Listed, "canonical/src"),
        ];
        let (account, looks) = place.account(&acts);
        assert_eq!(account.unaccounted, None);
        let tree = |path: &str| Look::Tree(path.into());
        let expected = [tree("src/lib.rs"), tree("absent"), Look::Names("src".into())];
        assert_eq!(BTreeSet::from_iter(looks), BTreeSet::from(expected));
    }

    #[test]
    fn links_are_looked_at_as_well_as_what_they_lead_to() {
        let place = Place::new();
        place.write("base/tree/real/word.txt");
        let link = place.root().join("base/tree/link");
        std::os::unix::fs::symlink("real", link).expect("linked");
        let (_, looks) = place.account(&[(Act::Looked, "base/tree/link/word.txt")]);
        let tree = |path: &str| Look::Tree(path.into());
        let expected = BTreeSet::from([tree("link"), tree("real/word.txt")]);
        assert_eq!(BTreeSet::from_iter(looks), expected);
    }

    #[test]
    fn outputs_of_other_units_are_needed() {
        let place = Place::new();
        let lib = format!("base/tree/target/debug/deps/liba-{OTHER}.rlib");
        place.write(&lib);
        let deps = (Act::Listed, "base/tree/target/debug/deps");
        let (account, _) = place.account(&[(Act::Looked, &lib), deps]);
        assert_eq!(account.needs, BTreeSet::from([OTHER.to_owned()]));
        assert_eq!(account.unaccounted, None);
    }

    #[test]
    fn what_is_written_elsewhere_and_stays_is_not_accounted_for() {
        for there in ["elsewhere/x", "base/tree/x", "base/tree/target/debug/x"] {
            let place = Place::new();
            place.write(there);
            let (account, _) = place.account(&[(Act::Wrote, there)]);
            assert!(account.unaccounted.is_some_and(|why| why.contains("writes")), "{there}");
            let (account, _) = Place::new().account(&[(Act::Wrote, there), (Act::Looked, there)]);
            assert_eq!(account.unaccounted, None, "{there} is temporary");
        }
        // Each unit makes it that writes there.
        let (account, _) = Place::new().account(&[(Act::Wrote, "base/tree/target/debug/deps")]);
        assert_eq!(account.unaccounted, None);
        let place = Place::new();
        let own = format!("base/tree/target/debug/deps/x-{HASH}.d");
        place.write(&own);
        assert_eq!(place.account(&[(Act::Wrote, &own)]).0.unaccounted, None);
    }

    #[test]
    fn what_is_elsewhere_is_compared_unless_cargo_unpacked_it() {
        let place = Place::new();
        let (package, vendored) = ("home/registry/src/index/a-1.0.0", "elsewhere/a");
        place.write(&format!("{package}/.cargo-ok"));
        place.write(&format!("{package}/src/lib.rs"));
        place.write(&format!("{vendored}/src/lib.rs"));
        let looked = |dir: &str| {
            let path = format!("{dir}/src/lib.rs");
            place.account(&[(Act::Looked, &path)]).1
        };
        assert!(looked(package).is_empty());
        assert!(matches!(&looked(vendored)[..], [Look::Elsewhere(_, State::File { size: 1, .. })]));
        assert!(matches!(&looked("absent")[..], [Look::Elsewhere(_, State::Nothing)]));
    }

    #[test]
    fn git_that_was_asked_for_the_commit_looks_at_other_things_as_well() {
        let place = Place::new();
        let asked = [
            (Act::AskedForCommit, "base/tree/.git"),
            (Act::AskedForCommit, "repo/.git/HEAD"),
            (Act::AskedForCommit, "base/tree/target/debug"),
            (Act::AskedForCommit, "elsewhere"),
        ];
        let (account, looks) = place.account(&asked);
        assert_eq!(account.unaccounted, None);
        let elsewhere = Look::Elsewhere(place.root().join("elsewhere"), State::Directory);
        assert_eq!(BTreeSet::from_iter(looks), BTreeSet::from([Look::Commit, elsewhere]));
    }

    #[test]
    fn paths_by_way_of_a_process_are_not_followed() {
        for path in ["/proc/self/cwd/x", "/proc/1/root", "/proc/self/fd/3/x", "/proc/self/cwd"] {
            assert!(goes_by_a_process(Path::new(path)), "{path}");
        }
        for path in ["/proc/self/fd/3", "/proc/self/maps", "/proc/cpuinfo", "/home/cwd/x"] {
            assert!(!goes_by_a_process(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn files_of_git_are_not_accounted_for() {
        let place = Place::new();
        let (account, _) = place.account(&[(Act::Looked, "base/tree/.git")]);
        assert!(account.unaccounted.is_some_and(|why| why.contains("git")));
    }
}
