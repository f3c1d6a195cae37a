//! From the command line to an open pool.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache_share::{Directories, Private, Sccache, Seeded, Setup, SharedTarget};
use git_backend::{
    GitIsolator, Other, Repository, check_pool_owner, earlier_pool_dirs, pool_owner,
    repository_beside, source_worktree,
};
use pool_core::{
    CacheStrategy, Error, ErrorKind, FileLiveness, Isolator as _, Lease, LeaseAt, LeaseId,
    LeaseName, Lookup, Pool, ReadOnlyStore, Result, Slot, SlotId, Token,
};

use crate::absent::NoPool;
use crate::cli::Global;
use crate::error::invalid;
use crate::output::{LEASE_VARIABLES, Output};
use crate::settings::{self, CacheSettings, Flags, Loaded, Settings};
use crate::space::explained;

/// What a verb means to do with the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Give out worktrees: the pool is made if there is none, and must be that of the caller's
    /// repository.
    Lease,
    /// Deal with what there is. Where there is no pool, it is an empty one, and none is made.
    Visit,
    /// The same, and nothing is to be changed: where nothing can be written, the records are only read.
    Look,
}

/// Where everything is, before anything is opened.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) repository: Repository,
    pub(crate) pool_dir: PathBuf,
    pub(crate) loaded: Loaded,
}

/// An open pool.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) pool: Pool,
    /// The pool's backend, for what only git worktrees have.
    pub(crate) git: Arc<GitIsolator>,
    pub(crate) pool_dir: PathBuf,
    pub(crate) repository: Repository,
    pub(crate) settings: Settings,
    pub(crate) out: Output,
    /// Whether there is a pool on disk.
    pub(crate) exists: bool,
    /// The working directory that this process was started in, by which relative paths are resolved.
    start_dir: PathBuf,
}

/// A lease that is to be ended or renewed.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) slot: SlotId,
    pub(crate) token: Token,
    pub(crate) name: LeaseName,
}

impl Place {
    /// Finds the repository, the settings, and the pool's directory. Changes nothing.
    pub(crate) fn find(global: &Global, cache: Option<&str>, access: Access) -> Result<Self> {
        let flags = Flags { pool_dir: global.pool_dir.clone(), cache: cache.map(str::to_owned) };
        let here = match std::env::current_dir() {
            Ok(dir) => match Repository::find(global.repo.as_deref().unwrap_or(&dir)) {
                // In a worktree whose repository was moved, git finds none.
                Err(error) if global.repo.is_none() => match pool_around(&dir) {
                    Some(pool) => pool_owner(&pool).and_then(|owner| {
                        owner.map_or(Err(error), |owner| owner_of(&pool, &owner))
                    }),
                    None => Err(error),
                },
                found => found,
            },
            Err(e) => match (stand_where_named(global), &global.repo) {
                (true, Some(dir)) => Repository::find(dir),
                // The pool knows whose it is, if one was named.
                _ => Err(Error::io("find the working directory", e)),
            },
        };
        // The repository's own file never says where the pool is, and the pool has a say in which
        // worktree that file is read from.
        let without_repository = settings::load(None, &flags)?;
        let load = |repository: &Repository, pool_dir: &Path| {
            settings::load(source_worktree(repository, pool_dir)?, &flags)
        };
        let given = without_repository.settings.pool_dir.clone();
        let owner = given.as_deref().map(pool_owner).transpose()?.flatten();
        let (Some(dir), Some(owner)) = (given.clone(), owner) else {
            // A pool that is yet to be made, or the default one.
            let repository = here?;
            // The pool of the lease that this process runs in was moved since.
            let is_gone = |dir: &PathBuf| inherited(&without_repository) && !dir.exists();
            let was_moved = given.as_ref().is_some_and(is_gone);
            let given = given.filter(|_| !was_moved);
            let pool_dir = given.unwrap_or_else(|| repository.default_pool_dir());
            check_pool_owner(&pool_dir, &repository)?;
            let mut loaded = load(&repository, &pool_dir)?;
            if was_moved {
                loaded.settings.pool_dir = None;
                loaded.origins.remove("pool_dir");
            }
            return Ok(Self { repository, pool_dir, loaded });
        };
        let checked = here.as_ref().map(|repository| check_pool_owner(&dir, repository));
        let (is_ours, refusal) = match checked {
            Ok(Ok(())) => (true, None),
            Ok(Err(error)) => (false, Some(error)),
            Err(_) => (false, None),
        };
        match here {
            Ok(repository) if is_ours => {
                let loaded = load(&repository, &dir)?;
                Ok(Self { repository, pool_dir: dir, loaded })
            }
            // Inside a lease, the variable speaks of that lease's repository.
            Ok(repository) if inherited(&without_repository) => {
                let pool_dir = repository.default_pool_dir();
                let mut loaded = load(&repository, &pool_dir)?;
                loaded.settings.pool_dir = None;
                loaded.origins.remove("pool_dir");
                Ok(Self { repository, pool_dir, loaded })
            }
            _ => {
                if let Some(error) = refusal {
                    let is_meant = access == Access::Lease || global.repo.is_some();
                    if is_meant || owner_of(&dir, &owner).is_err() {
                        return Err(error);
                    }
                }
                // The pool knows whose it is.
                let repository = owner_of(&dir, &owner)?;
                let loaded = load(&repository, &dir)?;
                Ok(Self { repository, pool_dir: dir, loaded })
            }
        }
    }

