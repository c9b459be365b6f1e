//! Exit codes of the command.

use std::fmt;

use runtime_core::{Error, ErrorKind, Exit};

/// Exit code of `run` and `exec` for their own failures, as in Docker's CLI.
pub(crate) const FAILED: u8 = 125;

/// Error with its own exit code.
#[derive(Debug)]
struct Coded {
    code: u8,
    error: anyhow::Error,
}

pub(crate) fn coded(code: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Coded { code, error: error.into() })
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Returns the exit code of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        return killed_by(13);
    }
    error.downcast_ref::<Coded>().map_or(1, |coded| coded.code)
}

/// Returns true if the reader of the output is gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Returns the shell's exit code of a process that was killed by a signal.
pub(crate) const fn killed_by(signal: u8) -> u8 {
    128_u8.saturating_add(signal)
}

/// Error messages of engines for a command that exists but cannot be executed, without first
/// letters.
const NOT_EXECUTABLE: [&str; 3] = ["ermission denied", "peration not permitted", "s a directory"];

/// Returns the error of a command that failed to start, with the exit code of shells: 126 if the
/// file exists, 127 if it does not.
pub(crate) fn not_run(error: Error) -> anyhow::Error {
    let command = error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command");
    let code = match error.message() {
        Some(message) if command && NOT_EXECUTABLE.iter().any(|text| message.contains(text)) => 126,
        _ if command => 127,
        _ => FAILED,
    };
    coded(code, error)
}

/// Returns the exit code for a container's exit.
pub(crate) fn code_of_exit(exit: &Exit) -> u8 {
    match exit.code {
        Some(code) => u8::try_from(code & 0xff).unwrap_or(FAILED),
        None => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failure_has_exit_code_of_shell() {
        for (error, code) in [
            (Error::invalid("command", "executable file not found in $PATH"), 127),
            (Error::invalid("command", "exec: /etc: Permission denied"), 126),
            (Error::invalid("command", "exec: \"/etc\": is a directory: unknown"), 126),
            (Error::invalid("command", "open executable: Is a directory"), 126),
            (Error::invalid("command", "crun: open executable: Operation not permitted"), 126),
            (Error::invalid("user", "no such user"), 125),
            (Error::new(ErrorKind::Lost), 125),
        ] {
            let text = error.to_string();
            assert_eq!(code_of(&not_run(error)), code, "{text}");
        }
    }
}
