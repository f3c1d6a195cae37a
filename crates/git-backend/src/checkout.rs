//! Checking out a commit in the same way into a new slot and into one that is used again.
//!
//! What is known to be what a checkout writes stays in a used slot as it is, its time included: the files
//! that nothing wrote to since the pool did ([`Baseline`]), and those that have the very bytes and mode.
//! All others are removed, and written by the code that a new slot is made with.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix::bstr::{BStr, ByteSlice};
use gix::index::entry::{Flags, Mode, Stat};
use gix::worktree::stack::state::attributes::Source;
use pool_core::{Error, ErrorKind, Result};

use crate::baseline::{Baseline, Modes};
use crate::directory;
use crate::git::Git;
use crate::inspect::compare::SameAs;
use crate::inspect::os;
use crate::site::{Site, gix_error, remove_file};
use crate::trash::Bin;

/// What `git worktree add` runs to check out what `HEAD` is at. A filter is told the same then.
pub(crate) const RESET: [&str; 4] = ["reset", "--hard", "--quiet", "--no-recurse-submodules"];

/// Has a checkout make executable what is to be, as git's own does: `core.fileMode` is about what is found. gix takes
/// it for both.
pub(crate) fn with_modes(repo: &mut gix::Repository) -> Result<()> {
    if cfg!(unix) {
        let mut config = repo.config_snapshot_mut();
        config
            .set_value(&gix::config::tree::Core::FILE_MODE, "true")
            .and_then(|_| config.commit().map(drop))
            .map_err(|e| gix_error("have modes set", e))?;
    }
    Ok(())
}

/// Whether a remote has promised to give what is missing here. gix doesn't fetch it; git does.
pub(crate) fn is_partial(repo: &gix::Repository) -> bool {
    let config = repo.config_snapshot();
    let remotes = config.plumbing().sections_by_name("remote").into_iter().flatten();
    let promising =
        |name: &BStr| config.boolean(&format!("remote.{name}.promisor")).unwrap_or(false);
    // Older versions of git write the extension, newer ones mark the remote.
    config.string("extensions.partialClone").is_some()
        || remotes.filter_map(|remote| remote.header().subsection_name()).any(promising)
}

/// Returns the files of the commit at `HEAD` as an index that knows of no file on disk. Those that a
/// sparse checkout leaves out are marked.
///
/// # Errors
///
/// If the commit or the patterns of the sparse checkout can't be read.
pub(crate) fn files(site: &Site, repo: &gix::Repository, root: &Path) -> Result<gix::index::File> {
    let doing = || format!("read the files of the commit for {}", root.display());
    let of_tree = repo.head_tree_id().and_then(|tree| repo.index_from_tree(&tree));
    let mut files = match of_tree {
        Ok(files) => files,
        Err(error) => {
            // A tree that a partial clone left out, or an object that is being packed just now.
            tracing::debug!(%error, "git is left to read a commit that gix could not");
            remove_file(repo.index_path().as_path())?;
            Git::in_worktree(site, repo.git_dir(), root).args(["read-tree", "HEAD"]).run()?;
            repo.open_index().map_err(|e| gix_error(doing(), e))?
        }
    };
    let config = repo.config_snapshot();
    if config.boolean("core.sparseCheckout") == Some(true)
        && let Some(patterns) = gix::worktree::sparse::read_patterns(repo.git_dir())
            .map_err(|e| Error::io(doing(), e))?
    {
        let fs = repo.filesystem_options().map_err(|e| gix_error(doing(), e))?;
        gix::worktree::sparse::apply_patterns(
            &mut files,
            &patterns,
            &repo.git_dir().join("info/sparse-checkout"),
            config.boolean("core.sparseCheckoutCone").unwrap_or_default(),
            if fs.ignore_case {
                gix::glob::pattern::Case::Fold
            } else {
                gix::glob::pattern::Case::Sensitive
            },
        )
        .map_err(|e| gix_error(doing(), e))?;
    }
    Ok(files)
}

