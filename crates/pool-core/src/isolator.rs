//! The seam towards whatever makes workspaces: git worktrees, or anything else that can be
//! provisioned, inspected and taken away.
//!
//! The order of calls for one slot is always
//!
//! ```text
//! provision ─► (the lease) ─► inspect ─► preserve ─► recycle ─► (the next lease) ─► …
//!                                            └─────► dispose
//! ```
//!
//! [`recycle`](Isolator::recycle) and [`dispose`](Isolator::dispose), the only calls that may
//! destroy anything, take a [`Preserved`] by value. That proof can only be made from an
//! [`Inspection`] that found nothing to lose, or together with the [`Rescue`] that holds what was
//! found. There is no other constructor: code that deletes without looking does not compile.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{CommitId, LeaseId, LeaseName, RescueId, SlotId};
use crate::liveness::{self, Liveness};

/// What a caller asks a workspace to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The state to start from, in the backend's own notation (a git revision). `None`: where
    /// `origin` stands.
    pub base: Option<String>,
    /// The caller's own checkout, whose current state is the default base. `None`: the main one.
    pub origin: Option<PathBuf>,
    /// What to have checked out.
    pub branch: BranchWish,
}

/// Which branch a workspace shall be on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BranchWish {
    /// A new branch named after the lease.
    #[default]
    Generated,
    /// This branch: created if it does not exist, else continued (unless a base is given too, which
    /// would move it: an error).
    Named(String),
    /// No branch.
    Detached,
}

/// A [`Wish`], resolved: it no longer depends on anything that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The state the workspace starts from.
    pub commit: CommitId,
    /// The branch it will be on; `None`: detached.
    pub branch: Option<Branch>,
}

/// A branch of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The short name, such as `wtpool/amber-otter`.
    pub name: String,
    /// Whether the pool makes it. Only such a branch is ever deleted by the pool, and only while it
    /// still points to the base.
    pub created: bool,
}

/// What a slot is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which slot.
    pub slot: SlotId,
    /// The lease it is for, by which rescues are labelled. `None`: an idle slot, made in advance
    /// or at rest.
    pub lease: Option<(LeaseId, LeaseName)>,
    /// What it starts from.
    pub base: Base,
}

/// What would be lost if a slot were reset now. All zero: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// Paths whose staged content differs from HEAD.
    pub staged: u64,
    /// Tracked paths whose content, mode or presence differs from what is staged.
    pub modified: u64,
    /// Paths not tracked and not ignored.
    pub untracked: u64,
    /// Ignored paths that are not known to be regenerable, nor unchanged copies of the caller's own
    /// set-up files.
    pub ignored: u64,
    /// Commits that nothing else reaches.
    pub commits: u64,
    /// An operation in progress (`rebase`, `merge`, `bisect`, …).
    pub operation: Option<String>,
    /// What no rescue can hold, path and reason (a dirty submodule, an unreadable file, a socket).
    /// While there is any, the slot can only be kept.
    pub unsavable: Vec<String>,
}

impl Losses {
    /// Whether resetting the slot would lose nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many files are concerned.
    pub fn files(&self) -> u64 {
        self.staged.max(self.modified) + self.untracked + self.ignored
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = [
            (self.staged, "staged"),
            (self.modified, "modified"),
            (self.untracked, "untracked"),
            (self.ignored, "ignored"),
            (self.commits, "unreachable commits"),
        ];
        let mut parts: Vec<String> =
            counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        parts.extend(self.operation.iter().map(|o| format!("{o} in progress")));
        parts.extend(self.unsavable.iter().cloned());
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join(", ")) }
    }
}

/// What became of a lease's branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchReport {
    /// Its short name.
    pub name: String,
    /// Whether it exists when the slot has been given back.
    pub kept: bool,
    /// How many commits it has that its base has not.
    pub commits: u64,
    /// Its name now, if it was renamed (`git branch -m`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_to: Option<String>,
    /// The other branches that have commits made in the lease, and how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<BranchCommits>,
}

/// A branch that has commits made in a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchCommits {
    /// Its short name.
    pub name: String,
    /// How many of the commits it has.
    pub commits: u64,
}

