//! What other ecosystems can make again, and rather would not: `node_modules`, `.venv` and the like.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pool_core::{
    Attachment, CacheFinding, CacheSite, CacheStrategy, CommitId, Error, ErrorKind, Prepared,
    Result,
};

use crate::files;
use crate::note::UNFINISHED_TREES;
use crate::seeded::blocking;
use crate::setup::slot_dir;

/// Gives each lease copies of some directories of the main workspace, as they are there when it begins, in addition to
/// what another strategy gives it. The isolator has removed those of the lease before. Where the filesystem can share blocks, that takes next to no disk.
///
/// The directories should be ignored by git, and be known to the isolator as regenerable: else each lease's
/// copy is saved when it ends.
///
/// # Limitations
///
/// A directory that names its own place (most of `.venv` does) names the main one's in its copies.
#[derive(Clone, Debug)]
pub struct Directories {
    inner: Arc<dyn CacheStrategy>,
    main: PathBuf,
    names: Vec<PathBuf>,
}

impl Directories {
    /// That strategy, and directories of the workspace at `main`, by their paths relative to it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] when a path leads elsewhere.
    pub fn new(
        inner: Arc<dyn CacheStrategy>,
        main: impl Into<PathBuf>,
        names: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self> {
        let names: Vec<PathBuf> = names.into_iter().collect();
        let leads_elsewhere = |name: &&PathBuf| {
            let mut parts = name.components();
            let is_inside = |part| match part {
                Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
                _ => false,
            };
            name.as_os_str().is_empty() || !parts.all(is_inside)
        };
        match names.iter().find(leads_elsewhere) {
            None => Ok(Self { inner, main: main.into(), names }),
            Some(name) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{} is not a path inside the main worktree", name.display()),
            )
            .with_hint("name directories relative to its root")),
        }
    }

    /// Copies what the commit does not have itself. What can't be copied is told, and no more than that: it can be made
    /// again.
    fn give(&self, worktree: &Path) -> Option<String> {
        let mut trouble = None;
        for name in &self.names {
            let (from, to) = (self.main.join(name), worktree.join(name));
            let is_dir = fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_dir());
            if !is_dir || fs::symlink_metadata(&to).is_ok() {
                continue;
            }
            if leads_out(&self.main, name) || leads_out(worktree, name) {
                trouble = Some(format!("{} was not copied: a link leads to it", name.display()));
                continue;
            }
            let unfinished = slot_dir(worktree).join(UNFINISHED_TREES[1]);
            let copied = files::remove_tree(&unfinished)
                .and_then(|()| clone(&from, &unfinished))
                .and_then(|()| fs::create_dir_all(to.parent().unwrap_or(worktree)))
                .and_then(|()| {
                    pool_core::fail_point!("cache-share::directories::copied");
                    fs::rename(&unfinished, &to)
                });
            if let Err(e) = copied {
                // The first trouble is the one to tell.
                let _ = files::remove_tree(&unfinished);
                trouble = Some(format!("{} was not copied: {e}", name.display()));
            }
        }
        trouble
    }
}

/// Whether a link on the way to `name` could lead out of `root`: it may be the repository's, and lead
/// anywhere.
fn leads_out(root: &Path, name: &Path) -> bool {
    let parents = name.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
    let is_link = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    parents.into_iter().any(|parent| is_link(root.join(parent)))
}

/// A copy with the links in it as they are.
fn clone(from: &Path, to: &Path) -> io::Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let Ok(inside) = entry.path().strip_prefix(from) else { continue };
        let target = to.join(inside);
        let kind = entry.file_type();
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
        } else if kind.is_symlink() {
            link(&fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            files::copy(entry.path(), &target, entry.metadata()?.modified()?)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

/// Left out: a link to a directory and one to a file are not the same there.
#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

#[async_trait]
impl CacheStrategy for Directories {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn announce(&self, site: &CacheSite) -> Attachment {
        self.inner.announce(site)
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let mut attachment = self.inner.attach(site).await?;
        let (this, worktree) = (self.clone(), site.path.clone());
        let trouble = blocking(move || Ok(this.give(&worktree))).await?;
        attachment.reason = attachment.reason.or(trouble);
        Ok(attachment)
    }

    async fn prepare(
        &self,
        base: &CommitId,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<Prepared> {
        self.inner.prepare(base, progress).await
    }

    async fn harvest(&self, site: &CacheSite) -> Result<()> {
        self.inner.harvest(site).await
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        self.inner.detach(site).await
    }

    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        self.inner.examine(workspace).await
    }

    async fn tidy(&self) -> Result<()> {
        self.inner.tidy().await
    }

    async fn trim(&self, budget: u64) -> Result<u64> {
        self.inner.trim(budget).await
    }

    async fn usage(&self) -> Result<u64> {
        self.inner.usage().await
    }
}

#[cfg(test)]
mod tests {
    use pool_core::SlotId;

    use super::*;
    use crate::Private;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_directory_is_copied_with_its_links_and_is_its_own() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (main, worktree) = (dir.path().join("main"), dir.path().join("slot/tree"));
        fs::create_dir_all(main.join("web/node_modules/.bin")).expect("created");
        fs::create_dir_all(worktree.join("web")).expect("created");
        fs::write(main.join("web/node_modules/tool.js"), "one").expect("written");
        link(Path::new("../tool.js"), &main.join("web/node_modules/.bin/tool")).expect("linked");
        let names = ["web/node_modules", "absent"].map(PathBuf::from);
        let directories = Directories::new(Arc::new(Private::new()), &main, names).expect("valid");
        let site = CacheSite {
            slot: SlotId(1),
            path: worktree.clone(),
            base: CommitId::new("0123abcd").expect("a commit id"),
            in_use: 1,
        };
        directories.attach(&site).await.expect("attached");
        let copy = worktree.join("web/node_modules");
        assert_eq!(fs::read_to_string(copy.join(".bin/tool")).expect("read"), "one");
        fs::write(copy.join("tool.js"), "two").expect("written");
        assert_eq!(fs::read_to_string(main.join("web/node_modules/tool.js")).expect("read"), "one");
        // What is there stays.
        directories.attach(&site).await.expect("attached");
        assert_eq!(fs::read_to_string(copy.join("tool.js")).expect("read"), "two");
        assert!(!worktree.join("absent").exists());
        assert!(!dir.path().join("slot/.copying").exists());
    }

    #[cfg(unix)]
    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (main, worktree) = (dir.path().join("main"), dir.path().join("slot/tree"));
        let outside = dir.path().join("outside");
        fs::create_dir_all(main.join("web/modules")).expect("created");
        fs::create_dir_all(&worktree).expect("created");
        fs::create_dir_all(&outside).expect("created");
        link(&outside, &worktree.join("web")).expect("linked");
        let names = [PathBuf::from("web/modules")];
        let directories = Directories::new(Arc::new(Private::new()), &main, names).expect("valid");
        assert!(directories.give(&worktree).expect("it says so").contains("a link leads to it"));
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
    }

    #[test]
    fn only_what_is_inside() {
        for name in ["../x", "/etc", "", "a/../../b", ".git/hooks", "a/.GIT"] {
            let refused = Directories::new(Arc::new(Private::new()), "/main", [name.into()]);
            assert_eq!(refused.expect_err(name).kind(), ErrorKind::InvalidInput);
        }
    }
}
