//! The seam towards shared build artifacts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{CommitId, SlotId};

/// What a strategy needs to know of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSite {
    /// Which slot.
    pub slot: SlotId,
    /// The root of its workspace.
    pub path: PathBuf,
    /// What the workspace starts from.
    pub base: CommitId,
    /// How many slots are in use at this moment, this one included.
    pub in_use: u32,
}

/// What a lease gets from its cache: handed to the agent, and stored with the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The strategy in force, which may be a fallback of the one asked for.
    pub strategy: String,
    /// Environment variables for everything that runs in the workspace.
    pub env: BTreeMap<String, String>,
    /// Directories outside the workspace that the agent must be able to write.
    pub writable_roots: Vec<PathBuf>,
    /// Whether the first build has something to start from.
    pub warm: bool,
    /// Why it is not warm, or not what was asked for.
    pub reason: Option<String>,
    /// Whether [preparing](CacheStrategy::prepare) would make later workspaces warmer.
    pub unprepared: bool,
}

/// Something that is known of a cache, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFinding {
    /// What was found.
    pub message: String,
    /// What to do about it; `None`: nothing, it is as it should be.
    pub advice: Option<String>,
}

impl CacheFinding {
    /// It is as it should be.
    pub fn fine(message: impl Into<String>) -> Self {
        Self { message: message.into(), advice: None }
    }

    /// Builds are slower than they need be, and this helps.
    pub fn trouble(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { message: message.into(), advice: Some(advice.into()) }
    }
}

/// What [`CacheStrategy::prepare`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prepared {
    /// This strategy prepares nothing.
    Nothing,
    /// It was there already.
    Present,
    /// Another process is at it.
    Busy,
    /// It could not be built; workspaces go on to start from what was built before.
    Failed {
        /// Why, and the end of what was said.
        why: String,
    },
    /// It is there now.
    Built {
        /// What did not go well, if anything: a part of it is missing, then.
        trouble: Option<String>,
    },
}

/// Shares build artifacts between workspaces. Object-safe: chosen at run time.
///
/// A cache never fails a lease: when a method fails, the pool goes on with a private cache and
/// passes the reason on. A cache never changes a byte that another slot sees.
#[async_trait]
pub trait CacheStrategy: fmt::Debug + Send + Sync {
    /// The strategy's name, such as `private`.
    fn name(&self) -> &str;

    /// What the environment of a lease in `site` will be, before the workspace exists. Cheap, and
    /// changes nothing; [`attach`](Self::attach) confirms it.
    fn announce(&self, site: &CacheSite) -> Attachment;

    /// Prepares the cache of a workspace that is about to be handed out.
    ///
    /// # Errors
    ///
    /// Any; the lease is given without this cache.
    async fn attach(&self, site: &CacheSite) -> Result<Attachment>;

    /// Builds what later workspaces that start from `base` may share, if it is not there already.
    /// May take minutes; `progress` gets a line of text now and then. One process at a time does
    /// it; for the others it returns at once.
    ///
    /// # Errors
    ///
    /// Any; workspaces then start with nothing, and [attachments](Attachment::reason) say why.
    async fn prepare(
        &self,
        base: &CommitId,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<Prepared> {
        let _ = (base, progress);
        Ok(Prepared::Nothing)
    }

    /// Takes what is worth sharing from a workspace whose lease has ended, before it is reset.
    ///
    /// # Errors
    ///
    /// Any; nothing is shared then.
    async fn harvest(&self, site: &CacheSite) -> Result<()> {
        let _ = site;
        Ok(())
    }

    /// Forgets a workspace that is about to be removed.
    ///
    /// # Errors
    ///
    /// Any; the workspace is removed nevertheless.
    async fn detach(&self, site: &CacheSite) -> Result<()>;

    /// Looks at the cache, for somebody who wants to know why builds are as they are. `workspace` is one of
    /// the repository, such as the user's own. Changes nothing, and may take seconds.
    async fn examine(&self, workspace: &Path) -> Vec<CacheFinding> {
        let _ = workspace;
        Vec::new()
    }

    /// Removes what processes have left that were killed in the middle of something. Part of every
    /// [reconciliation](crate::Pool::reconcile), so cheap when there is nothing.
    ///
    /// # Errors
    ///
    /// Any; it is tried again at the next one.
    async fn tidy(&self) -> Result<()> {
        Ok(())
    }

    /// Gives up what can be built again until at most `budget` bytes are used by what idle slots
    /// and the strategy itself hold. Returns the bytes freed.
    ///
    /// # Errors
    ///
    /// Any.
    async fn trim(&self, budget: u64) -> Result<u64>;

    /// What the strategy holds beyond the slots themselves, in bytes.
    ///
    /// # Errors
    ///
    /// Any.
    async fn usage(&self) -> Result<u64>;
}
