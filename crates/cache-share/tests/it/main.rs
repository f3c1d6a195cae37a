//! The integration tests of the crate, in one binary, which links once.

mod audit;
mod base;
mod confine;
mod damage;
mod observe;
#[cfg(unix)]
mod outputs;
mod random;
mod sccache;
mod support;
mod truth;
mod used_slot;
