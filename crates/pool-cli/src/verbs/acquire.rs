//! `wtpool acquire`.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use pool_core::{Error, ErrorKind, LeaseGuard, Outcome, Release};
use rustix::fs::{OFlags, fcntl_getfl, fstat};

use crate::acquire::{Keeper, lease, request, tell_left_out};
use crate::cargo_home;
use crate::cli::{Global, LeaseOptions};
use crate::context::{Access, Context};
use crate::error::{Failure, Result, invalid};
use crate::output::{self, LeaseDocument, branch, short};
use crate::signals::Signals;

pub(crate) async fn perform(global: &Global, options: &LeaseOptions) -> Result<u8> {
    if options.name.is_none() {
        readable()?;
    }
    let mut signals = Signals::catch()?;
    let context = Context::open(global, options.cache.as_deref(), Access::Lease)?;
    let parent = std::os::unix::process::parent_id();
    let request = request(&context, options, Keeper::Nobody, &format!("acquired by pid {parent}"))?;
    context.leave_slot();
    let guard = lease(&context, request, &mut signals).await?;
    hand_over(&context, guard).await?;
    Ok(0)
}

/// Prints what was leased, and lets the lease live on. Who can't be told of it does not get it.
pub(crate) async fn hand_over(context: &Context, guard: LeaseGuard) -> Result<()> {
    if let Err(failure) = print(context, &guard) {
        let how = Release { outcome: Outcome::Success, linger: Some(Duration::ZERO) };
        guard.release(how).await?;
        return Err(match failure {
            Failure::Unread => unread().into(),
            other => other,
        });
    }
    pool_core::fail_point!("pool-cli::acquire::printed");
    tell_left_out(context, &guard);
    // Whether or not the caller wants remarks: what it builds may be another's.
    if let Some(warning) = cargo_home::warning(&guard.path()).filter(|_| !context.out.json) {
        output::say(&format!("wtpool: {warning}"));
    }
    let lease = guard.keep();
    super::cache::start_if_missing(context, &lease);
    context.out.remark(format!(
        "wtpool: {} ({}, base {}); give it back with: wtpool release {}",
        lease.name,
        branch(&lease).map_or("detached".to_owned(), |name| format!("branch {name}")),
        short(&lease.base.commit),
        lease.name
    ));
    Ok(())
}

/// Refuses to lease something for nobody: whoever closed the standard output can't learn which
/// worktree it is. Rust's runtime opens the null device in the place of a closed one, to read and to
/// write, so that writing to it succeeds. Some programs hand down such a one to discard what is
/// printed, which comes to the same; who wants that names the lease, and finds it by its name.
pub(crate) fn readable() -> Result<()> {
    let stdout = std::io::stdout();
    let for_both = fcntl_getfl(&stdout).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    let null = std::fs::metadata("/dev/null").map(|meta| meta.rdev());
    match (fstat(&stdout), null) {
        (Ok(stat), Ok(null)) if for_both && stat.st_rdev == null => Err(unread().into()),
        _ => Ok(()),
    }
}

fn unread() -> Error {
    let message = "nobody reads the standard output, so nobody would know of the lease";
    Error::new(ErrorKind::Other, message)
        .with_hint("read the path that is printed, or discard it and choose a `--name`")
}

fn print(context: &Context, guard: &LeaseGuard) -> Result<()> {
    let path = guard.path();
    if context.out.json {
        let document = LeaseDocument::new(context, guard.slot(), guard.lease(), "leased");
        let document = document.with_inherited();
        return context.out.document(&document);
    }
    let printed = path.to_str().filter(|path| !path.contains('\n'));
    let printed = printed.ok_or_else(|| {
        invalid(format!("the path {} can't be printed on one line", path.display()))
            .with_hint("choose another directory with `--pool-dir`")
    })?;
    context.out.exactly(printed)
}
