//! Leases a worktree of the repository it is run in, shows it, and gives it back:
//! `cargo run -p git-backend --example lease`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{Pool, Release, Request, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let repository = Repository::find(std::path::Path::new("."))?;
    let pool_dir = repository.default_pool_dir();
    let isolator = GitIsolator::open(&repository, &pool_dir, GitSettings::default())?;
    let pool = Pool::builder(Arc::new(isolator)).open()?;

    let lease = pool.acquire(Request::new("the example")).await?;
    println!("{} is mine until I give it back", lease.path().display());
    let report = lease.release(Release::default()).await?;
    println!("{report:?}");
    Ok(())
}
