//! Start and exit of a session's process, as reported by remote command servers.

use std::time::Duration;

use runtime_core::{Backoff, Error, ErrorKind, ExecExit, Result, TerminalSize};
use spdy_client::remote_command::{self, Outcome};
use tokio::time::Instant;

use super::{End, Streams, Terminal, lost};
use crate::killed_at_start;

/// Minimum and maximum interval of the search for the process.
const POLL_INTERVAL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// Maximum duration of the search for a visible process. A process is missed if it ended between
/// two searches and left descendants that hold its outputs open.
const SEARCH_MAX: Duration = Duration::from_secs(10);

/// Time to wait for a failure if the process is not visible. On a busy machine, failures were
/// observed after more than 250 ms.
const UNSEEN_START_MAX: Duration = Duration::from_millis(500);

/// Time to wait after the first output.
const AFTER_OUTPUT_MAX: Duration = Duration::from_millis(250);

/// Waits until the process of an exec runs or has run. `find` searches for the process if it is
/// visible. Otherwise a process without output and without a failure is assumed to run after a
/// short time.
///
/// # Errors
/// The reason why the process could not be started.
pub async fn until_started<P>(
    streams: &mut Streams,
    mut find: Option<impl FnMut() -> Result<Option<P>>>,
) -> Result<Option<P>> {
    let mut backoff = Backoff::new(POLL_INTERVAL.0, POLL_INTERVAL.1);
    let mut until = Instant::now() + if find.is_some() { SEARCH_MAX } else { UNSEEN_START_MAX };
    let mut has_peeked = false;
    let end = streams.end.clone();
    loop {
        if let Some(ended) = end.seen() {
            return ended.map(|_| None);
        }
        if let Some(found) = find.as_mut().map_or(Ok(None), |find| find())? {
            return Ok(Some(found));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        let next = match find {
            Some(_) => Instant::now() + backoff.delay(),
            None => until,
        };
        tokio::select! {
            _ = end.wait() => {}
            has_output = streams.stdout.peek(), if !has_peeked => {
                has_peeked = true;
                if has_output {
                    until = until.min(Instant::now() + AFTER_OUTPUT_MAX);
                }
            }
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Converts the server's outcome of an exec to an exit.
///
/// # Errors
/// `InvalidArgument` if the command cannot be executed; `Lost` if the exit code is unknown.
pub fn settle(outcome: std::result::Result<Outcome, remote_command::Error>) -> Result<ExecExit> {
    match outcome {
        Ok(Outcome::Success) => Ok(ExecExit { code: 0 }),
        Ok(Outcome::ExitCode(code)) => Ok(ExecExit { code }),
        Ok(Outcome::Failure(failure)) => match killed_at_start(&failure.message) {
            Some(exit) => Ok(exit),
            None => Err(failed(&failure.message)),
        },
        Ok(_) => Err(lost("the engine reported the exit in an unknown form")),
        Err(error) => {
            Err(lost("the session was cut off before the exit code was known").with_source(error))
        }
    }
}

fn failed(message: &str) -> Error {
    exec_start_failure(message).unwrap_or_else(|| lost(message))
}

/// Returns the error for a message about a process that could not be executed: a message of the
/// engine about the start, which contains a message of its OCI runtime about the file. Returns
/// `None` for other messages.
#[must_use]
pub fn exec_start_failure(message: &str) -> Option<Error> {
    let has = |part: &str| message.contains(part);
    let is_start = has("failed to start exec") || has("exec failed");
    let is_of_file = has("exec: \"") || has("executable file");
    (is_start && is_of_file).then(|| Error::invalid("command", message))
}

/// Sets the size of a session's terminal.
///
/// # Errors
/// `InvalidState` if the session has no terminal, or if the process has ended.
pub async fn resize(terminal: Option<&dyn Terminal>, end: &End, size: TerminalSize) -> Result<()> {
    let Some(terminal) = terminal else {
        return Err(Error::new(ErrorKind::InvalidState).with_message("the session has no terminal"));
    };
    if end.is_over() {
        return Err(ended());
    }
    terminal.resize(size).await.map_err(|error| ended().with_source(error))
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the process has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_message_sets_error_kind_and_field() {
        for (message, kind, field) in [
            (
                "error executing command in container: failed to exec in container: failed to start exec \"6a\": OCI runtime exec failed: exec failed: unable to start container process: exec: \"no-such-command\": executable file not found in $PATH: unknown",
                ErrorKind::InvalidArgument,
                Some("command"),
            ),
            (
                "error executing command in container: container is not running",
                ErrorKind::Lost,
                None,
            ),
            ("oops", ErrorKind::Lost, None),
        ] {
            let error = failed(message);
            assert_eq!((error.kind(), error.field()), (kind, field), "{message}");
        }
    }
}
