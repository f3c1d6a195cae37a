//! The pure parts, as functions: random steps, and the invariants after each.

use std::collections::BTreeSet;
use std::time::Duration;

use pool_core::{
    Afterlife, Attachment, Base, BootId, ClaimKey, CommandEnd, CommitId, Deadline, Due, End,
    EndReason, EventKind, Facts, Generation, Lease, LeaseId, LeaseName, Linger, Moment, Outcome,
    Owner, Plan, PoolState, Session, SessionId, Settings, SlotId, SlotState, Ticket, Token, Turn,
    Vital, Waiter,
};
use proptest::prelude::*;

pub(crate) fn at(secs: u64) -> Moment {
    let wall = jiff::Timestamp::from_second(1_700_000_000 + secs as i64).expect("in range");
    Moment { boot: BootId("one".into()), uptime: Duration::from_secs(secs), wall }
}

fn worker() -> ClaimKey {
    ClaimKey::new("worker-1").expect("valid")
}

fn waiter(name: &str, now: &Moment) -> Waiter {
    let base = Base { commit: CommitId::new("c0").expect("valid"), branch: None };
    Waiter {
        lease: Lease {
            id: LeaseId::generate(now.wall),
            generation: Generation::default(),
            name: LeaseName::new(name).expect("valid"),
            holder: "test".into(),
            session: None,
            owner: Owner::Holder,
            base,
            acquired: now.clone(),
            deadline: None,
            linger: Linger::both(Duration::ZERO),
            attachment: Attachment::default(),
            command_ended: None,
            kept_because: None,
        },
        ttl: Some(Duration::from_secs(60)),
        worker: worker(),
        since: now.clone(),
        until: None,
    }
}

fn over(linger: u64) -> End {
    End {
        outcome: Outcome::Success,
        reason: EndReason::Released,
        linger: Duration::from_secs(linger),
        by: None,
        rescue: None,
        branch: None,
    }
}

fn plan(slot: SlotId, lease: &Lease) -> Plan {
    Plan { slot, lease: Some((lease.id.clone(), lease.name.clone())), base: lease.base.clone() }
}

/// Carries a granted slot to a lease.
fn begin(state: &mut PoolState, slot: SlotId, now: &Moment) -> Token {
    let lease = state.slots[&slot].state.lease().expect("granted").clone();
    state.plan_slot(&plan(slot, &lease), &worker()).expect("ours");
    state.begin_lease(slot, &worker(), Attachment::default(), now).expect("ours").token()
}

