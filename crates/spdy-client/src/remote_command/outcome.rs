//! Outcome of a remote command in version 4: a Kubernetes `Status` as JSON.

use serde::Deserialize;

use super::Error;

/// Outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The session succeeded. After an exec, the exit code was 0; after an attach, the exit code of
    /// the process is unknown.
    Success,
    /// The command exited with this non-zero code. A kill by a signal is 128 + the signal number.
    ExitCode(i32),
    /// The command did not run, or the server lost it.
    Failure(Failure),
}

/// Reason of a failed command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Failure {
    /// Kubernetes reason such as `InternalError` or `NotFound`; empty if missing.
    pub reason: String,
    /// The server's message.
    pub message: String,
    /// The equivalent HTTP status.
    pub code: Option<u16>,
}

impl Outcome {
    /// Parses the content of the error stream.
    ///
    /// # Errors
    /// [`Error::MalformedOutcome`] unless the content is a complete `Status`.
    pub fn parse(status: &[u8]) -> Result<Self, Error> {
        let status: Status = serde_json::from_slice(status).map_err(|_| Error::MalformedOutcome)?;
        match status.status.as_str() {
            "Success" => return Ok(Self::Success),
            "Failure" => {}
            _ => return Err(Error::MalformedOutcome),
        }
        if status.reason == "NonZeroExitCode" {
            let code = status
                .details
                .causes
                .iter()
                .find(|cause| cause.reason == "ExitCode")
                .and_then(|cause| cause.message.parse().ok());
            return code.map(Self::ExitCode).ok_or(Error::MalformedOutcome);
        }
        Ok(Self::Failure(Failure {
            reason: status.reason,
            message: status.message,
            code: status.code,
        }))
    }
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    code: Option<u16>,
    #[serde(default)]
    details: Details,
}

#[derive(Deserialize, Default)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}
