//! Who is alive, and who stands where.
//!
//! A [`Claim`] is held as long as its owner lives, and the operating system gives it up for a dead
//! one: with [`FileLiveness`] it is a lock on a file that a child process can inherit. Nothing here
//! trusts a process id alone: with its start time and the boot it belongs to, a reused id is told
//! from the original.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::ClaimKey;
use crate::time::BootId;

mod file;
mod local;
#[cfg(target_os = "linux")]
mod mounts;
mod process;

pub use file::FileLiveness;
pub use local::LocalLiveness;

/// What is known of somebody's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vital {
    /// Certainly alive.
    Alive,
    /// Certainly gone.
    Gone,
    /// Can't be known here. Treated as alive until a TTL says otherwise.
    Unknown,
}

/// One process, distinguishable from a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// When it started, in the system's own unit.
    pub start_time: u64,
    /// The boot it runs in.
    pub boot: BootId,
    /// The namespace in which it has that id, where the system has such: each container has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u64>,
}

/// A process that has its working directory inside a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Process id.
    pub pid: u32,
    /// Its name, for a person to recognise.
    pub name: String,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Held until dropped, or until the process that holds it (and each that inherited it) has ended.
#[must_use = "a claim that is dropped at once claims nothing"]
#[derive(Debug)]
pub struct Claim {
    key: ClaimKey,
    guard: Box<dyn ClaimGuard>,
}

/// What a [`Liveness`] keeps while a claim is held; dropping it gives the claim up.
pub trait ClaimGuard: fmt::Debug + Send + Sync {
    /// The locked file, for a child process to inherit, where there is one.
    fn file(&self) -> Option<&std::fs::File> {
        None
    }
}

impl Claim {
    /// For implementations of [`Liveness`].
    pub fn new(key: ClaimKey, guard: Box<dyn ClaimGuard>) -> Self {
        Self { key, guard }
    }

    /// What is claimed.
    pub fn key(&self) -> &ClaimKey {
        &self.key
    }

    /// The locked file. A child process that inherits it keeps the claim alive.
    pub fn file(&self) -> Option<&std::fs::File> {
        self.guard.file()
    }
}

/// Observes and announces life. All methods are quick and do not block.
pub trait Liveness: fmt::Debug + Send + Sync {
    /// Claims `key`, which must never have been claimed before: keys are unique by construction.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) when it is claimed already, or an I/O error.
    fn claim(&self, key: &ClaimKey) -> Result<Claim>;

    /// Whether somebody holds the claim. `Gone` for a key that was never claimed.
    fn holds(&self, key: &ClaimKey) -> Vital;

    /// Removes the traces of a claim whose holder is gone. Does nothing while it is held.
    fn forget(&self, key: &ClaimKey);

    /// Removes the traces of all claims whose holders are gone. Changes no answer of
    /// [`holds`](Self::holds).
    fn tidy(&self) {}

    /// The directory in which other processes see these claims. `None` (the default) if no other
    /// process sees them.
    fn claims_dir(&self) -> Option<&Path> {
        None
    }

    /// Identifies a running process. `None` when there is none with that id, or it can't be known.
    fn identify(&self, pid: u32) -> Option<ProcessIdentity>;

    /// Whether that very process still runs.
    fn runs(&self, process: &ProcessIdentity) -> Vital;

    /// For each directory, the processes whose working directory (that of any of their threads) is it or below
    /// it, whatever it is mounted as for them. Only processes that may be looked at are found.
    ///
    /// # Errors
    ///
    /// When the processes can't be listed on this platform.
    fn occupants(&self, dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>>;

    /// Returns the processes that hold the claim, as far as they can be found: for a person to
    /// recognise, and no proof that there is no other. None by default.
    fn holders(&self, key: &ClaimKey) -> Vec<Occupant> {
        let _ = key;
        Vec::new()
    }
}

/// Which process has its working directory in `dir`, if any has.
///
/// # Errors
///
/// When that can't be known.
pub(crate) fn occupant(liveness: &dyn Liveness, dir: &Path) -> Result<Option<String>> {
    let found = liveness.occupants(&[dir])?;
    Ok(found.into_iter().flatten().next().map(|occupant| occupant.to_string()))
}

/// Fails if a process has its working directory in `dir`.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when one has, and when that can't be known.
pub(crate) fn check_unoccupied(liveness: &dyn Liveness, dir: &Path) -> Result<()> {
    let why = match occupant(liveness, dir) {
        Ok(None) => return Ok(()),
        Ok(Some(who)) => {
            format!("{who} is still in it; it is cleaned up as soon as that process leaves")
        }
        Err(error) => format!("somebody may be in it: {error}"),
    };
    Err(Error::new(ErrorKind::Busy, why))
}
