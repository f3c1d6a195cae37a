//! The files of a pool directory, and whether a database can live there at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fs4::{FileExt, TryLockError};

use super::patience;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SlotId;
use crate::plain::open_plain;

/// The size of SQLite's shared index (one part of it, which is all a pool's log ever needs), twice.
#[cfg(unix)]
const ROOM: u64 = 2 * 32_768;

/// A file that holds room for the records' own next changes.
pub(super) const RESERVE_FILE: &str = "reserve";

/// Its size: a change takes some tens of KiB, and the removal of a workspace some more.
#[cfg(unix)]
const RESERVE: u64 = 1 << 20;

/// A directory of empty files, each of which holds an inode for the same purpose.
pub(super) const RESERVED_INODES: &str = "reserve-inodes";

/// How many: a prune makes a claim, SQLite's log, sidecars, and what git needs.
#[cfg(unix)]
const INODES: u64 = 32;

/// It is made where there is this many times as much room.
#[cfg(unix)]
const PLENTY: u64 = 8;

#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

/// Which files bear the database's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) database: Option<(u64, u64)>,
    log: Option<(u64, u64)>,
}

impl Layout {
    /// Makes the directory if need be, and checks that a database may live in it.
    pub(super) fn prepare(dir: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        if let Err(error) = builder.create(dir) {
            if fs::metadata(dir).is_ok_and(|m| !m.is_dir()) {
                return Err(not_a_directory(dir));
            }
            return Err(Error::io(format!("create the pool directory {}", dir.display()), error)
                .with_hint("set another pool directory"));
        }
        let dir = fs::canonicalize(dir)
            .map_err(|e| Error::io(format!("find the pool directory {}", dir.display()), e))?;
        check_owner(&dir)?;
        if let Some(kind) = network_filesystem(&dir)? {
            let message = format!(
                "the pool directory {} is on a network filesystem ({kind}), where a database that \
                 several processes share is not safe",
                dir.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("set the pool directory (`pool_dir`) to a path on a local disk"));
        }
        let layout = Self { dir };
        // The first write: a read-only directory is reported here, with its name.
        Lock::file(&layout)?;
        Ok(layout)
    }

    /// An existing directory, of which nothing is asked and in which nothing is made.
    pub(super) fn existing(dir: &Path) -> Result<Self> {
        let dir = fs::canonicalize(dir)
            .map_err(|e| Error::io(format!("find the pool directory {}", dir.display()), e))?;
        check_owner(&dir)?;
        Ok(Self { dir })
    }

