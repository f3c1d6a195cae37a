//! `wtpool renew`.

use pool_core::{Error, ErrorKind, Lookup};

use crate::cli::{Global, duration};
use crate::context::{Access, Context};
use crate::error::Result;
use crate::output::LeaseDocument;
use crate::reaper;
use crate::settings::Span;

pub(crate) async fn perform(global: &Global, text: &str, ttl: Option<Span>) -> Result<u8> {
    let context = Context::open(global, None, Access::Visit)?;
    let found = match context.find(text).await? {
        Lookup::Slot(slot) => slot.state.lease().map(|lease| (slot.id, lease.token())),
        Lookup::Ended(ended) => Some((ended.slot, ended.token.clone())),
    };
    let (slot, token) = found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("nobody has a lease on {text}"))
            .with_hint("`wtpool list` shows the leases there are")
    })?;
    let lease = context.pool.renew(&token, duration(ttl)).await?;
    reaper::ensure_if_needed(&context).await;
    if context.out.json {
        context.out.document(&LeaseDocument::new(&context, slot, &lease, "leased"))?;
    } else if let Some(deadline) = &lease.deadline {
        let left = deadline.remaining(&context.pool.now());
        context.out.remark(format!(
            "wtpool: {} lives for {}",
            lease.name,
            crate::output::age(left)
        ));
    }
    Ok(0)
}
