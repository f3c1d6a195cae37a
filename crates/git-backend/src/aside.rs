//! Moving a tree out of everybody's way before it is reset or removed.
//!
//! Somebody who neither holds a slot nor stands in it, an editor say, may write there by its path at any
//! moment: also between the look that found nothing to lose and the reset. So the tree is first renamed
//! to a name beside its place, under which nobody looks for it, and looked at once more there. What was
//! written before the rename is seen then, and the tree is put back; what comes after it finds
//! no directory, and its writer is told so. A file that is already open is all that still leads there.
//!
//! Meanwhile git finds nothing at the worktree's place. So that nobody's `git worktree prune` takes it for
//! one that was deleted, it is locked as `git worktree lock` would.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pool_core::{Error, ErrorKind, Preserved, Result, SlotId};

use crate::inspect::{inspect, is_as_seen};
use crate::registration;
use crate::rescue;
use crate::site::{Place, Site, remove_file};

/// What tells the lock from one that somebody else has put on the worktree.
const REASON: &str = "wtpool is clearing it\n";

/// Under which name a slot's tree is set aside.
pub(crate) fn path(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(".leaving")
}

/// Moves a slot's tree aside, and says where it is; `None` when there is no tree. The slot is that of the proof.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when it was written to since it was looked at last, or a process has its working directory
/// in it, and any when it can't be moved or looked at. It is at its place then.
pub(crate) fn take(site: &Site, proof: &Preserved) -> Result<Option<PathBuf>> {
    let plan = proof.plan();
    let (place, aside) = (site.place(plan.slot), path(site, plan.slot));
    if !is_there(&place) {
        return Ok(None);
    }
    pool_core::pause_point!("git-backend::aside::looked-at");
    lock(site, plan.slot)?;
    if let Err(error) = rename(&place, &aside) {
        unlock(site, plan.slot)?;
        return Err(error);
    }
    pool_core::fail_point!("git-backend::aside::taken");
    match proof.check_unoccupied(&aside).and_then(|()| is_as_seen(site, plan, &aside)) {
        Ok(true) => Ok(Some(aside)),
        seen => {
            rename(&aside, &place)?;
            unlock(site, plan.slot)?;
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
    rename(&path(site, slot), &site.place(slot))?;
    unlock(site, slot)
}

/// Keeps the slot's registration while its tree is away.
fn lock(site: &Site, slot: SlotId) -> Result<()> {
    let Place::Ours(admin) = site.look(slot)? else { return Ok(()) };
    let path = admin.join(registration::LOCK);
    let written = File::create_new(&path).and_then(|mut file| file.write_all(REASON.as_bytes()));
    match written {
        // Somebody wants it kept, which serves as well; or an earlier attempt was interrupted.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written.map_err(|e| Error::io(format!("write {}", path.display()), e)),
    }
}

/// The tree is at its place again.
fn unlock(site: &Site, slot: SlotId) -> Result<()> {
    let Place::Ours(admin) = site.look(slot)? else { return Ok(()) };
    let path = admin.join(registration::LOCK);
    if fs::read(&path).is_ok_and(|reason| reason == REASON.as_bytes()) {
        remove_file(&path)?;
    }
    Ok(())
}

/// For a slot whose tree was still aside, since somebody was killed there: puts the tree back, looks at it, and
/// saves what is in it. The proof that was given spoke of a place where nothing was.
///
/// # Errors
///
/// When it can't be moved, looked at or saved. It is at its place, or aside as before.
pub(crate) fn come_back(site: &Site, proof: Preserved) -> Result<Preserved> {
    let slot = proof.slot();
    let (place, aside) = (site.place(slot), path(site, slot));
    if site.is_half_made(slot) || !is_there(&aside) || is_there(&place) {
        return Ok(proof);
    }
    put_back(site, slot)?;
    let found = match Preserved::nothing_to_lose(inspect(site, proof.plan())?) {
        Ok(found) => found,
        Err(inspection) => rescue::preserve(site, inspection)?,
    };
    Ok(found.watched_as(&proof))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use pool_core::{Base, CommitId, Plan};

    use super::*;
    use crate::settings::GitSettings;
    use crate::{Repository, provision};

    fn git(dir: &Path, args: &[&str]) -> String {
        testkit::git(dir).args(args).stdout()
    }

    #[test]
    fn nobody_prunes_a_worktree_that_is_set_aside() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let repo = root.path().join("demo");
        fs::create_dir(&repo).expect("made");
        git(&repo, &["init", "--quiet"]);
        git(&repo, &["commit", "--quiet", "--allow-empty", "--message", "first"]);
        let commit = CommitId::new(git(&repo, &["rev-parse", "HEAD"])).expect("an id");
        let settings = GitSettings { user_config: false, ..Default::default() };
        let repository = Repository::find(&repo).expect("found");
        let site = Site::open(&repository, &root.path().join("pool"), settings).expect("opened");
        let base = Base { commit, branch: None };
        let plan = Plan { slot: SlotId(1), lease: None, base };
        provision::provision(&site, &plan, &AtomicBool::new(false)).expect("provisioned");
        let admin = site.admin_dir(plan.slot).expect("registered");

        let proof =
            || Preserved::nothing_to_lose(inspect(&site, &plan).expect("looked")).expect("nothing");
        take(&site, &proof()).expect("moved").expect("it was there");
        git(&repo, &["worktree", "prune"]);
        put_back(&site, plan.slot).expect("moved back");
        assert_eq!(site.admin_dir(plan.slot).expect("still registered"), admin);
        assert!(!admin.join("locked").exists(), "it is an ordinary worktree again");

        // Somebody's own lock stays.
        git(
            &repo,
            &["worktree", "lock", "--reason", "mine", site.place(plan.slot).to_str().unwrap()],
        );
        take(&site, &proof()).expect("moved").expect("it was there");
        put_back(&site, plan.slot).expect("moved back");
        assert_eq!(fs::read_to_string(admin.join("locked")).expect("locked").trim_end(), "mine");
    }
}
