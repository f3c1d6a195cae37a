//! Opening the database that is there; making it again when it is lost, damaged or behind.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::layout::{Identity, Layout, Lock};
use super::records::{self, Snapshot};
use super::sidecar::{Found, Sidecars};
use super::trouble::Trouble;
use super::{ATTEMPTS, schema};
use crate::error::{Error, ErrorKind, Result};

/// A connection to a sound database that agrees with the sidecars, and which file that is.
pub(super) fn open(layout: &Layout, patience: Duration) -> Result<(Connection, Identity), Trouble> {
    let mut last = Trouble::Damaged("it is replaced again and again".into());
    for _ in 0..ATTEMPTS {
        let seen = layout.identity()?;
        match try_open(layout, patience) {
            Ok(open) => return Ok(open),
            Err(trouble) => match trouble.damage() {
                Some(damage) => {
                    rebuild(layout, &seen, &damage, patience)?;
                    last = trouble;
                }
                None => return Err(trouble),
            },
        }
    }
    Err(last)
}

fn try_open(layout: &Layout, patience: Duration) -> Result<(Connection, Identity), Trouble> {
    layout.check_room()?;
    let behind = {
        let _shared = Lock::shared(layout, patience)?;
        let mut connection = schema::open(&layout.database())?;
        if mend(layout, &mut connection)? {
            return Ok((connection, layout.identity()?));
        }
        connection
    };
    // Nobody is in the middle of a change now, by whatever log they go.
    let _alone = Lock::exclusive(layout, patience)?;
    drop(behind);
    let mut connection = schema::open(&layout.database())?;
    catch_up(layout, &mut connection)?;
    Ok((connection, layout.identity()?))
}

/// Writes the sidecars anew that don't say what the database says. `false`: they know of changes
/// that the database does not know of.
fn mend(layout: &Layout, connection: &mut Connection) -> Result<bool, Trouble> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    schema::known_version(&tx)?;
    // The database first: what is committed later is then no contradiction to be missed.
    let snapshot = records::read(&tx)?;
    let found = Found::read(layout)?;
    drop(tx);
    if found.revision() <= snapshot.revision && found.agree_with(&snapshot) {
        return Ok(true);
    }
    // Perhaps somebody is just changing something; not while this transaction runs.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::known_version(&tx)?;
    let snapshot = records::read(&tx)?;
    let found = Found::read(layout)?;
    if found.revision() > snapshot.revision {
        return Ok(false);
    }
    if !found.agree_with(&snapshot) {
        tracing::warn!(pool = %layout.directory().display(), "mending slots' own records");
        match write_all(layout, &snapshot) {
            // The records themselves are sound, and needed to free some space.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "slots' own records are not mended yet");
            }
            result => result?,
        }
    }
    Ok(true)
}

fn write_all(layout: &Layout, snapshot: &Snapshot) -> Result<()> {
    let mut sidecars = Sidecars::stage(layout, None, snapshot)?;
    sidecars.publish()?;
    sidecars.keep();
    Ok(())
}

/// Brings a database that is older than the sidecars (its log was deleted, it was put back from a copy, or
/// the power failed just before a change was committed) to what they say.
fn catch_up(layout: &Layout, connection: &mut Connection) -> Result<(), Trouble> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::known_version(&tx)?;
    let before = records::read(&tx)?;
    let found = Found::read(layout)?;
    if found.revision() <= before.revision {
        return Ok(());
    }
    tracing::warn!(
        database = %layout.database().display(),
        "the database is older than the slots' own records; it is brought up to date from them"
    );
    let after = found.catch_up(&before);
    found.set_aside_unreadable(layout, &stamp())?;
    let mut sidecars = Sidecars::stage(layout, None, &after)?;
    records::write(&tx, &before, after, &[])?;
    sidecars.publish()?;
    crate::fail_point!("pool-core::recovery::caught-up");
    tx.commit()?;
    sidecars.keep();
    Ok(())
}

/// Makes the database again from the sidecars, unless it is no longer the one that was `seen`:
/// then another process was faster.
pub(super) fn rebuild(
    layout: &Layout,
    seen: &Identity,
    damage: &str,
    patience: Duration,
) -> Result<()> {
    let _alone = Lock::exclusive(layout, patience)?;
    let now = layout.identity()?;
    if seen.database != now.database {
        return Ok(());
    }
    schema::refuse_newer(&layout.database())?;
    let found = Found::read(layout)?;
    let stamp = stamp();
    let moved = move_aside(layout, &stamp)?;
    crate::fail_point!("pool-core::recovery::moved-aside");
    if moved || !found.is_empty() {
        tracing::warn!(
            database = %layout.database().display(),
            damage,
            "the database is rebuilt from the slots' own records; who waits must queue again"
        );
    }
    let snapshot = found.restore();
    found.set_aside_unreadable(layout, &stamp)?;
    build(layout, snapshot).map_err(|trouble| trouble.into_error(layout))
}

/// Under another name first, so that a database that bears the name is complete.
fn build(layout: &Layout, snapshot: Snapshot) -> Result<(), Trouble> {
    let unfinished = layout.directory().join("pool.db.new");
    for suffix in ["", "-wal", "-shm"] {
        let path = layout.directory().join(format!("pool.db.new{suffix}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), error).into());
            }
            _ => {}
        }
    }
    let mut connection = schema::create(&unfinished)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut sidecars = Sidecars::stage(layout, None, &snapshot)?;
    records::write(&tx, &Snapshot::default(), snapshot, &[])?;
    sidecars.publish()?;
    tx.commit()?;
    crate::fail_point!("pool-core::recovery::built");
    // Closing the only connection brings everything into the one file.
    connection.close().map_err(|(_, error)| error)?;
    sync(&unfinished)?;
    let database = layout.database();
    crate::fail_point!("pool-core::recovery::synced");
    fs::rename(&unfinished, &database).map_err(|e| {
        Error::io(format!("rename {} to {}", unfinished.display(), database.display()), e)
    })?;
    #[cfg(unix)]
    {
        sync(layout.directory())?;
        // The directory itself may be new. Those above it may be somebody else's, and not readable.
        let above = layout.directory().ancestors().skip(1).take(2);
        above.for_each(|dir| drop(sync(dir)));
    }
    sidecars.keep();
    Ok(())
}

fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|e| Error::io(format!("sync {}", path.display()), e))
}

/// Whether there was anything.
fn move_aside(layout: &Layout, stamp: &str) -> Result<bool> {
    let mut moved = false;
    // The database last: as long as it is there under its name, this is not finished.
    for (path, suffix) in layout.database_files().into_iter().rev() {
        let aside = layout.directory().join(format!("pool.db.corrupt-{stamp}{suffix}"));
        match fs::rename(&path, &aside) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let doing = format!("move {} to {}", path.display(), aside.display());
                return Err(Error::io(doing, error));
            }
        }
    }
    Ok(moved)
}

fn stamp() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%S.%6fZ").to_string()
}
