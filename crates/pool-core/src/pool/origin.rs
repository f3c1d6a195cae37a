//! Where a pool's records and claims are: one answer for every process that uses a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::isolator::Isolator;
use crate::liveness::{FileLiveness, Liveness, LocalLiveness};
use crate::store::{LeaseStore, MemoryStore};

/// The store and the liveness of a pool: those that were given, or else those that belong to the
/// backend's directory.
///
/// # Errors
///
/// When other processes that use the directory see other records or other claims than this pool
/// would: its reconciliation would then end their leases, and theirs its own.
pub(super) fn resolve(
    isolator: &dyn Isolator,
    store: Option<Arc<dyn LeaseStore>>,
    liveness: Option<Arc<dyn Liveness>>,
) -> Result<(Arc<dyn LeaseStore>, Arc<dyn Liveness>)> {
    let store = match (store, isolator.pool_dir()) {
        (Some(store), _) => store,
        (None, Some(dir)) => on_disk(dir)?,
        (None, None) => Arc::new(MemoryStore::new()),
    };
    if let Some(dir) = isolator.pool_dir() {
        check_records(&*store, dir)?;
    }
    let Some(records) = store.pool_dir() else {
        return Ok((store, liveness.unwrap_or_else(|| Arc::new(LocalLiveness::default()))));
    };
    let shared = FileLiveness::of_pool(records);
    let liveness = match liveness {
        None => Arc::new(shared),
        Some(given) => {
            check_claims(&*given, &shared, records)?;
            given
        }
    };
    Ok((store, liveness))
}

#[cfg(feature = "sqlite")]
fn on_disk(dir: &Path) -> Result<Arc<dyn LeaseStore>> {
    Ok(Arc::new(crate::SqliteStore::open(dir)?))
}

#[cfg(not(feature = "sqlite"))]
fn on_disk(dir: &Path) -> Result<Arc<dyn LeaseStore>> {
    let message = format!(
        "cannot open the pool {} on disk: pool-core was built without its feature `sqlite`",
        dir.display()
    );
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_hint("run: cargo add pool-core --features sqlite"))
}

fn check_records(store: &dyn LeaseStore, dir: &Path) -> Result<()> {
    match store.pool_dir() {
        None => store.reserve_dir(dir),
        Some(records) if is_same(records, dir) => Ok(()),
        Some(records) => {
            let message = format!(
                "cannot open the pool {}: its records would be in {}, where no other process that \
                 uses the pool looks for them",
                dir.display(),
                records.display()
            );
            Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("leave the store out to open the pool on disk, as `wtpool` does"))
        }
    }
}

fn check_claims(given: &dyn Liveness, shared: &FileLiveness, records: &Path) -> Result<()> {
    if given.claims_dir().is_some_and(|claims| is_same(claims, shared.dir())) {
        return Ok(());
    }
    let claims = match given.claims_dir() {
        Some(claims) => format!("in {}", claims.display()),
        None => "within this process".to_owned(),
    };
    let message = format!(
        "cannot open the pool {}: its claims are in {}, and this liveness keeps them {claims}, so \
         that each side would end the other's leases as those of dead holders",
        records.display(),
        shared.dir().display()
    );
    Err(Error::new(ErrorKind::InvalidInput, message)
        .with_hint("leave the liveness out, or use `FileLiveness::of_pool`"))
}

/// Whether two paths are one directory, which need not exist yet.
fn is_same(one: &Path, other: &Path) -> bool {
    resolved(one) == resolved(other)
}

fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let by_parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(by_parent).unwrap_or(path)
}
