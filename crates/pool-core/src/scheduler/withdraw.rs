//! Takes back what a worker has begun and nothing in its process owns any more.

use std::time::Duration;

use crate::id::{ClaimKey, LeaseId, SlotId, Ticket};
use crate::settings::Settings;
use crate::state::{End, EndReason, Outcome, PoolState, SlotState, Token};
use crate::time::Moment;

/// What is left to do for a request that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// Nothing.
    Done,
    /// It was granted that slot, which the worker must clean up now.
    Slot(SlotId),
    /// It had become that lease, which must be released.
    Lease(Token),
}

impl PoolState {
    /// Takes back a request of `worker` that no guard owns.
    pub(crate) fn withdraw(
        &mut self,
        lease: &LeaseId,
        worker: &ClaimKey,
        settings: &Settings,
        now: &Moment,
    ) -> Withdrawn {
        let waits = self.waiters.iter().find(|(_, waiter)| waiter.lease.id == *lease);
        if let Some(ticket) = waits.map(|(ticket, _)| *ticket) {
            self.leave_queue(ticket, CANCELLED, settings, now);
            return Withdrawn::Done;
        }
        let slot = self.slots.values().find(|s| s.state.lease().is_some_and(|l| l.id == *lease));
        match slot.map(|slot| (slot.id, &slot.state)) {
            Some((_, SlotState::Leased { lease })) => Withdrawn::Lease(lease.token()),
            Some((slot, SlotState::Provisioning { worker: maker, .. })) if maker == worker => {
                match self.reopen(slot, &abandoned(), worker, now) {
                    Ok(()) => Withdrawn::Slot(slot),
                    Err(_) => Withdrawn::Done,
                }
            }
            _ => Withdrawn::Done,
        }
    }

    /// Whether `worker` has a request in the queue, or works on a slot.
    pub(crate) fn has_work_of(&self, worker: &ClaimKey) -> bool {
        self.waiters.values().any(|waiter| waiter.worker == *worker)
            || self.slots.values().any(|slot| slot.state.worker() == Some(worker))
    }

    /// Takes back all of `worker`'s requests and idle slots under preparation that are not
    /// owned, and returns the slots that `worker` must clean up: those, and those that it had begun
    /// to clean up.
    pub(crate) fn withdraw_unowned(
        &mut self,
        worker: &ClaimKey,
        owns_request: &dyn Fn(&LeaseId) -> bool,
        owns_idle: &dyn Fn(SlotId) -> bool,
        settings: &Settings,
        now: &Moment,
    ) -> Vec<SlotId> {
        let dropped: Vec<Ticket> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.worker == *worker && !owns_request(&waiter.lease.id))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in dropped {
            self.leave_queue(ticket, CANCELLED, settings, now);
        }
        let unowned = |slot: SlotId, state: &SlotState| match state {
            SlotState::Provisioning { lease: Some(lease), .. } => !owns_request(&lease.id),
            SlotState::Provisioning { lease: None, .. } => !owns_idle(slot),
            _ => false,
        };
        let abandon: Vec<SlotId> = self
            .slots
            .values()
            .filter(|slot| slot.state.worker() == Some(worker) && unowned(slot.id, &slot.state))
            .map(|slot| slot.id)
            .collect();
        for slot in abandon {
            // It is this worker's, and is being prepared: the only condition of `reopen`.
            let reopened = self.reopen(slot, &abandoned(), worker, now);
            debug_assert!(reopened.is_ok(), "slot {slot}: {reopened:?}");
        }
        self.slots.values().filter(|s| s.state.is_cleaned_by(worker)).map(|s| s.id).collect()
    }
}

/// Why a request left the queue.
const CANCELLED: &str = "cancelled: the caller went away";

fn abandoned() -> End {
    End {
        outcome: Outcome::Failure,
        reason: EndReason::Abandoned,
        linger: Duration::ZERO,
        by: None,
        rescue: None,
        branch: None,
    }
}
