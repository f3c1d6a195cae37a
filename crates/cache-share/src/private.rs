//! No sharing at all: what every other strategy is measured against, and falls back to.

use std::path::Path;

use async_trait::async_trait;
use pool_core::{Attachment, CacheFinding, CacheSite, CacheStrategy, Result};

use crate::confine::{self, Surroundings};
use crate::note;
use crate::seeded::blocking;
use crate::setup::{self, slot_dir};

/// Each workspace builds into its own `target` directory, where cargo puts it by default.
///
/// Nothing is shared, so nothing can be wrong. Each lease compiles everything: the isolator removes the
/// last lease's `target` when the slot is used again.
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

    fn announce(&self, _: &CacheSite) -> Attachment {
        Attachment {
            strategy: Self::NAME.to_owned(),
            reason: Some("each lease compiles everything".to_owned()),
            ..Attachment::default()
        }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        let (site, this) = (site.clone(), self.clone());
        blocking(move || {
            // What another strategy put there, before the settings changed, goes with it.
            let (confinement, _) = setup::begin(&site, &this.0)?;
            let mut attachment = this.announce(&site);
            if confinement.trouble.is_some() {
                attachment.reason = confinement.trouble.clone();
                attachment.env = confinement.variables();
            }
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
    async fn a_whole_life_touches_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (private, site) = (Private::new(), site(dir.path()));
        fs::create_dir(site.path.join("target")).expect("make target");
        fs::write(site.path.join("target/kept"), "x").expect("fill target");
        let attachment = private.attach(&site).await.expect("attach");
        assert_eq!((attachment.strategy.as_str(), attachment.warm), ("private", false));
        assert!(attachment.reason.is_some() && attachment.env.is_empty());
        private.harvest(&site).await.expect("harvest");
        assert_eq!(private.trim(0).await.expect("trim"), 0);
        assert_eq!(private.usage().await.expect("usage"), 0);
        private.detach(&site).await.expect("detach");
        assert!(site.path.join("target/kept").exists());
    }
}
