//! Where paths lead: the same directory has other paths where it is mounted once more, as into the
//! container that an agent is confined to.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The mounts of one mount namespace, by the points where they are. There may be thousands, and as many
/// processes to ask for.
#[derive(Debug)]
pub(super) struct Mounts(HashMap<PathBuf, Spot>);

/// A place in a filesystem, whatever it is mounted as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    device: String,
    path: PathBuf,
}

impl Spot {
    /// Whether it is that one or below it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

impl Mounts {
    /// What `/proc/<pid>/mountinfo` says; see proc_pid_mountinfo(5). Lines that make no sense are left out.
    /// (procfs 0.18 leaves escaped characters as they are, and gives up at a path that is not UTF-8.)
    pub(super) fn parse(text: &[u8]) -> Self {
        let mounts = text.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
            let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
            Some((point, Spot { device, path: root }))
        });
        // Of several on one point the last hides the others, and is what is kept.
        Self(mounts.collect())
    }

    /// Where a path leads that has no links in it.
    pub(super) fn locate(&self, path: &Path) -> Option<Spot> {
        let (point, mounted) = path.ancestors().find_map(|above| self.0.get_key_value(above))?;
        let rest = path.strip_prefix(point).ok()?;
        Some(Spot { device: mounted.device.clone(), path: mounted.path.join(rest) })
    }
}

/// Some characters are written as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_directory_under_several_paths() {
        let host = Mounts::parse(
            b"22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
              40 22 254:1 / /home rw - ext4 /dev/vdb rw\n\
              41 22 254:1 /me/a\\040b/7 /mnt/x rw - ext4 /dev/vdb rw\n\
              nonsense\n",
        );
        let slot = host.locate(Path::new("/home/me/a b/7")).unwrap();
        let within = |path| host.locate(Path::new(path)).unwrap().is_within(&slot);
        assert!(within("/home/me/a b/7/src") && within("/mnt/x") && within("/mnt/x/src"));
        assert!(!within("/home/me/a b/71") && !within("/home/me") && !within("/mnt"));
        assert!(!within("/me/a b/7"), "on another device");

        let container = Mounts::parse(
            b"1 0 0:50 / / rw - overlay overlay rw\n\
              2 1 254:1 /me/a\\040b/7/src /work rw - ext4 /dev/vdb rw\n\
              3 1 0:51 / /work rw - tmpfs none rw\n\
              4 3 254:1 /me/a\\040b/7 /work/deep rw - ext4 /dev/vdb rw\n",
        );
        let within = |path| container.locate(Path::new(path)).unwrap().is_within(&slot);
        assert!(within("/work/deep/er") && !within("/work") && !within("/home/me/a b/7"));
        assert_eq!(Mounts::parse(b"").locate(Path::new("/")), None);
    }
}
