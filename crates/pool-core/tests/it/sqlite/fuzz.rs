//! Records and sidecars that nobody wrote: the pool opens, works, and touches nothing else.

use pool_core::{Facts, Settings};
use proptest::prelude::*;
use testkit::fuzz::{Damage, damage};

use super::*;

/// A pool with records in it, beside something that is not the pool's.
fn filled() -> Dir {
    let dir = Dir::new();
    run(async { fill(&dir.open()).await });
    fs::write(dir.0.path().join("outside"), "theirs").unwrap();
    dir
}

/// Opens the pool and works with it, again and again.
fn works(dir: &Dir) -> Result<(), TestCaseError> {
    let store = match SqliteStore::open(&dir.pool()) {
        Ok(store) => store,
        // The only thing that may be said.
        Err(error) => {
            prop_assert!(error.to_string().contains("was written by a newer version"), "{error}");
            prop_assert_eq!(error.kind(), ErrorKind::Store);
            return Ok(());
        }
    };
    let settings = Settings { max_leases: 9, ..Settings::default() };
    let mut last = Generation(0);
    for n in 0..2_u64 {
        let store = if n == 1 { &dir.open() } else { &store };
        let is = run(store.load());
        let is = is.map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (id, slot) in &is.slots {
            prop_assert_eq!(*id, slot.id);
            let planned = slot.plan.as_ref().map_or(*id, |plan| plan.slot);
            prop_assert_eq!(*id, planned, "work on one slot would be done in another");
            let generation = slot.state.lease().map_or(Generation(0), |lease| lease.generation);
            prop_assert!(generation <= is.generation, "{} {}", generation, is.generation);
        }
        let (give, take) = std::sync::mpsc::channel();
        let settings = settings.clone();
        let changed = run(store.change(Box::new(move |state| {
            let now = moment(10_000 * (n + 1));
            state.reanchor(&now);
            state.due(&settings, &Facts::default(), &now);
            let new = Waiter { lease: lease(50 + n), ..waiter(50) };
            let name = LeaseName::new(format!("new-{n}")).unwrap();
            let new = Waiter { lease: Lease { name, session: None, ..new.lease }, ..new };
            state.enqueue(new, &settings, &now).unwrap();
            state.outbox.push(event("after"));
            give.send(state.generation).unwrap();
        })));
        prop_assert!(changed.is_ok(), "{:?}", changed);
        let generation = take.recv().unwrap();
        prop_assert!(generation > last, "{} {}", generation, last);
        last = generation;
        prop_assert!(run(store.events(0, 100)).is_ok());
    }
    prop_assert_eq!(fs::read_to_string(dir.0.path().join("outside")).unwrap(), "theirs");
    let beside = fs::read_dir(dir.0.path()).unwrap().count();
    prop_assert_eq!(beside, 2, "something was made beside the pool");
    Ok(())
}

/// A pipe would be waited for without end, and of the other no machine has enough memory for.
#[cfg(unix)]
#[test]
fn sidecars_that_are_no_files_or_far_too_large() {
    for (n, name) in SIDECARS.iter().enumerate() {
        let dir = filled();
        let path = dir.file(name);
        fs::remove_file(&path).unwrap();
        if n % 2 == 0 {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
        } else {
            fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
        }
        fs::remove_file(dir.file("pool.db")).unwrap();
        works(&dir).unwrap();
    }
}

const SIDECARS: [&str; 4] =
    ["pool.json", "slots/1/slot.json", "slots/2/slot.json", "slots/3/slot.json"];

