//! What continuous integration does, step by step: `cargo xtask ci` is all of it, in its order, and
//! each step can be had alone.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(unix)]
mod contend;
#[cfg(target_os = "linux")]
mod crash;
mod faults;
#[cfg(unix)]
mod measure;
#[cfg(unix)]
mod mutants;
mod named;
#[cfg(target_os = "linux")]
mod power;
#[cfg(unix)]
mod secluded;
mod steps;
#[cfg(unix)]
mod worktree_tests;

/// Why a step failed. Its text is all that anybody needs of it.
type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Args {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    /// Every step below, in this order, stopping at the first that fails.
    Ci,
    /// Is everything formatted?
    Fmt,
    /// Lints of all targets with all features; a warning is an error.
    Clippy,
    /// The first command of the README.
    Readme,
    /// All tests. Fails when none was executed.
    Test,
    /// The documentation; a warning is an error.
    Doc,
    /// Licences, duplicate versions and sources of the dependencies, with cargo-deny.
    Deny,
    /// The tests of the table of faults, and `FAULTS.md` from what came of them; no part of `ci`, which
    /// runs them with all others.
    Faults,
    /// Takes each guard against lost work away in turn, and sees whether a test notices; no part of `ci`.
    #[cfg(unix)]
    Mutants(mutants::Options),
    /// Losses of power while agents work; then a look at what is left. As root; no part of `ci`.
    #[cfg(target_os = "linux")]
    Power(power::Options),
    /// Many processes on one pool while somebody else fetches, collects garbage, prunes and makes worktrees
    /// with git; then an audit of errors, order and losses.
    #[cfg(unix)]
    Contend(contend::Options),
    /// Git's own tests of worktrees, from a copy of its source, on worktrees that wtpool made.
    #[cfg(unix)]
    GitWorktreeTests(worktree_tests::Options),
    /// Kills the program at each of its steps, and all that runs in a busy pool at random; then reconciles once,
    /// and looks for every commit and file that was made, and for whatever is left behind.
    #[cfg(target_os = "linux")]
    Crash(crash::Options),
    /// Stops the program between each two looks at what others change, while others work; then looks for every lease and
    /// worktree.
    #[cfg(target_os = "linux")]
    Pause(crash::pause::Options),
    /// What shared builds save on a real repository, of disk and of time; no part of `ci`.
    #[cfg(unix)]
    #[command(subcommand)]
    Measure(measure::What),
}

fn main() -> ExitCode {
    match run(Args::parse().step) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(step: Step) -> Result {
    match step {
        Step::Fmt => steps::fmt(),
        Step::Clippy => steps::clippy(),
        Step::Readme => steps::readme(),
        Step::Test => steps::test(),
        Step::Doc => steps::doc(),
        Step::Deny => steps::deny(),
        Step::Faults => faults::run(),
        #[cfg(unix)]
        Step::Mutants(options) => mutants::run(&options),
        #[cfg(target_os = "linux")]
        Step::Power(options) => power::run(&options),
        #[cfg(unix)]
        Step::Contend(options) => contend::run(&options),
        #[cfg(unix)]
        Step::GitWorktreeTests(options) => worktree_tests::run(&options),
        #[cfg(target_os = "linux")]
        Step::Crash(options) => crash::run(&options),
        #[cfg(target_os = "linux")]
        Step::Pause(options) => crash::pause::run(&options),
        #[cfg(unix)]
        Step::Measure(what) => measure::run(&what),
        Step::Ci => {
            steps::fmt()?;
            steps::clippy()?;
            steps::readme()?;
            steps::test()?;
            steps::doc()?;
            steps::deny()?;
            #[cfg(unix)]
            contend::run(&contend::Options::slice())?;
            #[cfg(unix)]
            contend::run(&contend::Options::slice_of_keepers())?;
            #[cfg(target_os = "linux")]
            crash::pause::run(&crash::pause::Options::slice())?;
            #[cfg(target_os = "linux")]
            crash::run(&crash::Options::slice())?;
            Ok(())
        }
    }
}
