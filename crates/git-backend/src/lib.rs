#![doc = include_str!("../README.md")]

mod aside;
mod baseline;
mod branch;
mod checkout;
mod conversions;
mod copy;
mod directory;
mod dispose;
mod durable;
mod environment;
mod git;
mod inspect;
mod isolator;
mod mirrors;
mod nested;
mod own_worktree;
mod owner;
mod patterns;
mod provision;
mod recycle;
mod references;
mod registration;
mod repository;
mod rescue;
mod settings;
mod shell;
mod site;
mod source;
mod sources;
mod trash;
mod tree;
mod user_config;

pub use environment::GitEnvironment;
pub use isolator::GitIsolator;
pub use mirrors::{ExposedBy, Exposure};
pub use nested::Other;
pub use owner::{
    OtherPool, check_pool_owner, earlier_pool_dirs, pool_of_another, pool_owner, repository_beside,
};
pub use repository::Repository;
pub use settings::{GitSettings, SubmoduleMode};
pub use source::source_worktree;
