//! Each workspace its own target, and one cache of compilations for all: sccache's, or that of another program.

mod client;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pool_core::{Attachment, CacheFinding, CacheSite, CacheStrategy, Error, Result};

use crate::confine::{self, Confinement};
use crate::files;
use crate::install::{self, Build, CargoConfig};
use crate::note;
use crate::private::Private;
use crate::rustc::{self, Config};
use crate::seeded::blocking;
use crate::setup::{self, Setup, slot_dir};

pub(crate) use client::Client;

/// Each workspace builds into its own `target`; what it compiles of packages from a registry or from git
/// is looked up in a cache that all workspaces share, and other machines too, if it is a remote one.
///
/// The cache is [sccache](https://github.com/mozilla/sccache), whose server the pool starts and stops, or another
/// wrapper of rustc that does the same. What belongs to the workspace itself never goes there: it would
/// hardly be found again, since the path of the checkout is a part of what sccache goes by, and where it
/// was found, at a path that is used again, it could be wrong, since a macro may have read files that
/// sccache knows nothing of. Besides, it can then be compiled incrementally.
///
/// # Limitations
///
/// - What a package makes of a file that its build script wrote has the path of the `target` in it. It is
///   compiled for each workspace, and so is what depends on it.
/// - sccache keeps no programs, procedural macros and build scripts.
/// - sccache goes by all variables that begin with `CARGO_`: with others nothing is found.
/// - Unix only, for a server's socket is in the pool's directory.
#[derive(Clone)]
pub struct Sccache {
    setup: Arc<Setup>,
    program: Option<PathBuf>,
    env: BTreeMap<String, String>,
}

/// Which variables say where sccache keeps what it has.
const PLACES: [&str; 15] = [
    "SCCACHE_DIR",
    "SCCACHE_CONF",
    "SCCACHE_MULTILEVEL_CHAIN",
    "SCCACHE_BUCKET",
    "SCCACHE_REDIS",
    "SCCACHE_REDIS_ENDPOINT",
    "SCCACHE_REDIS_CLUSTER_ENDPOINTS",
    "SCCACHE_MEMCACHED",
    "SCCACHE_MEMCACHED_ENDPOINT",
    "SCCACHE_GCS_BUCKET",
    "SCCACHE_AZURE_BLOB_CONTAINER",
    "SCCACHE_WEBDAV_ENDPOINT",
    "SCCACHE_OSS_BUCKET",
    "SCCACHE_COS_BUCKET",
    "SCCACHE_GHA_ENABLED",
];

/// How much a cache in the pool's directory may take, unless `SCCACHE_CACHE_SIZE` says something else.
const SIZE: &str = "10G";

/// After so many seconds without use a server ends by itself, unless `SCCACHE_IDLE_TIMEOUT` says something else.
const IDLE: &str = "600";

impl Sccache {
    /// What this strategy is called in settings.
    pub const NAME: &str = "sccache";

    /// The strategy for one pool. Touches nothing.
    ///
    /// `program` is sccache, or whatever is to be used in its place; it is given a server if its file name
    /// is `sccache`. `env` are the user's variables for it: where one says where the cache is (`SCCACHE_REDIS`,
    /// `SCCACHE_BUCKET`, `SCCACHE_DIR`, …) it is there, otherwise in the pool's directory.
    pub fn new(setup: Setup, program: Option<PathBuf>, env: BTreeMap<String, String>) -> Self {
        Self { setup: Arc::new(setup), program, env }
    }

    fn dir(&self) -> PathBuf {
        dir_in(&self.setup.cache())
    }

    /// Where the cache itself is, if that is the pool's own affair.
    fn store(&self) -> Option<PathBuf> {
        (self.is_served() && self.places().next().is_none()).then(|| self.dir().join("store"))
    }

    /// What the user said of where it is.
    fn places(&self) -> impl Iterator<Item = &str> {
        let given = |name: &&str| self.env.get(*name).is_some_and(|value| !value.is_empty());
        PLACES.into_iter().filter(given)
    }

    /// Whether it has a server, as sccache does.
    fn is_served(&self) -> bool {
        let is_sccache = |program: &Path| program.file_stem().is_some_and(|s| s == Self::NAME);
        self.program.as_deref().is_none_or(is_sccache)
    }

