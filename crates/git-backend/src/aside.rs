//! Moving a tree out of everybody's way before it is reset or removed.
//!
//! Somebody who neither holds a slot nor stands in it, an editor say, may write there by its path at any
//! moment: also between the look that found nothing to lose and the reset. So the tree is first renamed
//! to a name beside its place, under which nobody looks for it, and looked at once more there. What was
//! written before the rename is seen then, and the tree is put back; what comes after it finds
//! no directory, and its writer is told so. A file that is already open is all that still leads there.

use std::fs;
use std::path::{Path, PathBuf};

use pool_core::{Error, ErrorKind, Plan, Result, SlotId};

use crate::inspect::is_as_seen;
use crate::site::Site;

/// Under which name a slot's tree is set aside.
pub(crate) fn path(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(".leaving")
}

/// Moves a slot's tree aside, and says where it is; `None` when there is no tree. `plan` is what the
/// slot was made for.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when it was written to since it was looked at last, and any when it can't
/// be moved or looked at. It is at its place then.
pub(crate) fn take(site: &Site, plan: &Plan) -> Result<Option<PathBuf>> {
    let (place, aside) = (site.place(plan.slot), path(site, plan.slot));
    if is_there(&aside) && !is_there(&place) {
        // Interrupted here before. What was known then is not known now.
        rename(&aside, &place)?;
    }
    if !is_there(&place) {
        return Ok(None);
    }
    rename(&place, &aside)?;
    match is_as_seen(site, plan, &aside) {
        Ok(true) => Ok(Some(aside)),
        seen => {
            rename(&aside, &place)?;
            let busy = format!("{} was written to while it was being given back", place.display());
            Err(seen.err().unwrap_or_else(|| {
                Error::new(ErrorKind::Busy, busy)
                    .with_hint("it is tried again once nobody writes there any more")
            }))
        }
    }
}

/// Moves a slot's tree back to its place.
///
/// # Errors
///
/// When something was put there meanwhile; it is left alone, and the tree stays aside.
pub(crate) fn put_back(site: &Site, slot: SlotId) -> Result<()> {
    rename(&path(site, slot), &site.place(slot))
}

pub(crate) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A directory never replaces anything but an empty directory.
fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| {
        let doing = format!("move {} to {}", from.display(), to.display());
        match e.kind() {
            std::io::ErrorKind::DirectoryNotEmpty
            | std::io::ErrorKind::AlreadyExists
            | std::io::ErrorKind::NotADirectory => {
                Error::io(doing, e).with_hint("somebody else made what is there: move it away")
            }
            _ => Error::io(doing, e).with_hint("is something mounted there? then unmount it"),
        }
    })
}
