//! What keeps builds apart.

use super::{CACHE, CLI};
use crate::mutants::Guard;
use crate::named::{it, unit};

pub(super) const GUARDS: &[Guard] = &[
    Guard {
        name: "base-that-is-used-by-now",
        file: "crates/cache-share/src/base/life.rs",
        edits: &[("if is_used() {", "if is_used() && false {")],
        tests: &[unit(
            CACHE,
            "base::life::tests::base_that_a_slot_takes_while_it_is_removed_stays",
        )],
    },
    Guard {
        name: "numbers-of-bases-given-once",
        file: "crates/cache-share/src/base/life.rs",
        edits: &[("[\"base\", LOCKS, REMOVED].into_iter()", "[\"base\"].into_iter()")],
        tests: &[unit(CACHE, "base::life::tests::base_goes_through_its_states")],
    },
    Guard {
        name: "bases-that-failed-in-part-apart",
        file: "crates/cache-share/src/base/life.rs",
        edits: &[("if trouble.is_some() {", "if trouble.is_some() && false {")],
        tests: &[unit(CACHE, "base::life::tests::base_that_failed_in_part_displaces_no_whole_one")],
    },
    Guard {
        name: "base-that-is-what-its-manifest-says",
        file: "crates/cache-share/src/base/choose.rs",
        edits: &[(
            "match base.damage(&manifest) {",
            "match base.damage(&manifest).filter(|_| false) {",
        )],
        tests: &[unit(
            CACHE,
            "base::choose::tests::whole_base_is_chosen_before_a_newer_broken_one",
        )],
    },
    Guard {
        name: "base-locked-while-it-is-read",
        file: "crates/cache-share/src/base/choose.rs",
        edits: &[("choice.lock = Some(Arc::new(lock));", "drop(lock);")],
        tests: &[unit(CACHE, "base::choose::tests::chosen_base_is_locked")],
    },
    Guard {
        name: "build-that-keeps-its-lock",
        file: "crates/cache-share/src/base/build.rs",
        edits: &[(
            "command.stdin(building.lock.for_child().map_err(|e| Error::io(\"share a lock\", e))?);",
            "let _ = building.lock.for_child();",
        )],
        tests: &[it(CLI, "cache::base_of_a_killed_warm_stays_until_its_build_has_ended")],
    },
    Guard {
        name: "read-only-directories-of-a-base",
        file: "crates/pool-core/src/handles.rs",
        edits: &[("rustix::fs::fchmod(dir, Mode::RWXU)?;", "")],
        tests: &[it(CACHE, "base::base_with_read_only_directories_is_removed_like_any_other")],
    },
    Guard {
        name: "mounts-in-a-base",
        file: "crates/cache-share/src/files/remove.rs",
        edits: &[
            ("if found.st_dev != self.device {", "if found.st_dev != self.device && false {"),
            (
                "if rustix::fs::fstat(&dir)?.st_dev != self.device {",
                "if rustix::fs::fstat(&dir)?.st_dev != self.device && false {",
            ),
        ],
        tests: &[it(CACHE, "base::base_that_cant_be_removed_is_set_aside_and_named")],
    },
    Guard {
        name: "programs-of-ones-own",
        file: "crates/cache-share/src/base/analysis.rs",
        edits: &[(
            "    libraries.iter().any(|library| name == &**library)",
            "    true || libraries.iter().any(|library| name == &**library)",
        )],
        tests: &[it(CACHE, "outputs::tools_reach_outputs_of_their_own_slot_only")],
    },
    Guard {
        name: "outputs-of-ones-own-before-the-compiler",
        file: "crates/cache-share/src/rustc.rs",
        edits: &[("is_none_or(|names| names > 1)", "is_none_or(|names| names > 1 && false)")],
        tests: &[it(CACHE, "outputs::linker_that_writes_in_place_reaches_its_own_slot_only")],
    },
    Guard {
        name: "files-that-are-no-units",
        file: "crates/cache-share/src/base/analysis.rs",
        edits: &[("strays::withdraw(&mut units, self, &calls);", "")],
        tests: &[it(CACHE, "outputs::what_a_script_writes_elsewhere_is_there_in_a_lease")],
    },
    Guard {
        name: "links-of-an-out-dir",
        file: "crates/cache-share/src/seed.rs",
        edits: &[("for link in &unit.links {", "for link in unit.links.iter().take(0) {")],
        tests: &[it(CACHE, "outputs::links_empty_directories_and_modes_of_an_out_dir_are_given")],
    },
    Guard {
        name: "copies-of-what-is-written-in-place",
        file: "crates/cache-share/src/seed.rs",
        edits: &[(
            "files::copy(&source, &target, file.modified).map_err(",
            "files::share(&source, &target, file.modified).map_err(",
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
