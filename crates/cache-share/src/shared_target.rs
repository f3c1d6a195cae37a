//! One build directory for all worktrees.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pool_core::{Attachment, CacheFinding, CacheSite, CacheStrategy, Error, Result, open_plain};

use crate::cargo;
use crate::confine;
use crate::files;
use crate::identity::{Identity, LARGEST};
use crate::install::{self, Build, CargoConfig};
use crate::note;
use crate::rustc::Config;
use crate::seeded::blocking;
use crate::setup::{self, Lean, Setup, slot_dir};

/// All worktrees build into one `build.build-dir`, so that each dependency is compiled once; what is of
/// the worktree's own code has an identity of the lease's, and what cargo makes of it in the end (programs,
/// documentation) lies in the worktree's own `target`. So a slot that is used again has the dependencies, and
/// compiles the workspace's own code.
///
/// It is what people ask for as "one `CARGO_TARGET_DIR`", made right. [`Seeded`](crate::Seeded) is faster,
/// and no two builds of it wait for each other: here, cargo's lock of the build directory lets one
/// build at a time.
///
/// # Limitations
///
/// - A repository with several workspaces, or whose own settings name a wrapper of rustc or a `build-dir`, gets a
///   private target, and is told so.
/// - A path dependency that an agent adds fails its first build with a word of explanation; the second one
///   is right.
/// - What a build script or macro of a dependency reads without telling cargo (a variable, a file outside of
///   the package) holds for all leases, as in any target directory.
/// - What leases built of their own code stays until the directory is [trimmed](CacheStrategy::trim).
/// - Cargo before 1.91 knows no `build-dir`, and builds as it always does.
#[derive(Clone, Debug)]
pub struct SharedTarget {
    setup: Arc<Setup>,
}

impl SharedTarget {
    /// What this strategy is called in settings.
    pub const NAME: &str = "shared-target";

    /// The strategy for one pool. Touches nothing.
    pub fn new(setup: Setup) -> Self {
        Self { setup: Arc::new(setup) }
    }

    fn dir(&self) -> PathBuf {
        self.setup.cache().join("shared/build")
    }

    /// Returns a number that no lease of the pool had before.
    fn next_number(&self) -> Result<u32> {
        let dir = self.setup.cache().join("shared");
        let (path, lock) = (dir.join("leases"), dir.join("leases.lock"));
        let failed = |e| Error::io(format!("count the leases in {}", path.display()), e);
        fs::create_dir_all(&dir).map_err(failed)?;
        let lock = open_plain(File::options().create(true).append(true), &lock).map_err(failed)?;
        fs4::FileExt::lock(&lock).map_err(failed)?;
        let counted = match fs::read_to_string(&path) {
            // A directory with builds of leases that were not counted.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !files::is_empty(&self.dir()) => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Some(0),
            Err(e) => return Err(failed(e)),
            Ok(text) => text.trim().parse().ok().filter(|number: &u32| *number < LARGEST),
        };
        let number = counted.ok_or_else(|| {
            failed(io::Error::other("it does not say how many there were"))
                .with_hint(format!("when no lease is live, `rm -r {}`", dir.display()))
        })? + 1;
        files::write(&path, format!("{number}\n").as_bytes()).map_err(failed)?;
        // A number that is lost with the power would be given out twice.
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        Ok(number)
    }

    fn install(&self, site: &CacheSite) -> Result<Attachment> {
        let (confinement, instead) = setup::begin(site, &self.setup.surroundings)?;
        if let Some(instead) = instead {
            return Ok(instead);
        }
        let private = |reason: String| {
            Ok(Attachment {
                strategy: crate::Private::NAME.to_owned(),
                reason: Some(reason),
                ..Attachment::default()
            })
        };
        let Some(wrapper) = self.setup.program()? else {
            return private("a common build directory needs the wrapper of rustc".to_owned());
        };
        let packages = match survey(&site.path) {
            Ok(packages) => packages,
            Err(why) => return private(why),
        };
        let dir = self.dir();
        fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
        let identity = match self.next_number() {
            Ok(number) => Identity::new(number, packages),
            Err(why) => return private(why.to_string()),
        };
        let cargo = confinement.within(CargoConfig {
            profile: identity.profiles_at(&site.path),
            build: Build {
                build_dir: Some(dir.clone()),
                rustdocflags: identity.rustdocflags(),
                jobs: self.setup.jobs,
                ..Build::default()
            },
            ..CargoConfig::default()
        });
        let rustc = Config {
            root: site.path.clone(),
            target: site.path.join("target"),
            lean: self.setup.lean == Lean::Always,
            chain: self.setup.chain.clone(),
            claims: self.setup.claims.clone(),
            identity: Some(identity),
            cargo: Some(cargo.clone()),
            ..Config::default()
        };
        install::put(slot_dir(&site.path), Some(&wrapper), &rustc, &cargo)?;
        let warm = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
        Ok(Attachment {
            strategy: Self::NAME.to_owned(),
            writable_roots: vec![dir],
            warm,
            reason: (!warm).then(|| "nothing was built in this pool yet".to_owned()),
            ..Attachment::default()
        })
    }
}

