//! From the command line to an open pool.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache_share::{Directories, Private, Sccache, Seeded, Setup, SharedTarget};
use git_backend::{GitIsolator, Repository};
use pool_core::{
    CacheStrategy, Error, ErrorKind, FileLiveness, LeaseStore, Liveness, LocalLiveness, Lookup,
    MemoryStore, Pool, Result, SqliteStore, open_plain,
};

use crate::cli::Global;
use crate::error::invalid;
use crate::output::Output;
use crate::settings::{self, CacheSettings, Flags, Loaded, Settings};

/// Names the repository that a pool belongs to: its common directory, byte for byte.
const OWNER_FILE: &str = "repository";

/// What a verb means to do with the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Give out worktrees: the pool is made if there is none, and must be that of the caller's
    /// repository.
    Lease,
    /// Deal with what there is. Where there is no pool, it is an empty one, and none is made.
    Visit,
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
}

impl Place {
    /// Finds the repository, the settings, and the pool's directory. Changes nothing.
    pub(crate) fn find(global: &Global, cache: Option<&str>, access: Access) -> Result<Self> {
        let flags = Flags { pool_dir: global.pool_dir.clone(), cache: cache.map(str::to_owned) };
        let here = match std::env::current_dir() {
            Ok(dir) => Repository::find(global.repo.as_deref().unwrap_or(&dir)),
            Err(e) => match (stand_where_named(global), &global.repo) {
                (true, Some(dir)) => Repository::find(dir),
                // The pool knows whose it is, if one was named.
                _ => Err(Error::io("find the working directory", e)),
            },
        };
        let main = here.as_ref().ok().and_then(|r| r.main_worktree());
        let mut loaded = settings::load(main, &flags)?;
        let given = loaded.settings.pool_dir.clone();
        let owner = given.as_deref().map(owner_of).transpose()?.flatten();
        let (Some(dir), Some(owner)) = (given.clone(), owner) else {
            // A pool that is yet to be made, or the default one.
            let repository = here?;
            let pool_dir = given.unwrap_or_else(|| repository.default_pool_dir());
            if let Some(owner) = owner_of(&pool_dir)?
                && owner != repository.common_dir()
            {
                return Err(of_another(&pool_dir, &owner));
            }
            return Ok(Self { repository, pool_dir, loaded });
        };
        match here {
            Ok(repository) if repository.common_dir() == owner => {
                Ok(Self { repository, pool_dir: dir, loaded })
            }
            // Inside a lease, the variable speaks of that lease's repository.
            Ok(repository) if inherited(&loaded) => {
                let pool_dir = repository.default_pool_dir();
                loaded.settings.pool_dir = None;
                loaded.origins.remove("pool_dir");
                Ok(Self { repository, pool_dir, loaded })
            }
            Ok(_) if access == Access::Lease || global.repo.is_some() => {
                Err(of_another(&dir, &owner))
            }
            // The pool knows whose it is.
            _ => {
                let repository = Repository::find(&owner).map_err(|e| {
                    Error::new(
                        e.kind(),
                        format!(
                            "the pool {} belongs to a repository that is gone: {e}",
                            dir.display()
                        ),
                    )
                    .with_hint("put the repository back, or save what is in the pool and delete it")
                })?;
                let loaded = settings::load(repository.main_worktree(), &flags)?;
                Ok(Self { repository, pool_dir: dir, loaded })
            }
        }
    }