    /// Opens the pool.
    pub(crate) fn open(self, global: &Global, access: Access) -> Result<Context> {
        let Self { repository, pool_dir, loaded: Loaded { settings, .. } } = self;
        // Before anything is made where a pool may not be.
        let isolator = Arc::new(GitIsolator::open(&repository, &pool_dir, settings.git())?);
        isolator.reuse_no_slots_with_others(is_known_beside);
        let pool_dir = isolator.pool_dir().unwrap_or(&pool_dir).to_owned();
        let exists = access == Access::Lease || isolator.pool_exists()?;
        let setup = Setup {
            wrapper: std::env::current_exe().ok(),
            chain: crate::cargo_home::rustc_wrapper(),
            claims: Some(FileLiveness::of_pool(&pool_dir).dir().to_owned()),
            surroundings: crate::cargo_home::surroundings(),
            lean: settings.cache.lean,
            warm_command: settings.cache.warm_command.clone(),
            jobs: settings.build_jobs.map(NonZeroU32::get),
            ..Setup::new(&pool_dir, isolator.clone())
        };
        let out = Output::new(global.json, global.quiet);
        let cache = cache(isolator.source_worktree(), &settings, setup)?;
        let builder =
            || Pool::builder(isolator.clone()).cache(cache.clone()).settings(settings.pool());
        let opened = match exists {
            true => builder().open(),
            false => builder().store(Arc::new(NoPool)).open(),
        };
        let pool = match opened {
            Ok(pool) => pool,
            Err(error) => {
                let looked = (access == Access::Look && cannot_write(&error))
                    .then(|| ReadOnlyStore::open(&pool_dir))
                    .and_then(|store| builder().store(Arc::new(store.ok()?)).open_to_look().ok());
                let error = explained(error, &pool_dir);
                let Some(pool) = looked else { return Err(error) };
                out.remark(format!(
                    "wtpool: only looking, so leases that are over may still be shown: {error}"
                ));
                pool
            }
        };
        let start_dir = start_dir();
        if access != Access::Lease {
            leave(&start_dir, &pool_dir, &repository);
        }
        Ok(Context { pool, git: isolator, pool_dir, repository, settings, out, exists, start_dir })
    }
}

/// Whether an error means that nothing can be written.
fn cannot_write(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::PermissionDenied)
}

impl Context {
    /// Finds and opens the pool that the command line speaks of.
    pub(crate) fn open(global: &Global, cache: Option<&str>, access: Access) -> Result<Self> {
        Place::find(global, cache, access)?.open(global, access)
    }

    /// Opens the pool in which to look for a lease: the one that `text` lies in, if it is a path and
    /// the command line names neither pool nor repository.
    pub(crate) fn open_for(global: &Global, text: &str, access: Access) -> Result<Self> {
        let mut global = global.clone();
        if global.pool_dir.is_none() && global.repo.is_none() {
            global.pool_dir = path_of(&start_dir(), text).as_deref().and_then(pool_around);
        }
        Self::open(&global, None, access)
    }

    /// Finds a lease or slot by what a person gave: an id, the beginning of one, a name, a path.
    pub(crate) async fn find(&self, text: &str) -> Result<Lookup> {
        match self.path_of(text).as_deref().and_then(Path::to_str) {
            Some(path) => self.pool.find(path).await,
            None => self.pool.find(text).await,
        }
    }

