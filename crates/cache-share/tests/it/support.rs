//! What the tests of this crate share: pools over real repositories, and small workspaces to build there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::SystemTime;

use cache_share::{Lean, Seeded, Setup};
use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{
    CacheStrategy, LeaseGuard, Pool, Prepared, Release, Request, Result, SessionId, Wish,
};
use tempfile::TempDir;
use testkit::{git, truth};
use tokio::runtime::Runtime;

pub(crate) fn isolator(repo: &Path, pool_dir: &Path) -> Arc<GitIsolator> {
    let repository = Repository::find(repo).expect("there is a repository");
    let copy = vec![".env".to_owned()];
    let settings = GitSettings { user_config: false, copy, ..GitSettings::default() };
    Arc::new(GitIsolator::open(&repository, pool_dir, settings).expect("it can be opened"))
}

pub(crate) fn over(isolator: Arc<GitIsolator>, cache: Arc<dyn CacheStrategy>) -> Pool {
    Pool::builder(isolator).cache(cache).open().expect("the settings are valid")
}

/// A pool that starts from a base, with every slot as it would be alone.
pub(crate) fn seeded(repo: &Path, pool_dir: &Path, change: impl FnOnce(&mut Setup)) -> Pool {
    pool(repo, pool_dir, |mut setup| {
        change(&mut setup);
        Arc::new(Seeded::new(setup))
    })
}

fn pool(repo: &Path, pool_dir: &Path, cache: impl FnOnce(Setup) -> Arc<dyn CacheStrategy>) -> Pool {
    let isolator = isolator(repo, pool_dir);
    let setup = Setup {
        wrapper: Some(env!("CARGO_BIN_EXE_wtpool-rustc").into()),
        lean: Lean::Never,
        ..Setup::new(pool_dir, isolator.clone())
    };
    over(isolator, cache(setup))
}

/// A repository with a workspace of cargo's, and a pool over it.
#[derive(Debug)]
pub(crate) struct Workshop {
    root: PathBuf,
    runtime: Runtime,
    pool: Pool,
    /// Removed last.
    _dir: TempDir,
}

