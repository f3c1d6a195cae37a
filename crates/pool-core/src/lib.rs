#![doc = include_str!("../README.md")]

mod blocking;
mod cache;
mod error;
mod event;
mod failpoint;
#[cfg(unix)]
#[doc(hidden)]
pub mod handles;
mod id;
mod isolator;
mod liveness;
mod plain;
mod pool;
mod quiet;
mod retry;
mod scheduler;
mod settings;
mod sources;
mod state;
mod store;
mod survey;
mod task;
mod time;
mod ttl;

pub use blocking::BlockingPool;
pub use cache::{Attachment, CacheFinding, CacheSite, CacheStrategy, Prepared};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventKind};
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub use failpoint::fail;
pub use id::{
    ClaimKey, CommitId, Generation, LeaseId, LeaseName, RescueId, SessionId, SlotId, Ticket,
};
pub use isolator::{
    Base, Branch, BranchCommits, BranchReport, BranchWish, Condition, Discovered, Inspection,
    Isolator, Losses, Plan, Preserved, Rescue, RescueArchive, RescuedPath, Wish,
};
pub use liveness::{
    Claim, ClaimGuard, FileLiveness, Liveness, LocalLiveness, Occupant, ProcessIdentity, Vital,
};
pub use plain::{has_name, open_plain};
pub use pool::{
    Builder, Finish, LeaseAt, LeaseGuard, Lookup, LostRescue, Pool, PruneOptions, PruneReport,
    Release, ReleaseReport, Request, Reservation, WarmReport,
};
pub use scheduler::{Afterlife, Turn};
pub use settings::Settings;
pub use sources::{ContentId, Sources};
pub use state::{
    CommandEnd, Disposition, End, EndReason, EndedLease, Lease, Linger, Outcome, Owner, PathUse,
    PoolState, Session, Slot, SlotState, Token, Waiter,
};
pub use store::{Change, LeaseStore, Logged, MemoryStore};
#[cfg(feature = "sqlite")]
pub use store::{ReadOnlyStore, SqliteStore};
pub use survey::Survey;
pub use time::{BootId, Clock, Deadline, Moment, SystemClock};
pub use ttl::{Due, Facts};
