//! The worktree that a pool's settings and set-up files come from.
//!
//! That is the main worktree. A bare repository has none, and from a slot git does not find one whose
//! git directory is elsewhere (`git init --separate-git-dir`). There it is the caller's worktree, or
//! one that an earlier caller had: the pool records those. It is never a slot, nor a worktree below
//! one: the files there are another lease's.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pool_core::{Error, Result, open_plain};

use crate::inspect::os;
use crate::owner::pool_owner;
use crate::registration::{self, REGISTRATION_LOCK};
use crate::repository::Repository;
use crate::settings::GitSettings;
use crate::site::{Site, gix_error, options, read_link_file, resolved};

/// The file in the pool's directory that has the worktrees of earlier callers, the latest first. Each
/// path ends in a NUL byte.
const RECORD: &str = "source-worktrees";
/// The same, being written.
const NEW_RECORD: &str = ".source-worktrees.new";
/// The number of worktrees that the file has at most.
const MOST: usize = 16;
/// The number of files of an index that are looked for.
const ENOUGH: usize = 1000;
/// The number of bytes that are read of it: so many paths of the longest length there is.
const LONGEST: u64 = 16 * 4097;

/// Returns the worktree that the settings and set-up files of the pool in `pool_dir` come from: the
/// repository's main worktree; if there is none, or its path is not known, the one that the search
/// for `repository` started in; else the last that a lease was taken from. `None` if none is known.
/// A slot of a pool is never returned. Nothing is changed.
///
/// # Errors
///
/// If the pool's record of earlier worktrees exists and can't be read.
///
/// # Example
///
/// ```no_run
/// use std::path::Path;
///
/// let repository = git_backend::Repository::find(Path::new("project.git"))?;
/// let source = git_backend::source_worktree(&repository, &repository.default_pool_dir())?;
/// let settings = source.map(|worktree| worktree.join(".wtpool.toml"));
/// # Ok::<(), pool_core::Error>(())
/// ```
pub fn source_worktree(repository: &Repository, pool_dir: &Path) -> Result<Option<PathBuf>> {
    Ok(Source::find(repository, &resolved(pool_dir))?.map(|source| source.path))
}

/// A worktree that settings and set-up files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its root, canonical.
    pub(crate) path: PathBuf,
    /// Its administrative directory if it is a linked worktree; `None` for a main worktree.
    admin: Option<PathBuf>,
    /// Whether git finds it from each worktree of the repository.
    is_always_found: bool,
}

impl Source {
    /// See [`source_worktree`]; `pool_dir` is canonical.
    pub(crate) fn find(repository: &Repository, pool_dir: &Path) -> Result<Option<Self>> {
        if let Some(main) = repository.main_worktree() {
            let is_always_found = repository.leads_to_main_worktree();
            return Ok(Some(Self { path: main.to_owned(), admin: None, is_always_found }));
        }
        let recorded = read(pool_dir)?;
        let mut recorded = recorded
            .iter()
            // Another user would say what is copied, and which files need no rescue.
            .filter(|path| gix::sec::identity::is_path_owned_by_current_user(path).unwrap_or(false))
            .filter_map(|path| Self::at(repository, pool_dir, path))
            .peekable();
        let latest = recorded.peek().cloned();
        // Git would find it, if it could. It has no main worktree where `core.bare` is true.
        let is_main = |source: &Self| source.admin.is_none() && !repository.is_called_bare();
        if let Some(main) = recorded.find(is_main) {
            return Ok(Some(main));
        }
        let callers = repository.worktree().or(repository.checkout());
        Ok(callers.and_then(|path| Self::at(repository, pool_dir, path)).or(latest))
    }

    /// The worktree of the repository at `path`, unless that is a slot: it and the repository name
    /// each other.
    fn at(repository: &Repository, pool_dir: &Path, path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let dot_git = path.join(".git");
        let common_dir = repository.common_dir();
        let git_dir = match fs::metadata(&dot_git).ok()?.is_file() {
            true => resolved(&path.join(read_link_file(&dot_git, b"gitdir: ").ok()?)),
            false => resolved(&dot_git),
        };
        if is_in_a_pool(pool_dir, &path) {
            return None;
        }
        if git_dir == common_dir {
            // The directory of a `.git` file that leads to a bare repository is no worktree.
            let is_main = !repository.is_bare()
                && (!repository.is_called_bare() || has_tracked_file(common_dir, &path));
            return is_main.then_some(Self { path, admin: None, is_always_found: false });
        }
        let back = read_link_file(&git_dir.join("gitdir"), b"").ok()?;
        let is_registered = git_dir.parent() == Some(&*common_dir.join("worktrees"))
            && resolved(&git_dir.join(back)) == dot_git;
        is_registered.then_some(Self { path, admin: Some(git_dir), is_always_found: false })
    }

