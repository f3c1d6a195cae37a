//! Layouts of other people's repositories: in each one, a slot has its whole life, git in the slot
//! means the slot, and the user's own checkout stays as it is, byte for byte.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, Repository};
use pool_core::{ErrorKind, Isolator, Plan, RescueId, SlotId};
use tempfile::TempDir;

use crate::support::{archive, detached, plan, proof, settings, skip, write};

/// A user's repository, in a directory of its own.
struct Layout {
    root: TempDir,
    /// The directory that the caller is in.
    start: PathBuf,
    /// The checkouts that the user has.
    checkouts: Vec<PathBuf>,
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

    fn plain() -> Self {
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

    fn root(&self) -> PathBuf {
        canonical(self.root.path())
    }

    fn config(self, settings: &[(&str, &str)]) -> Self {
        for (key, value) in settings {
            git(&self.start, &["config", key, value]);
        }
        self
    }

    /// What the user has: the files of all checkouts and all that git keeps, other than objects.
    fn of_the_user(&self) -> BTreeMap<PathBuf, Vec<u8>> {
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
    fn assert_untouched(&self, before: &BTreeMap<PathBuf, Vec<u8>>, step: &str) {
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

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().expect("it exists")
}

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let mut output = testkit::git(dir).args(args).bytes();
    output.truncate(output.len() - usize::from(output.ends_with(b"\n")));
    output
}

fn git_path(dir: &Path, args: &[&str]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&git(dir, args)))
}

/// Commits a few files, and leaves what git does not know of.
fn fill(checkout: &Path) {
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

fn plain() -> Layout {
    Layout::plain()
}

fn separate_git_dir() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["init", "-q", "--separate-git-dir", "../store.git"]);
    layout
}

fn symlinked_git_dir() -> Layout {
    let layout = Layout::plain();
    let store = layout.root().join("store.git");
    fs::rename(layout.start.join(".git"), &store).expect("moved");
    symlink(store, layout.start.join(".git")).expect("linked");
    layout
}

