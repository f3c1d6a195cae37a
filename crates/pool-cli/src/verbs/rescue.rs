//! `wtpool rescue`.

use std::path::{Path, PathBuf};

use pool_core::{
    Error, ErrorKind, Outcome, Plan, Release, Rescue, RescueArchive, RescueId, RescuedPath,
};
use serde::Serialize;

use super::acquire::{hand_over, readable};
use crate::acquire::{Keeper, lease, request};
use crate::cli::{Global, LeaseOptions, RescueVerb};
use crate::context::{Access, Context};
use crate::error::Result;
use crate::exposure;
use crate::output::{self, counted, table};
use crate::progress::Progress;
use crate::signals::Signals;

#[derive(Serialize)]
struct ShowDocument {
    #[serde(flatten)]
    rescue: Rescue,
    contents: Vec<RescuedPath>,
}

#[derive(Serialize)]
struct IntoDocument<'a> {
    rescue: &'a RescueId,
    path: &'a Path,
}

#[derive(Serialize)]
struct DropDocument<'a> {
    dropped: &'a RescueId,
}

pub(crate) async fn perform(global: &Global, verb: RescueVerb) -> Result<u8> {
    let access = match &verb {
        RescueVerb::Restore { into: None, .. } => Access::Lease,
        RescueVerb::List | RescueVerb::Show { .. } => Access::Look,
        _ => Access::Visit,
    };
    let into = match &verb {
        // As seen from the working directory that the caller had.
        RescueVerb::Restore { into: Some(path), .. } => Some(std::path::absolute(path)),
        _ => None,
    };
    let into =
        into.transpose().map_err(|e| Error::io("resolve the directory to restore into", e))?;
    let context = Context::open(global, None, access)?;
    match verb {
        RescueVerb::List => list(&context).await,
        RescueVerb::Show { id } => show(&context, &id).await,
        RescueVerb::Restore { id, .. } => match into {
            Some(path) => restore_into(&context, &id, path).await,
            None => restore_in_lease(&context, &id).await,
        },
        RescueVerb::Drop { id } => {
            context.pool.drop_rescue(&id).await?;
            if context.out.json {
                context.out.document(&DropDocument { dropped: &id })?;
            }
            Ok(0)
        }
    }
}

fn archive(context: &Context) -> pool_core::Result<&dyn RescueArchive> {
    let isolator = context.pool.isolator();
    isolator.rescues().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("the {} backend has no rescues", isolator.name()),
        )
    })
}

async fn list(context: &Context) -> Result<u8> {
    let rescues = archive(context)?.list().await?;
    let lost = context.pool.lost_rescues().await.unwrap_or_default();
    if !lost.is_empty() {
        let lost = counted(lost.len() as u64, "rescue");
        context
            .out
            .remark(format!("wtpool: {lost} deleted by another program; run: wtpool doctor"));
    }
    if !rescues.is_empty() {
        exposure::tell_once(context);
    }
    if context.out.json {
        context.out.document(&rescues)?;
        return Ok(0);
    }
    if rescues.is_empty() {
        context.out.remark("no rescues");
        return Ok(0);
    }
    let rows = rescues.iter().map(|r| {
        let known = |text: String| if r.damage.is_none() { text } else { "damaged".to_owned() };
        [
            r.id.to_string(),
            name_of(r),
            known(r.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()),
            known(r.files.to_string()),
            known(r.commits.to_string()),
            r.reference.clone(),
        ]
    });
    context.out.line(table(["id", "name", "saved", "files", "commits", "ref"], rows.collect()))?;
    Ok(0)
}

/// The name of the lease that it was saved from, and the linked worktree in that, if it is of one.
fn name_of(rescue: &Rescue) -> String {
    let name = rescue.name.as_ref().map_or("-".to_owned(), ToString::to_string);
    match &rescue.worktree {
        Some(worktree) => format!("{name}, {worktree}"),
        None => name,
    }
}

async fn show(context: &Context, id: &RescueId) -> Result<u8> {
    let archive = archive(context)?;
    let contents = archive.contents(id).await?;
    let rescue = archive.list().await?.into_iter().find(|r| r.id == *id);
    let rescue = rescue
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no rescue {id}")))?;
    if context.out.json {
        context.out.document(&ShowDocument { rescue, contents })?;
        return Ok(0);
    }
    if let Some(worktree) = &rescue.worktree {
        context.out.line(format!("of the linked worktree {}", output::printable(worktree)))?;
    }
    context.out.line(format!(
        "{}: {}, {}",
        rescue.reference,
        counted(rescue.files, "file"),
        counted(rescue.commits, "commit")
    ))?;
    if !contents.is_empty() {
        let rows = contents.into_iter().map(|p| [p.status, output::size(p.bytes), p.path]);
        context.out.line(table(["status", "size", "path"], rows.collect()))?;
    }
    Ok(0)
}

async fn restore_into(context: &Context, id: &RescueId, path: PathBuf) -> Result<u8> {
    let progress = Progress::spinner(&context.out, format!("restoring {}", path.display()));
    let restored = archive(context)?.restore_into(id, &path).await;
    drop(progress);
    restored?;
    if context.out.json {
        context.out.document(&IntoDocument { rescue: id, path: &path })?;
    } else {
        context.out.exactly(&path.display().to_string())?;
    }
    Ok(0)
}

async fn restore_in_lease(context: &Context, id: &RescueId) -> Result<u8> {
    readable()?;
    let mut signals = Signals::catch()?;
    let archive = archive(context)?;
    let head = archive.head(id).await?;
    let options = LeaseOptions { base: Some(head.to_string()), ..LeaseOptions::default() };
    // Held by this process for as long as there is only a part of it: nobody knows of the lease yet.
    let request = request(context, &options, Keeper::Claim, &format!("rescue restore {id}"))?;
    let mut guard = lease(context, request, &mut signals).await?;
    let held = guard.lease();
    let plan = Plan {
        slot: guard.slot(),
        lease: Some((held.id.clone(), held.name.clone())),
        base: held.base.clone(),
    };
    if let Err(error) = archive.restore_onto(id, &plan).await {
        let how = Release { outcome: Outcome::Failure, linger: Some(std::time::Duration::ZERO) };
        guard.release(how).await?;
        return Err(error.into());
    }
    guard.detach(context.settings.ttl.0).await?;
    hand_over(context, guard).await?;
    Ok(0)
}
