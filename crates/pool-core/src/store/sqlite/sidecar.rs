//! The records beside the slots, from which the database can be made again.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::records::{
    Marks, Snapshot, changed, gone, is_newer, is_of, json, lasting, newer, plausible,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Generation, SessionId, SlotId, Ticket};
use crate::plain::open_plain;
use crate::state::{EndedLease, PathUse, PoolState, Session, Slot, SlotState};
use crate::time::{Clock, SystemClock};

/// The version of both files. What an older program can't read needs a new one.
const FORMAT: u32 = 1;

/// No record is nearly as large.
const LARGEST: u64 = 64 << 20;

#[derive(Serialize)]
struct SlotFile<'a> {
    format: u32,
    revision: u64,
    reserved: Marks,
    slot: &'a Slot,
}

#[derive(Serialize)]
struct PoolFile<'a> {
    format: u32,
    revision: u64,
    reserved: Marks,
    sessions: &'a BTreeMap<SessionId, Session>,
    ended: &'a VecDeque<EndedLease>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A sidecar that was read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotRead {
    #[serde(rename = "format")]
    _format: u32,
    revision: u64,
    #[serde(default)]
    reserved: Marks,
    slot: Slot,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolRead {
    #[serde(rename = "format")]
    _format: u32,
    revision: u64,
    reserved: Marks,
    #[serde(default)]
    sessions: BTreeMap<SessionId, Session>,
    #[serde(default)]
    ended: VecDeque<EndedLease>,
}

/// All sidecars of a pool.
#[derive(Debug)]
pub(super) struct Found {
    /// `Err`: it is there but can't be read, and why.
    slots: BTreeMap<SlotId, Result<SlotRead, String>>,
    pool: Option<Result<PoolRead, String>>,
}

impl Found {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// When the directory can't be read, or a file was written by a newer version.
    pub(super) fn read(layout: &Layout) -> Result<Self> {
        let mut slots = BTreeMap::new();
        let dir = layout.slots();
        let listing = match fs::read_dir(&dir) {
            Ok(listing) => Some(listing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(format!("list {}", dir.display()), error)),
        };
        for entry in listing.into_iter().flatten() {
            let entry = entry.map_err(|e| Error::io(format!("list {}", dir.display()), e))?;
            let name = entry.file_name();
            let Some(slot) = name.to_str().and_then(|n| n.parse().ok()).map(SlotId) else {
                continue;
            };
            // Not "007", and no symbolic link to somewhere else.
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            if !is_dir || name.to_str() != Some(slot.to_string().as_str()) {
                continue;
            }
            let path = layout.slot_sidecar(slot);
            let Some(read) = read::<SlotRead>(&path)? else { continue };
            let read = read.and_then(|file| {
                plausible(file.revision)
                    .and_then(|()| file.reserved.plausible())
                    .and_then(|()| is_of(&file.slot, slot))
                    .map_err(|why| format!("{}: {why}", path.display()))?;
                Ok(file)
            });
            slots.insert(slot, read);
        }
        let path = layout.pool_sidecar();
        let pool = read::<PoolRead>(&path)?.map(|read| {
            read.and_then(|file| {
                plausible(file.revision)
                    .and_then(|()| file.reserved.plausible())
                    .map_err(|why| format!("{}: {why}", path.display()))?;
                Ok(file)
            })
        });
        Ok(Self { slots, pool })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.pool.is_none()
    }

    fn readable(&self) -> impl Iterator<Item = &SlotRead> {
        self.slots.values().filter_map(|s| s.as_ref().ok())
    }

    fn pool(&self) -> Option<&PoolRead> {
        self.pool.as_ref().and_then(|p| p.as_ref().ok())
    }

    /// The last change that any of them tells of.
    pub(super) fn revision(&self) -> u64 {
        let slots = self.readable().map(|s| s.revision);
        slots.chain(self.pool().map(|p| p.revision)).max().unwrap_or(0)
    }

    /// Whether they say what the database says. One without a row is not counted: it tells of a
    /// change that never was, or of a slot that the pool gave up.
    pub(super) fn agree_with(&self, snapshot: &Snapshot) -> bool {
        let pool = self.pool().is_some_and(|pool| {
            pool.reserved == snapshot.reserved
                && lasting(&pool.sessions).eq(lasting(&snapshot.state.sessions))
        });
        pool && snapshot
            .state
            .slots
            .iter()
            .all(|(id, slot)| matches!(self.slots.get(id), Some(Ok(file)) if file.slot == *slot))
    }