    /// Finds the lease that `verb` is to end or renew, by what a person gave. A path may come from a
    /// holder of before: it says which lease only if no other has had it, or together with `--lease`
    /// or the variable of the lease that this process runs in.
    pub(crate) async fn find_own(
        &self,
        verb: &str,
        text: &str,
        given: Option<&str>,
    ) -> Result<Own> {
        let given = match given {
            Some(given) => Some(own(self.pool.find(given).await?, given)?.token.lease),
            None => None,
        };
        let inside = std::env::var(LEASE_VARIABLES[0]).ok().and_then(|id| LeaseId::new(id).ok());
        let known = given.as_ref().or(inside.as_ref());
        let found = match self.path_of(text) {
            Some(path) => match self.pool.lease_at(&path, known).await? {
                LeaseAt::Only(found) => found,
                LeaseAt::Several(slot) => return Err(several(verb, &path, &slot)),
            },
            None => self.pool.find(text).await?,
        };
        let found = own(found, text)?;
        match given {
            Some(given) if given != found.token.lease => {
                let message = format!("{text} is not the lease {given}, but {}", found.token.lease);
                Err(Error::new(ErrorKind::StaleLease, message)
                    .with_hint(format!("run: wtpool show {given}")))
            }
            _ => Ok(found),
        }
    }

    /// The path that a person gave, as [`path_of`]; that of a pool which was moved since, where it is
    /// now.
    fn path_of(&self, text: &str) -> Option<PathBuf> {
        let path = path_of(&self.start_dir, text)?;
        if path.exists() {
            return Some(path);
        }
        let earlier = earlier_pool_dirs(&self.pool_dir);
        let inside = earlier.iter().find_map(|dir| path.strip_prefix(dir).ok());
        Some(inside.map_or_else(|| path.clone(), |inside| self.pool_dir.join(inside)))
    }

    /// Returns what lies in the directories of slots that is not the pool's. What cannot be read is
    /// left out.
    pub(crate) fn others(&self) -> Vec<Other> {
        self.git.others(is_known_beside).unwrap_or_default()
    }

    /// Returns where a slot's worktree was moved to by hand, as far as git knows. Nothing is then at the
    /// slot's path.
    pub(crate) fn moved_to(&self, slot: &Slot) -> Option<PathBuf> {
        let is_there = std::fs::symlink_metadata(self.pool.place(slot.id)).is_ok();
        let lease = slot.state.lease().filter(|_| !is_there)?;
        let moved = self.git.moved_to(&lease.id).ok().flatten();
        // Without a log, by what is checked out there.
        moved.or_else(|| {
            let branch = lease.base.branch.as_ref()?;
            let at = self.git.branch_now(&branch.name).ok().flatten().flatten();
            at.filter(|path| path.join(".git").exists())
        })
    }

    /// Leaves the slot that this process was started in, for a verb that gives out slots: see [`leave`].
    pub(crate) fn leave_slot(&self) {
        leave(&self.start_dir, &self.pool_dir, &self.repository);
    }

    /// What the repository is called in documents: its main worktree, or itself if it is bare.
    pub(crate) fn repository_path(&self) -> &Path {
        self.repository.main_worktree().unwrap_or(self.repository.common_dir())
    }
}

/// The repository that a pool belongs to: at the path that the pool names, or where it was moved to
/// together with the pool.
fn owner_of(pool_dir: &Path, owner: &Path) -> Result<Repository> {
    let found = Repository::find(owner);
    if let Ok(found) = &found
        && found.common_dir() == owner
    {
        check_pool_owner(pool_dir, found)?;
        return Ok(found.clone());
    }
    if let Some(found) = repository_beside(pool_dir)? {
        return Ok(found);
    }
    let (pool, owner) = (pool_dir.display(), owner.display());
    let message = format!("the pool {pool} belongs to the repository {owner}, which is gone");
    Err(Error::new(ErrorKind::NoRepository, message).with_hint(
        "run the command in the repository where it is now; if it is deleted, save what is in the \
         pool's slots, then delete the pool",
    ))
}

/// The pool that a path lies in a worktree of, whether or not the worktree is still there.
fn pool_around(path: &Path) -> Option<PathBuf> {
    let slots = path.ancestors().filter(|dir| dir.ends_with("slots"));
    let mut pools = slots.filter_map(Path::parent);
    pools.find(|pool| matches!(pool_owner(pool), Ok(Some(_)))).map(Path::to_owned)
}

/// The absolute path that a person gave, with symlinks resolved as far as it exists: that of a
/// worktree that is gone still says which lease it was. `None` if it is no path.
/// A relative one is resolved by `start_dir`.
fn path_of(start_dir: &Path, text: &str) -> Option<PathBuf> {
    if !text.contains('/') && text != "." && text != ".." {
        return None;
    }
    let path = std::path::absolute(start_dir.join(text)).ok()?;
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let Some((part, resolved)) = there else { return Some(path) };
    match path.strip_prefix(part) {
        Ok(rest) if rest.as_os_str().is_empty() => Some(resolved),
        Ok(rest) => Some(resolved.join(rest)),
        Err(_) => Some(path),
    }
}

/// The working directory; empty if it is gone.
pub(crate) fn start_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

