//! Waiting for other processes: often, evenly, and not for ever.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

thread_local! {
    /// How long one operation of this thread may wait, and since when it does.
    static LIMIT: Cell<Duration> = const { Cell::new(Duration::from_secs(60)) };
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets how long one operation of this thread may wait from now on.
pub(super) fn limit(patience: Duration) {
    LIMIT.set(patience);
    SINCE.set(None);
}

/// Makes `connection` wait for locks. SQLite's own schedule backs off to a tenth of a second, so
/// that among thirty processes who come and go the longest waiting would be asked least; here all
/// have the same chance.
pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(|tries| {
        if tries == 0 {
            SINCE.set(Some(Instant::now()));
        }
        let waited = SINCE.get().map_or(Duration::ZERO, |since| since.elapsed());
        let go_on = waited < LIMIT.get();
        if go_on {
            nap();
        }
        go_on
    }))
}

/// Sleeps between one and four milliseconds.
pub(super) fn nap() {
    // Not in step with the others: the clock's low digits are random enough.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let jitter = u64::from(now.subsec_nanos()) / 16 % 3000;
    std::thread::sleep(Duration::from_micros(1000 + jitter));
}