fn granted(state: &PoolState) -> Vec<SlotId> {
    let making = |s: &&pool_core::Slot| matches!(s.state, SlotState::Provisioning { .. });
    state.slots.values().filter(making).map(|s| s.id).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue,
    Begin(usize),
    Release(usize, u64),
    Finish(usize, bool),
    LeaveQueue(usize),
    Bounce(usize),
    Reopen(usize),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enqueue),
        4 => (0usize..8).prop_map(Step::Begin),
        3 => ((0usize..8), prop_oneof![Just(0u64), Just(30)]).prop_map(|(i, l)| Step::Release(i, l)),
        4 => ((0usize..8), any::<bool>()).prop_map(|(i, ok)| Step::Finish(i, ok)),
        1 => (0usize..8).prop_map(Step::LeaveQueue),
        1 => (0usize..8).prop_map(Step::Bounce),
        2 => (0usize..8).prop_map(Step::Reopen),
        1 => (1u64..100).prop_map(Step::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_after_each_step(cap in 1u32..6, steps in prop::collection::vec(step(), 1..80)) {
        let settings = Settings { max_leases: cap, ..Settings::default() };
        let mut state = PoolState::default();
        let (mut secs, mut made) = (0, 0);
        let mut order: Vec<LeaseName> = Vec::new();
        let mut generations = BTreeSet::new();
        for step in steps {
            let now = at(secs);
            let pick = |ids: Vec<SlotId>, i: usize| ids.get(i % ids.len().max(1)).copied();
            let of = |state: &PoolState, wanted: fn(&SlotState) -> bool| -> Vec<SlotId> {
                state.slots.values().filter(|s| wanted(&s.state)).map(|s| s.id).collect()
            };
            match step {
                Step::Enqueue => {
                    made += 1;
                    state.enqueue(waiter(&format!("n{made}"), &now), &settings, &now).expect("a new name");
                    order.push(LeaseName::new(format!("n{made}")).expect("valid"));
                }
                Step::Begin(i) => if let Some(slot) = pick(granted(&state), i) {
                    begin(&mut state, slot, &now);
                },
                Step::Release(i, linger) => {
                    let leased = of(&state, |s| matches!(s, SlotState::Leased { .. }));
                    if let Some(slot) = pick(leased, i) {
                        let token = state.slots[&slot].state.lease().expect("leased").token();
                        state.begin_release(&token, over(linger), &worker(), &now).expect("live");
                        prop_assert!(state.begin_release(&token, over(linger), &worker(), &now).is_err());
                        prop_assert!(state.renew(&token, None, &now).is_err());
                    }
                }
                Step::Finish(i, ok) => {
                    let leaving = of(&state, |s| matches!(s, SlotState::Releasing { .. } | SlotState::Retiring { .. }));
                    if let Some(slot) = pick(leaving, i) {
                        finish(&mut state, slot, ok, &settings, &now);
                    }
                }
                Step::LeaveQueue(i) => {
                    let tickets: Vec<Ticket> = state.waiters.keys().copied().collect();
                    if let Some(ticket) = tickets.get(i % tickets.len().max(1)) {
                        let name = state.waiters[ticket].lease.name.clone();
                        order.retain(|n| *n != name);
                        state.leave_queue(*ticket, "test", &settings, &now);
                    }
                }
                Step::Bounce(i) => if let Some(slot) = pick(granted(&state), i) {
                    let lease = state.slots[&slot].state.lease().expect("granted").clone();
                    // Its old ticket, older than that of anybody who waits: the head of the queue.
                    let back = Waiter { lease, ttl: None, worker: worker(), since: now.clone(), until: None };
                    let number: u64 = back.lease.name.as_str()[1..].parse().expect("numbered");
                    order.insert(0, back.lease.name.clone());
                    order.sort_by_key(|n| n.as_str()[1..].parse::<u64>().expect("numbered"));
                    state.bounce(slot, &worker(), (Ticket(number), back), "test", &settings, &now).expect("ours");
                },
                Step::Reopen(i) => {
                    let kept = of(&state, |s| matches!(s, SlotState::Lingering { .. } | SlotState::Quarantined { .. }));
                    if let Some(slot) = pick(kept, i) {
                        state.reopen(slot, &over(0), &worker(), &now).expect("kept");
                    }
                }
                Step::Time(more) => secs += more,
            }
            for event in std::mem::take(&mut state.outbox) {
                if event.kind == EventKind::Granted {
                    // First come, first served; generations only grow.
                    prop_assert_eq!(event.name.as_ref(), order.first());
                    order.remove(0);
                    let generation = event.generation.expect("a grant has one");
                    prop_assert!(generations.iter().all(|g| *g < generation));
                    generations.insert(generation);
                }
            }
            prop_assert!(state.occupied() <= cap as usize);
            prop_assert!(state.slots.len() <= cap as usize);
            let names: Vec<&LeaseName> = state.names().collect();
            prop_assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
            let to_be_had = state.slots.values().any(|s| matches!(s.state, SlotState::Free | SlotState::Lingering { .. }))
                || state.slots.len() < cap as usize;
            prop_assert!(state.waiters.is_empty() || !to_be_had, "somebody waits for what is to be had");
            let json = serde_json::to_string(&state).expect("serialisable");
            prop_assert_eq!(serde_json::from_str::<PoolState>(&json).expect("readable"), state.clone());
        }
    }
}

fn finish(state: &mut PoolState, slot: SlotId, ok: bool, settings: &Settings, now: &Moment) {
    if !ok {
        return state.quarantine(slot, &worker(), "test", settings, now).expect("ours");
    }
    let entry = state.slots[&slot].clone();
    let SlotState::Releasing { end, .. } = &entry.state else {
        return state.remove(slot, &worker(), settings, now).expect("ours");
    };
    match state.saved(slot, &worker(), end, settings, now).expect("ours") {
        Afterlife::Linger => {}
        Afterlife::Keep => {
            let rest =
                entry.plan.unwrap_or_else(|| plan(slot, entry.state.lease().expect("a lease")));
            if state.rest(slot, &worker(), rest, settings, now).expect("ours") {
                state.remove(slot, &worker(), settings, now).expect("retired");
            }
        }
        Afterlife::Retire => state.remove(slot, &worker(), settings, now).expect("ours"),
    }
}

