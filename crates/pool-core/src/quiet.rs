//! Whether a slot is quiet: nothing was written in it for some time.
//!
//! The time stamps of files are wall-clock time, and the wall clock can be set. So there are two
//! ways to know: by looks at the slot that are far enough apart on the boot clock, which takes as
//! long as the slot must have been quiet; and by the time stamps, as far as it is known by how much
//! the wall clock was set since the lease began. Pure: looks and clock readings come in as arguments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::time::Moment;

/// What was found by the looks at a slot so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looks {
    fingerprint: Option<u64>,
    /// Since when it has been the same.
    since: Moment,
    /// Whether it was another one before.
    changed: bool,
}

impl Looks {
    /// Adds a look that was over at `now`.
    pub(crate) fn add(earlier: Option<Self>, fingerprint: Option<u64>, now: &Moment) -> Self {
        match earlier {
            Some(same) if same.fingerprint == fingerprint => same,
            earlier => Self { fingerprint, since: now.clone(), changed: earlier.is_some() },
        }
    }

    /// Whether nothing was written for `span` until `now`, when the last of these looks began. It found
    /// that `last_write` was the last; the lease began at `acquired`.
    pub(crate) fn is_quiet(
        &self,
        last_write: Option<Timestamp>,
        acquired: &Moment,
        now: &Moment,
        span: Duration,
    ) -> bool {
        let same = now.since(&self.since);
        if self.fingerprint.is_some() && same.is_some_and(|same| same >= span) {
            return true;
        }
        // Seen to be written to since, whatever the time stamps say.
        if self.changed {
            return false;
        }
        last_write.is_none_or(|written| is_long_ago(written, acquired, now, span))
    }
}

/// Whether `written`, a time stamp of a file, is `span` ago at least: also if the wall clock was set
/// forward since `acquired`, and the file was written before it was.
fn is_long_ago(written: Timestamp, acquired: &Moment, now: &Moment, span: Duration) -> bool {
    // Of what happened to the clock before a reboot nothing is known.
    let Some(passed) = now.since(acquired).and_then(|t| SignedDuration::try_from(t).ok()) else {
        return false;
    };
    let forward = now.wall.duration_since(acquired.wall).saturating_sub(passed);
    let since = now.wall.duration_since(written).saturating_sub(forward.max(SignedDuration::ZERO));
    Duration::try_from(since).is_ok_and(|since| since >= span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootId;

    const SPAN: Duration = Duration::from_secs(60);
    const DAY: i64 = 86_400;

    fn at(uptime: u64, set: i64) -> Moment {
        let wall = 1_700_000_000 + i64::try_from(uptime).expect("small") + set;
        let wall = Timestamp::from_second(wall).expect("in range");
        Moment { boot: BootId("one".into()), uptime: Duration::from_secs(uptime), wall }
    }

    fn first(now: &Moment) -> Looks {
        Looks::add(None, Some(1), now)
    }

    #[test]
    fn time_stamps_count_while_nobody_set_the_clock() {
        let quiet = |uptime| {
            let now = at(uptime, 0);
            first(&now).is_quiet(Some(at(100, 0).wall), &at(0, 0), &now, SPAN)
        };
        assert!(!quiet(159) && quiet(160));
        assert!(first(&at(1, 0)).is_quiet(None, &at(0, 0), &at(1, 0), SPAN), "nothing written");
    }

    #[test]
    fn a_clock_set_forward_makes_nothing_older() {
        let written = Some(at(100, 0).wall);
        let quiet = |uptime| {
            let now = at(uptime, DAY);
            first(&now).is_quiet(written, &at(0, 0), &now, SPAN)
        };
        assert!(!quiet(159) && quiet(160));
    }

    #[test]
    fn a_clock_set_back_is_no_matter_to_who_looks_twice() {
        let (acquired, written) = (at(0, 0), Some(at(100, 0).wall));
        let looks = first(&at(101, -DAY));
        let quiet = |uptime| {
            let now = at(uptime, -DAY);
            let looks = Looks::add(Some(looks.clone()), Some(1), &now);
            looks.is_quiet(written, &acquired, &now, SPAN)
        };
        assert!(!quiet(160) && quiet(161));
        let once = at(161, -DAY);
        assert!(!first(&once).is_quiet(written, &acquired, &once, SPAN), "not known yet");
    }

    #[test]
    fn what_was_seen_to_be_written_counts_more_than_a_time_stamp() {
        let (acquired, old) = (at(0, 0), Some(at(1, 0).wall));
        let looks = Looks::add(Some(first(&at(100, 0))), Some(2), &at(105, 0));
        assert!(!looks.is_quiet(old, &acquired, &at(164, 0), SPAN));
        assert!(looks.is_quiet(old, &acquired, &at(165, 0), SPAN));
    }

    #[test]
    fn after_a_reboot_only_looks_count() {
        let rebooted = |uptime| Moment { boot: BootId("two".into()), ..at(uptime, DAY) };
        let (acquired, old) = (at(0, 0), Some(at(1, 0).wall));
        let looks = first(&rebooted(5));
        assert!(!looks.is_quiet(old, &acquired, &rebooted(64), SPAN));
        assert!(looks.is_quiet(old, &acquired, &rebooted(65), SPAN));
        let blind = Looks::add(None, None, &rebooted(5));
        assert!(!blind.is_quiet(old, &acquired, &rebooted(65), SPAN), "it can't tell a change");
    }
}
