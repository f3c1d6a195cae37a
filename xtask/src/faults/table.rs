//! The table itself.

use super::{Case, Fault};
use crate::named::{it, unit};

const CLI: &str = "pool-cli";
const CORE: &str = "pool-core";
const GIT: &str = "git-backend";
const CACHE: &str = "cache-share";

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        fault: "`kill -9` when a lease is intended and nothing is registered yet",
        expected: "its slot is taken back",
        cases: &[Case {
            what: "before the registration",
            tests: &[it(CLI, "killed::after_the_intent_and_before_the_registration")],
        }],
    },
    Fault {
        fault: "`kill -9` in the middle of making a worktree",
        expected: "it is never handed out; it is made anew; the pool's own branch goes if it has not moved",
        cases: &[
            Case {
                what: "during the registration",
                tests: &[
                    it(GIT, "lifecycle::a_half_made_slot_is_seen_and_disposed_of"),
                    it(GIT, "conformance::plain::provision_dropped_at_each_await"),
                ],
            },
            Case {
                what: "during the checkout",
                tests: &[it(CLI, "killed::in_the_middle_of_the_checkout")],
            },
            Case {
                what: "the branch is somebody's by now",
                tests: &[
                    it(GIT, "lifecycle::only_an_unmoved_branch_that_the_pool_made_goes_away"),
                    it(
                        GIT,
                        "lifecycle::a_branch_that_appears_between_plan_and_deed_is_not_ours_to_delete",
                    ),
                ],
            },
        ],
    },
    Fault {
        fault: "`kill -9` when the worktree stands and the lease is not recorded",
        expected: "the worktree is removed, or taken in",
        cases: &[Case {
            what: "before the commit",
            tests: &[it(CLI, "killed::after_the_checkout_and_before_it_is_recorded")],
        }],
    },
    Fault {
        fault: "`kill -9` while work is being saved",
        expected: "it is saved again; nothing is removed before",
        cases: &[Case {
            what: "in the middle of it",
            tests: &[
                it(CLI, "killed::while_it_saves_what_is_there"),
                unit(GIT, "rescue::objects::tests::half_a_pack_is_taken_back"),
            ],
        }],
    },
    Fault {
        fault: "`kill -9` while a rescue is restored",
        expected: "the rescue is still there, and nobody takes the half for the whole",
        cases: &[
            Case {
                what: "into a lease",
                tests: &[it(CLI, "killed::in_the_middle_of_restoring_into_a_lease")],
            },
            Case {
                what: "into a directory",
                tests: &[it(GIT, "strangers::nobody_sees_a_registration_half_made")],
            },
        ],
    },
    Fault {
        fault: "`kill -9` when a tree is in the trash and not deleted",
        expected: "the deletion goes on",
        cases: &[
            Case {
                what: "before it began, and in the middle of it",
                tests: &[it(CLI, "killed::between_the_trash_and_the_deletion")],
            },
            Case {
                what: "while the tree is set aside",
                tests: &[it(GIT, "adversary::a_tree_set_aside_by_somebody_who_died_comes_back")],
            },
        ],
    },
    Fault {
        fault: "an agent is killed with work in its tree",
        expected: "its work is saved and the slot reused; when it can't be saved, the slot is kept as it is",
        cases: &[
            Case {
                what: "it can be saved",
                tests: &[it(CLI, "run::a_killed_holder_loses_nothing")],
            },
            Case {
                what: "it can't",
                tests: &[
                    it(CORE, "pool::what_cannot_be_saved_is_kept_until_it_can"),
                    it(GIT, "rescue::what_cannot_be_saved_is_kept_and_named"),
                ],
            },
        ],
    },
    Fault {
        fault: "part of a lease's processes is killed",
        expected: "the lease is held as long as any of them lives",
        cases: &[
            Case {
                what: "the agent, not its child",
                tests: &[it(CLI, "run::a_surviving_grandchild_keeps_the_lease")],
            },
            Case {
                what: "`wtpool run`, not the agent",
                tests: &[it(CLI, "run::a_killed_wtpool_leaves_the_lease_to_its_command")],
            },
            Case {
                what: "a process's first thread",
                tests: &[it(
                    CORE,
                    "liveness::children::a_process_lives_as_long_as_any_of_its_threads",
                )],
            },
        ],
    },
    Fault {
        fault: "it can't be seen who stands in a slot",
        expected: "it is kept until that is known",
        cases: &[
            Case {
                what: "no `/proc`, or an empty one",
                tests: &[it(
                    CLI,
                    "others::where_processes_cannot_be_seen_nobodys_ground_is_taken_away",
                )],
            },
            Case {
                what: "it is mounted elsewhere for whoever stands there",
                tests: &[it(
                    CORE,
                    "liveness::children::who_stands_in_a_directory_that_is_mounted_elsewhere_is_found",
                )],
            },
        ],
    },
    Fault {
        fault: "a holder stops past its TTL, and goes on later",
        expected: "what it writes lands in a slot that is kept for it, never in another's",
        cases: &[
            Case {
                what: "it stands in its slot",
                tests: &[it(
                    CLI,
                    "others::a_holder_that_stopped_past_its_ttl_writes_where_it_stood",
                )],
            },
            Case {
                what: "it stands elsewhere, and owns the lease",
                tests: &[it(CLI, "others::an_owner_that_stopped_is_alive")],
            },
        ],
    },
    Fault {
        fault: "ids and clocks that mislead",
        expected: "start time and boot tell processes apart; deadlines are on the boot clock, and start again after a reboot",
        cases: &[
            Case {
                what: "a process id is used again",
                tests: &[it(CORE, "liveness::this_process_runs")],
            },
            Case {
                what: "a reboot",
                tests: &[
                    it(CORE, "liveness::a_process_of_another_boot_is_gone"),
                    it(CORE, "scheduler::a_reboot_starts_a_ttl_again"),
                ],
            },
            Case {
                what: "the wall clock is set by a day",
                tests: &[it(CORE, "pool::a_wall_clock_that_is_set_ends_no_lease_sooner_or_later")],
            },
            Case {
                what: "the machine is suspended",
                tests: &[it(CLI, "others::a_machine_that_was_suspended_counts_that_time")],
            },
            Case {
                what: "a container has ids of its own",
                tests: &[
                    it(
                        CLI,
                        "others::an_owner_that_cannot_be_seen_from_a_container_is_not_taken_for_dead",
                    ),
                    it(CORE, "liveness::whether_a_process_of_another_container_runs_is_unknown"),
                ],
            },
            Case {
                what: "a container has a boot clock of its own",
                tests: &[it(CLI, "others::a_boot_clock_of_its_own_ends_nobodys_lease")],
            },
        ],
    },
    Fault {
        fault: "a token that is not valid any more",
        expected: "a stale one is refused and changes nothing; giving back twice is the same as once",
        cases: &[
            Case {
                what: "it renews or releases",
                tests: &[
                    it(
                        CORE,
                        "pool::giving_back_twice_reports_the_same_and_a_stale_token_is_refused",
                    ),
                    it(CLI, "lease::unknown_and_stale_leases"),
                ],
            },
            Case {
                what: "it releases twice",
                tests: &[it(
                    CORE,
                    "pool::giving_back_twice_reports_the_same_and_a_stale_token_is_refused",
                )],
            },
        ],
    },
    Fault {
        fault: "work that `git status` shows little of",
        expected: "it is in a rescue, or the slot is kept",
        cases: &[
            Case {
                what: "commits on no branch",
                tests: &[
                    it(GIT, "rescue::detached_commits_and_those_reset_away_come_back"),
                    it(CLI, "rescue::commits_without_a_branch_are_saved"),
                ],
            },
            Case {
                what: "staged and nowhere else",
                tests: &[
                    it(GIT, "inspect::changes_of_every_kind_are_counted"),
                    it(GIT, "rescue::a_dirty_tree_comes_back_byte_for_byte"),
                ],
            },
            Case {
                what: "conflicts",
                tests: &[it(GIT, "rescue::conflicts_come_back_with_all_their_stages")],
            },
            Case {
                what: "in the middle of a rebase",
                tests: &[it(GIT, "rescue::a_rebase_goes_on_after_the_restore")],
            },
            Case {
                what: "in the middle of a merge or a bisection, and every other shape",
                tests: &[
                    it(GIT, "inspect::operations_in_progress_are_named"),
                    it(GIT, "conformance::every_shape_is_saved_whole_or_kept"),
                ],
            },
        ],
    },
    Fault {
        fault: "a submodule",
        expected: "the slot is kept, unless all that is in it is elsewhere",
        cases: &[
            Case {
                what: "changes or commits in it",
                tests: &[it(GIT, "inspect::submodules_are_kept_unless_all_of_them_is_elsewhere")],
            },
            Case {
                what: "checked out by the pool",
                tests: &[it(GIT, "submodules::with_a_home_that_permits_local_submodules")],
            },
        ],
    },
    Fault {
        fault: "ways out of a tree that is being deleted",
        expected: "a link goes and what it leads to stays; deleting stops where something is mounted",
        cases: &[
            Case {
                what: "a link to elsewhere",
                tests: &[
                    it(
                        GIT,
                        "trash::trash_is_deleted_without_following_links_and_read_only_directories_are_no_obstacle",
                    ),
                    it(GIT, "inspect::links_are_not_followed"),
                    it(GIT, "foreign::a_slot_that_is_a_link_to_elsewhere_is_foreign"),
                ],
            },
            Case {
                what: "a directory swapped for a link meanwhile",
                tests: &[
                    it(
                        GIT,
                        "deletion::a_directory_swapped_for_a_link_while_it_is_deleted_leads_nowhere",
                    ),
                    unit(
                        CORE,
                        "handles::tests::a_link_where_a_directory_was_is_neither_opened_nor_made_readable",
                    ),
                ],
            },
            Case {
                what: "something mounted inside",
                tests: &[
                    it(GIT, "deletion::what_is_mounted_inside_stays_as_it_is"),
                    it(GIT, "deletion::a_slot_in_which_something_is_mounted_is_kept"),
                ],
            },
        ],
    },
    Fault {
        fault: "names that are none",
        expected: "refused, and nothing changes",
        cases: &[
            Case {
                what: "`../`, absolute, control characters, over-long",
                tests: &[it(CLI, "lease::hostile_names_change_nothing")],
            },
            Case {
                what: "revisions and branches",
                tests: &[it(GIT, "lifecycle::what_a_wish_resolves_to")],
            },
        ],
    },
    Fault {
        fault: "the user does the pool's work by hand",
        expected: "it is noticed, the slot is freed, commits are kept",
        cases: &[
            Case {
                what: "deletes the tree",
                tests: &[
                    it(CLI, "faults::a_worktree_deleted_by_hand_is_noticed"),
                    it(GIT, "conformance::plain::deleted_by_hand_keeps_commits"),
                ],
            },
            Case {
                what: "`git worktree prune`",
                tests: &[
                    it(CLI, "faults::a_worktree_pruned_by_git_is_not_lost"),
                    it(GIT, "foreign::deleted_by_hand_and_pruned_behind_our_back"),
                    it(GIT, "adversary::a_prune_during_a_reset_takes_nothing"),
                ],
            },
            Case {
                what: "`git pack-refs`",
                tests: &[
                    unit(GIT, "references::tests::a_deletion_loses_nothing_that_is_being_packed"),
                    unit(GIT, "references::tests::one_whose_file_goes_while_it_is_read_is_found"),
                    unit(GIT, "inspect::commits::tests::what_is_on_its_way_into_a_pack_is_found"),
                ],
            },
            Case {
                what: "`git gc`",
                tests: &[it(
                    CLI,
                    "others::a_repository_that_is_cleared_of_garbage_keeps_what_leases_and_rescues_hold",
                )],
            },
        ],
    },
    Fault {
        fault: "a lock of git's that somebody left",
        expected: "waited for, not for ever, and never deleted",
        cases: &[
            Case {
                what: "`index.lock` in the worktree",
                tests: &[it(
                    GIT,
                    "foreign::a_lock_of_somebody_else_is_waited_for_and_never_removed",
                )],
            },
            Case {
                what: "`config.lock`, `packed-refs.lock` and others in the repository",
                tests: &[it(CLI, "others::locks_that_others_left_are_waited_for_and_stay")],
            },
        ],
    },
    Fault {
        fault: "the machine has nothing left",
        expected: "an error that says so; the slot can be used again; nothing is lost",
        cases: &[
            Case {
                what: "disk space",
                tests: &[
                    it(CLI, "faults::a_full_disk_fails_one_lease_and_loses_nothing"),
                    it(CLI, "faults::a_disk_that_leases_fill_is_cleared_by_pruning"),
                    it(CACHE, "damage::a_full_disk_while_seeding"),
                ],
            },
            Case {
                what: "descriptors",
                tests: &[it(CLI, "others::few_descriptors_are_an_error_and_lose_nothing")],
            },
            Case {
                what: "a disk that can be written to",
                tests: &[
                    it(CLI, "faults::a_read_only_pool_is_said_to_be_one"),
                    it(CORE, "sqlite::refusal::a_directory_that_cannot_be_written_is_refused"),
                ],
            },
        ],
    },
    Fault {
        fault: "the records are not what they should be",
        expected: "made again from what stands there; those of a newer version are refused and left alone",
        cases: &[
            Case {
                what: "damaged",
                tests: &[
                    it(CORE, "sqlite::damage::garbage_is_moved_aside_and_rebuilt"),
                    it(CORE, "sqlite::damage::a_damaged_page_is_rebuilt"),
                    it(CLI, "faults::records_that_are_lost_are_made_again"),
                ],
            },
            Case {
                what: "deleted",
                tests: &[
                    it(CORE, "sqlite::damage::a_deleted_database_is_rebuilt"),
                    it(CLI, "faults::records_that_are_lost_are_made_again"),
                ],
            },
            Case {
                what: "of a newer version",
                tests: &[
                    it(CORE, "sqlite::refusal::a_newer_database_is_refused_and_left_alone"),
                    it(CORE, "sqlite::refusal::a_newer_sidecar_is_refused_and_left_alone"),
                ],
            },
        ],
    },
    Fault {
        fault: "two who do the same",
        expected: "one works, the other does nothing",
        cases: &[
            Case {
                what: "two reapers",
                tests: &[it(CLI, "others::of_several_reapers_one_watches")],
            },
            Case {
                what: "two reconciliations",
                tests: &[it(CLI, "others::several_who_clean_up_at_once_do_each_thing_once")],
            },
            Case {
                what: "a reconciliation that was held up",
                tests: &[
                    it(CORE, "pool::a_late_reconciliation_takes_no_slot_from_whoever_makes_it"),
                    it(CORE, "pool::a_late_reconciliation_ends_no_lease_that_was_renewed_since"),
                ],
            },
            Case {
                what: "two pools of one repository",
                tests: &[
                    it(GIT, "guards::nobody_registers_while_another_pool_does"),
                    it(GIT, "adversary::a_commit_that_only_two_pools_have_checked_out"),
                ],
            },
            Case {
                what: "a reaper that was stopped",
                tests: &[it(CLI, "others::who_waits_does_not_depend_on_a_reaper_that_stopped")],
            },
        ],
    },
    Fault {
        fault: "something else where a slot should be",
        expected: "the slot is given up, it is said, and what stands there stays untouched",
        cases: &[
            Case {
                what: "a foreign repository",
                tests: &[
                    it(GIT, "foreign::a_foreign_repository_in_a_slot_stays_untouched"),
                    it(
                        CORE,
                        "pool::what_is_not_the_pools_keeps_a_slot_only_as_long_as_it_is_there",
                    ),
                ],
            },
            Case {
                what: "nothing",
                tests: &[
                    it(CORE, "pool::a_deleted_workspace_is_noticed_and_its_slot_freed"),
                    it(GIT, "conformance::plain::a_workspace_deleted_by_hand_is_freed"),
                ],
            },
        ],
    },
];
