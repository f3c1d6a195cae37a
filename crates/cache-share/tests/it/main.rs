//! The integration tests of the crate, in one binary, which links once.

mod sccache;
mod truth;
