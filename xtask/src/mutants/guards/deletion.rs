//! What keeps a removal or a reset from taking what is not the pool's, or was written meanwhile.

use super::{CLI, CORE, GIT};
use crate::mutants::Guard;
use crate::named::{it, unit};

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "second-look",
        file: "crates/git-backend/src/aside.rs",
        edits: &[(
            "Ok(is_as_seen(site, plan)?.then_some(nested))",
            "Ok((is_as_seen(site, plan)? || true).then_some(nested))",
        )],
        tests: &[it(GIT, "adversary::what_is_written_after_the_look_stops_the_removal")],
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
        file: "crates/pool-core/src/handles.rs",
        edits: &[(
            "OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(",
            "OFlags::DIRECTORY).union(",
        )],
        tests: &[
            unit(
                CORE,
                "handles::tests::a_link_where_a_directory_was_is_neither_opened_nor_made_readable",
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
        name: "identity-before-removal",
        file: "crates/git-backend/src/dispose.rs",
        edits: &[(
            "Place::Foreign(what) => return Err(foreign(&place, &what)),",
            "Place::Foreign(_) => {\n                bin.put(&place)?;\n                None\n            }",
        )],
        tests: &[it(GIT, "foreign::a_foreign_repository_in_a_slot_stays_untouched")],
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
        name: "half-made-marker",
        file: "crates/git-backend/src/site.rs",
        edits: &[("&& begun == *MAKING", "&& begun == *MAKING && slot.0 == 0")],
        tests: &[
            it(GIT, "lifecycle::a_half_made_slot_is_seen_and_disposed_of"),
            it(CLI, "killed::in_the_middle_of_the_checkout"),
        ],
    },
    Guard {
        name: "locked-while-aside",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[("name == registration::LOCK || ", "")],
        tests: &[it(GIT, "adversary::a_prune_during_a_reset_takes_nothing")],
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
];
