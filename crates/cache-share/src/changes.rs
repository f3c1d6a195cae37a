//! What of a worktree may have been something else since its slot was given to somebody.
//!
//! When a file was last modified does not tell: who keeps a file aside (`sed -i.bak`, `mv`, `cp -p`), builds
//! something else, and puts it back leaves it with its old time. When its inode changed does tell, for which
//! nobody can choose a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pool_core::ContentId;

use crate::files;

/// What changed, relative to the worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Files, by each of their names.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Those of them that have a time which is yet to come.
    pub(crate) ahead: BTreeSet<PathBuf>,
    /// Directories in which something came or went.
    pub(crate) dirs: BTreeSet<PathBuf>,
}

impl Changes {
    /// What changed of these files `since` then. On systems that do not tell, or where nobody noted when that was:
    /// nothing.
    pub(crate) fn find<'a>(
        worktree: &Path,
        files: impl Iterator<Item = &'a PathBuf> + Clone,
        since: Option<SystemTime>,
    ) -> Self {
        let mut found = Self::default();
        let Some(since) = since else { return found };
        let look = |path: &Path| fs::symlink_metadata(worktree.join(path)).ok();
        let is_later = |meta: &Metadata| changed(meta).is_some_and(|changed| changed > since);
        let dirs: BTreeSet<&Path> =
            files.clone().flat_map(|path| path.ancestors().skip(1)).collect();
        let now = SystemTime::now();
        let mut moved = BTreeSet::new();
        for dir in dirs {
            let Some(meta) = look(dir).filter(is_later) else { continue };
            found.dirs.insert(dir.to_owned());
            // It has another name, or had; of the worktree's own the pool knows.
            if dir != Path::new("") && changed(&meta) > meta.modified().ok() {
                moved.insert(dir);
            }
        }
        for path in files {
            let is_moved = || path.ancestors().any(|dir| moved.contains(dir));
            let Some(meta) = look(path).filter(|meta| is_later(meta) || is_moved()) else {
                continue;
            };
            found.files.insert(path.clone());
            if meta.modified().is_ok_and(|modified| modified > now) {
                found.ahead.insert(path.clone());
            }
        }
        found
    }

    /// Adds a file's other names: those by way of links of the worktree.
    pub(crate) fn follow_links(&mut self, worktree: &Path, files: &BTreeMap<PathBuf, ContentId>) {
        if self.files.is_empty() {
            return;
        }
        let is_link = |path: &&PathBuf| {
            fs::symlink_metadata(worktree.join(path)).is_ok_and(|meta| meta.is_symlink())
        };
        let Ok(root) = fs::canonicalize(worktree) else { return };
        let links: Vec<(&PathBuf, PathBuf)> = files
            .keys()
            .filter(is_link)
            .filter_map(|link| {
                let real = fs::canonicalize(worktree.join(link)).ok()?;
                Some((link, real.strip_prefix(&root).ok()?.to_owned()))
            })
            .collect();
        // A link may lead by way of another one. One that leads to where it is itself has no end.
        for _ in 0..3 {
            let names: Vec<PathBuf> = links
                .iter()
                .flat_map(|(link, real)| {
                    let inside =
                        self.files.iter().filter_map(move |file| file.strip_prefix(real).ok());
                    inside.map(|rest| link.components().chain(rest.components()).collect())
                })
                .collect();
            self.files.extend(names);
        }
    }
}

/// Gives what changed `since` then the time of now, so that cargo builds what was made from it anew, whatever its
/// time was: for a slot of which nobody knows what belongs in it. What is built there, git's own, and what other
/// tools install is left out.
///
/// # Errors
///
/// When the worktree can't be read, or a time not be set.
pub(crate) fn date_anew(worktree: &Path, since: SystemTime) -> io::Result<()> {
    let mut all = Vec::new();
    let is_source = |entry: &walkdir::DirEntry| {
        let name = entry.file_name();
        let built = entry.path().join("CACHEDIR.TAG");
        name != ".git" && name != "node_modules" && !(entry.file_type().is_dir() && built.exists())
    };
    let entries = walkdir::WalkDir::new(worktree).into_iter().filter_entry(is_source);
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => all.extend(entry.path().strip_prefix(worktree).map(Path::to_owned)),
            // Nobody builds from what can't be read.
            Err(e) if files::is_out_of_reach(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let now = SystemTime::now();
    for path in Changes::find(worktree, all.iter(), Some(since)).files {
        // What a link leads to, if that is one of the worktree's own.
        let Ok(real) = fs::canonicalize(worktree.join(path)) else { continue };
        if real.starts_with(worktree) && real.is_file() {
            match files::set_modified(&real, now) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                set => set?,
            }
        }
    }
    Ok(())
}

/// Waits until whatever is changed from now on is noticed by [`Changes::find`]: the system's clock for inodes goes by
/// ticks of some milliseconds. `file` is one that may be changed.
///
/// # Errors
///
/// When it can't be.
pub(crate) fn wait_until_later(file: &Path, since: SystemTime) -> io::Result<()> {
    // Should it be a clock of another machine's, which is slow, that is no reason to wait for long.
    for _ in 0..20 {
        if changed(&fs::symlink_metadata(file)?).is_none_or(|changed| changed > since) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        files::set_modified(file, since)?;
    }
    Ok(())
}

/// When an inode was last changed in any way: by what is in it, what is known of it, or what it is called.
#[cfg(unix)]
fn changed(meta: &Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let since = Duration::new(meta.ctime().try_into().ok()?, meta.ctime_nsec().try_into().ok()?);
    Some(SystemTime::UNIX_EPOCH + since)
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> Option<SystemTime> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::files::set_modified;

    #[test]
    fn what_was_put_back_with_its_old_time_changed_nevertheless() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("part/src")).expect("made");
        fs::create_dir_all(at("other")).expect("made");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(4018 * 86_400);
        let names = ["part/src/lib.rs", "other/lib.rs", "other/still.rs"];
        for name in names {
            fs::write(at(name), name).expect("written");
            set_modified(&at(name), old).expect("set");
        }
        std::os::unix::fs::symlink("../part/src", at("other/link")).expect("linked");
        let names = names.into_iter().chain(["other/link"]);
        let files: BTreeMap<PathBuf, ContentId> =
            names.map(|name| (name.into(), ContentId(String::new()))).collect();
        let since = SystemTime::now();
        fs::write(at("clock"), "").expect("written");
        wait_until_later(&at("clock"), since).expect("waited");
        let since = Some(since);
        assert_eq!(Changes::find(dir.path(), files.keys(), since).files, BTreeSet::new());
        fs::rename(at("other/lib.rs"), at("other/lib.rs.bak")).expect("moved");
        fs::rename(at("other/lib.rs.bak"), at("other/lib.rs")).expect("moved back");
        fs::rename(at("part"), at("aside")).expect("moved");
        fs::rename(at("aside"), at("part")).expect("moved back");
        let mut found = Changes::find(dir.path(), files.keys(), since);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        assert_eq!(found.files, paths(&["other/lib.rs", "part/src/lib.rs"]));
        assert_eq!(found.dirs, paths(&["", "other", "part"]));
        found.follow_links(dir.path(), &files);
        assert_eq!(found.files, paths(&["other/lib.rs", "other/link/lib.rs", "part/src/lib.rs"]));
        assert_eq!(Changes::find(dir.path(), files.keys(), None), Changes::default());
    }
}
