//! Time that passes when the test says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pool_core::{BootId, Clock, Moment};
use tokio::sync::Notify;

/// A [`Clock`] that stands still until it is moved. Clones show the same time.
///
/// ```
/// # use std::time::Duration;
/// # use pool_core::Clock as _;
/// # use testkit::clock::VirtualClock;
/// let clock = VirtualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now().since(&before), Some(Duration::from_secs(90)));
/// clock.reboot();
/// assert_eq!(clock.now().since(&before), None, "nobody can tell across a reboot");
/// ```
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dial: Mutex<Dial>,
    moved: Notify,
}

#[derive(Debug)]
struct Dial {
    boot: u32,
    uptime: Duration,
    wall: Timestamp,
    /// All the time that ever passed, over all boots: what sleepers go by.
    age: Duration,
    /// When each sleeper is due, by `age`.
    due: Vec<(u64, Duration)>,
    next_sleeper: u64,
}

impl Default for Inner {
    fn default() -> Self {
        let dial = Dial {
            boot: 1,
            uptime: Duration::from_secs(1000),
            wall: Timestamp::from_second(1_700_000_000).expect("it is in range"),
            age: Duration::ZERO,
            due: Vec::new(),
            next_sleeper: 0,
        };
        Self { dial: Mutex::new(dial), moved: Notify::new() }
    }
}

impl VirtualClock {
    /// A clock in its first boot, up for a thousand seconds, in November 2023.
    pub fn new() -> Self {
        Self::default()
    }

    fn dial(&self) -> MutexGuard<'_, Dial> {
        self.0.dial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `span` pass at once: all who are due wake up after the whole of it. See
    /// [`pass`](Self::pass) for each to wake at its own time.
    pub fn advance(&self, span: Duration) {
        let mut dial = self.dial();
        dial.uptime += span;
        dial.age += span;
        dial.wall = dial.wall.checked_add(span).unwrap_or(Timestamp::MAX);
        drop(dial);
        self.0.moved.notify_waiters();
    }

    /// Lets `span` pass, stopping whenever a sleeper is due, so that one that sleeps again and again
    /// wakes as often as it would by a real clock. Other tasks of the runtime run meanwhile.
    pub async fn pass(&self, span: Duration) {
        settle().await;
        let end = self.dial().age + span;
        loop {
            let (now, next) = {
                let dial = self.dial();
                (dial.age, dial.due.iter().map(|(_, at)| *at).filter(|at| *at > dial.age).min())
            };
            let stop = next.unwrap_or(end).min(end);
            self.advance(stop.saturating_sub(now));
            settle().await;
            if stop >= end {
                return;
            }
        }
    }

    /// Boots again: the boot clock starts anew, under another id. The wall clock goes on.
    pub fn reboot(&self) {
        let mut dial = self.dial();
        dial.boot += 1;
        dial.uptime = Duration::from_secs(1);
        drop(dial);
        self.0.moved.notify_waiters();
    }

    /// Sets the wall clock, forward or back. The boot clock does not notice.
    pub fn set_wall(&self, wall: Timestamp) {
        self.dial().wall = wall;
    }

    /// How many are asleep. For a test to wait until somebody is.
    pub fn sleepers(&self) -> usize {
        self.dial().due.len()
    }
}

/// Lets the other tasks of this runtime run until, on a single thread, they all wait for something.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Takes a sleeper off the dial when it wakes, or is dropped.
struct Asleep<'a> {
    clock: &'a VirtualClock,
    id: u64,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.clock.dial().due.retain(|(id, _)| *id != self.id);
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> Moment {
        let dial = self.dial();
        Moment { boot: BootId(format!("boot-{}", dial.boot)), uptime: dial.uptime, wall: dial.wall }
    }

    async fn sleep(&self, span: Duration) {
        let (due, asleep) = {
            let mut dial = self.dial();
            let due = dial.age.saturating_add(span);
            let id = dial.next_sleeper;
            dial.next_sleeper += 1;
            dial.due.push((id, due));
            (due, Asleep { clock: self, id })
        };
        loop {
            let moved = self.0.moved.notified();
            tokio::pin!(moved);
            // Before looking at the dial, so that no movement in between is missed.
            moved.as_mut().enable();
            if self.dial().age >= due {
                break;
            }
            moved.await;
        }
        drop(asleep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_at_its_time_and_not_before() {
        let clock = VirtualClock::new();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(60)).await }
        });
        settle().await;
        assert_eq!(clock.sleepers(), 1);
        clock.advance(Duration::from_secs(59));
        settle().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.expect("it does not panic");
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn passing_time_wakes_a_periodic_task_each_time() {
        let clock = VirtualClock::new();
        let (give, mut take) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn({
            let clock = clock.clone();
            async move {
                loop {
                    clock.sleep(Duration::from_secs(10)).await;
                    give.send(clock.now().uptime).expect("the test listens");
                }
            }
        });
        clock.pass(Duration::from_secs(35)).await;
        let mut seen = Vec::new();
        while let Ok(at) = take.try_recv() {
            seen.push(at.as_secs());
        }
        assert_eq!(seen, [1010, 1020, 1030]);
        task.abort();
    }

    #[tokio::test]
    async fn a_dropped_sleeper_is_forgotten_and_a_reboot_wakes_nobody() {
        let clock = VirtualClock::new();
        let mut sleep = Box::pin(clock.sleep(Duration::from_secs(5)));
        assert!(crate::conformance::suspend(sleep.as_mut(), 0).await.is_none());
        assert_eq!(clock.sleepers(), 1);
        clock.reboot();
        assert!(crate::conformance::suspend(sleep.as_mut(), 0).await.is_none());
        drop(sleep);
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn the_wall_clock_moves_no_deadline() {
        let clock = VirtualClock::new();
        let deadline = pool_core::Deadline::after(&clock.now(), Duration::from_secs(60));
        clock.set_wall(clock.now().wall + Duration::from_secs(86_400));
        assert!(!deadline.is_past(&clock.now()));
        clock.advance(Duration::from_secs(60));
        assert!(deadline.is_past(&clock.now()));
    }
}
