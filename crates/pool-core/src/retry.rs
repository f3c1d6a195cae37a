//! How long to leave a slot alone that could not be cleaned up. To look at it, and to try to save what is in it,
//! takes as long as the tree is large, whether or not anything has changed; nobody shall pay for that all the
//! time. Pure: what an attempt took, and the clock, come in as arguments.

use std::time::Duration;

use crate::id::LeaseId;
use crate::time::Moment;

/// What is waited after an attempt, in times of what it took: at most a twentieth of the time goes into them.
const FACTOR: u32 = 19;

/// No slot is left alone for longer.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The last attempt to clean up one slot.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Whose work it is: that of another lease has not been tried.
    lease: Option<LeaseId>,
    ended: Moment,
    took: Duration,
}

impl Attempt {
    /// One that began at `begun` and has ended at `now`.
    pub(crate) fn new(lease: Option<LeaseId>, begun: &Moment, now: &Moment) -> Self {
        let took = now.since(begun).unwrap_or_default();
        Self { lease, ended: now.clone(), took }
    }

    /// It went on since `begun`, until `now`.
    pub(crate) fn goes_on(&mut self, begun: &Moment, now: &Moment) {
        self.took = self.took.saturating_add(now.since(begun).unwrap_or_default());
        self.ended = now.clone();
    }

    /// Whether it is time for the next one, for the slot that holds what `lease` has left.
    pub(crate) fn is_over(&self, lease: Option<&LeaseId>, now: &Moment) -> bool {
        let rest = self.took.saturating_mul(FACTOR).min(LONGEST);
        self.lease.as_ref() != lease || now.since(&self.ended).is_none_or(|since| since >= rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootId;

    fn at(seconds: u64) -> Moment {
        let wall = jiff::Timestamp::UNIX_EPOCH;
        Moment { boot: BootId("one".into()), uptime: Duration::from_secs(seconds), wall }
    }

    fn lease(letter: char) -> Option<LeaseId> {
        LeaseId::new(format!("01J{}", letter.to_string().repeat(23))).ok()
    }

    #[test]
    fn the_longer_it_took_the_longer_it_rests() {
        let one = lease('A');
        for (took, rest) in [(0, 0), (1, 19), (10, 190), (60, 900), (3600, 900)] {
            let attempt = Attempt::new(one.clone(), &at(100), &at(100 + took));
            let ended = 100 + took;
            assert!(attempt.is_over(one.as_ref(), &at(ended + rest)), "{took}");
            assert!(rest == 0 || !attempt.is_over(one.as_ref(), &at(ended + rest - 1)), "{took}");
        }
        let mut attempt = Attempt::new(one.clone(), &at(100), &at(101));
        attempt.goes_on(&at(101), &at(110));
        assert!(
            !attempt.is_over(one.as_ref(), &at(299)) && attempt.is_over(one.as_ref(), &at(300))
        );
    }

    #[test]
    fn what_another_lease_left_and_another_boot_are_tried_at_once() {
        let one = lease('A');
        let attempt = Attempt::new(one.clone(), &at(100), &at(200));
        assert!(!attempt.is_over(one.as_ref(), &at(201)));
        assert!(attempt.is_over(lease('B').as_ref(), &at(201)) && attempt.is_over(None, &at(201)));
        let rebooted = Moment { boot: BootId("two".into()), ..at(201) };
        assert!(attempt.is_over(one.as_ref(), &rebooted));
    }
}
