//! What live tasks and guards of this process own in the records.
//!
//! The records name a pool instance as the worker of each request that it has queued and of each
//! slot that it prepares or cleans up. This registry holds the part of that which still has a task
//! or guard. What the records have beyond it belongs to dropped futures;
//! [`Inner::end_unowned`](super::Inner::end_unowned) undoes or finishes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::{LeaseId, SlotId};

/// The registry. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    requests: HashSet<LeaseId>,
    idle: HashSet<SlotId>,
    cleaning: HashMap<SlotId, Arc<tokio::sync::Mutex<()>>>,
}

impl Owned {
    /// Registers a request until the returned guard is dropped.
    pub(super) fn request(&self, lease: LeaseId) -> OwnedRequest {
        self.entries().requests.insert(lease.clone());
        OwnedRequest { owned: self.clone(), lease }
    }

    /// Returns whether a request with that lease id is registered.
    pub(super) fn has_request(&self, lease: &LeaseId) -> bool {
        self.entries().requests.contains(lease)
    }

    /// Returns the registration of an idle slot that a change is about to reserve. The change itself
    /// calls [`OwnedIdle::set`], so that no one sees the record without the registration.
    pub(super) fn idle(&self) -> OwnedIdle {
        OwnedIdle(Arc::new(Idle { owned: self.clone(), slot: Mutex::default() }))
    }

    /// Returns whether a task makes an idle workspace in that slot.
    pub(super) fn has_idle(&self, slot: SlotId) -> bool {
        self.entries().idle.contains(&slot)
    }

    /// Returns the lock of the task that cleans up a slot. At most one task of this process cleans
    /// up a slot at a time.
    pub(super) fn cleaning(&self, slot: SlotId) -> Arc<tokio::sync::Mutex<()>> {
        self.entries().cleaning.entry(slot).or_default().clone()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered request.
#[derive(Debug)]
pub(super) struct OwnedRequest {
    owned: Owned,
    lease: LeaseId,
}

impl Drop for OwnedRequest {
    fn drop(&mut self) {
        self.owned.entries().requests.remove(&self.lease);
    }
}

/// The registration of an idle slot. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct OwnedIdle(Arc<Idle>);

#[derive(Debug)]
struct Idle {
    owned: Owned,
    slot: Mutex<Option<SlotId>>,
}

impl OwnedIdle {
    /// Registers `slot`.
    pub(super) fn set(&self, slot: SlotId) {
        self.0.owned.entries().idle.insert(slot);
        *self.0.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(slot) = slot {
            self.owned.entries().idle.remove(&slot);
        }
    }
}
