//! What keeps one lease's files, settings and commands out of the next lease.

use super::{CLI, GIT};
use crate::mutants::Guard;
use crate::named::it;

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "files-written-by-the-last-holder",
        file: "crates/git-backend/src/baseline.rs",
        edits: &[("&& known.stat.matches(found, STRICTLY)", "&& (known.stat != *found || true)")],
        tests: &[
            it(GIT, "same_tree::whatever_the_last_holder_did_to_files"),
            it(GIT, "same_tree::whatever_the_last_holder_did_to_the_index"),
        ],
    },
    Guard {
        name: "ignored-files-of-the-last-holder",
        file: "crates/git-backend/src/tree.rs",
        edits: &[(
            "        self.bin.put_from(dir, name)\n    }\n\n    fn holds_tracked",
            "        if name == \"target\" { return Ok(()) }\n        self.bin.put_from(dir, name)\n    }\n\n    \
             fn holds_tracked",
        )],
        tests: &[
            it(GIT, "same_tree::whatever_the_last_holder_left_in_ignored_places"),
            it(GIT, "same_tree::build_output_is_renamed_and_deleted_by_the_next_sweep"),
        ],
    },
    Guard {
        name: "settings-that-decide-a-checkout",
        file: "crates/git-backend/src/baseline.rs",
        edits: &[("(noted == decides).then(", "(noted == decides || true).then(")],
        tests: &[it(GIT, "same_tree::whatever_changed_in_the_configuration")],
    },
    Guard {
        name: "content-that-a-checkout-would-write",
        file: "crates/git-backend/src/checkout.rs",
        edits: &[(
            "written.is_ok_and(|mut written| io::copy(&mut written, &mut found).is_ok())\n            && found.is_same()",
            "written.is_ok_and(|mut written| io::copy(&mut written, &mut found).is_ok())\n            && (found.is_same() || true)",
        )],
        tests: &[it(GIT, "same_tree::whatever_changed_in_the_configuration")],
    },
    Guard {
        name: "names-and-modes-of-files",
        file: "crates/git-backend/src/baseline.rs",
        edits: &[(
            "(os::mode(meta) == wanted && has_one_name(meta))",
            "(wanted != 0 || has_one_name(meta))",
        )],
        tests: &[it(GIT, "same_tree::whatever_the_last_holder_did_to_files")],
    },
    Guard {
        name: "modes-of-directories",
        file: "crates/git-backend/src/baseline.rs",
        edits: &[(
            "        give(path, self.directory)\n",
            "        let _ = (path, self);\n        Ok(())\n",
        )],
        tests: &[it(GIT, "same_tree::whatever_the_last_holder_did_to_files")],
    },
    Guard {
        name: "worktree-configuration-of-today",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[("registration::write_own_config(&main, &admin)?;", "let _ = &main;")],
        tests: &[
            it(GIT, "same_tree::whatever_is_left_out_of_a_sparse_checkout"),
            it(GIT, "same_tree::whatever_changed_in_the_configuration"),
        ],
    },
    Guard {
        name: "filters-at-the-slots-place",
        file: "crates/git-backend/src/recycle.rs",
        edits: &[("let in_place = has_filters &&", "let in_place = false && has_filters &&")],
        tests: &[it(GIT, "same_tree::whatever_a_filter_looks_at")],
    },
    Guard {
        name: "filtered-checkout-replaces-nothing",
        file: "crates/git-backend/src/checkout.rs",
        edits: &[(
            "[\"checkout-index\", \"--all\", \"--index\", \"--quiet\"]",
            "[\"checkout-index\", \"--all\", \"--index\", \"--quiet\", \"--force\"]",
        )],
        tests: &[it(GIT, "adversary::what_is_written_during_a_filtered_checkout_is_kept")],
    },
    Guard {
        name: "configuration-where-git-finds-it",
        file: "crates/git-backend/src/environment.rs",
        edits: &[(
            ".filter(|(name, _)| is_of_configuration(name) || is_of_transport(name))",
            ".filter(|(name, _)| is_of_transport(name))",
        )],
        tests: &[it(
            CLI,
            "configuration::filters_are_those_that_git_finds_wherever_they_are_set_up",
        )],
    },
    Guard {
        name: "configuration-that-gix-does-not-find",
        file: "crates/git-backend/src/user_config.rs",
        edits: &[(
            "if !settings.environment.configures() && !decides(repo) {",
            "if !settings.environment.configures() || !decides(repo) || true {",
        )],
        tests: &[it(GIT, "same_tree::configuration_that_a_variable_names_decides_line_ends")],
    },
    Guard {
        name: "set-up-files-stay-ignored",
        file: "crates/git-backend/src/copy.rs",
        edits: &[("hide(&source, &target, visible, &mut brought)?;", "let _ = (hide, visible);")],
        tests: &[
            it(GIT, "set_up::files_that_an_untracked_gitignore_hides_come_along"),
            it(GIT, "set_up::file_that_git_would_add_in_the_lease_is_not_left_there"),
        ],
    },
    Guard {
        name: "settings-file-is-no-link",
        file: "crates/pool-cli/src/settings/layer.rs",
        edits: &[(
            "Author::Repository => open_plain(File::options().read(true), path),",
            "Author::Repository => std::fs::canonicalize(path)\n            .and_then(|path| open_plain(File::options().read(true), &path)),",
        )],
        tests: &[
            it(CLI, "malice::settings_that_are_a_link_are_not_read"),
            it(CLI, "malice::settings_that_are_no_file_are_not_waited_for"),
        ],
    },
];