    /// How a slot speaks to the cache. Nothing in it is secret: it is written down.
    fn client(&self) -> Result<Client> {
        let program = self.program.clone().ok_or_else(|| unsupported("it is not installed"))?;
        if !self.is_served() {
            return Ok(Client { program, ..Client::default() });
        }
        if !cfg!(unix) {
            return Err(unsupported("its server would have to listen at a Unix socket"));
        }
        let (dir, mut env) = (self.dir(), BTreeMap::new());
        fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
        if let Some(store) = self.store() {
            env.insert("SCCACHE_DIR".to_owned(), text(&store)?);
            let size = self.env.get("SCCACHE_CACHE_SIZE").map_or(SIZE, String::as_str);
            env.insert("SCCACHE_CACHE_SIZE".to_owned(), size.to_owned());
        }
        let idle = self.env.get("SCCACHE_IDLE_TIMEOUT").map_or(IDLE, String::as_str);
        env.insert("SCCACHE_IDLE_TIMEOUT".to_owned(), idle.to_owned());
        // A build goes on by itself when the server ends under it.
        env.insert("SCCACHE_IGNORE_SERVER_IO_ERROR".to_owned(), "1".to_owned());
        let needs = self.places().map(str::to_owned).collect();
        let client = Client { program, dir: Some(dir), socket: PathBuf::new(), env, needs };
        client.with_socket()
    }

    /// Sees to it that there is a cache, and that what is built in the slot goes there.
    fn join(&self, site: &CacheSite, confinement: &Confinement) -> Result<Client> {
        if self.setup.wrapper.is_none() {
            return Err(unsupported("there is no program to stand between cargo and it"));
        }
        let client = self.client()?;
        let rustc = Config {
            root: site.path.clone(),
            target: site.path.join("target"),
            lean: self.setup.lean == crate::Lean::Always,
            chain: Some(client.program.clone()),
            claims: self.setup.claims.clone(),
            cache: Some(client.clone()),
            ..Config::default()
        };
        let build = Build { jobs: self.setup.jobs, ..Build::default() };
        let cargo = confinement.within(CargoConfig { build, ..CargoConfig::default() });
        // First, so that nobody stops the server who sees no slot that needs it.
        install::put(slot_dir(&site.path), self.setup.wrapper.as_deref(), &rustc, &cargo)?;
        // Whoever removes the last slot may have another strategy.
        client.note()?;
        client.ensure(&self.env).map_err(|why| unsupported(&why))?;
        Ok(client)
    }

    fn attached(&self, site: &CacheSite, confinement: &Confinement) -> Result<Attachment> {
        let client = match self.join(site, confinement) {
            Ok(client) => client,
            Err(why) => {
                install::put_only(slot_dir(&site.path), confinement)?;
                return Ok(Attachment {
                    strategy: Private::NAME.to_owned(),
                    reason: Some(format!("{} can't be used: {why}", self.shown())),
                    ..Attachment::default()
                });
            }
        };
        let (warm, reason) = match self.store() {
            Some(store) if files::is_empty(&store) => (false, Some("the cache is empty")),
            Some(_) => (true, None),
            None => (false, Some("what the cache has is not known before a build")),
        };
        Ok(Attachment { warm, reason: reason.map(str::to_owned), ..self.attachment(&client) })
    }

    /// What there is to say of the program, of where the cache is, and of its server.
    fn look(&self) -> Vec<CacheFinding> {
        let name = self.shown();
        let Some(program) = &self.program else {
            let why = format!("{name} is not installed: each worktree compiles everything");
            let advice =
                "install it (https://github.com/mozilla/sccache), or set another `cache.strategy`";
            return vec![CacheFinding::trouble(why, advice)];
        };
        let version = match client::version(program) {
            Ok(version) => version,
            Err(why) => {
                let what = format!("{} can't be run: {why}", program.display());
                let advice = "install it anew, or name another program by `cache.wrapper`; until then \
                              each worktree compiles everything";
                return vec![CacheFinding::trouble(what, advice)];
            }
        };
        if !self.is_served() {
            return vec![CacheFinding::fine(format!(
                "{version}, which has no server of the pool's"
            ))];
        }
        let place = match self.store() {
            Some(store) => format!("in {}", store.display()),
            // Their values may have passwords in them.
            None => format!("where {} says", self.places().collect::<Vec<_>>().join(", ")),
        };
        let mut found = vec![CacheFinding::fine(format!("{version}, with a cache {place}"))];
        found.push(match Client::noted(&self.dir()) {
            Some(client) => client.examine(),
            None => client::unused(),
        });
        found
    }

    fn attachment(&self, client: &Client) -> Attachment {
        Attachment {
            strategy: Self::NAME.to_owned(),
            env: client.variables(),
            writable_roots: client.dir.iter().chain(client.place()).cloned().collect(),
            ..Attachment::default()
        }
    }

    /// The program's name, for people.
    fn shown(&self) -> String {
        let name = self.program.as_deref().and_then(Path::file_name);
        name.map_or(Self::NAME.into(), |name| name.to_string_lossy().into_owned())
    }
}

/// Stops the server of the pool that a slot is in, unless another slot needs it.
pub(crate) fn leave(slot_dir: &Path) {
    let Some(slots) = slot_dir.parent() else { return };
    let Some(pool_dir) = slots.parent() else { return };
    if let Some(client) = Client::noted(&dir_in(&pool_dir.join("cache"))) {
        client.stop_unless(|| is_needed(slots));
    }
}