/// In the database's own terms.
#[derive(Clone, Debug)]
enum Row {
    /// One of the numbers that the whole pool has.
    Number(&'static str, i64),
    /// What a row says.
    Record(&'static str, Damage),
    /// Which row it is.
    Key(&'static str, i64),
    /// Of another type.
    Blob(&'static str, Vec<u8>),
    /// It is not there.
    Gone(&'static str),
}

const TABLES: [(&str, &str); 5] = [
    ("slots", "slot"),
    ("waiters", "ticket"),
    ("sessions", "id"),
    ("ended", "place"),
    ("events", "sequence"),
];

fn row() -> impl Strategy<Value = Row> {
    let numbers = [
        "revision",
        "sequence",
        "generation",
        "ticket",
        "reserved-generation",
        "reserved-ticket",
        "reserved-sequence",
    ];
    let ends = [i64::MIN, -1, 0, 1, 1 << 32, 1 << 61, i64::MAX - 1, i64::MAX];
    let table = || prop::sample::select(&TABLES[..]).prop_map(|(table, _)| table);
    prop_oneof![
        (prop::sample::select(numbers.to_vec()), prop::sample::select(ends.to_vec()))
            .prop_map(|(key, value)| Row::Number(key, value)),
        (table(), damage()).prop_map(|(table, damage)| Row::Record(table, damage)),
        (table(), prop::sample::select(ends.to_vec()))
            .prop_map(|(table, key)| Row::Key(table, key)),
        (table(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(table, bytes)| Row::Blob(table, bytes)),
        table().prop_map(Row::Gone),
    ]
}

impl Row {
    fn apply(&self, dir: &Dir) {
        let raw = rusqlite::Connection::open(dir.file("pool.db")).unwrap();
        let key = |table: &str| TABLES.iter().find(|(name, _)| *name == table).unwrap().1;
        let first = |table: &str| {
            let key = key(table);
            format!("{key} = (SELECT min({key}) FROM {table})")
        };
        // What the database itself refuses never gets there.
        let _ = match self {
            Self::Number(name, value) => {
                raw.execute("UPDATE meta SET value=?2 WHERE key=?1", rusqlite::params![name, value])
            }
            Self::Record(table, damage) => {
                let which = first(table);
                let select = format!("SELECT record FROM {table} WHERE {which}");
                // Damaged twice, it may be gone or no text by now.
                let Ok(record) = raw.query_row(&select, [], |row| row.get::<_, String>(0)) else {
                    return;
                };
                let damaged = damage.apply(record.as_bytes());
                let damaged = String::from_utf8_lossy(&damaged).into_owned();
                raw.execute(&format!("UPDATE {table} SET record=?1 WHERE {which}"), [damaged])
            }
            Self::Key(table, value) => {
                let sql = format!("UPDATE {table} SET {}=?1 WHERE {}", key(table), first(table));
                raw.execute(&sql, [value])
            }
            Self::Blob(table, bytes) => {
                let sql = format!("UPDATE {table} SET record=?1 WHERE {}", first(table));
                raw.execute(&sql, [bytes])
            }
            Self::Gone(table) => {
                raw.execute(&format!("DELETE FROM {table} WHERE {}", first(table)), [])
            }
        };
    }
}

/// Each case opens several databases; `PROPTEST_CASES` asks for more of them.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let all = ProptestConfig::default();
    let cases = if asked { all.cases } else { 100 };
    ProptestConfig { cases, failure_persistence: None, ..all }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn sidecars_of_a_lost_database(
        damages in prop::collection::vec((0..SIDECARS.len(), damage()), 1..4),
    ) {
        let dir = filled();
        for (which, damage) in &damages {
            let path = dir.file(SIDECARS[*which]);
            fs::write(&path, damage.apply(&fs::read(&path).unwrap())).unwrap();
        }
        fs::remove_file(dir.file("pool.db")).unwrap();
        works(&dir)?;
    }

    #[test]
    fn sidecars_beside_a_sound_database(
        damages in prop::collection::vec((0..SIDECARS.len(), damage()), 1..3),
    ) {
        let dir = filled();
        for (which, damage) in &damages {
            let path = dir.file(SIDECARS[*which]);
            fs::write(&path, damage.apply(&fs::read(&path).unwrap())).unwrap();
        }
        works(&dir)?;
    }

    #[test]
    fn rows_of_the_database(rows in prop::collection::vec(row(), 1..4)) {
        let dir = filled();
        for row in &rows {
            row.apply(&dir);
        }
        works(&dir)?;
    }

    #[test]
    fn bytes_of_the_database(damage in damage(), with_log in any::<bool>()) {
        let dir = filled();
        let bytes = fs::read(dir.file("pool.db")).unwrap();
        fs::write(dir.file("pool.db"), damage.apply(&bytes)).unwrap();
        if with_log {
            fs::write(dir.file("pool.db-wal"), damage.apply(&bytes)).unwrap();
        }
        works(&dir)?;
    }
}
