//! Deadlines of operations.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, Operation, Result};

/// Does `work`, but no longer than `deadline`. What is dropped then has to undo itself.
///
/// # Errors
/// Those of `work`, with the operation added; `Timeout` when the deadline passes.
pub async fn within<T>(
    operation: Operation,
    deadline: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(|error| error.during(operation)),
        Err(_) => Err(Error::new(ErrorKind::Timeout)
            .with_message(format!("the engine has not answered within {deadline:?}"))
            .during(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_the_work_and_nothing_else_does() {
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
