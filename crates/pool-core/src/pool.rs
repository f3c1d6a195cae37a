//! The asynchronous shell: it gathers facts, lets the pure parts decide, and carries out what they
//! decided.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, RwLock, broadcast};

use crate::cache::{Attachment, CacheSite, CacheStrategy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{ClaimKey, LeaseId, SessionId, SlotId};
use crate::isolator::{BranchReport, Isolator, Rescue};
use crate::liveness::{self, Claim, Liveness, Vital};
use crate::quiet::Looks;
use crate::retry::Attempt;
use crate::settings::Settings;
use crate::state::{Disposition, End, EndReason, Lease, Outcome, PoolState, Slot, Token};
use crate::store::{self, LeaseStore, Logged};
use crate::task::join;
use crate::time::{Clock, Moment, SystemClock};

mod acquire;
mod guard;
mod lookup;
mod observe;
mod origin;
mod orphans;
mod owned;
mod queue;
mod ready;
mod reconcile;
mod release;
mod rescues;
mod warm;

use release::By;

pub use acquire::{Request, Reservation};
pub use guard::{Finish, LeaseGuard};
pub use lookup::{LeaseAt, Lookup};
pub use reconcile::{PruneOptions, PruneReport};
pub use rescues::LostRescue;
pub use warm::WarmReport;

use orphans::Orphan;
use owned::Owned;

/// A pool of workspaces. Cheap to clone; all clones are the same pool. Any number of processes may
/// have one over the same store.
///
/// It must be used inside a tokio runtime. Work that was begun is finished in the background when
/// its caller loses interest: dropping a future leaks nothing.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    isolator: Arc<dyn Isolator>,
    cache: Option<Arc<dyn CacheStrategy>>,
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    liveness: Arc<dyn Liveness>,
    settings: Settings,
    /// Shows the others that this pool still works on what it took on; `None` only while dropping.
    claim: Option<Claim>,
    worker: ClaimKey,
    /// Wakes those who wait in this process.
    changed: Notify,
    events: broadcast::Sender<Event>,
    /// What was found in slots of leases past their TTL, by lease.
    looks: Mutex<HashMap<LeaseId, Looks>>,
    /// The last attempts to clean up the slots that are quarantined, and unoccupied.
    attempts: Mutex<HashMap<SlotId, Attempt>>,
    /// Held shared by each change of the records from its beginning until the store has run or
    /// dropped it. A dropped future may still be followed by its change.
    changes: Arc<RwLock<()>>,
    /// What live tasks and guards of this process own in the records.
    owned: Owned,
    /// What was dropped where no task could be started to clean up after it.
    orphans: Mutex<Vec<Orphan>>,
}

/// Puts a [`Pool`] together from its parts.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    isolator: Arc<dyn Isolator>,
    cache: Option<Arc<dyn CacheStrategy>>,
    store: Option<Arc<dyn LeaseStore>>,
    clock: Arc<dyn Clock>,
    liveness: Option<Arc<dyn Liveness>>,
    settings: Settings,
}

