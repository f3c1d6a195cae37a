//! From a request to a lease: resolve, queue, make ready, hand out.

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, LeaseGuard, Orphan, Pool, Unfinished, end, uncached};
use crate::cache::Attachment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::id::{Generation, LeaseId, LeaseName, SessionId, SlotId, Ticket};
use crate::isolator::{Base, Plan, Preserved, Wish};
use crate::liveness::ProcessIdentity;
use crate::scheduler::Turn;
use crate::state::{
    EndReason, Lease, Linger, Outcome, Owner, PoolState, Session, Slot, SlotState, Waiter,
};
use crate::task::join;
use crate::time::{Deadline, Moment};

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

/// A request that is in the queue or granted; withdrawn when dropped.
#[derive(Debug)]
struct Queued {
    inner: Arc<Inner>,
    ticket: Ticket,
    waiter: Waiter,
    armed: bool,
}

impl Queued {
    fn is_past(&self, now: &Moment) -> bool {
        self.waiter.until.as_ref().is_some_and(|until| until.is_past(now))
    }

    /// Takes the request back while the caller waits: a process that is about to end would not live
    /// to see the background do it.
    async fn withdraw(&mut self) {
        if std::mem::take(&mut self.armed)
            && let Err(error) = self.inner.withdraw(self.ticket, &self.waiter.lease.id).await
        {
            tracing::warn!(target: "wtpool", %error, "a request that failed was not cleaned up");
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.armed {
            self.inner.abandon(Orphan::Request(self.ticket, self.waiter.lease.id.clone()));
        }
    }
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
        let mut queued = self.enqueue(&request).await?;
        loop {
            // Registered before looking, so that no change in between is missed.
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = self.inner.store.load().await?;
            match state.turn(queued.ticket, &queued.waiter.lease.id) {
                Turn::Granted(slot) => return self.reserved(queued, slot).await,
                Turn::Waiting(_) => {}
                Turn::Unknown if state.is_over(queued.waiter.lease.session.as_ref()) => {
                    queued.armed = false;
                    return Err(Error::new(
                        ErrorKind::Cancelled,
                        "the session ended while its request waited",
                    ));
                }
                Turn::Unknown if queued.is_past(&self.inner.clock.now()) => {
                    queued.armed = false;
                    return Err(self.full(&state, &request));
                }
                // The records were lost: to the end of the queue, under the same name and id.
                Turn::Unknown => {
                    let (waiter, settings) = (queued.waiter.clone(), self.inner.settings.clone());
                    queued.ticket = self
                        .inner
                        .update(move |state, now| state.enqueue(waiter, &settings, now))
                        .await??;
                    continue;
                }
            }
            if queued.is_past(&self.inner.clock.now())
                && let Some(error) = self.give_up(&mut queued, &request).await?
            {
                return Err(error);
            }
            let poll = self.inner.settings.poll;
            let left = queued.waiter.until.as_ref().map(|u| u.remaining(&self.inner.clock.now()));
            tokio::select! {
                () = changed => {}
                () = self.inner.clock.sleep(left.map_or(poll, |left| left.min(poll))) => {}
            }
        }
    }

