//! Rescues that the records know of: dropping one, and noticing that another program deleted one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind};
use crate::id::{CommitId, LeaseName, RescueId};

/// How many events are read at once.
const PAGE: usize = 1000;

/// A rescue that was made, and that is gone though it was not dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostRescue {
    /// Its id.
    pub id: RescueId,
    /// The name that it had for other tools, such as `refs/wtpool/rescue/…`.
    pub reference: String,
    /// The commit that it was, if that is known. The repository may still have it.
    pub commit: Option<CommitId>,
    /// The name of the lease that it was saved from.
    pub name: Option<LeaseName>,
    /// When it was saved.
    pub saved_at: Timestamp,
}

impl Pool {
    /// Drops a rescue, and records that. A rescue that another program deleted is only recorded as
    /// dropped: it is not reported as [lost](Self::lost_rescues) any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none of that id, and was none that the log knows of;
    /// [`ErrorKind::Unsupported`] if the backend has no rescues; any if it cannot be deleted.
    pub async fn drop_rescue(&self, id: &RescueId) -> Result<()> {
        let archive = self.isolator().rescues().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this backend has no rescues to drop")
        })?;
        let dropped = archive.drop_rescue(id).await;
        if let Err(error) = &dropped
            && (error.kind() != ErrorKind::NotFound
                || self.lost_rescues().await?.iter().all(|lost| lost.id != *id))
        {
            return dropped;
        }
        let note = id.to_string();
        let logged = self.inner.update(move |state, now| {
            state.log(now, EventKind::RescueDropped, None, None, Some(&note));
        });
        match logged.await {
            Err(error) if dropped.is_ok() => {
                // It is gone, whatever the log says.
                tracing::warn!(target: "wtpool", %error, "cannot record that {id} was dropped");
                Ok(())
            }
            logged => logged,
        }
    }

    /// Returns the rescues that the log knows of, and that were deleted by another program: by a
    /// `git fetch --prune` in a mirror, for example. The log of a pool on disk goes back 10,000 events
    /// at least, unless its database was lost.
    ///
    /// # Errors
    ///
    /// If the log or the rescues cannot be read.
    pub async fn lost_rescues(&self) -> Result<Vec<LostRescue>> {
        let Some(archive) = self.isolator().rescues() else { return Ok(Vec::new()) };
        let mut known = BTreeMap::new();
        let last = self.read_rescues(0, &mut known).await?;
        let there: BTreeSet<RescueId> = archive.list().await?.into_iter().map(|r| r.id).collect();
        known.retain(|id, _| !there.contains(id));
        if !known.is_empty() {
            // One may have been dropped since the log was read.
            self.read_rescues(last, &mut known).await?;
            known.retain(|id, _| !there.contains(id));
        }
        Ok(known.into_values().collect())
    }

    /// Follows the log from there, and returns where it ends.
    async fn read_rescues(
        &self,
        mut after: u64,
        known: &mut BTreeMap<RescueId, LostRescue>,
    ) -> Result<u64> {
        let first = after == 0;
        loop {
            let page = self.events_after(after, PAGE).await?;
            for logged in &page {
                after = logged.sequence;
                // A later one is not missing yet.
                if first || logged.event.kind == EventKind::RescueDropped {
                    follow(known, &logged.event);
                }
            }
            if page.len() < PAGE {
                return Ok(after);
            }
        }
    }
}

fn follow(known: &mut BTreeMap<RescueId, LostRescue>, event: &Event) {
    let Some(mut note) = event.note.as_deref().map(str::split_whitespace) else { return };
    let Some(reference) = note.next() else { return };
    let id = reference.rsplit('/').next().and_then(|id| RescueId::new(id).ok());
    match (event.kind, id) {
        (EventKind::Rescued, Some(id)) => {
            let lost = LostRescue {
                id: id.clone(),
                reference: reference.to_owned(),
                commit: note.next().and_then(|commit| CommitId::new(commit).ok()),
                name: event.name.clone(),
                saved_at: event.at,
            };
            known.insert(id, lost);
        }
        (EventKind::RescueDropped, Some(id)) => drop(known.remove(&id)),
        _ => {}
    }
}
