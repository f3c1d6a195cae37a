//! What differs between operating systems: bytes of names, modes, kinds of files.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use gix::bstr::BStr;

/// A file name's bytes.
pub(crate) fn bytes(name: &OsStr) -> Cow<'_, [u8]> {
    match gix::path::os_str_into_bstr(name) {
        Ok(name) => Cow::Borrowed(name.as_ref()),
        Err(_) => Cow::Owned(name.to_string_lossy().into_owned().into_bytes()),
    }
}

/// The bytes of a path in git's notation as a path of this system.
pub(crate) fn path(path: &BStr) -> PathBuf {
    match gix::path::from_bstr(path) {
        Ok(path) => path.into_owned(),
        // Only where paths have to be Unicode: it then names nothing that exists.
        Err(_) => PathBuf::from(path.to_string()),
    }
}

/// The permission bits, such as `0o644`; set-id and sticky bits included.
#[cfg(unix)]
pub(crate) fn mode(meta: &Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt;
    meta.mode() & 0o7777
}

/// The permission bits, as far as this system has any.
#[cfg(not(unix))]
pub(crate) fn mode(meta: &Metadata) -> u32 {
    if meta.permissions().readonly() { 0o444 } else { 0o644 }
}

/// Sets the permission bits of something that is not a symbolic link.
#[cfg(unix)]
pub(crate) fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Sets the permission bits, as far as this system has any.
#[cfg(not(unix))]
pub(crate) fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_readonly(mode & 0o200 == 0);
    std::fs::set_permissions(path, permissions)
}

/// Sets when a file was last modified; a symbolic link's own time, not its target's.
#[cfg(unix)]
pub(crate) fn set_modified(path: &Path, time: std::time::SystemTime) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(std::io::Error::other)?;
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let modified = Timespec {
        tv_sec: i64::try_from(since.as_secs()).map_err(std::io::Error::other)?,
        tv_nsec: since.subsec_nanos().into(),
    };
    let times = Timestamps { last_access: omitted, last_modification: modified };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets when a file was last modified.
#[cfg(not(unix))]
pub(crate) fn set_modified(path: &Path, time: std::time::SystemTime) -> std::io::Result<()> {
    std::fs::File::options().write(true).open(path)?.set_modified(time)
}

/// Identifies the filesystem.
#[cfg(unix)]
pub(crate) fn device(meta: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    meta.dev()
}

/// Identifies the filesystem; not told here.
#[cfg(not(unix))]
pub(crate) fn device(_: &Metadata) -> u64 {
    0
}

/// What changes whenever the file does: identity, size and times.
#[cfg(unix)]
pub(crate) fn stamp(meta: &Metadata) -> [i64; 7] {
    use std::os::unix::fs::MetadataExt;
    let size = i64::try_from(meta.size()).unwrap_or(i64::MAX);
    let (ino, mode) = (meta.ino().cast_signed(), i64::from(meta.mode()));
    [ino, mode, size, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]
}

/// What changes whenever the file does: size and time.
#[cfg(not(unix))]
pub(crate) fn stamp(meta: &Metadata) -> [i64; 7] {
    let written = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .unwrap_or_default();
    let size = i64::try_from(meta.len()).unwrap_or(i64::MAX);
    [0, 0, size, i64::try_from(written.as_secs()).unwrap_or(0), written.subsec_nanos().into(), 0, 0]
}

/// What kind of thing it is, with its article.
#[cfg(unix)]
pub(crate) fn kind(meta: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a mounted file"
    }
}

/// What kind of thing it is, with its article.
#[cfg(not(unix))]
pub(crate) fn kind(_: &Metadata) -> &'static str {
    "neither a file nor a link"
}

/// Opens a file of a worktree to read it. What became a link since it was looked at is not followed, and what
/// became a pipe is not waited for.
#[cfg(unix)]
pub(crate) fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(openat(CWD, path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is no file any more")),
    }
}

/// Opens a file of a worktree to read it.
#[cfg(not(unix))]
pub(crate) fn open(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}

/// Makes a symbolic link.
#[cfg(unix)]
pub(crate) fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Makes a symbolic link to a file.
#[cfg(not(unix))]
pub(crate) fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    gix::fs::symlink::create(target, link)
}
