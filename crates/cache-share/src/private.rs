//! No sharing at all: what every other strategy is measured against, and falls back to.

use std::path::Path;

use async_trait::async_trait;
use pool_core::{Attachment, CacheFinding, CacheSite, CacheStrategy, Result};

use crate::confine::{self, Surroundings};
use crate::note;
use crate::renew;
use crate::seeded::blocking;
use crate::setup::{self, slot_dir};

/// Each workspace builds into its own `target` directory, where cargo puts it by default.
///
/// Nothing is shared, so nothing can be wrong. A slot that is used again starts warm, since its
/// `target` stays (the isolator's settings call it regenerable), and is valid there: the path is
/// the same.
///
/// A target directory that is set outside of the repository does not hold there, as far as the strategy
/// [is told](Self::within) of it. It sets no environment variable unless the repository's own settings
/// lead out of the worktree. A `CARGO_TARGET_DIR` that the agent inherits from elsewhere defeats it: a host should not
/// hand that down.
///
/// ```
/// use cache_share::Private;
/// use pool_core::CacheStrategy;
/// assert_eq!(Private::new().name(), "private");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Private(Surroundings);

impl Private {
    /// What this strategy is called in settings.
    pub const NAME: &str = "private";

    /// The strategy. It has no state.
    pub fn new() -> Self {
        Self::default()
    }

    /// The strategy, told what outside of the repository says where cargo builds.
    pub fn within(surroundings: Surroundings) -> Self {
        Self(surroundings)
    }
}

#[async_trait]
impl CacheStrategy for Private {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn announce(&self, site: &CacheSite) -> Attachment {
        let warm = is_warm(&site.path);
        Attachment {
            strategy: Self::NAME.to_owned(),
            warm,
            reason: (!warm).then(|| "nothing was built in this slot yet".to_owned()),
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let (site, this) = (site.clone(), self.clone());
        blocking(move || {
            // What another strategy put there, before the settings changed, goes with it.
            let (confinement, _) = setup::begin(&site, &this.0)?;
            let (dir, target) = (slot_dir(&site.path), site.path.join("target"));
            renew::recover(dir, &site.path, &target)?;
            let mut attachment = this.announce(&site);
            if confinement.trouble.is_some() {
                attachment.warm = false;
                attachment.reason = confinement.trouble.clone();
                attachment.env = confinement.variables();
            }
            note::date_anew(dir, &site.path)?;
            if attachment.warm {
                note::begin(dir, &site.path, &target, &site.base)?;
            }
            note::in_step(dir)?;
            Ok(attachment)
        })
        .await
    }

    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        let (around, workspace) = (self.0.clone(), workspace.to_owned());
        let examined = blocking(move || Ok(confine::examine(&around, &workspace))).await;
        examined.unwrap_or_default()
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        let dir = slot_dir(&site.path).to_owned();
        blocking(move || note::forget(&dir)).await
    }

    /// Frees nothing, and returns 0: all there is lies in the slots, and this strategy keeps no record
    /// of which of them are idle. Removing an idle slot frees its `target` with it.
    async fn trim(&self, _budget: u64) -> Result<u64> {
        Ok(0)
    }

    /// Always 0: nothing is kept outside the slots.
    async fn usage(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Whether something was built there: an empty directory, or a link to somewhere else, is not it.
pub(crate) fn is_warm(workspace: &Path) -> bool {
    let target = workspace.join("target");
    let real = std::fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir());
    real && std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pool_core::{CommitId, SlotId};

    use super::*;

    /// A worktree in the directory of its slot, where the strategy keeps its records.
    fn site(slot_dir: &Path) -> CacheSite {
        let base = CommitId::new("0123abcd").expect("a commit id");
        let path = slot_dir.join("worktree");
        fs::create_dir_all(&path).expect("make a worktree");
        CacheSite { slot: SlotId(1), path, base, in_use: 1 }
    }

    #[tokio::test]
    async fn warm_once_something_was_built() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (private, site) = (Private::new(), site(dir.path()));
        let cold = private.attach(&site).await.expect("attaching changes nothing");
        assert!(!cold.warm && cold.reason.is_some());
        fs::create_dir(site.path.join("target")).expect("make target");
        assert!(!private.announce(&site).warm, "an empty target is no start");
        fs::write(site.path.join("target/CACHEDIR.TAG"), "x").expect("fill target");
        let warm = private.attach(&site).await.expect("attaching changes nothing");
        assert_eq!((warm.strategy.as_str(), warm.warm, warm.reason), ("private", true, None));
        assert!(warm.env.is_empty() && warm.writable_roots.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_elsewhere_is_not_its_own() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let site = site(dir.path());
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("make a directory");
        fs::write(elsewhere.join("file"), "x").expect("fill it");
        std::os::unix::fs::symlink(&elsewhere, site.path.join("target")).expect("link");
        assert!(!Private::new().announce(&site).warm);
    }

    #[tokio::test]
    async fn a_whole_life_touches_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (private, site) = (Private::new(), site(dir.path()));
        fs::create_dir(site.path.join("target")).expect("make target");
        fs::write(site.path.join("target/kept"), "x").expect("fill target");
        private.attach(&site).await.expect("attach");
        private.harvest(&site).await.expect("harvest");
        assert_eq!(private.trim(0).await.expect("trim"), 0);
        assert_eq!(private.usage().await.expect("usage"), 0);
        private.detach(&site).await.expect("detach");
        assert!(site.path.join("target/kept").exists());
    }
}
