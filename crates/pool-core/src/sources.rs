//! What a cache may ask about the files of a checkout, without knowing where they come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{CommitId, SlotId};

/// Identifies what a checkout writes for one path: content, kind and mode. Two are equal exactly if
/// that is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentId(pub String);

/// The files behind a backend's workspaces. For [`CacheStrategy`](crate::CacheStrategy)s that reuse
/// what was built from the same files elsewhere.
#[async_trait]
pub trait Sources: fmt::Debug + Send + Sync {
    /// All files that a workspace begins with which starts from `commit`, by their paths relative to its
    /// root: those of the commit, and what the backend brings along besides.
    ///
    /// # Errors
    ///
    /// When the commit can't be read.
    async fn files(&self, commit: &CommitId) -> Result<BTreeMap<PathBuf, ContentId>>;

    /// Writes all these files to `into`, where nothing must be. It is no workspace of the
    /// pool, and known to nobody else; programs that ask where they are find the commit
    /// nevertheless. Whatever it needs besides lies in `into` too, or beside it with another
    /// extension.
    ///
    /// # Errors
    ///
    /// Any; a part of it may be there.
    async fn export(&self, commit: &CommitId, into: &Path) -> Result<()>;

    /// Sets the modification times of files of a slot's workspace, which are as they were checked
    /// out. What the backend remembers of them is brought in step, so that they still count as
    /// unmodified. A file that is not there is left out.
    ///
    /// # Errors
    ///
    /// Any; some of the times may be set.
    async fn stamp(&self, slot: SlotId, times: BTreeMap<PathBuf, SystemTime>) -> Result<()>;
}
