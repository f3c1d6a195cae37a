//! Tests of the crate as its users see it.

mod dropped;
mod liveness;
mod path;
mod pauses;
mod pool;
mod scheduler;
#[cfg(feature = "sqlite")]
mod sqlite;
