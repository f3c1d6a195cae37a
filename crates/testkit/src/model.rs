//! What a pool must do, without how: the reference for `proptest-state-machine`.
//!
//! The model knows nothing of slots, stores or tasks. It says, after each [`Step`], who must hold a
//! lease, who must wait and in which order, and who must have neither. `tests/it/model.rs` runs it
//! against a real pool.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// One unit of the model's time, in seconds. Times to live and waits end in the middle of a unit,
/// so that nothing depends on what happens within one.
pub const UNIT: u64 = 10;

/// Whose life a lease shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of the process which asked for it.
    Held,
    /// Nobody's: it lasts so many [units](UNIT).
    Detached(u64),
}

/// What happens to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new process asks for a lease.
    Acquire(Ask),
    /// A new process asks for a lease that it is to hold, and is killed after so many of its own
    /// steps; then a reconciliation.
    CrashAcquiring(Ask, u32),
    /// What was reserved becomes a lease.
    Materialise(usize),
    /// A request is dropped, in the queue or reserved.
    Cancel(usize),
    /// A lease is renewed, for its whole time to live.
    Renew(usize),
    /// A lease is given back.
    Release(usize),
    /// A lease is being given back, and the process is killed after so many of its own steps; then a
    /// reconciliation.
    CrashReleasing(usize, u32),
    /// A lease that is over is given back again.
    ReleaseAgain(usize),
    /// A lease that is over is renewed.
    RenewStale(usize),
    /// The process that waits for, has reserved, or holds something is killed.
    Kill(usize),
    /// An agent writes into its workspace.
    Write(usize, u8),
    /// An agent commits what is in its workspace.
    Commit(usize),
    /// A user deletes the files of a lease's workspace.
    DeleteByHand(usize),
    /// So many units pass.
    Pass(u64),
    /// The wall clock is set by so many hours.
    SetWall(i8),
    /// The machine starts anew.
    Reboot,
    /// A reconciliation, and a second one, which must find nothing to do.
    Reconcile,
    /// Everything idle is removed too.
    PruneAll,
    /// A session ends.
    EndSession(u8),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose life the lease shares.
    pub kind: Kind,
    /// The session it belongs to.
    pub session: Option<u8>,
    /// For how many units to wait; `None`: for ever.
    pub wait: Option<u64>,
    /// Only reserve a slot.
    pub reserve: bool,
    /// Keep the workspace for so many units afterwards.
    pub linger: u64,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the queue.
    Waits,
    /// A slot is its own, but no lease has begun. So it stays when its process is killed, until a
    /// reconciliation.
    Reserved,
    /// A lease.
    Leased,
    /// Neither, any more.
    Over,
    /// Refused at once.
    Refused,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was asked for.
    pub ask: Ask,
    /// Where it stands.
    pub standing: Standing,
    /// Whether its process runs.
    pub alive: bool,
    /// Whether it was a lease at some time.
    pub was_leased: bool,
    /// Whether its workspace has files still.
    pub present: bool,
    /// When its wait or its lease is over: at the end of this unit.
    until: Option<u64>,
    /// Its time counts from the next reconciliation, because of a reboot.
    reanchor: bool,
}

/// The model's state.
#[derive(Clone, Debug)]
pub struct Model {
    /// How many may hold something at the same time.
    pub cap: usize,
    /// All requests there ever were, by number. Requests of [`Step::CrashAcquiring`] have a number
    /// too.
    pub entries: BTreeMap<usize, Entry>,
    /// Those who wait, first come first; also those whose process was killed meanwhile.
    pub queue: Vec<usize>,
    now: u64,
    over: BTreeSet<u8>,
}

impl Model {
    /// A pool with that cap.
    pub fn new(cap: usize) -> Self {
        Self { cap, entries: BTreeMap::new(), queue: Vec::new(), now: 0, over: BTreeSet::new() }
    }

    /// How many hold something.
    pub fn occupied(&self) -> usize {
        let holds =
            |entry: &&Entry| matches!(entry.standing, Standing::Reserved | Standing::Leased);
        self.entries.values().filter(holds).count()
    }

