//! Giving a slot what the base has: shared where the filesystem can share, else copied.

mod remove;

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use pool_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub(crate) use remove::remove_tree;

/// A file as it was when it was recorded. Another size or time: it is another file by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Relative to the target directory.
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
    /// Its permission bits; 0 where there are none.
    pub(crate) mode: u32,
}

impl Recorded {
    /// Records the file at `path` below `root`.
    pub(crate) fn of(root: &Path, path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(root.join(path))?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
        }
        let (size, modified) = (meta.len(), meta.modified()?);
        Ok(Self { path: path.to_owned(), size, modified, mode: mode(&meta) })
    }

    /// Whether the file below `root` is the one that was recorded.
    pub(crate) fn is_intact(&self, root: &Path) -> bool {
        Self::of(root, &self.path).is_ok_and(|found| found == *self)
    }
}

#[cfg(unix)]
fn mode(meta: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o7777
}

#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> u32 {
    0
}

/// A symbolic link that leads nowhere but into the tree it is given with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Relative to the target directory.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) to: PathBuf,
}

impl Link {
    /// Whether the link below `root` is the one that was recorded.
    pub(crate) fn is_intact(&self, root: &Path) -> bool {
        fs::read_link(root.join(&self.path)).is_ok_and(|to| to == self.to)
    }

    /// Whether it leads to something below `dir`, wherever that lies. It may only go up before it goes down: then
    /// each directory that it goes up from is the one that it is in, and not where another link leads.
    pub(crate) fn stays_in(&self, dir: &Path) -> bool {
        let Some(inside) = self.path.strip_prefix(dir).ok().and_then(Path::parent) else {
            return false;
        };
        let mut parts = self.to.components().peekable();
        let mut depth = inside.components().count();
        while parts.next_if(|part| *part == Component::ParentDir).is_some() {
            let Some(up) = depth.checked_sub(1) else { return false };
            depth = up;
        }
        self.to != Path::new("") && parts.all(|part| matches!(part, Component::Normal(_)))
    }

    /// Makes it below `root`.
    #[cfg(unix)]
    pub(crate) fn make(&self, root: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(&self.to, root.join(&self.path))
    }

