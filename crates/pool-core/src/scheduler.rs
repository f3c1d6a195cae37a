//! Who gets which slot, and what becomes of it afterwards. Pure: no I/O, no clock of its own.
//!
//! Each method is one step of a slot's life. Whoever makes a step that frees something also grants
//! it, in the same transaction, to the first in the queue ([`PoolState::grant`]); so between
//! transactions nobody waits for what is to be had, and nobody is overtaken.

mod afterlife;
mod lease;
mod withdraw;

pub(crate) use withdraw::Withdrawn;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind};
use crate::id::{ClaimKey, Generation, LeaseId, LeaseName, SlotId, Ticket};
use crate::settings::Settings;
use crate::state::{
    Disposition, End, EndedLease, Lease, PathUse, PoolState, REMEMBERED, Session, Slot, SlotState,
    Token, Waiter,
};
use crate::time::{Deadline, Moment};

/// The largest number that a slot has if numbers are not to be used again: caches tell at most so
/// many slots apart.
pub(crate) const LARGEST_SLOT: u32 = 4_000_000;

/// Where a request is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// In that slot.
    Slot(SlotId),
    /// In a slot that is yet to be made.
    New,
}

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
            let Some(choice) = self.choose(&commit, settings) else { return };
            let Some(waiter) = self.waiters.remove(&ticket) else { return };
            self.generation = self.generation.next();
            let slot = match choice {
                Choice::Slot(slot) => slot,
                Choice::New => self.new_slot(now),
            };
            let mut lease = waiter.lease;
            lease.generation = self.generation;
            lease.acquired = now.clone();
            lease.deadline = waiter.ttl.map(|ttl| Deadline::after(now, ttl));
            self.log(now, EventKind::Granted, Some(slot), Some(&lease), None);
            let Some(entry) = self.slots.get_mut(&slot) else { return };
            entry.last_used = now.clone();
            entry.state = SlotState::Provisioning {
                lease: Some(Box::new(lease)),
                worker: waiter.worker,
                reuse: entry.plan.is_some(),
            };
        }
    }

    fn choose(&self, commit: &crate::CommitId, settings: &Settings) -> Option<Choice> {
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
            return Some(Choice::Slot(slot.id));
        }
        if self.slots.len() < max {
            return Some(Choice::New);
        }
        self.slots
            .values()
            .filter(|s| matches!(s.state, SlotState::Lingering { .. }))
            .min_by_key(|s| (s.last_used.wall, s.id))
            .map(|s| Choice::Slot(s.id))
    }

    /// Adds a slot whose number no slot has had before: the number of a generation. So a path that
    /// was handed out never becomes that of another slot.
    fn new_slot(&mut self, now: &Moment) -> SlotId {
        let unique = |generation: Generation| {
            u32::try_from(generation.0).ok().filter(|n| *n <= LARGEST_SLOT).map(SlotId)
        };
        // Of a pool that numbered its slots in another way, or whose records were lost.
        let was_used = |state: &Self, id: SlotId| {
            state.slots.contains_key(&id) || state.ended.iter().any(|ended| ended.slot == id)
        };
        while unique(self.generation).is_some_and(|id| was_used(self, id)) {
            self.generation.0 += 1;
        }
        let id = unique(self.generation);
        // So many leases later, numbers are used again, and a path does not say which lease it was.
        let path_use = if id.is_some() { PathUse::Unused } else { PathUse::Again };
        let unused = || (1..).map(SlotId).find(|id| !self.slots.contains_key(id));
        let id = id.or_else(unused).unwrap_or(SlotId(1));
        self.slots.insert(id, Slot { path_use, ..Slot::new(id, now) });
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
        self.generation = self.generation.next();
        let id = self.new_slot(now);
        let entry = self.slots.get_mut(&id)?;
        entry.warm = true;
        entry.state = SlotState::Provisioning { lease: None, worker: worker.clone(), reuse: false };
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

    /// Compares a slot with what was `seen` of it, by a process that has decided on that.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](ErrorKind::StaleLease) when it has changed since.
    pub(crate) fn unchanged(&self, slot: SlotId, seen: Option<&Slot>) -> Result<()> {
        if self.slots.get(&slot) == seen { Ok(()) } else { Err(not_ours(slot)) }
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
        Self {
            id,
            plan: None,
            last_used: now.clone(),
            warm: false,
            path_use: PathUse::Unused,
            state: SlotState::Free,
        }
    }
}

pub(crate) fn not_ours(slot: SlotId) -> Error {
    let message = format!("slot {slot} was taken over or changed by somebody else in the meantime");
    Error::new(ErrorKind::StaleLease, message)
}

fn stale(token: &Token) -> Error {
    let message = format!("the lease {} (generation {}) is over", token.lease, token.generation);
    Error::new(ErrorKind::StaleLease, message).with_hint("acquire a new one")
}
