//! Finding the repository that a directory belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use pool_core::{Error, ErrorKind, Result};

use crate::owner::default_pool;
use crate::settings::GitSettings;
use crate::site::{gix_error, options};

/// A git repository, and the worktree it was found from. All paths are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    common_dir: PathBuf,
    worktree: Option<PathBuf>,
    main_worktree: Option<PathBuf>,
    /// The worktree that the search started in, where `core.bare` says that it is none, yet there is an
    /// index.
    checkout: Option<PathBuf>,
    leads_to_main_worktree: bool,
    is_called_bare: bool,
    is_bare: bool,
    name: String,
    beside: PathBuf,
}

impl Repository {
    /// Finds the repository for a directory: the one it lies in (looking upward, from inside `.git`
    /// too), else the only one among its direct children.
    ///
    /// A submodule is a repository of its own. A linked worktree, a slot of the pool included,
    /// belongs to its main repository. No environment variable has an influence.
    ///
    /// # Errors
    ///
    /// [`AmbiguousRepository`](ErrorKind::AmbiguousRepository) when several children are
    /// repositories (all are named), [`NoRepository`](ErrorKind::NoRepository) when there is none or
    /// `start` is not a directory, any other when one was found and can't be opened.
    pub fn find(start: &Path) -> Result<Self> {
        let start = start.canonicalize().map_err(|e| {
            Error::new(
                ErrorKind::NoRepository,
                format!("cannot look for a repository in {}: {e}", start.display()),
            )
            .with_hint("name a directory that exists")
        })?;
        if !start.is_dir() {
            return Err(Error::new(
                ErrorKind::NoRepository,
                format!(
                    "cannot look for a repository in {}: it is not a directory",
                    start.display()
                ),
            ));
        }
        if let Ok((found, _)) = gix::discover::upwards(&start) {
            return Self::from_discovered(found);
        }
        let mut candidates: Vec<Self> = Vec::new();
        for child in children(&start)? {
            let Some(found) = repository_at(&child) else { continue };
            match candidates.iter_mut().find(|known| known.common_dir == found.common_dir) {
                // The main worktree stands for all of them, whichever was met first.
                Some(known) if found.worktree == found.main_worktree => *known = found,
                Some(_) => {}
                None => candidates.push(found),
            }
        }
        match candidates.len() {
            1 => Ok(candidates.remove(0)),
            0 => Err(Error::new(
                ErrorKind::NoRepository,
                format!(
                    "there is no git repository at {}, above it, or among its direct children",
                    start.display()
                ),
            )
            .with_hint("start inside a repository, or name one with `--repo`")),
            _ => {
                let paths: Vec<_> =
                    candidates.iter().map(|found| found.place().display().to_string()).collect();
                Err(Error::new(
                    ErrorKind::AmbiguousRepository,
                    format!(
                        "{} holds several git repositories: {}",
                        start.display(),
                        paths.join(", ")
                    ),
                )
                .with_hint("start inside one of them, or name it with `--repo`"))
            }
        }
    }

    /// Its common directory: `.git` of the main worktree, or the bare repository itself.
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    /// The worktree that the search started in, which may be a linked one. `None` in a bare
    /// repository, and inside `.git`.
    pub fn worktree(&self) -> Option<&Path> {
        self.worktree.as_deref()
    }

    /// Its main worktree; `None` when it is bare, and when the search started elsewhere than in the
    /// main worktree of a repository whose git directory does not tell where that is: one made by
    /// `git init --separate-git-dir`, or one whose `.git` is a symlink.
    pub fn main_worktree(&self) -> Option<&Path> {
        self.main_worktree.as_deref()
    }

    /// Whether git finds its main worktree from each worktree, and from the repository itself.
    pub(crate) fn leads_to_main_worktree(&self) -> bool {
        self.leads_to_main_worktree
    }

    /// Whether `core.bare` is true, which may be a mistake.
    pub(crate) fn is_called_bare(&self) -> bool {
        self.is_called_bare
    }

    /// Returns the directory that the search started in, if it has a `.git` and the repository an index
    /// although `core.bare` is true: most often a checkout in which git refuses to work by mistake.
    pub fn checkout(&self) -> Option<&Path> {
        self.checkout.as_deref()
    }

    /// Whether it has no main worktree, as `core.bare` says, nor an index. If it has one, the branch of its `HEAD` is
    /// checked out, even where [`main_worktree`](Self::main_worktree) does not know the path.
    pub fn is_bare(&self) -> bool {
        self.is_bare
    }

    /// What people call it: the name of its main worktree's directory, or that of the bare
    /// repository without `.git`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its pool is unless told otherwise: `.wtpool/<name>-<hash>` beside it, so on its
    /// filesystem, out of reach of `git clean`, and distinct for two clones. Beside the outermost
    /// superproject for a submodule. If it had a pool at an earlier path, and was moved since, that
    /// pool; if another repository's pool is there, a numbered one. Nothing is created.
    pub fn default_pool_dir(&self) -> PathBuf {
        default_pool(self, self.nominal_pool_dir())
    }

