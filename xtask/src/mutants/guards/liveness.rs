//! What tells who is alive, who is in a slot, and when a lease is over.

use super::{CLI, CORE};
use crate::mutants::Guard;
use crate::named::it;

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "directory-veto",
        file: "crates/pool-core/src/liveness.rs",
        edits: &[(
            "match occupant(liveness, dir) {",
            "match occupant(liveness, dir).map(|_| None::<String>) {",
        )],
        tests: &[it(CORE, "pool::whoever_stands_in_a_slot_keeps_it")],
    },
    Guard {
        name: "directory-veto-of-the-unknown",
        file: "crates/pool-core/src/liveness.rs",
        edits: &[(
            "Err(error) => format!(\"somebody may be in it: {error}\"),",
            "Err(_) => return Ok(()),",
        )],
        tests: &[it(CORE, "pool::where_nobody_can_tell_who_stands_in_a_slot_it_is_kept")],
    },
    Guard {
        name: "directory-veto-of-a-thread",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[("meta.nlink() <= 3", "true || meta.nlink() <= 3")],
        tests: &[it(
            CORE,
            "liveness::children::a_thread_that_stands_elsewhere_than_its_process_is_found",
        )],
    },
    Guard {
        name: "directory-veto-across-mounts",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[("|dir| spot.is_within(dir)", "|_| false && spots.is_empty()")],
        tests: &[it(
            CORE,
            "liveness::children::who_stands_in_a_directory_that_is_mounted_elsewhere_is_found",
        )],
    },
    Guard {
        name: "directory-veto-of-reuse",
        file: "crates/pool-core/src/pool/ready.rs",
        // The last look, under the proof, sees it as well.
        edits: &[
            ("self.unoccupied(slot).map_err(|e| Trouble::Unusable(e.to_string()))?;", ""),
            ("proof.watched_by(self.liveness.clone())", "{ let _ = &self.liveness; proof }"),
        ],
        tests: &[it(CORE, "pool::a_free_slot_in_which_somebody_stands_is_not_given_away")],
    },
    Guard {
        name: "directory-veto-of-ending",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[("Vital::Gone => match occupant {", "Vital::Gone => match None::<&String> {")],
        tests: &[it(CORE, "scheduler::a_dead_holder_ends_it_unless_somebody_stands_there")],
    },
    Guard {
        name: "directory-veto-after-the-last-look",
        file: "crates/pool-core/src/pool/ready.rs",
        edits: &[("proof.watched_by(self.liveness.clone())", "{ let _ = &self.liveness; proof }")],
        tests: &[it(CORE, "pauses::no_live_lease_ends_whatever_happens_between_two_steps")],
    },
    Guard {
        name: "all-threads",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[("&& stat.num_threads <= 1", "")],
        tests: &[it(CORE, "liveness::children::a_process_lives_as_long_as_any_of_its_threads")],
    },
    Guard {
        name: "namespace",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[("if is_elsewhere && boot_id()", "if false && is_elsewhere && boot_id()")],
        tests: &[it(CORE, "liveness::whether_a_process_of_another_container_runs_is_unknown")],
    },
    Guard {
        name: "start-time",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[(
            "State::Runs { start_time } if start_time.abs_diff(process.start_time) > 1 =>",
            "State::Runs { start_time } if start_time == u64::MAX =>",
        )],
        tests: &[it(CORE, "liveness::this_process_runs")],
    },
    Guard {
        name: "boot-id",
        file: "crates/pool-core/src/liveness/process.rs",
        edits: &[("if system::BOOT_COUNTS && boot_id() != process.boot =>", "if false =>")],
        tests: &[it(CORE, "liveness::a_process_of_another_boot_is_gone")],
    },
    Guard {
        name: "unknown-is-alive",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[(
            "self.claims.get(key).copied().unwrap_or(Vital::Unknown)",
            "self.claims.get(key).copied().unwrap_or(Vital::Gone)",
        )],
        tests: &[it(CORE, "scheduler::what_is_not_known_ends_nothing")],
    },
    Guard {
        name: "whole-ttl-after-reboot",
        file: "crates/pool-core/src/time.rs",
        edits: &[(
            "if self.boot == now.boot { self.clone() } else { Self::after(now, self.span) }",
            "if self.boot == now.boot { self.clone() } else { Self { boot: now.boot.clone(), ..self.clone() } }",
        )],
        tests: &[it(CORE, "scheduler::a_reboot_starts_a_ttl_again")],
    },
    Guard {
        name: "boot-clock-of-the-machine",
        file: "crates/pool-core/src/time.rs",
        edits: &[("    found.unwrap_or_default()\n", "    found.unwrap_or_default() * 0\n")],
        tests: &[it(CLI, "others::a_boot_clock_of_its_own_ends_nobodys_lease")],
    },
    Guard {
        name: "quiet",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[(
            "None if facts.quiet.get(&slot) == Some(&true) => {",
            "None if !past_ttl || past_ttl => {",
        )],
        tests: &[it(CORE, "scheduler::a_lease_lasts_at_least_its_ttl_and_ends_when_quiet")],
    },
    Guard {
        name: "holder-of-a-lease-that-has-begun",
        file: "crates/pool-core/src/pool.rs",
        edits: &[(
            "let holder_is_gone = has_begun &&",
            "let holder_is_gone = (has_begun || true) &&",
        )],
        tests: &[it(CORE, "pauses::no_live_lease_ends_whatever_happens_between_two_steps")],
    },
];