fn leased(owner: Owner, ttl: Option<u64>) -> (PoolState, Token) {
    let mut state = PoolState::default();
    let mut waiter = waiter("n1", &at(0));
    waiter.lease.owner = owner;
    waiter.ttl = ttl.map(Duration::from_secs);
    state.enqueue(waiter, &Settings::default(), &at(0)).expect("a new name");
    let token = begin(&mut state, SlotId(1), &at(0));
    (state, token)
}

fn seen(state: &PoolState, vital: Vital) -> Facts {
    let lease = state.slots[&SlotId(1)].state.lease().expect("leased");
    let claims = [(worker(), Vital::Alive), (lease.id.claim(), vital)].into();
    Facts { claims, occupancy_known: true, ..Facts::default() }
}

#[test]
fn a_lease_lasts_at_least_its_ttl_and_ends_when_quiet() {
    let (state, token) = leased(Owner::Detached, Some(60));
    let settings = Settings::default();
    let mut facts = seen(&state, Vital::Unknown);
    facts.quiet.insert(SlotId(1), true);
    assert_eq!(state.due(&settings, &facts, &at(59)), []);
    let ends = Due::EndLease(token.clone(), Outcome::Failure, EndReason::Expired);
    assert_eq!(state.due(&settings, &facts, &at(60)), [ends]);
    facts.quiet.insert(SlotId(1), false);
    assert!(
        matches!(&state.due(&settings, &facts, &at(60))[..], [Due::KeepLease(t, _)] if *t == token)
    );
    facts.quiet.insert(SlotId(1), true);
    facts.occupied.insert(SlotId(1), "process 7 (sh)".into());
    assert!(matches!(&state.due(&settings, &facts, &at(60))[..], [Due::KeepLease(..)]));
}

#[test]
fn a_reboot_starts_a_ttl_again() {
    let (mut state, token) = leased(Owner::Detached, Some(60));
    let settings = Settings::default();
    let rebooted = |secs| Moment { boot: BootId("two".into()), ..at(secs) };
    let mut facts = seen(&state, Vital::Unknown);
    facts.quiet.insert(SlotId(1), true);
    assert!(state.reanchor(&rebooted(1)));
    assert!(!state.reanchor(&rebooted(2)), "a second time changes nothing");
    assert_eq!(state.due(&settings, &facts, &rebooted(60)), []);
    let ends = Due::EndLease(token, Outcome::Failure, EndReason::Expired);
    assert_eq!(state.due(&settings, &facts, &rebooted(61)), [ends]);
}

#[test]
fn a_live_holder_keeps_the_lease_past_any_deadline() {
    let (state, _) = leased(Owner::Holder, Some(60));
    let facts = seen(&state, Vital::Alive);
    assert_eq!(state.due(&Settings::default(), &facts, &at(100_000)), []);
}

#[test]
fn a_live_holder_outlives_its_session_and_it_is_said() {
    let (mut state, token) = leased(Owner::Holder, None);
    let id = SessionId::new("s").expect("valid");
    state.holder(&token).expect("live").1.session = Some(id.clone());
    state.open_session(&id, Session { process: None, last_used: at(0), over: true });
    let facts = seen(&state, Vital::Alive);
    let due = state.due(&Settings::default(), &facts, &at(1));
    let [Due::KeepLease(kept, why)] = &due[..] else { panic!("{due:?}") };
    assert!(*kept == token && why.contains("session is over"), "{why}");
    state.holder(&token).expect("live").1.kept_because = Some(why.clone());
    assert_eq!(state.due(&Settings::default(), &facts, &at(2)), [], "it is said once");
}

