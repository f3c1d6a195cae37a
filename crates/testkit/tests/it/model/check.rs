//! What must hold after each step: the invariants of ARCHITECTURE.md by their numbers, and that it
//! is as the model says.

use std::collections::BTreeSet;

use pool_core::{Isolator as _, Liveness as _, PoolState, SlotId, SlotState, Vital};
use testkit::model::{Kind, Model, Standing};

use super::system::{System, name_of};

impl System {
    /// What must hold at any time, also while something is wrong or half-way.
    pub(super) fn check_safety(&self, model: &Model) -> PoolState {
        let state = self.list();
        let occupying: Vec<_> = state.slots.values().filter(|s| s.state.occupies()).collect();
        let leases: Vec<_> =
            occupying.iter().filter_map(|s| Some((s.id, s.state.lease()?))).collect();
        let all = leases.len();
        let names: BTreeSet<_> = leases.iter().map(|(_, lease)| &lease.name).collect();
        let paths: BTreeSet<_> =
            leases.iter().map(|(slot, _)| self.isolator.place(*slot)).collect();
        let branches: BTreeSet<_> = leases
            .iter()
            .filter_map(|(_, lease)| Some(&lease.base.branch.as_ref()?.name))
            .collect();
        assert_eq!(
            (names.len(), paths.len(), branches.len()),
            (all, all, all),
            "1: one lease each"
        );

        assert!(occupying.len() <= model.cap && state.slots.len() <= model.cap, "2: the cap");

        self.isolator.audit().expect("3: nothing is lost");

        for (slot, what) in &self.foreign {
            let there = self.isolator.foreign(*slot);
            assert_eq!(there.as_ref(), Some(what), "4: what is not the pool's was touched");
        }
        for (branch, commit) in &self.others {
            let there = self.isolator.branch(branch);
            assert_eq!(there.as_ref(), Some(commit), "4: {branch} is not the pool's to move");
        }

        // 5 and 12: all that a holder has seen is as it was left, what a cache put there included.
        for (number, _) in model.with(Standing::Leased) {
            if let Some((_, slot)) = self.leases.get(&number) {
                assert_eq!(self.files(*slot), self.seen[&number], "5, 12: request {number}");
            }
        }
        self.cache.audit().expect("12: a cache is called for a slot at rest, one call at a time");

        assert!(state.generation.0 >= self.generation, "6: generations only grow");
        let mut generations = BTreeSet::new();
        let mut fresh = self.leases.values().map(|(token, _)| token.generation);
        assert!(fresh.all(|generation| generations.insert(generation)), "6: no generation twice");

        for slot in self.isolator.occupied() {
            assert!(state.slots.contains_key(&slot), "9: slot {slot} has no record");
        }
        state
    }

    /// What must hold after each step, once all have done what they could.
    pub(super) fn check(&mut self, model: &Model) {
        let state = self.check_safety(model);
        self.generation = state.generation.0;

        // 5 and 7: who must have a lease has that very one, with the workspace that was made for it.
        for (number, entry) in model.with(Standing::Leased) {
            let (token, slot) = self
                .leases
                .get(&number)
                .unwrap_or_else(|| panic!("7: request {number} should be a lease: {state:#?}"));
            let here =
                &state.slots.get(slot).unwrap_or_else(|| panic!("5: slot {slot} is gone")).state;
            let SlotState::Leased { lease } = here else {
                panic!("5, 7: request {number} has {here:?}")
            };
            assert_eq!(lease.token(), *token, "5: request {number}");
            let made_for = self.isolator.plan(*slot).expect("a workspace").lease;
            assert_eq!(made_for, Some((token.lease.clone(), name_of(number))), "5: {number}");
            assert!(!entry.present || self.isolator.read(*slot, "src/lib.rs").is_some());
        }
        for (number, _) in model.with(Standing::Reserved) {
            let granted = |s: &SlotState| matches!(s, SlotState::Provisioning { lease: Some(l), .. } if l.name == name_of(number));
            assert!(
                state.slots.values().any(|s| granted(&s.state)),
                "request {number} is not reserved"
            );
        }
        self.check_kept(model, &state);
        let occupied = state.slots.values().filter(|s| s.state.occupies()).count();
        assert_eq!(occupied, model.occupied(), "2: who else has a slot? {state:#?}");

        let held =
            model.with(Standing::Leased).filter(|(_, e)| e.alive && e.ask.kind == Kind::Held);
        assert_eq!(
            self.machine.claimed().len(),
            self.processes.len() + 1 + held.count(),
            "10: who else claims something? {:?}",
            self.machine.claimed()
        );

        let queue: Vec<_> = state.waiters.values().map(|w| w.lease.name.clone()).collect();
        let expected: Vec<_> = model.queue.iter().map(|number| name_of(*number)).collect();
        assert_eq!(queue, expected, "11: the queue");
        assert!(queue.is_empty() || occupied == model.cap, "11: somebody waits for what is free");

        let there: BTreeSet<SlotId> = self.isolator.occupied().into_iter().collect();
        for slot in state.slots.values() {
            let settled = !matches!(slot.state, SlotState::Provisioning { .. });
            let stands = there.contains(&slot.id) || self.foreign.contains_key(&slot.id);
            assert!(!settled || stands, "9: slot {} is not there", slot.id);
        }
    }

    /// What is quarantined is just what the model says, as it was left, and with a reason.
    fn check_kept(&self, model: &Model, state: &PoolState) {
        let mut kept: BTreeSet<SlotId> = self.foreign.keys().copied().collect();
        for (number, _) in model.with(Standing::Kept) {
            let (token, slot) = &self.leases[&number];
            kept.insert(*slot);
            let here = &state.slots[slot].state;
            let lease = here.lease().expect("3: it is still the lease's");
            assert_eq!(lease.token(), *token, "3: slot {slot} was given away");
            assert_eq!(
                self.work(*slot),
                without_stamps(&self.seen[&number]),
                "3: request {number}"
            );
            match here {
                SlotState::Quarantined { reason, .. } => assert!(!reason.is_empty()),
                // Its holder was killed before it could begin to release.
                SlotState::Leased { lease } => {
                    assert_eq!(self.machine.holds(&lease.id.claim()), Vital::Gone);
                    assert!(lease.kept_because.is_some(), "{lease:#?}");
                }
                other => panic!("8: request {number} is kept, but {other:?}"),
            }
        }
        for slot in state.slots.values() {
            let quarantined = matches!(slot.state, SlotState::Quarantined { .. });
            assert!(!quarantined || kept.contains(&slot.id), "8: kept for nothing: {slot:#?}");
        }
    }
}

/// What remains of a workspace's files when its lease is over.
fn without_stamps(files: &super::system::Files) -> super::system::Files {
    let work = |(path, _): &(&String, &Vec<u8>)| !path.starts_with("target/");
    files.iter().filter(work).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
}
