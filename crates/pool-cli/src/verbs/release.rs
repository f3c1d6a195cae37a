//! `wtpool release`.

use pool_core::{Error, ErrorKind, Lookup, Release, ReleaseReport, SlotState, Token};

use std::time::Duration;

use crate::cli::{Global, Outcome, duration};
use crate::context::{Access, Context};
use crate::error::Result;
use crate::output::{ReleaseDocument, story};
use crate::progress::Progress;
use crate::reaper;
use crate::settings::Span;

pub(crate) async fn perform(
    global: &Global,
    text: &str,
    outcome: Outcome,
    linger: Option<Span>,
) -> Result<u8> {
    let context = Context::open(global, None, Access::Visit)?;
    let token = match context.find(text).await? {
        Lookup::Slot(slot) => slot.state.lease().map(pool_core::Lease::token),
        Lookup::Ended(ended) => Some(ended.token.clone()),
    };
    let token = token.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("nobody has a lease on {text}"))
            .with_hint("`wtpool list` shows the leases there are")
    })?;
    let how = Release { outcome: outcome.into(), linger: duration(linger) };
    let progress = Progress::spinner(&context.out, "saving what would be lost");
    let report = match context.pool.release(&token, how).await {
        Err(error) => ended_by_another(&context, &token, error).await,
        done => done,
    };
    drop(progress);
    let report = report?;
    reaper::ensure_if_needed(&context).await;
    if context.out.json {
        context.out.document(&ReleaseDocument::new(&token.lease, &report))?;
    }
    for line in story(&report, &context.pool.place(report.slot)) {
        context.out.remark(format!("wtpool: {line}"));
    }
    Ok(0)
}

/// What became of a lease that somebody else, usually the reaper, began to end just before us: waits
/// until that is done. Any other `error` is returned as it is.
pub(super) async fn ended_by_another(
    context: &Context,
    token: &Token,
    error: Error,
) -> pool_core::Result<ReleaseReport> {
    if error.kind() != ErrorKind::StaleLease {
        return Err(error);
    }
    loop {
        match context.pool.find(token.lease.as_str()).await {
            Ok(Lookup::Ended(_)) => break,
            Ok(Lookup::Slot(slot)) if !matches!(slot.state, SlotState::Releasing { .. }) => break,
            Ok(Lookup::Slot(_)) => tokio::time::sleep(POLL).await,
            Err(_) => return Err(error),
        }
    }
    context.pool.release(token, Release::default()).await
}

const POLL: Duration = Duration::from_millis(20);