/// Removes from the tree at `root` each of `files` that is not known to be what a checkout writes. What
/// stays is recorded in `files` as it is found; the outcome says for each whether it stays. None does unless
/// it `may_stay`: a filter may write the same file otherwise today.
///
/// The tree holds no other files, and no links in the places of directories: it was cleaned.
///
/// # Errors
///
/// If a file can't be looked at or removed.
pub(crate) fn sort_out(
    repo: &gix::Repository,
    files: &mut gix::index::File,
    root: &Path,
    baseline: Option<&Baseline>,
    modes: Modes,
    may_stay: bool,
    bin: &mut Bin,
) -> Result<Vec<bool>> {
    let mut stays = vec![false; files.entries().len()];
    let mut found = vec![None; stays.len()];
    {
        let mut writer = Writer::new(repo, files, modes)?;
        for (i, entry) in files.entries().iter().enumerate() {
            if entry.mode == Mode::COMMIT || entry.flags.contains(Flags::SKIP_WORKTREE) {
                continue;
            }
            let path = entry.path(files);
            let relative = os::path(path);
            let full = root.join(&relative);
            let looking = |e| Error::io(format!("look at {}", full.display()), e);
            let meta = match fs::symlink_metadata(&full) {
                Ok(meta) => meta,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(looking(e)),
            };
            let stat = gix::index::fs::Metadata::from_path_no_follow(&full).map_err(looking)?;
            let stat = Stat::from_fs(&stat).map_err(|e| looking(io::Error::other(e)))?;
            stays[i] = may_stay
                && (baseline.is_some_and(|baseline| baseline.knows(entry, path, &stat))
                    || writer.would_write(entry, path, &full, &meta));
            if stays[i] {
                found[i] = Some(stat);
            } else if let Some((dir, name)) = directory::find(root, &relative) {
                bin.put_from(&dir, name)?;
            }
        }
    }
    for (entry, stat) in files.entries_mut().iter_mut().zip(found) {
        if let Some(stat) = stat {
            entry.stat = stat;
        }
    }
    Ok(stays)
}

/// Writes those of `files` that do not stay into the tree at `root`, and the index.
///
/// # Errors
///
/// If a file or the index can't be written.
pub(crate) fn write(
    site: &Site,
    repo: &gix::Repository,
    files: &mut gix::index::File,
    stays: &[bool],
    root: &Path,
    interrupt: &AtomicBool,
) -> Result<()> {
    let doing = || format!("check out a commit at {}", root.display());
    let index = repo.index_path();
    remove_file(&index)?;
    let complete = !is_partial(repo) && {
        let flags: Vec<Flags> = files.entries().iter().map(|entry| entry.flags).collect();
        for (entry, stays) in files.entries_mut().iter_mut().zip(stays) {
            entry
                .flags
                .set(Flags::SKIP_WORKTREE, *stays || entry.flags.contains(Flags::SKIP_WORKTREE));
        }
        let written = by_gix(repo, files, root, interrupt);
        for (entry, flags) in files.entries_mut().iter_mut().zip(flags) {
            entry.flags = flags;
        }
        is_complete(written.map_err(|e| gix_error(doing(), e)))?
    };
    if complete || is_partial(repo) {
        files.set_path(index);
        files.write(Default::default()).map_err(|e| gix_error(doing(), e))?;
    }
    if !complete {
        // Names that collide here: git decides what that means. Without an index it writes all of them.
        Git::in_worktree(site, repo.git_dir(), root).args(RESET).run()?;
    }
    Ok(())
}

fn by_gix(
    repo: &gix::Repository,
    files: &mut gix::index::File,
    root: &Path,
    interrupt: &AtomicBool,
) -> Result<gix::worktree::state::checkout::Outcome, gix::Error> {
    let mut options = repo.checkout_options(Source::IdMapping)?;
    // No file is replaced.
    options.destination_is_initially_empty = true;
    let objects = repo.objects.clone().into_arc().map_err(gix::Error::from_error)?;
    let silent = gix::progress::Discard;
    gix::worktree::state::checkout(files, root, objects, &silent, &silent, interrupt, options)
}

