//! `wtpool release`.

use std::path::PathBuf;

use pool_core::{Disposition, EndReason, Release, ReleaseReport};

use crate::cli::{Global, Outcome, duration};
use crate::context::{Access, Context, Own};
use crate::error::Result;
use crate::exposure;
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
    let context = Context::open_for(global, text, Access::Visit)?;
    let Own { token, name, .. } = context.find_own("release", text, given).await?;
    let how = Release { outcome: outcome.into(), linger: duration(linger) };
    let progress = Progress::spinner(&context.out, "saving what would be lost");
    let report = context.pool.release(&token, how).await;
    drop(progress);
    let mut report = report?;
    let moved_to = still_there(&context, &mut report);
    reaper::ensure_if_needed(&context).await;
    if context.out.json {
        context.out.document(&ReleaseDocument::new(&token.lease, &report))?;
    }
    context.out.remark(format!("wtpool: {}", ending(&report, &name, &token.lease)));
    for line in story(&report, &context.pool.place(report.slot), name.as_str()) {
        context.out.remark(format!("wtpool: {line}"));
    }
    if report.rescue.is_some() {
        exposure::tell_once(&context);
    }
    if let Some(path) = moved_to {
        context.out.remark(format!("wtpool: it is checked out in {}", path.display()));
    }
    Ok(0)
}

/// Corrects the report of a branch that was to go and has stayed, since another worktree has it
/// checked out: the lease's own, if it was moved away. Returns that worktree.
fn still_there(context: &Context, report: &mut ReleaseReport) -> Option<PathBuf> {
    let is_over = matches!(report.disposition, Disposition::Removed | Disposition::Recycled)
        || report.reason == EndReason::WorkspaceGone;
    let branch = report.branch.as_mut().filter(|branch| is_over && !branch.kept)?;
    let found = context.git.branch_now(&branch.name).ok().flatten()?;
    branch.kept = true;
    found
}
