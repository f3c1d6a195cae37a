//! What may happen to a pool.

use crate::chaos::{Answer, Method};

/// One unit of the model's time, in seconds. Times to live and waits end in the middle of a unit,
/// so that nothing depends on what happens within one.
pub const UNIT: u64 = 10;

/// Whose life a lease shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of the process which asked for it.
    Held,
    /// Nobody's: it lasts so many [units](UNIT).
    Detached(u64),
}

/// What happens to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new process asks for a lease.
    Acquire(Ask),
    /// A new process asks for a lease that it is to hold, and is killed after so many of its own
    /// steps; then a reconciliation.
    CrashAcquiring(Ask, u32),
    /// A new process asks for a lease that it is to hold, and drops the request after so many of its
    /// own steps. It lives on until nothing of the request is left; then it ends.
    DropAcquiring(Ask, u32),
    /// What was reserved becomes a lease.
    Materialise(usize),
    /// A request is dropped, in the queue or reserved.
    Cancel(usize),
    /// A lease is renewed, for its whole time to live.
    Renew(usize),
    /// A lease is given back.
    Release(usize),
    /// A lease is being given back, and the process is killed after so many of its own steps; then a
    /// reconciliation.
    CrashReleasing(usize, u32),
    /// A lease that is over is given back again.
    ReleaseAgain(usize),
    /// A lease that is over is renewed.
    RenewStale(usize),
    /// The process that waits for, has reserved, or holds something is killed.
    Kill(usize),
    /// An agent writes into its workspace.
    Write(usize, u8),
    /// An agent commits what is in its workspace.
    Commit(usize),
    /// A user deletes the files of a lease's workspace.
    DeleteByHand(usize),
    /// So many units pass.
    Pass(u64),
    /// The wall clock is set by so many hours.
    SetWall(i8),
    /// The machine starts anew.
    Reboot,
    /// A reconciliation, and a second one, which must find nothing to do.
    Reconcile,
    /// Everything idle is removed too.
    PruneAll,
    /// A session ends.
    EndSession(u8),
    /// Somebody who is no holder goes and stands in the workspace of a lease.
    Enter(usize),
    /// They leave.
    Leave(usize),
    /// There comes to be something in a lease's workspace that can't be saved.
    Spoil(usize),
    /// It can be saved after all.
    Mend(usize),
    /// Idle slots are removed, and something that is not the pool's is put where its next slot would
    /// be. A request comes upon it, if there is one, and a reconciliation does.
    PutForeign(Option<Ask>),
    /// It is taken away again; then a reconciliation.
    TakeForeign,
    /// Something is done while something is wrong. Then all is well again, whoever hangs is killed,
    /// and a reconciliation follows.
    Amid(Trouble, Deed),
}

/// What is wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Somebody stands in one of the slots that nobody holds, if there are any.
    Stranger(u8),
    /// No request can be resolved.
    Resolving(Answer),
    /// No workspace can be made, be it new or out of another.
    Making(Answer),
    /// Something else that the backend does goes wrong.
    Backend(Method, Answer),
    /// All that the cache does goes wrong.
    Cache(Answer),
}

/// What is done meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// As [`Step::Acquire`].
    Acquire(Ask),
    /// As [`Step::Release`].
    Release(usize),
    /// As [`Step::Reconcile`].
    Reconcile,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose life the lease shares.
    pub kind: Kind,
    /// The session it belongs to.
    pub session: Option<u8>,
    /// For how many units to wait; `None`: for ever.
    pub wait: Option<u64>,
    /// Only reserve a slot.
    pub reserve: bool,
    /// Keep the workspace for so many units afterwards.
    pub linger: u64,
}

impl Trouble {
    /// Whether whatever meets it hangs.
    pub fn hangs(self) -> bool {
        self.answer().is_some_and(|answer| matches!(answer, Answer::Never | Answer::NeverAfter))
    }

    fn fails(self) -> bool {
        self.answer().is_some_and(|answer| matches!(answer, Answer::Err(_) | Answer::ErrAfter(_)))
    }

    fn answer(self) -> Option<Answer> {
        match self {
            Self::Stranger(_) => None,
            Self::Resolving(answer)
            | Self::Making(answer)
            | Self::Backend(_, answer)
            | Self::Cache(answer) => Some(answer),
        }
    }

    /// Whether a request does not even come into the queue.
    pub(super) fn spoils_a_request(self) -> bool {
        matches!(self, Self::Resolving(_)) && (self.fails() || self.hangs())
    }

    /// Whether a request that is granted a slot comes to nothing.
    pub(super) fn spoils_a_grant(self) -> bool {
        match self {
            Self::Making(_) => self.fails() || self.hangs(),
            // A cache that fails fails no lease.
            Self::Cache(_) => self.hangs(),
            Self::Stranger(_) | Self::Resolving(_) | Self::Backend(..) => false,
        }
    }
}

impl Kind {
    pub(super) fn units(self) -> Option<u64> {
        match self {
            Self::Held => None,
            Self::Detached(units) => Some(units),
        }
    }
}
