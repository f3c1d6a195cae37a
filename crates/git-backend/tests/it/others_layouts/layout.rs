//! The layouts, made with stock git.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::write;

/// A user's repository, in a directory of its own.
pub(super) struct Layout {
    root: TempDir,
    /// The directory that the caller is in.
    pub(super) start: PathBuf,
    /// The checkouts that the user has.
    pub(super) checkouts: Vec<PathBuf>,
}

impl Layout {
    /// A repository with a checkout, at that path below the root.
    fn with_checkout(path: impl AsRef<Path>) -> Self {
        let root = TempDir::new().expect("a temporary directory");
        let start = canonical(root.path()).join(path);
        fs::create_dir_all(&start).expect("made");
        git(&start, &["init", "-q", "-b", "main"]);
        fill(&start);
        Self { root, checkouts: vec![start.clone()], start }
    }

    pub(super) fn plain() -> Self {
        Self::with_checkout("demo")
    }

    /// The same, cloned from a plain one with these options.
    fn cloned(options: &[&str]) -> Self {
        let origin = Self::plain();
        git(&origin.start, &["config", "uploadpack.allowFilter", "true"]);
        git(&origin.start, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        let url = format!("file://{}", origin.start.display());
        git(&origin.root(), &[&["clone", "-q"], options, &[&url, "clone"]].concat());
        let start = origin.root().join("clone");
        let has_checkout = start.join(".git").exists();
        Self {
            checkouts: has_checkout.then(|| start.clone()).into_iter().collect(),
            start,
            ..origin
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        canonical(self.root.path())
    }

    fn config(self, settings: &[(&str, &str)]) -> Self {
        for (key, value) in settings {
            git(&self.start, &["config", key, value]);
        }
        self
    }

    /// What the user has: the files of all checkouts and all that git keeps, other than objects.
    pub(super) fn of_the_user(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let is_theirs = |entry: &walkdir::DirEntry| {
            ![".wtpool", "objects", "restored"].map(OsStr::new).contains(&entry.file_name())
        };
        let files = walkdir::WalkDir::new(self.root()).into_iter().filter_entry(is_theirs);
        let files = files.map(|entry| entry.expect("readable").into_path());
        let content = |path: &Path| match fs::symlink_metadata(path).expect("there").file_type() {
            kind if kind.is_symlink() => {
                Some(fs::read_link(path).expect("a link").into_os_string().into_encoded_bytes())
            }
            kind if kind.is_file() => Some(fs::read(path).expect("readable")),
            _ => None,
        };
        files.filter_map(|path| Some((path.clone(), content(&path)?))).collect()
    }

    /// Fails unless all that the user had is there as it was, and what is new is the pool's.
    pub(super) fn assert_untouched(&self, before: &BTreeMap<PathBuf, Vec<u8>>, step: &str) {
        let after = self.of_the_user();
        for (path, content) in before {
            assert!(after.get(path) == Some(content), "after {step}: {} changed", path.display());
        }
        for path in after.keys().filter(|path| !before.contains_key(*path)) {
            let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
            let is_pools = parts.iter().any(|part| part == "refs" || part == "logs")
                && parts.iter().any(|part| part.starts_with("wtpool"))
                || parts.iter().any(|part| part == "worktrees");
            assert!(is_pools, "after {step}: {} is new", path.display());
        }
    }
}

pub(super) fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().expect("it exists")
}

pub(super) fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let mut output = testkit::git(dir).args(args).bytes();
    output.truncate(output.len() - usize::from(output.ends_with(b"\n")));
    output
}

pub(super) fn git_path(dir: &Path, args: &[&str]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&git(dir, args)))
}

/// Commits a few files, and leaves what git does not know of.
pub(super) fn fill(checkout: &Path) {
    write(checkout, ".gitignore", ".env\n");
    write(checkout, "README.md", "demo\n");
    write(checkout, "src/main.rs", "fn main() {}\n");
    write(checkout, "docs/guide.md", "guide\n");
    git(checkout, &["add", "-A"]);
    git(checkout, &["commit", "-q", "-m", "first"]);
    dirty(checkout);
}

fn dirty(checkout: &Path) {
    write(checkout, ".env", "SECRET\n");
    write(checkout, "precious.txt", "precious\n");
    write(checkout, "README.md", "changed by the user\n");
}

pub(super) fn plain() -> Layout {
    Layout::plain()
}

pub(super) fn separate_git_dir() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["init", "-q", "--separate-git-dir", "../store.git"]);
    layout
}

