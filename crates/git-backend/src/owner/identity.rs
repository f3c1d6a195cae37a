//! What a pool remembers of its repository, to know it again at another path.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use pool_core::{Error, Result, open_plain};
use serde::{Deserialize, Serialize};

/// In the pool's directory, beside the file that names the owner.
pub(super) const MEMORY_FILE: &str = ".repository.identity";
/// More than this is not read.
const LIMIT: u64 = 64 * 1024;
/// How many earlier paths of a pool are remembered.
const EARLIER: usize = 8;

/// What tells a directory from every other one, and stays the same when it is renamed. A copy has
/// another one; so has what is later made at its path, even if the inode number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    inode: u64,
    /// When it was made, in nanoseconds since 1970.
    born: u64,
    filesystem: u64,
}

impl Identity {
    /// Returns the identity of a directory; `None` if there is none, or its filesystem does not tell
    /// when it was made.
    #[cfg(unix)]
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;

        let meta = fs::metadata(dir).ok().filter(fs::Metadata::is_dir)?;
        let born = meta.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self {
            inode: meta.ino(),
            born: u64::try_from(born.as_nanos()).ok()?,
            filesystem: rustix::fs::statvfs(dir).ok()?.f_fsid,
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn of(_: &Path) -> Option<Self> {
        None
    }
}

/// Which paths a process sees: in a container, what is missing may well be there outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct View {
    boot: String,
    mounts: u64,
    /// Whether it is in the first pid namespace, that of the machine itself.
    is_outermost: bool,
}

impl View {
    #[cfg(target_os = "linux")]
    pub(super) fn now() -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;

        /// `PROC_PID_INIT_INO` of the kernel.
        const OUTERMOST: u64 = 0xEFFF_FFFC;
        let namespace = |name: &str| {
            fs::metadata(Path::new("/proc/self/ns").join(name)).ok().map(|meta| meta.ino())
        };
        Some(Self {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned(),
            mounts: namespace("mnt")?,
            is_outermost: namespace("pid")? == OUTERMOST,
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn now() -> Option<Self> {
        Some(Self { boot: String::new(), mounts: 0, is_outermost: true })
    }

    /// Whether a path that is missing in this view is missing in the other one as well.
    fn is_that_of(&self, other: &Self) -> bool {
        match self.boot == other.boot {
            true => self.mounts == other.mounts,
            // The numbers of namespaces mean nothing any more.
            false => self.is_outermost && other.is_outermost,
        }
    }
}

/// What a pool remembers of its repository, and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// That of the repository's common directory.
    identity: Option<Identity>,
    /// Those of before: of the directories that a copy at the same path took the place of.
    #[serde(default)]
    formerly: Vec<Identity>,
    /// That of the process which wrote this.
    view: Option<View>,
    /// The last component of each slot's path: the repository's name when the pool was made.
    name: String,
    pool_dir: Escaped,
    /// Where the pool was before.
    earlier: Vec<Escaped>,
    /// The common directory of the repository that is just taking the pool over; if it never
    /// finished, the pool's worktrees name either its registrations or those of the owner.
    taken_by: Vec<Escaped>,
}

/// A path with what is no printable ASCII character as `%` and two hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Escaped(String);

impl Escaped {
    fn new(path: &Path) -> Result<Self> {
        let escape = |byte: u8| match byte {
            b'%' => "%25".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        };
        Ok(Self(super::bytes_of(path)?.into_iter().map(escape).collect()))
    }

    fn path(&self) -> Option<PathBuf> {
        let mut parts = self.0.split('%');
        let mut bytes = parts.next()?.as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            bytes.extend(rest.as_bytes());
        }
        let path = gix::path::from_byte_slice(&bytes).ok()?;
        path.is_absolute().then(|| path.to_owned())
    }
}

impl Memory {
    /// What is to be remembered from now on of the pool in `pool_dir`, whose slots end in `name`.
    /// `identity` is that of its repository's common directory when that was opened.
    pub(super) fn now(pool_dir: &Path, identity: Option<Identity>, name: &str) -> Result<Self> {
        Ok(Self {
            identity,
            formerly: Vec::new(),
            view: View::now(),
            name: name.to_owned(),
            pool_dir: Escaped::new(pool_dir)?,
            earlier: Vec::new(),
            taken_by: Vec::new(),
        })
    }

    /// The same, as long as the repository at `common_dir` takes over the pool in `pool_dir`.
    pub(super) fn while_taken(mut self, pool_dir: &Path, common_dir: &Path) -> Result<Self> {
        for (list, path) in [(&mut self.taken_by, common_dir), (&mut self.earlier, pool_dir)] {
            let path = Escaped::new(path)?;
            list.retain(|known| *known != path);
            list.insert(0, path);
            list.truncate(EARLIER);
        }
        Ok(self)
    }

