//! One module per verb.

mod acquire;
mod adopt;
pub(crate) mod cache;
mod config;
mod doctor;
mod end_session;
mod events;
mod list;
mod prune;
mod release;
mod renew;
mod rescue;
mod run;
mod show;
mod warm;

use clap::CommandFactory;

use crate::cli::{Cli, Verb};
use crate::error::Result;
use crate::output::Output;
use crate::{reaper, settings};

/// Does what the command line says, and returns the exit status.
pub(crate) async fn perform(Cli { global, verb }: Cli) -> Result<u8> {
    if !matches!(verb, Verb::Completions { .. } | Verb::Doctor | Verb::Reaper) {
        warn_of_slips(&Output::new(global.json, global.quiet));
    }
    match verb {
        Verb::Run { lease, command } => run::perform(&global, &lease, &command).await,
        Verb::Acquire(lease) => acquire::perform(&global, &lease).await,
        Verb::Renew { lease, own, ttl } => {
            renew::perform(&global, &lease, own.lease.as_deref(), ttl).await
        }
        Verb::Release { lease, own, outcome, linger } => {
            release::perform(&global, &lease, own.lease.as_deref(), outcome, linger).await
        }
        Verb::List => list::perform(&global).await,
        Verb::Show { lease } => show::perform(&global, &lease).await,
        Verb::Warm { count, base, cache } => {
            warm::perform(&global, count, base, cache.as_deref()).await
        }
        Verb::Prune { dry_run, all } => prune::perform(&global, dry_run, all).await,
        Verb::EndSession { session } => end_session::perform(&global, &session).await,
        Verb::Adopt { pool } => adopt::perform(&global, &pool).await,
        Verb::Rescue(verb) => rescue::perform(&global, verb).await,
        Verb::Doctor => doctor::perform(&global).await,
        Verb::Config => config::perform(&global),
        Verb::Events { follow } => events::perform(&global, follow).await,
        Verb::Completions { shell } => {
            // It panics when it can't write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "wtpool", &mut script);
            Output::new(global.json, global.quiet)
                .exactly(String::from_utf8_lossy(&script).trim_end())?;
            Ok(0)
        }
        Verb::Cache(verb) => cache::perform(&global, verb).await,
        Verb::BuildBase { base, cache } => cache::build_base(&global, base, &cache).await,
        Verb::Reaper => Ok(reaper::live(&global).await.map(|()| 0)?),
    }
}

/// A setting whose name is misspelt has no effect, which is not seen until it is too late. Programs
/// that read documents find it in `doctor`.
fn warn_of_slips(out: &Output) {
    for (name, meant) in settings::unknown_variables() {
        let meant = meant.map_or(String::new(), |meant| format!("; is it {meant} that was meant?"));
        out.remark(format!("warning: {name} is set, and there is no such setting{meant}"));
    }
}
