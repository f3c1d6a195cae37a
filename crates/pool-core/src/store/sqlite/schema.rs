//! The database's tables, their versions, and connections to it.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::patience;
use super::records::newer;
use super::trouble::Trouble;
use crate::error::{Error, ErrorKind};

/// What leads from each version to the next. A version's text is never edited once released; what
/// an older program can't read (a new state of a slot, too) needs a new version.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE slots(slot INTEGER PRIMARY KEY, state TEXT NOT NULL, record TEXT NOT NULL);
    CREATE TABLE waiters(ticket INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE sessions(id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE ended(place INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE events(sequence INTEGER PRIMARY KEY, record TEXT NOT NULL);
"];

/// Makes a database with empty tables in a file that does not exist.
pub(super) fn create(path: &Path) -> Result<Connection, Trouble> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let message = format!("SQLite's WAL does not work where {} is", path.display());
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("set the pool directory (`pool_dir`) to a path on a local disk")
            .into());
    }
    migrate(&connection, 0)?;
    Ok(connection)
}

/// Opens the database, which must exist, and brings it to this version. The caller holds the lock.
pub(super) fn open(path: &Path) -> Result<Connection, Trouble> {
    // SQLite takes an empty file for a new database and throws its log away.
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => return Err(Trouble::Damaged("it is empty".into())),
        Ok(meta) if !meta.is_file() => {
            let message = format!("{} is not a file", path.display());
            return Err(Error::new(ErrorKind::Store, message).with_hint("move it away").into());
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Trouble::Damaged("it is gone".into()));
        }
        Err(error) => return Err(Error::io(format!("open {}", path.display()), error).into()),
    }
    let connection = connect(path, OpenFlags::empty())?;
    let version = known_version(&connection)?;
    if version < 1 {
        return Err(Trouble::Damaged("it is not a pool's database".into()));
    }
    migrate(&connection, version)?;
    for table in ["meta", "slots", "waiters", "sessions", "ended"] {
        let sql = format!("PRAGMA quick_check({table})");
        let verdict: String = connection.query_row(&sql, [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Trouble::Damaged(verdict));
        }
    }
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Trouble> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    patience::install(&connection)?;
    connection.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;
         PRAGMA temp_store=MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Returns the database's version.
///
/// # Errors
///
/// If it is newer than this program. A newer program can upgrade the database at any time, so
/// this is asked in each transaction.
pub(super) fn known_version(connection: &Connection) -> Result<i64, Trouble> {
    let (version, known) = (version(connection)?, MIGRATIONS.len() as i64);
    match version > known {
        true => {
            let path = connection.path().unwrap_or_default();
            let why = format!("its format is {version}, this program knows {known}");
            Err(newer(&format!("the database {path}"), &why).into())
        }
        false => Ok(version),
    }
}

/// Fails if the file is the database of a newer version, whatever else it may be.
pub(super) fn refuse_newer(path: &Path) -> Result<(), Error> {
    let known = connect(path, OpenFlags::empty()).and_then(|found| known_version(&found));
    match known {
        Err(Trouble::Failed(newer)) => Err(newer),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn version(connection: &Connection) -> Result<i64, Trouble> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

fn migrate(connection: &Connection, from: i64) -> Result<(), Trouble> {
    let known = MIGRATIONS.len() as i64;
    if from == known {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let migrated = (|| {
        // Another process may have been faster.
        let from = usize::try_from(version(connection)?).unwrap_or(0);
        for step in MIGRATIONS.iter().skip(from) {
            connection.execute_batch(step)?;
        }
        connection.execute_batch(&format!("PRAGMA user_version={known}; COMMIT"))?;
        Ok(())
    })();
    if migrated.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    migrated
}
