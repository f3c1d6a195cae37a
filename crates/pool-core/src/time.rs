//! Deadlines on the boot clock. The wall clock is for display only: setting it, or a change of
//! daylight saving time, moves no deadline.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Identifies one boot of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// A reading of both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot `uptime` counts from.
    pub boot: BootId,
    /// Time since that boot, suspended time included.
    pub uptime: Duration,
    /// Wall-clock time, for display.
    pub wall: Timestamp,
}

impl Moment {
    /// How long after `earlier` this moment is: zero if it isn't, `None` across a reboot, where
    /// the boot clock can't tell.
    pub fn since(&self, earlier: &Moment) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.uptime.saturating_sub(earlier.uptime))
    }
}

/// A point on the boot clock at which something is over.
///
/// ```
/// # use std::time::Duration;
/// # use pool_core::{BootId, Deadline, Moment};
/// # fn at(boot: &str, secs: u64) -> Moment {
/// #     Moment { boot: BootId(boot.into()), uptime: Duration::from_secs(secs), wall: Default::default() }
/// # }
/// let deadline = Deadline::after(&at("a", 100), Duration::from_secs(60));
/// assert!(!deadline.is_past(&at("a", 159)));
/// assert!(deadline.is_past(&at("a", 160)));
/// // After a reboot nobody knows how much of the minute was left: it starts again.
/// assert_eq!(deadline.seen_at(&at("b", 5)), Deadline::after(&at("b", 5), Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    boot: BootId,
    at: Duration,
    span: Duration,
}

impl Deadline {
    /// The point `span` after `now`.
    pub fn after(now: &Moment, span: Duration) -> Self {
        Self { boot: now.boot.clone(), at: now.uptime.saturating_add(span), span }
    }

    /// Whether the point has been reached. A deadline of another boot never has: it must first be
    /// [re-anchored](Self::seen_at).
    pub fn is_past(&self, now: &Moment) -> bool {
        self.boot == now.boot && now.uptime >= self.at
    }

    /// This deadline as it applies at `now`: itself, or, when it was set before a reboot, a new one
    /// with the whole span ahead. A lease thus never lasts less than its TTL.
    #[must_use]
    pub fn seen_at(&self, now: &Moment) -> Self {
        if self.boot == now.boot { self.clone() } else { Self::after(now, self.span) }
    }

    /// The time left; zero when the point has passed.
    pub fn remaining(&self, now: &Moment) -> Duration {
        self.seen_at(now).at.saturating_sub(now.uptime)
    }

    /// The deadline in wall-clock time, for display.
    pub fn wall(&self, now: &Moment) -> Timestamp {
        let left = self.remaining(now);
        let past = if left.is_zero() && self.boot == now.boot {
            now.uptime - self.at
        } else {
            Duration::ZERO
        };
        now.wall.checked_add(left).and_then(|t| t.checked_sub(past)).unwrap_or(Timestamp::MAX)
    }

    /// How long the deadline was set for.
    pub fn span(&self) -> Duration {
        self.span
    }
}

/// Where the pool gets its time from. Tests inject a virtual one.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// Reads the clocks.
    fn now(&self) -> Moment;

    /// Returns `span` later, by this clock.
    async fn sleep(&self, span: Duration);
}

/// The machine's own clocks. Needs a tokio runtime with its timer enabled for
/// [`sleep`](Clock::sleep).
#[derive(Clone, Debug)]
pub struct SystemClock {
    boot: BootId,
    shift: SignedDuration,
}

impl SystemClock {
    /// Reads the boot's identity once.
    pub fn new() -> Self {
        Self { boot: boot_id(), shift: shift() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment { boot: self.boot.clone(), uptime: uptime(self.shift), wall: Timestamp::now() }
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn uptime(shift: SignedDuration) -> Duration {
    // CLOCK_BOOTTIME counts while the machine is suspended; CLOCK_MONOTONIC does not.
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let here = SignedDuration::new(t.tv_sec, i32::try_from(t.tv_nsec).unwrap_or(0));
    Duration::try_from(here.saturating_sub(shift)).unwrap_or_default()
}

/// By how much the boot clock is ahead of the machine's in this process's time namespace, as a container may
/// have one: all processes must mean the same by what it reads.
#[cfg(target_os = "linux")]
pub(crate) fn shift() -> SignedDuration {
    shift_in(&std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
}

/// See time_namespaces(7): for each clock its name, seconds and nanoseconds.
#[cfg(target_os = "linux")]
fn shift_in(offsets: &str) -> SignedDuration {
    let found = offsets.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (clock, seconds, nanos) = (fields.next()?, fields.next()?, fields.next()?);
        let is_boot = matches!(clock, "boottime" | "7");
        is_boot.then(|| Some(SignedDuration::new(seconds.parse().ok()?, nanos.parse().ok()?)))?
    });
    found.unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn shift() -> SignedDuration {
    SignedDuration::ZERO
}

#[cfg(target_os = "linux")]
pub(crate) fn boot_id() -> BootId {
    // A random UUID for each boot; see random(4). A container without /proc gets the coarser one.
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => BootId(id.trim().to_owned()),
        Err(_) => boot_id_from_time(),
    }
}

// Elsewhere the portable boot time, in whole seconds, serves for both. It follows changes of the
// wall clock on some systems; what that can do is let a deadline be re-anchored, that is: later.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn uptime(_shift: SignedDuration) -> Duration {
    Duration::from_secs(sysinfo::System::uptime())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn boot_id() -> BootId {
    boot_id_from_time()
}

fn boot_id_from_time() -> BootId {
    // To the minute, since boot time is computed from two clocks and may jitter by a second.
    BootId(format!("boot-{}", sysinfo::System::boot_time() / 60))
}
