//! What a pool knows of itself: plain data, the same in every store.
//!
//! ```text
//!            ┌────────────────────────────────────────────────┐
//!            ▼                                                │ (kept warm)
//!  (new) ─► Free ─► Provisioning ─► Leased ─► Releasing ─► Lingering
//!   │        │            │                      │  │          │  │
//!   └────────┼────────────┘◄── hand-over ────────┼──┼──────────┘  │
//!            ▼                                   ▼  ▼             │
//!        Retiring ◄─────────── (surplus) ────────┘ Quarantined ◄──┘
//!            ▼                                         │ (cause gone)
//!         (gone) ◄─────────────────────────────────────┘
//! ```
//!
//! The transitions are methods of [`PoolState`], in `scheduler.rs` and `ttl.rs`: pure functions
//! that neither block nor do I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::Attachment;
use crate::event::Event;
use crate::id::{ClaimKey, Generation, LeaseId, LeaseName, SessionId, SlotId, Ticket};
use crate::isolator::{Base, BranchReport, Plan, Rescue};
use crate::liveness::ProcessIdentity;
use crate::time::{Deadline, Moment};

/// The whole of a pool's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolState {
    /// The largest generation that was ever given out.
    pub generation: Generation,
    /// The largest ticket that was ever given out.
    pub ticket: Ticket,
    /// The slots there are.
    pub slots: BTreeMap<SlotId, Slot>,
    /// Who waits, first come first.
    pub waiters: BTreeMap<Ticket, Waiter>,
    /// Sessions with at least one lease since they began.
    pub sessions: BTreeMap<SessionId, Session>,
    /// The leases that ended last, newest last, so that a second release of one is recognised.
    pub ended: VecDeque<EndedLease>,
    /// What happened in this transaction. A store appends it to its log and clears it.
    #[serde(skip)]
    pub outbox: Vec<Event>,
}

/// How many ended leases are remembered.
pub(crate) const REMEMBERED: usize = 200;

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its number.
    pub id: SlotId,
    /// What it was last made for; what its workspace is compared with. `None` before the first
    /// workspace stands.
    pub plan: Option<Plan>,
    /// When it was last leased or made.
    pub last_used: Moment,
    /// Made in advance by `warm`: kept until idle for too long, though no session lives.
    pub warm: bool,
    /// Which leases have had its path.
    #[serde(default)]
    pub path_use: PathUse,
    /// What it is doing.
    pub state: SlotState,
}

impl Slot {
    /// Whether both records tell of the same tenancy: no lease began or ended in between, and no worker took the slot
    /// on. A lease that was renewed is the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let tenancy = |slot: &Self| {
            let token = slot.state.lease().map(Lease::token);
            (slot.id, std::mem::discriminant(&slot.state), token, slot.state.worker().cloned())
        };
        tenancy(self) == tenancy(other)
            && self.plan == other.plan
            && self.last_used == other.last_used
    }
}

/// Which leases have had a slot's path. A removed slot's number is not given out again, so a path
/// that one lease has had stands for that lease for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathUse {
    /// No lease.
    Unused,
    /// This lease only, live or over.
    Once(LeaseId),
    /// Several, one after another; or it is not known.
    #[default]
    Again,
}

/// What a slot is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum SlotState {
    /// A clean workspace, to be had.
    Free,
    /// Being made ready, for a lease or (without one) to stand idle.
    Provisioning {
        /// For whom.
        lease: Option<Box<Lease>>,
        /// Who does it.
        worker: ClaimKey,
        /// Whether a workspace stands there already.
        reuse: bool,
    },
    /// Somebody's.
    Leased {
        /// Whose.
        lease: Box<Lease>,
    },
    /// The lease is over; its work is being saved.
    Releasing {
        /// The lease that is over.
        lease: Box<Lease>,
        /// How it ended.
        end: End,
        /// Who does it.
        worker: ClaimKey,
    },
    /// Saved, and kept as it is for inspection.
    Lingering {
        /// The lease that is over.
        lease: Box<Lease>,
        /// How it ended.
        end: End,
        /// When to stop keeping it.
        until: Deadline,
    },
    /// Kept as it is, because resetting it would lose something or pull the ground from under
    /// somebody. Looked at again at each reconciliation.
    Quarantined {
        /// The lease it was.
        lease: Option<Box<Lease>>,
        /// How that ended.
        end: Option<End>,
        /// Why it is kept.
        reason: String,
    },
    /// On its way out.
    Retiring {
        /// Who does it.
        worker: ClaimKey,
    },
}

