//! The steps that are one cargo command each.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Result;

/// Checks the format of all crates.
pub(crate) fn fmt() -> Result {
    cargo(&["fmt", "--all", "--check"])
}

/// Lints everything.
pub(crate) fn clippy() -> Result {
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
}

/// Builds the documentation of all crates.
pub(crate) fn doc() -> Result {
    let mut command = command(&["doc", "--no-deps", "--workspace"]);
    finish(command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Checks the dependencies. Advisories are left out: their database is a download of its own.
pub(crate) fn deny() -> Result {
    cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"])
}

/// Runs the first command of the README, as it stands there, in this checkout. The second one is
/// what [`test()`] runs.
pub(crate) fn readme() -> Result {
    let readme = std::fs::read_to_string(workspace().join("README.md"))?;
    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let commands: Vec<&str> = block.unwrap_or_default().lines().collect();
    let [first, "cargo test --workspace"] = commands[..] else {
        return Err(format!("the README begins with other commands: {commands:?}").into());
    };
    eprintln!("\n== {first}");
    let status = Command::new("sh").args(["-c", first]).current_dir(workspace()).status()?;
    if status.success() { Ok(()) } else { Err(format!("failed: {first}").into()) }
}

/// Runs all tests, and counts them: a run that executes none proves nothing.
pub(crate) fn test() -> Result {
    let mut command = command(&["test", "--workspace"]);
    announce(&command);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut passed = 0;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            passed += passed_in(&line);
        }
    }
    if !child.wait()?.success() {
        return Err("tests failed: see above which".into());
    }
    if passed == 0 {
        return Err("no test was executed: cargo found none, or its output has a new form".into());
    }
    println!("{passed} tests passed");
    Ok(())
}

/// The number in a line such as `test result: ok. 11 passed; 0 failed; …`.
fn passed_in(line: &str) -> u64 {
    line.strip_prefix("test result: ok. ")
        .and_then(|rest| rest.split_once(" passed;"))
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

/// How a program is built.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    /// With the steps at which it can be killed.
    Failpoints,
    Release,
}

/// Builds `wtpool` and returns where it is, as cargo says.
#[cfg(unix)]
pub(crate) fn build_wtpool(profile: Profile) -> Result<PathBuf> {
    let mut command =
        command(&["build", "-p", "pool-cli", "--message-format", "json-render-diagnostics"]);
    match profile {
        Profile::Dev => {}
        Profile::Failpoints => drop(command.args(["--features", "failpoints"])),
        Profile::Release => drop(command.arg("--release")),
    }
    announce(&command);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("wtpool does not build".into());
    }
    for message in serde_json::Deserializer::from_slice(&output.stdout).into_iter() {
        let message: serde_json::Value = message?;
        if let (Some("wtpool"), Some(path)) =
            (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            return Ok(path.into());
        }
    }
    Err("cargo built pool-cli, but no program wtpool came of it".into())
}

pub(crate) fn command(args: &[&str]) -> Command {
    // The cargo that runs this program, and thus the same toolchain.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace());
    command
}

fn cargo(args: &[&str]) -> Result {
    finish(&mut command(args))
}

fn finish(command: &mut Command) -> Result {
    announce(command);
    if command.status()?.success() {
        Ok(())
    } else {
        Err(format!("failed: {}", shown(command)).into())
    }
}

pub(crate) fn announce(command: &Command) {
    eprintln!("\n== {}", shown(command));
}

fn shown(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    format!("cargo {}", args.join(" "))
}

/// The workspace's root: the directory above this crate.
pub(crate) fn workspace() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from);
    here.parent().map_or(here.clone(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::passed_in;

    #[test]
    fn passed_tests_are_counted() {
        assert_eq!(passed_in("test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured"), 11);
        assert_eq!(passed_in("test result: FAILED. 10 passed; 1 failed; 0 ignored"), 0);
        assert_eq!(passed_in("test passed_tests_are_counted ... ok"), 0);
    }
}