/// The packages of the worktree that are no members of its workspace; or why they can't be told apart.
fn survey(worktree: &Path) -> Result<BTreeSet<String>, String> {
    for name in [".cargo/config.toml", ".cargo/config"] {
        let text = fs::read_to_string(worktree.join(name)).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let build = table.get("build").and_then(|value| value.as_table());
        for key in ["rustc-wrapper", "rustc-workspace-wrapper", "build-dir", "rustdocflags"] {
            if build.is_some_and(|build| build.contains_key(key)) {
                return Err(format!("the repository's {name} sets build.{key}"));
            }
        }
        if table.contains_key("profile") {
            return Err(format!("the repository's {name} sets profiles"));
        }
    }
    let workspaces = manifests(worktree).into_iter().filter(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("workspace"))
    });
    if let Some(second) = workspaces.into_iter().find(|path| path.parent() != Some(worktree)) {
        return Err(format!("there is a second workspace, {}", second.display()));
    }
    cargo::local_packages(worktree).map_err(|e| e.to_string())
}

/// All manifests of the worktree.
fn manifests(worktree: &Path) -> Vec<PathBuf> {
    let built = |entry: &walkdir::DirEntry| {
        let name = entry.file_name();
        entry.depth() > 0 && (name == "target" || name == ".git" || name == "node_modules")
    };
    let entries = walkdir::WalkDir::new(worktree).into_iter();
    let entries = entries.filter_entry(|entry| !built(entry)).flatten();
    let manifests = entries.filter(|entry| entry.file_name() == "Cargo.toml");
    manifests.map(walkdir::DirEntry::into_path).collect()
}

/// Empties the directories of profiles in a build directory, unless a build is running. Cargo's
/// lock in each of them is held meanwhile, and stays: a cargo that waits for it has the file open.
fn empty(dir: &Path) -> io::Result<()> {
    let mut held: Vec<(PathBuf, File)> = Vec::new();
    // In order, so that a directory comes before those inside it.
    for path in files::tree(dir)? {
        let profile = dir.join(path.parent().unwrap_or(Path::new("")));
        let is_lock = path.file_name().is_some_and(|name| name == LOCK);
        // What a build script had cargo build goes with the rest.
        if !is_lock || held.iter().any(|(outer, _)| profile.starts_with(outer)) {
            continue;
        }
        let lock = File::options().append(true).open(dir.join(&path))?;
        match fs4::FileExt::try_lock(&lock) {
            Ok(()) => held.push((profile, lock)),
            Err(_) => return Ok(()),
        }
    }
    for (profile, _) in &held {
        for entry in fs::read_dir(profile)?.flatten() {
            match entry.file_type()?.is_dir() {
                _ if entry.file_name() == LOCK => {}
                true => files::remove_tree(&entry.path())?,
                false => files::remove(&entry.path())?,
            }
        }
    }
    Ok(())
}

/// Cargo's lock of the directory of a profile.
const LOCK: &str = ".cargo-lock";

