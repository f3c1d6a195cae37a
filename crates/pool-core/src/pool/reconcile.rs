//! Brings records and reality together, and ends what is over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::{Inner, Pool, Release, end};
use crate::error::{ErrorKind, Result};
use crate::id::{ClaimKey, LeaseId, SlotId};
use crate::isolator::{BranchWish, Condition, Discovered, Wish};
use crate::quiet::Looks;
use crate::retry::Attempt;
use crate::state::{EndReason, Outcome, Owner, PoolState, Slot, SlotState};
use crate::ttl::{Due, Facts};
use crate::{Base, LeaseName};

/// What [`Pool::prune`] shall do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove idle and lingering slots too.
    pub all: bool,
}

/// What a reconciliation did, or would do, one line for each thing. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// For people to read.
    pub done: Vec<String>,
}

impl Pool {
    /// Compares records and reality, ends what is over, resumes what was interrupted. Safe to call at
    /// any time, by any number of processes at once: each thing is done by one of them.
    ///
    /// A slot that could not be saved is tried again, by the same pool instance, only after a multiple of the
    /// time that this has taken; [`prune`](Self::prune) tries at once.
    ///
    /// # Errors
    ///
    /// When the records fail. Trouble with a single slot quarantines that slot.
    pub async fn reconcile(&self) -> Result<PruneReport> {
        let inner = &self.inner;
        inner.adopt_orphans().await;
        inner.end_unowned().await?;
        let state = inner.store.load().await?;
        if state.clone().reanchor(&inner.clock.now()) {
            inner.update(|state, now| state.reanchor(now)).await?;
        }
        let mut report = PruneReport::default();
        let lost = inner.discover(&mut report).await?;
        crate::fail_point!("pool-core::reconcile::discovered");
        let state = inner.store.load().await?;
        let facts = inner.facts(&state, lost).await;
        let now = inner.clock.now();
        for due in state.due(&inner.settings, &facts, &now) {
            let (begun, tried) = (inner.clock.now(), due.reopened());
            self.perform(&state, due, &mut report).await?;
            if let Some(slot) = tried
                && let Some(attempt) = inner.attempts().get_mut(&slot)
            {
                attempt.goes_on(&begun, &inner.clock.now());
            }
            crate::fail_point!("pool-core::reconcile::performed");
        }
        inner.liveness.tidy();
        if let Some(cache) = &inner.cache
            && let Err(error) = cache.tidy().await
        {
            tracing::warn!(target: "wtpool", %error, "not all leftovers of the cache were removed");
        }
        Ok(report)
    }

