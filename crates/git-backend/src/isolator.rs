//! The `Isolator` on git worktrees: each call runs on a blocking thread, one at a time for a slot,
//! and notices when its caller goes away.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use pool_core::{
    Base, CommitId, ContentId, Discovered, Error, ErrorKind, Inspection, Isolator, LeaseId,
    LeaseName, Plan, Preserved, RescueArchive, Result, SlotId, Sources, Wish,
};

use crate::inspect::again_while_repacked;
use crate::mirrors::{self, Exposure};
use crate::nested::{self, Other};
use crate::repository::Repository;
use crate::settings::GitSettings;
use crate::site::{Site, open_repository};
use crate::{
    branch, dispose, inspect, own_worktree, owner, provision, recycle, rescue, sources, trash, tree,
};

/// Makes, resets and removes linked worktrees of one repository.
///
/// Needs a tokio runtime to run in. Dropping a future of [`provision`](Isolator::provision) or
/// [`recycle`](Isolator::recycle) makes the work behind it stop soon; the next call for that slot
/// waits until it has.
#[derive(Debug)]
pub struct GitIsolator {
    site: Arc<Site>,
    archive: rescue::Archive,
    repository: Repository,
    /// One lock per slot, so that work whose caller went away is over before the next begins.
    slots: Mutex<HashMap<SlotId, Arc<Mutex<()>>>>,
}

impl GitIsolator {
    /// A backend for that repository, with everything it makes in `pool_dir`. Nothing is created
    /// before the first worktree.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when `pool_dir` lies inside the git directory or
    /// a worktree, is another repository's pool, or is neither a pool nor empty;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) when the repository is another user's and not
    /// listed in `safe.directory`, and any when the repository can't be opened (its format is too new, for example).
    pub fn open(repository: &Repository, pool_dir: &Path, settings: GitSettings) -> Result<Self> {
        let site = Arc::new(Site::open(repository, pool_dir, settings)?);
        owner::check(&site.pool_dir, repository)?;
        let archive = rescue::Archive { site: Arc::clone(&site) };
        Ok(Self { site, archive, repository: repository.clone(), slots: Mutex::default() })
    }

    /// Whether there is a pool in the pool directory yet.
    ///
    /// # Errors
    ///
    /// If the directory can't be read, or has anything else in it.
    pub fn pool_exists(&self) -> Result<bool> {
        owner::is_pool(&self.site.pool_dir)
    }

    /// Returns the worktree that set-up files come from, as
    /// [`source_worktree`](crate::source_worktree) found it when the backend was opened.
    pub fn source_worktree(&self) -> Option<&Path> {
        self.site.source.as_ref().map(|source| &*source.path)
    }

    /// Verifies that stock git, started in a slot, works in that slot: no configuration redirects it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if it would work elsewhere; the hint is what to do. If
    /// there is no worktree of the pool's; if a configuration file can't be read.
    pub fn verify_means_slot(&self, slot: SlotId) -> Result<()> {
        own_worktree::verify(&self.site, &self.site.admin_dir(slot)?, &self.site.place(slot))
    }

    /// Takes over a pool that may be that of the repository from when it was at another path, or was
    /// on another filesystem, where only the user can say so. The worktrees in it that the repository
    /// has registered are then at its disposal. Does nothing for a pool of its own.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `pool_dir` is no pool, if the repository that it
    /// belongs to is still at its path, if none of its worktrees is registered in `repository`, and if
    /// it is a copy of another pool; any of writing it.
    pub fn adopt(repository: &Repository, pool_dir: &Path, settings: GitSettings) -> Result<()> {
        let site = Site::open(repository, pool_dir, settings)?;
        if owner::pool_owner(&site.pool_dir)?.is_none() {
            let message = format!("there is no pool in {}", site.pool_dir.display());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        owner::take_over(&site, repository, true)
    }

    /// Fails if the repository is not at its path any more, or the pool is not the repository's.
    ///
    /// # Errors
    ///
    /// [`NoRepository`](ErrorKind::NoRepository) if the repository was moved,
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the pool now is another one's.
    pub fn check_in_place(&self) -> Result<()> {
        self.site.check_in_place()?;
        owner::check(&self.site.pool_dir, &self.repository)
    }

    /// Returns what of the set-up files that [`GitSettings::copy`] names was not copied into a slot,
    /// and why: a sentence each. It holds for the last time that the slot was made or used again.
    pub fn left_out(&self, slot: SlotId) -> Vec<String> {
        crate::copy::left_out(&self.site, slot)
    }

    /// Returns whether a local branch exists now, and the worktree that has it checked out.
    ///
    /// # Errors
    ///
    /// If the reference or the registrations of worktrees cannot be read.
    pub fn branch_now(&self, name: &str) -> Result<Option<Option<PathBuf>>> {
        again_while_repacked(|| branch::now(&self.site, name))
    }

    /// Returns where the worktree of a lease was moved to by hand (`git worktree move`). `None` if it is
    /// in its slot or deleted, or if its log does not tell.
    ///
    /// # Errors
    ///
    /// If the registrations of worktrees cannot be read.
    pub fn moved_to(&self, lease: &LeaseId) -> Result<Option<PathBuf>> {
        inspect::whereabouts::moved_to(&self.site, lease)
    }

    /// Returns the name that a lease's branch has now, if it was renamed by hand (`git branch -m`) and
    /// git's logs say so.
    ///
    /// # Errors
    ///
    /// If references or the registrations of worktrees cannot be read.
    pub fn branch_renamed(&self, slot: SlotId, name: &str) -> Result<Option<String>> {
        again_while_repacked(|| inspect::whereabouts::branch_renamed(&self.site, slot, name))
    }

    /// Returns the remotes whose refspecs cover rescues or generated branches, as the configuration
    /// of the repository is now: a fetch with `--prune` from them deletes those, a push publishes them.
    ///
    /// # Errors
    ///
    /// If the repository cannot be opened.
    pub fn exposures(&self) -> Result<Vec<Exposure>> {
        mirrors::exposures(&self.site)
    }

    /// Returns whether the repository has that commit now, whether or not a reference reaches it.
    ///
    /// # Errors
    ///
    /// If the repository cannot be opened, or `commit` is no id of a commit.
    pub fn has_commit(&self, commit: &CommitId) -> Result<bool> {
        let id = inspect::object_id(commit.as_str())?;
        let repo = open_repository(&self.site.common_dir, &self.site.settings)?;
        Ok(repo.find_commit(id).is_ok())
    }

    /// Returns what lies in the directories of slots that is not the pool's: beside a worktree, or as
    /// a linked worktree inside of one. `is_known` tells by its name what another part of the pool,
    /// such as its cache, keeps beside a worktree.
    ///
    /// # Errors
    ///
    /// If a directory or the registrations of worktrees cannot be read.
    pub fn others(&self, is_known: impl Fn(&OsStr) -> bool) -> Result<Vec<Other>> {
        nested::others(&self.site, &is_known)
    }

    /// Refuses from now on to use a slot again that has something beside its worktree, so that a slot
    /// with another lease's files is removed, and no later lease gets it. `is_known` is as for
    /// [`others`](Self::others). The first call counts.
    pub fn reuse_no_slots_with_others(&self, is_known: fn(&OsStr) -> bool) {
        let _ = self.site.known_beside.set(is_known);
    }

    /// Runs `work` on a blocking thread, after whatever still runs for that slot.
    async fn for_slot<T: Send + 'static>(
        &self,
        slot: SlotId,
        work: impl FnOnce(&Site, &AtomicBool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lock = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(slot).or_default())
        };
        self.blocking(move |site, interrupt| {
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            work(site, interrupt)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Site, &AtomicBool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let site = Arc::clone(&self.site);
        let interrupt = Arc::new(AtomicBool::new(false));
        let _on_drop = InterruptOnDrop(Arc::clone(&interrupt));
        tokio::task::spawn_blocking(move || work(&site, &interrupt)).await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Other, "the work on a worktree ended unexpectedly")
                .with_source(e))
        })
    }
}

