//! The guards, by what they protect.
//!
//! A new one goes into the module of its subject: the source it edits, the pieces it replaces, and the tests that
//! must fail then.

use super::Guard;

mod cache;
mod contents;
mod deletion;
mod leases;
mod liveness;
mod records;
mod repository;
mod rescue;

const CACHE: &str = "cache-share";
const CLI: &str = "pool-cli";
const CORE: &str = "pool-core";
const GIT: &str = "git-backend";

/// Returns all guards.
pub(super) fn all() -> impl Iterator<Item = &'static Guard> {
    [
        cache::GUARDS,
        contents::GUARDS,
        deletion::GUARDS,
        leases::GUARDS,
        liveness::GUARDS,
        records::GUARDS,
        repository::GUARDS,
        rescue::GUARDS,
    ]
    .into_iter()
    .flatten()
}