/// What a look at a slot found. Made by [`Isolator::inspect`] only, and worth nothing once somebody
/// has written to the slot: use it at once.
#[derive(Clone, Debug)]
#[must_use]
pub struct Inspection {
    /// The slot that was looked at, and what it was made for.
    pub plan: Plan,
    /// What would be lost.
    pub losses: Losses,
    /// The lease's branch.
    pub branch: Option<BranchReport>,
    /// When something that matters was last written in it, as far as that is cheap to know.
    pub last_write: Option<Timestamp>,
    /// A number that is another one after each write that matters, to compare with that of an earlier
    /// look by this process; `None` where the backend has no such thing.
    pub fingerprint: Option<u64>,
    /// Whether the workspace is there at all; `false` after somebody deleted it.
    pub present: bool,
}

/// Where something saved from a slot is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// Its id.
    pub id: RescueId,
    /// A name by which other tools find it, such as `refs/wtpool/rescue/…`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The commit that it is, if the backend has commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// The lease it was saved from.
    pub lease: Option<LeaseId>,
    /// That lease's name.
    pub name: Option<LeaseName>,
    /// When it was saved.
    pub created_at: Timestamp,
    /// How many files it holds that were not committed.
    pub files: u64,
    /// How many commits it keeps that nothing else reaches.
    pub commits: u64,
    /// The workspace nested in the lease's that it was saved from, by its path relative to that;
    /// `None`: the lease's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<String>,
    /// What was saved at the same time from workspaces nested in the lease's. Only of a rescue that
    /// was just made; in an [archive](RescueArchive), each is by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nested: Vec<Rescue>,
    /// Why it can't be read, if it is damaged: then only its id and reference are known, and
    /// perhaps when it was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

impl Rescue {
    /// What the log says of it: its reference, and the commit that this is.
    pub(crate) fn note(&self) -> String {
        match &self.commit {
            Some(commit) => format!("{} {commit}", self.reference),
            None => self.reference.clone(),
        }
    }

    /// This rescue, and those that were made with it of nested workspaces.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.nested)
    }
}

/// The proof that a slot may be reset or removed.
///
/// ```compile_fail
/// // Nobody can make one up:
/// let proof = pool_core::Preserved { slot: pool_core::SlotId(1), rescue: None, branch: None };
/// ```
#[derive(Debug)]
#[must_use = "a proof is there to be handed to recycle or dispose"]
pub struct Preserved {
    plan: Plan,
    rescue: Option<Rescue>,
    branch: Option<BranchReport>,
    liveness: Option<Arc<dyn Liveness>>,
}

impl Preserved {
    /// The proof from an inspection that found nothing to lose.
    ///
    /// # Errors
    ///
    /// Gives the inspection back when there is something.
    #[expect(clippy::result_large_err, reason = "the inspection is given back, not an error")]
    pub fn nothing_to_lose(inspection: Inspection) -> Result<Self, Inspection> {
        if inspection.losses.is_empty() {
            Ok(Self {
                plan: inspection.plan,
                rescue: None,
                branch: inspection.branch,
                liveness: None,
            })
        } else {
            Err(inspection)
        }
    }

    /// The proof from a rescue that holds all that `inspection` found. For implementations of
    /// [`Isolator::preserve`]; call it after the rescue is on disk, not before.
    ///
    /// # Errors
    ///
    /// Gives the inspection back when it found something that no rescue can hold.
    #[expect(clippy::result_large_err, reason = "the inspection is given back, not an error")]
    pub fn by_rescue(inspection: Inspection, rescue: Rescue) -> Result<Self, Inspection> {
        if inspection.losses.unsavable.is_empty() {
            Ok(Self {
                plan: inspection.plan,
                rescue: Some(rescue),
                branch: inspection.branch,
                liveness: None,
            })
        } else {
            Err(inspection)
        }
    }

    /// Has [`check_unoccupied`](Self::check_unoccupied) ask there which processes are in the workspace. Without, it
    /// knows of none.
    pub fn watched_by(mut self, liveness: Arc<dyn Liveness>) -> Self {
        self.liveness = Some(liveness);
        self
    }