/// What all slots share, with the server's lock and socket.
fn dir_in(cache: &Path) -> PathBuf {
    cache.join("sccache")
}

/// Whether any of these slots needs a server.
fn is_needed(slots: &Path) -> bool {
    let slots = fs::read_dir(slots).into_iter().flatten().flatten();
    slots
        .filter_map(|slot| rustc::config_of(&slot.path().join(".cargo")))
        .any(|config| config.cache.is_some_and(|cache| cache.dir.is_some()))
}

impl fmt::Debug for Sccache {
    /// Without the values of variables: there may be passwords among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sccache")
            .field("setup", &self.setup)
            .field("program", &self.program)
            .field("env", &self.env.keys())
            .finish()
    }
}

fn unsupported(why: &str) -> Error {
    Error::new(pool_core::ErrorKind::Unsupported, why)
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        unsupported(&format!("{} is not UTF-8, as it would have to be", path.display()))
    })?;
    Ok(text.to_owned())
}

#[async_trait]
impl CacheStrategy for Sccache {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, _: &CacheSite) -> Attachment {
        Attachment {
            strategy: Self::NAME.to_owned(),
            reason: Some("it is not known before the worktree stands".to_owned()),
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let (this, site) = (self.clone(), site.clone());
        blocking(move || {
            let (confinement, instead) = setup::begin(&site, &this.setup.surroundings)?;
            if let Some(instead) = instead {
                return Ok(instead);
            }
            this.attached(&site, &confinement)
        })
        .await
    }

    /// Stops the server when no slot needs it any more.
    async fn tidy(&self) -> Result<()> {
        let cache = self.setup.cache();
        blocking(move || install::tidy(&cache)).await
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        let dir = slot_dir(&site.path).to_owned();
        blocking(move || note::forget(&dir)).await
    }

    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        let (this, workspace) = (self.clone(), workspace.to_owned());
        let found = blocking(move || {
            let mut found = confine::examine(&this.setup.surroundings, &workspace);
            found.append(&mut this.look());
            Ok(found)
        });
        let found = found.await;
        found.unwrap_or_else(|e| vec![CacheFinding::fine(e.to_string())])
    }

    /// Removes what was used least recently. Where the cache is not in the pool's directory, it frees nothing:
    /// it belongs to others as well.
    async fn trim(&self, budget: u64) -> Result<u64> {
        let Some(store) = self.store().filter(|store| store.is_dir()) else { return Ok(0) };
        let this = self.clone();
        blocking(move || {
            let before = files::allocated(&[&store]);
            if before <= budget {
                return Ok(0);
            }
            // It keeps its books in memory. Whoever needs it next starts it again.
            match this.client() {
                Ok(client) => client.stop_while(|| remove_oldest(&store, budget))?,
                // Nobody uses it any more.
                Err(_) => remove_oldest(&store, budget)?,
            }
            Ok(before.saturating_sub(files::allocated(&[&store])))
        })
        .await
    }

    /// What is in the pool's directory; 0 where the cache is elsewhere.
    async fn usage(&self) -> Result<u64> {
        let Some(store) = self.store() else { return Ok(0) };
        blocking(move || Ok(files::allocated(&[&store]))).await
    }
}

/// Removes files, those first that were used least recently, until no more than `budget` bytes are allocated.
fn remove_oldest(store: &Path, budget: u64) -> Result<()> {
    let failed = |e| Error::io(format!("trim {}", store.display()), e);
    let mut found = Vec::new();
    for path in files::tree(store).map_err(failed)? {
        // One that went meanwhile takes nothing. sccache sets the time whenever it uses one.
        if let Ok(used) = fs::metadata(store.join(&path)).and_then(|meta| meta.modified()) {
            found.push((used, path));
        }
    }
    found.sort();
    for (_, path) in found {
        if files::allocated(&[store]) <= budget {
            break;
        }
        match fs::remove_file(store.join(path)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    // Directories in which nothing is left.
    for dir in walkdir::WalkDir::new(store).min_depth(1).contents_first(true).into_iter().flatten()
    {
        if dir.file_type().is_dir() {
            let _ = fs::remove_dir(dir.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, age) in [("a/old", 300), ("b/new", 100), ("b/older", 500)] {
            let path = dir.path().join(name);
            files::write(&path, &vec![1; 100_000]).expect("written");
            files::set_modified(&path, SystemTime::now() - Duration::from_secs(age)).expect("set");
        }
        let budget = files::allocated(&[dir.path()]) - 150_000;
        remove_oldest(dir.path(), budget).expect("trimmed");
        assert_eq!(files::tree(dir.path()).expect("listed"), [Path::new("b/new")]);
        assert!(!dir.path().join("a").exists());
    }
}
