//! What a holder has in hand.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Inner, Orphan, Pool, Release, ReleaseReport};
use crate::error::Result;
use crate::id::SlotId;
use crate::liveness::{Claim, Vital};
use crate::state::{Lease, Outcome, Token};

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
    /// See [`Pool::release`].
    pub async fn release(mut self, how: Release) -> Result<ReleaseReport> {
        self.armed = false;
        drop(self.claim.take());
        let pool = Pool { inner: self.inner.clone() };
        pool.release(&self.lease.token(), how).await
    }

    /// Gives the lease back after a command that may have left processes behind: if one of them
    /// holds the inherited claim, the lease goes on for it.
    ///
    /// # Errors
    ///
    /// See [`Pool::release`].
    pub async fn finish(mut self, how: Release) -> Result<Finish> {
        let (token, key) = (self.lease.token(), self.lease.id.claim());
        let inherited = self.claim.is_some();
        drop(self.claim.take());
        let survived = inherited && self.inner.liveness.holds(&key) == Vital::Alive;
        let survived = survived || self.inner.occupant(self.slot).is_some();
        if !survived || !inherited {
            return self.release(how).await.map(Finish::Released);
        }
        self.armed = false;
        let inner = self.inner.clone();
        inner
            .update(move |state, now| {
                let (_, lease) = state.holder(&token)?;
                lease.command_ended = Some((now.clone(), how.outcome));
                if let Some(linger) = how.linger {
                    lease.linger = crate::Linger::both(linger);
                }
                lease.kept_because =
                    Some("its command is over, but something it started still runs".to_owned());
                Ok(())
            })
            .await?
            .map(|()| Finish::Survived)
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
        drop(self.claim.take());
        let outcome = if std::thread::panicking() { Outcome::Failure } else { Outcome::Success };
        self.inner.abandon(Orphan::Lease(self.lease.token(), outcome));
    }
}
