//! How a remote command ended, as version 4 says it: a Kubernetes `Status` as JSON.

use serde::Deserialize;

use super::Error;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The session ended well; of an exec, the command's exit code was 0. After an attach this says
    /// nothing about the process's exit code.
    Success,
    /// The command ended with this exit code, which is not 0. Death by a signal is 128 + its number.
    ExitCode(i32),
    /// The command did not run, or the server lost sight of it.
    Failure(Failure),
}

/// Why a command did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Failure {
    /// A word of Kubernetes: `InternalError`, `NotFound`; empty where the server gave none.
    pub reason: String,
    /// What the server said.
    pub message: String,
    /// The HTTP status that it would have been.
    pub code: Option<u16>,
}

impl Outcome {
    /// Reads what the error stream carried.
    ///
    /// # Errors
    /// [`Error::MalformedOutcome`] for anything but a complete `Status`.
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
