//! `wtpool show`.

use std::path::PathBuf;

use jiff::Timestamp;
use pool_core::{
    BranchReport, Disposition, EndReason, EndedLease, LeaseId, LeaseName, Lookup, Outcome, Rescue,
    SlotId,
};
use serde::Serialize;

use super::list::SlotDocument;
use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::Result;

/// A lease that is over, as programs see it.
#[derive(Serialize)]
struct EndedDocument {
    lease: LeaseId,
    name: LeaseName,
    slot: SlotId,
    generation: u64,
    state: &'static str,
    ended_at: Timestamp,
    reason: EndReason,
    outcome: Outcome,
    branch: Option<BranchReport>,
    rescue: Option<Rescue>,
    disposition: Disposition,
    /// Where the worktree is, if it was moved away by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<PathBuf>,
}

impl EndedDocument {
    fn new(context: &Context, mut ended: EndedLease) -> Self {
        let moved_to = context.git.moved_to(&ended.token.lease).ok().flatten();
        if let Some(branch) = ended.end.branch.as_mut().filter(|_| moved_to.is_some()) {
            // It stayed, since that worktree has it checked out.
            let now = context.git.branch_now(&branch.name).ok().flatten().flatten();
            branch.kept |= now == moved_to;
        }
        Self {
            moved_to,
            lease: ended.token.lease,
            name: ended.name,
            slot: ended.slot,
            generation: ended.token.generation.0,
            state: "ended",
            ended_at: ended.at.wall,
            reason: ended.end.reason,
            outcome: ended.end.outcome,
            branch: ended.end.branch,
            rescue: ended.end.rescue,
            disposition: ended.disposition,
        }
    }
}

pub(crate) async fn perform(global: &Global, text: &str) -> Result<u8> {
    let context = Context::open_for(global, text, Access::Look)?;
    let value = match context.find(text).await? {
        Lookup::Slot(slot) => serde_json::to_value(SlotDocument::new(&context, &slot).await),
        Lookup::Ended(ended) => serde_json::to_value(EndedDocument::new(&context, *ended)),
    };
    let mut value = value.map_err(|e| {
        pool_core::Error::new(pool_core::ErrorKind::Other, format!("cannot show it: {e}"))
    })?;
    // A lease is shown as `acquire` printed it, with what is known of its slot beside.
    if let Some(mut lease) =
        value.get_mut("lease").filter(|l| l.is_object()).map(serde_json::Value::take)
        && let (Some(lease), Some(slot)) = (lease.as_object_mut(), value.as_object_mut())
    {
        slot.append(lease);
    }
    if context.out.json {
        context.out.document(&value)?;
        return Ok(0);
    }
    let mut lines = Vec::new();
    describe("", &value, &mut lines);
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, text) in lines {
        context.out.line(format!("{key:width$}  {text}"))?;
    }
    Ok(0)
}

fn describe(prefix: &str, value: &serde_json::Value, lines: &mut Vec<(String, String)>) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                describe(&key, value, lines);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| describe(prefix, item, lines)),
        Value::Null => lines.push((prefix.to_owned(), "-".to_owned())),
        Value::String(text) => lines.push((prefix.to_owned(), crate::output::printable(text))),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}
