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
use crate::nested::{self, At, Nested};
use crate::registration;
use crate::rescue;
use crate::site::{Place, Site, remove_file};

/// What tells the lock from one that somebody else has put on the worktree.
pub(crate) const REASON: &str = "wtpool is clearing it\n";

/// What the names begin with under which linked worktrees beside the slot's tree are set aside.
pub(crate) const PREFIX: &str = ".leaving-";

/// Under which name a slot's tree is set aside.
pub(crate) const NAME: &str = ".leaving";

/// Where a slot's tree is set aside.
pub(crate) fn path(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(NAME)
}

/// What was set aside.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Where the slot's tree is; `None` if there is none.
    pub(crate) root: Option<PathBuf>,
    /// The other linked worktrees in the slot's directory, all of which were looked at as well.
    pub(crate) nested: Vec<Nested>,
}

/// Moves a slot's tree aside, and the linked worktrees beside it. The slot is that of the proof.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when one was written to since it was looked at last, or a process has its working directory
/// in it, and any when one can't be moved or looked at. All are at their places then.
pub(crate) fn take(site: &Site, proof: &Preserved) -> Result<Taken> {
    let plan = proof.plan();
    let (place, aside) = (site.place(plan.slot), path(site, plan.slot));
    let root = is_there(&place).then(|| aside.clone());
    let nested = nested::find(site, plan.slot, At::Home)?;
    if root.is_none() && nested.is_empty() {
        return Ok(Taken::default());
    }
    pool_core::pause_point!("git-backend::aside::looked-at");
    let admins = admins(site, plan.slot, &nested)?;
    let mut moves = Vec::new();
    moves.extend(root.is_some().then_some((place.clone(), aside)));
    let beside = nested::movers(site, plan.slot, &nested);
    moves.extend(beside.into_iter().map(|one| (one.root.clone(), one.aside())));
    let taken = admins.iter().try_for_each(|admin| lock(admin)).and_then(|()| {
        moves.iter().try_fold(0, |count, (from, to)| match rename(from, to) {
            Ok(()) => Ok(count + 1),
            Err(error) => {
                for (from, to) in moves[..count].iter().rev() {
                    rename(to, from)?;
                }
                Err(error)
            }
        })
    });
    if let Err(error) = taken {
        admins.iter().try_for_each(|admin| unlock(admin))?;
        return Err(error);
    }
    pool_core::fail_point!("git-backend::aside::taken");
    let unoccupied = moves.iter().try_for_each(|(_, to)| proof.check_unoccupied(to));
    let seen = unoccupied.and_then(|()| {
        let nested = nested::find(site, plan.slot, At::Aside)?;
        Ok(is_as_seen(site, plan)?.then_some(nested))
    });
    match seen {
        Ok(Some(nested)) => Ok(Taken { root, nested }),
        seen => {
            for (from, to) in moves.iter().rev() {
                rename(to, from)?;
            }
            admins.iter().try_for_each(|admin| unlock(admin))?;
            let busy = format!("{} was written to while it was being given back", place.display());
            Err(seen.err().unwrap_or_else(|| {
                Error::new(ErrorKind::Busy, busy)
                    .with_hint("it is tried again once nobody writes there any more")
            }))
        }
    }
}

/// The administrative directories of a slot's worktree, if it is at its place, and of those nested in it.
fn admins(site: &Site, slot: SlotId, nested: &[Nested]) -> Result<Vec<PathBuf>> {
    let own = match site.look(slot)? {
        Place::Ours(admin) => Some(admin),
        _ => None,
    };
    Ok(own.into_iter().chain(nested.iter().map(|one| one.admin.clone())).collect())
}

/// Moves a slot's tree back to its place.
///
/// # Errors
///
/// When something was put there meanwhile; it is left alone, and the tree stays aside.
pub(crate) fn put_back(site: &Site, slot: SlotId) -> Result<()> {
    rename(&path(site, slot), &site.place(slot))?;
    match site.look(slot)? {
        Place::Ours(admin) => unlock(&admin),
        _ => Ok(()),
    }
}

/// Keeps a registration while its tree is away.
fn lock(admin: &Path) -> Result<()> {
    let path = admin.join(registration::LOCK);
    let written = File::create_new(&path).and_then(|mut file| file.write_all(REASON.as_bytes()));
    match written {
        // Somebody wants it kept, which serves as well; or an earlier attempt was interrupted.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written.map_err(|e| Error::io(format!("write {}", path.display()), e)),
    }
}

/// The tree is at its place again.
fn unlock(admin: &Path) -> Result<()> {
    let path = admin.join(registration::LOCK);
    if fs::read(&path).is_ok_and(|reason| reason == REASON.as_bytes()) {
        remove_file(&path)?;
    }
    Ok(())
}

/// For a slot of which a tree was still aside, since a process was killed there: puts it back, looks
/// at it, and saves what is in it. The proof that was given spoke of a place where nothing was.
///
/// # Errors
///
/// When it can't be moved, looked at or saved. It is at its place, or aside as before.
pub(crate) fn come_back(site: &Site, proof: Preserved) -> Result<Preserved> {
    let slot = proof.slot();
    if site.is_half_made(slot) {
        return Ok(proof);
    }
    let is_away = |place: &Path, aside: &Path| is_there(aside) && !is_there(place);
    let mut came_back = false;
    if is_away(&site.place(slot), &path(site, slot)) {
        put_back(site, slot)?;
        came_back = true;
    }
    for one in nested::find(site, slot, At::Home)? {
        if is_away(&one.root, &one.aside()) {
            rename(&one.aside(), &one.root)?;
            came_back = true;
        }
        // Those inside another tree came back with that.
        if is_there(&one.root) {
            unlock(&one.admin)?;
        }
    }
    if !came_back {
        return Ok(proof);
    }
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
        take(&site, &proof()).expect("moved").root.expect("it was there");
        git(&repo, &["worktree", "prune"]);
        put_back(&site, plan.slot).expect("moved back");
        assert_eq!(site.admin_dir(plan.slot).expect("still registered"), admin);
        assert!(!admin.join("locked").exists(), "it is an ordinary worktree again");

        // Somebody's own lock stays.
        git(
            &repo,
            &["worktree", "lock", "--reason", "mine", site.place(plan.slot).to_str().unwrap()],
        );
        take(&site, &proof()).expect("moved").root.expect("it was there");
        put_back(&site, plan.slot).expect("moved back");
        assert_eq!(fs::read_to_string(admin.join("locked")).expect("locked").trim_end(), "mine");
    }
}
