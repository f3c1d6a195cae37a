//! Whose a pool directory is: which repository's, and whether it is a pool at all.
//!
//! A pool names its repository by path, and remembers what else tells it from every other one. If
//! the repository or the pool was moved, it is taken over only where that is certain: nothing is at
//! the path of before, or another repository, or what leads to the one at hand; and that is the very
//! one, no copy of it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pool_core::{Error, ErrorKind, Result, has_name, open_plain};

use crate::repository::Repository;
use crate::site::Site;

mod identity;
mod links;
mod search;
mod standing;

pub(crate) use identity::Identity;
use identity::Memory;
pub(crate) use search::default_pool;
pub use search::{OtherPool, repository_beside};
use standing::{Judged, Standing};

/// Names the repository that a pool belongs to: its common directory, byte for byte.
const OWNER_FILE: &str = "repository";

/// Refuses a directory that is another repository's pool, or that is neither empty nor a pool.
/// Changes nothing.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] in both cases; [`ErrorKind::PermissionDenied`] if other users could
/// put something in the place of a default pool; any error of reading.
pub(crate) fn check(pool_dir: &Path, repository: &Repository) -> Result<()> {
    let default = repository.default_pool_dir();
    if crate::site::resolved(&default) == pool_dir {
        default.parent().map_or(Ok(()), check_above)?;
    }
    is_pool(pool_dir)?;
    check_pool_owner(pool_dir, repository)
}

/// Checks that the pool in `pool_dir` is that repository's, wherever the two were before, or that
/// there is none. Changes nothing.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if it is another repository's, or not for certain this one's; any
/// error of reading.
pub fn check_pool_owner(pool_dir: &Path, repository: &Repository) -> Result<()> {
    let judged = Judged::new(pool_dir, repository)?;
    match judged.owner {
        Some(owner) if !judged.standing.is_ours() => {
            Err(judged.standing.refusal(pool_dir, &owner, repository))
        }
        _ => Ok(()),
    }
}

/// Returns the paths at which the pool in `pool_dir` was before it was moved, the latest first.
pub fn earlier_pool_dirs(pool_dir: &Path) -> Vec<PathBuf> {
    let Ok(Some(memory)) = Memory::read(pool_dir) else { return Vec::new() };
    let pool_dir = crate::site::resolved(pool_dir);
    let last = memory.pool_dir().filter(|last| *last != pool_dir);
    last.into_iter().chain(memory.earlier()).collect()
}

/// The last component of each slot's path in that pool.
pub(crate) fn slot_name(pool_dir: &Path, repository: &Repository) -> Result<String> {
    let own = crate::site::sanitized(repository.name());
    let judged = Judged::new(pool_dir, repository)?;
    if let Some(memory) = &judged.memory {
        return Ok(memory.name().to_owned());
    }
    if judged.owner.as_deref().is_none_or(|owner| owner == repository.common_dir()) {
        return Ok(own);
    }
    // Of an older version, and moved since.
    let links = judged.links(pool_dir, repository.common_dir())?;
    let mut named = links.into_iter().map(|link| link.name);
    Ok(named.find(|name| crate::site::sanitized(name) == *name).unwrap_or(own))
}

/// Takes over a pool whose repository, or which itself, was moved: has all of its worktrees and their
/// registrations name each other at the paths of now, and then the pool its owner. Interrupted
/// anywhere, it can be done again. `by_user`: also where it is not certain that it was the
/// repository's, because the user says so.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if the pool is another repository's; if its files can't be written.
pub(crate) fn take_over(site: &Site, repository: &Repository, by_user: bool) -> Result<()> {
    let pool_dir = &site.pool_dir;
    crate::registration::exclusively(site, &AtomicBool::new(false), || {
        // Another process may have been quicker.
        let judged = Judged::new(pool_dir, repository)?;
        let Some(owner) = judged.owner.as_deref() else { return Ok(()) };
        match &judged.standing {
            Standing::Unclaimed | Standing::Ours => return Ok(()),
            Standing::Moved => {}
            Standing::Likely(_) if by_user => {}
            standing => return Err(standing.refusal(pool_dir, owner, repository)),
        }
        let links = judged.links(pool_dir, repository.common_dir())?;
        let now = || Memory::now(pool_dir, site.identity(), site.name());
        let before = match &judged.memory {
            Some(memory) => memory.clone(),
            None => now()?,
        };
        before.while_taken(pool_dir, repository.common_dir())?.write(pool_dir)?;
        pool_core::fail_point!("git-backend::owner::taken");
        for link in links {
            link.repair()?;
        }
        judged.repair_of_nested(pool_dir, repository.common_dir())?;
        judged.repair_of_deleted(pool_dir, repository.common_dir())?;
        pool_core::fail_point!("git-backend::owner::repaired");
        // Until the last step, the pool still tells what it was.
        if owner != repository.common_dir() {
            let mut line = bytes_of(repository.common_dir())?;
            line.push(b'\n');
            replace(&pool_dir.join(OWNER_FILE), &line)?;
            pool_core::fail_point!("git-backend::owner::renamed");
        }
        now()?.after(judged.memory).write(pool_dir)?;
        tracing::info!(
            target: "wtpool",
            "took over the pool {} of the repository that was at {}",
            pool_dir.display(),
            owner.display()
        );
        Ok(())
    })
}

