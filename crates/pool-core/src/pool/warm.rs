//! Idle slots, made in advance.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Pool, end};
use crate::LeaseName;
use crate::cache::{CacheStrategy, Prepared};
use crate::error::Result;
use crate::id::SlotId;
use crate::isolator::{Base, BranchWish, Plan, Wish};
use crate::state::{EndReason, Outcome, SlotState};

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
            let owned = inner.owned.idle();
            let registering = owned.clone();
            let reserved = inner
                .update(move |state, now| {
                    let slot = state.reserve_idle(&worker, &settings, now)?;
                    registering.set(slot);
                    Some(slot)
                })
                .await?;
            let Some(slot) = reserved else { return Ok(report) };
            crate::fail_point!("pool-core::warm::reserved");
            inner.make_idle(slot, &base).await?;
            drop(owned);
            report.made += 1;
            progress();
        }
    }
}

impl Pool {
    /// Has the cache build what workspaces that start from `base` may share, if it is not there. May take
    /// minutes.
    ///
    /// # Errors
    ///
    /// [`UnknownRevision`](crate::ErrorKind::UnknownRevision), and what the strategy says.
    pub async fn prepare_cache(
        &self,
        base: Option<String>,
        origin: Option<PathBuf>,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<Prepared> {
        let Some(cache) = &self.inner.cache else { return Ok(Prepared::Nothing) };
        let wish = Wish { base, origin, branch: BranchWish::Detached };
        let base = self.inner.isolator.resolve(&wish, &LeaseName::new("base")?).await?;
        cache.prepare(&base.commit, progress).await
    }

    /// The cache strategy, if the pool has one.
    pub fn cache(&self) -> Option<&dyn CacheStrategy> {
        self.inner.cache.as_deref()
    }
}

impl Inner {
    async fn make_idle(self: &Arc<Self>, slot: SlotId, base: &Base) -> Result<()> {
        let plan = Plan { slot, lease: None, base: base.clone() };
        let made = async {
            self.intend(&plan).await?;
            self.isolator.provision(&plan).await?;
            crate::fail_point!("pool-core::warm::provisioned");
            // Now, so that whoever gets the slot need not wait for it.
            self.attach(slot, &plan.base).await;
            crate::fail_point!("pool-core::warm::attached");
            Ok(())
        };
        let (worker, settings) = (self.worker().clone(), self.settings.clone());
        if let Err(error) = made.await {
            let end = end(Outcome::Failure, EndReason::Abandoned, Duration::ZERO);
            self.update(move |state, now| state.reopen(slot, &end, &worker, now)).await??;
            self.finish(slot).await?;
            return Err(error);
        }
        let surplus = self
            .update(move |state, now| state.rest(slot, &worker, plan, &settings, now))
            .await??;
        if surplus { self.finish(slot).await } else { Ok(()) }
    }
}
