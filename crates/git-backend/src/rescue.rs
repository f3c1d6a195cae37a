//! Rescues: work that was saved from a slot before the slot was reset or removed.
//!
//! # Format
//!
//! A rescue is a reference, `refs/wtpool/rescue/<label>-<ulid>`, to a commit much like one of `git
//! stash`, so that `git show <ref>:<path>`, `git diff <ref>^ <ref>` and `git worktree add <dir> <ref>`
//! work without this program. The label is the lease's name.
//!
//! - The commit's **tree** is the worktree as it was found: tracked files as they were on disk,
//!   untracked files, and ignored files that are neither regenerable nor unchanged copies. What
//!   differed from the index is stored byte for byte, with no filter or conversion of line ends;
//!   what did not is the index's own blob, unless a restore would not make the same file of it.
//! - Its **parents** are: the commit that was checked out (left out when there was none yet); a
//!   commit of the index (stage 0); a commit of the metadata below; then every commit that nothing
//!   else reached.
//! - The **metadata** tree has `manifest.json` (see `manifest.rs`); `state/`, a copy of the
//!   worktree's administrative files: the index itself, with conflicts and flags, reflog,
//!   private references, and the state of a rebase, merge, cherry-pick or bisect; and `stages/`,
//!   `blobs/`, `trees/`, `tags/`, which keep objects alive that only those files name.
//!
//! Every object, those that git had written before included, and the reference are brought to the
//! disk (`fsync`) before the rescue is reported: it survives a crash right after.
//!
//! # Limitations
//!
//! A linked worktree of the same repository in the slot's directory has a rescue of its own, whose
//! manifest names it.
//!
//! Not saved: times, owners, extended attributes and hard links; empty directories are. Nested
//! repositories that are no such worktrees, submodules with work of their own, sockets, pipes, devices, mount points,
//! unreadable files and names that are git's own (`.GIT`) make a slot unsavable: it is kept. Of a
//! submodule without, its commit is saved; a restore fetches it from its remote. What was staged or committed through a filter
//! that keeps the content elsewhere, such as LFS, is saved as the pointer that git has: `git lfs
//! prune` does not ask rescues.

mod manifest;
mod objects;
mod read;
mod restore;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use gix::bstr::ByteSlice;
use pool_core::{
    CommitId, Error, ErrorKind, Plan, Rescue, RescueArchive, RescueId, RescuedPath, Result,
};

use crate::references;
use crate::registration;
use crate::site::Site;
pub(crate) use objects::{staging, take_back};
pub(crate) use write::preserve;

/// Where all rescues are.
const PREFIX: &str = "refs/wtpool/rescue/";

/// How much of a lease's name goes into the ids of its rescues, which may have 64 characters, of
/// which the unique part takes 27.
const LABEL_LEN: usize = 36;

/// The first part of the ids of a lease's rescues.
fn label(plan: &Plan) -> String {
    match &plan.lease {
        Some((_, name)) => name
            .as_str()
            .chars()
            .take(LABEL_LEN)
            .collect::<String>()
            .trim_end_matches('.')
            .to_owned(),
        None => format!("slot-{}", plan.slot),
    }
}

/// What the references of a lease's rescues begin with.
pub(crate) fn prefix(plan: &Plan) -> String {
    format!("{PREFIX}{}-", label(plan))
}

fn reference(id: &RescueId) -> String {
    format!("{PREFIX}{id}")
}

fn full_name(name: &str) -> Result<gix::refs::FullName> {
    name.try_into().map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("{name:?} is not a reference name: {e}"))
    })
}

/// Who makes rescues. Fixed, so that no user has to be configured.
pub(crate) fn signature(at: jiff::Timestamp) -> gix::actor::Signature {
    gix::actor::Signature {
        name: "wtpool".into(),
        email: "wtpool@localhost".into(),
        time: gix::date::Time::new(at.as_second(), 0),
    }
}

/// Removes what a kill left of the restoring of a rescue, and what a loss of power left of the making of one: references
/// with nothing in them, at which git would stop whenever it looks at all of them.
pub(crate) fn clear_unfinished(site: &Site) -> Result<()> {
    registration::clear_unfinished(site)?;
    let Ok(entries) = std::fs::read_dir(site.common_dir.join(PREFIX)) else { return Ok(()) };
    let is_lock = |path: &Path| path.extension().is_some_and(|extension| extension == "lock");
    let mut paths = entries.flatten().map(|entry| entry.path()).filter(|path| !is_lock(path));
    paths.try_for_each(|path| crate::branch::remove_if_empty(&path))
}

/// The rescues of one repository.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    pub(crate) site: Arc<Site>,
}

impl Archive {
    /// Runs something that blocks where that does no harm.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Site) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let site = Arc::clone(&self.site);
        match tokio::task::spawn_blocking(move || work(&site)).await {
            Ok(result) => result,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::new(ErrorKind::Cancelled, "the runtime is shutting down")),
            },
        }
    }
}

#[async_trait]
impl RescueArchive for Archive {
    async fn list(&self) -> Result<Vec<Rescue>> {
        self.run(|site| {
            let repo = site.repo();
            let mut found: Vec<Rescue> = read::all(&repo)?
                .iter()
                .map(|stored| {
                    stored.summary(&repo).unwrap_or_else(|error| {
                        tracing::warn!(rescue = %stored.id, %error, "a rescue is damaged");
                        stored.outline(&repo, Some(error.to_string()))
                    })
                })
                .collect();
            // Seconds are all that a commit has; the ids' second part sorts by time as well.
            let unique =
                |r: &Rescue| r.id.as_str().rsplit('-').next().unwrap_or_default().to_owned();
            found.sort_by_key(|r| (r.created_at, unique(r)));
            Ok(found)
        })
        .await
    }

    async fn contents(&self, id: &RescueId) -> Result<Vec<RescuedPath>> {
        let id = id.clone();
        self.run(move |site| {
            let repo = site.repo();
            let manifest = read::open(&repo, &id)?.parts(&repo)?.manifest;
            let paths = manifest
                .paths
                .into_iter()
                .filter(|record| record.status != manifest::PathStatus::Raw);
            Ok(paths
                .map(|record| RescuedPath {
                    path: crate::inspect::text(record.path.to_bytes().as_bstr()),
                    status: record.status.as_str().to_owned(),
                    bytes: record.bytes,
                })
                .collect())
        })
        .await
    }

    async fn restore_into(&self, id: &RescueId, into: &Path) -> Result<()> {
        let (id, into) = (id.clone(), PathBuf::from(into));
        self.run(move |site| restore::into(site, &id, &into)).await
    }

    async fn restore_onto(&self, id: &RescueId, plan: &Plan) -> Result<()> {
        let (id, plan) = (id.clone(), plan.clone());
        self.run(move |site| restore::onto(site, &id, &plan)).await
    }

    async fn head(&self, id: &RescueId) -> Result<CommitId> {
        let id = id.clone();
        self.run(move |site| {
            let repo = site.repo();
            let parts = read::open(&repo, &id)?.parts(&repo)?;
            match parts.head {
                Some(head) => CommitId::new(head.to_string()),
                // Nothing had been committed; the lease's base is where such a slot can stand.
                None => CommitId::new(parts.manifest.base),
            }
        })
        .await
    }

    async fn drop_rescue(&self, id: &RescueId) -> Result<()> {
        let id = id.clone();
        self.run(move |site| {
            let rescue = read::open(&site.repo(), &id)?;
            references::delete(site, &reference(&id), rescue.commit)
        })
        .await
    }
}
