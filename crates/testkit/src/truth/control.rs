//! Strategies that are wrong, so that the suite can be seen to notice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use pool_core::{Attachment, CacheSite, CacheStrategy, Error, ErrorKind, Result};

/// One `CARGO_TARGET_DIR` for all, and nothing else: what one would write at first.
#[derive(Debug)]
pub struct NaiveShared {
    target: PathBuf,
}

impl NaiveShared {
    /// What the strategy is called.
    pub const NAME: &str = "naive-shared";

    /// All leases build into that directory.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self { target: target.into() }
    }
}

#[async_trait]
impl CacheStrategy for NaiveShared {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, _site: &CacheSite) -> Attachment {
        let target = self.target.to_string_lossy().into_owned();
        Attachment {
            strategy: Self::NAME.to_owned(),
            env: [("CARGO_TARGET_DIR".to_owned(), target)].into(),
            writable_roots: vec![self.target.clone()],
            warm: true,
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        Ok(self.announce(site))
    }

    async fn detach(&self, _site: &CacheSite) -> Result<()> {
        Ok(())
    }

    async fn trim(&self, _budget: u64) -> Result<u64> {
        Ok(0)
    }

    async fn usage(&self) -> Result<u64> {
        Ok(0)
    }
}

/// One build directory for all, in which each slot's members are told apart by the path of a workspace wrapper,
/// and a `target` of one's own. Better than [`NaiveShared`], and not good enough.
#[cfg(unix)]
#[derive(Debug)]
pub struct NaiveWrapper {
    dir: PathBuf,
}

#[cfg(unix)]
impl NaiveWrapper {
    /// What the strategy is called.
    pub const NAME: &str = "naive-wrapper";

    /// Everything is kept in that directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn wrapper(&self, site: &CacheSite) -> PathBuf {
        self.dir.join(site.slot.to_string()).join("env")
    }
}

#[cfg(unix)]
#[async_trait]
impl CacheStrategy for NaiveWrapper {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, site: &CacheSite) -> Attachment {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Attachment {
            strategy: Self::NAME.to_owned(),
            env: [
                ("CARGO_BUILD_BUILD_DIR".to_owned(), text(self.dir.join("build"))),
                ("RUSTC_WORKSPACE_WRAPPER".to_owned(), text(self.wrapper(site))),
            ]
            .into(),
            writable_roots: vec![self.dir.clone()],
            warm: true,
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let wrapper = self.wrapper(site);
        let made = fs::create_dir_all(self.dir.join(site.slot.to_string())).and_then(|()| {
            // A program that runs the rest of its command line.
            if wrapper.exists() {
                Ok(())
            } else {
                std::os::unix::fs::symlink("/usr/bin/env", wrapper)
            }
        });
        made.map_err(|e| Error::new(ErrorKind::Other, "no wrapper can be made").with_source(e))?;
        Ok(self.announce(site))
    }

    async fn detach(&self, _site: &CacheSite) -> Result<()> {
        Ok(())
    }

    async fn trim(&self, _budget: u64) -> Result<u64> {
        Ok(0)
    }

    async fn usage(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Each new slot gets hard links to the whole `target` of a checkout that was built; and each lease the
/// dates of that checkout's files, also where their contents differ or something was built before. A slot that is used again
/// gets its last holder's `target` back.
#[derive(Debug, Default)]
pub struct NaiveSeed {
    donor: Mutex<Option<PathBuf>>,
}

impl NaiveSeed {
    /// What the strategy is called.
    pub const NAME: &str = "naive-seed";

    /// A strategy without a donor: it does nothing before it has one.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, new slots start with the `target` of that checkout.
    pub fn set_donor(&self, checkout: impl Into<PathBuf>) {
        *self.donor.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkout.into());
    }
}

#[async_trait]
impl CacheStrategy for NaiveSeed {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, _site: &CacheSite) -> Attachment {
        Attachment { strategy: Self::NAME.to_owned(), warm: true, ..Attachment::default() }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let donor = self.donor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(donor) = donor {
            // The isolator has reset the worktree since.
            drop(fs::rename(kept(site), site.path.join("target")));
            seed(&donor, &site.path).map_err(|e| {
                Error::new(ErrorKind::Other, "the target can't be seeded").with_source(e)
            })?;
        }
        Ok(self.announce(site))
    }

    async fn harvest(&self, site: &CacheSite) -> Result<()> {
        drop(fs::rename(site.path.join("target"), kept(site)));
        Ok(())
    }

    async fn detach(&self, _site: &CacheSite) -> Result<()> {
        Ok(())
    }

    async fn trim(&self, _budget: u64) -> Result<u64> {
        Ok(0)
    }

    async fn usage(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Where the `target` of a slot is between two leases.
fn kept(site: &CacheSite) -> PathBuf {
    site.path.with_file_name(".kept-target")
}

fn seed(donor: &Path, site: &Path) -> io::Result<()> {
    let (from, to) = (donor.join("target"), site.join("target"));
    if from.is_dir() && !to.exists() {
        link_all(&from, &to)?;
    }
    copy_dates(donor, site)
}

/// Hard links for files, directories anew, with the dates of all.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_all(&entry.path(), &place)?;
        } else {
            fs::hard_link(entry.path(), place)?;
        }
    }
    copy_date(from, to)
}

/// Gives what lies in both the date it has in `from`, except for the `target`.
fn copy_dates(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_name() == "target" || entry.file_name() == ".git" || !place.exists() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_dates(&entry.path(), &place)?;
        }
        copy_date(&entry.path(), &place)?;
    }
    Ok(())
}

fn copy_date(from: &Path, to: &Path) -> io::Result<()> {
    fs::File::open(to)?.set_modified(from.metadata()?.modified()?)
}
