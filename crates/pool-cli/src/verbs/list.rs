//! `wtpool list`.

use std::path::PathBuf;

use git_backend::Other;
use git_backend::OtherPool;
use pool_core::{PoolState, Slot, SlotId, SlotState};
use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::Result;
use crate::output::{self, LeaseDocument, WaiterDocument, counted};

#[derive(Serialize)]
struct Document {
    pool_dir: PathBuf,
    repo: PathBuf,
    max_leases: u32,
    slots: Vec<SlotDocument>,
    /// What lies in the directories of slots that is not the pool's.
    others: Vec<OtherDocument>,
    waiting: Vec<WaiterDocument>,
    other_pools: Vec<OtherPoolDocument>,
}

/// A pool beside this one that is, was or may have been the repository's.
#[derive(Serialize)]
struct OtherPoolDocument {
    pool_dir: PathBuf,
    owner: PathBuf,
    slots: usize,
    advice: String,
}

#[derive(Serialize)]
struct OtherDocument {
    slot: SlotId,
    path: PathBuf,
    what: String,
    /// The command that moves it out of the slot's directory, or clears it.
    command: String,
}

/// A slot, as programs see it.
#[derive(Serialize)]
pub(crate) struct SlotDocument {
    slot: SlotId,
    path: PathBuf,
    state: &'static str,
    lease: Option<LeaseDocument>,
    bytes: Option<u64>,
    kept_because: Option<String>,
    /// Where the worktree was moved to by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) moved_to: Option<PathBuf>,
    /// The name that the lease's branch was made with, if it was renamed by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    branch_was: Option<String>,
}

impl SlotDocument {
    pub(crate) async fn new(context: &Context, slot: &Slot) -> Self {
        let state = state(slot);
        let lease = slot.state.lease();
        let mut lease =
            lease.map(|l| LeaseDocument::new(context, slot.id, l, state).with_inherited());
        let was = lease.as_ref().and_then(|lease| lease.branch.clone());
        let now = was.as_ref().and_then(|was| context.git.branch_renamed(slot.id, was).ok()?);
        let branch_was = now.and_then(|now| lease.as_mut()?.branch.replace(now));
        Self {
            slot: slot.id,
            path: context.pool.place(slot.id),
            state,
            lease,
            // Of a slot that is just being made or removed nobody knows.
            bytes: context.pool.isolator().usage(slot.id).await.ok(),
            kept_because: kept_because(slot),
            moved_to: context.moved_to(slot),
            branch_was,
        }
    }
}

impl OtherPoolDocument {
    fn new(other: &OtherPool) -> Self {
        Self {
            pool_dir: other.pool_dir.clone(),
            owner: other.owner.clone(),
            slots: other.slots,
            advice: other.advice.clone(),
        }
    }
}

pub(crate) async fn perform(global: &Global) -> Result<u8> {
    let context = Context::open(global, None, Access::Look)?;
    let state = context.pool.list().await?;
    let mut slots = Vec::new();
    for slot in state.slots.values() {
        slots.push(SlotDocument::new(&context, slot).await);
    }
    let strays = context.others().into_iter();
    let now = context.pool.now();
    let waiting = state.waiters.values().zip(1..);
    let waiting = waiting.map(|(waiter, n)| WaiterDocument::new(n, waiter, &now)).collect();
    let others = context.repository.other_pools(&context.pool_dir);
    let document = Document {
        pool_dir: context.pool_dir.clone(),
        repo: context.repository_path().to_owned(),
        max_leases: context.settings.max_leases,
        slots,
        others: strays
            .map(|Other { slot, path, what, command, .. }| OtherDocument {
                slot,
                path,
                what,
                command,
            })
            .collect(),
        waiting,
        other_pools: others.iter().map(OtherPoolDocument::new).collect(),
    };
    if context.out.json {
        context.out.document(&document)?;
        return Ok(0);
    }
    for other in &others {
        let (dir, slots) = (other.pool_dir.display(), counted(other.slots as u64, "slot"));
        context.out.remark(format!("{dir} ({slots}) {}; {}", other.what, other.advice));
    }
    if document.slots.is_empty() && document.waiting.is_empty() {
        context.out.remark(format!("no slots in {}", document.pool_dir.display()));
        return show_others(&context, &document).map(|()| 0);
    }
    show(&context, &state, &document)?;
    show_others(&context, &document)?;
    Ok(0)
}

