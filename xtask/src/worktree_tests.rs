//! Git's own tests of worktrees, on worktrees that wtpool made: stock git is to agree with everything
//! that the pool leaves on the disk. The tests are read from a copy of git's source.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::{Result, steps};

/// What stands in for git while a test runs.
const STAND_IN: &str = include_str!("worktree_tests/git.sh");

/// The tests, by the beginnings of their names.
const SCRIPTS: [&str; 8] = ["t2400", "t2401", "t2402", "t2403", "t2404", "t2405", "t2406", "t2407"];

/// Cases whose outcome is not the same and need not be, by words of their titles, and why.
const NOT_APPLICABLE: [(&str, &str, &str); 1] =
    [("t2400", "invokes post-checkout hook", "a lease runs no hook of the repository")];

/// Where git's tests are.
#[derive(Args)]
pub(crate) struct Options {
    /// A copy of git's source, of about the version that is installed, in which `make GIT-BUILD-OPTIONS
    /// t/helper/test-tool` and `make -C templates` were run.
    #[arg(long, value_name = "DIR")]
    git_source: PathBuf,
    /// Run those only whose names begin with this, such as `t2403`; several if it is repeated.
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// Use this `wtpool` and build none.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    number: u32,
    title: String,
    outcome: Outcome,
    /// How many worktrees wtpool made, or refused to make, in it, and up to it.
    made: usize,
    made_so_far: usize,
    /// Why git made the others.
    left_to_git: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Runs them, with git alone and with wtpool, and prints a table.
///
/// # Errors
///
/// When a case passes with git's worktrees and fails with wtpool's, and is not known to need git's.
pub(crate) fn run(options: &Options) -> Result {
    let wtpool = match &options.program {
        Some(program) => program.canonicalize()?,
        None => steps::build_wtpool(steps::Profile::Dev)?,
    };
    let tests = options.git_source.canonicalize()?.join("t");
    let needed = [tests.join("helper/test-tool"), options.git_source.join("templates/blt")];
    if let Some(missing) = needed.iter().find(|needed| !needed.exists()) {
        let make = "make NO_CURL=1 NO_GETTEXT=1 NO_TCLTK=1 GIT-BUILD-OPTIONS t/helper/test-tool && \
                    make -C templates";
        return Err(format!("there is no {}: run `{make}` there", missing.display()).into());
    }
    let git = real_git()?;
    let tmp = tempfile::Builder::new().prefix("wtpool-git-tests-").tempdir()?;
    let root = tmp.path().canonicalize()?;
    let stand_in = root.join("bin");
    fs::create_dir(&stand_in)?;
    fs::write(stand_in.join("git"), STAND_IN)?;
    fs::set_permissions(stand_in.join("git"), fs::Permissions::from_mode(0o755))?;

    let mut disagreements = Vec::new();
    println!("| test | case | with wtpool's worktrees |\n|---|---|---|");
    let mut sums: BTreeMap<&str, u32> = BTreeMap::new();
    for script in scripts(&tests)? {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !options.tests.is_empty() && !options.tests.iter().any(|test| name.starts_with(test)) {
            continue;
        }
        eprintln!("== {name}");
        let run = |dir: &Path| {
            let log = root.join("log");
            let file = File::create(&log)?;
            Command::new("sh")
                .arg(&script)
                .arg(format!("--root={}", root.join("trash").display()))
                .current_dir(&tests)
                .env("GIT_TEST_INSTALLED", dir)
                .env("REAL_GIT", &git)
                .env("WTPOOL", &wtpool)
                .env("STAND_IN", &root)
                .env("WTPOOL_REAP_INTERVAL", "1s")
                .stdin(Stdio::null())
                // One file, so that what the stand-in says stands before the case that it is about.
                .stdout(File::options().append(true).open(&log)?)
                .stderr(file)
                .status()?;
            Ok::<_, Box<dyn std::error::Error>>(parse(&fs::read_to_string(&log)?))
        };
        let stock = run(git.parent().unwrap_or(Path::new("/")))?;
        let ours = run(&stand_in)?;
        if ours.is_empty() || ours.len() != stock.len() {
            return Err(
                format!("{name}: {} cases, with git alone {}", ours.len(), stock.len()).into()
            );
        }
        for (case, stock) in ours.iter().zip(&stock) {
            let (kind, text) = verdict(&name, case, stock);
            println!("| {name} | {} {} | {text} |", case.number, case.title);
            *sums.entry(kind).or_default() += 1;
            if kind == DISAGREES {
                disagreements.push(format!("{name} {} {}", case.number, case.title));
            }
        }
    }
    for (kind, number) in &sums {
        println!("{number} {kind}");
    }
    match disagreements.first() {
        Some(first) => {
            Err(format!("{} cases disagree, the first: {first}", disagreements.len()).into())
        }
        None => Ok(()),
    }
}

const DISAGREES: &str = "disagree";

fn verdict(script: &str, case: &Case, stock: &Case) -> (&'static str, String) {
    let known = NOT_APPLICABLE
        .iter()
        .find(|(test, title, _)| script.starts_with(test) && case.title.contains(title));
    match (case.outcome, stock.outcome) {
        (Outcome::Passed, Outcome::Passed) if case.made > 0 => {
            ("agree, on worktrees made in the case", format!("agrees, on {} made in it", case.made))
        }
        (Outcome::Passed, Outcome::Passed) if !case.left_to_git.is_empty() => {
            let why = case.left_to_git.join("; ");
            ("are not applicable", format!("not applicable, git made it: {why}"))
        }
        (Outcome::Passed, Outcome::Passed) if case.made_so_far > 0 => {
            ("agree, on worktrees made before", "agrees, on those made before".to_owned())
        }
        (Outcome::Passed, Outcome::Passed) => {
            ("have no worktree that is made", "passes, no worktree is made".to_owned())
        }
        (ours, stock) if ours == stock => (
            "are skipped or fail with git alone too",
            format!("{ours:?} with git alone too").to_lowercase(),
        ),
        _ => match known {
            Some((_, _, why)) => ("are not applicable", format!("not applicable: {why}")),
            None => (DISAGREES, "**disagrees**".to_owned()),
        },
    }
}

fn scripts(tests: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in tests.read_dir()? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".sh") && SCRIPTS.iter().any(|script| name.starts_with(script)) {
            found.push(path);
        }
    }
    found.sort();
    if found.len() < SCRIPTS.len() {
        return Err(format!("only {} of the tests are in {}", found.len(), tests.display()).into());
    }
    Ok(found)
}

