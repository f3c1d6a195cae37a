//! Which looks at the disk and which records belong together. Pure.
//!
//! A look takes time, and other processes change records and workspaces meanwhile. A process changes the record of a
//! slot before it touches the workspace, and again after that. So no process was at work on a slot whose record was
//! the same before and after the look, and at rest: the look holds for that slot, and for no other.

use std::collections::BTreeSet;

use crate::id::SlotId;
use crate::isolator::{Condition, Discovered};
use crate::state::{PoolState, Slot, SlotState};

/// What was found where slots live, as far as it holds for the records. Made by
/// [`Pool::survey`](crate::Pool::survey).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// The records after the look.
    pub records: PoolState,
    /// What was found, without the slots that a process worked on during the look.
    pub found: Vec<Discovered>,
    /// Recorded slots of which nothing was found, without those that a process worked on during the look.
    pub absent: BTreeSet<SlotId>,
}

impl Survey {
    /// Puts together the records `before` the look, what it `found`, and the `records` after it.
    pub(crate) fn new(before: &PoolState, mut found: Vec<Discovered>, records: PoolState) -> Self {
        let on_disk: BTreeSet<SlotId> = found.iter().map(|one| one.slot).collect();
        let is_settled = |slot: &Slot| {
            slot.state.worker().is_none()
                && before.slots.get(&slot.id).is_some_and(|earlier| earlier.is_same(slot))
        };
        found.retain(|one| match records.slots.get(&one.slot) {
            Some(slot) => is_settled(slot),
            None => !before.slots.contains_key(&one.slot),
        });
        let absent = records
            .slots
            .values()
            .filter(|slot| !on_disk.contains(&slot.id) && is_settled(slot))
            .map(|slot| slot.id)
            .collect();
        Self { records, found, absent }
    }

    /// What was found in slots that had no record, neither before nor after the look.
    pub fn unrecorded(&self) -> impl Iterator<Item = &Discovered> {
        self.found.iter().filter(|one| !self.records.slots.contains_key(&one.slot))
    }

    /// Leased and idle slots whose workspace is gone. A slot with a plan has left something behind, or its workspace is
    /// gone without a trace.
    pub(crate) fn missing(&self) -> BTreeSet<SlotId> {
        let registered = self.found.iter().filter(|one| one.condition == Condition::Missing);
        let registered = registered.filter_map(|one| self.records.slots.get(&one.slot));
        let without_trace = self.absent_slots().filter(|slot| slot.plan.is_some());
        let has_workspace =
            |slot: &&Slot| matches!(slot.state, SlotState::Free | SlotState::Leased { .. });
        registered.chain(without_trace).filter(has_workspace).map(|slot| slot.id).collect()
    }

    /// Slots that are kept for something that was not the pool's, and is gone.
    pub(crate) fn vacant(&self) -> BTreeSet<SlotId> {
        let kept = self.absent_slots().filter(|slot| {
            matches!(slot.state, SlotState::Quarantined { .. }) && slot.plan.is_none()
        });
        kept.map(|slot| slot.id).collect()
    }