fn show_others(context: &Context, document: &Document) -> Result<()> {
    if document.others.is_empty() {
        return Ok(());
    }
    let rows = document.others.iter().map(|other| {
        [other.slot.to_string(), other.what.clone(), other.path.display().to_string()]
    });
    let rows = rows.collect();
    context.out.line(format!("\n{}", output::table(["slot", "also there", "path"], rows)))
}

fn show(context: &Context, state: &PoolState, document: &Document) -> Result<()> {
    let now = context.pool.now();
    let row = |found: &SlotDocument| {
        let slot = state.slots.get(&found.slot)?;
        let lease = slot.state.lease();
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let since = lease.map_or(&slot.last_used, |lease| &lease.acquired);
        let until = match &slot.state {
            SlotState::Lingering { until, .. } => Some(until),
            _ => lease.and_then(|lease| lease.deadline.as_ref()),
        };
        Some([
            found.slot.to_string(),
            found.state.to_owned(),
            text(lease.map(|l| l.name.as_str())),
            text(lease.map(|l| l.holder.as_str())),
            text(found.lease.as_ref().and_then(|lease| lease.branch.as_deref())),
            output::ago(&now, since),
            until.map_or("-".to_owned(), |until| output::age(until.remaining(&now))),
            found.bytes.map_or("-".to_owned(), output::size),
            text(found.kept_because.as_deref()),
        ])
    };
    if !document.slots.is_empty() {
        let header =
            ["slot", "state", "name", "holder", "branch", "age", "left", "size", "kept because"];
        let rows = document.slots.iter().filter_map(row).collect();
        context.out.line(output::table(header, rows))?;
        let bytes = document.slots.iter().filter_map(|slot| slot.bytes).sum();
        let occupied = state.slots.values().filter(|slot| slot.state.occupies()).count();
        context.out.line(format!(
            "\n{occupied} of {} in use, {} in {}",
            document.max_leases,
            output::size(bytes),
            document.pool_dir.display()
        ))?;
    }
    for slot in &document.slots {
        if let Some(path) = &slot.moved_to {
            let path = output::printable(&path.to_string_lossy());
            context.out.line(format!("the worktree of slot {} was moved to {path}", slot.slot))?;
        }
    }
    if !document.waiting.is_empty() {
        let waiters = state.waiters.values().zip(&document.waiting);
        let rows = waiters.map(|(waiter, found)| {
            [
                found.position.to_string(),
                found.name.to_string(),
                found.holder.clone(),
                output::ago(&now, &waiter.since),
                waiter.until.as_ref().map_or("-".to_owned(), |d| output::age(d.remaining(&now))),
            ]
        });
        let rows = rows.collect();
        context.out.line(format!(
            "\n{}",
            output::table(["waiting", "name", "holder", "since", "left"], rows)
        ))?;
    }
    Ok(())
}

/// A slot on its way out is, to the outside, being released.
pub(crate) fn state(slot: &Slot) -> &'static str {
    match &slot.state {
        SlotState::Retiring { .. } => "releasing",
        state => state.as_str(),
    }
}

/// Why a slot is still there.
pub(crate) fn kept_because(slot: &Slot) -> Option<String> {
    match &slot.state {
        SlotState::Quarantined { reason, .. } => Some(reason.clone()),
        SlotState::Lingering { end, .. } => Some(match end.outcome {
            pool_core::Outcome::Success => "for inspection, after success".to_owned(),
            pool_core::Outcome::Failure => "for inspection, after failure".to_owned(),
        }),
        state => state.lease().and_then(|lease| lease.kept_because.clone()),
    }
}
