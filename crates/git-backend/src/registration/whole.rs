//! Registrations that nobody sees half made.
//!
//! Every git process reads the registrations of all worktrees. One that has no `commondir` yet, or whose
//! `HEAD` is not yet a commit, ends somebody's `git fetch` or `git gc` with an error; for good, if its process is
//! killed then. So a registration is put together in the slot's directory, or the pool's for one that is no slot's, and
//! moved as a whole to where git looks for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pool_core::{Error, Result, SlotId};

use crate::inspect::os::bytes;
use crate::provision::OWN_CONFIG;
use crate::site::{Site, gix_error, remove_file};

/// How often it is tried again when the directory of all registrations was removed, being empty.
const ATTEMPTS: u32 = 20;

/// Where a slot's registration is put together.
pub(crate) fn staged(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(".registration")
}

/// Where one is that is no slot's.
pub(super) fn restoring(site: &Site) -> PathBuf {
    site.pool_dir.join(".restoring")
}

/// Removes what is left of one that is no slot's if its process was killed.
pub(crate) fn clear_unfinished(site: &Site) -> Result<()> {
    let staged = restoring(site);
    if fs::symlink_metadata(&staged).is_err() {
        return Ok(());
    }
    // Else somebody is just putting it together.
    super::exclusively(site, &AtomicBool::new(false), || match fs::remove_dir_all(&staged) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", staged.display()), e))
        }
        _ => Ok(()),
    })
}

/// Whether worktrees are to be registered by relative paths. The repository's own configuration has to say so then, and
/// a git that is too old for that refuses all of the repository; gix would write it nevertheless.
pub(super) fn has_relative_paths(repo: &gix::Repository) -> bool {
    repo.config_snapshot().boolean("worktree.useRelativePaths").unwrap_or(false)
}

/// Why a worktree is locked that is not yet what it is to be; git says the same.
pub(super) const INITIALIZING: &str = "initializing\n";

/// Registers a worktree at `place`, locked, with a detached `HEAD`, and returns its administrative directory;
/// the worktree has nothing but its `.git`. It is put together at `staged`. `None` where that can't be done as a
/// whole: then nothing was done.
pub(super) fn register(
    site: &Site,
    repo: &gix::Repository,
    staged: &Path,
    place: &Path,
    base: gix::ObjectId,
) -> Result<Option<PathBuf>> {
    if has_relative_paths(repo) {
        return Ok(None);
    }
    let doing = |e| Error::io(format!("register the worktree {}", place.display()), e);
    if staged.exists() {
        fs::remove_dir_all(staged).map_err(doing)?;
    }
    fs::create_dir_all(staged).map_err(doing)?;
    let dot_git = place.join(".git");
    for (name, content) in [
        (super::LOCK, INITIALIZING.as_bytes().to_vec()),
        ("commondir", b"../..\n".to_vec()),
        ("HEAD", format!("{base}\n").into_bytes()),
        ("gitdir", [&*bytes(dot_git.as_os_str()), b"\n"].concat()),
    ] {
        fs::write(staged.join(name), content).map_err(doing)?;
    }
    begin_log(repo, staged, base)?;
    write_own_config(repo, staged)?;
    let Some(admin) = publish(site, staged, place).map_err(doing)? else {
        fs::remove_dir_all(staged).map_err(doing)?;
        return Ok(None);
    };
    // Its lock keeps it while the worktree is not there.
    let link = [b"gitdir: ", &*bytes(admin.as_os_str()), b"\n"].concat();
    fs::create_dir_all(place).and_then(|()| fs::write(dot_git, link)).map_err(|e| {
        // Or else it would stay for ever where there is no slot that remembers it.
        let _ = fs::remove_dir_all(&admin);
        doing(e)
    })?;
    Ok(Some(admin))
}

/// Begins the log of `HEAD` as git does, unless the configuration wants no logs.
pub(crate) fn begin_log(repo: &gix::Repository, admin: &Path, base: gix::ObjectId) -> Result<()> {
    if repo.config_snapshot().boolean("core.logAllRefUpdates") == Some(false) {
        return Ok(());
    }
    let logs = admin.join("logs");
    fs::create_dir_all(&logs)
        .and_then(|()| fs::write(logs.join("HEAD"), first_entry(repo, base, "")?))
        .map_err(|e| Error::io(format!("write {}", logs.join("HEAD").display()), e))
}