impl Workshop {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self::with(files, |_| ())
    }

    pub(crate) fn with(files: &[(&str, &str)], change: impl FnOnce(&mut Setup)) -> Self {
        Self::using(files, |mut setup| {
            change(&mut setup);
            Arc::new(Seeded::new(setup))
        })
    }

    /// One whose pool shares builds in another way.
    pub(crate) fn using(
        files: &[(&str, &str)],
        cache: impl FnOnce(Setup) -> Arc<dyn CacheStrategy>,
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("wtpool-cache-").tempdir();
        let dir = dir.expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it exists");
        let repo = root.join("repo");
        for (path, content) in files {
            write(&repo, path, content);
        }
        write(&repo, ".gitignore", "target/\n.env\n");
        let mut lock = truth::cargo(&repo, &BTreeMap::new());
        let locked = lock.args(["generate-lockfile", "--quiet"]).output().expect("cargo runs");
        assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
        git(&repo).args(["init", "--quiet", "-b", "main"]).ok();
        commit(&repo);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let pool = {
            let _inside = runtime.enter();
            pool(&repo, &root.join("pool"), cache)
        };
        Self { root, runtime, pool, _dir: dir }
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    pub(crate) fn pool_dir(&self) -> PathBuf {
        self.root.join("pool")
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Has a base built, of that revision.
    pub(crate) fn warm(&self, revision: &str) -> Result<Prepared> {
        self.block_on(self.pool.prepare_cache(Some(revision.to_owned()), None, &|_| ()))
    }

    /// Where that base is.
    pub(crate) fn base(&self, number: u64) -> PathBuf {
        self.pool_dir().join("cache/base").join(number.to_string())
    }

    /// A lease at that revision. Its slot is kept for the next one.
    pub(crate) fn lease(&self, revision: &str) -> Lease {
        let guard = self.block_on(self.pool.acquire(request(revision)));
        Lease(guard.expect("a lease is given in any case"))
    }

    pub(crate) fn release(&self, lease: Lease) {
        self.block_on(lease.0.release(Release::default())).expect("it is live");
    }
}

pub(crate) fn request(revision: &str) -> Request {
    let session = SessionId::new("tests").expect("a valid id");
    Request {
        wish: Wish { base: Some(revision.to_owned()), ..Wish::default() },
        session: Some((session, None)),
        ..Request::new("tests")
    }
}

/// A lease, and what is done in it.
#[derive(Debug)]
pub(crate) struct Lease(pub(crate) LeaseGuard);

impl Lease {
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path()
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.0.lease().attachment.warm
    }

    /// What it was told about its cache.
    pub(crate) fn reason(&self) -> String {
        self.0.lease().attachment.reason.clone().unwrap_or_default()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        write(&self.path(), path, content);
    }

    pub(crate) fn cargo(&self, args: &str) -> Output {
        let mut cargo = truth::cargo(&self.path(), &self.0.lease().attachment.env);
        cargo.args(args.split(' ')).output().expect("cargo runs")
    }

    /// What cargo prints, which must succeed.
    pub(crate) fn shows(&self, args: &str) -> String {
        let output = self.cargo(args);
        let said = String::from_utf8_lossy(&output.stderr);
        let place = self.path();
        assert!(output.status.success(), "cargo {args} in {}:\n{said}", place.display());
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// How cargo judges each unit of a build that is not a build script's.
    pub(crate) fn built_anew(&self, args: &str) -> Vec<String> {
        let shown = self.shows(&format!("{args} --message-format=json"));
        let messages = shown.lines().filter_map(|line| line.parse::<serde_json::Value>().ok());
        messages
            .filter(|message| message["fresh"] == false)
            .filter_map(|message| Some(message["target"]["name"].as_str()?.to_owned()))
            .collect()
    }
}

pub(crate) fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().expect("it is in a directory")).expect("made");
    std::fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

/// Commits all there is.
pub(crate) fn commit(dir: &Path) -> String {
    git(dir).args(["add", "--all"]).ok();
    git(dir).args(["commit", "--quiet", "--allow-empty", "-m", "work"]).ok();
    git(dir).args(["rev-parse", "HEAD"]).stdout()
}

/// Everything below a directory, by its path: what can be asked of it, and what is in it.
pub(crate) type Seen = BTreeMap<PathBuf, (Facts, Vec<u8>)>;

/// Kind and mode, inode, and when it was modified.
type Facts = (u32, u64, Option<SystemTime>);

pub(crate) fn look(dir: &Path) -> Seen {
    let mut seen = Seen::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("it is there");
        let content = if meta.is_file() { std::fs::read(&path).expect("read") } else { Vec::new() };
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            todo.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let (mode, inode) = mode_and_inode(&meta);
        seen.insert(path, ((mode, inode, meta.modified().ok()), content));
    }
    seen
}

/// Asserts that a directory is what it was.
pub(crate) fn assert_same(before: &Seen, now: &Seen) {
    for (path, was) in before {
        let (facts, content) = now.get(path).unwrap_or_else(|| panic!("{path:?} is gone"));
        assert_eq!(*facts, was.0, "{path:?}: mode, inode or time");
        assert!(*content == was.1, "{path:?}: the content is another one");
    }
    let new: Vec<_> = now.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(new.is_empty(), "{new:?}: was not there");
}

#[cfg(unix)]
fn mode_and_inode(meta: &std::fs::Metadata) -> (u32, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (meta.mode(), meta.ino())
}

#[cfg(not(unix))]
fn mode_and_inode(_: &std::fs::Metadata) -> (u32, u64) {
    (0, 0)
}

/// Says that a test was skipped, and why.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
