//! Claims within one process.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Claim, ClaimGuard, Liveness, Occupant, ProcessIdentity, Vital};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ClaimKey;

/// For a pool that lives in one process, with a [`MemoryStore`](crate::MemoryStore). Other processes
/// are neither seen nor identified.
#[derive(Clone, Debug, Default)]
pub struct LocalLiveness {
    held: Arc<Mutex<BTreeSet<ClaimKey>>>,
}

impl LocalLiveness {
    fn held(&self) -> std::sync::MutexGuard<'_, BTreeSet<ClaimKey>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct LocalGuard {
    key: ClaimKey,
    of: LocalLiveness,
}

impl ClaimGuard for LocalGuard {}

impl Drop for LocalGuard {
    fn drop(&mut self) {
        self.of.held().remove(&self.key);
    }
}

impl Liveness for LocalLiveness {
    fn claim(&self, key: &ClaimKey) -> Result<Claim> {
        if !self.held().insert(key.clone()) {
            return Err(Error::new(ErrorKind::Busy, format!("{key} is claimed already")));
        }
        Ok(Claim::new(key.clone(), Box::new(LocalGuard { key: key.clone(), of: self.clone() })))
    }

    fn holds(&self, key: &ClaimKey) -> Vital {
        if self.held().contains(key) { Vital::Alive } else { Vital::Gone }
    }

    fn forget(&self, _key: &ClaimKey) {}

    fn identify(&self, _pid: u32) -> Option<ProcessIdentity> {
        None
    }

    fn runs(&self, _process: &ProcessIdentity) -> Vital {
        Vital::Unknown
    }

    fn occupants(&self, dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>> {
        Ok(dirs.iter().map(|_| Vec::new()).collect())
    }
}
