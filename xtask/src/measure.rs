//! What shared builds save, of disk and of time, measured with the real `wtpool` on a clone of a real
//! repository, and beside it, in the same run, what an ordinary checkout takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{Result, steps};

mod builds;
mod disk;
mod ground;
mod table;
mod volume;

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum What {
    /// The disk that many leases take, each of which changed one line and built, as a multiple of what an
    /// ordinary clone takes with the same change and build.
    Disk(disk::Options),
    /// How long builds take: cold, in fresh and recycled worktrees, after a change, and many at once.
    Builds(builds::Options),
}

/// What all measurements need to know.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The repository; what its HEAD is at is cloned.
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
    /// A Rust source file of a workspace crate: the change is another comment at its end.
    #[arg(long, value_name = "FILE")]
    edit: PathBuf,
    /// A cache strategy of wtpool's; several are measured one after the other.
    #[arg(long = "strategy", value_name = "STRATEGY", default_value = "seeded")]
    strategies: Vec<String>,
    /// How many leases there are at once.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    leases: u32,
    /// Where the clones and pools are made, and removed again; by default in the directory for temporary files.
    #[arg(long = "in", value_name = "DIR")]
    place: Option<PathBuf>,
    /// Make a filesystem of that kind in a file there, and measure on it. For root, on Linux.
    #[arg(long, value_enum)]
    filesystem: Option<volume::Kind>,
    /// How large that filesystem is; only what is written takes disk.
    #[arg(long, value_name = "GIB", default_value_t = 30)]
    size: u64,
    /// Use this `wtpool` and build none (an optimised one, as people have).
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Common {
    fn program(&self) -> Result<PathBuf> {
        match &self.program {
            Some(program) => Ok(program.canonicalize()?),
            None => steps::build_wtpool(steps::Profile::Release),
        }
    }
}

/// Measures, and prints a table.
///
/// # Errors
///
/// When something that is to be measured fails.
pub(crate) fn run(what: &What) -> Result {
    match what {
        What::Disk(options) => disk::run(options),
        What::Builds(options) => builds::run(options),
    }
}