    /// [Reconciles](Self::reconcile), and finishes deletions. With `all`, idle and lingering slots are
    /// removed as well. When it returns, all that was due is done.
    ///
    /// `progress` is told how many files were deleted since it was told last.
    ///
    /// # Errors
    ///
    /// See [`reconcile`](Self::reconcile).
    pub async fn prune(
        &self,
        options: PruneOptions,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<PruneReport> {
        if options.dry_run {
            return self.would_prune(options).await;
        }
        self.inner.attempts().clear();
        let mut report = self.reconcile().await?;
        if options.all {
            let state = self.list().await?;
            for slot in state.slots.values() {
                let due = match &slot.state {
                    SlotState::Lingering { .. } => Due::Reopen(slot.id),
                    SlotState::Free => Due::Retire(slot.id),
                    _ => continue,
                };
                self.perform(&state, due, &mut report).await?;
            }
            // A lingering slot that was reopened may have been kept as an idle one.
            let state = self.list().await?;
            for slot in state.slots.values().filter(|s| s.state == SlotState::Free) {
                self.perform(&state, Due::Retire(slot.id), &mut report).await?;
            }
        }
        crate::fail_point!("pool-core::reconcile::before-sweep");
        self.inner.isolator.sweep(progress).await?;
        Ok(report)
    }

    async fn would_prune(&self, options: PruneOptions) -> Result<PruneReport> {
        let inner = &self.inner;
        inner.attempts().clear();
        let now = inner.clock.now();
        let mut state = inner.store.load().await?;
        state.reanchor(&now);
        let lost = Lost::new(&state, &inner.isolator.discover().await?);
        let facts = inner.facts(&state, lost).await;
        let mut due = state.due(&inner.settings, &facts, &now);
        if options.all {
            let rest = state.slots.values().filter_map(|s| match s.state {
                SlotState::Free => Some(Due::Retire(s.id)),
                SlotState::Lingering { .. } => Some(Due::Reopen(s.id)),
                _ => None,
            });
            for more in rest {
                if !due.contains(&more) {
                    due.push(more);
                }
            }
        }
        Ok(PruneReport { done: due.iter().filter_map(|d| self.describe(&state, d)).collect() })
    }

    /// Reconciles every `period`, until it has found nothing left to watch `idle` times in a row, or
    /// for ever with `None`. A host runs it as a task; the command line, as a process.
    ///
    /// # Errors
    ///
    /// When the records fail.
    pub async fn watch(&self, period: Duration, idle: Option<u32>) -> Result<()> {
        let mut quiet = 0;
        loop {
            self.reconcile().await?;
            self.inner.isolator.sweep(&|_| ()).await.unwrap_or_else(|error| {
                tracing::warn!(target: "wtpool", %error, "not all trash could be deleted");
            });
            quiet = if self.needs_watching().await? { 0 } else { quiet + 1 };
            if idle.is_some_and(|idle| quiet >= idle) {
                return Ok(());
            }
            self.inner.clock.sleep(period).await;
        }
    }

    /// Whether anything is left that ends or goes by itself; if not, nobody need
    /// [watch](Self::watch).
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn needs_watching(&self) -> Result<bool> {
        Ok(self.list().await?.needs_watching() || self.isolator().has_trash())
    }

    /// Removes one idle slot, if it still is idle. Says whether it did.
    ///
    /// # Errors
    ///
    /// When the records fail.
    pub async fn evict(&self, slot: SlotId) -> Result<bool> {
        let state = self.list().await?;
        let mut report = PruneReport::default();
        self.perform(&state, Due::Retire(slot), &mut report).await?;
        Ok(!report.done.is_empty())
    }

    /// Does what was found to be due in `state`, unless what it was due for has changed since: to look takes time.
    async fn perform(&self, state: &PoolState, due: Due, report: &mut PruneReport) -> Result<()> {
        let inner = &self.inner;
        let settings = inner.settings.clone();
        let worker = inner.worker().clone();
        let line = self.describe(state, &due);
        let done = match due {
            Due::DropWaiter(ticket, why) => {
                inner.update(move |state, now| state.leave_queue(ticket, why, &settings, now)).await
            }
            Due::EndSession(id) => {
                let seen = state.sessions.get(&id).cloned();
                inner
                    .update(move |state, now| {
                        if state.sessions.get(&id) == seen.as_ref() {
                            state.end_session(&id, &settings, now);
                        }
                    })
                    .await
            }
            Due::ForgetSession(id) => {
                let seen = state.sessions.get(&id).cloned();
                inner
                    .update(move |state, _| {
                        if state.sessions.get(&id) == seen.as_ref() {
                            state.sessions.remove(&id);
                        }
                    })
                    .await
            }
            Due::EndLease(token, outcome, reason) => {
                let how = Release { outcome, linger: None };
                let mut leases = state.slots.values().filter_map(|slot| slot.state.lease());
                let seen = leases.find(|lease| lease.token() == token);
                inner.end(&token, how, reason, seen).await.map(drop)
            }
            Due::KeepLease(token, why) => {
                inner
                    .update(move |state, _| {
                        state.holder(&token).map(|(_, lease)| lease.kept_because = Some(why))
                    })
                    .await?
            }
            Due::TakeOver(slot, from) => {
                let taken = inner
                    .update(move |state, now| {
                        state.take_over(slot, &from, &worker)?;
                        let making = matches!(
                            state.slots.get(&slot).map(|s| &s.state),
                            Some(SlotState::Provisioning { .. })
                        );
                        if making {
                            let reason = EndReason::Interrupted;
                            let end = end(Outcome::Failure, reason, Duration::ZERO);
                            state.reopen(slot, &end, &worker, now)?;
                        }
                        Ok(())
                    })
                    .await?;
                crate::fail_point!("pool-core::reconcile::taken-over");
                match taken {
                    Ok(()) => inner.finish(slot).await,
                    Err(error) => Err(error),
                }
            }
            Due::Reopen(slot) => {
                let end = end(Outcome::Failure, EndReason::Abandoned, Duration::ZERO);
                match state.slots.get(&slot) {
                    Some(seen) => inner.reopen(seen, end).await,
                    None => Ok(()),
                }
            }
            Due::Retire(slot) => {
                let retired =
                    inner.update(move |state, now| state.retire(slot, &worker, now)).await?;
                crate::fail_point!("pool-core::reconcile::retired");
                match retired {
                    Ok(()) => inner.finish(slot).await,
                    Err(error) => Err(error),
                }
            }
        };
        match done {
            // Somebody else was quicker.
            Err(error) if error.kind() == ErrorKind::StaleLease => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                report.done.extend(line);
                Ok(())
            }
        }
    }

