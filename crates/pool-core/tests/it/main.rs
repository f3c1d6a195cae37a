//! Tests of the crate as its users see it.

mod dropped;
mod liveness;
mod pauses;
mod pool;
mod scheduler;
#[cfg(feature = "sqlite")]
mod sqlite;