    /// As [`watched_by`](Self::watched_by), the same as another proof.
    pub fn watched_as(mut self, other: &Self) -> Self {
        self.liveness.clone_from(&other.liveness);
        self
    }

    /// Fails if a process has its working directory in `dir`, where the workspace is by now. For implementations of
    /// [`Isolator::recycle`] and [`Isolator::dispose`]: to be called once no process finds the workspace by its path
    /// any more, and before anything in it is changed. The pool has asked before, but a process may have entered since.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) when a process is there, and when that can't be known.
    pub fn check_unoccupied(&self, dir: &Path) -> Result<()> {
        self.liveness
            .as_ref()
            .map_or(Ok(()), |liveness| liveness::check_unoccupied(&**liveness, dir))
    }

    /// The slot it is valid for.
    pub fn slot(&self) -> SlotId {
        self.plan.slot
    }

    /// What the slot was made for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The rescue, if one was needed.
    pub fn rescue(&self) -> Option<&Rescue> {
        self.rescue.as_ref()
    }

    /// What is to become of the lease's branch.
    pub fn branch(&self) -> Option<&BranchReport> {
        self.branch.as_ref()
    }
}

/// Something that a backend found where slots live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Which slot it is (or claims to be).
    pub slot: SlotId,
    /// What it is.
    pub condition: Condition,
}

/// What a backend found in a slot's place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// A workspace of this backend, complete.
    Sound,
    /// A workspace whose making was interrupted: nobody was ever told that it exists.
    HalfMade,
    /// Registered, but the workspace itself is gone. What it alone kept alive may still be saved.
    Missing,
    /// Something the pool did not make. It is never touched; the text says what it is.
    Foreign(String),
}

/// Makes, resets and removes workspaces. Object-safe: chosen at run time.
///
/// Every method may be cancelled by dropping its future, and must then leave a slot that
/// [`discover`](Self::discover) reports and that `inspect` and `dispose` can deal with. Methods are
/// called for different slots at the same time, but never twice at once for the same slot; only
/// [`inspect`](Self::inspect) may run beside anything, since whoever reconciles looks at slots that
/// another may be at work on.
/// `testkit::isolator_conformance!` is the suite that checks an implementation.
#[async_trait]
pub trait Isolator: Any + fmt::Debug + Send + Sync {
    /// The backend's name, such as `git`.
    fn name(&self) -> &str;

    /// The slot's stable path, absolute. It need not exist.
    fn place(&self, slot: SlotId) -> PathBuf;

    /// The directory in which this backend makes its workspaces, if other processes may make
    /// theirs there too: a pool over it keeps its records in that directory, and
    /// [`Builder::open`](crate::Builder::open) refuses any other records. `None` if only this
    /// process can have workspaces there. A backend that wraps another passes the question on.
    fn pool_dir(&self) -> Option<&Path>;

    /// Marks the [pool directory](Self::pool_dir) as used by this backend.
    /// [`Builder::open`](crate::Builder::open) calls it once the directory exists.
    ///
    /// # Errors
    ///
    /// If the directory belongs to another source of workspaces, such as another repository.
    fn claim_dir(&self) -> Result<()> {
        Ok(())
    }

    /// Resolves a wish for a lease of that name. Cheap; changes nothing.
    ///
    /// # Errors
    ///
    /// [`UnknownRevision`](crate::ErrorKind::UnknownRevision);
    /// [`NameTaken`](crate::ErrorKind::NameTaken) when the branch exists and may not be used (for a
    /// generated name the pool then tries another);
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a malformed branch name.
    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base>;

    /// Makes the workspace in a slot where there is none.
    ///
    /// # Errors
    ///
    /// Any; what was made so far is undone, or left as [`Condition::HalfMade`].
    async fn provision(&self, plan: &Plan) -> Result<()>;

    /// Looks for what would be lost if the slot were reset. `plan` is what it was made for.
    /// Changes nothing. A slot that is [`HalfMade`](Condition::HalfMade) has nothing to lose.
    ///
    /// # Errors
    ///
    /// Any, in particular when what is found there is not the pool's: the slot is then kept.
    async fn inspect(&self, plan: &Plan) -> Result<Inspection>;

