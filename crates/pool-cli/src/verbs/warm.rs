//! `wtpool warm`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::{self, Result};
use crate::output::counted;
use crate::progress::Progress;
use crate::reaper;

#[derive(Serialize)]
struct Document {
    idle: Vec<PathBuf>,
    made: u32,
}

pub(crate) async fn perform(
    global: &Global,
    count: Option<u32>,
    base: Option<String>,
    cache: Option<&str>,
) -> Result<u8> {
    let context = Context::open(global, cache, Access::Lease)?;
    let count = count.unwrap_or(context.settings.keep_warm);
    let no_base = super::cache::prepare(&context, base.clone()).await;
    let origin = context.repository.worktree().map(Path::to_owned);
    context.leave_slot();
    let progress = Progress::steps(&context.out, u64::from(count), "warming");
    let warmed = context
        .pool
        .warm(count, base, origin, &|| {
            progress.advance(1);
            // From the first slot on there is something to watch over.
            reaper::ensure(&context);
        })
        .await;
    drop(progress);
    reaper::ensure_if_needed(&context).await;
    let report = warmed?;
    context.out.remark(format!(
        "wtpool: {} idle, {} of them new",
        counted(report.idle.len() as u64, "slot"),
        report.made
    ));
    if (report.idle.len() as u64) < u64::from(count) {
        context.out.remark(format!(
            "wtpool: no more could be made: max_leases is {}",
            context.settings.max_leases
        ));
    }
    if context.out.json {
        context.out.document(&Document { idle: report.idle, made: report.made })?;
    } else {
        for path in report.idle {
            context.out.exactly(&path.display().to_string())?;
        }
    }
    // Slots are made all the same: builds in them are right, and start from nothing.
    let Some(why) = no_base else { return Ok(0) };
    let message = format!("there is no base of the build cache: {why}");
    error::tell(why.kind().as_str(), &message, why.hint(), context.out.json);
    Ok(1)
}
