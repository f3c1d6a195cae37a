//! A [`PoolState`] as rows: reading it, and writing what changed.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::trouble::Trouble;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{Generation, SessionId, SlotId, Ticket};
use crate::state::{PoolState, Session, Slot};
use crate::store::Logged;

/// How many events the log keeps at least.
const LOG_LENGTH: u64 = 10_000;
/// The log is trimmed each time it grew by so many.
const TRIM_STEP: u64 = 500;
/// How many numbers are reserved at once.
const BLOCK: u64 = 1_000;

/// No pool ever counts so far: a larger number is damage, and there must be some left to go on with.
const MOST: u64 = 1 << 62;

/// Whether that is a number that a pool can have come to.
pub(super) fn plausible(number: u64) -> Result<(), String> {
    if number <= MOST { Ok(()) } else { Err(format!("{number} is too large a number")) }
}

/// Whether a slot's record can be that of `slot`: work on one slot must never be done in another.
pub(super) fn is_of(record: &Slot, slot: SlotId) -> Result<(), String> {
    let others = record.plan.as_ref().map(|plan| plan.slot).filter(|planned| *planned != slot);
    if record.id != slot || others.is_some() {
        return Err(format!("it is that of slot {}", others.unwrap_or(record.id)));
    }
    record.state.lease().map_or(Ok(()), |lease| plausible(lease.generation.0))
}

/// The largest number of each kind that was given out, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Marks {
    pub(super) generation: u64,
    pub(super) ticket: u64,
    pub(super) sequence: u64,
}

impl Marks {
    /// Whether a pool can have come to these.
    pub(super) fn plausible(&self) -> Result<(), String> {
        [self.generation, self.ticket, self.sequence].into_iter().try_for_each(plausible)
    }

    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// These, moved to the end of a new block where `used` has passed them.
    fn cover(self, used: Self) -> Self {
        self.zip(used, |reserved, used| {
            if used <= reserved {
                reserved
            } else {
                (used / BLOCK).saturating_add(1).saturating_mul(BLOCK)
            }
        })
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            generation: with(self.generation, other.generation),
            ticket: with(self.ticket, other.ticket),
            sequence: with(self.sequence, other.sequence),
        }
    }
}

/// The records after some change.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// Counts the changes; of this and of all databases that were lost before it.
    pub(super) revision: u64,
    /// The place of the last event in the log.
    pub(super) sequence: u64,
    /// Up to where numbers may be given out before `pool.json` must be written again.
    pub(super) reserved: Marks,
    pub(super) state: PoolState,
    /// The rows of `state.ended`.
    pub(super) places: Vec<i64>,
}

impl Snapshot {
    /// What comes after it.
    pub(super) fn next(&self, state: PoolState, events: u64) -> Self {
        let sequence = self.sequence + events;
        let used = Marks { generation: state.generation.0, ticket: state.ticket.0, sequence };
        Self {
            revision: self.revision + 1,
            sequence,
            reserved: self.reserved.cover(used),
            state,
            places: Vec::new(),
        }
    }

