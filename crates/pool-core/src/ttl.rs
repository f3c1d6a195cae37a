//! What is over, and what must therefore be done. Pure: what is known of the world comes in as
//! [`Facts`], what is to be done goes out as [`Due`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::EventKind;
use crate::id::{ClaimKey, SessionId, SlotId, Ticket};
use crate::liveness::{ProcessIdentity, Vital};
use crate::settings::Settings;
use crate::state::{EndReason, Lease, Outcome, Owner, PoolState, Slot, SlotState, Token};
use crate::time::{Deadline, Moment};

/// Says why a lease goes on whose command is over. `survivor`: the process that still runs, if it
/// was found.
pub(crate) fn survived(survivor: Option<&str>) -> String {
    match survivor {
        Some(who) => format!("its command is over, but {who}, which it started, still runs"),
        None => "its command is over, but something it started still runs".to_owned(),
    }
}

/// What was found out about the world for one reconciliation. Whatever is missing is unknown, and
/// what is unknown counts as alive and busy.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Who holds which claim.
    pub claims: BTreeMap<ClaimKey, Vital>,
    /// Which processes run.
    pub processes: HashMap<ProcessIdentity, Vital>,
    /// Slots in which somebody stands, and who. Asked for every slot that has a workspace.
    pub occupied: BTreeMap<SlotId, String>,
    /// Whether the processes could be asked at all.
    pub occupancy_known: bool,
    /// Quarantined slots of which a look said that all in them can be saved.
    pub savable: BTreeSet<SlotId>,
    /// Slots whose workspace somebody deleted.
    pub missing: BTreeSet<SlotId>,
    /// Slots of leases past their TTL in which nothing was written for the quiet time.
    pub quiet: BTreeMap<SlotId, bool>,
    /// Slots of leases whose command is over, and a process that holds the lease's claim.
    pub survivors: BTreeMap<SlotId, String>,
}

impl Facts {
    fn claim(&self, key: &ClaimKey) -> Vital {
        self.claims.get(key).copied().unwrap_or(Vital::Unknown)
    }

    fn process(&self, process: &ProcessIdentity) -> Vital {
        self.processes.get(process).copied().unwrap_or(Vital::Unknown)
    }
}

/// Something that is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A waiter is gone, or has waited long enough.
    DropWaiter(Ticket, &'static str),
    /// A session is over.
    EndSession(SessionId),
    /// A session that is over has nothing left.
    ForgetSession(SessionId),
    /// A lease is over.
    EndLease(Token, Outcome, EndReason),
    /// A lease would be over, but is kept.
    KeepLease(Token, String),
    /// A slot's worker is gone.
    TakeOver(SlotId, ClaimKey),
    /// A lingering or quarantined slot may be cleaned now.
    Reopen(SlotId),
    /// An idle slot is not wanted any more.
    Retire(SlotId),
}

impl Due {
    /// The slot that it concerns, as it is in `state`; `None` where it concerns none.
    pub(crate) fn slot<'a>(&self, state: &'a PoolState) -> Option<&'a Slot> {
        match self {
            Self::EndLease(token, ..) | Self::KeepLease(token, _) => {
                let is_its = |slot: &&Slot| slot.state.begun().is_some_and(|l| l.token() == *token);
                state.slots.values().find(is_its)
            }
            Self::TakeOver(slot, _) | Self::Reopen(slot) | Self::Retire(slot) => {
                state.slots.get(slot)
            }
            Self::DropWaiter(..) | Self::EndSession(_) | Self::ForgetSession(_) => None,
        }
    }

    /// Whether it is due because a workspace is gone.
    pub(crate) fn is_of_missing_workspace(&self) -> bool {
        matches!(self, Self::EndLease(_, _, EndReason::WorkspaceGone))
    }

    /// The slot that is to be cleaned up once more.
    pub(crate) fn reopened(&self) -> Option<SlotId> {
        match self {
            Self::Reopen(slot) => Some(*slot),
            _ => None,
        }
    }
}

impl PoolState {
    /// Restarts, after a reboot, what was counting before it. Returns whether anything changed.
    pub fn reanchor(&mut self, now: &Moment) -> bool {
        let mut changed = false;
        let mut see = |deadline: &mut Deadline| {
            let seen = deadline.seen_at(now);
            changed |= seen != *deadline;
            *deadline = seen;
        };
        for slot in self.slots.values_mut() {
            match &mut slot.state {
                SlotState::Leased { lease } => {
                    lease.deadline.iter_mut().for_each(&mut see);
                    lease.command_ended.iter_mut().for_each(|end| see(&mut end.grace));
                }
                SlotState::Lingering { until, .. } => see(until),
                _ => {}
            }
        }
        for waiter in self.waiters.values_mut() {
            waiter.until.iter_mut().for_each(&mut see);
        }
        for slot in self.slots.values_mut() {
            if slot.last_used.boot != now.boot {
                slot.last_used = Moment { wall: slot.last_used.wall, ..now.clone() };
                changed = true;
            }
        }
        for session in self.sessions.values_mut() {
            if session.last_used.boot != now.boot {
                session.last_used = Moment { wall: session.last_used.wall, ..now.clone() };
                changed = true;
            }
        }
        changed
    }