pub(super) fn symlinked_git_dir() -> Layout {
    let layout = Layout::plain();
    let store = layout.root().join("store.git");
    fs::rename(layout.start.join(".git"), &store).expect("moved");
    symlink(store, layout.start.join(".git")).expect("linked");
    layout
}

/// `project/.bare`, `project/.git` that leads to it, and a worktree `project/main`.
pub(super) fn bare_and_git_file() -> Layout {
    let mut layout = Layout::plain();
    let project = layout.root().join("project");
    fs::create_dir(&project).expect("made");
    git(&project, &["clone", "-q", "--bare", "../demo", ".bare"]);
    write(&project, ".git", "gitdir: ./.bare\n");
    git(&project, &["worktree", "add", "-q", "main", "main"]);
    dirty(&project.join("main"));
    layout.start = project.join("main");
    layout.checkouts.push(project.join("main"));
    layout
}

pub(super) fn bare_and_git_file_from_the_project() -> Layout {
    let mut layout = bare_and_git_file();
    layout.start.pop();
    layout
}

/// `.git` is a symlink to a file that leads to the git directory.
pub(super) fn symlinked_git_file() -> Layout {
    let layout = separate_git_dir();
    fs::rename(layout.start.join(".git"), layout.root().join("git-file")).expect("moved");
    symlink("../git-file", layout.start.join(".git")).expect("linked");
    layout
}

/// A linked worktree of a submodule.
pub(super) fn linked_worktree_of_a_submodule() -> Layout {
    let mut layout = submodule();
    let linked = layout.root().join("linked");
    let path = linked.to_str().expect("UTF-8");
    git(&layout.start, &["worktree", "add", "-q", "-b", "linked", path]);
    dirty(&linked);
    layout.start = linked.clone();
    layout.checkouts.push(linked);
    layout
}

pub(super) fn dot_git_is_bare() -> Layout {
    let mut layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--bare", "demo", "project/.git"]);
    let project = layout.root().join("project");
    git(&project, &["worktree", "add", "-q", "main", "main"]);
    layout.start = project.join("main");
    layout.checkouts.push(project.join("main"));
    layout
}

/// A clone whose files were removed when it was made bare.
pub(super) fn clone_made_bare() -> Layout {
    let mut layout = Layout::plain().config(&[("core.bare", "true")]);
    for name in ["README.md", "src/main.rs", "docs/guide.md", ".gitignore", "precious.txt"] {
        fs::remove_file(layout.start.join(name)).expect("removed");
    }
    git(&layout.start, &["worktree", "add", "-q", "-b", "tree", "tree"]);
    layout.start.push("tree");
    dirty(&layout.start);
    layout.checkouts.push(layout.start.clone());
    layout
}

pub(super) fn bare() -> Layout {
    Layout::cloned(&["--bare"])
}

pub(super) fn mirror() -> Layout {
    Layout::cloned(&["--mirror"])
}

pub(super) fn core_worktree() -> Layout {
    Layout::plain().config(&[("core.worktree", "..")])
}

pub(super) fn core_worktree_for_all() -> Layout {
    let layout = Layout::plain();
    let path = layout.start.to_str().expect("UTF-8").to_owned();
    layout.config(&[("extensions.worktreeConfig", "true"), ("core.worktree", &path)])
}

pub(super) fn core_bare_by_mistake() -> Layout {
    Layout::plain().config(&[("core.bare", "true")])
}

pub(super) fn core_bare_by_mistake_for_all() -> Layout {
    Layout::plain().config(&[("extensions.worktreeConfig", "true"), ("core.bare", "true")])
}

/// As git documents it: `core.bare` is in the configuration of the bare repository alone.
pub(super) fn bare_with_worktree_config() -> Layout {
    let layout = bare();
    git(&layout.start, &["config", "extensions.worktreeConfig", "true"]);
    git(&layout.start, &["config", "--unset", "core.bare"]);
    git(&layout.start, &["config", "--file", "config.worktree", "core.bare", "true"]);
    layout
}

pub(super) fn submodule() -> Layout {
    let mut layout = Layout::plain();
    let library = layout.root().join("library");
    git(&layout.root(), &["clone", "-q", "demo", "library"]);
    let url = library.to_str().expect("UTF-8");
    git(&layout.start, &["submodule", "--quiet", "add", url, "vendor/library"]);
    layout.start.push("vendor/library");
    dirty(&layout.start);
    layout.checkouts.push(layout.start.clone());
    layout
}

pub(super) fn submodule_with_worktree_config() -> Layout {
    submodule().config(&[("extensions.worktreeConfig", "true")])
}

