//! The guards.

use super::Guard;
use crate::named::{it, unit};

const CLI: &str = "pool-cli";
const CORE: &str = "pool-core";
const GIT: &str = "git-backend";
const CACHE: &str = "cache-share";

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "registration-lock",
        file: "crates/git-backend/src/registration.rs",
        edits: &[(
            "Err(TryLockError::WouldBlock) => {}",
            "Err(TryLockError::WouldBlock) => return Ok(Ok(())),",
        )],
        tests: &[
            it(GIT, "guards::nobody_registers_while_another_does"),
            it(CLI, "killed::after_the_intent_and_before_the_registration"),
        ],
    },
    Guard {
        name: "lock-of-all-pools",
        file: "crates/git-backend/src/registration.rs",
        edits: &[(
            "match lock(&shared, &site.common_dir, interrupt, LOCK_PATIENCE)? {",
            "match Ok::<(), io::Error>(()) {",
        )],
        tests: &[it(GIT, "guards::nobody_registers_while_another_pool_does")],
    },
    Guard {
        name: "heads-of-other-pools",
        file: "crates/git-backend/src/site.rs",
        edits: &[(" && !is_of_a_pool(dot_git)", "")],
        tests: &[it(GIT, "adversary::a_commit_that_only_two_pools_have_checked_out")],
    },
    Guard {
        name: "own-configuration",
        file: "crates/git-backend/src/site.rs",
        edits: &[("for section in own {", "for section in own.into_iter().take(0) {")],
        tests: &[it(GIT, "malice::configuration_of_a_worktree_that_hides_changes")],
    },
    Guard {
        name: "no-upstream",
        file: "crates/git-backend/src/branch.rs",
        edits: &[(
            "    set_head(&slot_repo, Target::Symbolic(full))\n}",
            "    let key = format!(\"branch.{}.remote\", branch.name);\n    \
             let git = crate::git::Git::in_directory(admin, &site.settings);\n    \
             git.args([\"config\", &key, \".\"]).run()?;\n    \
             set_head(&slot_repo, Target::Symbolic(full))\n}",
        )],
        tests: &[it(GIT, "lifecycle::a_worktree_is_what_the_plan_says_and_stock_git_agrees")],
    },
    Guard {
        name: "git-means-the-slot",
        file: "crates/git-backend/src/own_worktree.rs",
        edits: &[
            ("    if redirection(site, admin, place)? == Redirection::None {", "    if true {"),
            (
                "    let what = match redirection(site, admin, place)? {",
                "    let what = match Redirection::None {",
            ),
        ],
        tests: &[
            it(GIT, "own_worktree::git_in_a_slot_means_the_slot"),
            it(GIT, "own_worktree::git_in_a_slot_of_a_submodule_means_the_slot"),
        ],
    },
    Guard {
        name: "main-worktree-of-a-separate-git-directory",
        file: "crates/git-backend/src/repository.rs",
        edits: &[(
            "derived.clone().or_else(|| worktree.clone().filter(|_| !is_linked))",
            "derived.clone()",
        )],
        tests: &[it(GIT, "own_worktree::branch_of_a_main_worktree_is_never_leased")],
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
        edits: &[("self.unoccupied(slot).map_err(|e| Trouble::Unusable(e.to_string()))?;", "")],
        tests: &[it(CORE, "pool::a_free_slot_in_which_somebody_stands_is_not_given_away")],
    },
    Guard {
        name: "directory-veto-of-ending",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[("Vital::Gone => match occupant {", "Vital::Gone => match None::<&String> {")],
        tests: &[it(CORE, "scheduler::a_dead_holder_ends_it_unless_somebody_stands_there")],
    },
    Guard {
        name: "rescue",
        file: "crates/pool-core/src/isolator.rs",
        edits: &[(
            "        if inspection.losses.is_empty() {\n            Ok(Self {",
            "        if true {\n            Ok(Self {",
        )],
        tests: &[
            it(CORE, "pool::a_dead_holder_is_found_and_its_work_saved"),
            it(CLI, "run::a_killed_holder_loses_nothing"),
        ],
    },
    Guard {
        name: "quarantine",
        file: "crates/pool-core/src/pool/release.rs",
        edits: &[(
            "Err(error) => self.keep(slot, &error.to_string()).await,",
            "Err(_) => self.gone(slot).await,",
        )],
        tests: &[it(CORE, "pool::what_cannot_be_saved_is_kept_until_it_can")],
    },
    Guard {
        name: "second-look",
        file: "crates/git-backend/src/aside.rs",
        edits: &[("Ok(true) => Ok(Some(aside)),", "Ok(_) => Ok(Some(aside)),")],
        tests: &[it(GIT, "adversary::what_is_written_after_the_look_stops_the_removal")],
    },
    Guard {
        name: "look-after-saving",
        file: "crates/git-backend/src/rescue/write.rs",
        edits: &[(
            "        if again.fingerprint != saved.fingerprint\n            \
             || again.inspection.losses != saved.inspection.losses\n        {",
            "        if false {",
        )],
        tests: &[it(GIT, "guards::what_is_written_while_it_is_saved_is_saved_too")],
    },
    Guard {
        name: "no-follow-looking",
        file: "crates/git-backend/src/trash/unix.rs",
        edits: &[(
            "let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;",
            "let found = rustix::fs::statat(dir, name, AtFlags::empty())?;",
        )],
        tests: &[it(
            GIT,
            "trash::trash_is_deleted_without_following_links_and_read_only_directories_are_no_obstacle",
        )],
    },
    Guard {
        name: "no-follow-opening",
        file: "crates/git-backend/src/trash/unix.rs",
        edits: &[(
            "OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(",
            "OFlags::DIRECTORY).union(",
        )],
        tests: &[
            unit(
                GIT,
                "trash::delete::tests::a_link_where_a_directory_was_is_neither_opened_nor_made_readable",
            ),
            it(GIT, "deletion::a_directory_swapped_for_a_link_while_it_is_deleted_leads_nowhere"),
        ],
    },
    Guard {
        // The system's own refusal to remove what something is mounted on is part of it.
        name: "device-boundary",
        file: "crates/git-backend/src/trash/unix.rs",
        edits: &[
            ("if found.st_dev != self.device {", "if false {"),
            ("if rustix::fs::fstat(&child)?.st_dev != self.device {", "if false {"),
            (
                "Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS | Errno::PERM) => {}",
                "Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS | Errno::PERM | Errno::BUSY) => {}",
            ),
        ],
        tests: &[it(GIT, "deletion::what_is_mounted_inside_stays_as_it_is")],
    },
    Guard {
        name: "mount-is-no-work-of-ours",
        file: "crates/git-backend/src/inspect/walk.rs",
        edits: &[("if mounts.contains(&full) || os::device(&meta) != device {", "if false {")],
        tests: &[it(GIT, "deletion::a_slot_in_which_something_is_mounted_is_kept")],
    },
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
        name: "generations-grow",
        file: "crates/pool-core/src/scheduler.rs",
        edits: &[("            self.generation = self.generation.next();\n", "")],
        tests: &[
            it(CORE, "scheduler::the_invariants_hold_after_each_step"),
            it(CLI, "faults::records_that_are_lost_are_made_again"),
        ],
    },
    Guard {
        name: "generations-grow-after-loss",
        file: "crates/pool-core/src/store/sqlite/sidecar.rs",
        edits: &[("generation: Generation(reserved.generation),", "generation: Generation(0),")],
        tests: &[
            it(CORE, "sqlite::any_state::any_state_survives_storing_and_rebuilding"),
            it(CORE, "sqlite::damage::a_deleted_database_is_rebuilt"),
        ],
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
        name: "quiet",
        file: "crates/pool-core/src/ttl.rs",
        edits: &[(
            "None if facts.quiet.get(&slot) == Some(&true) => {",
            "None if !past_ttl || past_ttl => {",
        )],
        tests: &[it(CORE, "scheduler::a_lease_lasts_at_least_its_ttl_and_ends_when_quiet")],
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
        name: "turn-of-the-store",
        file: "crates/pool-core/src/store/sqlite.rs",
        edits: &[("let turn = Lock::turn(&self.layout, self.patience)?;", "let turn = ();")],
        tests: &[it(CORE, "sqlite::sharing::who_gives_up_its_turn_does_not_hold_up_the_next")],
    },
    Guard {
        name: "sidecars-before-commit",
        file: "crates/pool-core/src/store/sqlite.rs",
        edits: &[(
            "        sidecars.publish()?;\n        crate::fail_point!(\"pool-core::store::published\");\n",
            "",
        )],
        tests: &[
            it(CORE, "sqlite::disk::each_slot_has_a_sidecar_as_long_as_it_exists"),
            it(CORE, "sqlite::any_state::any_state_survives_storing_and_rebuilding"),
        ],
    },
    Guard {
        name: "identity-before-removal",
        file: "crates/git-backend/src/dispose.rs",
        edits: &[(
            "Place::Foreign(what) => return Err(foreign(&place, &what)),",
            "Place::Foreign(_) => {\n                bin.put(&place)?;\n                None\n            }",
        )],
        tests: &[it(GIT, "foreign::a_foreign_repository_in_a_slot_stays_untouched")],
    },
    Guard {
        name: "boot-clock-of-the-machine",
        file: "crates/pool-core/src/time.rs",
        edits: &[("    found.unwrap_or_default()\n", "    found.unwrap_or_default() * 0\n")],
        tests: &[it(CLI, "others::a_boot_clock_of_its_own_ends_nobodys_lease")],
    },
    Guard {
        name: "own-files-are-no-links",
        file: "crates/pool-core/src/plain.rs",
        edits: &[("(OFlags::NONBLOCK | OFlags::NOFOLLOW)", "(OFlags::NONBLOCK | OFlags::CLOEXEC)")],
        tests: &[it(CLI, "malice::the_pools_own_files_are_plain_ones")],
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
    Guard {
        name: "holder-of-a-lease-that-has-begun",
        file: "crates/pool-core/src/pool.rs",
        edits: &[(
            "let holder_is_gone = has_begun &&",
            "let holder_is_gone = (has_begun || true) &&",
        )],
        tests: &[it(CORE, "pauses::no_live_lease_ends_whatever_happens_between_two_steps")],
    },
    Guard {
        name: "directory-veto-after-the-last-look",
        file: "crates/pool-core/src/pool/ready.rs",
        edits: &[("proof.watched_by(self.liveness.clone())", "{ let _ = &self.liveness; proof }")],
        tests: &[it(CORE, "pauses::no_live_lease_ends_whatever_happens_between_two_steps")],
    },
    Guard {
        name: "base-that-is-used-by-now",
        file: "crates/cache-share/src/base.rs",
        edits: &[("if is_used() { self.stay() }", "if is_used() && false { self.stay() }")],
        tests: &[unit(CACHE, "base::tests::base_that_a_slot_takes_while_it_is_removed_stays")],
    },
    Guard {
        name: "marks-of-others",
        file: "crates/git-backend/src/rescue/objects.rs",
        edits: &[("read.is_ok() && begin == mark.as_bytes()", "read.is_ok()")],
        tests: &[unit(GIT, "rescue::objects::tests::only_marks_of_a_slots_own_are_taken_back")],
    },
    Guard {
        name: "identity-by-repository",
        file: "crates/git-backend/src/site.rs",
        edits: &[("if admin.parent() != Some(&self.worktrees_dir()) {", "if false {")],
        tests: &[
            it(GIT, "guards::a_pruned_worktree_of_another_repository_is_foreign"),
            it(GIT, "guards::a_worktree_whose_files_of_git_are_elsewhere_is_foreign"),
        ],
    },
    Guard {
        name: "identity-both-ways",
        file: "crates/git-backend/src/site.rs",
        edits: &[(
            "Ok(back) if resolved(&admin.join(&back)) == dot_git => {",
            "Ok(back) if back.is_absolute() || resolved(&admin.join(&back)) == dot_git => {",
        )],
        tests: &[it(GIT, "guards::a_worktree_that_is_registered_elsewhere_is_foreign")],
    },
    Guard {
        name: "pool-in-a-worktree",
        file: "crates/git-backend/src/site.rs",
        edits: &[("match site.around()? {", "match site.around()?.filter(|_| false) {")],
        tests: &[it(CLI, "repository::a_pool_inside_a_worktree_is_refused")],
    },
    Guard {
        name: "lock-of-somebody-else",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[(
            "            if attempts == 0 {\n",
            "            if attempts == 0 {\n                let _ = fs::remove_file(&lock);\n",
        )],
        tests: &[it(GIT, "foreign::a_lock_of_somebody_else_is_waited_for_and_never_removed")],
    },
    Guard {
        name: "branch-unmoved",
        file: "crates/git-backend/src/branch.rs",
        edits: &[
            (
                "found.is_some_and(|found| found.target().try_id() == Some(&*base))",
                "found.is_some()",
            ),
            (
                "references::delete(site, &full.as_bstr().to_string(), base)",
                "references::delete(site, &full.as_bstr().to_string(), \
                 repo.find_reference(&full).expect(\"there\").id().detach())",
            ),
        ],
        tests: &[it(GIT, "guards::a_branch_that_moved_after_the_look_stays")],
    },
    Guard {
        name: "packed-while-read",
        file: "crates/git-backend/src/references.rs",
        edits: &[("if !vanished || attempt == ATTEMPTS {", "if !vanished || attempt > 0 {")],
        tests: &[unit(GIT, "references::tests::one_whose_file_goes_while_it_is_read_is_found")],
    },
    Guard {
        name: "locked-while-aside",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[("name == registration::LOCK || ", "")],
        tests: &[it(GIT, "adversary::a_prune_during_a_reset_takes_nothing")],
    },
    Guard {
        name: "branch-in-use",
        file: "crates/git-backend/src/branch.rs",
        edits: &[(
            "if !is_unmoved()? || occupant(site, &full, None)?.is_some() {",
            "if !is_unmoved()? {",
        )],
        tests: &[it(GIT, "lifecycle::only_an_unmoved_branch_that_the_pool_made_goes_away")],
    },
    Guard {
        name: "branch-last-to-reach",
        file: "crates/git-backend/src/branch.rs",
        edits: &[(
            "!(keep && is_plans) && is_reached_otherwise(site, name, base)?",
            "!(keep && is_plans)",
        )],
        tests: &[it(GIT, "adversary::two_branches_that_keep_one_commit_do_not_both_go")],
    },
    Guard {
        name: "symbolic-references",
        file: "crates/git-backend/src/inspect/commits.rs",
        edits: &[("reference.target().try_id().is_none()", "false")],
        tests: &[it(GIT, "adversary::a_symbolic_reference_keeps_no_commit")],
    },
    Guard {
        name: "conversions-byte-for-byte",
        file: "crates/git-backend/src/rescue/write.rs",
        edits: &[(
            "if conversions::are_only_gits(&survey.repo, &survey.index, &site.settings)",
            "if false",
        )],
        tests: &[it(GIT, "filters::encodings_are_as_git_writes_them")],
    },
    Guard {
        name: "half-made-marker",
        file: "crates/git-backend/src/site.rs",
        edits: &[("fs::symlink_metadata(self.making_marker(slot)).is_ok()", "slot.0 == 0")],
        tests: &[
            it(GIT, "lifecycle::a_half_made_slot_is_seen_and_disposed_of"),
            it(CLI, "killed::in_the_middle_of_the_checkout"),
        ],
    },
    Guard {
        name: "variables-of-git",
        file: "crates/git-backend/src/git.rs",
        edits: &[("if name.as_encoded_bytes().starts_with(b\"GIT_\") {", "if name.is_empty() {")],
        tests: &[it(GIT, "guards::variables_of_git_do_not_reach_the_pools_own_git")],
    },
    Guard {
        name: "dropped-work-is-resumed",
        file: "crates/pool-core/src/pool/orphans.rs",
        edits: &[("self.inner.orphans().extend(self.orphan.take());", "drop(self.orphan.take());")],
        tests: &[it(CORE, "pool::a_reconciliation_that_was_dropped_is_resumed_by_the_next")],
    },
    Guard {
        name: "programs-of-ones-own",
        file: "crates/cache-share/src/seed.rs",
        edits: &[(
            ".filter(|file| is_final(&file.path));",
            ".filter(|file| is_final(&file.path) && false);",
        )],
        tests: &[it(CACHE, "audit::the_base_never_changes")],
    },
    Guard {
        name: "copies-of-what-is-written-in-place",
        file: "crates/cache-share/src/seed.rs",
        edits: &[(
            "None => files::copy(&source, &target, file.modified),",
            "None => files::share(&source, &target, file.modified),",
        )],
        tests: &[it(CACHE, "audit::the_base_never_changes")],
    },
    Guard {
        name: "records-of-another-directory",
        file: "crates/pool-core/src/pool/origin.rs",
        edits: &[("check_records(&*store, dir)?;", "")],
        tests: &[
            it(CORE, "sqlite::origin::records_in_memory_over_a_pool_on_disk_are_refused"),
            it(CORE, "sqlite::origin::records_elsewhere_than_the_workspaces_are_refused"),
            it(CLI, "host::host_with_records_in_memory_and_program_refuse_each_other"),
        ],
    },
    Guard {
        name: "records-on-disk-found",
        file: "crates/pool-core/src/store/sharing.rs",
        edits: &[(
            "if let Some(records) = records_on_disk(&dir)? {",
            "if let Some(records) = records_on_disk(&dir)?.filter(|_| false) {",
        )],
        tests: &[
            it(CORE, "sqlite::origin::records_in_memory_over_a_pool_on_disk_are_refused"),
            it(CLI, "host::host_with_records_in_memory_and_program_refuse_each_other"),
        ],
    },
    Guard {
        name: "records-in-memory-alone",
        file: "crates/pool-core/src/store/sqlite.rs",
        edits: &[(
            "let sharing = Sharing::on_disk(layout.directory())?;",
            "let sharing = Sharing::on_disk(&std::env::temp_dir())?;",
        )],
        tests: &[
            it(CORE, "sqlite::origin::records_in_memory_keep_all_others_away_while_they_live"),
            it(CLI, "host::host_with_records_in_memory_and_program_refuse_each_other"),
        ],
    },
    Guard {
        name: "claims-of-another-directory",
        file: "crates/pool-core/src/pool/origin.rs",
        edits: &[("check_claims(&*given, &shared, records)?;", "let _ = check_claims;")],
        tests: &[it(CORE, "sqlite::origin::claims_elsewhere_than_those_of_others_are_refused")],
    },
    Guard {
        name: "pool-on-disk-by-default",
        file: "crates/pool-core/src/pool/origin.rs",
        edits: &[(
            "(None, Some(dir)) => on_disk(dir)?,",
            "(None, Some(dir)) => { let _ = on_disk(dir)?; Arc::new(MemoryStore::new()) }",
        )],
        tests: &[
            it(CORE, "sqlite::origin::shortest_way_to_open_shares_the_pool_on_disk"),
            it(CLI, "host::host_and_program_end_neither_the_others_leases"),
        ],
    },
    Guard {
        name: "owner-of-the-pool",
        file: "crates/git-backend/src/isolator.rs",
        edits: &[("owner::check(&site.pool_dir, repository)?;", "")],
        tests: &[it(CLI, "host::host_of_another_repository_is_refused")],
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
];
