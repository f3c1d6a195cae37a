//! A cache that leaves a trace wherever it is called.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use pool_core::{Attachment, CacheSite, CacheStrategy, Error, Isolator as _, Result, SlotId};
use tokio::task::yield_now;

use crate::chaos::Answer;
use crate::memory::MemoryIsolator;

/// A [`CacheStrategy`] for a [`MemoryIsolator`] that shares nothing, but writes another stamp into
/// [`STAMP`] in the slot it is called for, each time: so a call for the wrong slot, or for the right
/// one while somebody works there, changes bytes that they see. It also notes what is no slot's site,
/// and two calls at once for one slot.
///
/// ```
/// # use std::sync::Arc;
/// # use pool_core::{BranchWish, CacheSite, CacheStrategy as _, Isolator as _, LeaseName, Plan, SlotId, Wish};
/// # use testkit::cache::{STAMP, StampingCache};
/// # use testkit::memory::MemoryIsolator;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let isolator = Arc::new(MemoryIsolator::new());
/// let cache = StampingCache::new(isolator.clone());
/// let (slot, name) = (SlotId(1), LeaseName::new("agent")?);
/// let base = isolator.resolve(&Wish::default(), &name).await?;
/// isolator.provision(&Plan { slot, lease: None, base: base.clone() }).await?;
/// let site = CacheSite { slot, path: isolator.place(slot), base: base.commit, in_use: 1 };
/// assert!(cache.attach(&site).await?.warm);
/// assert_eq!(isolator.read(slot, STAMP).as_deref(), Some(b"attach 1".as_slice()));
/// assert!(cache.audit().is_ok());
/// # Ok::<(), pool_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct StampingCache {
    isolator: Arc<MemoryIsolator>,
    inner: Mutex<Inner>,
}

/// Where it writes: among what can be made again.
pub const STAMP: &str = "target/stamp";

#[derive(Debug)]
struct Inner {
    answer: Answer,
    calls: u64,
    busy: BTreeSet<SlotId>,
    violations: Vec<String>,
}

impl StampingCache {
    /// A cache for these workspaces.
    pub fn new(isolator: Arc<MemoryIsolator>) -> Self {
        let inner =
            Inner { answer: Answer::Ok, calls: 0, busy: BTreeSet::new(), violations: Vec::new() };
        Self { isolator, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers all calls in this way from now on. Without a clock, [`Answer::Late`] is
    /// [`Answer::Ok`].
    pub fn always(&self, answer: Answer) {
        self.inner().answer = answer;
    }

    /// How often it was called.
    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// Whether all calls were as they should be.
    ///
    /// # Errors
    ///
    /// Those that were not.
    pub fn audit(&self) -> std::result::Result<(), String> {
        let inner = self.inner();
        if inner.violations.is_empty() { Ok(()) } else { Err(inner.violations.join("; ")) }
    }

    async fn call(&self, call: &str, site: &CacheSite) -> Result<()> {
        let (answer, number, busy) = {
            let mut inner = self.inner();
            inner.calls += 1;
            if site.path != self.isolator.place(site.slot) {
                inner.violations.push(format!("{call} of what is not slot {}'s place", site.slot));
            }
            let free = inner.busy.insert(site.slot);
            if !free {
                inner.violations.push(format!("{call} during another call for slot {}", site.slot));
            }
            (inner.answer, inner.calls, Busy { of: self, slot: free.then_some(site.slot) })
        };
        yield_now().await;
        let failed = |kind| Error::new(kind, format!("{call} failed because the test wants it"));
        match answer {
            Answer::Err(kind) => return Err(failed(kind)),
            Answer::Never => pending().await,
            Answer::Slow(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
            }
            Answer::Ok | Answer::Late(_) | Answer::ErrAfter(_) | Answer::NeverAfter => {}
        }
        if self.isolator.stands(site.slot) {
            self.isolator.write(site.slot, STAMP, format!("{call} {number}"));
        }
        match answer {
            Answer::ErrAfter(kind) => return Err(failed(kind)),
            Answer::NeverAfter => pending().await,
            _ => {}
        }
        drop(busy);
        Ok(())
    }
}

/// Notes the end of a call, also when it is dropped.
struct Busy<'a> {
    of: &'a StampingCache,
    slot: Option<SlotId>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.of.inner().busy.remove(&slot);
        }
    }
}

#[async_trait]
impl CacheStrategy for StampingCache {
    fn name(&self) -> &'static str {
        "stamping"
    }

    fn announce(&self, _site: &CacheSite) -> Attachment {
        Attachment { strategy: self.name().to_owned(), warm: true, ..Attachment::default() }
    }

    async fn attach(&self, site: &CacheSite) -> Result<Attachment> {
        self.call("attach", site).await?;
        Ok(self.announce(site))
    }

    async fn harvest(&self, site: &CacheSite) -> Result<()> {
        self.call("harvest", site).await
    }

    async fn detach(&self, site: &CacheSite) -> Result<()> {
        self.call("detach", site).await
    }

    async fn trim(&self, _budget: u64) -> Result<u64> {
        Ok(0)
    }

    async fn usage(&self) -> Result<u64> {
        Ok(0)
    }
}
