//! What a pool must do, without how: the reference for `proptest-state-machine`.
//!
//! The model knows nothing of slots, stores or tasks. It says, after each [`Step`], who must hold a
//! lease, who must wait and in which order, whose workspace must be kept though it is over, and who
//! must have nothing. `tests/it/model.rs` runs it against a real pool.

mod random;
mod step;

use std::collections::{BTreeMap, BTreeSet};

pub use step::{Ask, Deed, Kind, Step, Trouble, UNIT};

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
    /// A lease that is over, whose slot is kept: somebody stands in it, or it has what can't be saved.
    Kept,
    /// None of these, any more.
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
    /// Whether somebody who is no holder stands in its workspace.
    pub stranger: bool,
    /// Whether its workspace has something that can't be saved.
    pub spoilt: bool,
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
    /// All requests there ever were, by number. Requests of [`Step::CrashAcquiring`] and
    /// [`Step::DropAcquiring`] have a number too.
    pub entries: BTreeMap<usize, Entry>,
    /// Those who wait, first come first; also those whose process was killed meanwhile.
    pub queue: Vec<usize>,
    /// How many slots have something in their places that is not the pool's.
    pub foreign: usize,
    now: u64,
    over: BTreeSet<u8>,
}

impl Model {
    /// A pool with that cap.
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            entries: BTreeMap::new(),
            queue: Vec::new(),
            foreign: 0,
            now: 0,
            over: BTreeSet::new(),
        }
    }

    /// How many slots are not to be had.
    pub fn occupied(&self) -> usize {
        use Standing::{Kept, Leased, Reserved};
        let holds = |entry: &&Entry| matches!(entry.standing, Reserved | Leased | Kept);
        self.entries.values().filter(holds).count() + self.foreign
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

    /// The lease is over. Its slot is not, if there is a reason to keep it.
    fn finish(&mut self, number: usize) {
        match self.entries.get_mut(&number) {
            Some(entry) if entry.must_be_kept() => {
                entry.standing = Standing::Kept;
                entry.alive = false;
            }
            _ => self.end(number),
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
        let until = ask.wait.map(|wait| self.now + wait);
        let entry = Entry { standing, alive: !refused, until, ..Entry::over(ask) };
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
                // Nobody's ground is taken away while they stand on it.
                Standing::Leased if entry.stranger => false,
                Standing::Leased if detached => past || ended || !entry.present,
                Standing::Leased => dead,
                Standing::Kept => true,
                Standing::Over | Standing::Refused => false,
            };
            if over {
                self.finish(number);
            }
        }
        self.grant();
    }

    /// What the model does in a step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Acquire(ask) => self.enter(ask),
            Step::CrashAcquiring(ask, _) | Step::DropAcquiring(ask, _) => {
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
            Step::Cancel(number) => {
                self.end(*number);
                self.grant();
            }
            Step::Release(number) => {
                self.finish(*number);
                self.grant();
            }
            Step::CrashReleasing(number, _) => {
                self.finish(*number);
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
                    entry.stranger = false;
                }
            }
            Step::Reconcile | Step::PruneAll => self.reconcile(),
            Step::EndSession(session) => {
                let mine = |e: &Entry| e.ask.session == Some(*session);
                let known = !self.pick(|e| mine(e) && e.standing != Standing::Refused).is_empty();
                if known {
                    self.over.insert(*session);
                    for number in self.pick(|e| mine(e) && e.standing == Standing::Waits) {
                        self.end(number);
                    }
                }
                self.reconcile();
            }
            Step::Enter(number) | Step::Leave(number) => {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.stranger = matches!(step, Step::Enter(_));
                }
            }
            Step::Spoil(number) | Step::Mend(number) => {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.spoilt = matches!(step, Step::Spoil(_));
                }
            }
            Step::PutForeign(ask) => {
                self.reconcile();
                self.foreign += 1;
                ask.iter().for_each(|ask| self.enter(ask));
                self.reconcile();
            }
            Step::TakeForeign => {
                self.foreign -= 1;
                self.reconcile();
            }
            Step::Amid(trouble, deed) => {
                self.amid(*trouble, deed);
                self.reconcile();
            }
            Step::ReleaseAgain(_)
            | Step::RenewStale(_)
            | Step::Write(..)
            | Step::Commit(_)
            | Step::SetWall(_) => {}
        }
    }

    fn amid(&mut self, trouble: Trouble, deed: &Deed) {
        match deed {
            Deed::Acquire(ask) if trouble.spoils_a_request() => {
                self.entries.insert(self.entries.len(), Entry::over(ask));
            }
            Deed::Acquire(ask) => {
                let number = self.entries.len();
                self.enter(ask);
                let granted = self.entries[&number].standing == Standing::Leased;
                if granted && trouble.spoils_a_grant() {
                    self.entries.insert(number, Entry::over(ask));
                }
            }
            Deed::Release(number) => self.finish(*number),
            Deed::Reconcile => {}
        }
    }

    fn allows(&self, step: &Step) -> bool {
        let has = |number: &usize, fits: &dyn Fn(&Entry) -> bool| {
            self.entries.get(number).is_some_and(fits)
        };
        let held = |e: &Entry| e.ask.kind == Kind::Held;
        let leased = |e: &Entry| e.standing == Standing::Leased && (e.alive || !held(e));
        let asking = |e: &Entry| matches!(e.standing, Standing::Waits | Standing::Reserved);
        let stands = |e: &Entry| matches!(e.standing, Standing::Leased | Standing::Kept);
        // Whoever stands in a slot that lingers would be met by the next one to be granted it, if it
        // is: which slot that is, is not for the model to say. `Trouble::Stranger` is about that.
        let ends = |e: &Entry| leased(e) && !(e.stranger && e.ask.linger > 0);
        match step {
            Step::Materialise(n) => has(n, &|e| e.standing == Standing::Reserved && e.alive),
            Step::Cancel(n) => has(n, &|e| asking(e) && e.alive),
            Step::Renew(n) => has(n, &leased),
            Step::Release(n) | Step::Amid(_, Deed::Release(n)) => has(n, &ends),
            Step::CrashReleasing(n, _) => has(n, &|e| ends(e) && held(e)),
            Step::ReleaseAgain(n) | Step::RenewStale(n) => {
                has(n, &|e| e.standing == Standing::Over && e.was_leased)
            }
            Step::Kill(n) => has(n, &|e| e.alive && (asking(e) || (leased(e) && held(e)))),
            Step::DeleteByHand(n) => has(n, &|e| leased(e) && e.present),
            Step::Write(n, _) | Step::Commit(n) => has(n, &|e| stands(e) && e.present),
            Step::Enter(n) => has(n, &|e| stands(e) && e.present && !e.stranger),
            Step::Leave(n) => has(n, &|e| e.stranger),
            Step::Spoil(n) => has(n, &|e| stands(e) && e.present && !e.spoilt),
            Step::Mend(n) => has(n, &|e| stands(e) && e.present && e.spoilt),
            Step::PutForeign(_) => self.occupied() < self.cap,
            Step::TakeForeign => self.foreign > 0,
            _ => true,
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
            stranger: false,
            spoilt: false,
            until: None,
            reanchor: false,
        }
    }

    fn must_be_kept(&self) -> bool {
        let leased = matches!(self.standing, Standing::Leased | Standing::Kept);
        leased && (self.stranger || (self.spoilt && self.present))
    }

    fn lease(&mut self, now: u64) {
        self.standing = Standing::Leased;
        self.was_leased = true;
        self.until = self.ask.kind.units().map(|units| now + units);
    }
}