    /// The records that they hold. A slot whose sidecar is unreadable is kept in quarantine.
    pub(super) fn restore(&self) -> Snapshot {
        let reserved = self
            .readable()
            .map(|s| s.reserved)
            .chain(self.pool().map(|p| p.reserved))
            .fold(Marks::default(), Marks::max);
        let mut state = PoolState {
            generation: Generation(reserved.generation),
            ticket: Ticket(reserved.ticket),
            ..PoolState::default()
        };
        for (id, file) in &self.slots {
            let slot = match file {
                Ok(file) => file.slot.clone(),
                Err(why) => quarantined(*id, why),
            };
            if let Some(lease) = slot.state.lease() {
                state.generation = state.generation.max(lease.generation);
            }
            state.slots.insert(*id, slot);
        }
        if let Some(pool) = self.pool() {
            state.sessions = pool.sessions.clone();
            state.ended = pool.ended.clone();
        }
        let empty = Snapshot {
            revision: self.revision(),
            sequence: reserved.sequence,
            reserved,
            ..Snapshot::default()
        };
        empty.next(state, 0)
    }

    /// What `before` says, and the sidecars that are newer than it. A sidecar is not synced, so that a loss
    /// of power can leave an old one, an empty one or none: what the database knows of a slot holds unless
    /// its own sidecar knows better. The queue is given up: who waits in it, a database that is older than
    /// the sidecars can't know.
    pub(super) fn catch_up(&self, before: &Snapshot) -> Snapshot {
        let mut after = self.restore();
        let known = before.next(before.state.clone(), 0);
        after.reserved = after.reserved.max(known.reserved);
        after.sequence = after.sequence.max(known.sequence);
        let state = &mut after.state;
        state.generation = state.generation.max(known.state.generation);
        state.ticket = state.ticket.max(known.state.ticket);
        let is_newer = |revision: u64| revision > before.revision;
        state.slots.retain(|id, _| match self.slots.get(id) {
            Some(Ok(file)) => is_newer(file.revision),
            // What was there is told by the database, if by anything.
            _ => !known.state.slots.contains_key(id),
        });
        for (id, slot) in known.state.slots {
            state.slots.entry(id).or_insert(slot);
        }
        if !self.pool().is_some_and(|pool| is_newer(pool.revision)) {
            state.sessions = known.state.sessions;
            state.ended = known.state.ended;
        }
        after
    }

    /// Moves the unreadable ones aside, so that writing new ones does not destroy them.
    pub(super) fn set_aside_unreadable(&self, layout: &Layout, stamp: &str) -> Result<()> {
        let slots =
            self.slots.iter().filter(|(_, s)| s.is_err()).map(|(id, _)| layout.slot_sidecar(*id));
        let pool = matches!(self.pool, Some(Err(_))).then(|| layout.pool_sidecar());
        for path in slots.chain(pool) {
            let aside = path.with_extension(format!("json.corrupt-{stamp}"));
            fs::rename(&path, &aside).map_err(|e| {
                Error::io(format!("move {} to {}", path.display(), aside.display()), e)
            })?;
        }
        Ok(())
    }
}

fn quarantined(id: SlotId, why: &str) -> Slot {
    let reason =
        format!("the pool's records were rebuilt, and this slot's own can't be read: {why}");
    Slot {
        id,
        plan: None,
        last_used: SystemClock::new().now(),
        warm: false,
        path_use: PathUse::Again,
        state: SlotState::Quarantined { lease: None, end: None, reason },
    }
}

/// `None`: there is no such file. The inner error: it can't be read.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Result<T, String>>> {
    let unreadable =
        |why: &dyn std::fmt::Display| Ok(Some(Err(format!("{}: {why}", path.display()))));
    // A pipe would be waited for without end, and a huge file read in full.
    let bytes = match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return unreadable(&"it is not a file"),
        Ok(meta) if meta.len() > LARGEST => return unreadable(&"it is far too large"),
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return unreadable(&error),
    };
    match serde_json::from_slice::<Format>(&bytes) {
        Ok(Format { format }) if format > FORMAT => {
            let why = format!("its format is {format}, this program knows {FORMAT}");
            return Err(newer(&path.display().to_string(), &why));
        }
        Ok(_) => {}
        Err(error) => return unreadable(&error),
    }
    match serde_json::from_slice(&bytes) {
        Ok(file) => Ok(Some(Ok(file))),
        Err(error) if is_newer(&error) => {
            Err(newer(&path.display().to_string(), &error.to_string()))
        }
        Err(error) => unreadable(&error),
    }
}

/// Sidecars about to be written, taken back unless [kept](Self::keep). Only one process at a time
/// writes any, in its transaction.
///
/// What they replace stays under another name until the change is committed: to put it back takes
/// no space on a disk that may just have turned out to be full.
#[derive(Debug)]
pub(super) struct Sidecars {
    dir: PathBuf,
    revision: u64,
    staged: Vec<PathBuf>,
    removed: Vec<PathBuf>,
    /// What was replaced, and where the old one is, if there was one.
    undo: Vec<(PathBuf, Option<PathBuf>)>,
}

