//! The life cycle of a base: its states, what each looks like on the disk, and the steps from one
//! to the next.
//!
//! ```text
//! reserve ──> building ──complete──> whole ──condemn──> condemned
//!                │  └─────fail───────────────────────────^    │
//!                └─(killed)─> unfinished ──remove──> removed <─┘
//! ```
//!
//! | state | in `base/<number>` | its lock |
//! |---|---|---|
//! | building | no manifest | held by the builder, and by what it started |
//! | unfinished | no manifest | free |
//! | whole | `manifest.json` | shared by processes that give slots files of it |
//! | condemned | `condemned.json`, with the reason | as of a whole one |
//! | removed | nothing; the tree is in `base.removed/<number>` | held by the process that deletes it |
//!
//! A slot whose record names a base has it in use; such a base is never removed. Each step is one
//! rename or the writing of one file, so a process that is killed leaves one of these states.
//! Numbers are never given twice: a process that outlives its builder writes into no other base.
//! What can't be deleted stays in `base.removed`, where no slot and no builder looks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::{CommitId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::lock::{LOCKS, Lock};
use super::{Base, Manifest, all, number_of};
use crate::files;

/// Where the trees of removed bases are until they are deleted.
const REMOVED: &str = "base.removed";

/// The log of what builds a base.
pub(super) const LOG: &str = "build.log";

/// What a base can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A process builds it, or one that its builder started still runs.
    Building,
    /// Its builder was killed.
    Unfinished,
    /// Slots may start from it.
    Whole,
    /// No slot starts from it any more.
    Condemned(Verdict),
}

/// Why no slot starts from a base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Verdict {
    pub(crate) why: String,
    /// The commit of a base whose build came to nothing; only the log of it is kept.
    pub(crate) failed_at: Option<CommitId>,
}

/// What became of a base that was to be removed.
#[derive(Debug)]
pub(crate) enum Removal {
    /// All of it is gone.
    Removed,
    /// A slot uses it, or a process reads, builds or removes it.
    InUse,
    /// No slot can start from it, but a part could not be deleted.
    Left(Leftover),
}

/// What is left of a removed base.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// A base that this process builds.
#[derive(Debug)]
pub(crate) struct Building {
    pub(super) base: Base,
    pub(super) lock: Lock,
}

