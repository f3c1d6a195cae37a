//! What a holder has in hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{By, Inner, Orphan, Release, ReleaseReport};
use crate::error::Result;
use crate::id::SlotId;
use crate::liveness::{Claim, Vital};
use crate::state::{CommandEnd, EndReason, Lease, Linger, Outcome, Token};
use crate::task::join;
use crate::time::Deadline;
use crate::ttl::survived;

/// A leased workspace. Dropping it gives the slot back, in the background.
#[derive(Debug)]
#[must_use = "a lease that is dropped is given back"]
pub struct LeaseGuard {
    inner: Arc<Inner>,
    slot: SlotId,
    lease: Lease,
    claim: Option<Claim>,
    armed: bool,
}

/// How [`LeaseGuard::finish`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at the end of a lease, and it is read at once"
)]
pub enum Finish {
    /// The lease is over.
    Released(ReleaseReport),
    /// Somebody who inherited the claim still lives. A reconciliation will end the lease when they
    /// are gone, or, when none of them stands in the workspace, after the grace period.
    Survived,
}

impl LeaseGuard {
    pub(super) fn new(inner: Arc<Inner>, slot: SlotId, lease: Lease, claim: Option<Claim>) -> Self {
        Self { inner, slot, lease, claim, armed: true }
    }

    /// Where the workspace is.
    pub fn path(&self) -> PathBuf {
        self.inner.isolator.place(self.slot)
    }

    /// Which slot it is.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The lease as it was granted.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// What renews and releases the lease from elsewhere.
    pub fn token(&self) -> Token {
        self.lease.token()
    }

    /// The claim that shows the lease's holder to be alive: for a child process to inherit.
    /// `None` when the lease does not depend on it.
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// Gives the lease back.
    ///
    /// # Errors
    ///
    /// See [`Pool::release`](crate::Pool::release).
    pub async fn release(mut self, how: Release) -> Result<ReleaseReport> {
        self.armed = false;
        let (inner, token, claim) = (self.inner.clone(), self.lease.token(), self.claim.take());
        let task = tokio::spawn(async move {
            let report = inner.release(&token, how, By::Owner(EndReason::Released)).await;
            crate::fail_point!("pool-core::guard::released");
            // Held until the end is recorded: a lease without its holder's claim is one whose
            // holder died.
            drop(claim);
            inner.liveness.forget(&token.lease.claim());
            report
        });
        join(task).await
    }

    /// Gives the lease back after a command that may have left processes behind: if one of them
    /// holds the inherited claim, or stands in the workspace, after `patience` still, the lease goes
    /// on for it. (A `git commit`, for one, leaves `git maintenance` behind for a moment.)
    ///
    /// # Errors
    ///
    /// See [`Pool::release`](crate::Pool::release).
    pub async fn finish(mut self, how: Release, patience: Duration) -> Result<Finish> {
        if self.claim.is_none() {
            return self.release(how).await.map(Finish::Released);
        }
        let (inner, token) = (self.inner.clone(), self.lease.token());
        // Recorded before the claim is given up, for the same reason.
        let grace = inner.settings.grace;
        let recorded: Result<()> = inner
            .update(move |state, now| {
                let (_, lease) = state.holder(&token)?;
                let grace = Deadline::after(now, grace);
                lease.command_ended = Some(CommandEnd { outcome: how.outcome, grace });
                if let Some(linger) = how.linger {
                    lease.linger = Linger::both(linger);
                }
                Ok(())
            })
            .await?;
        if recorded.is_err() {
            // Somebody else gave it back; what became of it is what there is to report.
            return self.release(how).await.map(Finish::Released);
        }
        crate::fail_point!("pool-core::guard::command-ended");
        drop(self.claim.take());
        crate::fail_point!("pool-core::guard::claim-given-up");
        let begun = inner.clock.now();
        loop {
            let survived = inner.liveness.holds(&self.lease.id.claim()) != Vital::Gone;
            // Where nobody can tell who stands there, waiting is of no use: the slot is kept then.
            if !survived && !matches!(inner.occupant(self.slot), Ok(Some(_))) {
                return self.release(how).await.map(Finish::Released);
            }
            if inner.clock.now().since(&begun).is_none_or(|waited| waited >= patience) {
                break;
            }
            inner.clock.sleep(inner.settings.poll).await;
        }
        self.armed = false;
        let token = self.lease.token();
        let found = inner.liveness.holders(&token.lease.claim()).first().map(ToString::to_string);
        let survivor = found.or_else(|| inner.occupant(self.slot).ok().flatten());
        inner
            .update(move |state, _| {
                // Gone already: then the survivor ended just now, and somebody saw to the rest.
                if let Ok((_, lease)) = state.holder(&token) {
                    lease.kept_because = Some(survived(survivor.as_deref()));
                }
            })
            .await?;
        Ok(Finish::Survived)
    }

    /// Makes it a lease that nobody holds, which lasts for `ttl`. What has to be done before anybody is told of it can so
    /// be done under the claim: if this process dies in the middle, the lease ends.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when it is over.
    pub async fn detach(&mut self, ttl: Duration) -> Result<()> {
        let token = self.lease.token();
        self.lease = self.inner.update(move |state, now| state.detach(&token, ttl, now)).await??;
        crate::fail_point!("pool-core::guard::detached");
        // Only now: a lease without its holder's claim is one whose holder died.
        drop(self.claim.take());
        self.inner.liveness.forget(&self.lease.id.claim());
        Ok(())
    }

    /// Lets the lease live without this guard. Only sensible for one that does not depend on its
    /// holder's claim, which is given up here.
    pub fn keep(mut self) -> Lease {
        self.armed = false;
        self.lease.clone()
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let outcome = if std::thread::panicking() { Outcome::Failure } else { Outcome::Success };
        let claim = self.claim.take().map(Arc::new);
        self.inner.abandon(Orphan::Lease(self.lease.token(), outcome, claim));
    }
}
