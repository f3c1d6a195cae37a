//! Waiting for tasks.

use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};

/// The result of a task; a panic in it goes on here.
pub(crate) async fn join<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    match task.await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(ErrorKind::Cancelled, "the runtime is shutting down")),
        },
    }
}
