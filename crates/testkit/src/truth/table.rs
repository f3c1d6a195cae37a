//! The table as a file: what is promised, kept in step with what is seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{Report, Verdict, all};
use crate::document;

const HEAD: &str = "\
# Is a build in a lease what it would be in a fresh clone?

Made by the tests (`testkit::truth`), with real builds; do not edit. Each line is a hazard: a small workspace
that is built and run in several leases, by turns and at the same time, with other commits, edits and settings.
*right*: each command showed what it shows in a fresh clone with a target of its own; *cold*: no lease had
anything to start from. *falls back*: right as well, by way of another strategy. *with shorter backtraces*: but for
lines of backtraces that are missing. Nothing: not played. `WTPOOL_BLESS=1 cargo test` writes the columns of the
strategies that it plays.

";

/// Asserts that the table in that file says of this strategy what was seen. With `WTPOOL_BLESS` in the
/// environment, writes it there instead. Other columns are left as they are, and so are the cells of hazards
/// that were not played.
///
/// # Panics
///
/// When the file says something else, with what to do about it; or when it can't be read.
pub fn assert_in_step(file: &Path, report: &Report) {
    document::assert_in_step(
        file,
        |text| updated(text, report),
        format_args!(" of {}", report.strategy),
        format_args!("\n{report}"),
    );
}

/// The text of the file, with that report's column.
fn updated(text: &str, report: &Report) -> String {
    // Column by column, and in each by hazard.
    let mut columns: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut lines = text.lines().filter(|line| line.starts_with('|')).map(document::cells);
    let names = lines.next().unwrap_or_default();
    for line in lines.skip(1) {
        for (name, cell) in names.iter().zip(&line).skip(2) {
            columns.entry(name.clone()).or_default().insert(line[0].clone(), cell.clone());
        }
    }
    let column = columns.entry(report.strategy.clone()).or_default();
    for row in &report.rows {
        if !matches!(row.verdict, Verdict::Untried(_)) {
            let cell = row.verdict.to_string().replace('|', "/").replace('\n', " ");
            column.insert(row.hazard.to_owned(), cell);
        }
    }
    let mut text = HEAD.to_owned();
    let names: Vec<&str> = columns.keys().map(String::as_str).collect();
    let _ = writeln!(text, "| hazard | what | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(names.len()));
    for hazard in all() {
        let _ = write!(text, "| {} | {} |", hazard.name(), hazard.about());
        for column in columns.values() {
            let _ = write!(text, " {} |", column.get(hazard.name()).map_or("", String::as_str));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Row;
    use super::*;

    fn report(strategy: &str, verdicts: &[(usize, Verdict)]) -> Report {
        let hazards = all();
        let row = |(index, verdict): &(usize, Verdict)| Row {
            hazard: hazards[*index].name(),
            about: hazards[*index].about(),
            verdict: verdict.clone(),
            reasons: Vec::new(),
            took: Duration::ZERO,
        };
        Report { strategy: strategy.to_owned(), rows: verdicts.iter().map(row).collect() }
    }

    #[test]
    fn a_column_is_written_and_the_others_stay() {
        let right = Verdict::Right { warm: true };
        let wrong = Verdict::Wrong { shown: Vec::new(), touched: vec!["a | file".to_owned()] };
        let first = updated("", &report("one", &[(0, right.clone()), (1, wrong)]));
        assert_eq!(first.matches("| right |").count(), 1);
        assert_eq!(first.matches("| **wrong** |").count(), 1);
        let refused = Verdict::Refused("no | for\nreasons".to_owned());
        let both = updated(&first, &report("another", &[(1, refused)]));
        assert!(both.contains("| hazard | what | another | one |"), "{both}");
        assert!(both.contains("| refused: no / for reasons | **wrong** |"), "{both}");
        assert_eq!(updated(&both, &report("one", &[(0, right)])), both);
        let untried = Verdict::Untried("no network".to_owned());
        assert_eq!(updated(&both, &report("one", &[(1, untried)])), both);
    }

    #[test]
    fn no_cell_breaks_the_table() {
        for hazard in all() {
            assert!(!hazard.about().contains('|'), "{}", hazard.name());
        }
    }
}