impl SlotState {
    /// The state's name on the command line.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Provisioning { .. } => "provisioning",
            Self::Leased { .. } => "leased",
            Self::Releasing { .. } => "releasing",
            Self::Lingering { .. } => "lingering",
            Self::Quarantined { .. } => "quarantined",
            Self::Retiring { .. } => "retiring",
        }
    }

    /// The lease that the slot belongs or belonged to.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Provisioning { lease, .. } | Self::Quarantined { lease, .. } => lease.as_deref(),
            Self::Leased { lease }
            | Self::Releasing { lease, .. }
            | Self::Lingering { lease, .. } => Some(lease),
            Self::Free | Self::Retiring { .. } => None,
        }
    }

    /// The lease that has begun in it and is not over.
    pub(crate) fn begun(&self) -> Option<&Lease> {
        match self {
            Self::Leased { lease } => Some(lease),
            _ => None,
        }
    }

    /// Who is at work on it.
    pub fn worker(&self) -> Option<&ClaimKey> {
        match self {
            Self::Provisioning { worker, .. }
            | Self::Releasing { worker, .. }
            | Self::Retiring { worker } => Some(worker),
            _ => None,
        }
    }

    /// Whether `worker` saves, cleans or removes what is in it.
    pub(crate) fn is_cleaned_by(&self, worker: &ClaimKey) -> bool {
        matches!(self, Self::Releasing { .. } | Self::Retiring { .. })
            && self.worker() == Some(worker)
    }

    /// Whether it counts against the cap: it is neither to be had nor about to be.
    pub fn occupies(&self) -> bool {
        matches!(
            self,
            Self::Provisioning { .. }
                | Self::Leased { .. }
                | Self::Releasing { .. }
                | Self::Quarantined { .. }
        )
    }
}

/// A lease, live or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its fencing number.
    pub generation: Generation,
    /// Its name.
    pub name: LeaseName,
    /// Who holds it, in the holder's own words.
    pub holder: String,
    /// The session it belongs to.
    pub session: Option<SessionId>,
    /// Whose life it shares.
    pub owner: Owner,
    /// What it started from.
    pub base: Base,
    /// When it was granted.
    pub acquired: Moment,
    /// When its TTL is over; `None`: it lives as long as its owner.
    pub deadline: Option<Deadline>,
    /// How long it is kept for inspection afterwards.
    pub linger: Linger,
    /// What its cache gave it.
    pub attachment: Attachment,
    /// How the command it was taken for ended; survivors may still hold it.
    pub command_ended: Option<CommandEnd>,
    /// Why it is still there though it is over.
    pub kept_because: Option<String>,
}

impl Lease {
    /// What renews and releases it.
    pub fn token(&self) -> Token {
        Token { lease: self.id.clone(), generation: self.generation }
    }
}

/// The command that a lease was taken for is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandEnd {
    /// How it went.
    pub outcome: Outcome,
    /// Until when those who stand elsewhere may hold the lease still.
    pub grace: Deadline,
}

/// Proves that its bearer holds a lease. A stale one is always refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Which lease.
    pub lease: LeaseId,
    /// Its fencing number.
    pub generation: Generation,
}

/// Whose life a lease shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The holder keeps the lease's [claim](LeaseId::claim).
    Holder,
    /// That process.
    Process(ProcessIdentity),
    /// Nobody's: the TTL decides.
    Detached,
}

/// How long a slot is kept for inspection after its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linger {
    /// After success.
    pub success: Duration,
    /// After failure, or when the holder died.
    pub failure: Duration,
}

impl Linger {
    /// The same after both.
    pub fn both(span: Duration) -> Self {
        Self { success: span, failure: span }
    }

    /// What applies to that outcome.
    pub fn after(&self, outcome: Outcome) -> Duration {
        match outcome {
            Outcome::Success => self.success,
            Outcome::Failure => self.failure,
        }
    }
}

/// How the work in a lease went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Well.
    #[default]
    Success,
    /// Not well, or its holder died.
    Failure,
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How the work went.
    pub outcome: Outcome,
    /// Why it ended.
    pub reason: EndReason,
    /// How long it is to linger, as decided at the end.
    pub linger: Duration,
    /// The worker that ended it; `None` if it is not known.
    #[serde(default)]
    pub by: Option<ClaimKey>,
    /// What was saved from it.
    pub rescue: Option<Rescue>,
    /// What became of its branch.
    pub branch: Option<BranchReport>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Its holder gave it back.
    Released,
    /// Its TTL was over, and it was quiet.
    Expired,
    /// Its holder died.
    HolderGone,
    /// Its session ended.
    SessionEnded,
    /// Its workspace was deleted by somebody else.
    WorkspaceGone,
    /// It was never handed out: making the workspace failed or was cancelled.
    Abandoned,
    /// It was never handed out: whoever made the workspace died, nobody knows how far it got.
    Interrupted,
}

/// Somebody in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiter {
    /// What will be granted. The generation is set when it is.
    pub lease: Lease,
    /// The TTL that begins with the grant.
    pub ttl: Option<Duration>,
    /// Who waits. A waiter whose claim is gone does not hold up the queue.
    pub worker: ClaimKey,
    /// Since when.
    pub since: Moment,
    /// Until when; `None`: for ever.
    pub until: Option<Deadline>,
}

/// A session: a host's run, to which leases belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The process whose end is the session's end.
    pub process: Option<ProcessIdentity>,
    /// When a lease of it was last taken or ended.
    pub last_used: Moment,
    /// It is over: its leases end as soon as they may, and its slots are not kept.
    pub over: bool,
}

/// What is remembered of a lease that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndedLease {
    /// The lease.
    pub token: Token,
    /// Its name.
    pub name: LeaseName,
    /// Which slot it was in.
    pub slot: SlotId,
    /// How it ended.
    pub end: End,
    /// When.
    pub at: Moment,
    /// What became of the slot.
    pub disposition: Disposition,
}

/// What became of a slot after its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposition {
    /// Ready for the next lease.
    Recycled,
    /// Gone.
    Removed,
    /// Kept for inspection.
    Lingering,
    /// Kept, because something would be lost.
    Quarantined,
}