    /// One line for a person; `None` for what only changes the records.
    fn describe(&self, state: &PoolState, due: &Due) -> Option<String> {
        let place = |slot: &SlotId| self.place(*slot).display().to_string();
        let lease_name = |token: &crate::Token| {
            state
                .slots
                .values()
                .filter_map(|s| s.state.lease())
                .find(|l| l.token() == *token)
                .map_or_else(|| token.lease.to_string(), |l| l.name.to_string())
        };
        Some(match due {
            Due::DropWaiter(ticket, why) => format!("drop waiter {}: {why}", ticket.0),
            Due::EndSession(id) => format!("end session {id}"),
            Due::EndLease(token, _, reason) => {
                let why = match reason {
                    EndReason::Released => "its command is over",
                    EndReason::Expired => "it is past its TTL and quiet",
                    EndReason::HolderGone => "its holder is gone",
                    EndReason::SessionEnded => "its session is over",
                    EndReason::WorkspaceGone => "its workspace was deleted",
                    EndReason::Abandoned => "it was given up",
                    EndReason::Interrupted => "whoever made its workspace died",
                };
                format!("end lease {}: {why}", lease_name(token))
            }
            Due::TakeOver(slot, _) => format!("resume interrupted work on {}", place(slot)),
            Due::Reopen(slot) => format!("clean up {}", place(slot)),
            Due::Retire(slot) => format!("remove idle {}", place(slot)),
            Due::KeepLease(..) | Due::ForgetSession(_) => return None,
        })
    }
}

/// Where something should be, and is not.
struct Lost {
    /// Slots whose workspace is gone.
    missing: BTreeSet<SlotId>,
    /// Slots that are kept for something that was not the pool's, and is gone.
    vacant: BTreeSet<SlotId>,
}

impl Lost {
    fn new(state: &PoolState, found: &[Discovered]) -> Self {
        let on_disk: BTreeSet<SlotId> = found.iter().map(|d| d.slot).collect();
        let gone = |slot: &&Slot| !on_disk.contains(&slot.id);
        let registered = found.iter().filter(|d| d.condition == Condition::Missing).map(|d| d.slot);
        // What has a plan must have left something behind, or its workspace is gone without trace.
        let without_trace = state.slots.values().filter(gone).filter(|s| {
            let settled = matches!(s.state, SlotState::Free | SlotState::Leased { .. });
            settled && s.plan.is_some()
        });
        let vacant = state
            .slots
            .values()
            .filter(gone)
            .filter(|s| matches!(s.state, SlotState::Quarantined { .. }) && s.plan.is_none());
        Self {
            missing: registered.chain(without_trace.map(|s| s.id)).collect(),
            vacant: vacant.map(|s| s.id).collect(),
        }
    }
}

impl Inner {
    /// Takes in what stands where slots live without a record of it.
    async fn discover(&self, report: &mut PruneReport) -> Result<Lost> {
        let state = self.store.load().await?;
        let found = self.isolator.discover().await?;
        let lost = Lost::new(&state, &found);
        for one in found {
            if state.slots.contains_key(&one.slot) {
                continue;
            }
            let reason = match &one.condition {
                Condition::Foreign(what) => {
                    format!("not made by this pool, and left alone: {what}")
                }
                _ => "found without a record of it".to_owned(),
            };
            let base = match one.condition {
                Condition::Foreign(_) => None,
                _ => self.base_found(one.slot).await,
            };
            report
                .done
                .push(format!("take in {}: {reason}", self.isolator.place(one.slot).display()));
            self.update(move |state, now| {
                // Recorded in the meantime: then it is somebody's who is at work.
                if !state.slots.contains_key(&one.slot) {
                    state.adopt(one.slot, base, &reason, now);
                }
            })
            .await?;
            crate::fail_point!("pool-core::reconcile::adopted");
        }
        Ok(lost)
    }

