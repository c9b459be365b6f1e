//! What sessions with a main process have in common.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, ExecExit, Exit, Result};

/// The exit code of a main process, after the end of a session with it.
///
/// # Errors
/// That of `exit`; `Lost` when the process does not end within `patience` after its session, which
/// was then cut off, and when nobody knows its exit code.
pub async fn main_exit(
    exit: impl Future<Output = Result<Exit>>,
    patience: Duration,
) -> Result<ExecExit> {
    let lost = |why: &str| Err(Error::new(ErrorKind::Lost).with_message(why));
    match tokio::time::timeout(patience, exit).await {
        Ok(exit) => match exit?.code {
            Some(code) => Ok(ExecExit { code }),
            None => lost("the exit code of the container is not known"),
        },
        Err(_) => lost("the session was cut off: the container runs on"),
    }
}