    /// Opens the pool.
    pub(crate) fn open(self, global: &Global, access: Access) -> Result<Context> {
        let Self { repository, mut pool_dir, loaded: Loaded { settings, .. } } = self;
        // Before anything is made where a pool may not be.
        let isolator = Arc::new(GitIsolator::open(&repository, &pool_dir, settings.git())?);
        if pool_dir == repository.default_pool_dir() {
            pool_dir.parent().map_or(Ok(()), check_above)?;
        }
        let mut exists = is_pool(&pool_dir)?;
        if access == Access::Lease && !exists {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&pool_dir)
                .map_err(|e| Error::io(format!("create {}", pool_dir.display()), e))?;
            exists = true;
        }
        if exists {
            pool_dir = pool_dir
                .canonicalize()
                .map_err(|e| Error::io(format!("resolve {}", pool_dir.display()), e))?;
        }
        let (store, liveness): (Arc<dyn LeaseStore>, Arc<dyn Liveness>) = if exists {
            let store = SqliteStore::open(&pool_dir)?;
            claim_for(&pool_dir, &repository)?;
            (Arc::new(store), Arc::new(FileLiveness::new(pool_dir.join("locks"))))
        } else {
            (Arc::new(MemoryStore::new()), Arc::new(LocalLiveness::default()))
        };
        let setup = Setup {
            wrapper: std::env::current_exe().ok(),
            chain: crate::cargo_home::rustc_wrapper(),
            claims: Some(pool_dir.join("locks")),
            lean: settings.cache.lean,
            warm_command: settings.cache.warm_command.clone(),
            jobs: settings.build_jobs.map(NonZeroU32::get),
            ..Setup::new(&pool_dir, isolator.clone())
        };
        let pool = Pool::builder(isolator.clone())
            .cache(cache(&repository, &settings, setup)?)
            .store(store)
            .liveness(liveness)
            .settings(settings.pool())
            .open()?;
        let out = Output::new(global.json, global.quiet);
        Ok(Context { pool, git: isolator, pool_dir, repository, settings, out, exists })
    }
}

impl Context {
    /// Finds and opens the pool that the command line speaks of.
    pub(crate) fn open(global: &Global, cache: Option<&str>, access: Access) -> Result<Self> {
        Place::find(global, cache, access)?.open(global, access)
    }

    /// Finds a lease or slot by what a person gave: an id, the beginning of one, a name, a path.
    pub(crate) async fn find(&self, text: &str) -> Result<Lookup> {
        let pathlike = text.contains('/') || text == "." || text == "..";
        let path = pathlike.then(|| Path::new(text).canonicalize().ok()).flatten();
        match path.as_deref().and_then(Path::to_str) {
            Some(path) => self.pool.find(path).await,
            None => self.pool.find(text).await,
        }
    }

    /// What the repository is called in documents: its main worktree, or itself if it is bare.
    pub(crate) fn repository_path(&self) -> &Path {
        self.repository.main_worktree().unwrap_or(self.repository.common_dir())
    }
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

/// The strategy that the settings ask for.
fn cache(
    repository: &Repository,
    settings: &Settings,
    setup: Setup,
) -> Result<Arc<dyn CacheStrategy>> {
    let inner = strategy(&settings.cache, setup)?;
    let directories = &settings.cache.directories;
    match repository.main_worktree().filter(|_| !directories.is_empty()) {
        Some(main) => Ok(Arc::new(Directories::new(inner, main, directories.clone())?)),
        None => Ok(inner),
    }
}

/// The cache strategy that is set.
fn strategy(cache: &CacheSettings, setup: Setup) -> Result<Arc<dyn CacheStrategy>> {
    match cache.strategy.as_str() {
        Private::NAME => Ok(Arc::new(Private::new())),
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

/// Whether there is a pool in a directory; not if that is empty.
///
/// # Errors
///
/// When it has anything else in it: a pool removes what is in its `trash`, among others.
fn is_pool(dir: &Path) -> Result<bool> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(e) => return Err(reading(e)),
    };
    let records = [OWNER_FILE, "pool.db", "pool.json"];
    if records.iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok_and(|m| m.is_file())) {
        return Ok(true);
    }
    let mut exists = false;
    for entry in entries {
        let name = entry.map_err(reading)?.file_name();
        let is_own = name.to_str().is_some_and(|name| {
            OWN_NAMES.contains(&name) || OWN_BEGINNINGS.iter().any(|own| name.starts_with(own))
        });
        if !is_own {
            let message = format!("{} is not a pool, and not empty", dir.display());
            return Err(invalid(message)
                .with_hint("name a directory that is empty or does not exist (`--pool-dir`)"));
        }
        exists = true;
    }
    Ok(exists)
}