/// `project/.bare`, `project/.git` that leads to it, and a worktree `project/main`.
fn bare_and_git_file() -> Layout {
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

fn bare_and_git_file_from_the_project() -> Layout {
    let mut layout = bare_and_git_file();
    layout.start.pop();
    layout
}

fn dot_git_is_bare() -> Layout {
    let mut layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--bare", "demo", "project/.git"]);
    let project = layout.root().join("project");
    git(&project, &["worktree", "add", "-q", "main", "main"]);
    layout.start = project.join("main");
    layout.checkouts.push(project.join("main"));
    layout
}

fn bare() -> Layout {
    Layout::cloned(&["--bare"])
}

fn mirror() -> Layout {
    Layout::cloned(&["--mirror"])
}

fn core_worktree() -> Layout {
    Layout::plain().config(&[("core.worktree", "..")])
}

fn core_worktree_for_all() -> Layout {
    let layout = Layout::plain();
    let path = layout.start.to_str().expect("UTF-8").to_owned();
    layout.config(&[("extensions.worktreeConfig", "true"), ("core.worktree", &path)])
}

fn core_bare_by_mistake() -> Layout {
    Layout::plain().config(&[("core.bare", "true")])
}

fn core_bare_by_mistake_for_all() -> Layout {
    Layout::plain().config(&[("extensions.worktreeConfig", "true"), ("core.bare", "true")])
}

/// As git documents it: `core.bare` is in the configuration of the bare repository alone.
fn bare_with_worktree_config() -> Layout {
    let layout = bare();
    git(&layout.start, &["config", "extensions.worktreeConfig", "true"]);
    git(&layout.start, &["config", "--unset", "core.bare"]);
    git(&layout.start, &["config", "--file", "config.worktree", "core.bare", "true"]);
    layout
}

fn submodule() -> Layout {
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

fn submodule_with_worktree_config() -> Layout {
    submodule().config(&[("extensions.worktreeConfig", "true")])
}

fn linked_worktree() -> Layout {
    let mut layout = Layout::plain();
    git(&layout.start, &["worktree", "add", "-q", "-b", "linked", "../linked"]);
    layout.start = layout.root().join("linked");
    dirty(&layout.start);
    layout.checkouts.push(layout.start.clone());
    layout
}

fn within_another() -> Layout {
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
fn dotfiles() -> Layout {
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

fn dotfiles_with_core_worktree() -> Layout {
    let mut layout = dotfiles();
    layout.checkouts.push(layout.root().join("home"));
    let home = layout.checkouts[0].to_str().expect("UTF-8").to_owned();
    layout.config(&[("core.bare", "false"), ("core.worktree", &home)])
}

fn relative_paths() -> Layout {
    Layout::plain().config(&[("worktree.useRelativePaths", "true")])
}

fn sha256() -> Layout {
    let layout = Layout::plain();
    fs::remove_dir_all(layout.start.join(".git")).expect("removed");
    git(&layout.start, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    fill(&layout.start);
    layout
}

fn sparse() -> Layout {
    let layout = Layout::plain();
    git(&layout.start, &["sparse-checkout", "set", "src"]);
    assert!(!layout.start.join("docs").exists());
    layout
}

fn shallow() -> Layout {
    let layout = Layout::cloned(&["--depth=1"]);
    dirty(&layout.start);
    layout
}

fn partial() -> Layout {
    let layout = Layout::cloned(&["--filter=blob:none"]);
    dirty(&layout.start);
    layout
}

fn shared_objects() -> Layout {
    let layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--shared", "demo", "clone"]);
    let start = layout.root().join("clone");
    dirty(&start);
    Layout { checkouts: vec![layout.start.clone(), start.clone()], start, ..layout }
}

fn reference_objects() -> Layout {
    let layout = Layout::plain();
    git(&layout.root(), &["clone", "-q", "--reference", "demo", "demo", "clone"]);
    let start = layout.root().join("clone");
    dirty(&start);
    Layout { checkouts: vec![layout.start.clone(), start.clone()], start, ..layout }
}

fn symlinked_parent() -> Layout {
    let mut layout = Layout::with_checkout("real/demo");
    symlink("real", layout.root().join("link")).expect("linked");
    layout.start = layout.root().join("link/demo");
    layout
}

fn space_in_the_path() -> Layout {
    Layout::with_checkout("my projects/the demo")
}

fn newline_in_the_path() -> Layout {
    Layout::with_checkout("two\nlines/the\ndemo")
}

fn path_that_is_not_utf8() -> Layout {
    Layout::with_checkout(OsStr::from_bytes(b"caf\xe9/d\xe9mo"))
}

/// A slot's life, and what is known of it on the way.
struct Life {
    layout: Layout,
    isolator: GitIsolator,
    before: BTreeMap<PathBuf, Vec<u8>>,
    place: PathBuf,
}

impl Life {
    fn begin(layout: Layout) -> Self {
        let before = layout.of_the_user();
        let repository = Repository::find(&layout.start).expect("found");
        let pool_dir = repository.default_pool_dir();
        for checkout in &layout.checkouts {
            // A repository within another has its pool beside itself.
            assert!(!pool_dir.starts_with(checkout), "the pool lies in {}", checkout.display());
        }
        let isolator = GitIsolator::open(&repository, &pool_dir, settings()).expect("opened");
        Self { place: isolator.place(SlotId(1)), layout, isolator, before }
    }

    /// Stock git, started in the slot or below it, works in the slot, and all of it is clean.
    fn assert_means(&self, place: &Path, step: &str) {
        let common_dir =
            Repository::find(&self.layout.start).expect("found").common_dir().to_owned();
        for dir in [place.to_owned(), place.join("src")] {
            assert_eq!(git_path(&dir, &["rev-parse", "--show-toplevel"]), place, "{step}");
            let git_dir = git_path(&dir, &["rev-parse", "--absolute-git-dir"]);
            assert_eq!(git_dir.parent(), Some(&*common_dir.join("worktrees")), "{step}");
            let found = canonical(&dir.join(git_path(&dir, &["rev-parse", "--git-common-dir"])));
            assert_eq!(found, common_dir, "{step}");
        }
        assert_eq!(git(place, &["rev-parse", "--is-bare-repository"]), b"false", "{step}");
        self.layout.assert_untouched(&self.before, step);
    }

    async fn provision(&self) -> Plan {
        let lease = plan(&self.isolator, 1, "first").await;
        self.isolator.provision(&lease).await.expect("provisioned");
        self.assert_means(&self.place, "provision");
        assert_eq!(git(&self.place, &["status", "--porcelain"]), b"");
        assert_eq!(fs::read(self.place.join("README.md")).expect("checked out"), b"demo\n");
        lease
    }

    /// An agent commits, cleans, resets, and leaves files behind.
    fn work(&self) {
        let place = &self.place;
        write(place, "junk", "junk\n");
        git(place, &["clean", "-fdxq"]);
        write(place, "src/main.rs", "fn main() { work() }\n");
        git(place, &["commit", "-q", "-a", "-m", "work"]);
        git(place, &["reset", "-q", "--hard"]);
        write(place, "src/staged.rs", "staged\n");
        git(place, &["add", "src/staged.rs"]);
        write(place, "left-behind", "left behind\n");
        git(place, &["stash", "-q", "-u"]);
        git(place, &["stash", "pop", "-q", "--index"]);
        self.assert_means(place, "work");
    }

    /// Ends the lease; the slot is the next one's, without a branch.
    async fn recycle(&self, lease: &Plan) -> (Plan, RescueId) {
        let settled = proof(&self.isolator, lease).await;
        self.layout.assert_untouched(&self.before, "rescue");
        let rescue = settled.rescue().expect("saved").id.clone();
        let next = detached(&self.isolator, 1, "second").await;
        self.isolator.recycle(&next, settled).await.expect("recycled");
        self.assert_means(&self.place, "recycle");
        assert_eq!(git(&self.place, &["status", "--porcelain", "--ignored"]), b"");
        assert!(!self.place.join("left-behind").exists());
        (next, rescue)
    }

    async fn restore(&self, rescue: &RescueId) {
        let into = self.layout.root().join("restored");
        archive(&self.isolator).restore_into(rescue, &into).await.expect("restored");
        self.assert_means(&into, "restore");
        let status = git(&into, &["status", "--porcelain"]);
        assert_eq!(String::from_utf8_lossy(&status), "A  src/staged.rs\n?? left-behind");
        let main = fs::read(into.join("src/main.rs")).expect("restored");
        assert_eq!(main, b"fn main() { work() }\n");
        git(&into, &["worktree", "remove", "--force", "."]);
    }

    async fn remove(&self, lease: &Plan) {
        let settled = proof(&self.isolator, lease).await;
        self.isolator.dispose(settled).await.expect("removed");
        assert!(!self.place.exists());
        self.layout.assert_untouched(&self.before, "removal");
        let list = git(&self.layout.start, &["worktree", "list", "--porcelain", "-z"]);
        let slots = self.isolator.pool_dir().expect("a directory").as_os_str().as_bytes();
        assert!(!list.windows(slots.len()).any(|part| part == slots), "nothing is registered");
        // The work is a commit on the branch of the lease.
        let work = git(&self.layout.start, &["show", "wtpool/first:src/main.rs"]);
        assert_eq!(work, b"fn main() { work() }");
    }
}

async fn whole_life(layout: Layout) {
    let life = Life::begin(layout);
    let first = life.provision().await;
    life.work();
    let (second, rescue) = life.recycle(&first).await;
    life.restore(&rescue).await;
    life.remove(&second).await;
}

/// One test for each layout.
macro_rules! whole_life_in {
    ($($layout:ident)*) => {
        mod whole_life_in {
            $(#[tokio::test]
            async fn $layout() {
                super::whole_life(super::$layout()).await;
            })*
        }
    };
}

whole_life_in! {
    plain
    separate_git_dir
    symlinked_git_dir
    bare_and_git_file
    bare_and_git_file_from_the_project
    dot_git_is_bare
    bare
    bare_with_worktree_config
    mirror
    core_worktree
    core_worktree_for_all
    core_bare_by_mistake
    core_bare_by_mistake_for_all
    submodule
    submodule_with_worktree_config
    linked_worktree
    within_another
    dotfiles
    dotfiles_with_core_worktree
    relative_paths
    sha256
    sparse
    shallow
    partial
    shared_objects
    reference_objects
    symlinked_parent
    space_in_the_path
    newline_in_the_path
    path_that_is_not_utf8
}

#[tokio::test]
async fn what_is_not_supported_is_refused_and_stays_as_it_is() {
    let layout = Layout::plain();
    fs::remove_dir_all(layout.start.join(".git")).expect("removed");
    let init = ["init", "-q", "-b", "main", "--ref-format=reftable"];
    if !testkit::git(&layout.start).args(init).succeeds() {
        return skip("this git has no reftables");
    }
    fill(&layout.start);
    let before = layout.of_the_user();
    let repository = Repository::find(&layout.start).expect("found");
    let pool_dir = repository.default_pool_dir();
    let error = GitIsolator::open(&repository, &pool_dir, settings()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("reftable") && error.hint().is_some(), "{error}");
    assert_eq!(layout.of_the_user(), before);
    assert!(!pool_dir.exists());
}
