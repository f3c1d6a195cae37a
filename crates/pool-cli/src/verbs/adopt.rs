//! `wtpool adopt`.

use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, Repository};
use pool_core::SlotId;
use serde::Serialize;

use crate::cli::Global;
use crate::context::{Access, Context};
use crate::error::Result;
use crate::output::counted;
use crate::settings::{self, Flags};
use crate::{context, reaper};

#[derive(Serialize)]
struct Document {
    pool_dir: PathBuf,
    repo: PathBuf,
    slots: Vec<SlotId>,
}

pub(crate) async fn perform(global: &Global, pool: &Path) -> Result<u8> {
    let here = context::start_dir();
    let repository = Repository::find(global.repo.as_deref().unwrap_or(&here))?;
    let flags = Flags { pool_dir: Some(pool.to_owned()), cache: None };
    let settings = settings::load(None, &flags)?.settings;
    GitIsolator::adopt(&repository, pool, settings.git())?;
    let repo = repository.common_dir().to_owned();
    let own = Global { pool_dir: Some(pool.to_owned()), repo: Some(repo), ..global.clone() };
    let context = Context::open(&own, None, Access::Visit)?;
    reaper::ensure_if_needed(&context).await;
    let state = context.pool.list().await?;
    let document = Document {
        pool_dir: context.pool_dir.clone(),
        repo: context.repository_path().to_owned(),
        slots: state.slots.keys().copied().collect(),
    };
    if context.out.json {
        context.out.document(&document)?;
        return Ok(0);
    }
    let slots = counted(document.slots.len() as u64, "slot");
    let dir = document.pool_dir.display();
    context.out.remark(format!("took over {dir}, with {slots}"));
    if repository.default_pool_dir() != document.pool_dir {
        context.out.remark(format!("it is not the default pool: add --pool-dir {dir} to use it"));
    }
    Ok(0)
}