    fn meta(&self) -> [(&'static str, u64); 7] {
        [
            ("revision", self.revision),
            ("sequence", self.sequence),
            ("generation", self.state.generation.0),
            ("ticket", self.state.ticket.0),
            ("reserved-generation", self.reserved.generation),
            ("reserved-ticket", self.reserved.ticket),
            ("reserved-sequence", self.reserved.sequence),
        ]
    }
}

/// What of the sessions must survive the loss of the database: all but when they were last used.
pub(super) fn lasting(
    sessions: &BTreeMap<SessionId, Session>,
) -> impl Iterator<Item = (&SessionId, impl PartialEq)> {
    sessions.iter().map(|(id, s)| (id, (&s.process, s.over)))
}

/// Which change the database is at.
pub(super) fn revision(tx: &Connection) -> Result<u64, Trouble> {
    let mut statement = tx.prepare_cached("SELECT value FROM meta WHERE key='revision'")?;
    let revision: i64 = statement.query_row([], |row| row.get(0))?;
    counted("revision", revision)
}

/// All records.
pub(super) fn read(tx: &Connection) -> Result<Snapshot, Trouble> {
    let mut meta = HashMap::new();
    let mut statement = tx.prepare_cached("SELECT key, value FROM meta")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let value: i64 = row.get(1)?;
        meta.insert(row.get::<_, String>(0)?, value);
    }
    let number = |key: &str| {
        let value = meta.get(key).copied().and_then(|v| u64::try_from(v).ok());
        value
            .filter(|value| plausible(*value).is_ok())
            .ok_or_else(|| Trouble::Damaged(format!("it has no valid {key}")))
    };
    let mut state = PoolState {
        generation: Generation(number("generation")?),
        ticket: Ticket(number("ticket")?),
        ..PoolState::default()
    };
    each(tx, "SELECT slot, record FROM slots", |slot: u32, record| {
        let slot = SlotId(slot);
        let record: Slot = parse("slot", record)?;
        let damaged = |why| Trouble::Damaged(format!("the record of slot {slot}: {why}"));
        is_of(&record, slot).map_err(damaged)?;
        if let Some(lease) = record.state.lease() {
            state.generation = state.generation.max(lease.generation);
        }
        state.slots.insert(slot, record);
        Ok(())
    })?;
    each(tx, "SELECT ticket, record FROM waiters", |ticket: i64, record| {
        let ticket = counted("ticket", ticket)?;
        state.ticket = state.ticket.max(Ticket(ticket));
        state.waiters.insert(Ticket(ticket), parse("waiter", record)?);
        Ok(())
    })?;
    each(tx, "SELECT id, record FROM sessions", |id: String, record| {
        let id = SessionId::new(id).map_err(|e| Trouble::Damaged(e.to_string()))?;
        state.sessions.insert(id, parse("session", record)?);
        Ok(())
    })?;
    let mut places = Vec::new();
    each(tx, "SELECT place, record FROM ended ORDER BY place", |place: i64, record| {
        counted("place", place)?;
        state.ended.push_back(parse("ended lease", record)?);
        places.push(place);
        Ok(())
    })?;
    Ok(Snapshot {
        revision: number("revision")?,
        sequence: number("sequence")?,
        reserved: Marks {
            generation: number("reserved-generation")?,
            ticket: number("reserved-ticket")?,
            sequence: number("reserved-sequence")?,
        },
        state,
        places,
    })
}

fn counted(what: &str, number: i64) -> Result<u64, Trouble> {
    let number = u64::try_from(number).ok().filter(|number| plausible(*number).is_ok());
    number.ok_or_else(|| Trouble::Damaged(format!("there is no such {what}")))
}

fn each<K: rusqlite::types::FromSql>(
    tx: &Connection,
    sql: &str,
    mut take: impl FnMut(K, &str) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let record = row.get_ref(1)?.as_str().map_err(|e| Trouble::Damaged(e.to_string()))?;
        take(row.get(0)?, record)?;
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(what: &str, record: &str) -> Result<T, Trouble> {
    serde_json::from_str(record).map_err(|e| match is_newer(&e) {
        true => newer(&format!("the record of a {what}"), &e.to_string()).into(),
        false => Trouble::Damaged(format!("the record of a {what} makes no sense: {e}")),
    })
}

/// Whether a record is well-formed and has a state or a field that this program does not know:
/// a newer version wrote it. It is not damaged.
pub(super) fn is_newer(error: &serde_json::Error) -> bool {
    let why = error.to_string();
    error.is_data() && (why.starts_with("unknown variant") || why.starts_with("unknown field"))
}

/// The error for what a newer version wrote.
pub(super) fn newer(what: &str, why: &str) -> Error {
    let message = format!("{what} was written by a newer version ({why})");
    Error::new(ErrorKind::Store, message).with_hint("upgrade this program").with_source(Newer)
}

/// Marks the errors that only a newer program can avoid.
#[derive(Debug, thiserror::Error)]
#[error("the records are newer than this program")]
pub(super) struct Newer;

/// Looks where the next event will be written: damage met there later, when the change was already
/// computed, would fail the change.
pub(super) fn check_log(tx: &Connection, snapshot: &Snapshot) -> Result<(), Trouble> {
    let mut statement = tx.prepare_cached("SELECT max(sequence) FROM events")?;
    let last: Option<i64> = statement.query_row([], |row| row.get(0))?;
    match last.map(u64::try_from) {
        None => Ok(()),
        Some(Ok(last)) if last <= snapshot.sequence => Ok(()),
        Some(_) => Err(Trouble::Damaged("its log is ahead of its records".into())),
    }
}

/// Up to `limit` events after `after`.
pub(super) fn events(tx: &Connection, after: u64, limit: usize) -> Result<Vec<Logged>, Trouble> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = tx.prepare_cached(
        "SELECT sequence, record FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let mut rows = statement.query(params![after, limit])?;
    let mut log = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let record = row.get_ref(1)?.as_str().map_err(|e| Trouble::Damaged(e.to_string()))?;
        log.push(Logged { sequence: sequence.unsigned_abs(), event: parse("event", record)? });
    }
    Ok(log)
}