    /// All that is due at `now`, in the order in which to do it. The state must have been
    /// [re-anchored](Self::reanchor).
    pub fn due(&self, settings: &Settings, facts: &Facts, now: &Moment) -> Vec<Due> {
        let mut due = Vec::new();
        self.due_waiters(facts, now, &mut due);
        let over = self.due_sessions(settings, facts, now, &mut due);
        for slot in self.slots.values() {
            match &slot.state {
                SlotState::Leased { lease } => {
                    let session_over = lease.session.as_ref().is_some_and(|s| over.contains(&s));
                    let past = is_past_ttl(lease, settings, now);
                    due.extend(self.due_lease(slot.id, lease, session_over, past, facts, now));
                }
                SlotState::Lingering { lease, until, .. } => {
                    let session_over = lease.session.as_ref().is_some_and(|s| over.contains(&s));
                    if until.is_past(now) || session_over {
                        due.push(Due::Reopen(slot.id));
                    }
                }
                SlotState::Quarantined { .. } => {
                    let free_to_go = facts.savable.contains(&slot.id) && facts.occupancy_known;
                    if free_to_go && !facts.occupied.contains_key(&slot.id) {
                        due.push(Due::Reopen(slot.id));
                    }
                }
                SlotState::Provisioning { worker, .. }
                | SlotState::Releasing { worker, .. }
                | SlotState::Retiring { worker } => {
                    if facts.claim(worker) == Vital::Gone {
                        due.push(Due::TakeOver(slot.id, worker.clone()));
                    }
                }
                SlotState::Free => {}
            }
        }
        self.due_idle(settings, facts, &over, now, &mut due);
        due
    }

    fn due_waiters(&self, facts: &Facts, now: &Moment, due: &mut Vec<Due>) {
        for (ticket, waiter) in &self.waiters {
            if facts.claim(&waiter.worker) == Vital::Gone {
                due.push(Due::DropWaiter(*ticket, "its process is gone"));
            } else if waiter.until.as_ref().is_some_and(|u| u.is_past(now)) {
                due.push(Due::DropWaiter(*ticket, "its wait ran out"));
            }
        }
    }

    fn due_sessions(
        &self,
        settings: &Settings,
        facts: &Facts,
        now: &Moment,
        due: &mut Vec<Due>,
    ) -> Vec<&SessionId> {
        let mut over = Vec::new();
        for (id, session) in &self.sessions {
            let used = self.is_used(id);
            let ends = match session.process.as_ref().map(|process| facts.process(process)) {
                Some(Vital::Gone) => true,
                Some(Vital::Alive) => false,
                Some(Vital::Unknown) | None => {
                    !used && session.last_used_before(settings.idle, now)
                }
            };
            if session.over || ends {
                over.push(id);
                if !session.over {
                    due.push(Due::EndSession(id.clone()));
                } else if !used && session.last_used_before(settings.idle, now) {
                    due.push(Due::ForgetSession(id.clone()));
                }
            }
        }
        over
    }

    fn due_lease(
        &self,
        slot: SlotId,
        lease: &Lease,
        session_over: bool,
        past_ttl: bool,
        facts: &Facts,
        now: &Moment,
    ) -> Option<Due> {
        let token = lease.token();
        let end = |outcome, reason| Some(Due::EndLease(token.clone(), outcome, reason));
        let keep = |why: String| {
            (lease.kept_because.as_ref() != Some(&why)).then(|| Due::KeepLease(token.clone(), why))
        };
        let life = match &lease.owner {
            Owner::Holder => facts.claim(&lease.id.claim()),
            Owner::Process(process) => facts.process(process),
            Owner::Detached => Vital::Unknown,
        };
        let occupant = facts.occupied.get(&slot);
        let unoccupied = facts.occupancy_known && occupant.is_none();
        let outcome = lease.command_ended.as_ref().map_or(Outcome::Failure, |end| end.outcome);
        let reason = match (&lease.command_ended, session_over) {
            (Some(_), _) => EndReason::Released,
            (None, true) => EndReason::SessionEnded,
            (None, false) => EndReason::HolderGone,
        };
        if life != Vital::Alive && unoccupied && facts.missing.contains(&slot) {
            return end(Outcome::Failure, EndReason::WorkspaceGone);
        }
        match life {
            Vital::Gone => match occupant {
                Some(who) => keep(format!("its holder is gone, but {who} is still in it")),
                None => end(outcome, reason),
            },
            Vital::Alive => {
                let Some(ended) = &lease.command_ended else {
                    let why =
                        || keep("its session is over, but its holder is still at work".into());
                    return session_over.then(why).flatten();
                };
                // The command is over, and something that it started holds the lock still.
                let graced = ended.grace.is_past(now);
                match occupant {
                    Some(who) => keep(format!("its command is over, but {who} is still in it")),
                    None if graced && unoccupied => end(outcome, reason),
                    None => keep(survived(facts.survivors.get(&slot).map(String::as_str))),
                }
            }
            Vital::Unknown if session_over || past_ttl => match occupant {
                Some(who) if session_over => {
                    keep(format!("its session is over, but {who} is still in it"))
                }
                Some(who) => keep(format!("it is past its TTL, but {who} is still in it")),
                None if session_over => end(Outcome::Failure, EndReason::SessionEnded),
                None if facts.quiet.get(&slot) == Some(&true) => {
                    end(Outcome::Failure, EndReason::Expired)
                }
                None => {
                    keep("it is past its TTL, and not known to be quiet for long enough".into())
                }
            },
            Vital::Unknown => None,
        }
    }