impl Sidecars {
    /// Writes those that changed beside their places: all that can fail for lack of room.
    /// `before` is `None` when all are to be written.
    pub(super) fn stage(
        layout: &Layout,
        before: Option<&Snapshot>,
        after: &Snapshot,
    ) -> Result<Self> {
        let nothing = BTreeMap::new();
        let old = before.map_or(&nothing, |b| &b.state.slots);
        let (revision, reserved) = (after.revision, after.reserved);
        let mut sidecars = Self {
            dir: layout.directory().to_owned(),
            revision,
            staged: Vec::new(),
            removed: Vec::new(),
            undo: Vec::new(),
        };
        for (id, slot) in changed(old, &after.state.slots) {
            let path = layout.slot_sidecar(*id);
            make_slot_dir(layout, *id)?;
            let file = SlotFile { format: FORMAT, revision, reserved, slot };
            sidecars.stage_one(path, &json(&file)?, false)?;
        }
        let pool_changed = before.is_none_or(|b| {
            b.reserved != reserved || !lasting(&b.state.sessions).eq(lasting(&after.state.sessions))
        });
        if pool_changed {
            let PoolState { sessions, ended, .. } = &after.state;
            let file = PoolFile { format: FORMAT, revision, reserved, sessions, ended };
            // Rare, and what keeps generations growing: it is made durable.
            sidecars.stage_one(layout.pool_sidecar(), &json(&file)?, true)?;
        }
        sidecars.removed =
            gone(old, &after.state.slots).map(|id| layout.slot_sidecar(*id)).collect();
        Ok(sidecars)
    }

    fn stage_one(&mut self, path: PathBuf, text: &str, durable: bool) -> Result<()> {
        let new = staged(&path);
        self.staged.push(path);
        let write = || {
            let mut options = File::options();
            let mut file = open_plain(options.create(true).truncate(true).write(true), &new)?;
            crate::fail_point!("pool-core::sidecar::created");
            file.write_all(text.as_bytes())?;
            if durable { file.sync_all() } else { Ok(()) }
        };
        write().map_err(|e| Error::io(format!("write {}", new.display()), e))
    }

    /// Puts them in their places.
    ///
    /// # Errors
    ///
    /// If a newer version wrote one that is there: it knows of something that this one would drop.
    pub(super) fn publish(&mut self) -> Result<()> {
        for path in self.staged.iter().chain(&self.removed) {
            check_not_newer(path)?;
        }
        for path in &self.staged {
            let old = old(&self.dir, self.revision, self.undo.len());
            let kept = match fs::hard_link(path, &old) {
                Ok(()) => Some(old),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                // There are filesystems without hard links.
                Err(_) => match fs::copy(path, &old) {
                    Ok(_) => Some(old),
                    Err(error) => return Err(Error::io(format!("write {}", old.display()), error)),
                },
            };
            self.undo.push((path.clone(), kept));
            crate::fail_point!("pool-core::sidecar::linked");
            fs::rename(staged(path), path)
                .map_err(|e| Error::io(format!("replace {}", path.display()), e))?;
            crate::fail_point!("pool-core::sidecar::replaced");
        }
        for path in &self.removed {
            let old = old(&self.dir, self.revision, self.undo.len());
            match fs::rename(path, &old) {
                Ok(()) => self.undo.push((path.clone(), Some(old))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("remove {}", path.display()), error)),
            }
            crate::fail_point!("pool-core::sidecar::removed");
            remove_if_empty(path);
        }
        Ok(())
    }

    /// The change is committed.
    pub(super) fn keep(mut self) {
        self.staged.clear();
        for (_, old) in self.undo.drain(..) {
            // Its name is this change's own. Should it stay, it is in nobody's way until it is swept.
            drop(old.map(fs::remove_file));
        }
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        for (path, old) in self.undo.iter().rev() {
            let undone = match old {
                Some(old) => path
                    .parent()
                    .map_or(Ok(()), fs::create_dir_all)
                    .and_then(|()| fs::rename(old, path)),
                None => fs::remove_file(path),
            };
            if let Err(error) = undone {
                tracing::warn!(path = %path.display(), %error, "a slot's record could not be taken back");
            }
        }
        for path in &self.staged {
            // Not there if it was published; nothing is lost if it stays.
            drop(fs::remove_file(staged(path)));
            remove_if_empty(path);
        }
    }
}

fn check_not_newer(path: &Path) -> Result<()> {
    match path.file_name().is_some_and(|name| name == "slot.json") {
        true => read::<SlotRead>(path).map(drop),
        false => read::<PoolRead>(path).map(drop),
    }
}

fn old(dir: &Path, revision: u64, count: usize) -> PathBuf {
    dir.join(format!(".sidecar-{revision}-{count}.old"))
}

fn staged(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

fn remove_if_empty(sidecar: &Path) {
    // The system refuses when something else is in it, as it should.
    if sidecar.file_name().is_some_and(|name| name == "slot.json") {
        drop(sidecar.parent().map(fs::remove_dir));
    }
}

/// A slot's directory must be one, and not a link that leads out of the pool.
fn make_slot_dir(layout: &Layout, slot: SlotId) -> Result<()> {
    let dir = layout.slots().join(slot.to_string());
    match fs::symlink_metadata(&dir) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => {
            let message = format!("{} is not a directory", dir.display());
            return Err(Error::new(ErrorKind::Store, message).with_hint("move it away"));
        }
        Err(_) => {}
    }
    fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))
}
