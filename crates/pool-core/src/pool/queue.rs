//! Requests on their way to a slot: named, queued, granted, or taken back.

use std::sync::Arc;

use super::owned::OwnedRequest;
use super::{Inner, Orphan, Request};
use crate::BranchWish;
use crate::cache::Attachment;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Generation, LeaseId, LeaseName, SessionId, SlotId, Ticket};
use crate::isolator::Base;
use crate::liveness::{ProcessIdentity, Vital};
use crate::scheduler::Turn;
use crate::state::{Lease, PoolState, Session, SlotState, Waiter};
use crate::time::Deadline;

/// How many names are made up before it is given up.
const ATTEMPTS: u32 = 50;

/// A request that is in the queue or granted; withdrawn when dropped.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) inner: Arc<Inner>,
    ticket: Ticket,
    waiter: Waiter,
    session: Option<(SessionId, Option<ProcessIdentity>)>,
    armed: bool,
    /// Keeps a reconciliation of this process from taking the request back.
    _owned: OwnedRequest,
}

impl Queued {
    /// Names the request, resolves what it starts from, and puts it at the end of the queue.
    pub(super) async fn enter(inner: &Arc<Inner>, request: Request) -> Result<Self> {
        for attempt in 0.. {
            let name = match &request.name {
                Some(name) => name.clone(),
                None => generate_name(attempt)?,
            };
            let again = |e: &Error| {
                e.kind() == ErrorKind::NameTaken
                    && request.name.is_none()
                    && attempt < ATTEMPTS
                    && !matches!(request.wish.branch, BranchWish::Named(_))
            };
            let base = match inner.isolator.resolve(&request.wish, &name).await {
                Err(error) if again(&error) => continue,
                other => other?,
            };
            let mut queued = Self::new(inner, &request, name, base);
            match queued.enqueue().await {
                Err(error) if again(&error) => {}
                other => return other.map(|()| queued),
            }
        }
        Err(Error::new(ErrorKind::NameTaken, "no unused name was found"))
    }

    fn new(inner: &Arc<Inner>, request: &Request, name: LeaseName, base: Base) -> Self {
        let now = inner.clock.now();
        let lease = Lease {
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
        };
        let waiter = Waiter {
            lease,
            ttl: request.ttl,
            worker: inner.worker().clone(),
            since: now.clone(),
            until: request.wait.map(|wait| Deadline::after(&now, wait)),
        };
        let session = request.session.clone();
        let owned = inner.owned.request(waiter.lease.id.clone());
        let ticket = Ticket(0);
        Self { inner: inner.clone(), ticket, waiter, session, armed: false, _owned: owned }
    }

    /// To the end of the queue.
    async fn enqueue(&mut self) -> Result<()> {
        // In the queue only once the change is made; but a future that is dropped meanwhile may still
        // be followed by the change.
        self.armed = true;
        let (waiter, session) = (self.waiter.clone(), self.session.clone());
        let settings = self.inner.settings.clone();
        let orphaned = self.orphaned().await?;
        let entered = self
            .inner
            .update(move |state, now| {
                if let Some((id, gone)) = orphaned
                    && state.sessions.get(&id).is_some_and(|s| s.process == Some(gone))
                {
                    state.end_session(&id, &settings, now);
                }
                let ticket = state.enqueue(waiter, &settings, now)?;
                if let Some((id, process)) = session {
                    let session = Session { process, last_used: now.clone(), over: false };
                    state.open_session(&id, session);
                }
                Ok(ticket)
            })
            .await?;
        crate::fail_point!("pool-core::queue::entered");
        self.armed = entered.is_ok();
        self.ticket = entered?;
        Ok(())
    }

    /// The request's session, if the process that it was to end with has ended, and no reconciliation has
    /// noticed yet: the request is not part of that one, which is over, and would end it at once.
    async fn orphaned(&self) -> Result<Option<(SessionId, ProcessIdentity)>> {
        let Some((id, _)) = &self.session else { return Ok(None) };
        let state = self.inner.store.load().await?;
        let running = state.sessions.get(id).filter(|session| !session.over);
        let process = running.and_then(|session| session.process.clone());
        let gone = process.filter(|process| self.inner.liveness.runs(process) == Vital::Gone);
        Ok(gone.map(|process| (id.clone(), process)))
    }