/// Raises the flag when the future that owns it is dropped, or done.
struct InterruptOnDrop(Arc<AtomicBool>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Isolator for GitIsolator {
    fn name(&self) -> &str {
        "git"
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.site.place(slot)
    }

    fn pool_dir(&self) -> Option<&Path> {
        Some(&self.site.pool_dir)
    }

    fn claim_dir(&self) -> Result<()> {
        // A directory in which nothing is made stays empty.
        if !self.pool_exists()? {
            return Ok(());
        }
        owner::claim(&self.site, &self.repository)
    }

    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base> {
        let (wish, name) = (wish.clone(), name.clone());
        self.blocking(move |site, _| again_while_repacked(|| branch::resolve(site, &wish, &name)))
            .await
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        let plan = plan.clone();
        self.for_slot(plan.slot, move |site, interrupt| {
            again_while_repacked(|| provision::provision(site, &plan, interrupt))
        })
        .await
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        let plan = plan.clone();
        self.for_slot(plan.slot, move |site, _| inspect::inspect(site, &plan)).await
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        let slot = inspection.plan.slot;
        self.for_slot(slot, move |site, _| rescue::preserve(site, inspection)).await
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        let plan = plan.clone();
        self.for_slot(plan.slot, move |site, interrupt| {
            recycle::recycle(site, &plan, proof, interrupt)
        })
        .await
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        self.for_slot(proof.slot(), move |site, _| dispose::dispose(site, proof)).await
    }

    fn has_trash(&self) -> bool {
        trash::is_there(&self.site)
    }

    async fn sweep(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let work = self.blocking(move |site, _| {
            rescue::clear_unfinished(site)?;
            // Nobody listens any more once the caller has gone away; the deleting is finished.
            trash::sweep(site, &mut |count| {
                let _ = tell.send(count);
            })
        });
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(count) = told.recv() => progress(count),
                done = &mut work => {
                    while let Ok(count) = told.try_recv() {
                        progress(count);
                    }
                    return done;
                }
            }
        }
    }

    async fn discover(&self) -> Result<Vec<Discovered>> {
        self.blocking(|site, _| dispose::discover(site)).await
    }

    async fn usage(&self, slot: SlotId) -> Result<u64> {
        self.blocking(move |site, _| tree::usage(site, slot)).await
    }

    fn rescues(&self) -> Option<&dyn RescueArchive> {
        Some(&self.archive)
    }
}

#[async_trait]
impl Sources for GitIsolator {
    async fn files(&self, commit: &CommitId) -> Result<BTreeMap<PathBuf, ContentId>> {
        let commit = commit.clone();
        self.blocking(move |site, _| sources::files(site, &commit)).await
    }

    async fn export(&self, commit: &CommitId, into: &Path) -> Result<()> {
        let (commit, into) = (commit.clone(), into.to_owned());
        self.blocking(move |site, _| sources::export(site, &commit, &into)).await
    }

    async fn stamp(&self, slot: SlotId, times: BTreeMap<PathBuf, SystemTime>) -> Result<()> {
        self.for_slot(slot, move |site, _| sources::stamp(site, slot, &times)).await
    }
}
