//! From a grant to the end of a lease.

use super::{not_ours, stale};
use crate::error::Result;
use crate::event::EventKind;
use crate::id::{ClaimKey, SlotId, Ticket};
use crate::isolator::Plan;
use crate::settings::Settings;
use crate::state::{End, Lease, Owner, PathUse, PoolState, SlotState, Token, Waiter};
use crate::time::{Deadline, Moment};

impl PoolState {
    /// Records what a slot is about to be made into, before the making begins: after a crash, the
    /// workspace is compared with this.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s to make.
    pub fn plan_slot(&mut self, plan: &Plan, worker: &ClaimKey) -> Result<()> {
        self.worked_by(plan.slot, worker)?.plan = Some(plan.clone());
        Ok(())
    }

    /// The lease begins: its workspace stands.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s to hand out.
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
        entry.path_use = match &entry.path_use {
            PathUse::Unused => PathUse::Once(lease.id.clone()),
            PathUse::Once(_) | PathUse::Again => PathUse::Again,
        };
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s.
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when there is none: never was, is over, or the slot has gone to
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease); see [`holder`](Self::holder).
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

    /// The lease is nobody's from now on, and lasts for `ttl`.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease); see [`holder`](Self::holder).
    pub fn detach(
        &mut self,
        token: &Token,
        ttl: std::time::Duration,
        now: &Moment,
    ) -> Result<Lease> {
        let (_, lease) = self.holder(token)?;
        lease.owner = Owner::Detached;
        lease.deadline = Some(Deadline::after(now, ttl));
        Ok(lease.clone())
    }

    /// The lease is over: its slot is `worker`'s, to save what is in it.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease); see [`holder`](Self::holder).
    pub fn begin_release(
        &mut self,
        token: &Token,
        end: End,
        worker: &ClaimKey,
        now: &Moment,
    ) -> Result<SlotId> {
        let (slot, lease) = self.holder(token)?;
        let lease = Box::new(lease.clone());
        let end = End { by: Some(worker.clone()), ..end };
        self.touch_session(lease.session.as_ref(), now);
        let why = format!("{:?}", end.reason).to_lowercase();
        self.log(now, EventKind::Releasing, Some(slot), Some(&lease), Some(&why));
        if let Some(entry) = self.slots.get_mut(&slot) {
            entry.last_used = now.clone();
            entry.state = SlotState::Releasing { lease, end, worker: worker.clone() };
        }
        Ok(slot)
    }

    /// A lingering or quarantined slot, or a granted one of `worker`'s own that came to nothing, is
    /// `worker`'s, to save what is in it and to clean or remove it.
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot's state is another by now.
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
            SlotState::Provisioning { lease, worker: maker, .. } if maker == worker => {
                (lease.clone(), end.clone())
            }
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when somebody else was quicker.
    pub fn take_over(&mut self, slot: SlotId, from: &ClaimKey, worker: &ClaimKey) -> Result<()> {
        match &mut self.worked_by(slot, from)?.state {
            SlotState::Provisioning { worker: w, .. }
            | SlotState::Releasing { worker: w, .. }
            | SlotState::Retiring { worker: w } => *w = worker.clone(),
            _ => return Err(not_ours(slot)),
        }
        Ok(())
    }
}
