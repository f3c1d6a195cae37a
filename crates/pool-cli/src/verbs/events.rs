//! `wtpool events`.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use pool_core::{EventKind, LeaseId, LeaseName, Logged, SlotId};
use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::Result;

const PAGE: usize = 500;
const POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Document {
    sequence: u64,
    at: Timestamp,
    event: EventKind,
    slot: Option<SlotId>,
    lease: Option<LeaseId>,
    name: Option<LeaseName>,
    generation: Option<u64>,
    note: Option<String>,
    /// Where the lease's worktree is now, if it was moved away by hand before the lease ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<PathBuf>,
}

impl Document {
    fn new(context: &Context, Logged { sequence, event }: Logged) -> Self {
        let ended = event.lease.as_ref().filter(|_| event.kind == EventKind::Releasing);
        Self {
            moved_to: ended.and_then(|lease| context.git.moved_to(lease).ok()?),
            sequence,
            at: event.at,
            event: event.kind,
            slot: event.slot,
            lease: event.lease,
            name: event.name,
            generation: event.generation.map(|g| g.0),
            note: event.note,
        }
    }
}

pub(crate) async fn perform(global: &Global, follow: bool) -> Result<u8> {
    let mut context = Context::open(global, None, Access::Look)?;
    while follow && !context.exists {
        // Nothing will ever happen in the empty pool that stands for one that is yet to be made.
        tokio::time::sleep(POLL).await;
        context = Context::open(global, None, Access::Look)?;
    }
    let mut sequence = 0;
    loop {
        let page = context.pool.events_after(sequence, PAGE).await?;
        let last = page.len() < PAGE;
        for logged in page {
            sequence = logged.sequence;
            let document = Document::new(&context, logged);
            if context.out.json {
                context.out.document(&document)?;
            } else {
                context.out.line(line(&document))?;
            }
        }
        match (last, follow) {
            (false, _) => {}
            (true, true) => tokio::time::sleep(POLL).await,
            (true, false) => return Ok(0),
        }
    }
}

fn line(document: &Document) -> String {
    let at = document.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    let mut line = format!("{at}  {:13}", document.event.as_str());
    if let Some(slot) = document.slot {
        line.push_str(&format!("  slot {slot}"));
    }
    if let Some(name) = &document.name {
        line.push_str(&format!("  {name}"));
    }
    if let Some(note) = &document.note {
        line.push_str(&format!("  {}", crate::output::printable(note)));
    }
    if let Some(path) = &document.moved_to {
        let path = crate::output::printable(&path.to_string_lossy());
        line.push_str(&format!("; its worktree was moved to {path}"));
    }
    line
}
