//! Takes each guard away in turn, and sees whether a test notices.
//!
//! A guard is what stands between some accident and lost work, and it is seldom needed: tests pass without it
//! unless one of them makes the accident happen. `guards/` has them as data: a file, and which piece of it is
//! replaced by what. All is done in a copy of the working tree.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::named::{self, Outcome, Test};
use crate::{Result, steps};

mod guards;

/// Something without which work could be lost.
struct Guard {
    name: &'static str,
    file: &'static str,
    /// What is replaced, which occurs once, and by what. All of it together takes the guard away.
    edits: &'static [(&'static str, &'static str)],
    /// Those that should notice, the likeliest first.
    tests: &'static [Test],
}

/// A test that takes longer hangs, which is as good as a failure.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Args)]
pub(crate) struct Options {
    /// Only those guards
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only say which guards there are
    #[arg(long)]
    list: bool,
    /// Where the copy is built: kept, so that the next time is quicker; by default a temporary directory
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result {
    let chosen = |guard: &&Guard| {
        options.only.is_empty() || options.only.iter().any(|name| name == guard.name)
    };
    let guards: Vec<&Guard> = guards::all().filter(chosen).collect();
    if options.list {
        guards.iter().for_each(|guard| println!("{}  {}", guard.name, guard.file));
        return Ok(());
    }
    if let Some(unknown) =
        options.only.iter().find(|name| guards.iter().all(|guard| guard.name != **name))
    {
        return Err(format!("there is no guard {unknown}: see --list").into());
    }
    let place = tempfile::tempdir()?;
    let copy = Copy::new(place.path(), options.target_dir.as_deref())?;
    eprintln!("\n== as it is");
    let all: BTreeSet<Test> = guards.iter().flat_map(|guard| guard.tests).copied().collect();
    if let Found::Caught(by) = copy.look(&Vec::from_iter(all), false)? {
        return Err(format!("with all guards in place: {by}").into());
    }

    let (mut rows, mut survivors) = (Vec::new(), Vec::new());
    for guard in guards {
        eprintln!("\n== without {}", guard.name);
        let file = copy.root.join(guard.file);
        let source = fs::read_to_string(&file)?;
        fs::write(&file, without(guard, &source)?)?;
        let found = copy.look(guard.tests, true);
        fs::write(&file, source)?;
        let (mark, by) = match found? {
            Found::Caught(by) => ("caught", by),
            Found::Nothing => {
                survivors.push(guard.name);
                ("SURVIVED", "no test noticed".to_owned())
            }
        };
        eprintln!("   {mark}: {by}");
        rows.push(format!("{mark:<9} {:<28} {by}", guard.name));
    }
    println!("\n{}", rows.join("\n"));
    if survivors.is_empty() {
        Ok(())
    } else {
        Err(format!("no test notices that these are missing: {}", survivors.join(", ")).into())
    }
}

/// A file without that guard.
fn without(guard: &Guard, source: &str) -> Result<String> {
    let mut text = source.to_owned();
    for (piece, instead) in guard.edits {
        let count = source.matches(piece).count();
        if count != 1 {
            return Err(
                format!("{}: {piece:?} is {count} times in {}", guard.name, guard.file).into()
            );
        }
        text = text.replacen(piece, instead, 1);
    }
    Ok(text)
}

enum Found {
    /// And by what.
    Caught(String),
    Nothing,
}

/// What the working tree holds, in a directory of its own.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn new(place: &Path, target: Option<&Path>) -> Result<Self> {
        let from = steps::workspace();
        let root = place.join("copy");
        let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = Command::new("git").args(list).current_dir(&from).output()?;
        if !listed.status.success() {
            return Err("git does not list the files of the working tree".into());
        }
        for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
            let to = root.join(name);
            // One that was deleted and not committed is listed still.
            if from.join(name).is_file() {
                fs::create_dir_all(to.parent().unwrap_or(&root))?;
                fs::copy(from.join(name), to)?;
            }
        }
        let target = match target {
            Some(dir) => std::path::absolute(dir)?,
            None => place.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Runs these tests, as far as is needed to know whether one of them fails.
    fn look(&self, tests: &[Test], first_only: bool) -> Result<Found> {
        let mut packages: Vec<&str> = tests.iter().map(|test| test.package).collect();
        packages.dedup();
        let mut failed = Vec::new();
        for package in packages {
            let some: Vec<Test> =
                tests.iter().filter(|test| test.package == package).copied().collect();
            let output = self.cargo(package, &some, true)?;
            if !output.success {
                return Err(format!("{package} does not build:\n{}", output.text).into());
            }
            let output = self.cargo(package, &some, false)?;
            for test in some {
                match named::outcome(&output.text, test.name) {
                    Some(Outcome::Passed) => {}
                    Some(Outcome::Skipped(why)) => eprintln!("   {test} was skipped: {why}"),
                    Some(Outcome::Failed) => failed.push(test.name.to_owned()),
                    None if output.timed_out => failed.push(format!("{} (it hangs)", test.name)),
                    None if output.aborted => failed.push(format!("{} (it aborts)", test.name)),
                    None => return Err(format!("{test} was not run:\n{}", output.text).into()),
                }
            }
            if first_only && !failed.is_empty() {
                break;
            }
        }
        Ok(if failed.is_empty() { Found::Nothing } else { Found::Caught(failed.join(", ")) })
    }

    fn cargo(&self, package: &str, tests: &[Test], build_only: bool) -> Result<Ran> {
        let mut command = steps::command(&[]);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        if build_only {
            command.args(["test", "-p", package, "--all-features", "--no-run", "--quiet"]);
            command.args(["--test", "it"]);
            command.args(tests.iter().any(Test::is_unit).then_some("--lib"));
        } else {
            named::arguments(&mut command, package, tests);
        }
        let log = tempfile::NamedTempFile::new()?;
        let log_end = File::options().append(true).open(log.path())?;
        command.stdin(Stdio::null()).stdout(log_end.try_clone()?).stderr(log_end);
        let mut child = command.process_group(0).spawn()?;
        let begun = Instant::now();
        // A first build takes its time.
        let limit = if build_only { 6 * LIMIT } else { LIMIT };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if begun.elapsed() > limit {
                if let Some(group) = rustix::process::Pid::from_raw(child.id().try_into()?) {
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
                }
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = String::from_utf8_lossy(&fs::read(log.path())?).into_owned();
        Ok(Ran {
            success: status.is_some_and(|status| status.success()),
            timed_out: status.is_none(),
            aborted: text.contains("(signal: "),
            text,
        })
    }
}

struct Ran {
    success: bool,
    timed_out: bool,
    aborted: bool,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_is_where_it_is_said_to_be() {
        let root = steps::workspace();
        let mut names = BTreeSet::new();
        for guard in guards::all() {
            let source = fs::read_to_string(root.join(guard.file)).expect(guard.file);
            let changed = without(guard, &source).expect("each piece is there once");
            assert_ne!(changed, source, "{}", guard.name);
            assert!(names.insert(guard.name), "{} is there twice", guard.name);
            assert!(!guard.tests.is_empty(), "{} has no test", guard.name);
            for test in guard.tests {
                test.file(&root).expect("there is such a test");
            }
        }
    }
}
