//! `wtpool run`.

use std::ffi::OsString;
use std::time::Duration;

use pool_core::{EndReason, ErrorKind, Finish, Release};
use serde::Serialize;

use crate::acquire::{Keeper, lease, request, tell_left_out};
use crate::cli::{Global, LeaseOptions};
use crate::context::{Access, Context};
use crate::error::{self, Result};
use crate::exposure;
use crate::output::{self, LeaseDocument, ReleaseDocument, ending, short, story};
use crate::progress::Progress;
use crate::reaper;
use crate::run::{Ended, inside};
use crate::settings::PATIENCE;
use crate::signals::Signals;

/// How long a command must have run before it is worth building for those that follow it.
const SETTLED: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct SurvivedDocument {
    lease: pool_core::LeaseId,
    disposition: &'static str,
    kept_because: String,
}

pub(crate) async fn perform(
    global: &Global,
    options: &LeaseOptions,
    command: &[OsString],
) -> Result<u8> {
    let mut signals = Signals::catch()?;
    let context = Context::open(global, options.cache.as_deref(), Access::Lease)?;
    let program =
        command.first().map(|c| output::printable(&c.to_string_lossy())).unwrap_or_default();
    let purpose = format!("{program} (pid {})", std::process::id());
    let request = request(&context, options, Keeper::Claim, &purpose)?;
    let guard = lease(&context, request, &mut signals).await?;
    announce(&context, &guard)?;
    let ended = {
        let command = inside(&context, &guard, command, &mut signals);
        tokio::pin!(command);
        tokio::select! {
            ended = &mut command => ended,
            // Not for one that only looks around: nothing of it shall stay behind.
            () = tokio::time::sleep(SETTLED) => {
                super::cache::start_if_missing(&context, guard.lease());
                command.await
            }
        }
    }?;
    if let Ended::NotStarted(e) = &ended {
        error::tell(
            ErrorKind::InvalidInput.as_str(),
            &format!("cannot run {program}: {e}"),
            None,
            global.json,
        );
    }
    pool_core::fail_point!("pool-cli::run::ended");
    let given_back = give_back(&context, guard, &ended).await;
    reaper::ensure_if_needed(&context).await;
    if let Err(failure) = given_back {
        // It says nothing of how the command went. The lease has lost its holder, and is ended by the reaper.
        error::report(&failure, global.json);
    }
    Ok(ended.code())
}

/// The output belongs to the command: all that is ours to say goes to stderr.
fn announce(context: &Context, guard: &pool_core::LeaseGuard) -> Result<()> {
    let (path, lease) = (guard.path(), guard.lease());
    if context.out.json {
        output::say(&output::json(&LeaseDocument::new(context, guard.slot(), lease, "leased"))?);
    }
    let branch =
        output::branch(lease).map_or("detached".to_owned(), |name| format!("branch {name}"));
    context.out.remark(format!(
        "wtpool: {} ({branch}, base {})",
        path.display(),
        short(&lease.base.commit)
    ));
    tell_left_out(context, guard);
    Ok(())
}

async fn give_back(context: &Context, guard: pool_core::LeaseGuard, ended: &Ended) -> Result<()> {
    let (path, id, name) = (guard.path(), guard.lease().id.clone(), guard.lease().name.clone());
    let how = Release { outcome: ended.outcome(), linger: None };
    let progress = Progress::spinner(&context.out, "saving what would be lost");
    let finish = guard.finish(how, PATIENCE).await;
    drop(progress);
    match finish? {
        Finish::Released(report) => {
            if context.out.json {
                output::say(&output::json(&ReleaseDocument::new(&id, &report))?);
            }
            if report.reason != EndReason::Released {
                context.out.remark(format!("wtpool: {}", ending(&report, &name, &id)));
            }
            for line in story(&report, &path, name.as_str()) {
                context.out.remark(format!("wtpool: {line}"));
            }
            if report.rescue.is_some() {
                exposure::tell_once(context);
            }
        }
        Finish::Survived => {
            let why = why_kept(context, &id).await;
            if context.out.json {
                let document = SurvivedDocument {
                    lease: id.clone(),
                    disposition: "leased",
                    kept_because: why.clone(),
                };
                output::say(&output::json(&document)?);
            }
            context.out.remark(format!(
                "wtpool: {} stays leased: {why}; the lease ends with it (after {} if it stands \
                 elsewhere), or with: wtpool release {name}",
                path.display(),
                context.settings.grace
            ));
        }
    }
    Ok(())
}

/// Why a lease goes on whose command is over, as the records have it.
async fn why_kept(context: &Context, id: &pool_core::LeaseId) -> String {
    let kept = match context.pool.list().await {
        Ok(state) => {
            let mut leases = state.slots.values().filter_map(|slot| slot.state.lease());
            leases.find(|lease| lease.id == *id).and_then(|lease| lease.kept_because.clone())
        }
        Err(_) => None,
    };
    kept.unwrap_or_else(|| "its command is over, but something it started still runs".to_owned())
}