/// Whether all was written; that which git could not do either is an error.
pub(crate) fn is_complete(
    written: Result<gix::worktree::state::checkout::Outcome>,
) -> Result<bool> {
    match written {
        Ok(outcome) => Ok(outcome.collisions.is_empty()
            && outcome.errors.is_empty()
            && outcome.delayed_paths_unknown.is_empty()
            && outcome.delayed_paths_unprocessed.is_empty()),
        Err(error) => match error.kind() {
            // Nor could git, and it would not say so half as well.
            ErrorKind::NoSpace | ErrorKind::PermissionDenied | ErrorKind::Cancelled => Err(error),
            // An object that is being packed just now, for one.
            _ => {
                tracing::debug!(%error, "git is left to check out what gix could not");
                Ok(false)
            }
        },
    }
}

/// Has git write all of `files`, where filters decide what that is, at the slot's own place: a filter may
/// look at its working directory and at `HEAD`. A file that a process has written there meanwhile stays.
///
/// # Errors
///
/// If git can't write a file.
pub(crate) fn write_filtered(
    site: &Site,
    admin: &Path,
    place: &Path,
    files: &mut gix::index::File,
) -> Result<()> {
    files.set_path(admin.join("index"));
    files
        .write(Default::default())
        .map_err(|e| gix_error(format!("write the index of {}", place.display()), e))?;
    let written = Git::in_worktree(site, admin, place)
        .args(["checkout-index", "--all", "--index", "--quiet"])
        .run();
    let is_there = |entry: &gix::index::Entry| {
        entry.flags.contains(Flags::SKIP_WORKTREE)
            || fs::symlink_metadata(place.join(os::path(entry.path(files)))).is_ok()
    };
    match written {
        // It fails for what it does not replace.
        Err(error) if !files.entries().iter().all(is_there) => Err(error),
        _ => Ok(()),
    }
}

/// What a checkout would write today.
struct Writer<'a> {
    repo: &'a gix::Repository,
    pipeline: gix::filter::Pipeline<'a>,
    symlinks: bool,
    modes: Modes,
}

impl<'a> Writer<'a> {
    fn new(repo: &'a gix::Repository, files: &gix::index::State, modes: Modes) -> Result<Self> {
        let doing = "read the attributes of the commit to check out";
        let stack = repo.attributes_only(files, Source::IdMapping);
        let stack = stack.map_err(|e| gix_error(doing, e))?.detach();
        let pipeline = gix::filter::Pipeline::new(repo, stack).map_err(|e| gix_error(doing, e))?;
        let fs = repo.filesystem_options().map_err(|e| gix_error(doing, e))?;
        Ok(Self { repo, pipeline, symlinks: fs.symlink, modes })
    }

    /// Whether it would write the very file that is at `full`. Any failure means no.
    fn would_write(
        &mut self,
        entry: &gix::index::Entry,
        path: &BStr,
        full: &Path,
        meta: &Metadata,
    ) -> bool {
        let Ok(blob) = self.repo.find_object(entry.id) else { return false };
        if entry.mode == Mode::SYMLINK && self.symlinks {
            return meta.is_symlink()
                && fs::read_link(full)
                    .is_ok_and(|target| os::bytes(target.as_os_str()).as_bstr() == blob.data);
        }
        if !meta.is_file() || !self.modes.are_of(meta, entry.mode == Mode::FILE_EXECUTABLE) {
            return false;
        }
        let Ok(file) = os::open(full) else { return false };
        let mut found = SameAs::new(file);
        if entry.mode == Mode::SYMLINK {
            return io::copy(&mut &*blob.data, &mut found).is_ok() && found.is_same();
        }
        let written = self.pipeline.convert_to_worktree(&blob.data, path, Default::default());
        written.is_ok_and(|mut written| io::copy(&mut written, &mut found).is_ok())
            && found.is_same()
    }
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
