//! What keeps leases apart: the queue, fencing, and decisions on records that have changed since.

use super::{CLI, CORE};
use crate::mutants::Guard;
use crate::named::{it, unit};

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "fencing",
        file: "crates/pool-core/src/scheduler/lease.rs",
        edits: &[(
            "SlotState::Leased { lease } if lease.token() == *token => Some(",
            "SlotState::Leased { lease } if lease.id == token.lease => Some(",
        )],
        tests: &[it(CORE, "pool::giving_back_twice_reports_the_same_and_a_stale_token_is_refused")],
    },
    Guard {
        name: "release-once",
        file: "crates/pool-core/src/pool/release.rs",
        edits: &[("if state.ended(&wanted).is_some() {", "if false {")],
        tests: &[it(CORE, "pool::giving_back_twice_reports_the_same_and_a_stale_token_is_refused")],
    },
    Guard {
        name: "live-holder",
        file: "crates/pool-core/src/pool/release.rs",
        edits: &[(
            "Self::Caller { holder_is_gone: false } if is_held",
            "Self::Caller { holder_is_gone: false } if is_held && false",
        )],
        tests: &[it(CORE, "pool::nobody_gives_back_the_lease_of_a_live_holder")],
    },
    Guard {
        name: "cap",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[
            ("if self.occupied() >= max {", "if false {"),
            ("        if self.slots.len() < max {", "        if self.slots.len() < max + 1 {"),
        ],
        tests: &[
            it(CORE, "scheduler::the_invariants_hold_after_each_step"),
            it(CORE, "pool::a_full_pool_says_so_when_the_wait_runs_out"),
        ],
    },
    Guard {
        name: "first-come-first-served",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[(
            "self.waiters.keys().next().copied()",
            "self.waiters.keys().next_back().copied()",
        )],
        // Without it, a test of the whole pool waits for ever.
        tests: &[it(CORE, "scheduler::the_invariants_hold_after_each_step")],
    },
    Guard {
        name: "dead-waiter",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[("if facts.claim(&waiter.worker) == Vital::Gone {", "if false {")],
        tests: &[it(CORE, "scheduler::a_dead_waiter_does_not_hold_up_the_queue")],
    },
    Guard {
        name: "path-fence",
        file: "crates/pool-core/src/pool/lookup.rs",
        edits: &[(
            "return Ok(LeaseAt::Several(slot))",
            "return Ok(LeaseAt::Only(Lookup::Slot(slot)))",
        )],
        tests: &[
            it(CORE, "path::path_that_several_leases_have_had_stands_for_none"),
            it(CLI, "fence::late_release_by_path_ends_no_lease_of_the_next_holder"),
            it(CLI, "fence::release_after_the_lease_expired_ends_no_lease_of_the_next_holder"),
            it(CLI, "fence::repeated_release_at_the_cap_ends_no_lease_of_who_waited"),
        ],
    },
    Guard {
        name: "numbers-of-slots",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[(
            "let id = id.or_else(unused).unwrap_or(SlotId(1));",
            "let id = unused().unwrap_or(SlotId(1));",
        )],
        tests: &[
            it(CORE, "path::number_of_a_removed_slot_is_not_given_out_again"),
            it(CLI, "fence::removed_worktree_leaves_its_path_to_no_other_lease"),
        ],
    },
    Guard {
        name: "generations-grow",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[("            self.generation = self.generation.next();\n", "")],
        tests: &[
            it(CORE, "scheduler::the_invariants_hold_after_each_step"),
            it(CLI, "faults::records_that_are_lost_are_made_again"),
        ],
    },
    Guard {
        name: "late-changes",
        file: "crates/pool-core/src/pool/orphans.rs",
        edits: &[("let done = match self.settled().await {", "let done = match Ok(()) {")],
        tests: &[
            it(CORE, "dropped::acquire_dropped_at_each_await_leaks_nothing"),
            it("testkit", "model::a_pool_whose_store_is_late_does_what_the_model_says"),
        ],
    },
    Guard {
        name: "unowned-work",
        file: "crates/pool-core/src/pool/reconcile.rs",
        edits: &[("        inner.end_unowned().await?;\n", "")],
        tests: &[
            it(CORE, "dropped::warm_dropped_at_each_await_leaks_nothing"),
            it(CORE, "dropped::reconcile_dropped_at_each_await_leaks_nothing"),
        ],
    },
    Guard {
        name: "slot-of-another-maker",
        file: "crates/pool-core/src/scheduler/lease.rs",
        edits: &[("worker: maker, .. } if maker == worker => {", ".. } => {")],
        tests: &[it(CORE, "scheduler::only_its_own_maker_takes_a_slot_back_that_is_being_made")],
    },
    Guard {
        name: "slot-changed-since",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[("if self.slots.get(&slot) == seen {", "if seen.is_some() {")],
        tests: &[it(CORE, "pool::a_late_reconciliation_leaves_a_lease_that_lingers_on")],
    },
    Guard {
        name: "lease-renewed-since",
        file: "crates/pool-core/src/pool/release.rs",
        edits: &[(
            "Self::Reconciliation(seen, _) if **seen != *lease =>",
            "Self::Reconciliation(seen, _) if **seen != *lease && false =>",
        )],
        tests: &[it(CORE, "pool::a_late_reconciliation_ends_no_lease_that_was_renewed_since")],
    },
    Guard {
        name: "settled-records",
        file: "crates/pool-core/src/survey.rs",
        edits: &[(
            "is_some_and(|earlier| earlier.is_same(slot))",
            "is_none_or(|earlier| earlier.id == slot.id)",
        )],
        tests: &[
            unit(CORE, "survey::tests::slot_is_missing_only_if_one_lease_held_it_all_along"),
            unit(CORE, "survey::tests::slot_is_vacant_only_if_the_same_record_kept_it_all_along"),
        ],
    },
    Guard {
        name: "second-look-at-what-is-due",
        file: "crates/pool-core/src/pool/reconcile.rs",
        edits: &[(
            "if !inner.is_still_due(state, slot, &due).await {",
            "if !inner.is_still_due(state, slot, &due).await && false {",
        )],
        tests: &[it(CORE, "pauses::lease_that_was_due_is_looked_at_again_before_it_ends")],
    },
];