    /// Makes it below `root`.
    #[cfg(not(unix))]
    pub(crate) fn make(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Gives the directory `to` the permissions of `from`.
pub(crate) fn copy_mode(from: &Path, to: &Path) -> io::Result<()> {
    let (wanted, found) = (fs::metadata(from)?, fs::metadata(to)?);
    if mode(&wanted) == mode(&found) {
        return Ok(());
    }
    fs::set_permissions(to, wanted.permissions())
}

/// How many names a file has; `None` where that can't be told.
#[cfg(unix)]
pub(crate) fn names(meta: &fs::Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(meta.nlink())
}

/// How many names a file has; `None` where that can't be told.
#[cfg(not(unix))]
pub(crate) fn names(_: &fs::Metadata) -> Option<u64> {
    None
}

/// Makes `to` the same file as `from`: a clone that shares its blocks where the filesystem can do
/// that, else a second name of it. For what is only ever replaced, never written in place.
pub(crate) fn share(from: &Path, to: &Path, modified: SystemTime) -> io::Result<()> {
    if reflink(from, to, modified)? {
        return Ok(());
    }
    fs::hard_link(from, to)
}

/// Makes `to` a file of its own with the content of `from`.
pub(crate) fn copy(from: &Path, to: &Path, modified: SystemTime) -> io::Result<()> {
    if reflink(from, to, modified)? {
        return Ok(());
    }
    fs::copy(from, to)?;
    set_modified(to, modified)
}

/// Whether it could be done; `false` where the filesystem can't.
fn reflink(from: &Path, to: &Path, modified: SystemTime) -> io::Result<bool> {
    match reflink_copy::reflink(from, to) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::StorageFull => return Err(e),
        Err(_) => return Ok(false),
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    set_modified(to, modified)?;
    Ok(true)
}

/// Sets when a file was last modified.
pub(crate) fn set_modified(path: &Path, modified: SystemTime) -> io::Result<()> {
    // To be the owner is enough, where a file need not be open for writing.
    let file =
        if cfg!(unix) { File::open(path)? } else { File::options().append(true).open(path)? };
    file.set_modified(modified)
}

/// Makes `to` a directory with the files of `from`, times included: the same files where `is_replaced` says that
/// nothing writes into one, else copies, and so for what can't have another name. Links are left out.
pub(crate) fn share_tree(from: &Path, to: &Path, is_replaced: fn(&Path) -> bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut made = None;
    for path in tree(from)? {
        let (source, target) = (from.join(&path), to.join(&path));
        let modified = fs::symlink_metadata(&source)?.modified()?;
        let parent = target.parent().unwrap_or(to).to_owned();
        if made.as_ref() != Some(&parent) {
            fs::create_dir_all(&parent)?;
            made = Some(parent);
        }
        if !is_replaced(&path) || share(&source, &target, modified).is_err() {
            copy(&source, &target, modified)?;
        }
    }
    Ok(())
}

/// The files below a directory, relative to it, in order. No link is followed. Empty when there is no
/// such directory.
pub(crate) fn tree(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                found.extend(entry.path().strip_prefix(dir).ok().map(Path::to_owned));
            }
            Ok(_) => {}
            Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

/// All that is below a directory, relative to it. Each directory comes before what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) files: Vec<PathBuf>,
    /// Symbolic links, and what they say.
    pub(crate) links: Vec<Link>,
    pub(crate) dirs: Vec<PathBuf>,
    /// Sockets and the like, which cannot be given, and names that a document cannot have.
    pub(crate) others: Vec<PathBuf>,
}

/// Lists all that is below a directory. No link is followed. Empty when there is no such directory.
pub(crate) fn whole_tree(dir: &Path) -> io::Result<Tree> {
    let mut found = Tree::default();
    for entry in walkdir::WalkDir::new(dir).min_depth(1).sort_by_file_name() {
        let entry = match entry {
            Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => continue,
            other => other?,
        };
        let Ok(path) = entry.path().strip_prefix(dir).map(Path::to_owned) else { continue };
        let kind = entry.file_type();
        if kind.is_symlink() {
            let to = fs::read_link(entry.path())?;
            match to.to_str().and(path.to_str()) {
                Some(_) => found.links.push(Link { path, to }),
                None => found.others.push(path),
            }
        } else if path.to_str().is_none() {
            found.others.push(path);
        } else if kind.is_dir() {
            found.dirs.push(path);
        } else if kind.is_file() {
            found.files.push(path);
        } else {
            found.others.push(path);
        }
    }
    Ok(found)
}

/// Removes a file, if it is there.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    unless_gone(fs::remove_file(file))
}

/// [`remove`], saying which file it was.
pub(crate) fn discard(file: &Path) -> Result<()> {
    remove(file).map_err(|e| Error::io(format!("remove {}", file.display()), e))
}

/// [`remove_tree`], saying which directory it was.
pub(crate) fn discard_tree(dir: &Path) -> Result<()> {
    remove_tree(dir).map_err(|e| Error::io(format!("remove {}", dir.display()), e))
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets its owner write to a directory.
#[cfg(unix)]
pub(crate) fn make_writable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(meta.permissions().mode() | 0o700))
}

/// Does nothing: a directory's attribute is no obstacle there.
#[cfg(not(unix))]
pub(crate) fn make_writable(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether a directory has nothing in it, or is not there.
pub(crate) fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// Bytes allocated below `dirs`, each file counted once, however many names it has. What reflinks
/// share is counted for each of them. What can't be looked at is not counted.
pub fn allocated(dirs: &[&Path]) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let entries = dirs.iter().flat_map(walkdir::WalkDir::new).flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| blocks(&meta, &mut seen)).sum()
}

#[cfg(unix)]
fn blocks(meta: &fs::Metadata, seen: &mut std::collections::HashSet<(u64, u64)>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    if seen.insert((meta.dev(), meta.ino())) { meta.blocks() * 512 } else { 0 }
}

