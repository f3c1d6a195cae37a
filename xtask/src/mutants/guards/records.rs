//! What keeps the records whole, and one set of them for each pool directory.

use super::{CLI, CORE};
use crate::mutants::Guard;
use crate::named::it;

pub(super) const GUARDS: &[Guard] = &[
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
        name: "own-files-are-no-links",
        file: "crates/pool-core/src/plain.rs",
        edits: &[("(OFlags::NONBLOCK | OFlags::NOFOLLOW)", "(OFlags::NONBLOCK | OFlags::CLOEXEC)")],
        tests: &[it(CLI, "malice::the_pools_own_files_are_plain_ones")],
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
        name: "newer-records",
        file: "crates/pool-core/src/store/sqlite/schema.rs",
        edits: &[("    match version > known {", "    match version > known && false {")],
        tests: &[
            it(CORE, "sqlite::refusal::a_newer_database_is_refused_and_left_alone"),
            it(CORE, "sqlite::refusal::newer_rows_under_a_running_process_stay"),
        ],
    },
    Guard {
        name: "newer-records-in-each-change",
        file: "crates/pool-core/src/store/sqlite.rs",
        edits: &[(
            "            schema::known_version(&tx)?;\n            let before = self.snapshot(&tx)?;",
            "            let before = self.snapshot(&tx)?;",
        )],
        tests: &[it(CORE, "sqlite::refusal::newer_rows_under_a_running_process_stay")],
    },
];