    /// Saves all that `inspection` found (looking again, since time has passed), durably, and only
    /// then gives the proof. Leaves the workspace as it is. Where nothing was found, the same holds for
    /// what is safe elsewhere: a commit that a branch keeps must survive a loss of power as well before
    /// the workspace goes.
    ///
    /// # Errors
    ///
    /// [`WouldLoseWork`](crate::ErrorKind::WouldLoseWork) when something can't be saved: the slot is
    /// then kept. Any other error likewise.
    async fn preserve(&self, inspection: Inspection) -> Result<Preserved>;

    /// Makes the workspace into what `plan` says, writing only what differs. No file of the previous
    /// lease stays, build output and other ignored files included: it is what
    /// [`provision`](Self::provision) would make, so a cache strategy gives it what it gives a new one.
    /// What takes long to delete is moved away, and left to [`sweep`](Self::sweep). The previous
    /// lease's branch is settled as the proof says. Nothing is changed if a process is
    /// [in the workspace](Preserved::check_unoccupied).
    ///
    /// # Errors
    ///
    /// Any; the slot is then inspected, preserved and disposed of.
    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()>;

    /// Takes the workspace away. When this returns, nothing of it is left at its
    /// [`place`](Self::place) and its registration is gone; the bytes may still be on their way out
    /// (see [`sweep`](Self::sweep)). Settles the branch as the proof says. Nothing is changed if a process is
    /// [in the workspace](Preserved::check_unoccupied).
    ///
    /// # Errors
    ///
    /// Any; disposing is tried again later.
    async fn dispose(&self, proof: Preserved) -> Result<()>;

    /// Finishes deletions that `recycle` and `dispose` left to the background, those of dead
    /// processes too. `progress` is told how many entries were deleted since the last call.
    ///
    /// # Errors
    ///
    /// The first error met; the rest was tried nevertheless.
    async fn sweep(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let _ = progress;
        Ok(())
    }

    /// Whether there is anything for [`sweep`](Self::sweep) to delete. `false` when that can't be
    /// known.
    fn has_trash(&self) -> bool {
        false
    }

    /// Reports what is where slots live.
    ///
    /// # Errors
    ///
    /// When the place can't be read.
    async fn discover(&self) -> Result<Vec<Discovered>>;

    /// How much disk space removing the slot would free, in bytes.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    async fn usage(&self, slot: SlotId) -> Result<u64>;

    /// The archive of rescues, if this backend has one.
    fn rescues(&self) -> Option<&dyn RescueArchive> {
        None
    }
}

/// What a backend saved, and the way back.
#[async_trait]
pub trait RescueArchive: fmt::Debug + Send + Sync {
    /// All rescues, oldest first.
    ///
    /// # Errors
    ///
    /// When the archive can't be read.
    async fn list(&self) -> Result<Vec<Rescue>>;

    /// The paths that a rescue holds beyond what was committed, and what each was (`staged`,
    /// `modified`, `deleted`, `untracked`, `ignored`).
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), or when it can't be read.
    async fn contents(&self, id: &RescueId) -> Result<Vec<RescuedPath>>;

    /// Makes `into`, which must be absent or an empty directory, a workspace in the state that was
    /// saved. It belongs to the user: the pool will never remove it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound);
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when `into` is in use.
    async fn restore_into(&self, id: &RescueId, into: &Path) -> Result<()>;

    /// Brings the saved state into a leased slot that stands, untouched, at
    /// [`head`](Self::head) of the rescue.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), or any; the rescue stays.
    async fn restore_onto(&self, id: &RescueId, plan: &Plan) -> Result<()>;

    /// The commit that was checked out when the rescue was made.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn head(&self, id: &RescueId) -> Result<CommitId>;

    /// Forgets a rescue. This is the one way in which the pool gives up work, and it is never
    /// taken by the pool itself.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), or when it can't be removed.
    async fn drop_rescue(&self, id: &RescueId) -> Result<()>;
}

/// One path of a rescue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescuedPath {
    /// Relative to the workspace. Bytes that are not UTF-8 are shown as `\xNN`.
    pub path: String,
    /// What it was.
    pub status: String,
    /// Its size in bytes.
    pub bytes: u64,
}
