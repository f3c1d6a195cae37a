//! Any state there can be.

use proptest::prelude::*;

use super::*;

fn some_lease() -> impl Strategy<Value = Box<Lease>> {
    (1..1_u64 << 40, ".*", any::<Option<u32>>()).prop_map(|(n, holder, kept)| {
        Box::new(Lease { holder, kept_because: kept.map(|k| k.to_string()), ..lease(n) })
    })
}

fn some_slot_state() -> impl Strategy<Value = SlotState> {
    let worker = || ClaimKey::for_worker(Timestamp::UNIX_EPOCH);
    prop_oneof![
        Just(SlotState::Free),
        (proptest::option::of(some_lease()), any::<bool>()).prop_map(move |(lease, reuse)| {
            SlotState::Provisioning { lease, worker: worker(), reuse }
        }),
        some_lease().prop_map(|lease| SlotState::Leased { lease }),
        some_lease().prop_map(move |lease| SlotState::Releasing {
            lease,
            end: end(),
            worker: worker()
        }),
        (some_lease(), 0..1_u64 << 30).prop_map(|(lease, span)| {
            let until = Deadline::after(&moment(8), Duration::from_millis(span));
            SlotState::Lingering { lease, end: end(), until }
        }),
        (proptest::option::of(some_lease()), ".*").prop_map(|(lease, reason)| {
            SlotState::Quarantined { end: lease.is_some().then(end), lease, reason }
        }),
        Just(SlotState::Retiring { worker: worker() }),
    ]
}

prop_compose! {
    fn some_state()(
        // No lease and no waiter has a larger one than the pool has given out.
        generation in 1_u64 << 40..1 << 50,
        ticket in 1_u64 << 50..1 << 51,
        slots in proptest::collection::btree_map(1..9_u32, (some_slot_state(), any::<bool>()), 0..6),
        waiters in proptest::collection::btree_set(0..1_u64 << 50, 0..4),
        sessions in proptest::collection::btree_map("[a-z]{1,4}", any::<bool>(), 0..3),
        ended_from in 0..6_u64,
        ended_count in 0..5_u64,
    ) -> PoolState {
        PoolState {
            generation: Generation(generation),
            ticket: Ticket(ticket),
            slots: slots
                .into_iter()
                .map(|(id, (state, warm))| (SlotId(id), Slot { warm, ..slot(id, state) }))
                .collect(),
            waiters: waiters.into_iter().map(|n| (Ticket(n), waiter(n))).collect(),
            sessions: sessions
                .into_iter()
                .map(|(id, over)| {
                    let session = Session { process: None, last_used: moment(2), over };
                    (SessionId::new(id).unwrap(), session)
                })
                .collect(),
            ended: (ended_from..ended_from + ended_count).map(fixed_ended).collect(),
            outbox: Vec::new(),
        }
    }
}

/// Equal for equal numbers, so that successive states overlap.
fn fixed_ended(n: u64) -> EndedLease {
    let id = LeaseId::new("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
    EndedLease { token: Token { lease: id, generation: Generation(n) }, ..ended(n) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_survives_storing_and_rebuilding(states in proptest::collection::vec(some_state(), 1..5)) {
        let dir = Dir::new();
        let runtime = runtime();
        let store = dir.open();
        let other = dir.open();
        let mut largest = Generation(0);
        for state in &states {
            let wanted = state.clone();
            runtime.block_on(change(&store, move |state| *state = wanted));
            largest = largest.max(state.generation);
            for reader in [&store, &other, &dir.open()] {
                prop_assert_eq!(&runtime.block_on(reader.load()).unwrap(), state);
            }
        }
        drop((store, other));
        fs::remove_file(dir.file("pool.db")).unwrap();
        let is = runtime.block_on(dir.open().load()).unwrap();
        let was = states.last().unwrap();
        assert_rebuilt(was, &is);
        prop_assert!(is.generation >= largest);
        prop_assert!(was.slots.values().filter_map(|s| s.state.lease()).all(|l| l.generation <= is.generation));
        // And again from what the rebuild left.
        fs::remove_file(dir.file("pool.db")).unwrap();
        prop_assert_eq!(&runtime.block_on(dir.open().load()).unwrap().slots, &was.slots);
    }
}
