//! What protects the repository, its branches and the user's own worktrees.

use super::{CLI, GIT};
use crate::mutants::Guard;
use crate::named::{it, unit};

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
        name: "source-is-no-slot",
        file: "crates/git-backend/src/source.rs",
        edits: &[(
            "if is_in_a_pool(pool_dir, &path) {",
            "if false && is_in_a_pool(pool_dir, &path) {",
        )],
        tests: &[it(GIT, "source::slot_is_never_the_source")],
    },
    Guard {
        name: "git-means-the-slot",
        file: "crates/git-backend/src/own_worktree.rs",
        edits: &[
            (
                "    let mut is_changed = false;",
                "    if true {\n        \
                 return Ok(false);\n    }\n    let mut is_changed = false;",
            ),
            (
                "    let (key, value, origin) = match redirection(site, admin, place)? {",
                "    let (key, value, origin) = match Redirection::None {",
            ),
        ],
        tests: &[
            it(GIT, "own_worktree::git_in_a_slot_means_the_slot"),
            it(GIT, "own_worktree::git_in_a_slot_of_a_submodule_means_the_slot"),
            it(GIT, "others_layouts::whole_life_in::core_worktree_for_all"),
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
        name: "pool-in-a-worktree",
        file: "crates/git-backend/src/site.rs",
        edits: &[("match site.around()? {", "match site.around()?.filter(|_| false) {")],
        tests: &[it(CLI, "repository::a_pool_inside_a_worktree_is_refused")],
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
        name: "branch-in-use",
        file: "crates/git-backend/src/branch.rs",
        edits: &[(
            "if !is_unmoved()? || occupant(site, &full, None)?.is_some() {",
            "if !is_unmoved()? {",
        )],
        tests: &[it(GIT, "lifecycle::only_an_unmoved_branch_that_the_pool_made_goes_away")],
    },
    Guard {
        name: "variables-of-git",
        file: "crates/git-backend/src/git.rs",
        edits: &[("if name.as_encoded_bytes().starts_with(b\"GIT_\") {", "if name.is_empty() {")],
        tests: &[it(GIT, "guards::variables_of_git_do_not_reach_the_pools_own_git")],
    },
    Guard {
        name: "pool-of-a-copy",
        file: "crates/git-backend/src/owner/standing.rs",
        edits: &[("if !is_at_its_path && !is_led_to && !is_gone(&owner_now) {", "if false {")],
        tests: &[it(CLI, "moved::copy_of_a_repository_gets_no_lease_of_the_original")],
    },
    Guard {
        name: "pool-of-the-repository-before",
        file: "crates/git-backend/src/owner/standing.rs",
        edits: &[("if !is_empty()? && !has_links()? {", "if false {")],
        tests: &[it(CLI, "moved::repository_made_at_the_old_path_gets_no_lease_of_the_one_before")],
    },
    Guard {
        name: "copy-of-a-pool",
        file: "crates/git-backend/src/owner/standing.rs",
        edits: &[("match is_there && !is_same(original, pool_dir) {", "match false {")],
        tests: &[it(CLI, "moved::pool_that_is_moved_by_hand_is_found")],
    },
    Guard {
        name: "identity-of-a-moved-repository",
        file: "crates/git-backend/src/owner/standing.rs",
        edits: &[("if !memory.is_of(identity) {", "if false {")],
        tests: &[it(CLI, "moved::repository_on_another_filesystem_adopts_its_pool")],
    },
    Guard {
        name: "interrupted-take-over",
        file: "crates/git-backend/src/owner/standing.rs",
        edits: &[(
            "if is_at_its_path && (!was_moved && !is_between || is_empty()?) {",
            "if is_at_its_path && (!was_moved || is_empty()?) {",
        )],
        tests: &[it(
            GIT,
            "moved::interrupted_take_over_is_finished_wherever_the_repository_is_then",
        )],
    },
    Guard {
        name: "replaced-repository",
        file: "crates/git-backend/src/registration.rs",
        edits: &[("    site.check_in_place()?;\n", "")],
        tests: &[it(GIT, "moved::repository_that_is_replaced_under_a_process_is_not_worked_on")],
    },
    Guard {
        name: "branch-of-a-remote",
        file: "crates/git-backend/src/branch/remote.rs",
        edits: &[(
            "if let Some(one) = found.pop() {",
            "if let Some(one) = found.pop().filter(|_| false) {",
        )],
        tests: &[it(GIT, "branches::remote_branch_is_continued_as_git_worktree_add_does")],
    },
    Guard {
        name: "branch-of-several-remotes",
        file: "crates/git-backend/src/branch/remote.rs",
        edits: &[(
            "    if found.len() > 1 {\n        if let Some",
            "    if false {\n        if let Some",
        )],
        tests: &[it(GIT, "branches::branch_of_several_remotes_is_chosen_or_refused")],
    },
    Guard {
        name: "qualified-branch",
        file: "crates/git-backend/src/branch/remote.rs",
        edits: &[
            (
                "let Some(branch) = short.strip_prefix(&format!(\"{remote}/\")) else { continue };",
                "let Some(branch) = short.strip_prefix(&format!(\"{remote}/\")).filter(|_| false) \
                 else { continue };",
            ),
            (
                "if is_there(repo, &format!(\"refs/remotes/{short}\"))? {",
                "if is_there(repo, &format!(\"refs/remotes/{short}\"))? && false {",
            ),
        ],
        tests: &[it(GIT, "branches::qualified_names_make_no_branch")],
    },
    Guard {
        name: "branch-in-the-way",
        file: "crates/git-backend/src/branch.rs",
        edits: &[
            ("in name.match_indices('/') {", "in name.match_indices('/').take(0) {"),
            ("    Ok(below.min())\n", "    Ok(below.min().filter(|_| false))\n"),
        ],
        tests: &[it(GIT, "branches::branches_in_the_way_are_named_and_avoided")],
    },
];
