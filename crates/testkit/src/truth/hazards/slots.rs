//! What happens to a slot: other branches, other leases, cleaning.

use super::{pair, says};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    vec![clean(), branch_switch(), used_slot(), back_again()]
}

fn clean() -> Hazard {
    pair("clean", "`cargo clean` in one lease")
        .commit([("core-lib/src/lib.rs", &says("one"))])
        .lease('A', 0)
        .lease('B', 1)
        .cargo("A", "build")
        .cargo("B", "build")
        .cargo("A", "clean --quiet")
        .program('B', "app")
        .cargo("B", "run")
        .cargo("A", "run")
        .cargo("B", "clean --quiet -p core-lib")
        .cargo("A", "run")
        .cargo("B", "run")
}

fn branch_switch() -> Hazard {
    pair("branch-switch", "another branch checked out within a lease")
        .commit([("core-lib/src/lib.rs", &says("one"))])
        .commit([
            ("core-lib/src/lib.rs", &says("two")),
            ("app/src/main.rs", "fn main() {\n    println!(\"now {}\", core_lib::version());\n}\n"),
        ])
        .lease('A', 1)
        .lease('B', 1)
        .cargo("A", "run")
        .cargo("B", "build")
        .switch('A', 2)
        .cargo("A", "run")
        .program('B', "app")
        .switch('A', 0)
        .cargo("A", "run")
        .switch('A', 1)
        .cargo("A", "run")
        .cargo("B", "run")
}

fn used_slot() -> Hazard {
    pair("used-slot", "a slot used again, for another commit")
        .commit([("core-lib/src/lib.rs", &says("one"))])
        .commit([("core-lib/src/lib.rs", &says("two"))])
        .lease('A', 1)
        .lease('B', 0)
        .cargo("A", "run")
        .cargo("B", "build")
        .edit('A', "core-lib/src/lib.rs", says("one, edited"))
        .cargo("A", "run")
        .release('A')
        .lease_after('A', 'C', 2)
        .cargo("C", "run")
        .program('B', "app")
        .cargo("BC", "run")
}

/// The same commit as before, after uncommitted work there was built, saved and undone.
fn back_again() -> Hazard {
    pair("back-again", "a slot used again for the same commit, after edits that were built there")
        .lease('A', 0)
        .edit('A', "core-lib/src/lib.rs", says("edited"))
        .cargo("A", "run")
        .release('A')
        .lease_after('A', 'B', 0)
        .cargo("B", "build")
        .program('B', "app")
}