    /// The requests with that standing.
    pub fn with(&self, standing: Standing) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().filter(move |(_, e)| e.standing == standing).map(|(n, e)| (*n, e))
    }

    fn pick(&self, fits: impl Fn(&Entry) -> bool) -> Vec<usize> {
        self.entries.iter().filter(|(_, entry)| fits(entry)).map(|(n, _)| *n).collect()
    }

    fn end(&mut self, number: usize) {
        self.queue.retain(|n| *n != number);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.standing = Standing::Over;
            // Detached from the process that asked: it has long ended.
            entry.alive = false;
        }
    }

    fn grant(&mut self) {
        while !self.queue.is_empty() && self.occupied() < self.cap {
            let number = self.queue.remove(0);
            let now = self.now;
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.standing = Standing::Reserved;
            entry.until = None;
            if entry.alive && !entry.ask.reserve {
                entry.lease(now);
            }
        }
    }

    fn enter(&mut self, ask: &Ask) {
        let number = self.entries.len();
        let used = |session| {
            let member = |e: &Entry| e.ask.session == Some(session);
            let unfinished = |e: &Entry| !matches!(e.standing, Standing::Over | Standing::Refused);
            self.entries.values().any(|e| member(e) && unfinished(e))
        };
        let refused = ask.session.is_some_and(|s| self.over.contains(&s) && used(s));
        let standing = if refused { Standing::Refused } else { Standing::Waits };
        if !refused {
            self.queue.push(number);
            ask.session.map(|session| self.over.remove(&session));
        }
        let entry = Entry {
            ask: ask.clone(),
            standing,
            alive: !refused,
            was_leased: false,
            present: true,
            until: ask.wait.map(|wait| self.now + wait),
            reanchor: false,
        };
        self.entries.insert(number, entry);
        self.grant();
    }

    fn reconcile(&mut self) {
        for number in self.entries.keys().copied().collect::<Vec<_>>() {
            let now = self.now;
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            if std::mem::take(&mut entry.reanchor) {
                entry.until = entry.ask.kind.units().map(|units| now + units);
            }
            let dead = !entry.alive;
            let detached = matches!(entry.ask.kind, Kind::Detached(_));
            let past = entry.until.is_some_and(|until| until < now);
            let ended = entry.ask.session.is_some_and(|session| self.over.contains(&session));
            let over = match entry.standing {
                Standing::Waits | Standing::Reserved => dead,
                Standing::Leased if detached => past || ended || !entry.present,
                Standing::Leased => dead,
                Standing::Over | Standing::Refused => false,
            };
            if over {
                self.end(number);
            }
        }
        self.grant();
    }

    /// What the model does in a step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Acquire(ask) => self.enter(ask),
            Step::CrashAcquiring(ask, _) => {
                let number = self.entries.len();
                self.entries.insert(number, Entry::over(ask));
                self.reconcile();
            }
            Step::Materialise(number) => {
                let now = self.now;
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.lease(now);
                }
            }
            Step::Cancel(number) | Step::Release(number) => {
                self.end(*number);
                self.grant();
            }
            Step::CrashReleasing(number, _) => {
                self.end(*number);
                self.reconcile();
            }
            Step::Renew(number) => {
                let now = self.now;
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.until = entry.ask.kind.units().map(|units| now + units);
                    entry.reanchor = false;
                }
            }
            Step::Kill(number) => {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.alive = false;
                }
            }
            Step::DeleteByHand(number) => {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.present = false;
                }
            }
            Step::Pass(units) => {
                self.now += units;
                let past = |e: &Entry| e.until.is_some_and(|until| until < self.now);
                let gave_up = |e: &Entry| e.standing == Standing::Waits && e.alive && past(e);
                for number in self.pick(gave_up) {
                    self.end(number);
                }
            }
            Step::Reboot => {
                for entry in self.entries.values_mut() {
                    let detached = matches!(entry.ask.kind, Kind::Detached(_));
                    if detached && entry.standing == Standing::Leased {
                        entry.reanchor = true;
                        entry.until = None;
                    }
                    entry.alive = false;
                }
            }
            Step::Reconcile | Step::PruneAll => self.reconcile(),
            Step::EndSession(session) => {
                let mine = |e: &Entry| e.ask.session == Some(*session);
                let known = !self.pick(|e| mine(e) && e.standing != Standing::Refused).is_empty();
                if known {
                    self.over.insert(*session);
                    let ends = |e: &Entry| {
                        let detached = matches!(e.ask.kind, Kind::Detached(_));
                        let leased = e.standing == Standing::Leased && detached;
                        mine(e) && (e.standing == Standing::Waits || leased)
                    };
                    for number in self.pick(ends) {
                        self.end(number);
                    }
                }
                self.reconcile();
            }
            Step::ReleaseAgain(_)
            | Step::RenewStale(_)
            | Step::Write(..)
            | Step::Commit(_)
            | Step::SetWall(_) => {}
        }
    }

    fn allows(&self, step: &Step) -> bool {
        let has = |number: &usize, fits: &dyn Fn(&Entry) -> bool| {
            self.entries.get(number).is_some_and(fits)
        };
        let held = |e: &Entry| e.ask.kind == Kind::Held;
        let leased = |e: &Entry| e.standing == Standing::Leased && (e.alive || !held(e));
        let asking = |e: &Entry| matches!(e.standing, Standing::Waits | Standing::Reserved);
        match step {
            Step::Materialise(n) => has(n, &|e| e.standing == Standing::Reserved && e.alive),
            Step::Cancel(n) => has(n, &|e| asking(e) && e.alive),
            Step::Renew(n) | Step::Release(n) => has(n, &leased),
            Step::CrashReleasing(n, _) => has(n, &|e| leased(e) && held(e)),
            Step::ReleaseAgain(n) | Step::RenewStale(n) => {
                has(n, &|e| e.standing == Standing::Over && e.was_leased)
            }
            Step::Kill(n) => has(n, &|e| e.alive && (asking(e) || (leased(e) && held(e)))),
            Step::Write(n, _) | Step::Commit(n) | Step::DeleteByHand(n) => {
                has(n, &|e| leased(e) && e.present)
            }
            _ => true,
        }
    }
}

