//! **Git in a slot means the slot.**
//!
//! A linked worktree shares the repository's configuration file. With `extensions.worktreeConfig`,
//! git applies a `core.worktree` or `core.bare` of that file to linked worktrees as well (`setup.c`,
//! `check_repository_format_gently`, git 2.47): every git command in the slot would then work on
//! another tree, usually the user's own checkout. `git worktree add` makes such worktrees. The
//! worktree's own `config.worktree` has precedence over the shared file, so the pool sets both there
//! wherever the shared file would redirect git, and refuses the slot if git would still be redirected.
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
use crate::site::{Site, gix_error, resolved};

/// Where git in a worktree would work.
#[derive(Debug, PartialEq, Eq)]
enum Redirection {
    /// In the worktree itself.
    None,
    /// Nowhere: git takes the repository for a bare one.
    Bare,
    /// In another tree.
    Elsewhere(PathBuf),
}

/// Makes git mean `place` in the worktree of `admin`, and verifies it. Returns whether the
/// worktree's own configuration was changed.
///
/// # Errors
///
/// `Unsupported` if git would work elsewhere all the same; if a configuration file can't be read or
/// written.
pub(crate) fn secure(site: &Site, admin: &Path, place: &Path) -> Result<bool> {
    if redirection(site, admin, place)? == Redirection::None {
        return Ok(false);
    }
    let path = own_config(admin);
    let doing = || format!("set core.worktree in {}", path.display());
    let mut own = read(&path, Source::Worktree)?.unwrap_or_default();
    own.set_raw_value("core.worktree", &*bytes(place.as_os_str()))
        .and_then(|_| own.set_raw_value("core.bare", "false"))
        .map_err(|e| gix_error(doing(), e))?;
    let mut text = Vec::new();
    own.write_to(&mut text)
        .and_then(|()| fs::write(&path, text))
        .map_err(|e| Error::io(doing(), e))?;
    verify(site, admin, place).map(|()| true)
}

/// Verifies that git means `place` in the worktree of `admin`.
///
/// # Errors
///
/// `Unsupported` if it does not; if a configuration file can't be read.
pub(crate) fn verify(site: &Site, admin: &Path, place: &Path) -> Result<()> {
    let what = match redirection(site, admin, place)? {
        Redirection::None => return Ok(()),
        Redirection::Bare => "core.bare is true".to_owned(),
        Redirection::Elsewhere(dir) => format!("core.worktree is {}", dir.display()),
    };
    let common = site.common_dir.display();
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("git would not work in {}: {what}, by the configuration of {common}", place.display()),
    )
    .with_hint(format!(
        "run: git -C {common} config --unset core.worktree; git -C {common} config --unset core.bare"
    )))
}

fn redirection(site: &Site, admin: &Path, place: &Path) -> Result<Redirection> {
    let Some(shared) = read(&site.common_dir.join("config"), Source::Local)? else {
        return Ok(Redirection::None);
    };
    if !is_true(&shared, "extensions.worktreeConfig")? {
        return Ok(Redirection::None);
    }
    let own = read(&own_config(admin), Source::Worktree)?.unwrap_or_default();
    let bare = match own.raw_value("core.bare") {
        Ok(_) => is_true(&own, "core.bare")?,
        Err(_) => is_true(&shared, "core.bare")?,
    };
    if bare {
        return Ok(Redirection::Bare);
    }
    let Some(worktree) =
        own.raw_value("core.worktree").or_else(|_| shared.raw_value("core.worktree")).ok()
    else {
        return Ok(Redirection::None);
    };
    // Relative to the git directory, which for a linked worktree is the administrative one.
    let worktree = gix::path::from_bstr(worktree.as_bstr())
        .map_err(|e| gix_error(format!("read core.worktree of {}", admin.display()), e))?;
    let worktree = admin.join(worktree);
    if resolved(&worktree) == resolved(place) {
        Ok(Redirection::None)
    } else {
        Ok(Redirection::Elsewhere(worktree))
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
