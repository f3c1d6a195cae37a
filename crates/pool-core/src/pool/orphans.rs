//! Cleans up after dropped futures and guards.
//!
//! The store may apply a change after the future that asked for it was dropped. So whatever undoes
//! a change first waits until no earlier change is under way ([`Inner::settled`]).

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{By, Inner, Release};
use crate::error::{ErrorKind, Result};
use crate::id::LeaseId;
use crate::liveness::Claim;
use crate::scheduler::Withdrawn;
use crate::state::{EndReason, Outcome, Token};

/// A request or lease whose guard in this process was dropped.
#[derive(Clone, Debug)]
pub(super) enum Orphan {
    /// A request: queued, granted, or (if the runtime ended at that moment) already a lease.
    Request(LeaseId),
    /// A lease, with its claim: held until the end is recorded.
    Lease(Token, Outcome, Option<Arc<Claim>>),
}

impl Inner {
    /// Cleans up after something that was dropped: at once in the background, or, where no task can
    /// be started, at the next reconciliation.
    pub(super) fn abandon(self: &Arc<Self>, orphan: Orphan) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let inner = self.clone();
                drop(runtime.spawn(async move { inner.adopt_orphan(orphan).await }));
            }
            // Without the claim, so that another process may end the lease sooner.
            Err(_) => self.orphans().push(match orphan {
                Orphan::Lease(token, outcome, _) => Orphan::Lease(token, outcome, None),
                other @ Orphan::Request(_) => other,
            }),
        }
    }

    /// Cleans up after everything that was dropped where no task could be started.
    pub(super) async fn adopt_orphans(self: &Arc<Self>) {
        let orphans = std::mem::take(&mut *self.orphans());
        for orphan in orphans {
            self.clone().adopt_orphan(orphan).await;
        }
    }

    /// Undoes or finishes what the records have of this worker and no live task or guard owns: a
    /// future was dropped between a change and the work that follows it, or a runtime ended.
    ///
    /// # Errors
    ///
    /// When the records fail.
    pub(super) async fn end_unowned(self: &Arc<Self>) -> Result<()> {
        if !self.store.load().await?.has_work_of(&self.worker) {
            return Ok(());
        }
        self.settled().await?;
        let (owned, worker, settings) =
            (self.owned.clone(), self.worker.clone(), self.settings.clone());
        let slots = self
            .update(move |state, now| {
                // Looked up inside the change: a request is registered before it is recorded, and
                // until after it is served.
                let is_owned = |lease: &LeaseId| owned.has_request(lease);
                let is_idle = |slot| owned.has_idle(slot);
                state.withdraw_unowned(&worker, &is_owned, &is_idle, &settings, now)
            })
            .await?;
        for slot in slots {
            self.finish_unless_busy(slot).await?;
        }
        Ok(())
    }

    /// Takes back a request: out of the queue, out of the slot that it was granted, or out of its
    /// lease, if no guard took that over.
    pub(super) async fn withdraw(self: &Arc<Self>, id: &LeaseId) -> Result<()> {
        let (id, settings, worker) = (id.clone(), self.settings.clone(), self.worker.clone());
        let withdrawn =
            self.update(move |state, now| state.withdraw(&id, &worker, &settings, now)).await?;
        match withdrawn {
            Withdrawn::Done => Ok(()),
            Withdrawn::Slot(slot) => {
                crate::fail_point!("pool-core::queue::withdrawn");
                self.finish(slot).await
            }
            Withdrawn::Lease(token) => {
                let how = Release { outcome: Outcome::Failure, linger: None };
                self.release(&token, how, By::Owner(EndReason::Abandoned)).await.map(drop)
            }
        }
    }

    /// Waits until every change that was begun before has been applied or given up, also those
    /// whose futures were dropped.
    ///
    /// # Errors
    ///
    /// When the records fail.
    pub(super) async fn settled(&self) -> Result<()> {
        drop(self.changes.write().await);
        // The store has run them, and may be about to commit the last. Changes exclude each other,
        // so this one comes after it.
        self.update(|_, _| ()).await
    }

    fn orphans(&self) -> MutexGuard<'_, Vec<Orphan>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn adopt_orphan(self: Arc<Self>, orphan: Orphan) {
        // A runtime that shuts down drops this task as well. Then no claim of the lease is left, and
        // no live task owns the request: the next reconciliation ends both.
        let done = match self.settled().await {
            Ok(()) => match &orphan {
                Orphan::Request(lease) => self.withdraw(lease).await,
                Orphan::Lease(token, outcome, _claim) => {
                    let how = Release { outcome: *outcome, linger: None };
                    self.release(token, how, By::Owner(EndReason::Released)).await.map(drop)
                }
            },
            failed => failed,
        };
        // With records that fail, the next reconciliation tries once more.
        if let Err(error) = done
            && error.kind() != ErrorKind::StaleLease
        {
            tracing::warn!(target: "wtpool", %error, "cannot clean up a dropped request or lease");
            self.orphans().push(orphan);
        }
    }
}
