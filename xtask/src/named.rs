//! Running tests by their full names: those that a table speaks of, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::{Result, steps};

/// One test, as its crate's harness calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    pub(crate) package: &'static str,
    binary: Binary,
    pub(crate) name: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Binary {
    Lib,
    It,
}

/// A test in `tests/it`.
pub(crate) const fn it(package: &'static str, name: &'static str) -> Test {
    Test { package, binary: Binary::It, name }
}

/// A test in `src`.
pub(crate) const fn unit(package: &'static str, name: &'static str) -> Test {
    Test { package, binary: Binary::Lib, name }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.package, self.name)
    }
}

impl Test {
    /// Whether it is beside what it tests.
    #[cfg(unix)]
    pub(crate) fn is_unit(&self) -> bool {
        self.binary == Binary::Lib
    }

    /// The file it is in, seen from `root`.
    ///
    /// # Errors
    ///
    /// When there is no such test.
    pub(crate) fn file(&self, root: &Path) -> Result<String> {
        let inside = match self.binary {
            Binary::Lib => "src",
            Binary::It => "tests/it",
        };
        let crate_dir = Path::new("crates").join(self.package).join(inside);
        let mut modules: Vec<&str> = self.name.split("::").collect();
        let function = format!("fn {}(", modules.pop().unwrap_or_default());
        let has = |file: &Path| {
            fs::read_to_string(root.join(file)).is_ok_and(|text| text.contains(&function))
        };
        // The innermost modules may be in the file of an outer one, or in one that is called otherwise.
        while !modules.is_empty() {
            let stem = crate_dir.join(modules.join("/"));
            let beside = fs::read_dir(root.join(&stem)).into_iter().flatten().flatten();
            let mut beside: Vec<PathBuf> =
                beside.map(|entry| stem.join(entry.file_name())).collect();
            beside.sort();
            let files = [stem.with_extension("rs")].into_iter().chain(beside);
            if let Some(found) = files.into_iter().find(|file| has(file)) {
                return Ok(found.to_string_lossy().replace('\\', "/"));
            }
            modules.pop();
        }
        // A case of the suite that all backends pass: `conformance::<harness>::<case>`.
        let suite = Path::new("crates/testkit/src/conformance");
        let case = function.replace('(', "<");
        let files = fs::read_dir(root.join(suite)).into_iter().flatten().flatten();
        for file in files.map(|entry| suite.join(entry.file_name())) {
            let has = fs::read_to_string(root.join(&file)).is_ok_and(|text| text.contains(&case));
            if has && self.name.starts_with("conformance::") {
                return Ok(file.to_string_lossy().replace('\\', "/"));
            }
        }
        Err(format!("there is no test {self}").into())
    }
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// It passed without having been able to do what it is for, and why.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed => f.write_str("FAILED"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("skipped: ")) {
            ("passed", _) => Ok(Self::Passed),
            ("FAILED", _) => Ok(Self::Failed),
            (_, Some(why)) => Ok(Self::Skipped(why.to_owned())),
            _ => Err(format!("{text:?} is no result of a test")),
        }
    }
}

/// Runs these tests, crate by crate.
///
/// # Errors
///
/// When a crate does not build, or when one of them was not run: nothing has that name, or it is ignored.
pub(crate) fn run(tests: &BTreeSet<Test>) -> Result<BTreeMap<Test, Outcome>> {
    let mut outcomes = BTreeMap::new();
    let packages: BTreeSet<&str> = tests.iter().map(|test| test.package).collect();
    for package in packages {
        let of_package: Vec<Test> =
            tests.iter().filter(|test| test.package == package).copied().collect();
        let mut command = steps::command(&[]);
        arguments(&mut command, package, &of_package);
        steps::announce(&command);
        let output = command.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = !output.status.success();
        if failed {
            println!("{text}");
        }
        for test in of_package {
            let outcome = outcome(&text, test.name).ok_or_else(|| {
                format!("{test} was not run: the crate does not build, or has no such test")
            })?;
            outcomes.insert(test, outcome);
        }
    }
    Ok(outcomes)
}

/// Makes `command`, which is cargo, run these tests of one crate.
pub(crate) fn arguments(command: &mut Command, package: &str, tests: &[Test]) {
    command.args(["test", "-p", package, "--all-features"]);
    if tests.iter().any(|test| test.binary == Binary::Lib) {
        command.arg("--lib");
    }
    if tests.iter().any(|test| test.binary == Binary::It) {
        command.args(["--test", "it"]);
    }
    command.args(["--no-fail-fast", "--", "--exact", "--show-output"]);
    command.args(tests.iter().map(|test| test.name));
}

/// What a harness printed about one test; `None` when it did not run it.
pub(crate) fn outcome(output: &str, name: &str) -> Option<Outcome> {
    let line = format!("test {name} ... ");
    let ended = output.lines().find_map(|l| l.strip_prefix(&line))?;
    match ended {
        "ok" => Some(skipped(output, name).map_or(Outcome::Passed, Outcome::Skipped)),
        "FAILED" => Some(Outcome::Failed),
        _ => None,
    }
}

fn skipped(output: &str, name: &str) -> Option<String> {
    let head = format!("---- {name} stdout ----");
    let section = output.lines().skip_while(|line| *line != head).skip(1);
    let mut section = section.take_while(|line| !line.starts_with("---- "));
    section.find_map(|line| line.strip_prefix("skipped: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::b ... ok
test a::c ... FAILED
test a::d ... ok
test a::e ... ignored

successes:

---- a::d stdout ----
skipped: mounting is not permitted here


successes:
    a::b
";

    #[test]
    fn what_came_of_a_test_is_read() {
        assert_eq!(outcome(OUTPUT, "a::b"), Some(Outcome::Passed));
        assert_eq!(outcome(OUTPUT, "a::c"), Some(Outcome::Failed));
        let skipped = Outcome::Skipped("mounting is not permitted here".into());
        assert_eq!(outcome(OUTPUT, "a::d"), Some(skipped.clone()));
        assert_eq!(outcome(OUTPUT, "a::e"), None, "what is ignored proves nothing");
        assert_eq!(outcome(OUTPUT, "a"), None);
        for outcome in [Outcome::Passed, Outcome::Failed, skipped] {
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
    }

    #[test]
    fn only_what_there_is_has_a_file() {
        let root = steps::workspace();
        let file = |test: Test| test.file(&root).ok();
        let swept = "trash::delete::tests::what_comes_while_it_is_swept_is_left_for_the_next_sweep";
        assert_eq!(
            file(unit("git-backend", swept)).as_deref(),
            Some("crates/git-backend/src/trash/unix.rs")
        );
        assert_eq!(
            file(it("pool-core", "sqlite::damage::a_deleted_database_is_rebuilt")).as_deref(),
            Some("crates/pool-core/tests/it/sqlite/damage.rs")
        );
        assert_eq!(file(it("pool-core", "sqlite::damage::no_such_thing")), None);
        assert_eq!(file(it("pool-core", "no_such::thing")), None);
    }
}