/// Writes the difference, and returns `after` with what the rows are.
pub(super) fn write(
    tx: &Connection,
    before: &Snapshot,
    mut after: Snapshot,
    events: &[Event],
) -> Result<Snapshot, Trouble> {
    let old: HashMap<_, _> = before.meta().into_iter().collect();
    // Nothing is in an empty database yet, not even zeros.
    let first = before.revision == 0;
    for (key, value) in after.meta() {
        if first || old.get(key) != Some(&value) {
            run(
                tx,
                "INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)",
                params![key, number(value)?],
            )?;
        }
    }
    let (old, new) = (&before.state, &after.state);
    for (slot, record) in changed(&old.slots, &new.slots) {
        run(
            tx,
            "INSERT OR REPLACE INTO slots(slot, state, record) VALUES(?1, ?2, ?3)",
            params![slot.0, record.state.as_str(), json(record)?],
        )?;
    }
    for slot in gone(&old.slots, &new.slots) {
        run(tx, "DELETE FROM slots WHERE slot=?1", params![slot.0])?;
    }
    for (ticket, record) in changed(&old.waiters, &new.waiters) {
        run(
            tx,
            "INSERT OR REPLACE INTO waiters(ticket, record) VALUES(?1, ?2)",
            params![number(ticket.0)?, json(record)?],
        )?;
    }
    for ticket in gone(&old.waiters, &new.waiters) {
        run(tx, "DELETE FROM waiters WHERE ticket=?1", params![number(ticket.0)?])?;
    }
    for (id, record) in changed(&old.sessions, &new.sessions) {
        run(
            tx,
            "INSERT OR REPLACE INTO sessions(id, record) VALUES(?1, ?2)",
            params![id.as_str(), json(record)?],
        )?;
    }
    for id in gone(&old.sessions, &new.sessions) {
        run(tx, "DELETE FROM sessions WHERE id=?1", params![id.as_str()])?;
    }
    after.places = write_ended(tx, before, &after)?;
    for (sequence, event) in (before.sequence + 1..).zip(events) {
        run(
            tx,
            "INSERT INTO events(sequence, record) VALUES(?1, ?2)",
            params![number(sequence)?, json(event)?],
        )?;
    }
    if after.sequence / TRIM_STEP != before.sequence / TRIM_STEP {
        let newest_forgotten = number(after.sequence.saturating_sub(LOG_LENGTH))?;
        run(tx, "DELETE FROM events WHERE sequence <= ?1", params![newest_forgotten])?;
    }
    Ok(after)
}

/// Old ones leave at the front and new ones come at the back: what is between keeps its rows.
fn write_ended(tx: &Connection, before: &Snapshot, after: &Snapshot) -> Result<Vec<i64>, Trouble> {
    let (old, new) = (&before.state.ended, &after.state.ended);
    let continues = |skip: usize| {
        old.len() - skip <= new.len() && old.iter().skip(skip).zip(new).all(|(o, n)| o == n)
    };
    // Skipping all of them always continues.
    let skip = (0..old.len()).find(|skip| continues(*skip)).unwrap_or(old.len());
    for place in before.places.iter().take(skip) {
        run(tx, "DELETE FROM ended WHERE place=?1", params![place])?;
    }
    let mut places: Vec<i64> = before.places.iter().skip(skip).copied().collect();
    let mut place = before.places.last().copied().unwrap_or(0);
    for record in new.iter().skip(places.len()) {
        place += 1;
        run(tx, "INSERT INTO ended(place, record) VALUES(?1, ?2)", params![place, json(record)?])?;
        places.push(place);
    }
    Ok(places)
}

/// What is new or different.
pub(super) fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

/// What is no longer there.
pub(super) fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

fn run(tx: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<(), Trouble> {
    tx.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

/// SQLite's integers are signed.
fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|e| {
        Error::new(ErrorKind::Store, format!("{value} is too large a number")).with_source(e)
    })
}

pub(super) fn json(record: &impl Serialize) -> Result<String> {
    serde_json::to_string(record).map_err(|e| {
        Error::new(ErrorKind::Store, format!("cannot write a record: {e}")).with_source(e)
    })
}