#[async_trait]
impl CacheStrategy for SharedTarget {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, _: &CacheSite) -> Attachment {
        Attachment {
            strategy: Self::NAME.to_owned(),
            writable_roots: vec![self.dir()],
            reason: Some("it is not known before the worktree stands".to_owned()),
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let (this, site) = (self.clone(), site.clone());
        blocking(move || this.install(&site)).await
    }

    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        let (dir, workspace) = (self.dir(), workspace.to_owned());
        let around = self.setup.surroundings.clone();
        let examined =
            blocking(move || Ok((survey(&workspace).err(), confine::examine(&around, &workspace))));
        let (survey, mut found) = examined.await.unwrap_or_default();
        found.push(match survey {
            Some(why) => CacheFinding::trouble(
                format!("worktrees have targets of their own, and share nothing: {why}"),
                "set another `cache.strategy`, such as seeded",
            ),
            None => CacheFinding::fine(format!("worktrees build into {}", dir.display())),
        });
        found
    }

    async fn tidy(&self) -> Result<()> {
        let cache = self.setup.cache();
        blocking(move || install::tidy(&cache)).await
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        let dir = slot_dir(&site.path).to_owned();
        blocking(move || note::forget(&dir)).await
    }

    /// Empties the directories of all profiles, unless the build directory takes no more than
    /// `budget` or a build is running.
    async fn trim(&self, budget: u64) -> Result<u64> {
        let dir = self.dir();
        blocking(move || {
            let size = files::allocated(&[&dir]);
            if size <= budget {
                return Ok(0);
            }
            empty(&dir).map_err(|e| Error::io(format!("empty {}", dir.display()), e))?;
            Ok(size.saturating_sub(files::allocated(&[&dir])))
        })
        .await
    }

    async fn usage(&self) -> Result<u64> {
        let dir = self.dir();
        blocking(move || Ok(files::allocated(&[&dir]))).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use pool_core::{CommitId, ContentId, SlotId, Sources};

    use super::*;

    #[test]
    fn trimming_leaves_the_locks_that_a_waiting_cargo_has_open() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, "x").expect("written");
        };
        let nested = "debug/build/a/out/target/debug/.cargo-lock";
        let profiles = ["debug", "x86_64-unknown-linux-gnu/release"];
        for path in ["CACHEDIR.TAG", nested, "debug/deps/a.rlib", "begun/deps/b.rlib"] {
            write(path);
        }
        profiles.iter().for_each(|profile| write(&format!("{profile}/{LOCK}")));
        let lock = dir.path().join("debug").join(LOCK);
        let waits = File::options().append(true).open(&lock).expect("opened");
        fs4::FileExt::lock(&waits).expect("locked");
        empty(dir.path()).expect("a build runs");
        assert!(dir.path().join("debug/deps/a.rlib").exists());
        fs4::FileExt::unlock(&waits).expect("unlocked");
        empty(dir.path()).expect("emptied");
        // A build that begins meanwhile has no lock yet.
        let left = files::tree(dir.path()).expect("listed");
        let expected =
            ["CACHEDIR.TAG", "begun/deps/b.rlib", "debug/.cargo-lock"].map(PathBuf::from);
        assert_eq!(left[..3], expected);
        assert_eq!(left[3], Path::new(profiles[1]).join(LOCK));
        let found = fs::metadata(&lock).expect("there");
        assert!(crate::base::inode(&found) == crate::base::inode(&waits.metadata().expect("read")));
    }

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl Sources for Nothing {
        async fn files(&self, _: &CommitId) -> Result<BTreeMap<PathBuf, ContentId>> {
            Ok(BTreeMap::new())
        }

        async fn export(&self, _: &CommitId, _: &Path) -> Result<()> {
            Ok(())
        }

        async fn stamp(
            &self,
            _: SlotId,
            _: BTreeMap<PathBuf, std::time::SystemTime>,
        ) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_two_leases_get_the_same_number() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shared = SharedTarget::new(Setup::new(dir.path(), Arc::new(Nothing)));
        let take = || (0..20).map(|_| shared.next_number().expect("counted")).collect::<Vec<_>>();
        let mut all: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=80).collect::<Vec<_>>());
    }

    /// A number that is given out twice would have cargo believe what another lease built.
    #[test]
    fn count_that_is_lost_is_not_begun_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shared = SharedTarget::new(Setup::new(dir.path(), Arc::new(Nothing)));
        assert_eq!(shared.next_number().expect("counted"), 1);
        let count = dir.path().canonicalize().expect("it exists").join("cache/shared/leases");
        for damaged in ["", "x", "-1", "4294967295", &LARGEST.to_string()] {
            fs::write(&count, damaged).expect("written");
            assert!(shared.next_number().is_err(), "{damaged:?}");
        }
        fs::remove_file(&count).expect("removed");
        fs::create_dir_all(shared.dir().join("debug")).expect("made");
        let error = shared.next_number().expect_err("there are builds");
        assert!(error.hint().is_some_and(|hint| hint.contains("rm -r")), "{error}");
        fs::remove_dir_all(shared.dir()).expect("removed");
        assert_eq!(shared.next_number().expect("counted"), 1);
    }
}
