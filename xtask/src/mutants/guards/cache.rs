//! What keeps builds apart.

use super::CACHE;
use crate::mutants::Guard;
use crate::named::{it, unit};

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "base-that-is-used-by-now",
        file: "crates/cache-share/src/base.rs",
        edits: &[("if is_used() { self.stay() }", "if is_used() && false { self.stay() }")],
        tests: &[unit(CACHE, "base::tests::base_that_a_slot_takes_while_it_is_removed_stays")],
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
        name: "builds-of-a-configuration-outside",
        file: "crates/cache-share/src/confine.rs",
        edits: &[(
            "*target_dir = target_dir.take().or_else(|| self.target.clone());",
            "let _ = target_dir;",
        )],
        tests: &[
            it(CACHE, "confine::cargo_home_that_sets_a_target_dir_holds_in_no_lease"),
            it(CACHE, "confine::config_above_the_pool_holds_in_no_lease"),
        ],
    },
    Guard {
        name: "builds-of-a-variable-outside",
        file: "crates/cache-share/src/confine.rs",
        edits: &[(
            "let build = outside.build.is_some() || outside.by_variable || several;",
            "let build = outside.build.is_some() || several;",
        )],
        tests: &[it(CACHE, "confine::exported_target_dir_shares_no_intermediate_files")],
    },
    Guard {
        name: "builds-of-a-repository-that-leads-out",
        file: "crates/cache-share/src/confine.rs",
        edits: &[(
            "if let Some(trouble) = inside.leads_out {",
            "if let Some(trouble) = inside.leads_out.clone().filter(|_| false) {",
        )],
        tests: &[it(CACHE, "confine::repository_that_leads_out_of_the_worktree_shares_nothing")],
    },
];
