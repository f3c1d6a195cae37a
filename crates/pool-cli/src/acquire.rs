//! From the lease options to a lease: what `run` and `acquire` have in common.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use pool_core::{
    BranchWish, ErrorKind, Event, EventKind, LeaseGuard, LeaseId, Liveness, Owner, Pool,
    ProcessIdentity, Request, SessionId, Wish,
};
use tokio::sync::{broadcast, oneshot};

use crate::cli::LeaseOptions;
use crate::context::Context;
use crate::error::{Failure, Result, invalid};
use crate::output::{counted, printable};
use crate::progress::Progress;
use crate::reaper;
use crate::signals::Signals;
use crate::space;

/// Whose life the lease shares when the options name nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// This process, and what inherits its claim.
    Claim,
    /// Nobody.
    Nobody,
}

/// Makes a request of the options.
pub(crate) fn request(
    context: &Context,
    options: &LeaseOptions,
    keeper: Keeper,
    purpose: &str,
) -> pool_core::Result<Request> {
    let liveness = context.pool.liveness();
    let owner = match (options.owner_pid, keeper) {
        (Some(pid), Keeper::Nobody) => Owner::Process(identify(liveness, pid, "--owner-pid")?),
        (Some(_), Keeper::Claim) => {
            return Err(invalid("a lease that runs a command has that command as its owner")
                .with_hint("leave --owner-pid out, or use `wtpool acquire`"));
        }
        (None, Keeper::Claim) => Owner::Holder,
        (None, Keeper::Nobody) => Owner::Detached,
    };
    let default_ttl = (owner == Owner::Detached).then_some(context.settings.ttl);
    let branch = match (&options.branch, options.detach) {
        (Some(name), _) => BranchWish::Named(name.clone()),
        (None, true) => BranchWish::Detached,
        (None, false) => BranchWish::Generated,
    };
    Ok(Request {
        wish: Wish {
            base: options.base.clone(),
            origin: context.repository.worktree().map(Path::to_owned),
            branch,
        },
        name: options.name.clone(),
        holder: options.holder.clone().unwrap_or_else(|| purpose.to_owned()),
        session: session(liveness, options)?,
        owner,
        ttl: options.ttl.or(default_ttl).map(|ttl| ttl.0),
        linger: options.linger.unwrap_or(context.settings.linger).0,
        wait: Some(options.wait.unwrap_or(context.settings.wait).0),
    })
}

fn session(
    liveness: &dyn Liveness,
    options: &LeaseOptions,
) -> pool_core::Result<Option<(SessionId, Option<ProcessIdentity>)>> {
    let process =
        options.session_pid.map(|pid| identify(liveness, pid, "--session-pid")).transpose()?;
    match (&options.session, process) {
        (Some(id), process) => Ok(Some((id.clone(), process))),
        // A session without a name is called after its process, which no later one can be.
        (None, Some(process)) => {
            let id = SessionId::new(format!("pid-{}-{}", process.pid, process.start_time))?;
            Ok(Some((id, Some(process))))
        }
        (None, None) => Ok(None),
    }
}

fn identify(liveness: &dyn Liveness, pid: u32, flag: &str) -> pool_core::Result<ProcessIdentity> {
    liveness.identify(pid).ok_or_else(|| {
        invalid(format!("{flag}: there is no process {pid}"))
            .with_hint("name one that runs, on this machine and in this container")
    })
}

/// Tells of the set-up files that are wanted and did not come along.
pub(crate) fn tell_left_out(context: &Context, guard: &LeaseGuard) {
    for what in context.git.left_out(guard.slot()) {
        context.out.remark(format!("wtpool: not copied: {}", printable(&what)));
    }
}

/// Leases a worktree. A person at a terminal sees how far it is; a signal gives it up.
pub(crate) async fn lease(
    context: &Context,
    request: Request,
    signals: &mut Signals,
) -> Result<LeaseGuard> {
    space::make_room(context).await?;
    let retry = request.wait.is_some_and(|wait| wait.is_zero()).then(|| request.clone());
    match attempt(context, request, signals).await {
        // Perhaps it is only full of leases whose end nobody has noticed yet.
        Err(Failure::Error(error)) if error.kind() == ErrorKind::PoolFull && retry.is_some() => {
            let found = context.pool.reconcile().await?;
            match retry {
                Some(request) if !found.done.is_empty() => attempt(context, request, signals).await,
                _ => Err(error.into()),
            }
        }
        done => done,
    }
}