    /// Waits for a slot, and returns it with the lease that is to be.
    ///
    /// # Errors
    ///
    /// `PoolFull` when the wait ran out, `Cancelled` when the session ended meanwhile.
    pub(super) async fn granted(&mut self) -> Result<(SlotId, Lease)> {
        let inner = self.inner.clone();
        loop {
            // Registered before looking, so that no change in between is missed.
            let changed = inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = inner.store.load().await?;
            match self.turn(&state) {
                Turn::Granted(slot) => return self.reserved(&state, slot),
                Turn::Waiting(_) if self.is_past() => {
                    let state = self.leave().await?;
                    crate::fail_point!("pool-core::queue::left");
                    if let Turn::Granted(slot) = self.turn(&state) {
                        return self.reserved(&state, slot);
                    }
                    self.armed = false;
                    return Err(self.full(&state));
                }
                Turn::Waiting(_) => {
                    crate::fail_point!("pool-core::queue::waiting");
                }
                Turn::Unknown => {
                    self.armed = false;
                    if state.is_over(self.waiter.lease.session.as_ref()) {
                        let message = "the session ended while its request waited";
                        return Err(Error::new(ErrorKind::Cancelled, message));
                    }
                    if self.is_past() {
                        return Err(self.full(&state));
                    }
                    // The records were lost: to the end of the queue, under the same name and id.
                    self.enqueue().await?;
                    continue;
                }
            }
            let poll = inner.settings.poll;
            let left = self.waiter.until.as_ref().map(|u| u.remaining(&inner.clock.now()));
            tokio::select! {
                () = changed => {}
                () = inner.clock.sleep(left.map_or(poll, |left| left.min(poll))) => {}
            }
        }
    }

    /// Back to the head of the queue: the slot that was granted can't be used, and is kept.
    pub(super) async fn bounce(&self, slot: SlotId, reason: &str) -> Result<()> {
        let (ticket, waiter) = (self.ticket, self.waiter.clone());
        let (worker, settings) = (self.inner.worker().clone(), self.inner.settings.clone());
        let reason = reason.to_owned();
        self.inner
            .update(move |state, now| {
                state.bounce(slot, &worker, (ticket, waiter), &reason, &settings, now)
            })
            .await?
    }

    /// The request has become a lease: there is nothing to take back any more.
    pub(super) fn served(&mut self) {
        self.armed = false;
    }

    /// Takes the request back while the caller waits: a process that is about to end would not live
    /// to see the background do it.
    pub(super) async fn withdraw(&mut self) {
        if std::mem::take(&mut self.armed)
            && let Err(error) = self.inner.withdraw(&self.waiter.lease.id).await
        {
            tracing::warn!(target: "wtpool", %error, "a request that failed was not cleaned up");
        }
    }

    fn turn(&self, state: &PoolState) -> Turn {
        state.turn(self.ticket, &self.waiter.lease.id)
    }

    fn is_past(&self) -> bool {
        let now = self.inner.clock.now();
        self.waiter.until.as_ref().is_some_and(|until| until.is_past(&now))
    }

    fn reserved(&self, state: &PoolState, slot: SlotId) -> Result<(SlotId, Lease)> {
        let lease = state.slots.get(&slot).and_then(|slot| slot.state.lease()).cloned();
        let gone = || Error::new(ErrorKind::StaleLease, format!("slot {slot} was taken away"));
        lease.map(|lease| (slot, lease)).ok_or_else(gone)
    }

    /// Leaves the queue, unless the slot was granted at the last moment: the records tell.
    async fn leave(&self) -> Result<PoolState> {
        let (ticket, settings) = (self.ticket, self.inner.settings.clone());
        self.inner
            .update(move |state, now| {
                state.leave_queue(ticket, "its wait ran out", &settings, now);
                state.clone()
            })
            .await
    }

    fn full(&self, state: &PoolState) -> Error {
        let max = self.inner.settings.max_leases;
        let quarantined = state
            .slots
            .values()
            .filter(|s| matches!(s.state, SlotState::Quarantined { .. }))
            .count();
        let waited = self.waiter.until.as_ref().map(Deadline::span).unwrap_or_default();
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
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.armed {
            self.inner.abandon(Orphan::Request(self.waiter.lease.id.clone()));
        }
    }
}

/// Two words, and a third when the first attempts met names that were taken.
fn generate_name(attempt: u32) -> Result<LeaseName> {
    let words = if attempt < 5 { 2 } else { 3 };
    let name = petname::petname(words, "-")
        .ok_or_else(|| Error::new(ErrorKind::Other, "the list of names is empty"))?;
    LeaseName::new(name)
}
