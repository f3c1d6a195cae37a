//! Looks at the world: what stands where slots live, which processes live, who stands where, and what was written.
//!
//! Each look is of records that other processes change meanwhile. A fact is only used for the record that it was made
//! of: [`Survey`] sees to that for looks at the disk, and what acts on a fact compares the record in the same change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use super::{Inner, Pool};
use crate::error::Result;
use crate::id::{ClaimKey, LeaseId, SlotId};
use crate::quiet::Looks;
use crate::retry::Attempt;
use crate::state::{Owner, PoolState, Slot, SlotState};
use crate::survey::Survey;
use crate::ttl::{Due, Facts};

impl Pool {
    /// Looks at what stands where slots live. Says nothing of slots that a process works on meanwhile. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the records or the place of the slots can't be read.
    pub async fn survey(&self) -> Result<Survey> {
        self.inner.survey().await
    }
}

impl Inner {
    pub(super) async fn survey(&self) -> Result<Survey> {
        let before = self.store.load().await?;
        crate::pause_point!("pool-core::observe::recorded");
        let found = self.isolator.discover().await?;
        crate::pause_point!("pool-core::observe::discovered");
        let after = self.store.load().await?;
        Ok(Survey::new(&before, found, after))
    }

    /// Finds out what there is to know for one look at what is due.
    pub(super) async fn facts(&self, survey: &Survey) -> Facts {
        let state = &survey.records;
        let mut facts = self.observe(state, survey.missing()).await;
        self.looks().retain(|id, _| {
            state.slots.values().filter_map(|slot| slot.state.lease()).any(|lease| lease.id == *id)
        });
        let vacant = survey.vacant();
        let mut attempts = HashMap::new();
        for slot in state.slots.values() {
            let quarantined = matches!(slot.state, SlotState::Quarantined { .. });
            if !quarantined || facts.occupied.contains_key(&slot.id) {
                continue;
            }
            let (begun, lease) = (self.clock.now(), slot.state.lease().map(|lease| &lease.id));
            let earlier = self.attempts().get(&slot.id).cloned();
            if let Some(earlier) = earlier.filter(|earlier| !earlier.is_over(lease, &begun)) {
                attempts.insert(slot.id, earlier);
                continue;
            }
            let savable = match &slot.plan {
                Some(plan) => {
                    self.isolator.inspect(plan).await.is_ok_and(|i| i.losses.unsavable.is_empty())
                }
                // It was never known to be a workspace: there is nothing to save once it has gone.
                None => vacant.contains(&slot.id),
            };
            if savable {
                facts.savable.insert(slot.id);
            }
            let attempt = Attempt::new(lease.cloned(), &begun, &self.clock.now());
            attempts.insert(slot.id, attempt);
        }
        *self.attempts() = attempts;
        facts
    }

    /// Looks once more at the slot of a lease that is due to end, and says whether it still is. The first look may have
    /// been minutes ago, if work had to be saved in other slots first.
    pub(super) async fn is_still_due(&self, state: &PoolState, seen: &Slot, due: &Due) -> bool {
        let mut missing = BTreeSet::new();
        // Where the first look missed no workspace, none is looked for.
        if due.is_of_missing_workspace()
            && let Some(plan) = &seen.plan
            && self.isolator.inspect(plan).await.is_ok_and(|found| !found.present)
        {
            missing.insert(seen.id);
        }
        let alone = PoolState {
            slots: BTreeMap::from([(seen.id, seen.clone())]),
            sessions: state.sessions.clone(),
            ..PoolState::default()
        };
        let facts = self.observe(&alone, missing).await;
        alone.due(&self.settings, &facts, &self.clock.now()).contains(due)
    }

    /// Asks which claims are held, which processes run, who stands where, and which leases past their TTL are quiet.
    async fn observe(&self, state: &PoolState, missing: BTreeSet<SlotId>) -> Facts {
        let mut facts = Facts { missing, ..Facts::default() };
        let mut ask = |key: &ClaimKey| {
            facts.claims.insert(key.clone(), self.liveness.holds(key));
        };
        state.waiters.values().for_each(|w| ask(&w.worker));
        state.slots.values().filter_map(|s| s.state.worker()).for_each(&mut ask);
        // Only of leases that have begun: before that, nobody holds the claim yet.
        let leases = || state.slots.values().filter_map(|slot| slot.state.begun());
        leases().filter(|l| l.owner == Owner::Holder).for_each(|l| ask(&l.id.claim()));
        let owners = leases().filter_map(|l| match &l.owner {
            Owner::Process(process) => Some(process),
            _ => None,
        });
        for process in owners.chain(state.sessions.values().filter_map(|s| s.process.as_ref())) {
            facts.processes.insert(process.clone(), self.liveness.runs(process));
        }
        self.look_for_occupants(state, &mut facts);
        for slot in state.slots.values() {
            let Some(lease) = slot.state.begun() else { continue };
            if lease.owner == Owner::Holder
                && lease.command_ended.is_some()
                && let Some(survivor) = self.liveness.holders(&lease.id.claim()).first()
            {
                facts.survivors.insert(slot.id, survivor.to_string());
            }
        }
        facts.quiet = self.look_for_quiet(state, &facts).await;
        facts
    }

    fn look_for_occupants(&self, state: &PoolState, facts: &mut Facts) {
        let ids: Vec<SlotId> = state.slots.keys().copied().collect();
        let places: Vec<PathBuf> = ids.iter().map(|id| self.isolator.place(*id)).collect();
        let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        match self.liveness.occupants(&places) {
            Ok(found) => {
                facts.occupancy_known = true;
                for (id, found) in ids.into_iter().zip(found) {
                    if let Some(occupant) = found.first() {
                        facts.occupied.insert(id, occupant.to_string());
                    }
                }
            }
            Err(error) => {
                tracing::warn!(target: "wtpool", %error, "cannot see who stands where");
            }
        }
    }

    /// Looks at the slots of leases past their TTL, and remembers what was found for the next time.
    async fn look_for_quiet(&self, state: &PoolState, facts: &Facts) -> BTreeMap<SlotId, bool> {
        let mut quiet = BTreeMap::new();
        for (slot, lease) in state.past_ttl(&self.settings, facts, &self.clock.now()) {
            let Some(plan) = state.slots.get(&slot).and_then(|s| s.plan.as_ref()) else { continue };
            let begun = self.clock.now();
            let Ok(found) = self.isolator.inspect(plan).await else { continue };
            let mut all = self.looks();
            // Read and written at once: another reconciliation of this process may look at the same slot.
            let looks =
                Looks::add(all.get(&lease.id).cloned(), found.fingerprint, &self.clock.now());
            let span = self.settings.quiet;
            let is = looks.is_quiet(found.last_write, &lease.acquired, &begun, span);
            quiet.insert(slot, is);
            all.insert(lease.id.clone(), looks);
        }
        quiet
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, HashMap<SlotId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<LeaseId, Looks>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