    /// The same, with the paths at which the pool was before, and the identities that it had.
    pub(super) fn after(mut self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        for identity in before.identity.into_iter().chain(before.formerly) {
            let is_known = self.is_of(Some(identity)) || self.formerly.contains(&identity);
            if !is_known && self.formerly.len() < EARLIER {
                self.formerly.push(identity);
            }
        }
        let all = std::iter::once(before.pool_dir).chain(before.earlier);
        for path in all.filter(|path| *path != self.pool_dir) {
            if !self.earlier.contains(&path) && self.earlier.len() < EARLIER {
                self.earlier.push(path);
            }
        }
        self
    }

    /// Reads what the pool in `pool_dir` remembers; `None` if there is nothing, or it is damaged.
    pub(super) fn read(pool_dir: &Path) -> Result<Option<Self>> {
        let path = pool_dir.join(MEMORY_FILE);
        let mut text = Vec::new();
        let read = open_plain(File::options().read(true), &path)
            .and_then(|file| file.take(LIMIT).read_to_end(&mut text));
        match read {
            Ok(_) => {
                let memory: Option<Self> = serde_json::from_slice(&text).ok();
                Ok(memory.filter(|memory| crate::site::sanitized(&memory.name) == memory.name))
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
        }
    }

    /// Writes it, as a whole or not at all.
    pub(super) fn write(&self, pool_dir: &Path) -> Result<()> {
        let path = pool_dir.join(MEMORY_FILE);
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::io(format!("write {}", path.display()), e.into()))?;
        super::replace(&path, &text)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the pool was when this was written.
    pub(super) fn pool_dir(&self) -> Option<PathBuf> {
        self.pool_dir.path()
    }

    /// The common directories of repositories that began to take the pool over, and did not finish.
    pub(super) fn taken_by(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.taken_by.iter().filter_map(Escaped::path)
    }

    /// Where it was before, the latest first.
    pub(super) fn earlier(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.earlier.iter().filter_map(Escaped::path)
    }

    /// Whether that is the repository that is remembered, for certain.
    pub(super) fn is_of(&self, identity: Option<Identity>) -> bool {
        self.identity.is_some() && self.identity == identity
    }

    /// Whether that is the repository that was remembered before, for certain.
    pub(super) fn was_of(&self, identity: Option<Identity>) -> bool {
        identity.is_some_and(|identity| self.formerly.contains(&identity))
    }

    /// Whether that is another repository, for certain.
    pub(super) fn is_not_of(&self, identity: Option<Identity>) -> bool {
        matches!((self.identity, identity), (Some(own), Some(other)) if own != other)
    }

    /// Whether this process sees the paths that the one saw which wrote this.
    pub(super) fn is_of_this_view(&self) -> bool {
        matches!((&self.view, View::now()), (Some(view), Some(now)) if view.is_that_of(&now))
    }

    /// Whether this process knows better than what is written: that the repository was copied back to
    /// its path, or which paths the machine itself sees.
    pub(super) fn is_outdated(&self, identity: Option<Identity>) -> bool {
        let view = View::now();
        let knows_better = match (&self.view, &view) {
            (Some(old), Some(new)) => {
                new.is_outermost && !old.is_outermost
                    || old.boot != new.boot && new.is_outermost >= old.is_outermost
            }
            (old, new) => old.is_none() && new.is_some(),
        };
        // What can't be seen now may have been moved this moment.
        identity.is_some() && self.identity != identity || knows_better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(boot: &str, mounts: u64, is_outermost: bool) -> View {
        View { boot: boot.to_owned(), mounts, is_outermost }
    }

    #[test]
    fn view_of_another_container_is_another() {
        let own = view("today", 1, true);
        assert!(own.is_that_of(&view("today", 1, true)));
        assert!(!own.is_that_of(&view("today", 2, true)), "other mounts");
        assert!(own.is_that_of(&view("yesterday", 7, true)), "the machine itself");
        assert!(!own.is_that_of(&view("yesterday", 1, false)), "a container of before");
    }

    #[cfg(unix)]
    #[test]
    fn memory_holds_any_path() {
        use std::os::unix::ffi::OsStrExt as _;

        let dir = tempfile::tempdir().expect("a temporary directory");
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/a \xff%41\n\xc3\xa4"));
        let memory = Memory::now(odd, Identity::of(dir.path()), "app").expect("made");
        memory.write(dir.path()).expect("written");
        let read = Memory::read(dir.path()).expect("read").expect("there");
        assert_eq!((read.pool_dir().as_deref(), &read), (Some(odd), &memory));
        let moved = Memory::now(dir.path(), Identity::of(dir.path()), "app")
            .expect("made")
            .after(Some(read));
        assert_eq!(moved.earlier().collect::<Vec<_>>(), [odd]);
    }

    #[test]
    fn damaged_memory_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memory = Memory::now(dir.path(), Identity::of(dir.path()), "app").expect("made");
        let text = serde_json::to_string(&memory).expect("JSON");
        for damaged in [&text[..text.len() / 2], "", "{}", &text.replace("\"app\"", "\"../app\"")] {
            fs::write(dir.path().join(MEMORY_FILE), damaged).expect("written");
            assert_eq!(Memory::read(dir.path()).expect("read"), None, "{damaged}");
        }
    }
}
