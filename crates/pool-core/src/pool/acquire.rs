//! From a request to a lease: waits for a slot, makes it ready, hands it out.

use std::time::Duration;

use super::queue::Queued;
use super::ready::Trouble;
use super::{LeaseGuard, Pool};
use crate::cache::Attachment;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{LeaseName, SessionId, SlotId};
use crate::isolator::Wish;
use crate::liveness::{Claim, ProcessIdentity};
use crate::state::{Lease, Linger, Owner};
use crate::task::join;

/// What somebody asks of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to start from.
    pub wish: Wish,
    /// The lease's name; `None`: one is made up.
    pub name: Option<LeaseName>,
    /// Who asks, for people to read.
    pub holder: String,
    /// The session it belongs to, and the process whose end is the session's.
    pub session: Option<(SessionId, Option<ProcessIdentity>)>,
    /// Whose life the lease shares.
    pub owner: Owner,
    /// How long it lasts at least, and, when nobody is known to hold it, at most (as long as nobody
    /// stands or writes there). `None`: as long as its owner.
    pub ttl: Option<Duration>,
    /// How long the workspace is kept for inspection afterwards.
    pub linger: Linger,
    /// How long to wait for a slot at most; `None`: for ever, zero: not at all.
    pub wait: Option<Duration>,
}

impl Request {
    /// The default: a lease that lives as long as its [`LeaseGuard`], starts from where the main
    /// workspace stands on a branch of its own, and waits ten minutes.
    pub fn new(holder: impl Into<String>) -> Self {
        Self {
            wish: Wish::default(),
            name: None,
            holder: holder.into(),
            session: None,
            owner: Owner::Holder,
            ttl: None,
            linger: Linger { success: Duration::ZERO, failure: Duration::from_secs(240) },
            wait: Some(Duration::from_secs(600)),
        }
    }
}

/// A slot that is one's own, though its workspace does not stand yet. Says all that a host must know
/// before it launches an agent; [`materialise`](Self::materialise) makes it real. Dropping it
/// gives it back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    request: Queued,
    slot: SlotId,
    lease: Lease,
    announced: Attachment,
}

impl Pool {
    /// Leases a workspace: waits for a slot, makes it ready, and hands it out.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PoolFull`] when the wait ran out; what [`reserve`](Self::reserve) and
    /// [`Reservation::materialise`] return.
    pub async fn acquire(&self, request: Request) -> Result<LeaseGuard> {
        self.reserve(request).await?.materialise().await
    }

    /// The first half of [`acquire`](Self::acquire): waits for a slot and reserves it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PoolFull`] when the wait ran out; [`ErrorKind::NameTaken`];
    /// [`ErrorKind::Unsupported`] when the owner's process can't be told alive from dead and there
    /// is no TTL; what [`Isolator::resolve`](crate::Isolator::resolve) returns. Nothing was changed
    /// then.
    pub async fn reserve(&self, request: Request) -> Result<Reservation> {
        if request.owner == Owner::Detached && request.ttl.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a lease that nobody holds needs a time to live",
            ));
        }
        let mut queued = Queued::enter(&self.inner, request).await?;
        let (slot, lease) = queued.granted().await?;
        crate::fail_point!("pool-core::acquire::granted");
        let announced = self.inner.announce(slot, &lease.base).await?;
        Ok(Reservation { request: queued, slot, lease, announced })
    }
}

impl Reservation {
    /// Where the workspace will be.
    pub fn path(&self) -> std::path::PathBuf {
        self.request.inner.isolator.place(self.slot)
    }

    /// The lease as it will be: name, branch, base commit, session. Its times are not final.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Its environment and further writable directories, as far as they are known before.
    pub fn attachment(&self) -> &Attachment {
        &self.announced
    }

    /// The second half of [`acquire`](Pool::acquire): makes the workspace, and begins the lease.
    /// Dropping the future cancels it, and takes back what was made.
    ///
    /// Should somebody stand in the slot that was reserved, the lease goes to another: the path
    /// that counts is that of the [`LeaseGuard`].
    ///
    /// # Errors
    ///
    /// What the backend says; the slot was given back.
    pub async fn materialise(self) -> Result<LeaseGuard> {
        let (mut give, take) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut reservation = self;
            let ready = tokio::select! {
                ready = reservation.make_ready() => ready,
                () = give.closed() => return Ok(()),
            };
            // Never dropped half-way: once the lease has begun, there is a guard that ends it.
            let made = match ready {
                Ok((attachment, claim)) => reservation.begin(attachment, claim).await,
                Err(error) => Err(error),
            };
            if made.is_err() {
                reservation.request.withdraw().await;
            }
            // When nobody takes it, the guard is dropped, which gives the lease back.
            drop(give.send(made));
            Ok(())
        });
        match take.await {
            Ok(made) => made,
            Err(_) => join(task).await.and(Err(given_up())),
        }
    }

    /// Makes the workspace, attaches the cache, and takes the lease's claim.
    async fn make_ready(&mut self) -> Result<(Attachment, Option<Claim>)> {
        loop {
            let inner = self.request.inner.clone();
            match inner.make_ready(self.slot, &self.lease).await {
                Ok(()) => {}
                Err(Trouble::Unusable(reason)) => {
                    self.elsewhere(&reason).await?;
                    continue;
                }
                Err(Trouble::Failed(error)) => return Err(error),
            }
            crate::fail_point!("pool-core::acquire::made");
            let attachment = inner.attach(self.slot, &self.lease.base).await;
            crate::fail_point!("pool-core::acquire::attached");
            // Before the lease begins, or a reconciliation would find it without a holder.
            let claim = match self.lease.owner {
                Owner::Holder => Some(inner.liveness.claim(&self.lease.id.claim())?),
                _ => None,
            };
            crate::fail_point!("pool-core::acquire::claimed");
            return Ok((attachment, claim));
        }
    }

    /// Records that the lease has begun.
    async fn begin(&mut self, attachment: Attachment, claim: Option<Claim>) -> Result<LeaseGuard> {
        let inner = self.request.inner.clone();
        let (slot, worker) = (self.slot, inner.worker().clone());
        let lease = inner
            .update(move |state, now| state.begin_lease(slot, &worker, attachment, now))
            .await??;
        crate::fail_point!("pool-core::acquire::leased");
        self.request.served();
        Ok(LeaseGuard::new(inner, slot, lease, claim))
    }

    /// Back to the head of the queue: this slot is not to be had after all.
    async fn elsewhere(&mut self, reason: &str) -> Result<()> {
        self.request.bounce(self.slot, reason).await?;
        (self.slot, self.lease) = self.request.granted().await?;
        Ok(())
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the lease was given up while it was being made")
}
