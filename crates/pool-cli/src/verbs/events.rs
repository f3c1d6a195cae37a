//! `wtpool events`.

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
}

impl From<Logged> for Document {
    fn from(Logged { sequence, event }: Logged) -> Self {
        Self {
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
            let document = Document::from(logged);
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
    line
}
