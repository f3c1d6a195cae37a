//! From what a person or program has of a lease to the lease.

use std::path::Path;

use super::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{LeaseId, SlotId};
use crate::state::{EndedLease, PathUse, PoolState, Slot};

/// What a name, an id or a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A slot, with the lease in it if there is one.
    Slot(Box<Slot>),
    /// A lease that is over.
    Ended(Box<EndedLease>),
}

/// Which lease a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAt {
    /// This one, live or over.
    Only(Lookup),
    /// Several leases have had the path, one after another; the slot has the present one.
    Several(Box<Slot>),
}

impl Pool {
    /// Finds a lease or slot by lease id, unambiguous prefix of one (4 characters or more), lease
    /// name, or an absolute path in its workspace. Of several leases that had the name, it is the live
    /// one, or else the last; likewise for a path, which several leases can have had. To end or renew
    /// the lease that a path stands for, use [`lease_at`](Self::lease_at).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or [`ErrorKind::InvalidInput`] for an ambiguous prefix.
    pub async fn find(&self, text: &str) -> Result<Lookup> {
        let state = self.list().await?;
        let lease_of = |slot: &Slot| slot.state.lease().cloned();
        for slot in state.slots.values() {
            if lease_of(slot).is_some_and(|l| l.id.as_str() == text) {
                return Ok(Lookup::Slot(Box::new(slot.clone())));
            }
        }
        if Path::new(text).is_absolute() {
            return self.at(&state, Path::new(text));
        }
        let over = || state.ended.iter().rev();
        if let Some(ended) = over().find(|e| e.token.lease.as_str() == text) {
            return Ok(Lookup::Ended(Box::new(ended.clone())));
        }
        // Names are used again, also while an earlier lease of that name lingers: the live one counts, or
        // else the last.
        let rank = |slot: &&Slot| (slot.state.occupies(), lease_of(slot).map(|l| l.generation));
        let named = |slot: &&Slot| lease_of(slot).is_some_and(|l| l.name.as_str() == text);
        let here = state.slots.values().filter(named).max_by_key(rank);
        let ended = over().filter(|e| e.name.as_str() == text).max_by_key(|e| e.token.generation);
        match (here, ended) {
            (Some(slot), Some(ended)) if rank(&slot) < (false, Some(ended.token.generation)) => {
                return Ok(Lookup::Ended(Box::new(ended.clone())));
            }
            (Some(slot), _) => return Ok(Lookup::Slot(Box::new(slot.clone()))),
            (None, Some(ended)) => return Ok(Lookup::Ended(Box::new(ended.clone()))),
            (None, None) => {}
        }
        let prefix = text.to_ascii_uppercase();
        let starts = |id: &LeaseId| prefix.len() >= 4 && id.as_str().starts_with(&prefix);
        let live = state.slots.values().filter(|s| lease_of(s).is_some_and(|l| starts(&l.id)));
        let live = live.map(|s| Lookup::Slot(Box::new(s.clone())));
        let over = state.ended.iter().filter(|e| starts(&e.token.lease));
        // A lease whose slot is still there (lingering) is remembered as well: one find, not two.
        let over = over.filter(|e| {
            !state.slots.values().any(|s| lease_of(s).is_some_and(|l| l.id == e.token.lease))
        });
        let mut found = live.chain(over.map(|e| Lookup::Ended(Box::new(e.clone()))));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => {
                let message = format!("{text} is the beginning of several lease ids");
                Err(Error::new(ErrorKind::InvalidInput, message).with_hint("give more of it"))
            }
            (None, _) => Err(Error::new(
                ErrorKind::NotFound,
                format!("no lease or slot answers to {text:?}"),
            )
            .with_hint("`wtpool list` shows what there is")),
        }
    }

    /// Finds the lease that an absolute path in a workspace stands for, so that it can be ended or
    /// renewed. A workspace is used again, and its path may come from a holder of before: so the
    /// path stands for a lease only if no other lease has had it, or if `known` says which of them
    /// the caller means (the lease that the caller runs in, for example).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if no lease that the pool remembers has had the path.
    pub async fn lease_at(&self, path: &Path, known: Option<&LeaseId>) -> Result<LeaseAt> {
        let state = self.list().await?;
        let slot = match self.at(&state, path)? {
            Lookup::Slot(slot) => slot,
            ended => return Ok(LeaseAt::Only(ended)),
        };
        let of = |id: &LeaseId| {
            if slot.state.lease().is_some_and(|lease| lease.id == *id) {
                return Some(Lookup::Slot(slot.clone()));
            }
            let ended = state.ended.iter().find(|e| e.slot == slot.id && e.token.lease == *id);
            ended.map(|ended| Lookup::Ended(Box::new(ended.clone())))
        };
        if let Some(found) = known.and_then(of) {
            return Ok(LeaseAt::Only(found));
        }
        let found = match &slot.path_use {
            PathUse::Unused => None,
            PathUse::Once(id) => of(id),
            PathUse::Again if slot.state.lease().is_some() => return Ok(LeaseAt::Several(slot)),
            // No lease is there to be ended: the last one was.
            PathUse::Again => last_in(&state, slot.id),
        };
        found.map(LeaseAt::Only).ok_or_else(|| no_lease(path))
    }

    /// The slot at a path, or the last lease of one that is gone.
    fn at(&self, state: &PoolState, path: &Path) -> Result<Lookup> {
        let is_in = |slot: SlotId| path.starts_with(self.place(slot));
        if let Some(slot) = state.slots.values().find(|slot| is_in(slot.id)) {
            return Ok(Lookup::Slot(Box::new(slot.clone())));
        }
        let gone = state.ended.iter().rev().find(|ended| is_in(ended.slot));
        gone.and_then(|ended| last_in(state, ended.slot)).ok_or_else(|| no_lease(path))
    }
}

/// The lease that ended last in a slot.
fn last_in(state: &PoolState, slot: SlotId) -> Option<Lookup> {
    let all = state.ended.iter().filter(|ended| ended.slot == slot);
    let last = all.max_by_key(|ended| ended.token.generation)?;
    Some(Lookup::Ended(Box::new(last.clone())))
}

fn no_lease(path: &Path) -> Error {
    let message = format!("no lease that the pool remembers has had {}", path.display());
    Error::new(ErrorKind::NotFound, message).with_hint("`wtpool list` shows what there is")
}
