//! `wtpool end-session`.

use pool_core::SessionId;
use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::Result;
use crate::reaper;

#[derive(Serialize)]
struct Document<'a> {
    session: &'a SessionId,
    done: Vec<String>,
}

pub(crate) async fn perform(global: &Global, session: &SessionId) -> Result<u8> {
    let context = Context::open(global, None, Access::Visit)?;
    let ended = context.pool.end_session(session).await;
    reaper::ensure_if_needed(&context).await;
    let done = ended?.done;
    if context.out.json {
        context.out.document(&Document { session, done })?;
        return Ok(0);
    }
    for line in done {
        context.out.line(line)?;
    }
    Ok(0)
}
