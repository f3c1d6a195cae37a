//! The table of faults: what may go wrong, what must happen then, and which test plays it.
//!
//! `table.rs` has it as data. `cargo xtask faults` runs exactly those tests and writes what came of each
//! into `FAULTS.md`; the tests below see to it that every test that is named exists, and that the document
//! says what the data says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::named::{self, Outcome, Test};
use crate::{Result, steps};

mod table;

/// One row of the table.
struct Fault {
    fault: &'static str,
    expected: &'static str,
    cases: &'static [Case],
}

/// One of the ways in which a fault happens, and the tests that play it.
struct Case {
    what: &'static str,
    tests: &'static [Test],
}

const DOCUMENT: &str = "FAULTS.md";

const HEAD: &str = "\
# Faults, and what happens then

Each fault below is played by the tests beside it: on real repositories with real processes where that is
possible, and with a clock, processes and a backend of their own where it is not (a reboot, a clock that is set).
`cargo xtask faults` runs these tests and writes this file; the table itself is in `xtask/src/faults/table.rs`.

| fault | case | what must happen | tests | result |
|---|---|---|---|---|
";

/// Runs every test that the table names, and writes the document.
pub(crate) fn run() -> Result {
    let tests: BTreeSet<Test> = tests().collect();
    let outcomes = named::run(&tests)?;
    let root = steps::workspace();
    fs::write(root.join(DOCUMENT), render(&root, &outcomes)?)?;
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| **outcome == Outcome::Failed)
        .map(|(test, _)| test.to_string())
        .collect();
    if failed.is_empty() {
        println!("{} tests play {} faults: see {DOCUMENT}", outcomes.len(), table::FAULTS.len());
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")).into())
    }
}

fn tests() -> impl Iterator<Item = Test> {
    table::FAULTS.iter().flat_map(|fault| fault.cases).flat_map(|case| case.tests).copied()
}

/// The document, with what came of each test.
fn render(root: &Path, outcomes: &BTreeMap<Test, Outcome>) -> Result<String> {
    let mut text = HEAD.to_owned();
    for fault in table::FAULTS {
        for (number, case) in fault.cases.iter().enumerate() {
            let mut links = Vec::new();
            let mut results = Vec::new();
            for test in case.tests {
                links.push(format!("[{test}]({})", test.file(root)?));
                results.push(outcomes.get(test).map_or("not run".to_owned(), Outcome::to_string));
            }
            let first = number == 0;
            let cells = [
                if first { fault.fault } else { "" },
                case.what,
                if first { fault.expected } else { "" },
                &links.join("<br>"),
                &results.join("<br>"),
            ];
            writeln!(text, "| {} |", cells.join(" | "))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the document says came of each test.
    fn written(document: &str) -> BTreeMap<Test, Outcome> {
        let mut outcomes = BTreeMap::new();
        let cases = table::FAULTS.iter().flat_map(|fault| fault.cases);
        let rows = document.lines().skip(HEAD.lines().count());
        for (case, row) in cases.zip(rows) {
            let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            for (test, result) in case.tests.iter().zip(cell.split("<br>")) {
                outcomes.insert(*test, result.parse().expect("a result"));
            }
        }
        outcomes
    }

    #[test]
    fn the_document_is_in_step_with_the_table() {
        let root = steps::workspace();
        let document = fs::read_to_string(root.join(DOCUMENT)).expect("it is there");
        let outcomes = written(&document);
        // Each file is found, so each test exists.
        let rendered = render(&root, &outcomes).expect("every test exists");
        assert!(document == rendered, "`cargo xtask faults` writes {DOCUMENT} anew");
        let wrong = outcomes.iter().find(|(_, outcome)| **outcome == Outcome::Failed);
        assert!(wrong.is_none(), "{wrong:?} is in {DOCUMENT}");
    }

    #[test]
    fn every_case_has_a_test() {
        for fault in table::FAULTS {
            assert!(!fault.cases.is_empty(), "{}", fault.fault);
            for case in fault.cases {
                assert!(!case.tests.is_empty(), "{}: {}", fault.fault, case.what);
                let cells = [fault.fault, fault.expected, case.what];
                assert!(cells.iter().all(|cell| !cell.contains(['|', '\n'])), "{cells:?}");
            }
        }
    }
}
