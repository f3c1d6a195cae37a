//! `wtpool renew`.

use crate::cli::{Global, duration};
use crate::context::{Access, Context, Own};
use crate::error::Result;
use crate::output::LeaseDocument;
use crate::reaper;
use crate::settings::Span;

pub(crate) async fn perform(
    global: &Global,
    text: &str,
    given: Option<&str>,
    ttl: Option<Span>,
) -> Result<u8> {
    let context = Context::open_for(global, text, Access::Visit)?;
    let Own { slot, token, .. } = context.find_own("renew", text, given).await?;
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
