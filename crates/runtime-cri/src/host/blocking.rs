//! Work on the blocking thread pool.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, Result};

use crate::BACKEND;

/// Deadline of work on the files of this host. The removal of a large log takes seconds.
const BLOCKING_DEADLINE: Duration = Duration::from_secs(120);

/// Runs `work` on the blocking thread pool. The wait for it ends after a deadline, because a file
/// system may not respond.
///
/// # Errors
/// The error of `work`; `Timeout` after the deadline; `Internal` if `work` panics.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(BLOCKING_DEADLINE, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.unwrap_or_else(|error| {
            Err(Error::internal("the work on the host panicked").with_source(error).on(BACKEND))
        }),
        Err(_) => Err(Error::new(ErrorKind::Timeout)
            .with_message(format!(
                "the file system of this host did not respond within {BLOCKING_DEADLINE:?}"
            ))
            .on(BACKEND)),
    }
}