impl Builder {
    /// Shares build artifacts by that strategy. Without one, each workspace has its own.
    pub fn cache(mut self, cache: Arc<dyn CacheStrategy>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Keeps the records there. By default, on disk in the backend's
    /// [pool directory](Isolator::pool_dir), as the program `wtpool` does; in memory if the backend
    /// has none.
    pub fn store(mut self, store: Arc<dyn LeaseStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Takes the time from there. By default, from the system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Observes life like that. By default, by the claims of the pool on disk
    /// ([`FileLiveness::of_pool`](crate::FileLiveness::of_pool)), or within this process if the records are in memory.
    pub fn liveness(mut self, liveness: Arc<dyn Liveness>) -> Self {
        self.liveness = Some(liveness);
        self
    }

    /// Uses these settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Opens the pool: the one in the backend's [pool directory](Isolator::pool_dir), which is made
    /// if there is none, exactly as the program `wtpool` opens it. Any number of processes may do
    /// so. Changes no slot, lease or request.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the settings are not [valid](Settings::check); or the store
    ///   or the liveness is another than the one that other processes use for this directory, so
    ///   that this pool would end their leases;
    /// - [`ErrorKind::Busy`]: another process keeps the records of this directory in memory;
    /// - [`ErrorKind::Unsupported`]: records on disk need the feature `sqlite`;
    /// - any error of the store, of the claims, or of [`Isolator::claim_dir`].
    pub fn open(mut self) -> Result<Pool> {
        self.settings.check()?;
        let (store, liveness) =
            origin::resolve(&*self.isolator, self.store.take(), self.liveness.take())?;
        self.isolator.claim_dir()?;
        let worker = ClaimKey::for_worker(self.clock.now().wall);
        let claim = Some(liveness.claim(&worker)?);
        Ok(self.assemble(store, liveness, worker, claim))
    }

    /// Opens a pool only to look at it: no file is made and nothing is changed, so that this works
    /// on a read-only or full filesystem. Give it a store that needs no writing, such as
    /// `ReadOnlyStore`; what would change the records fails.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), but for those of writing.
    pub fn open_to_look(mut self) -> Result<Pool> {
        self.settings.check()?;
        let (store, liveness) =
            origin::resolve(&*self.isolator, self.store.take(), self.liveness.take())?;
        let worker = ClaimKey::for_worker(self.clock.now().wall);
        Ok(self.assemble(store, liveness, worker, None))
    }

    fn assemble(
        self,
        store: Arc<dyn LeaseStore>,
        liveness: Arc<dyn Liveness>,
        worker: ClaimKey,
        claim: Option<Claim>,
    ) -> Pool {
        let inner = Inner {
            isolator: self.isolator,
            cache: self.cache,
            store,
            clock: self.clock,
            liveness,
            settings: self.settings,
            claim,
            worker,
            changed: Notify::new(),
            events: broadcast::channel(1024).0,
            looks: Mutex::default(),
            attempts: Mutex::default(),
            changes: Arc::default(),
            owned: Owned::default(),
            orphans: Mutex::default(),
        };
        Pool { inner: Arc::new(inner) }
    }
}

/// How a lease is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// How the work went.
    pub outcome: Outcome,
    /// For how long to keep the workspace for inspection, instead of what was agreed at the
    /// beginning.
    pub linger: Option<Duration>,
}

/// What became of a lease's work and workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Which slot it was.
    pub slot: SlotId,
    /// How the work went.
    pub outcome: Outcome,
    /// Why the lease ended.
    pub reason: EndReason,
    /// Whether another process, or another [`Pool`] in this one, ended the lease; `reason` and
    /// `outcome` are then those of that end.
    pub by_another: bool,
    /// The lease's branch.
    pub branch: Option<BranchReport>,
    /// What was saved because nothing else holds it.
    pub rescue: Option<Rescue>,
    /// What became of the workspace.
    pub disposition: Disposition,
    /// Why it is kept, if it is.
    pub kept_because: Option<String>,
}

impl Pool {
    /// Begins to put a pool together over that backend.
    pub fn builder(isolator: Arc<dyn Isolator>) -> Builder {
        Builder {
            isolator,
            cache: None,
            store: None,
            clock: Arc::new(SystemClock::new()),
            liveness: None,
            settings: Settings::default(),
        }
    }

    /// The backend.
    pub fn isolator(&self) -> &dyn Isolator {
        &*self.inner.isolator
    }

    /// What observes life for this pool.
    pub fn liveness(&self) -> &dyn Liveness {
        &*self.inner.liveness
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The time, by the pool's clock.
    pub fn now(&self) -> Moment {
        self.inner.clock.now()
    }

    /// Where a slot's workspace is.
    pub fn place(&self, slot: SlotId) -> PathBuf {
        self.inner.isolator.place(slot)
    }

    /// The slots, leases and waiters, as they are now.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn list(&self) -> Result<PoolState> {
        self.inner.store.load().await
    }

