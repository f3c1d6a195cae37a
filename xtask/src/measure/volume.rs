//! A filesystem of its own, in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::ground::checked;
use crate::Result;

/// Which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Which can't share parts of files.
    Ext4,
    /// Which can.
    Btrfs,
    /// Which can, too.
    Xfs,
}

/// A mounted one. Dropped, it is gone.
pub(crate) struct Volume {
    at: PathBuf,
}

impl Volume {
    pub(crate) fn make(kind: Kind, gib: u64, dir: &Path) -> Result<Self> {
        let image = dir.join("image");
        fs::File::create(&image)?.set_len(gib << 30)?;
        let (program, args): (_, &[&str]) = match kind {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            // Metadata once, as with the others.
            Kind::Btrfs => ("mkfs.btrfs", &["--quiet", "--metadata", "single"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
        };
        checked(Command::new(program).args(args).arg(&image))?;
        let at = dir.join("volume");
        fs::create_dir(&at)?;
        let at = at.canonicalize()?;
        checked(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
        Ok(Self { at })
    }

    pub(crate) fn mounted(&self) -> &Path {
        &self.at
    }

    /// Bytes that are taken on it, once all is written.
    pub(crate) fn taken(&self) -> Result<u64> {
        checked(Command::new("sync").arg("--file-system").arg(&self.at))?;
        let stat = rustix::fs::statvfs(&self.at)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The pool's reaper may still stand in it.
        for attempt in 0..100 {
            let how: &[&str] = if attempt < 99 { &[] } else { &["--lazy"] };
            if checked(Command::new("umount").args(how).arg(&self.at)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
