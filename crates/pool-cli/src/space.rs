//! The disk that a pool may take: making room for another lease, or saying what would.

use std::path::Path;

use pool_core::{Error, ErrorKind, PruneOptions, Result, SlotState};

use crate::context::Context;
use crate::output::{counted, size};

/// What a pool may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    /// At the most, all in all; 0: as much as there is.
    most: u64,
    /// So much must stay free on the filesystem.
    floor: u64,
}

impl Limits {
    /// How many bytes must go before another lease is given. Pure.
    fn excess(self, used: u64, free: u64) -> u64 {
        let over = if self.most == 0 { 0 } else { used.saturating_sub(self.most) };
        over.max(self.floor.saturating_sub(free))
    }
}

/// Sees to it that another lease may be given: removes idle slots, those longest unused first, then what
/// lingers, then what builds can make again.
///
/// # Errors
///
/// [`ErrorKind::NoSpace`] when that is not enough; the hint says what would free space.
pub(crate) async fn make_room(context: &Context) -> Result<()> {
    let settings = &context.settings;
    let limits =
        Limits { most: settings.max_disk.as_u64(), floor: settings.min_free_disk.as_u64() };
    if limits == Limits::default() {
        return Ok(());
    }
    let mut excess = measure(context, limits)?;
    for slot in context.pool.list().await?.idle_by_last_use() {
        if excess == 0 {
            return Ok(());
        }
        if context.pool.evict(slot).await? {
            context.pool.isolator().sweep(&|_| ()).await?;
            excess = measure(context, limits)?;
        }
    }
    if excess > 0 {
        let everything = PruneOptions { all: true, ..PruneOptions::default() };
        context.pool.prune(everything, &|_| ()).await?;
        excess = measure(context, limits)?;
    }
    if excess > 0
        && let Some(cache) = context.pool.cache()
    {
        let budget = cache.usage().await?.saturating_sub(excess);
        cache.trim(budget).await?;
        excess = measure(context, limits)?;
    }
    if excess == 0 { Ok(()) } else { Err(refusal(context, limits, excess).await?) }
}

fn measure(context: &Context, limits: Limits) -> Result<u64> {
    // Not looked at where there is no limit: that takes a walk over all files.
    let used = match limits.most {
        0 => 0,
        _ => cache_share::allocated(&[&context.pool_dir]),
    };
    Ok(limits.excess(used, free_space(&context.pool_dir)?))
}

async fn refusal(context: &Context, limits: Limits, excess: u64) -> Result<Error> {
    let free = free_space(&context.pool_dir)?;
    let message = match limits.floor > free {
        true => format!(
            "only {} are free at {}, and min_free_disk is {}",
            size(free),
            context.pool_dir.display(),
            size(limits.floor)
        ),
        false => format!(
            "the pool {} takes {} more than max_disk, which is {}",
            context.pool_dir.display(),
            size(excess),
            size(limits.most)
        ),
    };
    let slots = context.pool.list().await?.slots;
    let used = slots.values().filter(|slot| slot.state != SlotState::Free).count();
    let places = context.pool_dir.join("slots");
    let mut holders = vec![format!(
        "{} in use, {}",
        counted(used as u64, "slot"),
        size(cache_share::allocated(&[&places]))
    )];
    if let Some(cache) = context.pool.cache() {
        holders.push(format!("the build cache, {}", size(cache.usage().await?)));
    }
    Ok(Error::new(ErrorKind::NoSpace, message).with_hint(format!(
        "it is held by {}; end leases that are not needed (`wtpool list`), or change the limit",
        holders.join(", and ")
    )))
}

/// What an ordinary user may still write to the filesystem there, in bytes.
pub(crate) fn free_space(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| Error::io(format!("ask for the free space at {}", dir.display()), e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Names the resource that an error of too little space is about: inodes, if there are none left on the
/// filesystem of `dir`.
pub(crate) fn explained(error: Error, dir: &Path) -> Error {
    let has_none = |s: rustix::fs::StatVfs| s.f_files > 0 && s.f_favail == 0;
    if error.kind() != ErrorKind::NoSpace || !rustix::fs::statvfs(dir).is_ok_and(has_none) {
        return error;
    }
    let message = format!("no free inodes on the filesystem of {}: {error}", dir.display());
    Error::new(ErrorKind::NoSpace, message).with_hint(
        "delete some files on that filesystem; `wtpool prune --all` removes idle worktrees",
    )
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn the_stricter_limit_counts() {
        let none = Limits::default();
        assert_eq!(none.excess(u64::MAX, 0), 0);
        let limits = Limits { most: 100, floor: 10 };
        assert_eq!(limits.excess(90, 50), 0);
        assert_eq!(limits.excess(130, 50), 30);
        assert_eq!(limits.excess(90, 4), 6);
        assert_eq!(limits.excess(103, 4), 6);
    }
}