    fn due_idle(
        &self,
        settings: &Settings,
        facts: &Facts,
        over: &[&SessionId],
        now: &Moment,
        due: &mut Vec<Due>,
    ) {
        let mut idle: Vec<_> = self.slots.values().filter(|s| s.state == SlotState::Free).collect();
        idle.sort_by_key(|s| std::cmp::Reverse((s.warm, s.last_used.wall)));
        let live = self.sessions.keys().any(|id| !over.contains(&id));
        let mut kept = 0;
        for slot in idle {
            let unused = now.since(&slot.last_used).is_none_or(|t| t >= settings.idle);
            let surplus = !slot.warm && (!live || kept >= settings.keep_warm);
            if unused || surplus || facts.missing.contains(&slot.id) {
                due.push(Due::Retire(slot.id));
            } else {
                kept += 1;
            }
        }
    }

    /// Leases whose TTL is over though nobody is known to be dead: those that must be looked at for
    /// quiet before they may end.
    pub fn past_ttl<'a>(
        &'a self,
        settings: &'a Settings,
        facts: &'a Facts,
        now: &'a Moment,
    ) -> impl Iterator<Item = (SlotId, &'a Lease)> {
        let unknown = |lease: &Lease| match &lease.owner {
            Owner::Process(process) => facts.process(process) == Vital::Unknown,
            Owner::Holder | Owner::Detached => true,
        };
        self.slots.values().filter_map(move |slot| match &slot.state {
            SlotState::Leased { lease } if is_past_ttl(lease, settings, now) && unknown(lease) => {
                Some((slot.id, &**lease))
            }
            _ => None,
        })
    }

    /// Ends a session: its waiters leave the queue, and its leases end as soon as they may.
    /// Returns whether there was such a session.
    pub fn end_session(&mut self, id: &SessionId, settings: &Settings, now: &Moment) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if !std::mem::replace(&mut session.over, true) {
            session.last_used = now.clone();
            self.log(now, EventKind::SessionEnded, None, None, Some(id.as_str()));
        }
        let waiting: Vec<Ticket> = self
            .waiters
            .iter()
            .filter(|(_, w)| w.lease.session.as_ref() == Some(id))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in waiting {
            self.leave_queue(ticket, "its session ended", settings, now);
        }
        true
    }

    /// Whether a deadline was reached after `earlier` and until `now`: something may have fallen due,
    /// and whoever looks only now and then looks at once.
    pub fn reached_deadline(&self, earlier: &Moment, now: &Moment) -> bool {
        let slots = self.slots.values().flat_map(|slot| match &slot.state {
            SlotState::Leased { lease } => {
                let grace = lease.command_ended.as_ref().map(|end| &end.grace);
                [lease.deadline.as_ref(), grace]
            }
            SlotState::Lingering { until, .. } => [Some(until), None],
            _ => [None, None],
        });
        let waiters = self.waiters.values().map(|waiter| waiter.until.as_ref());
        let mut all = slots.chain(waiters).flatten();
        all.any(|deadline| deadline.is_past(now) && !deadline.is_past(earlier))
    }

    /// Whether there is anything left that ends by itself.
    pub fn needs_watching(&self) -> bool {
        !self.slots.is_empty() || !self.waiters.is_empty()
    }
}

/// Whether a lease has lasted as long as its TTL says, or else the pool's: where nobody can tell whether its
/// owner lives, nothing else ends it.
fn is_past_ttl(lease: &Lease, settings: &Settings, now: &Moment) -> bool {
    match (&lease.deadline, &lease.owner) {
        (Some(deadline), _) => deadline.is_past(now),
        (None, Owner::Process(_)) => {
            now.since(&lease.acquired).is_some_and(|lasted| lasted >= settings.ttl)
        }
        (None, Owner::Holder | Owner::Detached) => false,
    }
}

impl crate::state::Session {
    fn last_used_before(&self, span: std::time::Duration, now: &Moment) -> bool {
        now.since(&self.last_used).is_none_or(|t| t >= span)
    }
}