/// Whether two paths lead to the same file or directory.
#[cfg(unix)]
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(not(unix))]
fn is_same(one: &Path, other: &Path) -> bool {
    crate::site::resolved(one) == crate::site::resolved(other)
}

/// In which replacements are put together that were not finished.
const UNFINISHED: &str = ".wtpool-new";

/// Replaces a file as a whole, and brings it to the disk.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    replace_by(path, content, Path::new(&unfinished))
}

fn replace_by(path: &Path, content: &[u8], unfinished: &Path) -> Result<()> {
    let replaced = alone_with(unfinished).and_then(|mut file| {
        // Of one that was killed.
        file.set_len(0)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(unfinished, path)
    });
    replaced.map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    path.parent().map_or(Ok(()), |dir| crate::durable::file(dir).map(drop))
}

/// Opens a file for one process at a time, which gives it another name, or removes it, in the end.
fn alone_with(unfinished: &Path) -> io::Result<File> {
    loop {
        if fs::symlink_metadata(unfinished).is_ok_and(|meta| !meta.is_file()) {
            fs::remove_file(unfinished)?;
        }
        let file = open_plain(File::options().create(true).append(true), unfinished)?;
        fs4::FileExt::lock(&file)?;
        if has_name(&file, unfinished) {
            return Ok(file);
        }
    }
}

/// Whether there is a pool in a directory; not if that is empty.
///
/// # Errors
///
/// When it has anything else in it: a pool removes what is in its `trash`, among others.
pub(crate) fn is_pool(dir: &Path) -> Result<bool> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(e) => return Err(reading(e)),
    };
    let records = [OWNER_FILE, "pool.db", "pool.json"];
    if records.iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok_and(|m| m.is_file())) {
        return Ok(true);
    }
    let mut exists = false;
    for entry in entries {
        let name = entry.map_err(reading)?.file_name();
        let is_own = name.to_str().is_some_and(|name| {
            OWN_NAMES.contains(&name) || OWN_BEGINNINGS.iter().any(|own| name.starts_with(own))
        });
        if !is_own {
            let message = format!("{} is not a pool, and not empty", dir.display());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name a directory that is empty or does not exist (`--pool-dir`)"));
        }
        exists = true;
    }
    Ok(exists)
}

/// What is there of a pool that others are just making, or that somebody deleted under a running process.
const OWN_NAMES: [&str; 14] = [
    ".restoring",
    "branches",
    "build-base.log",
    "cache",
    "locks",
    "reaper.end",
    "reaper.lock",
    "reaper.log",
    "registration.lock",
    OWNER_FILE,
    "slots",
    "source-worktrees",
    "told-remotes",
    "trash",
];
const OWN_BEGINNINGS: [&str; 6] =
    ["pool.", "reserve", ".repository.", ".reserve-", ".sidecar-", ".source-worktrees."];

/// Whether anybody else could put something in the place of a default pool, whose name can be foretold.
#[cfg(unix)]
fn check_above(dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    let reading = |e| Error::io(format!("look at {}", dir.display()), e);
    // If it is a link, both it and where it leads.
    let looked = fs::symlink_metadata(dir).and_then(|own| Ok([own, fs::metadata(dir)?]));
    let found = match looked {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(reading(e)),
    };
    let user = rustix::process::geteuid().as_raw();
    let foreign = |meta: &fs::Metadata| ![user, 0].contains(&meta.uid());
    let open = |meta: &fs::Metadata| meta.is_dir() && meta.mode() & 0o022 != 0;
    let (what, hint) = match () {
        () if found.iter().any(foreign) => {
            ("belongs to another user", "set another pool directory".to_owned())
        }
        () if found.iter().any(open) => {
            ("is one that others may write to", format!("run: chmod go-w {}", dir.display()))
        }
        () => return Ok(()),
    };
    let message = format!("the directory of pools {} {what}", dir.display());
    Err(Error::new(ErrorKind::PermissionDenied, message).with_hint(hint))
}

#[cfg(not(unix))]
fn check_above(_dir: &Path) -> Result<()> {
    Ok(())
}