    /// SQLite's write-ahead log.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("pool.db-wal")
    }

    pub(super) fn directory(&self) -> &Path {
        &self.dir
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("pool.db")
    }

    /// The database and what SQLite keeps beside it.
    pub(super) fn database_files(&self) -> [(PathBuf, &'static str); 3] {
        [("pool.db", ""), ("pool.db-wal", "-wal"), ("pool.db-shm", "-shm")]
            .map(|(name, suffix)| (self.dir.join(name), suffix))
    }

    pub(super) fn pool_sidecar(&self) -> PathBuf {
        self.dir.join("pool.json")
    }

    pub(super) fn slots(&self) -> PathBuf {
        self.dir.join("slots")
    }

    pub(super) fn slot_sidecar(&self, slot: SlotId) -> PathBuf {
        self.slots().join(slot.to_string()).join("slot.json")
    }

    /// Which files are there now.
    pub(super) fn identity(&self) -> Result<Identity> {
        let [(database, _), (log, _), _] = self.database_files();
        Ok(Identity { database: identify(&database)?, log: identify(&log)? })
    }

    /// Whether the filesystem has no room, as far as it tells.
    pub(super) fn is_full(&self) -> bool {
        #[cfg(unix)]
        return rustix::fs::statvfs(&self.dir)
            .is_ok_and(|s| s.f_bavail == 0 || (s.f_files > 0 && s.f_favail == 0));
        #[cfg(not(unix))]
        false
    }

    /// Where blocks are smaller than a page of memory, SQLite's shared index can have holes that
    /// are filled when they are written; with no room left, that kills the process (`SIGBUS`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] when that might happen now.
    pub(super) fn check_room(&self) -> Result<()> {
        #[cfg(unix)]
        if let Ok(stat) = rustix::fs::statvfs(&self.dir)
            && stat.f_frsize < 4096
            && stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM
        {
            let message = format!("no room for the database in {}", self.dir.display());
            return Err(Error::new(ErrorKind::NoSpace, message).with_hint("free some disk space"));
        }
        Ok(())
    }

    /// Sets a little room aside, unless there is little.
    pub(super) fn set_room_aside(&self) {
        #[cfg(unix)]
        self.set_inodes_aside();
        #[cfg(unix)]
        {
            let path = self.dir.join(RESERVE_FILE);
            let is_whole = |meta: fs::Metadata| meta.len() == RESERVE;
            if fs::symlink_metadata(&path).is_ok_and(is_whole)
                || !rustix::fs::statvfs(&self.dir).is_ok_and(|stat| {
                    stat.f_bavail.saturating_mul(stat.f_frsize) > PLENTY * RESERVE
                })
            {
                return;
            }
            // Nobody takes what is not finished for something that was left.
            let Ok(_shared) = Lock::shared(self, Duration::ZERO) else { return };
            // Whole or not there: several may do this at once, and any may be killed.
            let unfinished = self.dir.join(format!(".{RESERVE_FILE}-{}", std::process::id()));
            let zeros = vec![0; usize::try_from(RESERVE).unwrap_or_default()];
            let written = fs::write(&unfinished, zeros);
            crate::fail_point!("pool-core::layout::reserve-written");
            if written.and_then(|()| fs::rename(&unfinished, &path)).is_err() {
                // It is a convenience: the pool does without.
                let _ = fs::remove_file(&unfinished);
            }
        }
    }

    /// Sets a few inodes aside in the same way: empty files. It is a convenience: the pool does without.
    #[cfg(unix)]
    fn set_inodes_aside(&self) {
        let dir = self.dir.join(RESERVED_INODES);
        let last = dir.join((INODES - 1).to_string());
        let is_plenty = |s: rustix::fs::StatVfs| s.f_files > 0 && s.f_favail > PLENTY * INODES;
        if last.exists() || !rustix::fs::statvfs(&self.dir).is_ok_and(is_plenty) {
            return;
        }
        let _ = fs::create_dir(&dir);
        if !fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        for number in 0..INODES {
            let _ = File::create_new(dir.join(number.to_string()));
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        Lock::file(self).is_ok()
    }
}

fn identify(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        #[cfg(unix)]
        Ok(meta) => {
            use std::os::unix::fs::MetadataExt;
            Ok(Some((meta.dev(), meta.ino())))
        }
        // An open file can't be replaced there.
        #[cfg(not(unix))]
        Ok(_) => Ok(Some((0, 0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
    }
}

fn not_a_directory(dir: &Path) -> Error {
    let message = format!("the pool directory {} is not a directory", dir.display());
    Error::new(ErrorKind::InvalidInput, message).with_hint("set another pool directory")
}

/// Held shared while the database is opened or changed, exclusively while it is replaced. The file
/// is never removed.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn shared(layout: &Layout, patience: Duration) -> Result<Self> {
        Self::take(layout, patience, false)
    }

    pub(super) fn exclusive(layout: &Layout, patience: Duration) -> Result<Self> {
        Self::take(layout, patience, true)
    }

    /// One's turn among those who want to change something. It is waited for in the operating system,
    /// which serves them in order and costs nothing meanwhile: of dozens of processes that each try
    /// again every few milliseconds, on a machine that has other things to do, some never had any
    /// luck, and none was quick.
    pub(super) fn turn(layout: &Layout, patience: Duration) -> Result<Self> {
        let path = layout.dir.join("pool.turn");
        let failed = |e| Error::io(format!("lock {}", path.display()), e);
        let file = Self::open(&path)?;
        match FileExt::try_lock(&file) {
            Ok(()) => return Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let (give, take) = mpsc::channel();
        // In a thread of its own, since such waiting has no other end.
        let wait = move || {
            let locked = loop {
                match FileExt::lock(&file) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    done => break done.map(|()| Self(file)),
                }
            };
            // When nobody waits for it any more, it is dropped, and thus given up.
            drop(give.send(locked));
        };
        std::thread::Builder::new().name("turn".to_owned()).spawn(wait).map_err(failed)?;
        match take.recv_timeout(patience) {
            Ok(locked) => locked.map_err(failed),
            Err(_) => Err(busy(&path)),
        }
    }

    fn file(layout: &Layout) -> Result<File> {
        Self::open(&layout.dir.join("pool.lock"))
    }

    fn open(path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        let file = open_plain(options.create(true).truncate(false).write(true), path);
        file.map_err(|e| {
            let error =
                Error::io(format!("write in the pool directory: open {}", path.display()), e);
            match error.kind() {
                ErrorKind::PermissionDenied => {
                    error.with_hint("make the pool directory writable, or set another one")
                }
                _ => error,
            }
        })
    }

    fn take(layout: &Layout, patience: Duration, exclusive: bool) -> Result<Self> {
        let file = Self::file(layout)?;
        let since = Instant::now();
        loop {
            let taken = match exclusive {
                true => FileExt::try_lock(&file),
                false => FileExt::try_lock_shared(&file),
            };
            let path = layout.dir.join("pool.lock");
            match taken {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if since.elapsed() < patience => patience::nap(),
                Err(TryLockError::WouldBlock) => return Err(busy(&path)),
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io(format!("lock {}", path.display()), error));
                }
            }
        }
    }
}

fn busy(path: &Path) -> Error {
    let message = format!("another process holds {}", path.display());
    Error::new(ErrorKind::Busy, message).with_hint("try again later")
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing alone: a child that is just being started may have a copy of it.
        if let Err(error) = FileExt::unlock(&self.0) {
            tracing::debug!(%error, "the pool's lock is released by closing it");
        }
    }
}