/// Leaves the slot that this process was started in, if any, for the repository that it belongs to:
/// its working directory would keep the slot from being cleaned up.
fn leave(start_dir: &Path, pool_dir: &Path, repository: &Repository) {
    let outside = repository.main_worktree().unwrap_or(repository.common_dir());
    if start_dir.starts_with(pool_dir)
        && let Err(error) =
            std::env::set_current_dir(outside).or_else(|_| std::env::set_current_dir("/"))
    {
        tracing::warn!(target: "wtpool", %error, "cannot leave {}", start_dir.display());
    }
}

/// What is needed of the lease that was found.
fn own(found: Lookup, text: &str) -> Result<Own> {
    let own = match found {
        Lookup::Slot(slot) => slot.state.lease().map(|lease| Own {
            slot: slot.id,
            token: lease.token(),
            name: lease.name.clone(),
        }),
        Lookup::Ended(ended) => {
            Some(Own { slot: ended.slot, token: ended.token, name: ended.name })
        }
    };
    own.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no lease on {text}"))
            .with_hint("run: wtpool list")
    })
}

/// That a path does not say which lease is meant.
fn several(verb: &str, path: &Path, slot: &Slot) -> Error {
    let message =
        format!("cannot {verb} by the path {}: several leases have had it", path.display());
    let Some(lease) = slot.state.lease() else {
        return Error::new(ErrorKind::StaleLease, message);
    };
    let Lease { name, holder, acquired, .. } = lease;
    let is = if slot.state.occupies() { "it is" } else { "it was last" };
    let since = acquired.wall.strftime("%Y-%m-%d %H:%M:%SZ");
    let message = format!("{message}, and {is} leased to {holder} since {since} ({name})");
    Error::new(ErrorKind::StaleLease, message)
        .with_hint(format!("if you mean that lease, run: wtpool {verb} {}", lease.id))
}

/// Where the working directory was deleted, as that of a shell in a worktree that is gone, makes the one that
/// the caller names take its place: without one, neither git works nor what looks for repositories. Says whether
/// it did: nobody can tell what is relative to one that is gone.
fn stand_where_named(global: &Global) -> bool {
    let variable = std::env::var_os(settings::variable("pool_dir")).map(PathBuf::from);
    let pool_dir = global.pool_dir.clone().or(variable);
    let named: Vec<&PathBuf> = global.repo.iter().chain(&pool_dir).collect();
    named.iter().all(|dir| dir.is_absolute())
        && named.first().is_some_and(|dir| std::env::set_current_dir(dir).is_ok())
}

/// The strategy that the settings ask for; `source` is the worktree to copy directories from.
fn cache(
    source: Option<&Path>,
    settings: &Settings,
    setup: Setup,
) -> Result<Arc<dyn CacheStrategy>> {
    let inner = strategy(&settings.cache, setup)?;
    let directories = &settings.cache.directories;
    match source.filter(|_| !directories.is_empty()) {
        Some(source) => Ok(Arc::new(Directories::new(inner, source, directories.clone())?)),
        None => Ok(inner),
    }
}

/// The cache strategy that is set.
fn strategy(cache: &CacheSettings, setup: Setup) -> Result<Arc<dyn CacheStrategy>> {
    match cache.strategy.as_str() {
        Private::NAME => Ok(Arc::new(Private::within(setup.surroundings))),
        Sccache::NAME => {
            let program = program(&cache.wrapper)?;
            let env = std::env::vars().filter(|(name, _)| name.starts_with("SCCACHE_"));
            Ok(Arc::new(Sccache::new(setup, program, env.collect())))
        }
        Seeded::NAME => Ok(Arc::new(Seeded::new(setup))),
        SharedTarget::NAME => Ok(Arc::new(SharedTarget::new(setup))),
        other => {
            let all = [Seeded::NAME, SharedTarget::NAME, Sccache::NAME, Private::NAME].join(", ");
            Err(invalid(format!("there is no cache strategy {other:?}"))
                .with_hint(format!("there are: {all}")))
        }
    }
}

/// Where a program is: by its path, or looked for as a shell would. `None`: nowhere.
fn program(name: &Path) -> Result<Option<PathBuf>> {
    if name.components().count() > 1 {
        let path = std::path::absolute(name);
        return path.map(Some).map_err(|e| Error::io(format!("resolve {}", name.display()), e));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()))
}

/// Whether the pool's directory was only handed down by the `run` that this process is inside of.
fn inherited(loaded: &Loaded) -> bool {
    let by_variable = loaded.origins.get("pool_dir") == Some(&settings::variable("pool_dir"));
    by_variable && std::env::var_os("WTPOOL_LEASE").is_some()
}

/// Whether the records or a cache keep something of that name beside a worktree.
fn is_known_beside(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("slot.json") || cache_share::is_slot_entry(&name)
}