fn real_git() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("git"));
    found.find(|git| git.is_file()).ok_or_else(|| "git is not in PATH".into())
}

/// The cases in what a script and the stand-in printed.
fn parse(log: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let (mut made, mut made_so_far, mut left_to_git) = (0, 0, Vec::new());
    for line in log.lines() {
        if line.starts_with("# wtpool ") {
            made += 1;
            made_so_far += 1;
        } else if let Some(why) = line.strip_prefix("# git: ") {
            left_to_git.push(why.to_owned());
        }
        let (outcome, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (Outcome::Failed, rest),
            None => match line.strip_prefix("ok ") {
                Some(rest) => (Outcome::Passed, rest),
                None => continue,
            },
        };
        let (number, title) = rest.split_once(' ').unwrap_or((rest, ""));
        let Ok(number) = number.parse() else { continue };
        let outcome = if title.starts_with("# skip") { Outcome::Skipped } else { outcome };
        let title = title.trim_start_matches("- ").trim_start_matches("# skip ").to_owned();
        let left_to_git = std::mem::take(&mut left_to_git);
        cases.push(Case { number, title, outcome, made, made_so_far, left_to_git });
        made = 0;
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_told_from_what_was_made_in_them() {
        let cases = parse(
            "# wtpool made here\nok 1 - setup\n# git: the option --force\nnot ok 2 - forced\nok 3 # skip links (no)\n",
        );
        let seen: Vec<_> = cases.iter().map(|c| (c.number, &*c.title, c.outcome, c.made)).collect();
        assert_eq!(
            seen,
            [
                (1, "setup", Outcome::Passed, 1),
                (2, "forced", Outcome::Failed, 0),
                (3, "links (no)", Outcome::Skipped, 0)
            ]
        );
        assert_eq!(cases[1].left_to_git, ["the option --force"]);
        assert_eq!(cases[2].made_so_far, 1);
    }
}
