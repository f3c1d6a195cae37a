//! What keeps work: rescues, quarantine, and commits that only a worktree reaches.

use super::{CLI, CORE, GIT};
use crate::mutants::Guard;
use crate::named::{it, unit};

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "nested-worktrees-are-looked-at",
        file: "crates/git-backend/src/inspect.rs",
        edits: &[(
            "    for one in &all {\n        found.push",
            "    for one in all.iter().take(0) {\n        found.push",
        )],
        tests: &[it(GIT, "nested::work_in_nested_worktree_is_rescued_with_its_head_and_index")],
    },
    Guard {
        name: "locked-nested-worktrees-stay",
        file: "crates/git-backend/src/nested.rs",
        edits: &[("(!is_of_pool).then_some(reason)", "(!is_of_pool && false).then_some(reason)")],
        tests: &[it(GIT, "nested::locked_nested_worktree_is_kept_until_it_is_unlocked")],
    },
    Guard {
        name: "misplaced-worktrees-are-searched",
        file: "crates/git-backend/src/nested/misplaced.rs",
        edits: &[("self.doubtful.contains(name) && is_of_worktrees", "false")],
        tests: &[it(GIT, "nested::worktree_that_its_registration_does_not_lead_to_keeps_the_slot")],
    },
    Guard {
        name: "pruned-worktrees-are-searched",
        file: "crates/git-backend/src/nested/misplaced.rs",
        edits: &[("let mut pending = vec![own_dir.clone()];", "let mut pending = Vec::new();")],
        tests: &[it(GIT, "nested::worktree_whose_registration_was_pruned_keeps_the_slot")],
    },
    Guard {
        name: "nested-worktrees-in-other-slots",
        file: "crates/git-backend/src/nested/misplaced.rs",
        edits: &[("if !gone.is_empty() {", "if false {")],
        tests: &[it(GIT, "nested::worktree_that_was_moved_to_another_slot_keeps_both")],
    },
    Guard {
        name: "nested-worktrees-of-this-slot-only",
        file: "crates/git-backend/src/nested.rs",
        edits: &[(
            "root.starts_with(&dir) && root != dir",
            "root.starts_with(site.slots_dir()) && root != dir",
        )],
        tests: &[it(GIT, "nested::worktrees_elsewhere_keep_their_registration")],
    },
    Guard {
        name: "mark-of-half-made-slots-has-content",
        file: "crates/git-backend/src/site.rs",
        edits: &[(
            "opened.is_ok_and(|mut file| file.read_exact(&mut begun).is_ok()) && begun == *MAKING",
            "let _ = opened.map(|mut file| file.read_exact(&mut begun));\n        self.making_marker(slot).exists()",
        )],
        tests: &[it(GIT, "nested::what_an_agent_calls_making_is_no_mark")],
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
        name: "look-after-saving",
        file: "crates/git-backend/src/rescue/write.rs",
        edits: &[
            (
                "if !again.trees.iter().all(is_saved) {",
                "if false && !again.trees.iter().all(is_saved) {",
            ),
            (
                "    if !found\n        .is_some_and(|found| found.fingerprint",
                "    if false && !found\n        .is_some_and(|found| found.fingerprint",
            ),
        ],
        tests: &[it(GIT, "guards::what_is_written_while_it_is_saved_is_saved_too")],
    },
    Guard {
        name: "marks-of-others",
        file: "crates/git-backend/src/rescue/objects.rs",
        edits: &[("read.is_ok() && begin == mark.as_bytes()", "read.is_ok()")],
        tests: &[unit(GIT, "rescue::objects::tests::only_marks_of_a_slots_own_are_taken_back")],
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
        name: "heads-of-other-pools",
        file: "crates/git-backend/src/site.rs",
        edits: &[(" && !is_of_a_pool(dot_git)", "")],
        tests: &[it(GIT, "adversary::a_commit_that_only_two_pools_have_checked_out")],
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
        name: "worktrees-of-submodules",
        file: "crates/git-backend/src/inspect/modules.rs",
        edits: &[("if let Some(why) = worktree(site, &admin)? {", "if let Some(why) = None {")],
        tests: &[it(GIT, "submodules::with_a_home_that_permits_local_submodules")],
    },
    Guard {
        name: "submodules-without-trees",
        file: "crates/git-backend/src/inspect/modules.rs",
        edits: &[("    all.retain(|dir| !seen.contains(dir));", "    all.clear();")],
        tests: &[it(GIT, "submodules::with_a_home_that_permits_local_submodules")],
    },
    Guard {
        name: "slots-with-others",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[("    nested::check_alone(site, plan.slot)?;\n", "")],
        tests: &[it(CLI, "repository::slot_with_files_beside_its_worktree_is_not_used_again")],
    },
];
