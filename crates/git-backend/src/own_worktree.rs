//! **Git in a slot means the slot.**
//!
//! A linked worktree shares the repository's configuration file. With `extensions.worktreeConfig`,
//! git applies a `core.worktree` or `core.bare` of that file to linked worktrees as well (`setup.c`,
//! `check_repository_format_gently`, git 2.47): every git command in the slot would then work on
//! another tree, usually the user's own checkout. `git worktree add` makes such worktrees. The
//! worktree's own `config.worktree` has precedence over the shared file, so the pool sets there what
//! the shared file would redirect git by, and refuses the slot if git would still be redirected.
//! `core.bare` alone needs no path, so that the worktree works also where `git worktree move` takes it.
//!
//! Like git, this reads only the two files themselves: git takes neither setting from an included
//! file, nor from the user's configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;
use gix::config::{File, Source};
use pool_core::{Error, ErrorKind, Result};

use crate::inspect::os::bytes;
use crate::shell::shell_word;
use crate::site::{Site, gix_error, resolved};

/// Where git in a worktree would work.
#[derive(Debug, PartialEq, Eq)]
enum Redirection {
    /// In the worktree itself.
    None,
    /// Nowhere: git takes the repository for a bare one.
    Bare(Origin),
    /// In another tree, by this value of `core.worktree`.
    Elsewhere(PathBuf, Origin),
}

/// The configuration file that a setting is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The worktree's own.
    Own,
    /// The one that all worktrees share.
    Shared,
}

/// Makes git mean `place` in the worktree of `admin`, and verifies it. Returns whether the
/// worktree's own configuration was changed.
///
/// # Errors
///
/// `Unsupported` if git would work elsewhere all the same; if a configuration file can't be read or
/// written.
pub(crate) fn secure(site: &Site, admin: &Path, place: &Path) -> Result<bool> {
    let mut is_changed = false;
    for _ in 0..2 {
        match redirection(site, admin, place)? {
            Redirection::None => return Ok(is_changed),
            Redirection::Bare(_) => set(admin, "core.bare", b"false")?,
            Redirection::Elsewhere(..) => set(admin, "core.worktree", &bytes(place.as_os_str()))?,
        }
        is_changed = true;
    }
    verify(site, admin, place).map(|()| true)
}

/// Sets a value in the worktree's own configuration.
fn set(admin: &Path, key: &str, value: &[u8]) -> Result<()> {
    let path = own_config(admin);
    let doing = || format!("set {key} in {}", path.display());
    let mut own = read(&path, Source::Worktree)?.unwrap_or_default();
    own.set_raw_value(key, value).map_err(|e| gix_error(doing(), e))?;
    let mut text = Vec::new();
    own.write_to(&mut text).and_then(|()| fs::write(&path, text)).map_err(|e| Error::io(doing(), e))
}

/// Verifies that git means `place` in the worktree of `admin`.
///
/// # Errors
///
/// `Unsupported` if it does not; if a configuration file can't be read.
pub(crate) fn verify(site: &Site, admin: &Path, place: &Path) -> Result<()> {
    let (key, value, origin) = match redirection(site, admin, place)? {
        Redirection::None => return Ok(()),
        Redirection::Bare(origin) => ("core.bare", PathBuf::from("true"), origin),
        Redirection::Elsewhere(dir, origin) => ("core.worktree", dir, origin),
    };
    let own = own_config(admin);
    let (file, hint) = match origin {
        Origin::Own => {
            let unset = format!("git config --file {} --unset {key}", quoted(&own));
            (own, unset)
        }
        // What holds for the main worktree stays so.
        Origin::Shared => {
            let git = format!("git --git-dir={} config", quoted(&site.common_dir));
            let set = format!("{git} --worktree {key} {}", quoted(&value));
            let moved = format!("{set} && {git} --local --unset {key}");
            (site.common_dir.join("config"), moved)
        }
    };
    let (place, value, file) = (place.display(), value.display(), file.display());
    let message = format!("git would not work in {place}: {key} is {value} in {file}");
    Err(Error::new(ErrorKind::Unsupported, message).with_hint(format!("run: {hint}")))
}

fn quoted(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

fn redirection(site: &Site, admin: &Path, place: &Path) -> Result<Redirection> {
    let Some(shared) = read(&site.common_dir.join("config"), Source::Local)? else {
        return Ok(Redirection::None);
    };
    if !is_true(&shared, "extensions.worktreeConfig")? {
        return Ok(Redirection::None);
    }
    let own = read(&own_config(admin), Source::Worktree)?.unwrap_or_default();
    let of = |key: &str| match (own.raw_value(key), shared.raw_value(key)) {
        (Ok(value), _) => Some((value, Origin::Own)),
        (Err(_), Ok(value)) => Some((value, Origin::Shared)),
        (Err(_), Err(_)) => None,
    };
    if let Some((_, origin)) = of("core.bare") {
        let file = if origin == Origin::Own { &own } else { &shared };
        if is_true(file, "core.bare")? {
            return Ok(Redirection::Bare(origin));
        }
    }
    let Some((worktree, origin)) = of("core.worktree") else { return Ok(Redirection::None) };
    // Relative to the git directory, which for a linked worktree is the administrative one.
    let worktree = gix::path::from_bstr(worktree.as_bstr())
        .map_err(|e| gix_error(format!("read core.worktree of {}", admin.display()), e))?;
    if resolved(&admin.join(&worktree)) == resolved(place) {
        Ok(Redirection::None)
    } else {
        Ok(Redirection::Elsewhere(worktree.into_owned(), origin))
    }
}

/// An unreadable value counts as true: git would stop at it.
fn is_true(config: &File, key: &str) -> Result<bool> {
    Ok(config.boolean(key).map_or(true, |value| value.unwrap_or(false)))
}

fn own_config(admin: &Path) -> PathBuf {
    admin.join("config.worktree")
}

fn read(path: &Path, source: Source) -> Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        Ok(_) => {}
    }
    File::from_path_no_includes(path.to_owned(), source)
        .map(Some)
        .map_err(|e| gix_error(format!("read {}", path.display()), e))
}
