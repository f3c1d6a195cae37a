//! A private target at the slot's stable path, which starts from what the pool built before.

mod examine;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use pool_core::{
    Attachment, CacheFinding, CacheSite, CacheStrategy, CommitId, ContentId, Error, ErrorKind,
    Prepared, Result,
};

use crate::base::{self, Base, Choice, Lock, Manifest, times};
use crate::cargo::Toolchain;
use crate::confine::Confinement;
use crate::files;
use crate::install::{self, Build, CargoConfig};
use crate::note::{self, Note};
use crate::rustc::Config;
use crate::seed;
use crate::setup::{self, Lean, Setup, slot_dir};

/// The lock that keeps a base as it is while it is read.
type Reading = Option<Arc<Lock>>;

/// Each workspace builds into its own `target`; that of a new slot begins with what a *base* has, which the
/// pool built from a clean commit ([`prepare`](CacheStrategy::prepare)).
///
/// What rustc only ever replaces is shared with the base: by reflinks where the filesystem has them, else by hard
/// links. All else is a reflink or a copy. A unit of the workspace itself is given only where it would come out the same: every file it
/// was made from is the same, no path of the base is in it, and nothing came or went where a macro
/// or a build script may have looked. Everything else cargo builds, as it would anywhere.
///
/// A slot that is used again is given the same as a new one: the isolator has removed what the last lease built.
///
/// # Limitations
///
/// - Only the workspace at the root of the repository, with its `target` inside.
/// - On other systems than Linux, or where namespaces are not permitted, the first edit of a crate in a new
///   slot is compiled without incremental state.
/// - Variables of the environment that cargo does not set and is not told of are not noticed.
/// - Where builds can't be observed (other systems than Linux, containers without ptrace), a build script that
///   depends on more than it says keeps what it found in the base, and a look for a file that is not there is
///   noticed in the directories of its sources, in its package's own, or in one above that.
/// - Where a build writes among the sources, nothing of the workspace itself is given: it would not be there.
#[derive(Clone, Debug)]
pub struct Seeded {
    setup: Arc<Setup>,
}

impl Seeded {
    /// What this strategy is called in settings.
    pub const NAME: &str = "seeded";

    /// The strategy for one pool. Touches nothing.
    pub fn new(setup: Setup) -> Self {
        Self { setup: Arc::new(setup) }
    }

    /// The bases that slots still refer to.
    fn used(&self) -> Vec<u64> {
        let slots = fs::read_dir(self.setup.pool_dir.join("slots")).into_iter().flatten().flatten();
        slots.filter_map(|slot| Note::read(&slot.path()).base).collect()
    }

    /// Has all slots build lean from now on, or not.
    fn set_pressure(&self, in_use: u32, manifest: Option<&Manifest>) {
        let flag = self.lean_flag();
        let lean =
            manifest.is_some_and(|base| self.setup.lean.applies(in_use, base.growth, base.size));
        if lean {
            base::all(&self.setup.cache()).iter().for_each(Base::drop_state);
        }
        // A flag that can't be set means more disk, not a wrong build.
        let _ = match lean {
            true => fs::File::create(&flag).map(drop),
            false => fs::remove_file(&flag),
        };
    }

    fn lean_flag(&self) -> PathBuf {
        self.setup.cache().join("lean")
    }

    /// What cargo and the wrapper of rustc are told in a slot.
    fn install(
        &self,
        site: &CacheSite,
        base: Option<&(Base, Manifest)>,
        confinement: &Confinement,
    ) -> Result<Option<PathBuf>> {
        let setup = &self.setup;
        let target = base.map_or_else(|| "target".into(), |(_, manifest)| manifest.target.clone());
        let rustc = Config {
            root: site.path.clone(),
            canonical: Some(install::canonical(&setup.cache())?),
            donor: base.map(|(base, manifest)| base.tree().join(&manifest.target)),
            target: site.path.join(target),
            lean: setup.lean == Lean::Always,
            lean_while: (setup.lean == Lean::Auto).then(|| self.lean_flag()),
            chain: setup.chain.clone(),
            claims: setup.claims.clone(),
            ..Config::default()
        };
        let cargo = CargoConfig {
            build: Build { jobs: setup.jobs, ..Build::default() },
            ..CargoConfig::default()
        };
        let cargo = confinement.within(cargo);
        install::put(slot_dir(&site.path), setup.program()?.as_deref(), &rustc, &cargo)
    }

    /// Gives a slot what it may have.
    async fn begin(&self, site: &CacheSite, confinement: Confinement) -> Result<Attachment> {
        let (cache, commit) = (self.setup.cache(), site.base.clone());
        let mut choice = blocking(move || Ok(base::choose(&cache, &commit))).await?;
        let base = choice.base.take();
        let is_none = base.is_none();
        let begun = self.begin_from(site, confinement, base, &choice.lock).await?;
        Ok(told_of(&choice, is_none, begun))
    }

