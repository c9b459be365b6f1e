//! Expectations of the fault tests about errors and times.

use std::time::{Duration, Instant};

use runtime_conformance::BoxError;
use runtime_core::{Error, ErrorKind, Result};

/// Result of a test.
pub type Outcome = std::result::Result<(), BoxError>;

/// Timeout for events that should be immediate, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asserts that a call of `backend` fails immediately with an error of this kind.
///
/// # Panics
/// If the call succeeds, fails with another error, or takes long.
#[track_caller]
pub fn fails<T>(backend: &str, result: Result<T>, kind: ErrorKind, since: Instant) -> Error {
    let Err(error) = result else { panic!("expected {kind:?}, but the call succeeded") };
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.backend(), Some(backend), "{error:?}");
    assert!(error.operation().is_some(), "{error:?}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    error
}

/// Polls until a condition holds.
///
/// # Errors
/// Errors of a poll.
///
/// # Panics
/// If the condition does not hold in time.
pub async fn until(
    what: &str,
    ask: impl AsyncFn() -> std::result::Result<bool, BoxError>,
) -> Outcome {
    let end = Instant::now() + PATIENCE;
    while !ask().await? {
        assert!(Instant::now() < end, "no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
