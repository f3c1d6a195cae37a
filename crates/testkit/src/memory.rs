//! An [`Isolator`] in memory, stricter than any real one.
//!
//! Its workspaces are maps of files. It checks its caller rather than helping it: what the contract
//! forbids (two calls at once for one slot, a proof that is not for what is there, a workspace made
//! upon another) is refused *and* noted, and [`audit`](MemoryIsolator::audit) then fails, even when the
//! caller swallowed the error. It also keeps a ledger of all that was ever written, and `audit` looks for
//! each byte.

mod agent;
mod archive;
mod audit;
mod contract;
mod world;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use pool_core::{
    Base, Branch, BranchWish, Clock, CommitId, Discovered, Error, ErrorKind, Inspection, Isolator,
    LeaseName, Plan, Preserved, RescueArchive, Result, SlotId, Wish,
};
use tokio::task::yield_now;

use world::{Tree, Workspace, World};

/// Workspaces in memory; see the [module](self).
///
/// There is a repository with two commits on `main` and a branch `side`. Ignored are `.env`, `*.log`
/// and `target/`, of which `target/` is regenerable: as in [`Layout::Plain`](crate::fixture::Layout::Plain).
#[derive(Debug)]
pub struct MemoryIsolator {
    world: Mutex<World>,
    clock: Option<Arc<dyn Clock>>,
    root: PathBuf,
    pool_dir: Option<PathBuf>,
}

impl Default for MemoryIsolator {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryIsolator {
    /// A repository without any workspace. It knows no time: all its timestamps are the epoch.
    pub fn new() -> Self {
        let root = if cfg!(windows) { r"C:\memory" } else { "/memory" };
        Self { world: Mutex::new(World::new()), clock: None, root: root.into(), pool_dir: None }
    }

    /// As [`new`](Self::new), with a clock for timestamps.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::new() }
    }

    /// As [`new`](Self::new), with workspaces that count as those of a pool directory which other
    /// processes use.
    pub fn with_pool_dir(dir: impl Into<PathBuf>) -> Self {
        Self { pool_dir: Some(dir.into()), ..Self::new() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> jiff::Timestamp {
        self.clock.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |clock| clock.now().wall)
    }

    /// Notes that a call for `slot` runs, until the guard is dropped.
    fn enter(&self, slot: SlotId, call: &'static str) -> Result<Entered<'_>> {
        let mut world = self.world();
        if let Some(other) = world.busy.get(&slot).copied() {
            return Err(world.violation(format!("{call} of slot {slot} while {other} of it runs")));
        }
        world.busy.insert(slot, call);
        Ok(Entered { of: self, slot })
    }

    // What an agent does in its workspace.

    /// Writes a file in a workspace.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn write(&self, slot: SlotId, path: &str, bytes: impl AsRef<[u8]>) {
        let now = self.now();
        self.world().write(slot, path, bytes.as_ref().into(), now);
    }

    /// Deletes a file in a workspace.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot, or no such file.
    pub fn remove(&self, slot: SlotId, path: &str) {
        self.world().remove(slot, path);
    }

    /// The content of a file in a workspace. `None` when there is no such file, or no workspace.
    pub fn read(&self, slot: SlotId, path: &str) -> Option<Vec<u8>> {
        Some(self.world().slots.get(&slot)?.files.get(path)?.to_vec())
    }

    /// The files of a workspace, sorted. Empty when there is no workspace.
    pub fn files(&self, slot: SlotId) -> Vec<String> {
        self.world().slots.get(&slot).map_or_else(Vec::new, |ws| ws.files.keys().cloned().collect())
    }

    /// Stages a file as it is, or its deletion.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn stage(&self, slot: SlotId, path: &str) {
        self.world().stage(slot, path);
    }

    /// Stages everything that is not ignored, and commits it to the branch the workspace is on, if
    /// any.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn commit(&self, slot: SlotId) -> CommitId {
        self.world().commit(slot)
    }

    /// Leaves the branch, staying at its commit.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn detach(&self, slot: SlotId) {
        self.world().expect(slot).on = None;
    }

    /// Goes back one commit, `--hard`: what was not committed is gone by the agent's own will, and
    /// only the reflog keeps the commit.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot, or the commit has no parent.
    pub fn reset_away(&self, slot: SlotId) {
        self.world().reset_away(slot);
    }

    /// Declares something in the workspace to be beyond rescue, or no longer so.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn set_unsavable(&self, slot: SlotId, reason: Option<&str>) {
        self.world().expect(slot).unsavable = reason.map(str::to_owned);
    }

    // What somebody does behind the pool's back.

    /// Deletes the workspace as a user does with `rm -r`: its registration stays, and with it what
    /// only its reflog keeps.
    ///
    /// # Panics
    ///
    /// When there is no workspace in the slot.
    pub fn delete_by_hand(&self, slot: SlotId) {
        self.world().delete_by_hand(slot);
    }

    /// Puts something in a slot's place that is not the pool's, or takes it away again.
    ///
    /// # Panics
    ///
    /// When there is a workspace in the slot.
    pub fn set_foreign(&self, slot: SlotId, what: Option<&str>) {
        let mut world = self.world();
        assert!(!world.slots.contains_key(&slot), "there is a workspace in slot {slot}");
        match what {
            Some(what) => world.foreign.insert(slot, what.to_owned()),
            None => world.foreign.remove(&slot),
        };
    }

    // What a test asks.

    /// What is in a slot's place that is not the pool's.
    pub fn foreign(&self, slot: SlotId) -> Option<String> {
        self.world().foreign.get(&slot).cloned()
    }

    /// Whether there is a workspace in the slot, whole.
    pub fn stands(&self, slot: SlotId) -> bool {
        self.world().slots.get(&slot).is_some_and(Workspace::stands)
    }

    /// What a branch points to.
    pub fn branch(&self, name: &str) -> Option<CommitId> {
        self.world().branches.get(name).cloned()
    }

    /// The names of all branches, sorted.
    pub fn branches(&self) -> Vec<String> {
        self.world().branches.keys().cloned().collect()
    }

    /// Which slots have a workspace, or what is left of one.
    pub fn occupied(&self) -> Vec<SlotId> {
        self.world().slots.keys().copied().collect()
    }

    /// For which plan the workspace in the slot was made.
    pub fn plan(&self, slot: SlotId) -> Option<Plan> {
        Some(self.world().slots.get(&slot)?.plan.clone())
    }

    /// Looks for each commit and each byte that was ever written: it must be in place, reachable
    /// from a branch, or in a rescue, unless the agent itself replaced it or a user took it away.
    ///
    /// # Errors
    ///
    /// What was lost, or which call broke the contract.
    pub fn audit(&self) -> Result<(), String> {
        self.world().audit()
    }
}

