//! From a lease that is over to a slot that is idle, gone, or kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Release, ReleaseReport, end};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ClaimKey, SlotId};
use crate::isolator::{Base, Plan, Preserved};
use crate::liveness::Vital;
use crate::scheduler::{Afterlife, not_ours};
use crate::state::{Disposition, End, EndReason, EndedLease, Lease, Owner, Slot, SlotState, Token};

/// Who has ended a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// This worker has just begun: the slot is its to finish.
    Here(SlotId),
    /// Somebody else is at it.
    ByAnother,
    /// It was over, and nothing is left to do.
    Before,
}

/// Who ends a lease, and what was known when that was decided.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// Its owner in this process: a guard, or what cleans up after one.
    Owner(EndReason),
    /// A caller that has the token. Whether the lease had begun, and its holder was gone.
    Caller { holder_is_gone: bool },
    /// A reconciliation that found it due, when it was like that.
    Reconciliation(Box<Lease>, EndReason),
}

impl By {
    /// Whether the lease, as it is now, may be ended.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](ErrorKind::StaleLease) when it is not what was decided on;
    /// [`WouldLoseWork`](ErrorKind::WouldLoseWork) when its holder is at work.
    fn check(&self, slot: SlotId, lease: &Lease) -> Result<()> {
        let is_held = lease.owner == Owner::Holder && lease.command_ended.is_none();
        match self {
            Self::Reconciliation(seen, _) if **seen != *lease => Err(not_ours(slot)),
            Self::Caller { holder_is_gone: false } if is_held => Err(Error::new(
                ErrorKind::WouldLoseWork,
                format!("{} still holds the lease {}, and is at work", lease.holder, lease.name),
            )
            .with_hint("end that process: the lease ends with it")),
            _ => Ok(()),
        }
    }

    fn reason(&self) -> EndReason {
        match self {
            Self::Caller { .. } => EndReason::Released,
            Self::Owner(reason) | Self::Reconciliation(_, reason) => *reason,
        }
    }
}

impl Inner {
    /// Ends a lease and deals with its slot.
    pub(super) async fn release(
        &self,
        token: &Token,
        how: Release,
        by: By,
    ) -> Result<ReleaseReport> {
        let begun = self.end(token, how, by.clone()).await?;
        if begun == Begun::ByAnother && how.linger.is_some() {
            // What it agreed on about lingering holds until it is done; then ours does.
            self.ended(token).await?;
            self.end(token, how, by).await?;
        }
        self.ended(token).await
    }

    /// The same for those who need not know what becomes of it: does not wait for another who is at
    /// it already.
    pub(super) async fn end(&self, token: &Token, how: Release, by: By) -> Result<Begun> {
        let begun = self.begin(token, how, by).await?;
        if let Begun::Here(slot) = begun {
            crate::fail_point!("pool-core::release::begun");
            self.liveness.forget(&token.lease.claim());
            self.finish(slot).await?;
        }
        Ok(begun)
    }

    /// Takes a lease's slot on, to end it; or, where that was done before and the slot lingers, to
    /// end or change the lingering.
    async fn begin(&self, token: &Token, how: Release, by: By) -> Result<Begun> {
        let (wanted, worker) = (token.clone(), self.worker().clone());
        self.update(move |state, now| {
            if state.leaving(&wanted).is_some() {
                return Ok(Begun::ByAnother);
            }
            if state.ended(&wanted).is_some() {
                if let Some(slot) = state.quarantined(&wanted) {
                    // The reason may be gone by now.
                    let end = end(how.outcome, by.reason(), Duration::ZERO);
                    state.reopen(slot, &end, &worker, now)?;
                    return Ok(Begun::Here(slot));
                }
                let Some(linger) = how.linger else { return Ok(Begun::Before) };
                let yields = state.change_linger(&wanted, linger, &worker, now)?;
                return Ok(yields.map_or(Begun::Before, Begun::Here));
            }
            let (slot, lease) = state.holder(&wanted)?;
            by.check(slot, lease)?;
            let linger = how.linger.unwrap_or_else(|| lease.linger.after(how.outcome));
            let end = end(how.outcome, by.reason(), linger);
            state.begin_release(&wanted, end, &worker, now).map(Begun::Here)
        })
        .await?
    }

