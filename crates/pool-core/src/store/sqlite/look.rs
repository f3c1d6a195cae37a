//! Looking at the records where nothing can be written: on a read-only or full filesystem.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};

use super::layout::Layout;
use super::{ATTEMPTS, Change, LeaseStore, Logged, records, schema};
use crate::error::{Error, ErrorKind, Result};
use crate::state::PoolState;
use crate::store::sqlite::trouble::Trouble;
use crate::task::join;

/// The records of a pool on disk, without any right to write: it makes no file, takes no lock, and
/// refuses each change. What damages the records is not repaired.
#[derive(Clone, Debug)]
pub struct ReadOnlyStore {
    layout: Layout,
}

impl ReadOnlyStore {
    /// Looks at the store in `pool_dir`.
    ///
    /// # Errors
    ///
    /// If the directory cannot be resolved.
    pub fn open(pool_dir: &Path) -> Result<Self> {
        Ok(Self { layout: Layout::existing(pool_dir)? })
    }

    async fn read<R: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<R, Trouble> + Send + 'static,
    ) -> Result<R> {
        let layout = self.layout.clone();
        join(tokio::task::spawn_blocking(move || read(&layout, work))).await
    }
}

#[async_trait]
impl LeaseStore for ReadOnlyStore {
    async fn load(&self) -> Result<PoolState> {
        self.read(|tx| Ok(records::read(tx)?.state)).await
    }

    async fn change(&self, _: Change) -> Result<()> {
        let dir = self.layout.directory().display();
        let message = format!("cannot change the pool {dir}: it is open for looking only");
        Err(Error::new(ErrorKind::PermissionDenied, message))
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Logged>> {
        self.read(move |tx| records::events(tx, after, limit)).await
    }

    fn pool_dir(&self) -> Option<&Path> {
        Some(self.layout.directory())
    }
}

fn read<R>(layout: &Layout, work: impl Fn(&Connection) -> Result<R, Trouble>) -> Result<R> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let before = stamp(layout);
        let has_log = fs::metadata(layout.log()).is_ok_and(|meta| meta.len() > 0);
        let result = connect(&layout.database(), has_log).and_then(|connection| {
            let tx = connection.unchecked_transaction()?;
            schema::known_version(&tx)?;
            work(&tx)
        });
        // Without a log there was no lock: another process may have written meanwhile.
        if has_log || stamp(layout) == before {
            return result.map_err(|trouble| trouble.into_error(layout));
        }
        last = result.err();
    }
    let busy = || Error::new(ErrorKind::Busy, "the records change while they are looked at");
    Err(last.map_or_else(busy, |trouble| trouble.into_error(layout)))
}

/// With a log, SQLite reads it, with an index of it in memory if it cannot make one on disk. Without, the
/// database is whole; `immutable` is to say that SQLite need make neither.
fn connect(path: &Path, has_log: bool) -> Result<Connection, Trouble> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let encoded = path.as_os_str().as_encoded_bytes().iter().map(|byte| match is_plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    let encoded: String = encoded.collect();
    let immutable = if has_log { "" } else { "&immutable=1" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(format!("file:{encoded}?mode=ro{immutable}"), flags)?;
    connection.execute_batch(
        "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;",
    )?;
    Ok(connection)
}

/// What is different once another process has written.
fn stamp(layout: &Layout) -> [Option<(u64, std::time::SystemTime)>; 2] {
    let look = |path: PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    [look(layout.database()), look(layout.log())]
}