/// The first line of the log of `HEAD`, as git begins it.
pub(super) fn first_entry(
    repo: &gix::Repository,
    base: gix::ObjectId,
    message: &str,
) -> io::Result<Vec<u8>> {
    let mut line = format!("{} {base} ", repo.object_hash().null()).into_bytes();
    match repo.committer().and_then(Result::ok) {
        Some(committer) => committer.write_to(&mut line)?,
        None => crate::rescue::signature(jiff::Timestamp::now()).write_to(&mut line)?,
    }
    line.extend(format!("\t{message}\n").bytes());
    Ok(line)
}

/// Moves it to where git looks, under the first name that is free; `None` where the system can't.
fn publish(site: &Site, staged: &Path, place: &Path) -> io::Result<Option<PathBuf>> {
    let name = place.file_name().unwrap_or_default();
    let name = gix::path::os_str_into_bstr(name).map_err(io::Error::other)?;
    let name = gix::validate::reference::name_partial_or_sanitize(name);
    let mut attempts = ATTEMPTS;
    let mut suffix = 0u64;
    loop {
        let numbered = if suffix == 0 { name.to_string() } else { format!("{name}{suffix}") };
        let admin = site.worktrees_dir().join(numbered);
        fs::create_dir_all(site.worktrees_dir())?;
        match rename_to_new(staged, &admin) {
            Ok(()) => return Ok(Some(admin)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => suffix += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound && attempts > 0 => attempts -= 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(e),
            // Another filesystem, or one that can't rename without replacing.
            Err(_) => return Ok(None),
        }
    }
}

/// Renames, and replaces nothing: not even the empty directory by which another git has just reserved
/// its name.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_to_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a linked worktree the configuration of its own that the main worktree has now: `config.worktree` and the
/// patterns of a sparse checkout. `repo` is the main repository, opened just now.
///
/// # Errors
///
/// If a file of the main worktree can't be read, or one in `admin` can't be written.
pub(crate) fn write_own_config(repo: &gix::Repository, admin: &Path) -> Result<()> {
    let is_set = |key: &str| repo.config_snapshot().boolean(key).unwrap_or(false);
    let mut config = None;
    if is_set("extensions.worktreeConfig") {
        config = config_for_linked(&repo.git_dir().join(OWN_CONFIG[0]))
            .map_err(|e| gix_error("copy the configuration of the main worktree", e))?;
    }
    let mut patterns = None;
    if is_set("core.sparseCheckout") {
        let from = repo.git_dir().join(OWN_CONFIG[1]);
        patterns = match fs::read(&from) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(|e| Error::io(format!("read {}", from.display()), e))?),
        };
    }
    for (file, content) in OWN_CONFIG.into_iter().zip([config, patterns]) {
        let path = admin.join(file);
        let Some(content) = content else {
            remove_file(&path)?;
            // A new slot has none either; whatever else is in there keeps it.
            let _ = path.parent().filter(|dir| *dir != admin).map(fs::remove_dir);
            continue;
        };
        fs::create_dir_all(path.parent().unwrap_or(admin))
            .and_then(|()| fs::write(&path, content))
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

/// The main worktree's own configuration, but for what says where that is.
fn config_for_linked(from: &Path) -> Result<Option<Vec<u8>>, gix::Error> {
    use gix::config::{File, Source};
    if !from.is_file() {
        return Ok(None);
    }
    let mut config = File::from_path_no_includes(from.to_owned(), Source::Worktree)?;
    if config.boolean("core.bare").is_ok_and(|bare| bare == Some(true))
        && let Ok(mut values) = config.raw_values_mut("core.bare")
    {
        values.delete_all();
    }
    if let Ok(mut values) = config.raw_values_mut("core.worktree") {
        values.delete_all();
    }
    let mut text = Vec::new();
    config.write_to(&mut text).map_err(gix::Error::from_error)?;
    Ok(Some(text))
}
