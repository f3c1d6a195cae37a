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
];
