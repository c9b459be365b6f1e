//! Deadlines of requests.

use std::time::Duration;

use runtime_core::{Operation, Result, ResultExt};

use crate::error::BACKEND;

/// Runs `work`, and returns `Timeout` after `deadline`.
pub(crate) async fn within<T>(
    operation: Operation,
    deadline: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    runtime_support::within(operation, deadline, work).await.on(BACKEND)
}
