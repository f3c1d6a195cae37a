//! `wtpool prune`.

use pool_core::{ErrorKind, PruneOptions, SqliteStore};
use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Place};
use crate::error::{Failure, Result};
use crate::progress::Progress;
use crate::reaper;

#[derive(Serialize)]
struct Document {
    dry_run: bool,
    done: Vec<String>,
    files_deleted: u64,
}

pub(crate) async fn perform(global: &Global, dry_run: bool, all: bool) -> Result<u8> {
    let place = Place::find(global, None, Access::Visit)?;
    let pool_dir = place.pool_dir.clone();
    match prune(place, global, dry_run, all).await {
        // To record what is removed takes room, which is set aside for just this.
        Err(Failure::Error(e))
            if !dry_run
                && e.kind() == ErrorKind::NoSpace
                && SqliteStore::give_up_reserve(&pool_dir) =>
        {
            let place = Place::find(global, None, Access::Visit)?;
            prune(place, global, dry_run, all).await
        }
        done => done,
    }
}

async fn prune(place: Place, global: &Global, dry_run: bool, all: bool) -> Result<u8> {
    let context = place.open(global, Access::Visit)?;
    let progress = Progress::spinner(&context.out, "pruning");
    let options = PruneOptions { dry_run, all };
    let pruned = context
        .pool
        .prune(options, &|deleted| {
            progress.advance(deleted);
            progress.message(format!("deleting: {} files", progress.position()));
        })
        .await;
    let files_deleted = progress.position();
    drop(progress);
    if !dry_run {
        reaper::ensure_if_needed(&context).await;
    }
    let done = pruned?.done;
    if context.out.json {
        context.out.document(&Document { dry_run, done, files_deleted })?;
        return Ok(0);
    }
    if done.is_empty() {
        context.out.remark("nothing to do");
    }
    for line in done {
        context.out.line(if dry_run { format!("would {line}") } else { line })?;
    }
    Ok(0)
}
