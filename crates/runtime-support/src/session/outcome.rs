//! How the process of a session starts and ends, as servers of remote commands say it.

use std::time::Duration;

use runtime_core::{Backoff, Error, ErrorKind, ExecExit, Result, TerminalSize};
use spdy_client::remote_command::{self, Outcome};
use tokio::time::Instant;

use super::{End, Streams, Terminal, lost};
use crate::killed_at_start;

/// How often it is looked whether the process is there.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// How long it is looked for, where it can be seen. It is not seen when it ended between two looks
/// and has left others behind that keep its outputs.
const LOOK: Duration = Duration::from_secs(10);

/// How long a failure is waited for, where the process cannot be seen. It has come after more than a
/// quarter of a second on a busy machine.
const UNSEEN: Duration = Duration::from_millis(500);

/// How long it is waited for once something was heard.
const MOMENT: Duration = Duration::from_millis(250);

/// Waits until the process of an exec runs, or did. `find` looks for it, where it can be seen; where
/// not, one that has neither said anything nor failed within a moment is taken for running.
///
/// # Errors
/// Why it could not be started.
pub async fn until_started<P>(
    streams: &mut Streams,
    mut find: Option<impl FnMut() -> Result<Option<P>>>,
) -> Result<Option<P>> {
    let mut backoff = Backoff::new(POLL.0, POLL.1);
    let mut until = Instant::now() + if find.is_some() { LOOK } else { UNSEEN };
    let mut heard = false;
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
            came = streams.stdout.peek(), if !heard => {
                heard = true;
                if came {
                    until = until.min(Instant::now() + MOMENT);
                }
            }
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// What the server's words about the end of an exec mean.
///
/// # Errors
/// `InvalidArgument` for a command that cannot be run; `Lost` where the exit code is not known.
pub fn settle(outcome: std::result::Result<Outcome, remote_command::Error>) -> Result<ExecExit> {
    match outcome {
        Ok(Outcome::Success) => Ok(ExecExit { code: 0 }),
        Ok(Outcome::ExitCode(code)) => Ok(ExecExit { code }),
        Ok(Outcome::Failure(failure)) => match killed_at_start(&failure.message) {
            Some(exit) => Ok(exit),
            None => Err(failed(&failure.message)),
        },
        Ok(_) => Err(lost("the engine says in an unknown way how the process ended")),
        Err(error) => {
            Err(lost("the session was cut off before the exit code was known").with_source(error))
        }
    }
}

fn failed(message: &str) -> Error {
    exec_start_failure(message).unwrap_or_else(|| lost(message))
}

/// Returns the error for a message about a process that could not be executed: of the engine about
/// the start, and of its OCI runtime about the file. Other messages have none.
#[must_use]
pub fn exec_start_failure(message: &str) -> Option<Error> {
    let has = |words: &str| message.contains(words);
    let is_start = has("failed to start exec") || has("exec failed");
    let is_of_file = has("exec: \"") || has("executable file");
    (is_start && is_of_file).then(|| Error::invalid("command", message))
}

/// Sets the size of a session's terminal.
///
/// # Errors
/// `InvalidState` when there is no terminal, or the process has ended.
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
    fn failures_mean_what_they_say() {
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