async fn attempt(context: &Context, request: Request, signals: &mut Signals) -> Result<LeaseGuard> {
    let pool = &context.pool;
    let mut events = pool.subscribe();
    let progress = Progress::spinner(&context.out, "leasing a worktree");
    let mut id: Option<LeaseId> = None;
    // Dropped with the end of the wait, which ends what goes on beside it.
    let mut waiting = None;
    let making = async {
        let reservation = pool.reserve(request).await?;
        progress.message(format!("making {}", reservation.path().display()));
        reservation.materialise().await
    };
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let ended = {
        tokio::pin!(making);
        loop {
            tokio::select! {
                made = &mut making => break Ok(made?),
                event = events.recv() => {
                    if let Some(own) = queued(event) {
                        // From here on something may be left behind, whatever becomes of us.
                        reaper::ensure(context);
                        let (held, over) = oneshot::channel();
                        let period = context.settings.reap_interval.0 * 2;
                        drop(tokio::spawn(stand_in(pool.clone(), own.clone(), period, over)));
                        waiting = Some(held);
                        id = Some(own);
                    }
                }
                _ = tick.tick() => {
                    if let (Some(id), true) = (&id, context.out.watched()) {
                        show_position(pool, id, begun, &progress).await;
                    }
                }
                arrived = signals.next() => break Err(arrived.number),
            }
        }
    };
    drop(waiting);
    match ended {
        Ok(guard) => {
            if id.is_none() {
                reaper::ensure(context);
            }
            Ok(guard)
        }
        Err(signal) => {
            withdrawn(pool, id.as_ref()).await;
            Err(Failure::Interrupted(signal))
        }
    }
}

/// Reconciles as long as this request is first in the queue: the reaper may have been stopped, or be
/// held up by one slot while others could be had.
async fn stand_in(
    pool: Pool,
    own: LeaseId,
    period: Duration,
    mut over: oneshot::Receiver<Infallible>,
) {
    let mut events = pool.subscribe();
    let mut waits = true;
    loop {
        tokio::select! {
            _ = &mut over => return,
            () = tokio::time::sleep(period), if waits => {}
            // A request that was granted a slot returns to the queue only by a change of this
            // process. Until then the records are not read: each of hundreds of processes would.
            _ = events.recv(), if !waits => {}
        }
        let Ok(state) = pool.list().await else { continue };
        waits = state.waiters.values().any(|waiter| waiter.lease.id == own);
        if state.waiters.values().next().is_some_and(|first| first.lease.id == own)
            && let Err(error) = pool.reconcile().await
        {
            tracing::warn!(target: "wtpool", %error, "could not look for what is over");
        }
    }
}

fn queued(event: Result<Event, broadcast::error::RecvError>) -> Option<LeaseId> {
    event.ok().filter(|event| event.kind == EventKind::Queued)?.lease
}

async fn show_position(pool: &Pool, id: &LeaseId, begun: Instant, progress: &Progress) {
    let Ok(state) = pool.list().await else { return };
    if let Some(before) = state.waiters.values().position(|w| w.lease.id == *id) {
        let ahead = counted(before as u64, "other");
        let waited = crate::output::age(begun.elapsed());
        progress.message(format!(
            "all {} slots are in use; waiting for {waited}, behind {ahead}",
            pool.settings().max_leases
        ));
    }
}

/// A request that was dropped is withdrawn in the background: gives that a moment. What then is
/// still left, the reaper cleans up.
async fn withdrawn(pool: &Pool, id: Option<&LeaseId>) {
    let Some(id) = id else { return };
    for _ in 0..100 {
        let Ok(state) = pool.list().await else { return };
        let waits = state.waiters.values().any(|w| w.lease.id == *id);
        let stands = state.slots.values().filter_map(|s| s.state.lease()).any(|l| l.id == *id);
        if !waits && !stands {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