#[cfg(unix)]
fn check_owner(dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(dir).map_err(|e| Error::io(format!("look at {}", dir.display()), e))?;
    if !meta.is_dir() {
        return Err(not_a_directory(dir));
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() == user {
        // Whoever may write there may have the records say anything, and put links in the place of files.
        let mode = meta.mode() & 0o7777;
        if mode & 0o022 == 0 {
            return Ok(());
        }
        let message =
            format!("others may write in the pool directory {} (mode {mode:04o})", dir.display());
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint(format!("see what is in it, then run: chmod go-w {}", dir.display())));
    }
    let message = format!(
        "the pool directory {} belongs to another user (uid {}; this is uid {user})",
        dir.display(),
        meta.uid()
    );
    Err(Error::new(ErrorKind::PermissionDenied, message)
        .with_hint("run as its owner, or set another pool directory"))
}

#[cfg(not(unix))]
fn check_owner(_dir: &Path) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn network_filesystem(dir: &Path) -> Result<Option<String>> {
    let stat = rustix::fs::statfs(dir)
        .map_err(|e| Error::io(format!("look at the filesystem of {}", dir.display()), e.into()))?;
    // The type is 32 bits wide, whatever the field is on this architecture.
    let kind = stat.f_type as u32;
    let mounts =
        if kind == FUSE { fs::read_to_string("/proc/self/mountinfo") } else { Ok(String::new()) };
    Ok(network_kind(kind, &mounts.unwrap_or_default(), dir))
}

#[cfg(not(target_os = "linux"))]
fn network_filesystem(_dir: &Path) -> Result<Option<String>> {
    Ok(None)
}

#[cfg(target_os = "linux")]
const FUSE: u32 = 0x6573_5546;

/// The name of a filesystem that other machines share, or on which files can't be mapped shared.
/// 9p and virtiofs are not among them: they are how some sandboxes and containers see a local disk.
/// Where those can't do what SQLite needs, opening the database says so.
#[cfg(target_os = "linux")]
fn network_kind(kind: u32, mounts: &str, dir: &Path) -> Option<String> {
    let name = match kind {
        0x0000_6969 => "nfs",
        0x0000_517b | 0xfe53_4d42 | 0xff53_4d42 => "smb",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x0000_564c => "ncp",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        0x0116_1970 => "gfs2",
        0x7461_636f => "ocfs2",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0xaad7_aaea => "panfs",
        0x2003_0528 => "orangefs",
        0x786f_4256 => "vboxsf",
        FUSE => return remote_fuse(mounts, dir),
        _ => return None,
    };
    Some(name.to_owned())
}

/// The type of the FUSE mount that `dir` is on, if it is known to be a remote one.
#[cfg(target_os = "linux")]
fn remote_fuse(mounts: &str, dir: &Path) -> Option<String> {
    const REMOTE: [&str; 12] = [
        "sshfs",
        "rclone",
        "s3fs",
        "gcsfuse",
        "glusterfs",
        "ceph",
        "davfs",
        "curlftpfs",
        "juicefs",
        "goofys",
        "mount-s3",
        "blobfuse",
    ];
    // proc_pid_mountinfo(5): the fifth field is the mount point, the first after " - " the type.
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let point = head.split(' ').nth(4)?.replace("\\040", " ");
            dir.starts_with(&point).then_some((point.len(), tail.split(' ').next()?))
        })
        // Of several on one point the last hides the others; max_by_key takes the last.
        .max_by_key(|(len, _)| *len)?;
    let kind = mount.1;
    let name = kind.strip_prefix("fuse.").unwrap_or(kind);
    REMOTE.iter().any(|r| name.starts_with(r)).then(|| kind.to_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_told_from_local_ones() {
        let dir = Path::new("/home/me/my pool");
        for remote in [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0bd0_0bd0] {
            assert!(network_kind(remote, "", dir).is_some(), "{remote:x}");
        }
        // ext, btrfs, xfs, tmpfs, overlayfs, zfs, 9p
        for local in
            [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0x0102_1997]
        {
            assert_eq!(network_kind(local, "", dir), None, "{local:x}");
        }
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      40 22 0:38 / /home/me/my\\040pool rw shared:2 - fuse.sshfs host:/x rw\n\
                      41 22 0:39 / /home/me/other rw shared:3 - fuse.bindfs /y rw\n";
        assert_eq!(network_kind(FUSE, mounts, dir).as_deref(), Some("fuse.sshfs"));
        assert_eq!(network_kind(FUSE, mounts, Path::new("/home/me/other/pool")), None);
        assert_eq!(network_kind(FUSE, "", dir), None);
    }

    #[test]
    fn a_lock_is_shared_or_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        let one = Lock::shared(&layout, Duration::ZERO).unwrap();
        let two = Lock::shared(&layout, Duration::ZERO).unwrap();
        let refused = Lock::exclusive(&layout, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        drop((one, two));
        let _alone = Lock::exclusive(&layout, Duration::ZERO).unwrap();
        assert_eq!(Lock::shared(&layout, Duration::ZERO).unwrap_err().kind(), ErrorKind::Busy);
    }
}