impl Building {
    /// Makes the directory of a base with a number that none had before, and takes its lock.
    ///
    /// # Errors
    ///
    /// When that can't be done.
    pub(super) fn reserve(cache: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("create a base in {}", cache.display()), e);
        let bases = cache.join("base");
        fs::create_dir_all(&bases).map_err(failed)?;
        let mut number = last_number(cache);
        loop {
            number += 1;
            let base = Base { dir: bases.join(number.to_string()) };
            let Some(lock) = base.lock_exclusive().map_err(failed)? else { continue };
            pool_core::fail_point!("cache-share::base::reserved");
            match fs::create_dir(&base.dir) {
                Ok(()) => return Ok(Self { base, lock }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// Makes it whole, if it is what `manifest` says.
    ///
    /// # Errors
    ///
    /// When a part of it is gone, or the manifest can't be written. It is removed then.
    pub(super) fn complete(self, manifest: &Manifest) -> Result<Base> {
        let written = match self.damage(manifest) {
            Some(damage) => Err(Error::new(
                ErrorKind::Other,
                format!("the base was damaged while it was built: {damage}"),
            )),
            None => serde_json::to_vec(manifest)
                .map_err(io::Error::from)
                .and_then(|text| files::write(&self.base.manifest(), &text))
                .map_err(|e| Error::io(format!("write {}", self.base.manifest().display()), e)),
        };
        if let Err(error) = written {
            self.abandon();
            return Err(error);
        }
        pool_core::fail_point!("cache-share::base::complete");
        Ok(self.base)
    }

    /// How it differs from what was built, if it does.
    pub(super) fn damage(&self, manifest: &Manifest) -> Option<String> {
        let damage = self.base.damage(manifest);
        damage.or_else(|| (!self.lock.is_current()).then(|| "its lock was removed".to_owned()))
    }

    /// Gives it up, since its build came to nothing: the log stays, and the reason.
    ///
    /// # Errors
    ///
    /// When the reason can't be written.
    pub(super) fn fail(self, why: String, commit: &CommitId) -> Result<()> {
        for entry in fs::read_dir(&self.base.dir).into_iter().flatten().flatten() {
            if entry.file_name() != LOG {
                // What stays of it takes disk, until the record is removed.
                let _ = files::remove_tree(&entry.path());
            }
        }
        let verdict = Verdict { why, failed_at: Some(commit.clone()) };
        self.base
            .write_verdict(&verdict)
            .map_err(|e| Error::io(format!("write {}", self.base.condemned().display()), e))?;
        pool_core::fail_point!("cache-share::base::failed");
        Ok(())
    }

    /// Removes what there is of it.
    pub(super) fn abandon(self) {
        if let Some(left) = self.base.remove_locked() {
            left.warn();
        }
    }
}

impl Base {
    pub(super) fn condemned(&self) -> PathBuf {
        self.dir.join("condemned.json")
    }

    /// Which state it is in.
    pub(crate) fn state(&self) -> State {
        if let Some(verdict) = self.verdict() {
            State::Condemned(verdict)
        } else if self.manifest().exists() {
            State::Whole
        } else if matches!(self.lock_shared(), Ok(None)) {
            State::Building
        } else {
            State::Unfinished
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        let text = fs::read(self.condemned()).ok()?;
        Some(serde_json::from_slice(&text).unwrap_or_default())
    }

    fn write_verdict(&self, verdict: &Verdict) -> io::Result<()> {
        let text = serde_json::to_vec(verdict).map_err(io::Error::from)?;
        files::write(&self.condemned(), &text)
    }

    /// Says that no slot may start from it any more. For a process that holds its lock, shared or
    /// not: it takes nothing away from others.
    pub(crate) fn condemn(&self, why: &str) {
        let base = self.dir.display();
        tracing::warn!(target: "wtpool", %base, why, "the base of the build cache is damaged");
        let verdict = Verdict { why: why.to_owned(), failed_at: None };
        if self.dir.is_dir() && self.write_verdict(&verdict).is_ok() {
            pool_core::fail_point!("cache-share::base::condemned");
        }
        // On a full disk that is all that can be done. Should it fail as well, the next slot finds
        // the same damage.
        let _ = files::remove(&self.manifest());
    }

    /// Whether only the reason and the log of a failed build are there.
    fn is_record(&self, state: &State) -> bool {
        matches!(state, State::Condemned(verdict) if verdict.failed_at.is_some())
            && !self.tree().exists()
    }

    /// Removes it, unless a slot uses it, or another process has its lock.
    pub(crate) fn remove(&self, is_used: impl Fn() -> bool) -> Removal {
        let lock = match self.lock_exclusive() {
            Ok(Some(lock)) => lock,
            Ok(None) => return Removal::InUse,
            Err(error) => return Removal::Left(Leftover { path: self.dir.clone(), error }),
        };
        // Under the lock, so that no slot that does not use it yet begins to.
        if is_used() {
            return Removal::InUse;
        }
        let left = self.remove_locked();
        drop(lock);
        left.map_or(Removal::Removed, Removal::Left)
    }

    /// Removes it. For a process that holds its lock exclusively.
    fn remove_locked(&self) -> Option<Leftover> {
        let aside = self.cache().join(REMOVED).join(self.dir.file_name().unwrap_or_default());
        let set_aside = || {
            fs::create_dir_all(self.cache().join(REMOVED))?;
            match fs::rename(&self.dir, &aside) {
                // To be moved, a directory must be writable itself.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    files::make_writable(&self.dir)?;
                    fs::rename(&self.dir, &aside)
                }
                moved => moved,
            }
        };
        let path = match set_aside() {
            Ok(()) => aside,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_dir(self.cache().join(REMOVED));
                return None;
            }
            Err(error) => {
                // It can't be moved, so it stops being whole where it is; else all of it stays.
                if files::remove(&self.manifest()).is_err() {
                    return Some(Leftover { path: self.dir.clone(), error });
                }
                self.dir.clone()
            }
        };
        pool_core::fail_point!("cache-share::base::set-aside");
        let left = delete(path);
        let _ = fs::remove_dir(self.cache().join(REMOVED));
        left
    }
}

fn delete(path: PathBuf) -> Option<Leftover> {
    files::remove_tree(&path).err().map(|error| Leftover { path, error })
}

impl Leftover {
    pub(crate) fn warn(&self) {
        let (path, error) = (self.path.display(), &self.error);
        tracing::warn!(target: "wtpool", %path, %error, "a removed base can't be deleted");
    }
}

/// The highest number that any base had.
fn last_number(cache: &Path) -> u64 {
    let numbers = ["base", LOCKS, REMOVED].into_iter().flat_map(|dir| entries(&cache.join(dir)));
    numbers.map(|path| number_of(&path)).max().unwrap_or(0)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What is left of removed bases, other than of those that are being deleted at this moment.
pub(crate) fn leftovers(cache: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = entries(&cache.join(REMOVED))
        .filter(|path| !matches!(named_like(cache, path).lock_shared(), Ok(None)))
        .collect();
    found.sort();
    found
}

/// The base that bears, or bore, the same number.
fn named_like(cache: &Path, path: &Path) -> Base {
    Base { dir: cache.join("base").join(path.file_name().unwrap_or_default()) }
}

/// Whether [`tidy`] has nothing to do that is not about whole bases. Cheap.
pub(crate) fn is_tidy(cache: &Path) -> bool {
    let mut bases = all(cache).into_iter();
    let is_newest_fine =
        bases.next().is_none_or(|newest| newest.is_whole() || newest.is_record(&newest.state()));
    is_newest_fine && bases.all(|base| base.is_whole()) && !cache.join(REMOVED).exists()
}

/// Removes bases that no slot can start from, and whole ones but the newest `keep`, and deletes
/// what is left of bases that were removed before. Bases are kept that are `used`, and those whose
/// lock another process has. A base whose build failed in part counts for itself, so that it takes
/// the place of no other. The reason why the newest build came to nothing stays, unless nothing is
/// to be kept.
///
/// Returns what can't be deleted, which is in the way of nothing.
pub(crate) fn tidy(cache: &Path, keep: usize, used: &dyn Fn() -> Vec<u64>) -> Vec<Leftover> {
    let mut left: Vec<Leftover> = leftovers(cache)
        .into_iter()
        .filter_map(|path| {
            let Ok(Some(_lock)) = named_like(cache, &path).lock_exclusive() else { return None };
            delete(path)
        })
        .collect();
    let _ = fs::remove_dir(cache.join(REMOVED));
    let (mut good, mut partial) = (0, 0);
    for (at, base) in all(cache).into_iter().enumerate() {
        let state = base.state();
        let stays = match &state {
            State::Building => true,
            State::Unfinished => false,
            State::Condemned(_) => at == 0 && keep > 0 && base.is_record(&state),
            // What it is need not be known where all are kept.
            State::Whole if keep == usize::MAX => true,
            State::Whole => {
                let trouble = base.load().and_then(|manifest| manifest.trouble);
                let count = if trouble.is_some() { &mut partial } else { &mut good };
                *count += 1;
                *count <= keep
            }
        };
        if stays {
            continue;
        }
        if let Removal::Left(leftover) = base.remove(|| used().contains(&base.number())) {
            left.push(leftover);
        }
    }
    remove_stale_locks(cache);
    left
}

/// Removes lock files of bases that are gone, but for that of the highest number, which must not be
/// given again.
fn remove_stale_locks(cache: &Path) {
    let last = last_number(cache);
    for path in entries(&cache.join(LOCKS)) {
        let base = named_like(cache, &path);
        let is_gone = || {
            fs::symlink_metadata(&base.dir).is_err()
                && fs::symlink_metadata(cache.join(REMOVED).join(base.number().to_string()))
                    .is_err()
        };
        if base.number() == last || !is_gone() {
            continue;
        }
        if let Ok(Some(_lock)) = base.lock_exclusive()
            && is_gone()
        {
            let _ = files::remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn cache() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn base(cache: &Path, number: u64) -> Base {
        Base { dir: cache.join("base").join(number.to_string()) }
    }

    fn commit() -> CommitId {
        Manifest::empty().commit
    }

    /// A whole base in which nothing was built.
    fn whole(cache: &Path) -> Base {
        whole_with(cache, None)
    }

    fn whole_with(cache: &Path, trouble: Option<&str>) -> Base {
        let building = Building::reserve(cache).expect("reserved");
        fs::create_dir(building.base.tree()).expect("made");
        let trouble = trouble.map(str::to_owned);
        building.complete(&Manifest { trouble, ..Manifest::empty() }).expect("whole")
    }

    fn numbers(cache: &Path) -> Vec<u64> {
        all(cache).iter().map(Base::number).collect()
    }

    fn unused() -> Vec<u64> {
        Vec::new()
    }

    fn tidied(cache: &Path, keep: usize) {
        assert!(tidy(cache, keep, &unused).is_empty(), "something is left");
    }

    #[test]
    fn base_goes_through_its_states() {
        let dir = cache();
        let building = Building::reserve(dir.path()).expect("reserved");
        let base = building.base.clone();
        assert_eq!((base.number(), base.state()), (1, State::Building));
        assert!(base.lock_shared().expect("opened").is_none(), "no slot reads it");
        fs::create_dir(base.tree()).expect("made");
        building.complete(&Manifest::empty()).expect("whole");
        assert_eq!(base.state(), State::Whole);
        base.condemn("a file is gone");
        let verdict = Verdict { why: "a file is gone".to_owned(), failed_at: None };
        assert_eq!(base.state(), State::Condemned(verdict));
        assert!(base.load().is_none());
        assert!(matches!(base.remove(|| false), Removal::Removed));
        assert!(!base.dir.exists() && !dir.path().join(REMOVED).exists());
        let next = Building::reserve(dir.path()).expect("reserved");
        assert_eq!(next.base.number(), 2, "a number is never given twice");
    }

    #[test]
    fn builder_that_was_killed_leaves_an_unfinished_base() {
        let dir = cache();
        let building = Building::reserve(dir.path()).expect("reserved");
        let base = building.base.clone();
        tidied(dir.path(), usize::MAX);
        assert_eq!(base.state(), State::Building, "what is being built stays");
        drop(building);
        assert_eq!(base.state(), State::Unfinished);
        assert!(!is_tidy(dir.path()));
        tidied(dir.path(), usize::MAX);
        assert!(numbers(dir.path()).is_empty() && is_tidy(dir.path()));
    }

    #[test]
    fn base_of_a_failed_build_keeps_its_log() {
        let dir = cache();
        let building = Building::reserve(dir.path()).expect("reserved");
        let base = building.base.clone();
        fs::create_dir(base.tree()).expect("made");
        fs::write(base.dir.join(LOG), "error").expect("written");
        building.fail("it failed".to_owned(), &commit()).expect("written");
        let verdict = Verdict { why: "it failed".to_owned(), failed_at: Some(commit()) };
        assert_eq!(base.state(), State::Condemned(verdict));
        assert!(base.dir.join(LOG).exists() && !base.tree().exists());
        assert!(is_tidy(dir.path()));
        tidied(dir.path(), 1);
        assert_eq!(numbers(dir.path()), [1]);
        whole(dir.path());
        tidied(dir.path(), 1);
        assert_eq!(numbers(dir.path()), [2], "a newer one is there");
    }

    #[test]
    fn base_whose_tree_is_gone_is_never_made_whole() {
        let dir = cache();
        let building = Building::reserve(dir.path()).expect("reserved");
        let base = building.base.clone();
        fs::remove_dir(&base.dir).expect("removed");
        let error = building.complete(&Manifest::empty()).expect_err("there is no tree");
        assert!(error.to_string().contains("tree is not there"), "{error}");
        assert!(!base.dir.exists());
        let building = Building::reserve(dir.path()).expect("reserved");
        fs::create_dir(building.base.tree()).expect("made");
        fs::remove_dir_all(dir.path().join(LOCKS)).expect("removed");
        let error = building.complete(&Manifest::empty()).expect_err("it has no lock");
        assert!(error.to_string().contains("its lock was removed"), "{error}");
    }

    #[test]
    fn base_that_a_slot_takes_while_it_is_removed_stays() {
        let dir = cache();
        let base = whole(dir.path());
        // The slot's use is seen under the lock.
        let looked = Cell::new(false);
        let is_used = || {
            looked.set(base.lock_shared().expect("opened").is_none());
            true
        };
        assert!(matches!(base.remove(is_used), Removal::InUse));
        assert!(looked.get(), "a slot could begin to use it meanwhile");
        assert_eq!(base.state(), State::Whole);
        // A slot that is just being given files of it has not recorded that yet.
        let reading = base.lock_shared().expect("opened").expect("free");
        tidied(dir.path(), 0);
        assert_eq!(base.state(), State::Whole);
        drop(reading);
        assert!(tidy(dir.path(), 0, &|| vec![1]).is_empty());
        assert_eq!(base.state(), State::Whole);
        tidied(dir.path(), 0);
        assert!(!base.dir.exists());
    }

    #[test]
    fn condemned_base_is_removed_once_no_slot_uses_it() {
        let dir = cache();
        let base = whole(dir.path());
        base.condemn("a file is gone");
        assert!(tidy(dir.path(), usize::MAX, &|| vec![1]).is_empty());
        assert!(base.dir.exists());
        tidied(dir.path(), usize::MAX);
        assert!(!base.dir.exists());
    }

    #[test]
    fn base_that_failed_in_part_displaces_no_whole_one() {
        let dir = cache();
        whole(dir.path());
        whole(dir.path());
        whole_with(dir.path(), Some("it failed"));
        whole_with(dir.path(), Some("it failed"));
        tidied(dir.path(), 1);
        assert_eq!(numbers(dir.path()), [4, 2]);
        tidied(dir.path(), 0);
        assert!(numbers(dir.path()).is_empty());
    }

    #[test]
    fn lock_files_of_bases_that_are_gone_are_removed() {
        let dir = cache();
        for _ in 0..3 {
            whole(dir.path());
        }
        tidied(dir.path(), 0);
        let locks: Vec<u64> = entries(&dir.path().join(LOCKS)).map(|p| number_of(&p)).collect();
        assert_eq!(locks, [3]);
    }

    #[test]
    fn leftover_of_a_removed_base_blocks_no_other() {
        let dir = cache();
        let aside = dir.path().join(REMOVED).join("7");
        fs::create_dir_all(aside.join("tree")).expect("made");
        let deleting = base(dir.path(), 7).lock_exclusive().expect("opened").expect("free");
        assert!(leftovers(dir.path()).is_empty(), "a process is deleting it");
        drop(deleting);
        assert_eq!(leftovers(dir.path()), vec![aside.clone()]);
        assert!(!is_tidy(dir.path()));
        assert_eq!(whole(dir.path()).number(), 8);
        tidied(dir.path(), usize::MAX);
        assert!(!aside.exists() && is_tidy(dir.path()));
        assert_eq!(numbers(dir.path()), [8]);
    }
}
