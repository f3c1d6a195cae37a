//! From a slot that is somebody's to a workspace that stands: resets one that is there, or makes one.

use super::{Inner, uncached};
use crate::cache::Attachment;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::id::SlotId;
use crate::isolator::{Base, Plan, Preserved};
use crate::state::{Lease, Slot, SlotState};

/// Why a slot could not be made ready.
pub(super) enum Trouble {
    /// It must be kept as it is; another may do.
    Unusable(String),
    /// The request can't be served.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    /// Makes a granted slot's workspace.
    pub(super) async fn make_ready(&self, slot: SlotId, lease: &Lease) -> Result<(), Trouble> {
        let entry = self.slot(slot).await?;
        let plan = Plan {
            slot,
            lease: Some((lease.id.clone(), lease.name.clone())),
            base: lease.base.clone(),
        };
        let previous = match &entry {
            Slot {
                plan: Some(previous),
                state: SlotState::Provisioning { reuse: true, .. },
                ..
            } => previous,
            _ => return self.make_new(&plan).await,
        };
        let proof =
            self.preserved(previous, None).await.map_err(|e| Trouble::Unusable(e.to_string()))?;
        self.unoccupied(slot).map_err(|e| Trouble::Unusable(e.to_string()))?;
        self.intend(&plan).await?;
        crate::fail_point!("pool-core::ready::reuse-intended");
        if let Err(error) = self.isolator.recycle(&plan, proof).await {
            tracing::warn!(target: "wtpool", %error, slot = slot.0, "cannot reset the slot; making it anew");
            let unusable = |e: Error| Trouble::Unusable(e.to_string());
            let proof = self.preserved(&plan, None).await.map_err(unusable)?;
            self.isolator.dispose(proof).await.map_err(unusable)?;
            self.isolator.provision(&plan).await?;
        }
        Ok(())
    }

    async fn make_new(&self, plan: &Plan) -> Result<(), Trouble> {
        self.intend(plan).await?;
        crate::fail_point!("pool-core::ready::intended");
        self.isolator.provision(plan).await.map_err(|error| match error.kind() {
            // Something of somebody else's stands there.
            ErrorKind::WouldLoseWork => Trouble::Unusable(error.to_string()),
            _ => Trouble::Failed(error),
        })
    }

    /// Records what is about to be made.
    pub(super) async fn intend(&self, plan: &Plan) -> Result<()> {
        let (plan, worker) = (plan.clone(), self.worker().clone());
        self.update(move |state, _| state.plan_slot(&plan, &worker)).await?
    }

    /// Looks at a slot, and saves what would be lost in it.
    pub(super) async fn preserved(&self, plan: &Plan, lease: Option<&Lease>) -> Result<Preserved> {
        let inspection = self.isolator.inspect(plan).await?;
        // Also where nothing would be lost: what was committed may not be on the disk yet.
        let proof = self.isolator.preserve(inspection).await?;
        let proof = proof.watched_by(self.liveness.clone());
        // A slot at rest should have had nothing; whoever wrote there will look for it.
        if let (Some(rescue), None) = (proof.rescue(), lease) {
            let (slot, rescue) = (plan.slot, rescue.clone());
            self.update(move |state, now| {
                for rescue in rescue.all() {
                    let note = rescue.note();
                    state.log(now, EventKind::Rescued, Some(slot), None, Some(&note));
                }
            })
            .await?;
        }
        Ok(proof)
    }

    pub(super) async fn attach(&self, slot: SlotId, base: &Base) -> Attachment {
        let Some(cache) = &self.cache else { return uncached(None) };
        let attached = match self.site(slot, base).await {
            Ok(site) => cache.attach(&site).await,
            Err(error) => Err(error),
        };
        match attached {
            Ok(attachment) => attachment,
            Err(error) => uncached(Some(format!("the {} cache failed: {error}", cache.name()))),
        }
    }
}