#[test]
fn a_dead_holder_ends_it_unless_somebody_stands_there() {
    let (state, token) = leased(Owner::Holder, None);
    let mut facts = seen(&state, Vital::Gone);
    let ends = Due::EndLease(token, Outcome::Failure, EndReason::HolderGone);
    assert_eq!(state.due(&Settings::default(), &facts, &at(1)), [ends]);
    facts.occupied.insert(SlotId(1), "process 7 (sh)".into());
    assert!(matches!(&state.due(&Settings::default(), &facts, &at(1))[..], [Due::KeepLease(..)]));
}

#[test]
fn survivors_hold_a_lease_for_the_grace_period_or_while_they_stand_there() {
    let (mut state, token) = leased(Owner::Holder, None);
    let grace = Deadline::after(&at(10), Duration::from_secs(30));
    let ended = CommandEnd { outcome: Outcome::Success, grace };
    state.holder(&token).expect("live").1.command_ended = Some(ended);
    // What counts is what was agreed when the command ended, not what whoever looks has set.
    let settings = Settings { grace: Duration::from_secs(1), ..Settings::default() };
    let mut facts = seen(&state, Vital::Alive);
    assert!(matches!(&state.due(&settings, &facts, &at(39))[..], [Due::KeepLease(..)]));
    let ends = Due::EndLease(token, Outcome::Success, EndReason::Released);
    assert_eq!(state.due(&settings, &facts, &at(40)), [ends]);
    facts.occupied.insert(SlotId(1), "process 7 (sh)".into());
    assert!(matches!(&state.due(&settings, &facts, &at(4000))[..], [Due::KeepLease(..)]));
    assert!(state.reached_deadline(&at(39), &at(40)));
    assert!(!state.reached_deadline(&at(38), &at(39)) && !state.reached_deadline(&at(40), &at(41)));
}

#[test]
fn whoever_looks_now_and_then_is_told_of_every_deadline() {
    let settings = Settings { max_leases: 1, ..Settings::default() };
    let (mut state, token) = leased(Owner::Detached, Some(60));
    let reached = |state: &PoolState, second| state.reached_deadline(&at(second - 1), &at(second));
    assert!(reached(&state, 60) && !reached(&state, 59) && !reached(&state, 61));
    let waits = Waiter {
        until: Some(Deadline::after(&at(0), Duration::from_secs(30))),
        ..waiter("n2", &at(0))
    };
    let ticket = state.enqueue(waits, &settings, &at(0)).expect("a new name");
    assert!(reached(&state, 30));
    state.leave_queue(ticket, "test", &settings, &at(1));
    assert!(!reached(&state, 30));
    state.begin_release(&token, over(20), &worker(), &at(70)).expect("live");
    state.saved(SlotId(1), &worker(), &over(20), &settings, &at(70)).expect("ours");
    assert!(reached(&state, 90) && !reached(&state, 60));
}

/// Killed while the slot was reset for somebody who waited, and then no longer did.
#[test]
fn what_was_begun_to_be_reset_does_not_linger_any_more() {
    let settings = Settings { max_leases: 1, ..Settings::default() };
    let (mut state, token) = leased(Owner::Holder, None);
    let ticket = state.enqueue(waiter("n2", &at(0)), &settings, &at(0)).expect("a new name");
    state.begin_release(&token, over(240), &worker(), &at(5)).expect("live");
    let stored = |state: &PoolState| match &state.slots[&SlotId(1)].state {
        SlotState::Releasing { end, .. } => end.clone(),
        other => panic!("{other:?}"),
    };
    let end = stored(&state);
    let saved = state.saved(SlotId(1), &worker(), &end, &settings, &at(5)).expect("ours");
    assert_eq!(saved, Afterlife::Keep);
    state.leave_queue(ticket, "test", &settings, &at(6));
    let end = stored(&state);
    let saved = state.saved(SlotId(1), &worker(), &end, &settings, &at(7)).expect("ours");
    assert_eq!(saved, Afterlife::Retire);
}

/// Nobody knows how far its making got: it is of no use to those who wait, or will come back.
#[test]
fn what_was_half_made_is_never_kept() {
    let settings = Settings { max_leases: 1, ..Settings::default() };
    let (mut state, token) = leased(Owner::Holder, None);
    let id = SessionId::new("s").expect("valid");
    state.open_session(&id, Session { process: None, last_used: at(0), over: false });
    state.enqueue(waiter("n2", &at(0)), &settings, &at(0)).expect("a new name");
    let end = End { reason: EndReason::Interrupted, ..over(0) };
    state.begin_release(&token, end.clone(), &worker(), &at(5)).expect("live");
    let saved = state.saved(SlotId(1), &worker(), &end, &settings, &at(5)).expect("ours");
    assert_eq!(saved, Afterlife::Retire);
}

