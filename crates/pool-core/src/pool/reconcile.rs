//! Brings records and reality together, and ends what is over.

use std::sync::Arc;
use std::time::Duration;

use super::{By, Inner, Pool, Release, end};
use crate::error::{ErrorKind, Result};
use crate::id::SlotId;
use crate::isolator::{BranchWish, Condition, Wish};
use crate::scheduler::not_ours;
use crate::state::{EndReason, Outcome, PoolState, SlotState};
use crate::survey::Survey;
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
        let mut survey = inner.survey().await?;
        if inner.take_in(&survey, &mut report).await? {
            // What was taken in is cleaned up at once: a second reconciliation finds nothing to do.
            survey = inner.survey().await?;
        }
        crate::fail_point!("pool-core::reconcile::discovered");
        let facts = Arc::new(inner.facts(&survey).await);
        let state = survey.records;
        crate::pause_point!("pool-core::reconcile::observed");
        for due in state.due(&inner.settings, &facts, &inner.clock.now()) {
            let (begun, tried) = (inner.clock.now(), due.reopened());
            self.perform(&state, Some(&facts), due, &mut report).await?;
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
    /// removed as well. When it returns, all that was due is done, but for slots that another process
    /// cleans up at that moment.
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
                self.perform(&state, None, due, &mut report).await?;
            }
            // A lingering slot that was reopened may have been kept as an idle one.
            let state = self.list().await?;
            for slot in state.slots.values().filter(|s| s.state == SlotState::Free) {
                self.perform(&state, None, Due::Retire(slot.id), &mut report).await?;
            }
        }
        crate::fail_point!("pool-core::reconcile::before-sweep");
        self.inner.isolator.sweep(progress).await?;
        Ok(report)
    }

    async fn would_prune(&self, options: PruneOptions) -> Result<PruneReport> {
        let inner = &self.inner;
        inner.attempts().clear();
        let mut survey = inner.survey().await?;
        let now = inner.clock.now();
        survey.records.reanchor(&now);
        let facts = inner.facts(&survey).await;
        let state = survey.records;
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
        self.perform(&state, None, Due::Retire(slot), &mut report).await?;
        Ok(!report.done.is_empty())
    }

    /// Does what is due, or wanted, in `state`, unless what it was decided on has changed since: to look takes time. With
    /// `facts`, it was due by those; without, a caller wants it.
    async fn perform(
        &self,
        state: &PoolState,
        facts: Option<&Arc<Facts>>,
        due: Due,
        report: &mut PruneReport,
    ) -> Result<()> {
        let inner = &self.inner;
        let settings = inner.settings.clone();
        let worker = inner.worker().clone();
        let line = self.describe(state, &due);
        // The record that it was decided on: each change below compares it.
        let seen = due.slot(state).cloned();
        let done = match due.clone() {
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
                let Some((slot, lease)) = seen.as_ref().and_then(|s| Some((s, s.state.begun()?)))
                else {
                    return Ok(());
                };
                if !inner.is_still_due(state, slot, &due).await {
                    return Ok(());
                }
                crate::pause_point!("pool-core::reconcile::confirmed");
                let how = Release { outcome, linger: None };
                let by = By::Reconciliation(Box::new(lease.clone()), reason);
                inner.end(&token, how, by).await.map(drop)
            }
            Due::KeepLease(token, why) => {
                inner
                    .update(move |state, _| {
                        let (slot, lease) = state.holder(&token)?;
                        if seen.as_ref().and_then(|seen| seen.state.lease()) != Some(lease) {
                            return Err(not_ours(slot));
                        }
                        lease.kept_because = Some(why);
                        Ok(())
                    })
                    .await?
            }
            Due::TakeOver(slot, from) => {
                let taken = inner
                    .update(move |state, now| {
                        state.unchanged(slot, seen.as_ref())?;
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
            Due::Reopen(_) => {
                let end = end(Outcome::Failure, EndReason::Abandoned, Duration::ZERO);
                match &seen {
                    Some(seen) => inner.reopen(seen, end).await,
                    None => Ok(()),
                }
            }
            Due::Retire(slot) => {
                let facts = facts.cloned();
                let retired = inner
                    .update(move |state, now| {
                        state.unchanged(slot, seen.as_ref())?;
                        // Whether it is wanted depends on the other slots, and on the sessions that live.
                        let is_due =
                            |facts: &Arc<Facts>| state.due(&settings, facts, now).contains(&due);
                        if facts.as_ref().is_some_and(|facts| !is_due(facts)) {
                            return Err(not_ours(slot));
                        }
                        state.retire(slot, &worker, now)
                    })
                    .await?;
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
                    EndReason::WorkspaceGone => "its workspace was deleted or moved away",
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

impl Inner {
    /// Takes in what stands where slots live and had no record, neither before nor after the look.
    /// Returns whether there was anything.
    async fn take_in(&self, survey: &Survey, report: &mut PruneReport) -> Result<bool> {
        if survey.unrecorded().next().is_none() {
            return Ok(false);
        }
        let mut any = false;
        // Once more: a slot may have been made and removed during the first look.
        let again = self.survey().await?;
        for one in again.unrecorded() {
            let slot = one.slot;
            if !survey.unrecorded().any(|earlier| earlier.slot == slot) {
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
                _ => self.base_found(slot).await,
            };
            let line = format!("take in {}: {reason}", self.isolator.place(slot).display());
            crate::pause_point!("pool-core::reconcile::unrecorded");
            let adopted = self
                .update(move |state, now| {
                    // Recorded in the meantime: then a process is at work there.
                    let is_new = !state.slots.contains_key(&slot);
                    if is_new {
                        state.adopt(slot, base, &reason, now);
                    }
                    is_new
                })
                .await?;
            any |= adopted;
            report.done.extend(adopted.then_some(line));
            crate::fail_point!("pool-core::reconcile::adopted");
        }
        Ok(any)
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
}