    /// What became of a lease that is over, or is just being ended, maybe by somebody else.
    async fn ended(&self, token: &Token) -> Result<ReleaseReport> {
        loop {
            let state = self.store.load().await?;
            // One that was quarantined may be looked at again, by another process: what is recorded of
            // its end is then from before.
            let Some((slot, worker)) = state.leaving(token) else {
                let ended = state.ended(token).ok_or_else(|| {
                    let message = format!("the lease {} is over, and was forgotten", token.lease);
                    Error::new(ErrorKind::StaleLease, message)
                })?;
                let kept = state.slots.get(&ended.slot).and_then(kept_because);
                return Ok(report_of(ended, self.worker(), kept));
            };
            if worker == self.worker() {
                // The task that does it may have been dropped with its runtime.
                self.settled().await?;
                self.finish(slot).await?;
            } else if self.liveness.holds(worker) == Vital::Gone {
                // Whoever waits for the dead waits for ever; and those who would take it over may
                // be waiting here.
                let (from, own) = (worker.clone(), self.worker().clone());
                let taken = self.update(move |state, _| state.take_over(slot, &from, &own)).await?;
                if taken.is_ok() {
                    self.finish(slot).await?;
                }
            } else {
                self.clock.sleep(self.settings.poll).await;
            }
        }
    }

    /// Carries a slot that this worker has in `Releasing` or `Retiring` to its next resting state.
    /// Fails only when the records fail: whatever is wrong with the slot itself quarantines it.
    ///
    /// If the future is dropped, the slot stays this worker's, and the next reconciliation of this
    /// process [finishes](Self::end_unowned) it.
    pub(super) async fn finish(&self, slot: SlotId) -> Result<()> {
        let cleaning = self.owned.cleaning(slot);
        let _alone = cleaning.lock().await;
        self.finish_alone(slot).await
    }

    /// Like [`finish`](Self::finish), but leaves a slot alone that another task cleans up now.
    pub(super) async fn finish_unless_busy(&self, slot: SlotId) -> Result<()> {
        let cleaning = self.owned.cleaning(slot);
        match cleaning.try_lock() {
            Ok(_alone) => self.finish_alone(slot).await,
            Err(_) => Ok(()),
        }
    }

