//! Tables in the documentation that tests write, and that must be in step with what they saw.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Asserts that the file is what `updated` makes of it; with `WTPOOL_BLESS` in the environment, makes it so.
/// `of` says of what it is, in an error, and `more` what else there is to say.
pub(crate) fn assert_in_step(
    file: &Path,
    updated: impl FnOnce(&str) -> String,
    of: fmt::Arguments<'_>,
    more: fmt::Arguments<'_>,
) {
    // Several tests may do this at once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => panic!("read {}: {e}", file.display()),
    };
    let wanted = updated(&text);
    if wanted == text {
        return;
    }
    if std::env::var_os("WTPOOL_BLESS").is_some() {
        std::fs::write(file, wanted).unwrap_or_else(|e| panic!("write {}: {e}", file.display()));
        return;
    }
    let mut lines = wanted.lines().zip(text.lines().chain(std::iter::repeat("nothing")));
    let (new, old) = lines.find(|(new, old)| new != old).unwrap_or(("less", "more"));
    panic!(
        "{} is not what was seen{of}. It has\n  {old}\nand should have\n  {new}\n\
         If that is as it should be, run the test with WTPOOL_BLESS=1.{more}",
        file.display(),
    );
}

/// The cells of a line of a table.
pub(crate) fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}
