//! See [`Container::kill`](runtime_core::Container::kill).
//!
//! The CRI has no method for signals. They are sent to the process, which runs on this host.

use runtime_core::{Capability, ContainerId, Error, ErrorKind, Operation, Result, Signal};
use runtime_support::process::{self, Process};

use crate::model::container::CriContainer;
use crate::model::info::require_running;
use crate::state::connection::Connection;
use crate::state::inspect::status_and_pid;

/// Sends a signal to the main process of a running container.
pub(crate) async fn send(
    connection: &Connection,
    container: &CriContainer,
    signal: Signal,
) -> Result<()> {
    let (status, pid) = status_and_pid(connection, Operation::Kill, &container.id).await?;
    require_running(&status)?;
    let Some(pid) = pid else {
        return Err(Error::internal("the engine sent no PID of the container"));
    };
    let process = Process::hold(pid).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ended(),
        _ => refused(error),
    })?;
    // If the container still runs with the same PID, the PID was not reused before the open of its
    // pidfd.
    let (status, again) = status_and_pid(connection, Operation::Kill, &container.id).await?;
    require_running(&status)?;
    if again != Some(pid) {
        return Err(ended());
    }
    check_in_container(pid, &container.id)?;
    if process.signal(signal).map_err(refused)? { Ok(()) } else { Err(ended()) }
}

/// Checks that a PID of the engine is that of a process in the container on this host.
///
/// The PID belongs to another process, or to none, if the engine is in another PID namespace or,
/// behind a relay, on another host.
fn check_in_container(pid: i32, id: &ContainerId) -> Result<()> {
    if process::is_in_container(pid, id.as_str()) {
        return Ok(());
    }
    // A process leaves its control groups at its end, before the engine notices.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    if matches!(state, None | Some('Z' | 'X')) {
        return Err(ended());
    }
    Err(Error::unsupported(Capability::Kill).with_message(format!(
        "process {pid}, which the engine names, is not in the container: the engine does not share \
         the PIDs of this host"
    )))
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the container has ended")
}

/// Maps an I/O error of a signal.
pub(crate) fn refused(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message("failed to send the signal").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_in_container_refuses_other_processes() {
        let id = ContainerId::new("0123456789abcdef".repeat(4));
        let pid = std::process::id().cast_signed();
        let error = check_in_container(pid, &id).unwrap_err();
        assert_eq!(error.capability(), Some(Capability::Kill), "{error:?}");
    }

    #[test]
    fn check_in_container_of_ended_process_is_invalid_state() {
        let id = ContainerId::new("0123456789abcdef".repeat(4));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        child.wait().unwrap();
        let error = check_in_container(pid, &id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
    }
}
