//! `wtpool acquire`.

use pool_core::{LeaseGuard, Release};

use crate::acquire::{Keeper, lease, request};
use crate::cli::{Global, LeaseOptions};
use crate::context::{Access, Context};
use crate::error::{Result, invalid};
use crate::output::{LeaseDocument, branch, short};
use crate::signals::Signals;

pub(crate) async fn perform(global: &Global, options: &LeaseOptions) -> Result<u8> {
    let mut signals = Signals::catch()?;
    let context = Context::open(global, options.cache.as_deref(), Access::Lease)?;
    let parent = std::os::unix::process::parent_id();
    let request = request(&context, options, Keeper::Nobody, &format!("acquired by pid {parent}"))?;
    let guard = lease(&context, request, &mut signals).await?;
    hand_over(&context, guard).await?;
    Ok(0)
}

/// Prints what was leased, and lets the lease live on. Who can't be told of it does not get it.
pub(crate) async fn hand_over(context: &Context, guard: LeaseGuard) -> Result<()> {
    if let Err(failure) = print(context, &guard) {
        guard.release(Release::default()).await?;
        return Err(failure);
    }
    let lease = guard.keep();
    context.out.remark(format!(
        "wtpool: {} ({}, base {}); give it back with: wtpool release {}",
        lease.name,
        branch(&lease).map_or("detached".to_owned(), |name| format!("branch {name}")),
        short(&lease.base.commit),
        lease.name
    ));
    Ok(())
}

fn print(context: &Context, guard: &LeaseGuard) -> Result<()> {
    let path = guard.path();
    if context.out.json {
        let document = LeaseDocument::new(context, guard.slot(), guard.lease(), "leased");
        return context.out.document(&document);
    }
    let printed = path.to_str().filter(|path| !path.contains('\n'));
    let printed = printed.ok_or_else(|| {
        invalid(format!("the path {} can't be printed on one line", path.display()))
            .with_hint("choose another directory with `--pool-dir`")
    })?;
    context.out.line(printed)
}
