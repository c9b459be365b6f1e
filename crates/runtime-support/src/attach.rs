//! Exit of an attach session.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, ExecExit, Exit, Result};

/// Returns the exit code of the main process after the end of an attach session.
///
/// # Errors
/// The error of `exit`; `Lost` if the process does not end within `exit_timeout` after the session,
/// which was then cut off, or if the exit code is unknown.
pub async fn main_exit(
    exit: impl Future<Output = Result<Exit>>,
    exit_timeout: Duration,
) -> Result<ExecExit> {
    let lost = |message: &str| Err(Error::new(ErrorKind::Lost).with_message(message));
    match tokio::time::timeout(exit_timeout, exit).await {
        Ok(exit) => match exit?.code {
            Some(code) => Ok(ExecExit { code }),
            None => lost("the exit code of the container is unknown"),
        },
        Err(_) => lost("the session was cut off while the container was running"),
    }
}
