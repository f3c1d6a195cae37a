//! What a pool is told. Everything is explicit: the library reads no file and no environment.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// A pool's settings.
///
/// ```
/// use pool_core::Settings;
/// let settings = Settings { max_leases: 5, ..Settings::default() };
/// assert!(settings.check().is_ok());
/// assert!(Settings { max_leases: 0, ..settings }.check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many slots may be leased, being made ready, being saved, or quarantined at the same time;
    /// also the largest number of slots. At least 1.
    pub max_leases: u32,
    /// How many idle slots to keep while a session lives.
    pub keep_warm: u32,
    /// For how long an idle slot is kept after its last use.
    pub idle: Duration,
    /// How long survivors of a lease's command may hold the lease when none of them stands in
    /// its workspace.
    pub grace: Duration,
    /// How long nothing may have been written in a workspace before a lease past its TTL, which
    /// no owner speaks for, is ended.
    pub quiet: Duration,
    /// How long a lease without a TTL of its own lasts when nobody can tell whether its owner's process runs.
    pub ttl: Duration,
    /// How often somebody who waits looks whether it is their turn.
    pub poll: Duration,
    /// How long the end of a lease waits for processes that have their working directory in its
    /// workspace, such as the maintenance that `git commit` starts. Zero: it does not wait.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_leases: 40,
            keep_warm: 4,
            idle: Duration::from_secs(3600),
            grace: Duration::from_secs(60),
            quiet: Duration::from_secs(60),
            ttl: Duration::from_secs(3600),
            poll: Duration::from_millis(50),
            patience: Duration::ZERO,
        }
    }
}

impl Settings {
    /// Whether a pool can work like this.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] when `max_leases` is 0 or above 10,000, or `poll` is zero.
    pub fn check(&self) -> Result<()> {
        if !(1..=10_000).contains(&self.max_leases) {
            let message = format!("max_leases is {}, not between 1 and 10000", self.max_leases);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if self.poll.is_zero() {
            return Err(Error::new(ErrorKind::InvalidInput, "poll is zero: waiting would spin"));
        }
        Ok(())
    }
}
