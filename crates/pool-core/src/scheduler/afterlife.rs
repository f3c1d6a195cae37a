//! What becomes of a slot when its lease is over, and of one that stands idle.

use std::time::Duration;

use super::{Afterlife, LARGEST_SLOT, not_ours};
use crate::error::Result;
use crate::event::EventKind;
use crate::id::{ClaimKey, Generation, SlotId};
use crate::isolator::{Base, Plan, Rescue};
use crate::settings::Settings;
use crate::state::{
    Disposition, End, EndReason, EndedLease, PathUse, PoolState, Slot, SlotState, Token,
};
use crate::time::{Deadline, Moment};

impl PoolState {
    /// The work of a lease is saved: what becomes of its slot? Decides and records it in one
    /// step; [`Keep`](Afterlife::Keep) leaves the slot `worker`'s until
    /// [`rest`](Self::rest), [`Retire`](Afterlife::Retire) until [`remove`](Self::remove).
    ///
    /// # Errors
    ///
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s.
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
        if wanted != Afterlife::Linger {
            // From here on there is ever less to inspect, also for whoever resumes this.
            end.linger = Duration::ZERO;
        }
        let lease = lease.clone();
        for rescue in ended.rescue.iter().flat_map(Rescue::all) {
            self.log(now, EventKind::Rescued, Some(slot), Some(&lease), Some(&rescue.note()));
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
        if end.reason == EndReason::Interrupted {
            return Afterlife::Retire;
        }
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s.
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s.
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when the slot is no longer `worker`'s.
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
    /// [`StaleLease`](crate::ErrorKind::StaleLease) when it is not idle any more.
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
        // Nothing is known of the leases that it had, and its number is not given out again.
        if slot.0 <= LARGEST_SLOT {
            self.generation = self.generation.max(Generation(u64::from(slot.0)));
        }
        let path_use = PathUse::Again;
        self.slots.insert(slot, Slot { plan, state, path_use, ..Slot::new(slot, now) });
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

    /// Returns the slot that is quarantined since that lease ended.
    pub fn quarantined(&self, token: &Token) -> Option<SlotId> {
        self.slots.values().find_map(|slot| match &slot.state {
            SlotState::Quarantined { lease: Some(lease), end: Some(_), .. }
                if lease.token() == *token =>
            {
                Some(slot.id)
            }
            _ => None,
        })
    }

    /// What is remembered of a lease that is over.
    pub fn ended(&self, token: &Token) -> Option<&EndedLease> {
        self.ended.iter().rev().find(|e| e.token == *token)
    }
}
