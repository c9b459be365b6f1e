//! Polling with a time limit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::Failure;
use crate::failure::fail;

/// Time limit for conditions that should hold at once, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `ask` until it returns a value, up to `limit`.
pub(crate) async fn until<T, F, A>(limit: Duration, what: &str, mut ask: F) -> Result<T, Failure>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>, Failure>>,
{
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(10);
    loop {
        match tokio::time::timeout_at(end + limit, ask()).await {
            Ok(answer) => {
                if let Some(answer) = answer? {
                    return Ok(answer);
                }
            }
            Err(_) => fail!("{what} did not come: a question was not answered"),
        }
        if Instant::now() >= end {
            fail!("{what} did not come in {limit:?}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
