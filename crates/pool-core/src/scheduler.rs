//! Who gets which slot, and what becomes of it afterwards. Pure: no I/O, no clock of its own.
//!
//! Each method is one step of a slot's life. Whoever makes a step that frees something also grants
//! it, in the same transaction, to the first in the queue ([`PoolState::grant`]); so between
//! transactions nobody waits for what is to be had, and nobody is overtaken.

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind};
use crate::id::{ClaimKey, LeaseId, LeaseName, SlotId, Ticket};
use crate::isolator::{Base, Plan};
use crate::settings::Settings;
use crate::state::{
    Disposition, End, EndedLease, Lease, PoolState, REMEMBERED, Session, Slot, SlotState, Token,
    Waiter,
};
use crate::time::{Deadline, Moment};

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its slot is granted, and is the worker's to make ready.
    Granted(SlotId),
    /// So many are before it.
    Waiting(usize),
    /// It is neither in the queue nor granted: the records were lost and rebuilt.
    Unknown,
}

/// What is to be done with a slot whose work is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterlife {
    /// Keep it as it is until its linger time is over.
    Linger,
    /// Clean it, and keep it idle.
    Keep,
    /// Remove it.
    Retire,
}

impl PoolState {
    /// Puts a request at the end of the queue and grants what there is to grant.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NameTaken`] when a live or waiting lease has that name;
    /// [`ErrorKind::InvalidInput`] when the lease's session is over.
    pub fn enqueue(&mut self, waiter: Waiter, settings: &Settings, now: &Moment) -> Result<Ticket> {
        let name = &waiter.lease.name;
        if self.names().any(|taken| taken == name) {
            return Err(Error::new(
                ErrorKind::NameTaken,
                format!("the lease name {name} is taken"),
            )
            .with_hint("choose another, or leave it out and one is made up"));
        }
        if let Some(id) = &waiter.lease.session
            && self.is_over(Some(id))
        {
            if self.is_used(id) {
                let message = format!("the session {id} is over, and is being cleaned up");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .with_hint("start a session with another id"));
            }
            // Its name is free again.
            self.sessions.remove(id);
        }
        self.ticket.0 += 1;
        let ticket = self.ticket;
        self.log(now, EventKind::Queued, None, Some(&waiter.lease), None);
        self.waiters.insert(ticket, waiter);
        self.grant(settings, now);
        Ok(ticket)
    }

    /// Registers the session of a request, or learns its process.
    pub fn open_session(&mut self, id: &crate::SessionId, session: Session) {
        let entry = self.sessions.entry(id.clone()).or_insert_with(|| session.clone());
        entry.last_used = session.last_used;
        if entry.process.is_none() {
            entry.process = session.process;
        }
    }

    /// Whether that session is over.
    pub(crate) fn is_over(&self, id: Option<&crate::SessionId>) -> bool {
        id.and_then(|id| self.sessions.get(id)).is_some_and(|session| session.over)
    }

    /// Whether a lease of that session is live, lingers, is kept or waits.
    pub(crate) fn is_used(&self, id: &crate::SessionId) -> bool {
        let here = self.slots.values().filter_map(|s| s.state.lease());
        here.chain(self.waiters.values().map(|w| &w.lease)).any(|l| l.session.as_ref() == Some(id))
    }

    /// The names of live and waiting leases.
    pub fn names(&self) -> impl Iterator<Item = &LeaseName> {
        let live =
            self.slots.values().filter(|s| s.state.occupies()).filter_map(|s| s.state.lease());
        live.chain(self.waiters.values().map(|w| &w.lease)).map(|l| &l.name)
    }

    /// Grants slots to those who wait, first come first served, until the queue or the capacity is
    /// used up. A granted slot belongs to its waiter's worker, in this order of preference: an idle
    /// one with the same base, an idle one (last used first, since it is warmest), a new one, a
    /// lingering one (the one that has lingered longest).
    pub fn grant(&mut self, settings: &Settings, now: &Moment) {
        while let Some(ticket) = self.waiters.keys().next().copied() {
            let commit = self.waiters[&ticket].lease.base.commit.clone();
            let Some(slot) = self.choose(&commit, settings) else { return };
            let Some(waiter) = self.waiters.remove(&ticket) else { return };
            self.generation = self.generation.next();
            let mut lease = waiter.lease;
            lease.generation = self.generation;
            lease.acquired = now.clone();
            lease.deadline = waiter.ttl.map(|ttl| Deadline::after(now, ttl));
            let reuse = self.slots.contains_key(&slot);
            self.log(now, EventKind::Granted, Some(slot), Some(&lease), None);
            let entry = self.slots.entry(slot).or_insert_with(|| Slot::new(slot, now));
            entry.last_used = now.clone();
            entry.state = SlotState::Provisioning {
                lease: Some(Box::new(lease)),
                worker: waiter.worker,
                reuse: reuse && entry.plan.is_some(),
            };
        }
    }

    fn choose(&self, commit: &crate::CommitId, settings: &Settings) -> Option<SlotId> {
        let max = settings.max_leases as usize;
        if self.occupied() >= max {
            return None;
        }
        let free = |s: &&Slot| s.state == SlotState::Free;
        let same_base = |s: &Slot| s.plan.as_ref().is_some_and(|plan| plan.base.commit == *commit);
        let idle = self
            .slots
            .values()
            .filter(free)
            .max_by_key(|s| (same_base(s), s.last_used.wall, std::cmp::Reverse(s.id)));
        if let Some(slot) = idle {
            return Some(slot.id);
        }
        if self.slots.len() < max {
            return Some(self.unused_slot());
        }
        self.slots
            .values()
            .filter(|s| matches!(s.state, SlotState::Lingering { .. }))
            .min_by_key(|s| (s.last_used.wall, s.id))
            .map(|s| s.id)
    }

    fn unused_slot(&self) -> SlotId {
        let mut id = SlotId(1);
        while self.slots.contains_key(&id) {
            id.0 += 1;
        }
        id
    }

    /// How many slots count against the cap.
    pub fn occupied(&self) -> usize {
        self.slots.values().filter(|s| s.state.occupies()).count()
    }

    /// Takes a slot out of the pool's hands to make or remove an idle one: a new one, if the cap
    /// allows.
    pub fn reserve_idle(
        &mut self,
        worker: &ClaimKey,
        settings: &Settings,
        now: &Moment,
    ) -> Option<SlotId> {
        // Somebody who waits comes first.
        if self.slots.len() >= settings.max_leases as usize || !self.waiters.is_empty() {
            return None;
        }
        let id = self.unused_slot();
        let state = SlotState::Provisioning { lease: None, worker: worker.clone(), reuse: false };
        self.slots.insert(id, Slot { warm: true, state, ..Slot::new(id, now) });
        Some(id)
    }

    /// Where the request stands.
    pub fn turn(&self, ticket: Ticket, lease: &LeaseId) -> Turn {
        if self.waiters.contains_key(&ticket) {
            return Turn::Waiting(self.waiters.range(..ticket).count());
        }
        let granted = self.slots.values().find(|s| {
            matches!(&s.state, SlotState::Provisioning { lease: Some(l), .. } if l.id == *lease)
        });
        granted.map_or(Turn::Unknown, |s| Turn::Granted(s.id))
    }

    /// Takes a request out of the queue. Does nothing when it is not there.
    pub fn leave_queue(&mut self, ticket: Ticket, why: &str, settings: &Settings, now: &Moment) {
        if let Some(waiter) = self.waiters.remove(&ticket) {
            self.log(now, EventKind::LeftQueue, None, Some(&waiter.lease), Some(why));
            self.grant(settings, now);
        }
    }

    /// Records what a slot is about to be made into, before the making begins: after a crash, the
    /// workspace is compared with this.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s to make.
    pub fn plan_slot(&mut self, plan: &Plan, worker: &ClaimKey) -> Result<()> {
        self.worked_by(plan.slot, worker)?.plan = Some(plan.clone());
        Ok(())
    }

    /// The lease begins: its workspace stands.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s to hand out.
    pub fn begin_lease(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        attachment: crate::Attachment,
        now: &Moment,
    ) -> Result<Lease> {
        let entry = self.worked_by(slot, worker)?;
        let SlotState::Provisioning { lease: Some(lease), .. } = &entry.state else {
            return Err(not_ours(slot));
        };
        let mut lease = lease.clone();
        lease.attachment = attachment;
        // The TTL counts from when the lease can be used.
        lease.acquired = now.clone();
        lease.deadline = lease.deadline.map(|d| Deadline::after(now, d.span()));
        let handed_out = (*lease).clone();
        entry.state = SlotState::Leased { lease };
        entry.last_used = now.clone();
        self.touch_session(handed_out.session.as_ref(), now);
        self.log(now, EventKind::Leased, Some(slot), Some(&handed_out), None);
        Ok(handed_out)
    }

    /// Puts a lease whose slot turned out to be unusable back to the head of the queue, and
    /// keeps the slot with the reason.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s.
    pub fn bounce(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        (ticket, waiter): (Ticket, Waiter),
        reason: &str,
        settings: &Settings,
        now: &Moment,
    ) -> Result<()> {
        let entry = self.worked_by(slot, worker)?;
        entry.state = SlotState::Quarantined { lease: None, end: None, reason: reason.to_owned() };
        self.log(now, EventKind::Quarantined, Some(slot), None, Some(reason));
        self.waiters.insert(ticket, waiter);
        self.grant(settings, now);
        Ok(())
    }

    /// The live lease that `token` proves.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when there is none: never was, is over, or the slot has gone to
    /// somebody else since.
    pub fn holder(&mut self, token: &Token) -> Result<(SlotId, &mut Lease)> {
        let found = self.slots.values_mut().find_map(|slot| match &mut slot.state {
            SlotState::Leased { lease } if lease.token() == *token => Some((slot.id, &mut **lease)),
            _ => None,
        });
        found.ok_or_else(|| stale(token))
    }

    /// Moves the deadline of a lease to a whole TTL from now, or to `ttl` from now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`]; see [`holder`](Self::holder).
    pub fn renew(
        &mut self,
        token: &Token,
        ttl: Option<std::time::Duration>,
        now: &Moment,
    ) -> Result<Lease> {
        let (slot, lease) = self.holder(token)?;
        if let Some(span) = ttl.or(lease.deadline.as_ref().map(Deadline::span)) {
            lease.deadline = Some(Deadline::after(now, span));
        }
        lease.kept_because = None;
        let lease = lease.clone();
        self.touch_session(lease.session.as_ref(), now);
        self.log(now, EventKind::Renewed, Some(slot), Some(&lease), None);
        Ok(lease)
    }

    /// The lease is over: its slot is `worker`'s, to save what is in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`]; see [`holder`](Self::holder).
    pub fn begin_release(
        &mut self,
        token: &Token,
        end: End,
        worker: &ClaimKey,
        now: &Moment,
    ) -> Result<SlotId> {
        let (slot, lease) = self.holder(token)?;
        let lease = Box::new(lease.clone());
        self.touch_session(lease.session.as_ref(), now);
        let why = format!("{:?}", end.reason).to_lowercase();
        self.log(now, EventKind::Releasing, Some(slot), Some(&lease), Some(&why));
        if let Some(entry) = self.slots.get_mut(&slot) {
            entry.last_used = now.clone();
            entry.state = SlotState::Releasing { lease, end, worker: worker.clone() };
        }
        Ok(slot)
    }

    /// A lingering or quarantined slot, or a granted one that came to nothing, is `worker`'s, to
    /// save what is in it and to clean or remove it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot's state is another by now.
    pub fn reopen(
        &mut self,
        slot: SlotId,
        end: &End,
        worker: &ClaimKey,
        now: &Moment,
    ) -> Result<()> {
        let entry = self.slots.get_mut(&slot).ok_or_else(|| not_ours(slot))?;
        let (lease, end) = match &entry.state {
            SlotState::Lingering { lease, end, .. } => (Some(lease.clone()), end.clone()),
            SlotState::Quarantined { lease, end: ended, .. } => {
                (lease.clone(), ended.clone().unwrap_or_else(|| end.clone()))
            }
            SlotState::Provisioning { lease, .. } => (lease.clone(), end.clone()),
            _ => return Err(not_ours(slot)),
        };
        let end = End { linger: std::time::Duration::ZERO, ..end };
        entry.state = match lease {
            Some(lease) => SlotState::Releasing { lease, end, worker: worker.clone() },
            None => SlotState::Retiring { worker: worker.clone() },
        };
        let lease = self.slots.get(&slot).and_then(|s| s.state.lease()).cloned();
        self.log(now, EventKind::Releasing, Some(slot), lease.as_ref(), None);
        Ok(())
    }

    /// Keeps the slot of a lease that lingers for `linger` from now, instead of what was agreed. With
    /// zero the lingering is over, and the slot that is returned is `worker`'s, to be cleaned or
    /// removed. Does nothing when the lease does not linger.
    ///
    /// # Errors
    ///
    /// See [`reopen`](Self::reopen).
    pub fn change_linger(
        &mut self,
        token: &Token,
        linger: std::time::Duration,
        worker: &ClaimKey,
        now: &Moment,
    ) -> Result<Option<SlotId>> {
        let found = self.slots.values_mut().find_map(|slot| match &mut slot.state {
            SlotState::Lingering { lease, end, until } if lease.token() == *token => {
                Some((slot.id, end, until))
            }
            _ => None,
        });
        let Some((slot, end, until)) = found else { return Ok(None) };
        if linger.is_zero() {
            let end = end.clone();
            self.reopen(slot, &end, worker, now)?;
            return Ok(Some(slot));
        }
        end.linger = linger;
        *until = Deadline::after(now, linger);
        Ok(None)
    }

    /// Takes over the work on a slot from a worker that is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when somebody else was quicker.
    pub fn take_over(&mut self, slot: SlotId, from: &ClaimKey, worker: &ClaimKey) -> Result<()> {
        match &mut self.worked_by(slot, from)?.state {
            SlotState::Provisioning { worker: w, .. }
            | SlotState::Releasing { worker: w, .. }
            | SlotState::Retiring { worker: w } => *w = worker.clone(),
            _ => return Err(not_ours(slot)),
        }
        Ok(())
    }

    /// The work of a lease is saved: what becomes of its slot? Decides and records it in one
    /// step; [`Keep`](Afterlife::Keep) leaves the slot `worker`'s until
    /// [`rest`](Self::rest), [`Retire`](Afterlife::Retire) until [`remove`](Self::remove).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s.
    pub fn saved(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        ended: &End,
        settings: &Settings,
        now: &Moment,
    ) -> Result<Afterlife> {
        let wanted = self.afterlife(slot, ended, settings);
        let entry = self.worked_by(slot, worker)?;
        let SlotState::Releasing { lease, end, .. } = &mut entry.state else {
            return Err(not_ours(slot));
        };
        *end = ended.clone();
        let lease = lease.clone();
        if let Some(rescue) = &ended.rescue {
            self.log(now, EventKind::Rescued, Some(slot), Some(&lease), Some(&rescue.reference));
        }
        match wanted {
            Afterlife::Linger => {
                let until = Deadline::after(now, ended.linger);
                self.set(
                    slot,
                    SlotState::Lingering { lease: lease.clone(), end: ended.clone(), until },
                );
                self.log(now, EventKind::Lingering, Some(slot), Some(&lease), None);
                self.remember(slot, &lease, ended, Disposition::Lingering, now);
                self.grant(settings, now);
            }
            Afterlife::Keep => {}
            Afterlife::Retire => self.log(now, EventKind::Retiring, Some(slot), Some(&lease), None),
        }
        Ok(wanted)
    }

    fn afterlife(&self, slot: SlotId, end: &End, settings: &Settings) -> Afterlife {
        let Some(entry) = self.slots.get(&slot) else { return Afterlife::Retire };
        let session = entry.state.lease().and_then(|l| l.session.as_ref());
        let over = self.is_over(session);
        if !self.waiters.is_empty() && !over {
            return Afterlife::Keep;
        }
        if !end.linger.is_zero() && !over {
            return Afterlife::Linger;
        }
        if self.wants_idle(entry, over, settings) { Afterlife::Keep } else { Afterlife::Retire }
    }

    /// Whether that slot is worth keeping idle, beside those that already are.
    fn wants_idle(&self, slot: &Slot, session_over: bool, settings: &Settings) -> bool {
        let others = self.slots.values().filter(|s| s.state == SlotState::Free && s.id != slot.id);
        slot.warm
            || (!session_over && self.keeps_warm() && others.count() < settings.keep_warm as usize)
    }

    /// The idle slots, in the order in which to do without them: the one longest unused comes first.
    pub fn idle_by_last_use(&self) -> Vec<SlotId> {
        let mut idle: Vec<&Slot> =
            self.slots.values().filter(|slot| slot.state == SlotState::Free).collect();
        idle.sort_by_key(|slot| (slot.last_used.wall, slot.id));
        idle.into_iter().map(|slot| slot.id).collect()
    }

    /// Whether idle slots are worth keeping: somebody will come back for them.
    pub fn keeps_warm(&self) -> bool {
        self.sessions.values().any(|s| !s.over) || !self.waiters.is_empty()
    }

    /// The slot is clean: the next one's, or idle from now on, or, when it turns out that nobody
    /// wants it any more, still `worker`'s, to be removed. Says whether it is the last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s.
    pub fn rest(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        plan: Plan,
        settings: &Settings,
        now: &Moment,
    ) -> Result<bool> {
        let entry = self.worked_by(slot, worker)?;
        let over = match &entry.state {
            SlotState::Releasing { lease, end, .. } => Some((lease.clone(), end.clone())),
            _ => None,
        };
        entry.plan = Some(plan);
        entry.state = SlotState::Free;
        if let Some((lease, end)) = over {
            self.remember(slot, &lease, &end, Disposition::Recycled, now);
        }
        self.log(now, EventKind::Freed, Some(slot), None, None);
        self.grant(settings, now);
        let surplus = self.slots.get(&slot).is_some_and(|entry| {
            entry.state == SlotState::Free && !self.wants_idle(entry, false, settings)
        });
        if surplus {
            self.retire(slot, worker, now)?;
        }
        Ok(surplus)
    }

    /// The slot is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s.
    pub fn remove(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        settings: &Settings,
        now: &Moment,
    ) -> Result<()> {
        let entry = self.worked_by(slot, worker)?;
        let over = match &entry.state {
            SlotState::Releasing { lease, end, .. } => Some((lease.clone(), end.clone())),
            _ => None,
        };
        self.slots.remove(&slot);
        if let Some((lease, end)) = over {
            self.remember(slot, &lease, &end, Disposition::Removed, now);
        }
        self.log(now, EventKind::Removed, Some(slot), None, None);
        self.grant(settings, now);
        Ok(())
    }

    /// Keeps the slot as it is, and says why.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the slot is no longer `worker`'s.
    pub fn quarantine(
        &mut self,
        slot: SlotId,
        worker: &ClaimKey,
        reason: &str,
        settings: &Settings,
        now: &Moment,
    ) -> Result<()> {
        let entry = self.worked_by(slot, worker)?;
        let (lease, end) = match &entry.state {
            SlotState::Releasing { lease, end, .. } => (Some(lease.clone()), Some(end.clone())),
            SlotState::Provisioning { lease, .. } => (lease.clone(), None),
            _ => (None, None),
        };
        let state = SlotState::Quarantined {
            lease: lease.clone(),
            end: end.clone(),
            reason: reason.to_owned(),
        };
        entry.state = state;
        if let (Some(lease), Some(end)) = (&lease, &end) {
            self.remember(slot, lease, end, Disposition::Quarantined, now);
        }
        self.log(now, EventKind::Quarantined, Some(slot), lease.as_deref(), Some(reason));
        self.grant(settings, now);
        Ok(())
    }

    /// Takes an idle slot out of use, to be removed by `worker`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when it is not idle any more.
    pub fn retire(&mut self, slot: SlotId, worker: &ClaimKey, now: &Moment) -> Result<()> {
        match self.slots.get_mut(&slot) {
            Some(entry) if entry.state == SlotState::Free => {
                entry.state = SlotState::Retiring { worker: worker.clone() };
            }
            _ => return Err(not_ours(slot)),
        }
        self.log(now, EventKind::Retiring, Some(slot), None, None);
        Ok(())
    }

    /// Takes in a workspace that is there without a record of it (the records were lost): it is
    /// kept, quarantined, until a reconciliation has looked at it.
    pub fn adopt(&mut self, slot: SlotId, base: Option<Base>, reason: &str, now: &Moment) {
        let plan = base.map(|base| Plan { slot, lease: None, base });
        let state = SlotState::Quarantined { lease: None, end: None, reason: reason.to_owned() };
        self.slots.insert(slot, Slot { plan, state, ..Slot::new(slot, now) });
        self.log(now, EventKind::Quarantined, Some(slot), None, Some(reason));
    }

    /// The slot of a lease that is just being ended, and who does it.
    pub fn leaving(&self, token: &Token) -> Option<(SlotId, &ClaimKey)> {
        self.slots.values().find_map(|slot| match &slot.state {
            SlotState::Releasing { lease, worker, .. } if lease.token() == *token => {
                Some((slot.id, worker))
            }
            _ => None,
        })
    }

    /// What is remembered of a lease that is over.
    pub fn ended(&self, token: &Token) -> Option<&EndedLease> {
        self.ended.iter().rev().find(|e| e.token == *token)
    }

    fn remember(
        &mut self,
        slot: SlotId,
        lease: &Lease,
        end: &End,
        disposition: Disposition,
        now: &Moment,
    ) {
        let token = lease.token();
        self.ended.retain(|e| e.token != token);
        let (name, end) = (lease.name.clone(), end.clone());
        self.ended.push_back(EndedLease { token, name, slot, end, at: now.clone(), disposition });
        let surplus = self.ended.len().saturating_sub(REMEMBERED);
        self.ended.drain(..surplus);
    }

    fn touch_session(&mut self, id: Option<&crate::SessionId>, now: &Moment) {
        if let Some(session) = id.and_then(|id| self.sessions.get_mut(id)) {
            session.last_used = now.clone();
        }
    }

    fn set(&mut self, slot: SlotId, state: SlotState) {
        if let Some(entry) = self.slots.get_mut(&slot) {
            entry.state = state;
        }
    }

    fn worked_by(&mut self, slot: SlotId, worker: &ClaimKey) -> Result<&mut Slot> {
        match self.slots.get_mut(&slot) {
            Some(entry) if entry.state.worker() == Some(worker) => Ok(entry),
            _ => Err(not_ours(slot)),
        }
    }

    pub(crate) fn log(
        &mut self,
        now: &Moment,
        kind: EventKind,
        slot: Option<SlotId>,
        lease: Option<&Lease>,
        note: Option<&str>,
    ) {
        self.outbox.push(Event {
            at: now.wall,
            kind,
            slot,
            lease: lease.map(|l| l.id.clone()),
            name: lease.map(|l| l.name.clone()),
            generation: lease.map(|l| l.generation),
            note: note.map(str::to_owned),
        });
    }
}

impl Slot {
    fn new(id: SlotId, now: &Moment) -> Self {
        Self { id, plan: None, last_used: now.clone(), warm: false, state: SlotState::Free }
    }
}

fn not_ours(slot: SlotId) -> Error {
    let message = format!("slot {slot} was taken over by somebody else in the meantime");
    Error::new(ErrorKind::StaleLease, message)
}

fn stale(token: &Token) -> Error {
    let message = format!("the lease {} (generation {}) is over", token.lease, token.generation);
    Error::new(ErrorKind::StaleLease, message).with_hint("acquire a new one")
}