    /// Does that with the base that was chosen, which `lock` keeps as it is.
    async fn begin_from(
        &self,
        site: &CacheSite,
        confinement: Confinement,
        base: Option<(Base, Manifest)>,
        lock: &Reading,
    ) -> Result<Attachment> {
        self.set_pressure(site.in_use, base.as_ref().map(|(_, manifest)| manifest));
        if let Some((base, _)) = &base {
            // Before anything refers to it: its compilations begin with incremental state of the base.
            let (note, dir) = (Note { base: Some(base.number()) }, slot_dir(&site.path).to_owned());
            blocking(move || note.write(&dir)).await?;
            pool_core::fail_point!("cache-share::seeded::noted");
        }
        self.install(site, base.as_ref(), &confinement)?;
        let contents = self.setup.sources.files(&site.base).await?;
        let Some(base) = base else {
            self.date(site, contents, BTreeMap::new()).await?;
            return Ok(Attachment { unprepared: true, ..self.attachment(false, None) });
        };
        let (path, inside) = (site.path.clone(), base.1.target.clone());
        let is_free = blocking(move || Ok(is_free(&path, &inside))).await?;
        if !is_free {
            self.date(site, contents, BTreeMap::new()).await?;
            let shown = base.1.target.display();
            return Ok(self.cold(format!("the commit or a set-up file has something at {shown}")));
        }
        let stateless = !base.0.has_state(&base.1) && !self.lean_flag().exists();
        let seeded = self.seed(site, contents, base, lock).await?;
        Ok(Attachment { unprepared: seeded.unprepared || stateless, ..seeded })
    }

    fn cold(&self, reason: String) -> Attachment {
        self.attachment(false, Some(reason))
    }

    fn attachment(&self, warm: bool, reason: Option<String>) -> Attachment {
        Attachment { strategy: Self::NAME.to_owned(), warm, reason, ..Attachment::default() }
    }

    /// Gives files the times of the base, and the time of now to all others that have had its time since an earlier
    /// lease of the slot: in a new slot they would have been written just now.
    async fn date(
        &self,
        site: &CacheSite,
        contents: BTreeMap<PathBuf, ContentId>,
        mut times: BTreeMap<PathBuf, SystemTime>,
    ) -> Result<()> {
        let path = site.path.clone();
        let times = blocking(move || {
            let now = SystemTime::now();
            for file in contents.into_keys() {
                if !times.contains_key(&file) && times::is_of_sources(&path.join(&file)) {
                    times.insert(file, now);
                }
            }
            Ok(times)
        })
        .await?;
        self.setup.sources.stamp(site.slot, times).await
    }

    async fn seed(
        &self,
        site: &CacheSite,
        contents: BTreeMap<PathBuf, ContentId>,
        from: (Base, Manifest),
        lock: &Reading,
    ) -> Result<Attachment> {
        let (manifest, path) = (&from.1, site.path.clone());
        let found = blocking(move || Toolchain::find(&path)).await?;
        if let Some(why) = manifest.toolchain.difference(&found) {
            self.date(site, contents, BTreeMap::new()).await?;
            let reason = format!("the base is of no use here: {why}");
            return Ok(Attachment { unprepared: true, ..self.cold(reason) });
        }
        let same_commit = manifest.commit == site.base;
        let path = site.path.clone();
        let empty = manifest.units.is_empty().then(|| nothing_in(&from.0, manifest));
        let lock = lock.clone();
        let mut known = contents.clone();
        base::keep_unicode(&mut known);
        let (seeded, left, times) = blocking(move || {
            let _lock = lock;
            let (base, manifest) = &from;
            let looks = seed::Looks::new(manifest, same_commit, &known, &path);
            let decision = seed::decide(&looks);
            let seeded = seed::apply(base, manifest, &decision, slot_dir(&path), &path)?;
            if let Some(damage) = &seeded.damage {
                base.condemn(damage);
            }
            Ok((seeded, summary(&decision.left), decision.times))
        })
        .await?;
        pool_core::fail_point!("cache-share::seeded::seeded");
        self.date(site, contents, times).await?;
        pool_core::fail_point!("cache-share::seeded::stamped");
        let unprepared = seeded.damage.is_some();
        let reason = match (seeded.damage, left) {
            (Some(damage), _) => Some(format!("a part of the base is damaged: {damage}")),
            (None, left) => left.or(empty),
        };
        Ok(Attachment { unprepared, ..self.attachment(seeded.units > 0, reason) })
    }
}