    /// What happened after `sequence`, in all processes, oldest first; at most `limit` events.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn events_after(&self, sequence: u64, limit: usize) -> Result<Vec<Logged>> {
        self.inner.store.events(sequence, limit).await
    }

    /// What this process does to the pool from now on, as it happens. A receiver that is too slow
    /// misses events; [`events_after`](Self::events_after) does not.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Ends a session: all of its leases end as soon as they may, and their slots are removed. Those
    /// that are still held are kept, and say why.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such session, or the store fails.
    pub async fn end_session(&self, session: &SessionId) -> Result<PruneReport> {
        let state = self.inner.store.load().await?;
        let is_of_session = |slot: &&Slot| {
            slot.state.begun().is_some_and(|lease| lease.session.as_ref() == Some(session))
        };
        let slots: Vec<SlotId> = state.slots.values().filter(is_of_session).map(|s| s.id).collect();
        // Before the session is over: from then on, the reaper may be at work on the same slots.
        self.inner.wait_until_vacant(&slots).await;
        let (id, settings) = (session.clone(), self.inner.settings.clone());
        let found =
            self.inner.update(move |state, now| state.end_session(&id, &settings, now)).await?;
        crate::fail_point!("pool-core::pool::session-ended");
        if !found {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no session {session}")));
        }
        self.reconcile().await
    }

    /// Moves the end of a lease to a whole TTL (or `ttl`) from now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the lease is over; nothing is changed.
    pub async fn renew(&self, token: &Token, ttl: Option<Duration>) -> Result<Lease> {
        let token = token.clone();
        self.inner.update(move |state, now| state.renew(&token, ttl, now)).await?
    }

    /// Gives a lease back: saves what would be lost, then lets the workspace linger, cleans it for
    /// the next, or removes it. Giving back twice does nothing and reports the same; save that a
    /// workspace that lingers is from then on kept as long as `how.linger` says, if it says anything,
    /// and one that is quarantined is looked at again.
    ///
    /// If another party ended the lease before (its session ended, or its holder was taken for
    /// dead), the report says so: see [`ReleaseReport::by_another`] and
    /// [`reason`](ReleaseReport::reason).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StaleLease`] when the token is not of a lease this pool remembers.
    /// [`ErrorKind::WouldLoseWork`] when the lease shares its holder's life and the holder lives:
    /// only the [`LeaseGuard`] gives such a lease back. Work that can't be saved is not an error: the
    /// workspace is then kept, and the report says why.
    pub async fn release(&self, token: &Token, how: Release) -> Result<ReleaseReport> {
        let (inner, token) = (self.inner.clone(), token.clone());
        let mut state = inner.store.load().await?;
        // Only of a lease that has begun: before that, nobody holds the claim yet.
        let has_begun = state.holder(&token).is_ok();
        let holder_is_gone = has_begun && inner.liveness.holds(&token.lease.claim()) == Vital::Gone;
        crate::pause_point!("pool-core::pool::holder-looked-for");
        let by = By::Caller { holder_is_gone };
        // In a task of its own: once begun, it is finished, whether or not the caller waits.
        join(tokio::spawn(async move { inner.release(&token, how, by).await })).await
    }
}

impl Inner {
    /// Changes the records, tells the subscribers, and wakes the waiters of this process.
    ///
    /// If the future is dropped, the change may still happen, and later;
    /// [`settled`](Self::settled) waits for that.
    async fn update<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut PoolState, &Moment) -> R + Send + 'static,
    ) -> Result<R> {
        let begun = self.changes.clone().read_owned().await;
        let now = self.clock.now();
        let (result, events) = store::update(&*self.store, move |state| {
            let result = change(state, &now);
            drop(begun);
            (result, state.outbox.clone())
        })
        .await?;
        if !events.is_empty() {
            self.changed.notify_waiters();
        }
        for event in events {
            tracing::info!(
                target: "wtpool",
                event = event.kind.as_str(),
                slot = event.slot.map(|s| s.0),
                lease = event.lease.as_ref().map(LeaseId::as_str),
                name = event.name.as_ref().map(|n| n.as_str()),
                generation = event.generation.map(|g| g.0),
                note = event.note.as_deref(),
            );
            // Nobody listens: that is no error.
            drop(self.events.send(event));
        }
        Ok(result)
    }

    fn worker(&self) -> &ClaimKey {
        &self.worker
    }

    async fn slot(&self, slot: SlotId) -> Result<Slot> {
        let state = self.store.load().await?;
        state.slots.get(&slot).cloned().ok_or_else(|| {
            Error::new(ErrorKind::StaleLease, format!("slot {slot} was removed in the meantime"))
        })
    }

    async fn site(&self, slot: SlotId, base: &crate::Base) -> Result<CacheSite> {
        let in_use = self.store.load().await?.occupied();
        Ok(CacheSite {
            slot,
            path: self.isolator.place(slot),
            base: base.commit.clone(),
            in_use: u32::try_from(in_use).unwrap_or(u32::MAX),
        })
    }

    async fn announce(&self, slot: SlotId, base: &crate::Base) -> Result<Attachment> {
        match &self.cache {
            Some(cache) => Ok(cache.announce(&self.site(slot, base).await?)),
            None => Ok(uncached(None)),
        }
    }

    /// Who stands in a slot.
    ///
    /// # Errors
    ///
    /// When that can't be known: whoever would take the slot away must not.
    fn occupant(&self, slot: SlotId) -> Result<Option<String>> {
        liveness::occupant(&*self.liveness, &self.isolator.place(slot))
    }

    /// Nobody's ground is taken away from under their feet.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when somebody stands there, and when nobody knows.
    fn unoccupied(&self, slot: SlotId) -> Result<()> {
        liveness::check_unoccupied(&*self.liveness, &self.isolator.place(slot))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.claim.take());
        self.liveness.forget(&self.worker);
    }
}

/// What a lease gets without a shared cache.
fn uncached(reason: Option<String>) -> Attachment {
    Attachment { strategy: "private".to_owned(), reason, ..Attachment::default() }
}

/// How a lease ended, before anything was saved.
fn end(outcome: Outcome, reason: EndReason, linger: Duration) -> End {
    End { outcome, reason, linger, by: None, rescue: None, branch: None }
}