/// Returns the common directory of the repository that the pool in `pool_dir` belongs to; `None` if
/// there is no pool.
///
/// # Errors
///
/// If the file that says so can't be read.
pub fn pool_owner(pool_dir: &Path) -> Result<Option<PathBuf>> {
    let file = pool_dir.join(OWNER_FILE);
    let mut bytes = Vec::new();
    let read = open_plain(File::options().read(true), &file)
        .and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            let path = bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec();
            // Empty where the power failed before its content was on the disk: it is written again.
            if path.is_empty() {
                return Ok(None);
            }
            let path = gix::path::from_byte_slice(&path).map(Path::to_owned);
            path.map(Some).map_err(|e| {
                Error::io(
                    format!("read {}", file.display()),
                    io::Error::new(io::ErrorKind::InvalidData, e),
                )
            })
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(Error::io(format!("read {}", file.display()), e)),
    }
}

/// Writes down whose pool it is, so that it can be used from anywhere.
pub(crate) fn claim(site: &Site, repository: &Repository) -> Result<()> {
    let pool_dir = &*site.pool_dir;
    let unfinished = pool_dir.join(format!(".{OWNER_FILE}.new"));
    let remember = || Memory::now(pool_dir, site.identity(), site.name());
    let is_ours = || {
        let judged = Judged::new(pool_dir, repository)?;
        // What was judged is what was opened.
        site.check_in_place()?;
        let Some(owner) = &judged.owner else { return Ok(false) };
        match &judged.standing {
            Standing::Ours if judged.is_outdated => {
                remember()?.after(judged.memory).write(pool_dir).map(|()| true)
            }
            Standing::Ours => Ok(true),
            Standing::Moved => take_over(site, repository, false).map(|()| true),
            standing => Err(standing.refusal(pool_dir, owner, repository)),
        }
    };
    hide(pool_dir, repository);
    if is_ours()? {
        // Of somebody who was killed right here.
        let _ = fs::remove_file(unfinished);
        return Ok(());
    }
    let file = pool_dir.join(OWNER_FILE);
    let failed = |e| Error::io(format!("write {}", file.display()), e);
    // One at a time. It is let go of with its name, so that those who waited look again.
    let alone = open_plain(File::options().create(true).append(true), &unfinished)
        .and_then(|alone| fs4::FileExt::lock(&alone).map(|()| alone))
        .map_err(failed)?;
    if is_ours()? {
        let _ = fs::remove_file(unfinished);
        return Ok(());
    }
    remember()?.write(pool_dir)?;
    pool_core::fail_point!("git-backend::owner::remembered");
    let mut line = bytes_of(repository.common_dir())?;
    line.push(b'\n');
    let is_empty = fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    // Without it nobody could say whose the pool is, which may have leases at once: on the disk before it
    // bears its name.
    let written = write_durably(&unfinished, &line).and_then(|()| match is_empty {
        true => fs::rename(&unfinished, &file),
        false => fs::hard_link(&unfinished, &file),
    });
    pool_core::fail_point!("git-backend::owner::linked");
    // Gone already, if it was never written.
    let _ = fs::remove_file(&unfinished);
    let written = written.and_then(|()| File::open(pool_dir)?.sync_all());
    drop(alone);
    match written {
        // Somebody was quicker: then it must be for the same repository.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => is_ours().map(drop),
        other => other.map_err(failed),
    }
}

/// Has a repository that surrounds the directory of default pools ignore it: `git status` does not
/// show it there, and `git clean` without `-x` leaves it alone. What exists stays as it is.
fn hide(pool_dir: &Path, repository: &Repository) {
    let default = crate::site::resolved(&repository.default_pool_dir());
    let Some(pools) = pool_dir.parent().filter(|pools| Some(*pools) == default.parent()) else {
        return;
    };
    let file = pools.join(".gitignore");
    let made = File::options().write(true).create_new(true).open(&file);
    if let Ok(mut file) = made
        && let Err(error) = file.write_all(b"*\n")
    {
        tracing::debug!(%error, "cannot write a .gitignore for pools");
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    match gix::path::into_bstr(path) {
        Ok(bytes) => Ok(bytes.into_owned().into()),
        Err(e) => Err(crate::site::gix_error(format!("write down the path {}", path.display()), e)),
    }
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Returns the error of a pool directory that belongs to another repository than the one in hand;
/// `owner` is that repository's common directory.
pub fn pool_of_another(pool_dir: &Path, owner: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the pool {} belongs to another repository, {}",
            pool_dir.display(),
            owner.display()
        ),
    )
    .with_hint("start inside that repository, or name another directory with `--pool-dir`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large, so that each is being written while others are.
    #[test]
    fn processes_replace_a_file_at_the_same_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        let content = |number: u8| vec![number; 1 << 20];
        std::thread::scope(|scope| {
            for number in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace(path, &content(number)).expect("replaced");
                        let found = fs::read(path).expect("read");
                        assert_eq!(found, content(found[0]), "it is whole");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