    /// Where a workspace without a record stands, so that it can be looked at.
    async fn base_found(&self, slot: SlotId) -> Option<Base> {
        let wish = Wish {
            base: None,
            origin: Some(self.isolator.place(slot)),
            branch: BranchWish::Detached,
        };
        let name = LeaseName::new(format!("slot-{slot}")).ok()?;
        self.isolator.resolve(&wish, &name).await.ok()
    }

    /// Finds out what there is to know for one look at what is due.
    async fn facts(&self, state: &PoolState, lost: Lost) -> Facts {
        let mut facts = Facts { missing: lost.missing, ..Facts::default() };
        let mut ask = |key: &ClaimKey| {
            facts.claims.insert(key.clone(), self.liveness.holds(key));
        };
        state.waiters.values().for_each(|w| ask(&w.worker));
        state.slots.values().filter_map(|s| s.state.worker()).for_each(&mut ask);
        let leases = || state.slots.values().filter_map(|s| s.state.lease());
        leases().filter(|l| l.owner == Owner::Holder).for_each(|l| ask(&l.id.claim()));
        let owners = leases().filter_map(|l| match &l.owner {
            Owner::Process(process) => Some(process),
            _ => None,
        });
        for process in owners.chain(state.sessions.values().filter_map(|s| s.process.as_ref())) {
            facts.processes.insert(process.clone(), self.liveness.runs(process));
        }
        self.look_for_occupants(state, &mut facts);
        facts.quiet = self.look_for_quiet(state, &facts).await;
        let mut attempts = HashMap::new();
        for slot in state.slots.values() {
            let quarantined = matches!(slot.state, SlotState::Quarantined { .. });
            if !quarantined || facts.occupied.contains_key(&slot.id) {
                continue;
            }
            let (begun, lease) = (self.clock.now(), slot.state.lease().map(|lease| &lease.id));
            let earlier = self.attempts().get(&slot.id).cloned();
            if let Some(earlier) = earlier.filter(|earlier| !earlier.is_over(lease, &begun)) {
                attempts.insert(slot.id, earlier);
                continue;
            }
            let savable = match &slot.plan {
                Some(plan) => {
                    self.isolator.inspect(plan).await.is_ok_and(|i| i.losses.unsavable.is_empty())
                }
                // It was never known to be a workspace: there is nothing to save once it has gone.
                None => lost.vacant.contains(&slot.id),
            };
            if savable {
                facts.savable.insert(slot.id);
            }
            let attempt = Attempt::new(lease.cloned(), &begun, &self.clock.now());
            attempts.insert(slot.id, attempt);
        }
        *self.attempts() = attempts;
        facts
    }

    fn look_for_occupants(&self, state: &PoolState, facts: &mut Facts) {
        let ids: Vec<SlotId> = state.slots.keys().copied().collect();
        let places: Vec<PathBuf> = ids.iter().map(|id| self.isolator.place(*id)).collect();
        let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        match self.liveness.occupants(&places) {
            Ok(found) => {
                facts.occupancy_known = true;
                for (id, found) in ids.into_iter().zip(found) {
                    if let Some(occupant) = found.first() {
                        facts.occupied.insert(id, occupant.to_string());
                    }
                }
            }
            Err(error) => {
                tracing::warn!(target: "wtpool", %error, "cannot see who stands where");
            }
        }
    }

    /// Looks at the slots of leases past their TTL, and remembers what was found for the next time.
    async fn look_for_quiet(&self, state: &PoolState, facts: &Facts) -> BTreeMap<SlotId, bool> {
        let mut quiet = BTreeMap::new();
        let mut seen = HashMap::new();
        for (slot, lease) in state.past_ttl(&self.settings, facts, &self.clock.now()) {
            let Some(plan) = state.slots.get(&slot).and_then(|s| s.plan.as_ref()) else { continue };
            let begun = self.clock.now();
            let Ok(found) = self.isolator.inspect(plan).await else { continue };
            let earlier = self.looks().get(&lease.id).cloned();
            let looks = Looks::add(earlier, found.fingerprint, &self.clock.now());
            let span = self.settings.quiet;
            let is = looks.is_quiet(found.last_write, &lease.acquired, &begun, span);
            quiet.insert(slot, is);
            seen.insert(lease.id.clone(), looks);
        }
        *self.looks() = seen;
        quiet
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<SlotId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<LeaseId, Looks>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
