//! Repositories to test with: made with stock git, hermetically, once per process and kind, and
//! copied for each test.

mod build;
pub mod dirty;
mod nested;
mod snapshot;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

pub use nested::states;
pub use snapshot::{Entry, Kind, Snapshot, snapshot, snapshot_files};
pub use state::{State, state};

/// The kinds of fixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// `repo/`: three commits on `main` (the second tagged `v1`), a branch `side` with one of its
    /// own, files in directories, an executable and (on Unix) a link. Its `.gitignore` has
    /// `target/`, `.env` and `*.log`, and there is a `.env`.
    Plain,
    /// `CW/`, which is no repository, holds `codewhale/`, which is one (a [`Plain`](Self::Plain)),
    /// and `notes/`, which is none.
    Nested,
    /// `CW/`, which is no repository, holds two: `codewhale/` and `narwhal/`.
    TwoNested,
    /// `repo.git/`: a bare one, with the commits of a [`Plain`](Self::Plain).
    Bare,
    /// `repo/` with an initialised submodule `vendor/lib`, whose origin is `lib/`.
    Submodule,
    /// `repo/` with directories `kept/` and `hidden/`, of which a cone-mode sparse checkout shows
    /// the first only.
    Sparse,
    /// `repo/`, cloned from `origin.git/`, whose branch `main` has an upstream; `origin/ahead` is
    /// one commit further.
    Cloned,
    /// `repo/` without any commit.
    Unborn,
    /// `repo/` with object ids of 256 bits; otherwise a [`Plain`](Self::Plain).
    Sha256,
    /// `repo/` with that many tracked files of some ten lines, a hundred per directory, in one
    /// commit.
    ManyFiles(u32),
}

/// A fixture repository of a test's own. Removed, with everything beside it, when dropped.
#[derive(Debug)]
pub struct Fixture {
    dir: TempDir,
    root: PathBuf,
    layout: Layout,
}

impl Fixture {
    /// A copy of that kind.
    ///
    /// # Panics
    ///
    /// When there is no git, or no space for it.
    pub fn new(layout: Layout) -> Self {
        let template = template(layout);
        let dir = temp_dir();
        let root = canonical(dir.path());
        template.copy_to(&root);
        let fixture = Self { dir, root, layout };
        if layout != Layout::Bare {
            // A copy's files have times of their own. An ordinary repository's index knows them.
            fixture.git().args(["update-index", "-q", "--refresh"]).ok();
        }
        fixture
    }

    /// A copy of [`Layout::Plain`].
    pub fn plain() -> Self {
        Self::new(Layout::Plain)
    }

    /// The repository: its main worktree, or a bare one's own directory. Canonical and absolute.
    /// Of two, the first.
    pub fn repo(&self) -> PathBuf {
        self.root.join(match self.layout {
            Layout::Nested | Layout::TwoNested => "CW/codewhale",
            Layout::Bare => "repo.git",
            _ => "repo",
        })
    }

    /// The second repository of [`Layout::TwoNested`].
    pub fn other_repo(&self) -> PathBuf {
        self.root.join("CW/narwhal")
    }

    /// The directory an agent is started in: the nested kinds' parent, else the repository.
    pub fn workspace(&self) -> PathBuf {
        match self.layout {
            Layout::Nested | Layout::TwoNested => self.root.join("CW"),
            _ => self.repo(),
        }
    }

    /// The fixture's own directory: there is room in it beside the repository. Canonical and
    /// absolute; in no repository itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which kind it is.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// A git command in the repository.
    pub fn git(&self) -> crate::Git {
        crate::git(self.repo())
    }

    /// What `HEAD` is.
    pub fn head(&self) -> String {
        self.git().args(["rev-parse", "HEAD"]).stdout()
    }

    /// Makes a linked worktree, with git itself, on a new branch of that name, in
    /// `<root>/linked/<name>`.
    pub fn worktree(&self, name: &str) -> PathBuf {
        let path = self.root.join("linked").join(name);
        self.git().args(["worktree", "add", "--quiet", "-b", name]).arg(&path).ok();
        path
    }

    /// Keeps the directory, to look into it after a failed test. Returns where it is.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}

/// A fixture in memory. It takes no place on disk between tests, so there is nothing to clean up
/// when the process ends.
#[derive(Debug)]
struct Template {
    tree: Snapshot,
    /// Where it was made, which git has written into some configuration files.
    made_in: String,
}

impl Template {
    fn build(layout: Layout) -> Self {
        let dir = temp_dir();
        let root = canonical(dir.path());
        build::build(layout, &root);
        Self { tree: snapshot::whole(&root), made_in: root.to_string_lossy().into_owned() }
    }

    fn copy_to(&self, root: &Path) {
        snapshot::materialise(&self.tree, root);
        let here = root.to_string_lossy();
        for (name, entry) in &self.tree {
            let Ok(text) = std::str::from_utf8(&entry.content) else { continue };
            if (name.ends_with(b"/config") || name.ends_with(b"/alternates"))
                && text.contains(&self.made_in)
            {
                let path = root.join(snapshot::path_of(name));
                std::fs::write(&path, text.replace(&self.made_in, &here))
                    .unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
            }
        }
    }
}

fn template(layout: Layout) -> Arc<Template> {
    type Cell = Arc<OnceLock<Arc<Template>>>;
    static TEMPLATES: Mutex<BTreeMap<Layout, Cell>> = Mutex::new(BTreeMap::new());
    let cell = {
        let mut all = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(layout).or_default())
    };
    // Outside the lock: tests that need another kind do not wait for this one.
    Arc::clone(cell.get_or_init(|| Arc::new(Template::build(layout))))
}

fn temp_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("wtpool-fixture-")
        .tempdir()
        .unwrap_or_else(|e| panic!("make a temporary directory: {e}"))
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|e| panic!("resolve {}: {e}", path.display()))
}
