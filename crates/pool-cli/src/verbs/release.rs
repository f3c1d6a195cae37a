//! `wtpool release`.

use pool_core::Release;

use crate::cli::{Global, Outcome, duration};
use crate::context::{Context, Own};
use crate::error::Result;
use crate::output::{ReleaseDocument, ending, story};
use crate::progress::Progress;
use crate::reaper;
use crate::settings::Span;

pub(crate) async fn perform(
    global: &Global,
    text: &str,
    given: Option<&str>,
    outcome: Outcome,
    linger: Option<Span>,
) -> Result<u8> {
    let context = Context::open_for(global, text)?;
    let Own { token, name, .. } = context.find_own("release", text, given).await?;
    let how = Release { outcome: outcome.into(), linger: duration(linger) };
    let progress = Progress::spinner(&context.out, "saving what would be lost");
    let report = context.pool.release(&token, how).await;
    drop(progress);
    let report = report?;
    reaper::ensure_if_needed(&context).await;
    if context.out.json {
        context.out.document(&ReleaseDocument::new(&token.lease, &report))?;
    }
    context.out.remark(format!("wtpool: {}", ending(&report, &name, &token.lease)));
    for line in story(&report, &context.pool.place(report.slot), name.as_str()) {
        context.out.remark(format!("wtpool: {line}"));
    }
    Ok(0)
}
