//! Taking a worktree away, whatever state it is in; and telling what is where slots live.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pool_core::{Condition, Discovered, Error, Plan, Preserved, Result, SlotId};

use crate::aside;
use crate::baseline;
use crate::branch;
use crate::copy;
use crate::nested;
use crate::provision::{OWN_CONFIG, remembered};
use crate::registration;
use crate::rescue;
use crate::site::{Place, Site, foreign, remove_file};
use crate::trash::Bin;

/// See [`pool_core::Isolator::dispose`].
pub(crate) fn dispose(site: &Site, proof: Preserved) -> Result<()> {
    let proof = aside::come_back(site, proof)?;
    take_away(site, proof.plan(), Some(&proof), &AtomicBool::new(false))
}

/// Removes the tree, then the registration, then the branch, then the notes. Each step may find its
/// work already done, by an earlier attempt or by somebody's hands. Interrupted after the first, the
/// slot is found as [`Condition::Missing`], and this is done again. Without a proof, only what is half made goes.
pub(crate) fn take_away(
    site: &Site,
    plan: &Plan,
    proof: Option<&Preserved>,
    interrupt: &AtomicBool,
) -> Result<()> {
    let slot = plan.slot;
    let place = site.place(slot);
    let mut bin = Bin::new(site);
    let half_made = site.is_half_made(slot);
    let mut registration = None;
    let mut stranger = None;
    if half_made && aside::is_there(&aside::path(site, slot)) {
        // Interrupted while it was being reset there. What is at its place is then not the pool's.
        bin.put(&aside::path(site, slot))?;
        if aside::is_there(&place) {
            stranger = Some(foreign(&place, "it was made while the worktree was being reset"));
        }
    } else {
        registration = match site.look(slot)? {
            Place::Ours(admin) => Some(admin),
            // Emptied by a loss of power before anybody was told of it.
            Place::Pruned(admin) if half_made && aside::is_there(&admin.join("gitdir")) => {
                Some(admin)
            }
            Place::Pruned(_) | Place::Absent => None,
            // Interrupted before git's files were there. Nobody else makes the marker, and a
            // repository of somebody's own has a `.git`.
            Place::Foreign(_) if half_made && is_bare_beginning(&place) => None,
            Place::Foreign(what) => return Err(foreign(&place, &what)),
        };
        if half_made {
            if aside::is_there(&place) {
                proof.map_or(Ok(()), |proof| proof.check_unoccupied(&place))?;
                bin.put(&place)?;
            }
        } else {
            let Some(proof) = proof else { return Err(foreign(&place, "it is complete by now")) };
            let taken = aside::take(site, proof)?;
            nested::remove(site, slot, &taken.nested, interrupt, &mut bin)?;
            if let Some(aside) = taken.root {
                bin.put(&aside)?;
            }
        }
    }
    pool_core::fail_point!("git-backend::dispose::binned");
    if registration.is_none() {
        registration = site.registration_of(slot)?;
    }
    registration::exclusively(site, interrupt, || {
        match &registration {
            Some(admin) => registration::unregister(admin, &mut bin)?,
            None if half_made => registration::take_back_beginning(site, slot)?,
            None => {}
        }
        pool_core::fail_point!("git-backend::dispose::unregistered");
        let keep = proof.and_then(Preserved::branch).is_some_and(|branch| branch.kept);
        branch::settle(site, plan, keep)
    })?;
    pool_core::fail_point!("git-backend::dispose::settled");
    // What processes that died had put together, for a registration or a rescue.
    rescue::take_back(site, slot)?;
    for staged in [registration::staged(site, slot), rescue::staging(site, slot)] {
        if aside::is_there(&staged) {
            bin.put(&staged)?;
        }
    }
    let notes = OWN_CONFIG.map(|file| remembered(site, slot, file));
    baseline::forget(site, slot)?;
    let copied = [copy::note(site, slot), copy::note_of_left_out(site, slot)];
    for note in notes.into_iter().chain(copied) {
        remove_file(&note)?;
    }
    site.remove_making_marker(slot)?;
    pool_core::fail_point!("git-backend::dispose::forgotten");
    // Others may keep something beside the worktree; then the directory stays.
    let _ = fs::remove_dir(site.slot_dir(slot));
    stranger.map_or(Ok(()), Err)
}

