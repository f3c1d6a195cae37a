//! Idle slots, made in advance.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Inner, Pool};
use crate::LeaseName;
use crate::error::Result;
use crate::id::SlotId;
use crate::isolator::{Base, BranchWish, Plan, Wish};
use crate::state::SlotState;

/// What [`Pool::warm`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmReport {
    /// The idle slots there are now.
    pub idle: Vec<PathBuf>,
    /// How many of them were made.
    pub made: u32,
}

impl Pool {
    /// Sees to it that at least `count` slots stand idle, starting from `base` those that must be
    /// made, as far as the cap allows. They are kept until nobody has used them for the
    /// [idle time](crate::Settings::idle). `progress` is called after each.
    ///
    /// # Errors
    ///
    /// What the backend says. Those that were made stay.
    pub async fn warm(
        &self,
        count: u32,
        base: Option<String>,
        origin: Option<PathBuf>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<WarmReport> {
        let inner = &self.inner;
        let wish = Wish { base, origin, branch: BranchWish::Detached };
        let base = inner.isolator.resolve(&wish, &LeaseName::new("warm")?).await?;
        let mut report = WarmReport::default();
        inner
            .update(move |state, _| {
                let idle = state.slots.values_mut().filter(|s| s.state == SlotState::Free);
                idle.take(count as usize).for_each(|s| s.warm = true);
            })
            .await?;
        loop {
            let idle: Vec<SlotId> = self
                .list()
                .await?
                .slots
                .values()
                .filter(|s| s.state == SlotState::Free)
                .map(|s| s.id)
                .collect();
            report.idle = idle.into_iter().map(|slot| self.place(slot)).collect();
            if report.idle.len() >= count as usize {
                return Ok(report);
            }
            let (worker, settings) = (inner.worker().clone(), inner.settings.clone());
            let reserved =
                inner.update(move |state, now| state.reserve_idle(&worker, &settings, now)).await?;
            let Some(slot) = reserved else { return Ok(report) };
            inner.make_idle(slot, &base).await?;
            report.made += 1;
            progress();
        }
    }
}

impl Inner {
    async fn make_idle(self: &Arc<Self>, slot: SlotId, base: &Base) -> Result<()> {
        let resume = self.unfinished(slot);
        let plan = Plan { slot, lease: None, base: base.clone() };
        let made = async {
            self.intend(&plan).await?;
            self.isolator.provision(&plan).await
        };
        if let Err(error) = made.await {
            resume.done();
            self.finish(slot).await?;
            return Err(error);
        }
        let (worker, settings) = (self.worker().clone(), self.settings.clone());
        let rested =
            self.update(move |state, now| state.rest(slot, &worker, plan, &settings, now)).await?;
        resume.done();
        rested.map(drop)
    }
}