/// What is there of a pool that others are just making, or that somebody deleted under a running process.
const OWN_NAMES: [&str; 11] = [
    ".restoring",
    "branches",
    "build-base.log",
    "cache",
    "locks",
    "reaper.lock",
    "reaper.log",
    "registration.lock",
    OWNER_FILE,
    "slots",
    "trash",
];
const OWN_BEGINNINGS: [&str; 5] = ["pool.", "reserve", ".repository.", ".reserve-", ".sidecar-"];

/// Whether anybody else could put something in the place of a default pool, whose name can be foretold.
fn check_above(dir: &Path) -> Result<()> {
    let reading = |e| Error::io(format!("look at {}", dir.display()), e);
    // If it is a link, both it and where it leads.
    let looked = fs::symlink_metadata(dir).and_then(|own| Ok([own, fs::metadata(dir)?]));
    let found = match looked {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(reading(e)),
    };
    let user = rustix::process::geteuid().as_raw();
    let foreign = |meta: &fs::Metadata| ![user, 0].contains(&meta.uid());
    let open = |meta: &fs::Metadata| meta.is_dir() && meta.mode() & 0o022 != 0;
    let (what, hint) = match () {
        () if found.iter().any(foreign) => {
            ("belongs to another user", "set another pool directory".to_owned())
        }
        () if found.iter().any(open) => {
            ("is one that others may write to", format!("run: chmod go-w {}", dir.display()))
        }
        () => return Ok(()),
    };
    let message = format!("the directory of pools {} {what}", dir.display());
    Err(Error::new(ErrorKind::PermissionDenied, message).with_hint(hint))
}

/// The common directory of the repository that a pool belongs to; `None` when there is no pool.
pub(crate) fn owner_of(pool_dir: &Path) -> Result<Option<PathBuf>> {
    let file = pool_dir.join(OWNER_FILE);
    let mut bytes = Vec::new();
    let read = open_plain(File::options().read(true), &file)
        .and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            let path = bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec();
            // Empty where the power failed before its content was on the disk: it is written again.
            Ok((!path.is_empty()).then(|| PathBuf::from(OsString::from_vec(path))))
        }
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::io(format!("read {}", file.display()), e)),
    }
}

/// Writes down whose pool it is, so that it can be used from anywhere.
fn claim_for(pool_dir: &Path, repository: &Repository) -> Result<()> {
    let unfinished = pool_dir.join(format!(".{OWNER_FILE}.new"));
    let is_ours = || match owner_of(pool_dir)? {
        Some(owner) if owner != repository.common_dir() => Err(of_another(pool_dir, &owner)),
        owner => Ok(owner.is_some()),
    };
    if is_ours()? {
        // Of somebody who was killed right here.
        let _ = fs::remove_file(unfinished);
        return Ok(());
    }
    let file = pool_dir.join(OWNER_FILE);
    let failed = |e| Error::io(format!("write {}", file.display()), e);
    // One at a time. It is let go of with its name, so that those who waited look again.
    let alone = open_plain(File::options().create(true).append(true), &unfinished)
        .and_then(|alone| fs4::FileExt::lock(&alone).map(|()| alone))
        .map_err(failed)?;
    if is_ours()? {
        let _ = fs::remove_file(unfinished);
        return Ok(());
    }
    let mut line = repository.common_dir().as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    let is_empty = fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    // Without it nobody could say whose the pool is, which may have leases at once: on the disk before it
    // bears its name.
    let written = write_durably(&unfinished, &line).and_then(|()| match is_empty {
        true => fs::rename(&unfinished, &file),
        false => fs::hard_link(&unfinished, &file),
    });
    pool_core::fail_point!("pool-cli::context::owner-linked");
    // Gone already, if it was never written.
    let _ = fs::remove_file(&unfinished);
    let written = written.and_then(|()| File::open(pool_dir)?.sync_all());
    drop(alone);
    match written {
        // Somebody was quicker: then it must be for the same repository.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => is_ours().map(drop),
        other => other.map_err(failed),
    }
}

fn write_durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn of_another(pool_dir: &Path, owner: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the pool {} belongs to another repository, {}",
            pool_dir.display(),
            owner.display()
        ),
    )
    .with_hint("start inside that repository, or name another directory with `--pool-dir`")
}