    async fn finish_alone(&self, slot: SlotId) -> Result<()> {
        let entry = match self.slot(slot).await {
            Ok(entry) if entry.state.is_cleaned_by(self.worker()) => entry,
            // Another task was faster, and the slot may have a new holder.
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::StaleLease => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.carry(&entry).await {
            Err(error) if error.kind() == ErrorKind::StaleLease => Ok(()),
            Err(error) => self.keep(slot, &error.to_string()).await,
            Ok(()) => Ok(()),
        }
    }

    async fn carry(&self, entry: &Slot) -> Result<()> {
        let slot = entry.id;
        let Some(plan) = &entry.plan else {
            // Nothing was ever begun here.
            return self.gone(slot).await;
        };
        match &entry.state {
            SlotState::Releasing { lease, end, .. } => self.settle(slot, plan, lease, end).await,
            // An idle slot that is not wanted, or one whose provisioning was interrupted.
            _ => {
                let proof = self.preserved(plan, None).await?;
                self.dispose(slot, plan, proof).await
            }
        }
    }

    async fn settle(&self, slot: SlotId, plan: &Plan, lease: &Lease, end: &End) -> Result<()> {
        if let Some(cache) = &self.cache
            && !matches!(end.reason, EndReason::Abandoned | EndReason::Interrupted)
            && let Err(error) = cache.harvest(&self.site(slot, &plan.base).await?).await
        {
            tracing::warn!(target: "wtpool", %error, slot = slot.0, "nothing was harvested");
        }
        crate::fail_point!("pool-core::release::harvested");
        if end.linger.is_zero() {
            self.wait_until_vacant(&[slot]).await;
        }
        let proof = self.preserved(plan, Some(lease)).await?;
        crate::fail_point!("pool-core::release::preserved");
        let ended = End {
            // Saved before, and nothing new since: that rescue still is what became of it.
            rescue: proof.rescue().cloned().or_else(|| end.rescue.clone()),
            branch: proof.branch().cloned().or_else(|| end.branch.clone()),
            ..end.clone()
        };
        let (worker, settings) = (self.worker().clone(), self.settings.clone());
        let afterlife = self
            .update(move |state, now| state.saved(slot, &worker, &ended, &settings, now))
            .await??;
        crate::fail_point!("pool-core::release::saved");
        match afterlife {
            Afterlife::Linger => Ok(()),
            Afterlife::Keep => self.clean(slot, plan, proof).await,
            Afterlife::Retire => self.dispose(slot, plan, proof).await,
        }
    }

    /// Waits until no process has its working directory in one of these slots, for at most the
    /// [patience](crate::Settings::patience) of the pool.
    pub(super) async fn wait_until_vacant(&self, slots: &[SlotId]) {
        let places: Vec<PathBuf> = slots.iter().map(|slot| self.isolator.place(*slot)).collect();
        let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        let begun = self.clock.now();
        let is_over = || {
            let waited = self.clock.now().since(&begun);
            waited.is_none_or(|waited| waited >= self.settings.patience)
        };
        // If the processes cannot be listed, waiting is of no use: the slot is kept then.
        while !is_over()
            && self
                .liveness
                .occupants(&places)
                .is_ok_and(|all| all.iter().any(|in_| !in_.is_empty()))
        {
            self.clock.sleep(self.settings.poll).await;
        }
    }

    async fn clean(&self, slot: SlotId, plan: &Plan, proof: Preserved) -> Result<()> {
        self.unoccupied(slot)?;
        let rest = Plan {
            slot,
            lease: None,
            base: Base { commit: plan.base.commit.clone(), branch: None },
        };
        if let Err(error) = self.isolator.recycle(&rest, proof).await {
            tracing::warn!(target: "wtpool", %error, slot = slot.0, "cannot reset the slot; removing it");
            let proof = self.preserved(plan, None).await?;
            return self.dispose(slot, plan, proof).await;
        }
        crate::fail_point!("pool-core::release::reset");
        let (worker, settings, idle) = (self.worker().clone(), self.settings.clone(), rest.clone());
        let surplus = self
            .update(move |state, now| state.rest(slot, &worker, idle, &settings, now))
            .await??;
        crate::fail_point!("pool-core::release::rested");
        if surplus {
            let proof = self.preserved(&rest, None).await?;
            return self.dispose(slot, &rest, proof).await;
        }
        Ok(())
    }

    async fn dispose(&self, slot: SlotId, plan: &Plan, proof: Preserved) -> Result<()> {
        self.unoccupied(slot)?;
        if let Some(cache) = &self.cache
            && let Err(error) = cache.detach(&self.site(slot, &plan.base).await?).await
        {
            tracing::warn!(target: "wtpool", %error, slot = slot.0, "the cache was not detached");
        }
        crate::fail_point!("pool-core::release::detached");
        self.isolator.dispose(proof).await?;
        crate::fail_point!("pool-core::release::disposed");
        self.gone(slot).await
    }

    async fn gone(&self, slot: SlotId) -> Result<()> {
        let (worker, settings) = (self.worker().clone(), self.settings.clone());
        self.update(move |state, now| state.remove(slot, &worker, &settings, now)).await?
    }

    /// Keeps a slot as it is, with the reason.
    async fn keep(&self, slot: SlotId, reason: &str) -> Result<()> {
        let (worker, settings, reason) =
            (self.worker().clone(), self.settings.clone(), reason.to_owned());
        let kept = self
            .update(move |state, now| state.quarantine(slot, &worker, &reason, &settings, now))
            .await?;
        crate::fail_point!("pool-core::release::quarantined");
        match kept {
            Err(error) if error.kind() != ErrorKind::StaleLease => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets about a slot that has nobody at work on it, if it still is as it was `seen`: since that was
    /// decided, it may have become another's, or its lingering may have been made longer.
    pub(super) async fn reopen(self: &Arc<Self>, seen: &Slot, end: End) -> Result<()> {
        let (slot, worker, seen) = (seen.id, self.worker().clone(), seen.clone());
        self.update(move |state, now| {
            state.unchanged(slot, Some(&seen))?;
            state.reopen(slot, &end, &worker, now)
        })
        .await??;
        crate::fail_point!("pool-core::release::reopened");
        self.finish(slot).await
    }
}

fn kept_because(slot: &Slot) -> Option<String> {
    match &slot.state {
        SlotState::Quarantined { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

fn report_of(ended: &EndedLease, own: &ClaimKey, kept_because: Option<String>) -> ReleaseReport {
    ReleaseReport {
        slot: ended.slot,
        outcome: ended.end.outcome,
        reason: ended.end.reason,
        by_another: ended.end.by.as_ref() != Some(own),
        branch: ended.end.branch.clone(),
        rescue: ended.end.rescue.clone(),
        disposition: ended.disposition,
        kept_because: kept_because.filter(|_| ended.disposition == Disposition::Quarantined),
    }
}