#[test]
fn idle_slots_stay_while_a_session_lives_and_an_hour_at_most() {
    let (mut state, token) = leased(Owner::Holder, None);
    let id = SessionId::new("s").expect("valid");
    let session = Session { process: None, last_used: at(0), over: false };
    state.open_session(&id, session);
    state.begin_release(&token, over(0), &worker(), &at(5)).expect("live");
    finish(&mut state, SlotId(1), true, &Settings::default(), &at(5));
    let settings = Settings::default();
    let facts = Facts { occupancy_known: true, ..Facts::default() };
    assert_eq!(state.slots[&SlotId(1)].state, SlotState::Free);
    assert_eq!(state.due(&settings, &facts, &at(3599)), []);
    assert!(state.due(&settings, &facts, &at(3605)).contains(&Due::Retire(SlotId(1))));
    state.end_session(&id, &settings, &at(10));
    assert_eq!(state.due(&settings, &facts, &at(10)), [Due::Retire(SlotId(1))]);
}

#[test]
fn a_dead_waiter_does_not_hold_up_the_queue() {
    let settings = Settings { max_leases: 1, ..Settings::default() };
    let mut state = PoolState::default();
    for name in ["n1", "n2", "n3"] {
        state.enqueue(waiter(name, &at(0)), &settings, &at(0)).expect("a new name");
    }
    let facts = Facts { claims: [(worker(), Vital::Gone)].into(), ..Facts::default() };
    let due = state.due(&settings, &facts, &at(1));
    assert!(due.contains(&Due::DropWaiter(Ticket(2), "its process is gone")), "{due:?}");
    assert!(due.contains(&Due::TakeOver(SlotId(1), worker())), "{due:?}");
    let second = state.waiters[&Ticket(2)].lease.id.clone();
    assert_eq!(state.turn(Ticket(2), &second), Turn::Waiting(0));
}

#[test]
fn only_its_own_maker_takes_a_slot_back_that_is_being_made() {
    let mut state = PoolState::default();
    state.enqueue(waiter("n1", &at(0)), &Settings::default(), &at(0)).expect("a new name");
    let [slot] = granted(&state)[..] else { panic!("{state:?}") };
    let (before, another) = (state.clone(), ClaimKey::new("worker-another").expect("valid"));
    let refused = state.reopen(slot, &over(0), &another, &at(1)).expect_err("it is at work");
    assert_eq!((refused.kind(), &state), (pool_core::ErrorKind::StaleLease, &before));
    state.reopen(slot, &over(0), &worker(), &at(1)).expect("its own");
}

#[test]
fn a_name_is_taken_while_its_lease_lives_or_waits() {
    let (mut state, _) = leased(Owner::Detached, Some(60));
    let refused = state.enqueue(waiter("n1", &at(1)), &Settings::default(), &at(1));
    assert_eq!(refused.expect_err("taken").kind(), pool_core::ErrorKind::NameTaken);
    assert_eq!(
        Deadline::after(&at(0), Duration::from_secs(60)).remaining(&at(10)),
        Duration::from_secs(50)
    );
}

/// Neither a holder, nor a worker, nor a waiter is taken for dead because nobody could say.
#[test]
fn what_is_not_known_ends_nothing() {
    let settings = Settings { max_leases: 2, ..Settings::default() };
    let mut state = PoolState::default();
    for name in ["held", "made", "waits"] {
        let waiter = Waiter { ttl: None, ..waiter(name, &at(0)) };
        state.enqueue(waiter, &settings, &at(0)).expect("a new name");
    }
    begin(&mut state, SlotId(1), &at(0));
    let states: Vec<&str> = state.slots.values().map(|slot| slot.state.as_str()).collect();
    assert_eq!((states, state.waiters.len()), (vec!["leased", "provisioning"], 1));
    let due = state.due(&settings, &Facts::default(), &at(1_000_000));
    assert_eq!(due, []);
}