impl Kind {
    fn units(self) -> Option<u64> {
        match self {
            Self::Held => None,
            Self::Detached(units) => Some(units),
        }
    }
}

impl Entry {
    fn over(ask: &Ask) -> Self {
        Self {
            ask: ask.clone(),
            standing: Standing::Over,
            alive: false,
            was_leased: false,
            present: true,
            until: None,
            reanchor: false,
        }
    }

    fn lease(&mut self, now: u64) {
        self.standing = Standing::Leased;
        self.was_leased = true;
        self.until = self.ask.kind.units().map(|units| now + units);
    }
}

/// Any request.
fn ask() -> impl Strategy<Value = Ask> {
    let kind = prop_oneof![3 => Just(Kind::Held), 2 => (0..4u64).prop_map(Kind::Detached)];
    let session = proptest::option::weighted(0.4, 0..2u8);
    let wait = proptest::option::weighted(0.3, 0..4u64);
    let linger = prop_oneof![2 => Just(0), 1 => 1..4u64];
    (kind, session, wait, proptest::bool::weighted(0.2), linger).prop_map(
        |(kind, session, wait, reserve, linger)| Ask { kind, session, wait, reserve, linger },
    )
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1..5usize).prop_map(Self::new).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let any = prop_oneof![
            8 => ask().prop_map(Step::Acquire),
            // Whether a detached lease began before the crash, nobody can tell from outside.
            3 => (ask(), 0..60u32).prop_map(|(ask, steps)| {
                Step::CrashAcquiring(Ask { kind: Kind::Held, ..ask }, steps)
            }),
            1 => (0..4u64).prop_map(Step::Pass),
            1 => (-30..30i8).prop_map(Step::SetWall),
            1 => Just(Step::Reboot),
            3 => Just(Step::Reconcile),
            1 => Just(Step::PruneAll),
            1 => (0..2u8).prop_map(Step::EndSession),
        ];
        if state.entries.is_empty() {
            return any.boxed();
        }
        // Steps about a request: of all there are, one that the step is possible for. A random
        // one would rarely be.
        let about = |step: fn(usize) -> Step| {
            let fitting = state.allows_any(step)?;
            Some(proptest::sample::select(fitting).prop_map(step).boxed())
        };
        let crash = state.allows_any(|n| Step::CrashReleasing(n, 0)).map(|fitting| {
            (proptest::sample::select(fitting), 0..60u32)
                .prop_map(|(n, steps)| Step::CrashReleasing(n, steps))
                .boxed()
        });
        let write = state.allows_any(|n| Step::Write(n, 0)).map(|fitting| {
            (proptest::sample::select(fitting), 0..4u8)
                .prop_map(|(n, byte)| Step::Write(n, byte))
                .boxed()
        });
        let weighted = [
            (20, Some(any.boxed())),
            (3, about(Step::Materialise)),
            (2, about(Step::Cancel)),
            (2, about(Step::Renew)),
            (6, about(Step::Release)),
            (1, about(Step::ReleaseAgain)),
            (1, about(Step::RenewStale)),
            (4, about(Step::Kill)),
            (2, about(Step::Commit)),
            (1, about(Step::DeleteByHand)),
            (3, crash),
            (6, write),
        ];
        let possible = weighted.into_iter().filter_map(|(w, s)| Some((w, s?))).collect();
        proptest::strategy::Union::new_weighted(possible).boxed()
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.step(step);
        state
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        state.allows(step)
    }
}

impl Model {
    fn allows_any(&self, step: impl Fn(usize) -> Step) -> Option<Vec<usize>> {
        let fitting: Vec<usize> =
            self.entries.keys().copied().filter(|n| self.allows(&step(*n))).collect();
        (!fitting.is_empty()).then_some(fitting)
    }
}
