//! What happens in a pool, for a host's own display and for the log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{Generation, LeaseId, LeaseName, SlotId};

/// One event. Stores keep them in the order in which they happened, over all processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the wall clock of the process that did it.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// In which slot.
    pub slot: Option<SlotId>,
    /// To which lease.
    pub lease: Option<LeaseId>,
    /// Its name.
    pub name: Option<LeaseName>,
    /// Its generation.
    pub generation: Option<Generation>,
    /// More, for a person.
    pub note: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// A request entered the queue.
    Queued,
    /// A waiter gave up, or its process ended.
    LeftQueue,
    /// The first in the queue got a slot, which is now made ready.
    Granted,
    /// The workspace stands; the lease begins.
    Leased,
    /// A deadline was moved.
    Renewed,
    /// A lease is over; its work is being saved.
    Releasing,
    /// Its work is saved; the slot is kept for inspection.
    Lingering,
    /// The slot is clean and idle.
    Freed,
    /// The slot is being removed.
    Retiring,
    /// The slot is gone.
    Removed,
    /// The slot is kept, and why.
    Quarantined,
    /// Something was saved.
    Rescued,
    /// A user dropped a rescue.
    RescueDropped,
    /// A session ended.
    SessionEnded,
}

impl EventKind {
    /// The kind's name in logs. Stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::LeftQueue => "left-queue",
            Self::Granted => "granted",
            Self::Leased => "leased",
            Self::Renewed => "renewed",
            Self::Releasing => "releasing",
            Self::Lingering => "lingering",
            Self::Freed => "freed",
            Self::Retiring => "retiring",
            Self::Removed => "removed",
            Self::Quarantined => "quarantined",
            Self::Rescued => "rescued",
            Self::RescueDropped => "rescue-dropped",
            Self::SessionEnded => "session-ended",
        }
    }
}