/// Whether a worktree's making got no further there than the first words of its `.git`, of which a loss of power
/// can leave none.
fn is_bare_beginning(place: &Path) -> bool {
    let dot_git = place.join(".git");
    fs::symlink_metadata(place).is_ok_and(|meta| meta.is_dir())
        && match fs::symlink_metadata(&dot_git) {
            Ok(meta) if meta.is_file() && meta.len() < 16 => {
                fs::read(&dot_git).is_ok_and(|begun| b"gitdir: ".starts_with(&begun))
            }
            Ok(_) => false,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
}

/// See [`pool_core::Isolator::discover`].
///
/// What leads to a slot comes first: its directory, the note of its branch, its registration. Each slot is looked at
/// only then, so that one that is being made is not taken for one of which only a trace is left.
pub(crate) fn discover(site: &Site) -> Result<Vec<Discovered>> {
    // The slots, and whether there is a trace of a worktree that was there.
    let mut traces: BTreeMap<SlotId, bool> = BTreeMap::new();
    for slot in numbered(&site.slots_dir())? {
        traces.insert(slot, copy::note(site, slot).exists());
    }
    pool_core::pause_point!("git-backend::discover::slots-listed");
    // A branch that was made is the pool's to settle, even when all else has gone.
    for slot in numbered(&site.pool_dir.join("branches"))? {
        traces.insert(slot, true);
    }
    pool_core::pause_point!("git-backend::discover::branches-listed");
    for (_, dot_git) in site.registrations()? {
        let Ok(inside) = dot_git.strip_prefix(site.slots_dir()) else { continue };
        let number =
            inside.components().next().map(|part| part.as_os_str().to_string_lossy().parse());
        if let Some(Ok(number)) = number
            && dot_git == site.place(SlotId(number)).join(".git")
        {
            traces.insert(SlotId(number), true);
        }
    }
    pool_core::pause_point!("git-backend::discover::registrations-listed");
    let mut found = Vec::new();
    for (slot, has_trace) in traces {
        let condition = condition(site, slot, has_trace)?;
        found.extend(condition.map(|condition| Discovered { slot, condition }));
    }
    Ok(found)
}

/// What is at a slot's place. `has_trace`: something that is left when a worktree goes was there before this look.
fn condition(site: &Site, slot: SlotId, has_trace: bool) -> Result<Option<Condition>> {
    // The mark is there from before the first trace until after the last step. So a slot that had a trace earlier, and
    // has no mark now, was complete, and only what comes later can have taken it away.
    let was_half_made = site.is_half_made(slot);
    pool_core::pause_point!("git-backend::discover::mark-looked-for");
    let mut place = site.look(slot)?;
    if matches!(place, Place::Foreign(_)) {
        // Looked at in several steps, between which somebody may have been moving it away.
        place = site.look(slot)?;
    }
    if was_half_made || site.is_half_made(slot) {
        let is_ours = match &place {
            Place::Foreign(_) => is_bare_beginning(&site.place(slot)),
            _ => true,
        };
        if is_ours {
            return Ok(Some(Condition::HalfMade));
        }
    }
    Ok(match place {
        Place::Ours(_) => Some(Condition::Sound),
        Place::Absent => has_trace.then_some(Condition::Missing),
        // Without its index and its HEAD nobody can tell what in it is work.
        Place::Pruned(admin) => Some(Condition::Foreign(format!(
            "{} is no longer registered: {} is gone",
            site.place(slot).display(),
            admin.display()
        ))),
        Place::Foreign(what) => Some(Condition::Foreign(what)),
    })
}

/// The entries of a directory whose names are slot numbers.
pub(crate) fn numbered(dir: &Path) -> Result<Vec<SlotId>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(format!("read {}", dir.display()), e)),
    };
    let mut slots: Vec<SlotId> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let number: u32 = name.to_str()?.parse().ok()?;
            (number > 0 && name.to_str() == Some(&number.to_string())).then_some(SlotId(number))
        })
        .collect();
    slots.sort();
    Ok(slots)
}
