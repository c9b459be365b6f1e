//! What the fault tests expect of errors and times.

use std::time::{Duration, Instant};

use runtime_conformance::BoxError;
use runtime_core::{Error, ErrorKind, Result};

/// What a test comes to.
pub type Outcome = std::result::Result<(), BoxError>;

/// How long a test waits for what should come at once, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asserts that a call of `backend` fails, how, and that it does so at once.
///
/// # Panics
/// When it succeeds, fails in another way, or took long.
#[track_caller]
pub fn fails<T>(backend: &str, result: Result<T>, kind: ErrorKind, since: Instant) -> Error {
    let Err(error) = result else { panic!("it succeeded and should be {kind:?}") };
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.backend(), Some(backend), "{error:?}");
    assert!(error.operation().is_some(), "{error:?}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    error
}

/// Asks again and again until it is so.
///
/// # Errors
/// Those of a question.
///
/// # Panics
/// When it does not come to that.
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