#[cfg(not(unix))]
fn blocks(meta: &fs::Metadata, _: &mut std::collections::HashSet<(u64, u64)>) -> u64 {
    meta.len()
}

/// A path without links in it, as far as there is something there.
pub(crate) fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|dir| {
        let real = fs::canonicalize(dir).ok()?;
        Some((real, path.strip_prefix(dir).ok()?))
    });
    match found {
        // Nothing added, so that it does not end with a separator.
        Some((real, rest)) if rest == Path::new("") => real,
        Some((real, rest)) => real.join(rest),
        None => path.to_owned(),
    }
}

/// What the names of files begin with that are being written; and of those whose writer was killed.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Writes a file whole or not at all; one that is the same already stays as it is.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
    fs::write(unfinished.path(), content)?;
    pool_core::fail_point!("cache-share::files::unfinished");
    unfinished.persist(path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_a_file_of_its_own_with_the_same_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "content").expect("written");
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 7);
        set_modified(&from, modified).expect("set");
        copy(&from, &to, modified).expect("copied");
        fs::write(&to, "changed").expect("it can be written");
        assert_eq!(fs::read_to_string(&from).expect("read"), "content");
        let recorded = Recorded::of(dir.path(), Path::new("from")).expect("recorded");
        assert_eq!((recorded.size, recorded.modified), (7, modified));
        assert!(recorded.is_intact(dir.path()));
        fs::remove_file(&from).expect("removed");
        assert!(!recorded.is_intact(dir.path()));
    }

    #[test]
    fn link_that_goes_up_and_down_again_stays_inside() {
        let stays = |path: &str, to: &str| {
            Link { path: path.into(), to: to.into() }.stays_in(Path::new("build/a-1"))
        };
        for to in ["libfoo.so.1", "../b", "../../output", "gone/x"] {
            assert!(stays("build/a-1/out/lib/libfoo.so", to), "{to}");
        }
        for to in ["/etc/passwd", "../../../b-2/out", "sub/../../../..", "x/..", "", "./../../../x"]
        {
            assert!(!stays("build/a-1/out/lib/libfoo.so", to), "{to}");
        }
        assert!(!stays("build/b-2/out/x", "y"), "it is in another tree");
    }

    #[cfg(unix)]
    #[test]
    fn whole_tree_has_links_and_empty_directories() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("a/empty")).expect("made");
        fs::write(dir.path().join("a/file"), "").expect("written");
        std::os::unix::fs::symlink("file", dir.path().join("a/link")).expect("linked");
        std::os::unix::net::UnixListener::bind(dir.path().join("a/socket")).expect("bound");
        let found = whole_tree(dir.path()).expect("read");
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(found.files, paths(&["a/file"]));
        assert_eq!(found.links, [Link { path: "a/link".into(), to: "file".into() }]);
        assert_eq!(found.dirs, paths(&["a", "a/empty"]));
        assert_eq!(found.others, paths(&["a/socket"]));
        assert_eq!(whole_tree(&dir.path().join("gone")).expect("read"), Tree::default());
    }

    #[cfg(unix)]
    #[test]
    fn a_real_path_has_no_links_in_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it exists");
        fs::create_dir(root.join("there")).expect("made");
        std::os::unix::fs::symlink(root.join("there"), root.join("link")).expect("linked");
        assert_eq!(real(&root.join("link")), root.join("there"));
        assert_eq!(real(&root.join("link/not/yet")), root.join("there/not/yet"));
        assert_eq!(real(Path::new("/no-such-directory/x")), Path::new("/no-such-directory/x"));
    }

    #[test]
    fn what_has_two_names_counts_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("one"), vec![1; 100_000]).expect("written");
        let once = allocated(&[dir.path()]);
        fs::hard_link(dir.path().join("one"), dir.path().join("two")).expect("linked");
        assert_eq!(allocated(&[dir.path(), dir.path()]), once);
        assert!(once >= 100_000);
    }
}