    async fn enqueue(&self, request: &Request) -> Result<Queued> {
        const ATTEMPTS: u32 = 50;
        let inner = &self.inner;
        for attempt in 0.. {
            let name = match &request.name {
                Some(name) => name.clone(),
                None => generate_name(attempt)?,
            };
            let again = |e: &Error| {
                e.kind() == ErrorKind::NameTaken
                    && request.name.is_none()
                    && attempt < ATTEMPTS
                    && !matches!(request.wish.branch, crate::BranchWish::Named(_))
            };
            let base = match inner.isolator.resolve(&request.wish, &name).await {
                Err(error) if again(&error) => continue,
                other => other?,
            };
            let now = inner.clock.now();
            let waiter = Waiter {
                lease: Lease {
                    id: LeaseId::generate(now.wall),
                    generation: Generation::default(),
                    name,
                    holder: request.holder.clone(),
                    session: request.session.as_ref().map(|(id, _)| id.clone()),
                    owner: request.owner.clone(),
                    base,
                    acquired: now.clone(),
                    deadline: None,
                    linger: request.linger,
                    attachment: Attachment::default(),
                    command_ended: None,
                    kept_because: None,
                },
                ttl: request.ttl,
                worker: inner.worker().clone(),
                since: now.clone(),
                until: request.wait.map(|wait| Deadline::after(&now, wait)),
            };
            // In the queue only once the change is made; but a future that is dropped meanwhile may
            // still be followed by the change, so the guard exists before.
            let mut queued = Queued {
                inner: inner.clone(),
                ticket: Ticket(0),
                waiter: waiter.clone(),
                armed: true,
            };
            let (session, settings) = (request.session.clone(), inner.settings.clone());
            let entered = inner
                .update(move |state, now| {
                    let ticket = state.enqueue(waiter, &settings, now)?;
                    if let Some((id, process)) = session {
                        state.open_session(
                            &id,
                            Session { process, last_used: now.clone(), over: false },
                        );
                    }
                    Ok(ticket)
                })
                .await?;
            match entered {
                Ok(ticket) => {
                    queued.ticket = ticket;
                    return Ok(queued);
                }
                Err(error) => {
                    queued.armed = false;
                    if !again(&error) {
                        return Err(error);
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::NameTaken, "no unused name was found"))
    }

    /// Leaves the queue, unless the slot was granted at the last moment.
    async fn give_up(&self, queued: &mut Queued, request: &Request) -> Result<Option<Error>> {
        let (ticket, id) = (queued.ticket, queued.waiter.lease.id.clone());
        let settings = self.inner.settings.clone();
        let state = self
            .inner
            .update(move |state, now| {
                state.leave_queue(ticket, "its wait ran out", &settings, now);
                state.clone()
            })
            .await?;
        if matches!(state.turn(ticket, &id), Turn::Granted(_)) {
            return Ok(None);
        }
        queued.armed = false;
        Ok(Some(self.full(&state, request)))
    }

    fn full(&self, state: &PoolState, request: &Request) -> Error {
        let max = self.inner.settings.max_leases;
        let quarantined = state
            .slots
            .values()
            .filter(|s| matches!(s.state, SlotState::Quarantined { .. }))
            .count();
        let waited = request.wait.unwrap_or_default();
        let mut message = format!("all {max} slots are in use");
        if quarantined > 0 {
            message += &format!(" ({quarantined} quarantined)");
        }
        if !waited.is_zero() {
            message += &format!(", and the wait of {waited:?} ran out");
        }
        Error::new(ErrorKind::PoolFull, message).with_hint(
            "wait longer, raise max_leases, or see with `wtpool list` who holds them and why",
        )
    }

    async fn reserved(&self, queued: Queued, slot: SlotId) -> Result<Reservation> {
        let entry = self.inner.slot(slot).await?;
        let Some(lease) = entry.state.lease().cloned() else {
            return Err(Error::new(ErrorKind::StaleLease, format!("slot {slot} was taken away")));
        };
        let announced = self.inner.announce(slot, &lease.base);
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
            let made = tokio::select! {
                made = reservation.make() => made,
                () = give.closed() => return Ok(()),
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

    async fn make(&mut self) -> Result<LeaseGuard> {
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
            let attachment = inner.attach(self.slot, &self.lease.base).await;
            // Before the lease begins, or a reconciliation would find it without a holder.
            let claim = match self.lease.owner {
                Owner::Holder => Some(inner.liveness.claim(&self.lease.id.claim())?),
                _ => None,
            };
            let (slot, worker) = (self.slot, inner.worker().clone());
            let lease = inner
                .update(move |state, now| state.begin_lease(slot, &worker, attachment, now))
                .await??;
            self.request.armed = false;
            return Ok(LeaseGuard::new(inner, slot, lease, claim));
        }
    }

    /// Back to the head of the queue: this slot is not to be had after all.
    async fn elsewhere(&mut self, reason: &str) -> Result<()> {
        let inner = self.request.inner.clone();
        let (slot, ticket, waiter) = (self.slot, self.request.ticket, self.request.waiter.clone());
        let (worker, settings, reason) =
            (inner.worker().clone(), inner.settings.clone(), reason.to_owned());
        inner
            .update(move |state, now| {
                state.bounce(slot, &worker, (ticket, waiter), &reason, &settings, now)
            })
            .await??;
        loop {
            let changed = inner.changed.notified();
            let state = inner.store.load().await?;
            match state.turn(ticket, &self.lease.id) {
                Turn::Granted(slot) => {
                    self.slot = slot;
                    if let Some(lease) = state.slots.get(&slot).and_then(|s| s.state.lease()) {
                        self.lease = lease.clone();
                    }
                    return Ok(());
                }
                Turn::Unknown => return Err(given_up()),
                Turn::Waiting(_) => {}
            }
            let now = inner.clock.now();
            if self.request.waiter.until.as_ref().is_some_and(|u| u.is_past(&now)) {
                let message =
                    "the slot that was reserved turned out to be in use, and no other is free";
                return Err(Error::new(ErrorKind::PoolFull, message)
                    .with_hint("see with `wtpool list` what is quarantined, and why"));
            }
            tokio::select! {
                () = changed => {}
                () = inner.clock.sleep(inner.settings.poll) => {}
            }
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the lease was given up while it was being made")
}

/// Why a slot could not be made ready.
pub(super) enum Trouble {
    /// It must be kept as it is; another may do.
    Unusable(String),
    /// The request can't be served.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    /// Makes a granted slot's workspace.
    async fn make_ready(&self, slot: SlotId, lease: &Lease) -> Result<(), Trouble> {
        let entry = self.slot(slot).await?;
        let plan = Plan {
            slot,
            lease: Some((lease.id.clone(), lease.name.clone())),
            base: lease.base.clone(),
        };
        let previous = match &entry {
            Slot {
                plan: Some(previous),
                state: SlotState::Provisioning { reuse: true, .. },
                ..
            } => previous,
            _ => return self.make_new(&plan).await,
        };
        let proof =
            self.preserved(previous, None).await.map_err(|e| Trouble::Unusable(e.to_string()))?;
        if let Some(who) = self.occupant(slot) {
            return Err(Trouble::Unusable(format!("{who} is still in it")));
        }
        self.intend(&plan).await?;
        if let Err(error) = self.isolator.recycle(&plan, proof).await {
            tracing::warn!(target: "wtpool", %error, slot = slot.0, "cannot reset the slot; making it anew");
            let unusable = |e: Error| Trouble::Unusable(e.to_string());
            let proof = self.preserved(&plan, None).await.map_err(unusable)?;
            self.isolator.dispose(proof).await.map_err(unusable)?;
            self.isolator.provision(&plan).await?;
        }
        Ok(())
    }

    async fn make_new(&self, plan: &Plan) -> Result<(), Trouble> {
        self.intend(plan).await?;
        self.isolator.provision(plan).await.map_err(|error| match error.kind() {
            // Something of somebody else's stands there.
            ErrorKind::WouldLoseWork => Trouble::Unusable(error.to_string()),
            _ => Trouble::Failed(error),
        })
    }

    /// Records what is about to be made.
    pub(super) async fn intend(&self, plan: &Plan) -> Result<()> {
        let (plan, worker) = (plan.clone(), self.worker().clone());
        self.update(move |state, _| state.plan_slot(&plan, &worker)).await?
    }

    /// Looks at a slot, and saves what would be lost in it.
    pub(super) async fn preserved(&self, plan: &Plan, lease: Option<&Lease>) -> Result<Preserved> {
        let inspection = self.isolator.inspect(plan).await?;
        match Preserved::nothing_to_lose(inspection) {
            Ok(proof) => Ok(proof),
            Err(inspection) => {
                let proof = self.isolator.preserve(inspection).await?;
                // A slot at rest should have had nothing; whoever wrote there will look for it.
                if let (Some(rescue), None) = (proof.rescue(), lease) {
                    let (slot, note) = (plan.slot, rescue.reference.clone());
                    self.update(move |state, now| {
                        state.log(now, EventKind::Rescued, Some(slot), None, Some(&note));
                    })
                    .await?;
                }
                Ok(proof)
            }
        }
    }

    async fn attach(&self, slot: SlotId, base: &Base) -> Attachment {
        let Some(cache) = &self.cache else { return uncached(None) };
        match cache.attach(&self.site(slot, base)).await {
            Ok(attachment) => attachment,
            Err(error) => uncached(Some(format!("the {} cache failed: {error}", cache.name()))),
        }
    }

    /// Takes back a request: out of the queue, or out of the slot it was granted.
    pub(super) async fn withdraw(self: &Arc<Self>, ticket: Ticket, id: &LeaseId) -> Result<()> {
        let (id, settings, worker) = (id.clone(), self.settings.clone(), self.worker().clone());
        let granted = self
            .update(move |state, now| {
                // By the lease's id: the ticket may never have become known.
                let own = state.waiters.iter().find(|(_, w)| w.lease.id == id).map(|(t, _)| *t);
                if let Some(ticket) = own {
                    state.leave_queue(ticket, "it was given up", &settings, now);
                }
                match state.turn(ticket, &id) {
                    Turn::Granted(slot) => {
                        let end = end(Outcome::Failure, EndReason::Abandoned, Duration::ZERO);
                        state.reopen(slot, &end, &worker, now).map(|()| Some(slot))
                    }
                    _ => Ok(None),
                }
            })
            .await??;
        if let Some(slot) = granted {
            self.finish(slot).await?;
        }
        Ok(())
    }

    /// Runs `work` on a slot; should it be dropped half-way, the work is resumed later.
    pub(super) fn unfinished(&self, slot: SlotId) -> Unfinished<'_> {
        Unfinished { inner: self, orphan: Some(Orphan::Work(slot)) }
    }
}

/// Two words, and a third when the first attempts met names that were taken.
fn generate_name(attempt: u32) -> Result<LeaseName> {
    let words = if attempt < 5 { 2 } else { 3 };
    let name = petname::petname(words, "-")
        .ok_or_else(|| Error::new(ErrorKind::Other, "the list of names is empty"))?;
    LeaseName::new(name)
}
