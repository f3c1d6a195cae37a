//! `wtpool cache`.

use std::time::Duration;

use bytesize::ByteSize;
use pool_core::{Error, Prepared, SlotId};
use serde::Serialize;

use crate::background;
use crate::cli::{CacheVerb, Global};
use crate::context::{Access, Context};
use crate::error::Result;
use crate::progress::Progress;

#[derive(Serialize)]
struct UsageDocument {
    strategy: String,
    cache_bytes: u64,
    slots: Vec<SlotUsage>,
}

#[derive(Serialize)]
struct SlotUsage {
    slot: SlotId,
    bytes: u64,
}

#[derive(Serialize)]
struct TrimDocument {
    freed_bytes: u64,
}

pub(crate) async fn perform(global: &Global, verb: CacheVerb) -> Result<u8> {
    let context = Context::open(global, None, Access::Visit)?;
    match verb {
        CacheVerb::Usage => usage(&context).await,
        CacheVerb::Trim { to } => trim(&context, to.unwrap_or_default()).await,
    }
}

async fn usage(context: &Context) -> Result<u8> {
    let cache = context.pool.cache();
    let mut document = UsageDocument {
        strategy: cache.map_or_else(String::new, |cache| cache.name().to_owned()),
        cache_bytes: match cache {
            Some(cache) => cache.usage().await?,
            None => 0,
        },
        slots: Vec::new(),
    };
    for slot in context.pool.list().await?.slots.into_keys() {
        // One that went meanwhile takes nothing.
        let bytes = context.pool.isolator().usage(slot).await.unwrap_or(0);
        document.slots.push(SlotUsage { slot, bytes });
    }
    if context.out.json {
        context.out.document(&document)?;
        return Ok(0);
    }
    let size = |bytes: u64| ByteSize(bytes).display().si().to_string();
    context.out.line(format!("cache ({})  {}", document.strategy, size(document.cache_bytes)))?;
    for SlotUsage { slot, bytes } in document.slots {
        context.out.line(format!("slot {slot}  {} of its own", size(bytes)))?;
    }
    Ok(0)
}

async fn trim(context: &Context, to: ByteSize) -> Result<u8> {
    let freed_bytes = match context.pool.cache() {
        Some(cache) => cache.trim(to.as_u64()).await?,
        None => 0,
    };
    context.out.remark(format!("wtpool: {} freed", ByteSize(freed_bytes).display().si()));
    if context.out.json {
        context.out.document(&TrimDocument { freed_bytes })?;
    }
    Ok(0)
}

/// What [`start_if_missing`] starts.
pub(crate) async fn build_base(global: &Global, base: String, strategy: &str) -> Result<u8> {
    background::detach();
    background::yield_to_others();
    let context = Context::open(global, Some(strategy), Access::Visit)?;
    if context.exists
        && let Prepared::Failed { why } =
            context.pool.prepare_cache(Some(base), None, &|_| ()).await?
    {
        context.out.remark(format!("wtpool: {FAILED}: {why}"));
    }
    Ok(0)
}

/// Has the base built in the background, when a lease found none to start from.
pub(crate) fn start_if_missing(context: &Context, lease: &pool_core::Lease) {
    if !lease.attachment.unprepared || !context.settings.cache.auto {
        return;
    }
    // Which may be another strategy than that of the settings.
    let (base, strategy) = (lease.base.commit.as_str(), lease.attachment.strategy.as_str());
    let args = ["build-base", "--base", base, "--cache", strategy];
    if let Err(error) = background::start(&context.pool_dir, &args, "build-base.log") {
        // Builds are slower without; the next lease tries again.
        tracing::warn!(target: "wtpool", %error, "the base of the build cache is not being built");
    }
}

/// How often a process that waits for another one's build looks whether that has ended.
const BUILT_YET: Duration = Duration::from_secs(1);

const FAILED: &str = "the base of the build cache could not be built";

/// Builds the base now. Waits for another process that builds one. Returns why there is none
/// afterwards, if a strategy builds one at all.
pub(crate) async fn prepare(context: &Context, base: Option<String>) -> Option<Error> {
    let progress = Progress::spinner(&context.out, "building the base of the build cache");
    let origin = context.repository.worktree().map(std::path::Path::to_owned);
    let tell = |step: &str| progress.message(format!("the base of the build cache: {step}"));
    let mut waits = false;
    let prepared = loop {
        match context.pool.prepare_cache(base.clone(), origin.clone(), &tell).await {
            Ok(Prepared::Busy) => {
                if !waits {
                    waits = true;
                    tell("another process builds it");
                    context.out.remark("wtpool: waiting for another process that builds the base");
                }
                tokio::time::sleep(BUILT_YET).await;
            }
            prepared => break prepared,
        }
    };
    drop(progress);
    let said = match prepared {
        Ok(Prepared::Built { trouble: None }) => "the base of the build cache is built".to_owned(),
        Ok(Prepared::Built { trouble: Some(trouble) }) => {
            format!("the base of the build cache is incomplete: {trouble}")
        }
        Ok(Prepared::Failed { why }) => format!("{FAILED}: {why}"),
        Ok(_) => return None,
        Err(error) => return Some(error),
    };
    context.out.remark(format!("wtpool: {said}"));
    None
}