    /// The default pool's path as it follows from the repository's own.
    fn nominal_pool_dir(&self) -> PathBuf {
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(self.common_dir.as_os_str().as_encoded_bytes());
        let hash = match hasher.try_finalize() {
            Ok(id) => id.to_hex_with_len(8).to_string(),
            // Only for input that is made to break SHA-1; no path is.
            Err(_) => "0".repeat(8),
        };
        self.beside.join(".wtpool").join(format!("{}-{hash}", self.name))
    }

    /// The directory beside it in which default pools are.
    pub(crate) fn beside(&self) -> &Path {
        &self.beside
    }

    pub(crate) fn place(&self) -> &Path {
        self.worktree.as_deref().unwrap_or(&self.common_dir)
    }

    fn from_discovered(found: gix::discover::repository::Path) -> Result<Self> {
        let (git_dir, worktree) = found.into_repository_and_work_tree_directories();
        // Where things are does not depend on the user's settings.
        let settings = GitSettings { user_config: false, ..Default::default() };
        let open = |dir: &Path| {
            gix::open_opts(dir, options(&settings).open_path_as_is(true))
                .map_err(|e| gix_error(format!("open the repository {}", dir.display()), e))
        };
        let canonical = |path: &Path| {
            path.canonicalize().map_err(|e| Error::io(format!("resolve {}", path.display()), e))
        };
        let git_dir = canonical(&git_dir)?;
        let common_dir = canonical(open(&git_dir)?.common_dir())?;
        let main = open(&common_dir)?;
        let core_bare = main.config_snapshot().boolean("core.bare");
        // The main worktree that git finds when it starts at the git directory.
        let derived = match main.workdir() {
            // It may be configured and gone.
            Some(path) if !main.is_bare() => canonical(path).ok(),
            _ => None,
        };
        let is_linked = git_dir != common_dir;
        // Git calls nothing the main worktree of a repository that `core.bare` says is bare, not even
        // the directory of a `.git` file that leads there. And gix may have taken the directory of a
        // bare repository for a worktree.
        let is_worktree =
            |path: &PathBuf| is_linked || (core_bare != Some(true) && *path != common_dir);
        let found = worktree.as_deref().map(canonical).transpose()?;
        let worktree = found.clone().filter(is_worktree);
        // If the git directory was made by `git init --separate-git-dir`, or `.git` is a symlink, the
        // worktree leads to the git directory, but nothing leads back.
        let main_worktree = derived.clone().or_else(|| worktree.clone().filter(|_| !is_linked));
        // Git makes an index only for a checkout, whatever `core.bare` says.
        let has_index = common_dir.join("index").exists();
        let is_bare = core_bare.unwrap_or(main_worktree.is_none()) && !has_index;
        // A checkout that `core.bare` denies, by mistake.
        let is_denied = core_bare == Some(true) && has_index && !is_linked;
        let checkout = found.filter(|path| is_denied && *path != common_dir);
        // Which pool is a repository's must not depend on where the search began.
        let home = derived.as_deref().unwrap_or(&common_dir);
        Ok(Self {
            name: name_of(home),
            beside: beside(home, &common_dir),
            common_dir,
            worktree,
            main_worktree,
            checkout,
            leads_to_main_worktree: derived.is_some(),
            is_called_bare: core_bare == Some(true),
            is_bare,
        })
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut children: Vec<_> = fs::read_dir(dir)
        .map_err(|e| Error::io(format!("read {}", dir.display()), e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    children.sort();
    Ok(children)
}

/// The repository whose root, or whose worktree's root, that directory is.
fn repository_at(dir: &Path) -> Option<Repository> {
    let (found, _) = gix::discover::upwards(dir).ok()?;
    let dir = dir.canonicalize().ok()?;
    // Also the directory of a `.git` file that leads to a bare repository.
    let (_, top) = found.clone().into_repository_and_work_tree_directories();
    let is_top = top.and_then(|top| top.canonicalize().ok()).is_some_and(|top| top == dir);
    let repository = Repository::from_discovered(found).ok()?;
    (is_top || repository.common_dir == dir).then_some(repository)
}

fn name_of(home: &Path) -> String {
    let base = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = base(home).unwrap_or_default();
    let name = match name.strip_suffix(".git").unwrap_or(&name) {
        // `project/.git` and `project/.bare` are known by their project.
        hidden if hidden.is_empty() || hidden.starts_with('.') => home.parent().and_then(base),
        name => Some(name.to_owned()),
    };
    name.unwrap_or_else(|| "repository".to_owned())
}

/// The directory beside the repository: never one inside another repository that contains it as a
/// submodule, where the pool would show up as an untracked directory.
fn beside(home: &Path, common_dir: &Path) -> PathBuf {
    let mut home = home.to_owned();
    loop {
        let parent = home.parent().unwrap_or(&home).to_owned();
        let above = gix::discover::upwards(&parent)
            .ok()
            .map(|(found, _)| found.into_repository_and_work_tree_directories());
        match above {
            Some((git_dir, Some(worktree)))
                if git_dir.canonicalize().is_ok_and(|dir| common_dir.starts_with(dir))
                    && parent.starts_with(&worktree) =>
            {
                home = worktree;
            }
            _ => return parent,
        }
    }
}