/// Whether nothing is in the place of a target directory, and no symlink leads there.
fn is_free(worktree: &Path, target: &Path) -> bool {
    let mut dirs = target.ancestors().filter(|dir| *dir != Path::new(""));
    let is_dir = |dir: &Path| match fs::symlink_metadata(worktree.join(dir)) {
        Ok(meta) => meta.is_dir(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    dirs.all(is_dir) && files::is_empty(&worktree.join(target))
}

/// What is told of a lease beyond how it began: which bases were of no use for it, where that is
/// news or leaves none.
fn told_of(choice: &Choice, none: bool, begun: Attachment) -> Attachment {
    let why = choice.damaged.first().or(choice.passed_over.first().filter(|_| none));
    let reason = match why {
        Some(why) if none && !begun.warm => Some(format!(
            "nothing was built for this pool that can be used: {why}; `wtpool warm` builds another"
        )),
        None if none && !begun.warm => {
            Some("nothing was built for this pool yet; `wtpool warm` does it ahead".to_owned())
        }
        why => why.cloned(),
    };
    // A build that came to nothing is not tried again for each lease.
    let wanted = begun.unprepared || !choice.damaged.is_empty();
    let unprepared = wanted && !(none && choice.failed_before);
    let reason = match (reason, begun.reason) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    };
    Attachment { reason, unprepared, ..begun }
}

/// Why a slot has nothing of a base in which there is nothing.
fn nothing_in(base: &Base, manifest: &Manifest) -> String {
    let why = manifest.trouble.as_deref().unwrap_or("its build told of no compilation");
    format!("there is nothing in base {}: {why}", base.number())
}

/// Which crates are built anew, and why the first of them is.
fn summary(left: &[(&base::Unit, String)]) -> Option<String> {
    let (first, why) = left.first()?;
    let name = first.name.rsplit_once('-').map_or(&*first.name, |(name, _)| name);
    Some(match left.len() {
        1 => format!("{name} is built anew: {why}"),
        count => format!("{name} is built anew ({why}), and so are {} other units", count - 1),
    })
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Other, "the work on a cache ended unexpectedly").with_source(e))
    })
}

#[async_trait]
impl CacheStrategy for Seeded {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, _: &CacheSite) -> Attachment {
        self.attachment(false, Some("it is not known before the worktree stands".to_owned()))
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let (beginning, setup) = (site.clone(), self.setup.clone());
        let (confinement, instead) =
            blocking(move || setup::begin(&beginning, &setup.surroundings)).await?;
        if let Some(instead) = instead {
            return Ok(instead);
        }
        self.begin(site, confinement).await
    }

    async fn prepare(
        &self,
        commit: &CommitId,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<Prepared> {
        let has_manifest =
            self.setup.sources.files(commit).await?.contains_key(Path::new("Cargo.toml"));
        if !has_manifest {
            return Ok(Prepared::Nothing);
        }
        let recipe = base::Recipe {
            cache: self.setup.cache(),
            wrapper: self.setup.program()?,
            command: self.setup.warm_command.clone(),
            spare: self.setup.lean != Lean::Never,
            jobs: self.setup.jobs,
            surroundings: self.setup.surroundings.clone(),
            used: {
                let this = self.clone();
                Box::new(move || this.used())
            },
        };
        base::build(&*self.setup.sources, recipe, commit, progress).await
    }

    async fn harvest(&self, site: &CacheSite) -> Result<()> {
        let (cache, commit) = (self.setup.cache(), site.base.clone());
        let base = blocking(move || Ok(base::preferred(&cache, &commit))).await?;
        self.set_pressure(site.in_use.saturating_sub(1), base.as_ref());
        Ok(())
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        let dir = slot_dir(&site.path).to_owned();
        blocking(move || note::forget(&dir)).await
    }

    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        let (setup, workspace) = (self.setup.clone(), workspace.to_owned());
        let lean = self.lean_flag();
        let found = blocking(move || Ok(examine::examine(&setup, &workspace, &lean))).await;
        found.unwrap_or_else(|e| vec![CacheFinding::fine(e.to_string())])
    }

    async fn tidy(&self) -> Result<()> {
        let this = self.clone();
        blocking(move || {
            let cache = this.setup.cache();
            install::tidy(&cache)?;
            if !base::is_tidy(&cache) {
                // `doctor` names what can't be removed.
                let _ = base::tidy(&cache, usize::MAX, &|| this.used());
            }
            Ok(())
        })
        .await
    }

    /// Removes bases, the oldest first; never one that a slot refers to, or that is being built or
    /// read.
    async fn trim(&self, budget: u64) -> Result<u64> {
        let this = self.clone();
        blocking(move || {
            let cache = this.setup.cache();
            let before = files::allocated(&[&cache]);
            let mut left = Vec::new();
            for keep in (0..base::all(&cache).len()).rev() {
                if files::allocated(&[&cache]) <= budget {
                    break;
                }
                left = base::tidy(&cache, keep, &|| this.used());
            }
            left.iter().for_each(base::Leftover::warn);
            Ok(before.saturating_sub(files::allocated(&[&cache])))
        })
        .await
    }

    async fn usage(&self) -> Result<u64> {
        let cache = self.setup.cache();
        blocking(move || Ok(files::allocated(&[&cache]))).await
    }
}