struct Entered<'a> {
    of: &'a MemoryIsolator,
    slot: SlotId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.of.world().busy.remove(&self.slot);
    }
}

fn check_branch_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.starts_with(['-', '/', '.'])
        || name.ends_with(['/', '.'])
        || name.ends_with(".lock")
        || name.contains("..")
        || name.contains("//")
        || name.contains("@{")
        || name.len() > 200
        || name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c));
    if bad {
        let error = Error::new(ErrorKind::InvalidInput, format!("{name:?} is not a branch name"));
        return Err(error.with_hint("see `git help check-ref-format` for what is one"));
    }
    Ok(())
}

#[async_trait]
impl Isolator for MemoryIsolator {
    fn name(&self) -> &str {
        "memory"
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.root.join(format!("slot-{slot}"))
    }

    fn pool_dir(&self) -> Option<&Path> {
        self.pool_dir.as_deref()
    }

    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base> {
        yield_now().await;
        let world = self.world();
        let start = match (&wish.base, &wish.origin) {
            (Some(revision), _) => world.revision(revision)?,
            (None, Some(origin)) => {
                let here =
                    world.slots.iter().find(|(slot, _)| origin.starts_with(self.place(**slot)));
                here.map_or_else(|| world.branches["main"].clone(), |(_, ws)| world.head(ws))
            }
            (None, None) => world.branches["main"].clone(),
        };
        let branch = match &wish.branch {
            BranchWish::Detached => return Ok(Base { commit: start, branch: None }),
            BranchWish::Generated => format!("wtpool/{name}"),
            BranchWish::Named(branch) => branch.clone(),
        };
        check_branch_name(&branch)?;
        let Some(tip) = world.branches.get(&branch) else {
            return Ok(Base {
                commit: start,
                branch: Some(Branch { name: branch, created: true }),
            });
        };
        if wish.branch == BranchWish::Generated {
            return Err(world::taken(&branch, "exists"));
        }
        if wish.base.is_some() {
            let message = format!("the branch {branch} exists, and a base would move it");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("leave the base out to continue the branch"));
        }
        if world.is_checked_out(&branch, None) {
            return Err(world::taken(&branch, "is checked out elsewhere"));
        }
        Ok(Base { commit: tip.clone(), branch: Some(Branch { name: branch, created: false }) })
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        let _entered = self.enter(plan.slot, "provision")?;
        yield_now().await;
        self.world().begin(plan)?;
        yield_now().await;
        self.world().fill(plan.slot);
        yield_now().await;
        self.world().finish(plan.slot);
        yield_now().await;
        Ok(())
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        yield_now().await;
        let inspection = self.world().inspect(plan);
        yield_now().await;
        inspection
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        let slot = inspection.plan.slot;
        let _entered = self.enter(slot, "preserve")?;
        yield_now().await;
        let now = self.now();
        let preserved = self.world().preserve(&inspection.plan, now);
        yield_now().await;
        preserved
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        let slot = proof.slot();
        let _entered = self.enter(slot, "recycle")?;
        yield_now().await;
        proof.check_unoccupied(&self.place(slot))?;
        self.world().begin_again(plan, &proof)?;
        yield_now().await;
        self.world().fill(slot);
        yield_now().await;
        self.world().finish(slot);
        yield_now().await;
        Ok(())
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        let slot = proof.slot();
        let _entered = self.enter(slot, "dispose")?;
        yield_now().await;
        proof.check_unoccupied(&self.place(slot))?;
        self.world().begin_end(&proof)?;
        yield_now().await;
        self.world().slots.remove(&slot);
        yield_now().await;
        Ok(())
    }

    async fn discover(&self) -> Result<Vec<Discovered>> {
        yield_now().await;
        Ok(self.world().discover())
    }

    async fn usage(&self, slot: SlotId) -> Result<u64> {
        yield_now().await;
        let size = |files: &Tree| files.values().map(|bytes| bytes.len() as u64).sum();
        Ok(self.world().slots.get(&slot).map_or(0, |ws| size(&ws.files)))
    }

    fn rescues(&self) -> Option<&dyn RescueArchive> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
