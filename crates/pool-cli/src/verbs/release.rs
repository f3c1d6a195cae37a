//! `wtpool release`.

use pool_core::{Error, ErrorKind, Lookup, Release};

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
    let report = context.pool.release(&token, how).await;
    drop(progress);
    let report = report?;
    reaper::ensure_if_needed(&context).await;
    if context.out.json {
        context.out.document(&ReleaseDocument::new(&token.lease, &report))?;
    }
    for line in story(&report, &context.pool.place(report.slot), text) {
        context.out.remark(format!("wtpool: {line}"));
    }
    Ok(0)
}
