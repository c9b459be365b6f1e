//! Deadlines of operations.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, Operation, Result};

/// Runs `work` with a deadline. At the deadline `work` is dropped, so it has to undo partial
/// results on drop.
///
/// # Errors
/// The errors of `work`, with the operation added; `Timeout` after the deadline.
pub async fn within<T>(
    operation: Operation,
    deadline: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(|error| error.during(operation)),
        Err(_) => Err(Error::new(ErrorKind::Timeout)
            .with_message(format!("no response from the engine within {deadline:?}"))
            .during(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn within_returns_timeout_only_after_deadline() {
        let second = Duration::from_secs(1);
        let done = within(Operation::Stop, second, async { Ok(7) }).await;
        assert_eq!(done.unwrap(), 7);
        let slow = async {
            tokio::time::sleep(second * 2).await;
            Ok(())
        };
        let late = within(Operation::Stop, second, slow).await.unwrap_err();
        assert_eq!((late.kind(), late.operation()), (ErrorKind::Timeout, Some(Operation::Stop)));
        assert!(late.is_retryable());
        let failed = within(Operation::Stop, second, async { Err::<(), _>(Error::internal("x")) });
        assert_eq!(failed.await.unwrap_err().operation(), Some(Operation::Stop));
    }
}
