//! `wtpool`: leases git worktrees to coding agents, and takes them back without losing anything.

mod absent;
mod acquire;
mod background;
mod cargo_home;
mod cli;
mod context;
mod error;
mod exposure;
#[cfg(feature = "failpoints")]
mod failpoints;
mod output;
mod progress;
mod reaper;
mod run;
mod settings;
mod signals;
mod space;
mod verbs;

use std::process::ExitCode;

use self::cli::Verb;

fn main() -> ExitCode {
    // Before anything else: it is started for each compilation, and must have one thread only.
    if cache_share::rustc::is_wrapper() {
        return cache_share::rustc::wrap();
    }
    #[cfg(feature = "failpoints")]
    failpoints::arm();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if matches!(cli.verb, Verb::Reaper | Verb::BuildBase { .. }) {
        background::let_go();
    }
    output::start_logging(cli.global.verbose);
    let json = cli.global.json;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(verbs::perform(cli)),
        Err(e) => Err(pool_core::Error::io("start", e).into()),
    };
    ExitCode::from(ended.unwrap_or_else(|failure| error::report(&failure, json)))
}