pub(super) fn linked_worktree() -> Layout {
    let mut layout = Layout::plain();
    git(&layout.start, &["worktree", "add", "-q", "-b", "linked", "../linked"]);
    layout.start = layout.root().join("linked");
    dirty(&layout.start);
    layout.checkouts.push(layout.start.clone());
    layout
}

pub(super) fn within_another() -> Layout {
    let outer = Layout::plain();
    let mut layout = outer;
    let inner = layout.start.join("tools/inner");
    fs::create_dir_all(&inner).expect("made");
    git(&inner, &["init", "-q", "-b", "main"]);
    fill(&inner);
    layout.start = inner;
    layout.checkouts = vec![layout.start.clone()];
    layout
}

/// `git --git-dir=$HOME/.dots --work-tree=$HOME`, as people keep their dotfiles.
pub(super) fn dotfiles() -> Layout {
    let root = TempDir::new().expect("a temporary directory");
    let home = canonical(root.path()).join("home");
    fs::create_dir(&home).expect("made");
    git(&home, &["init", "-q", "-b", "main", "--bare", ".dots"]);
    let with = ["--git-dir=.dots", "--work-tree=."];
    write(&home, "README.md", "demo\n");
    write(&home, "src/main.rs", "fn main() {}\n");
    git(&home, &[&with[..], &["add", "README.md", "src"]].concat());
    git(&home, &[&with[..], &["commit", "-q", "-m", "first"]].concat());
    dirty(&home);
    // Git knows of no checkout, so the pool may lie in it.
    Layout { root, start: home.join(".dots"), checkouts: vec![] }
}

pub(super) fn dotfiles_with_core_worktree() -> Layout {
    let mut layout = dotfiles();
    layout.checkouts.push(layout.root().join("home"));
    let home = layout.checkouts[0].to_str().expect("UTF-8").to_owned();
    layout.config(&[("core.bare", "false"), ("core.worktree", &home)])
}

pub(super) fn relative_paths() -> Layout {
    Layout::plain().config(&[("worktree.useRelativePaths", "true")])
}

pub(super) fn sha256() -> Layout {
    let layout = Layout::plain();
    fs::remove_dir_all(layout.start.join(".git")).expect("removed");
    git(&layout.start, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    fill(&layout.start);
    layout
}

pub(super) fn sparse() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["sparse-checkout", "set", "src"]);
    assert!(!layout.start.join("docs").exists());
    layout
}

pub(super) fn sparse_index() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["sparse-checkout", "set", "--cone", "--sparse-index", "src"]);
    layout
}

pub(super) fn sparse_by_patterns() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["sparse-checkout", "set", "--no-cone", "/*", "!/docs/"]);
    layout
}

pub(super) fn split_index() -> Layout {
    let layout = Layout::plain().config(&[("core.splitIndex", "true")]);
    git(&layout.start, &["update-index", "--split-index"]);
    layout
}

pub(super) fn many_files() -> Layout {
    let layout = Layout::plain().config(&[("feature.manyFiles", "true")]);
    git(&layout.start, &["update-index", "--index-version=4", "--untracked-cache"]);
    layout
}

pub(super) fn shallow() -> Layout {
    let layout = Layout::cloned(&["--depth=1"]);
    dirty(&layout.start);
    layout
}

pub(super) fn partial() -> Layout {
    let layout = Layout::cloned(&["--filter=blob:none"]);
    dirty(&layout.start);
    layout
}

pub(super) fn shared_objects() -> Layout {
    let layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--shared", "demo", "clone"]);
    let start = layout.root().join("clone");
    dirty(&start);
    Layout { checkouts: vec![layout.start.clone(), start.clone()], start, ..layout }
}

pub(super) fn reference_objects() -> Layout {
    let layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--reference", "demo", "demo", "clone"]);
    let start = layout.root().join("clone");
    dirty(&start);
    Layout { checkouts: vec![layout.start.clone(), start.clone()], start, ..layout }
}

pub(super) fn symlinked_parent() -> Layout {
    let mut layout = Layout::with_checkout("real/demo");
    symlink("real", layout.root().join("link")).expect("linked");
    layout.start = layout.root().join("link/demo");
    layout
}

pub(super) fn space_in_the_path() -> Layout {
    Layout::with_checkout("my projects/the demo")
}

pub(super) fn quotes_in_the_path() -> Layout {
    Layout::with_checkout("it's \"a\" $HOME `x`/-demo ")
}

pub(super) fn newline_in_the_path() -> Layout {
    Layout::with_checkout("two\nlines/the\ndemo")
}

pub(super) fn path_that_is_not_utf8() -> Layout {
    Layout::with_checkout(OsStr::from_bytes(b"caf\xe9/d\xe9mo"))
}