    fn absent_slots(&self) -> impl Iterator<Item = &Slot> {
        self.absent.iter().filter_map(|slot| self.records.slots.get(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::CommitId;
    use crate::cache::Attachment;
    use crate::id::{ClaimKey, Generation, LeaseId, LeaseName};
    use crate::isolator::{Base, Plan};
    use crate::state::{Lease, Linger, Owner, PathUse};
    use crate::time::{BootId, Moment};

    const SLOT: SlotId = SlotId(1);

    fn at(seconds: u64) -> Moment {
        let wall = jiff::Timestamp::UNIX_EPOCH;
        Moment { boot: BootId("one".into()), uptime: Duration::from_secs(seconds), wall }
    }

    fn base() -> Base {
        Base { commit: CommitId::new("0123abcd").expect("an id"), branch: None }
    }

    fn lease(generation: u64) -> Box<Lease> {
        Box::new(Lease {
            id: LeaseId::new(format!("01J{}", "A".repeat(23))).expect("an id"),
            generation: Generation(generation),
            name: LeaseName::new("a").expect("a name"),
            holder: String::new(),
            session: None,
            owner: Owner::Detached,
            base: base(),
            acquired: at(0),
            deadline: None,
            linger: Linger::both(Duration::ZERO),
            attachment: Attachment::default(),
            command_ended: None,
            kept_because: None,
        })
    }

    fn slot(used: u64, state: SlotState) -> PoolState {
        let plan = Some(Plan { slot: SLOT, lease: None, base: base() });
        let slot = Slot {
            id: SLOT,
            plan,
            last_used: at(used),
            warm: false,
            path_use: PathUse::Again,
            state,
        };
        PoolState { slots: [(SLOT, slot)].into(), ..PoolState::default() }
    }

    fn leased(generation: u64) -> PoolState {
        slot(generation, SlotState::Leased { lease: lease(generation) })
    }

    fn making(generation: u64) -> PoolState {
        let worker = ClaimKey::new("worker-1").expect("a key");
        let lease = Some(lease(generation));
        slot(generation, SlotState::Provisioning { lease, worker, reuse: false })
    }

    fn missing(before: &PoolState, found: &[Condition], after: &PoolState) -> bool {
        let found = found.iter().cloned();
        let found = found.map(|condition| Discovered { slot: SLOT, condition }).collect();
        let survey = Survey::new(before, found, after.clone());
        survey.missing().contains(&SLOT)
    }

    #[test]
    fn slot_is_missing_only_if_one_lease_held_it_all_along() {
        let none = PoolState::default();
        let free = |used| slot(used, SlotState::Free);
        for found in [&[][..], &[Condition::Missing]] {
            assert!(missing(&leased(1), found, &leased(1)));
            assert!(missing(&free(1), found, &free(1)));
            for before in [&none, &making(1), &making(2), &leased(1), &free(1)] {
                assert!(!missing(before, found, &leased(2)), "{before:?}");
            }
            for after in [&none, &making(1), &making(2), &free(1), &free(2)] {
                assert!(!missing(&leased(1), found, after), "{after:?}");
            }
            assert!(!missing(&free(1), found, &free(2)), "it was leased in between");
        }
        assert!(!missing(&leased(1), &[Condition::Sound], &leased(1)));
    }

    #[test]
    fn renewed_lease_is_the_same() {
        let mut renewed = leased(1);
        let SlotState::Leased { lease } = &mut renewed.slots.get_mut(&SLOT).expect("it").state
        else {
            panic!("it is leased")
        };
        lease.kept_because = Some("a reason".into());
        assert!(missing(&leased(1), &[], &renewed));
    }

    #[test]
    fn slot_is_unrecorded_only_if_it_had_no_record_before_and_after() {
        let none = PoolState::default();
        let found = || vec![Discovered { slot: SLOT, condition: Condition::Sound }];
        let is_unrecorded = |before: &PoolState, after: &PoolState| {
            Survey::new(before, found(), after.clone()).unrecorded().count() == 1
        };
        assert!(is_unrecorded(&none, &none));
        assert!(!is_unrecorded(&making(1), &none));
        assert!(!is_unrecorded(&none, &making(1)));
        assert!(!is_unrecorded(&leased(1), &leased(1)));
    }

    #[test]
    fn slot_is_vacant_only_if_the_same_record_kept_it_all_along() {
        let kept = |reason: &str| {
            let reason = reason.to_owned();
            let mut state = slot(1, SlotState::Quarantined { lease: None, end: None, reason });
            state.slots.get_mut(&SLOT).expect("it").plan = None;
            state
        };
        let is_vacant = |before: &PoolState, after: &PoolState| {
            Survey::new(before, Vec::new(), after.clone()).vacant().contains(&SLOT)
        };
        assert!(is_vacant(&kept("x"), &kept("x")));
        assert!(!is_vacant(&kept("x"), &leased(1)) && !is_vacant(&leased(1), &kept("x")));
        assert!(!is_vacant(&PoolState::default(), &kept("x")));
    }
}