    /// Opens the repository as git in this worktree sees it.
    pub(crate) fn open(&self, site: &Site) -> Result<gix::Repository> {
        let mut repo = match &self.admin {
            Some(admin) => site.open_admin(admin)?,
            None => site.repo(),
        };
        repo.set_workdir(self.path.clone())
            .map_err(|e| gix_error(format!("open {}", self.path.display()), e))?;
        Ok(repo)
    }

    /// Its path, if it is a main worktree.
    pub(crate) fn main_worktree(&self) -> Option<&Path> {
        self.admin.is_none().then_some(&*self.path)
    }
}

/// Whether any of the files of the index is there. An index without them is left where a clone was made
/// a bare repository, its worktrees below.
fn has_tracked_file(common_dir: &Path, checkout: &Path) -> bool {
    let options = options(&GitSettings { user_config: false, ..Default::default() });
    let repo = gix::open_opts(common_dir, options.open_path_as_is(true));
    let Ok(index) = repo.and_then(|repo| repo.index_or_empty()) else { return false };
    let mut files = index.entries().iter().take(ENOUGH).map(|entry| entry.path(&index));
    files.any(|path| fs::symlink_metadata(checkout.join(os::path(path))).is_ok())
}

/// Whether a path lies in the pool, or in a slot of any pool.
fn is_in_a_pool(pool_dir: &Path, path: &Path) -> bool {
    let is_pool = |dir: &Path| {
        let has_lock = fs::symlink_metadata(dir.join(REGISTRATION_LOCK)).is_ok();
        has_lock || matches!(pool_owner(dir), Ok(Some(_)))
    };
    let mut slots = path.ancestors().filter(|dir| dir.ends_with("slots"));
    path.starts_with(pool_dir) || slots.any(|slots| slots.parent().is_some_and(is_pool))
}

/// Records the worktree that a lease was taken from, for callers that are in none.
///
/// # Errors
///
/// If the record can't be read or written.
pub(crate) fn record(site: &Site) -> Result<()> {
    let Some(source) = site.source.as_ref().filter(|source| !source.is_always_found) else {
        return Ok(());
    };
    if read(&site.pool_dir)?.first() == Some(&source.path) {
        return Ok(());
    }
    registration::exclusively(site, &AtomicBool::new(false), || {
        let mut paths = read(&site.pool_dir)?;
        paths.retain(|path| *path != source.path);
        paths.insert(0, source.path.clone());
        paths.truncate(MOST);
        let file = site.pool_dir.join(RECORD);
        write(&site.pool_dir, &file, &paths)
            .map_err(|e| Error::io(format!("write {}", file.display()), e))
    })
}

fn write(pool_dir: &Path, file: &Path, paths: &[PathBuf]) -> io::Result<()> {
    let unfinished = pool_dir.join(NEW_RECORD);
    let mut options = File::options();
    let mut to = open_plain(options.create(true).truncate(true).write(true), &unfinished)?;
    for path in paths {
        to.write_all(&os::bytes(path.as_os_str()))?;
        to.write_all(b"\0")?;
    }
    to.sync_all()?;
    fs::rename(&unfinished, file)
}

fn read(pool_dir: &Path) -> Result<Vec<PathBuf>> {
    let file = pool_dir.join(RECORD);
    let mut bytes = Vec::new();
    let found = open_plain(File::options().read(true), &file)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    match found {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(|e| Error::io(format!("read {}", file.display()), e))?,
    };
    let paths =
        bytes.split(|byte| *byte == 0).filter_map(|path| gix::path::from_byte_slice(path).ok());
    Ok(paths.filter(|path| path.is_absolute()).take(MOST).map(Path::to_owned).collect())
}
