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
        return Err(Error::internal("the engine does not tell the process of the container"));
    };
    let process = Process::hold(pid).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ended(),
        _ => refused(error),
    })?;
    // It runs still, and as the same number: then it is the one that we have hold of, and it was
    // not replaced by another between the question and the hold.
    let (status, again) = status_and_pid(connection, Operation::Kill, &container.id).await?;
    require_running(&status)?;
    if again != Some(pid) {
        return Err(ended());
    }
    must_be_in_container(pid, &container.id)?;
    if process.signal(signal).map_err(refused)? { Ok(()) } else { Err(ended()) }
}

/// Checks that the process that the engine names is in the container, as this host sees it.
///
/// The number means another process, or none, when the engine is in another PID namespace or on
/// another host, as behind a relay.
pub(crate) fn must_be_in_container(pid: i32, id: &ContainerId) -> Result<()> {
    if process::is_in_container(pid, id.as_str()) {
        return Ok(());
    }
    // A process that has ended leaves its control groups before the engine notices.
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

pub(crate) fn refused(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message("the signal cannot be sent").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_outside_of_the_container_is_refused() {
        let id = ContainerId::new("0123456789abcdef".repeat(4));
        let pid = std::process::id().cast_signed();
        let error = must_be_in_container(pid, &id).unwrap_err();
        assert_eq!(error.capability(), Some(Capability::Kill), "{error:?}");
    }

    #[test]
    fn process_that_has_ended_is_invalid_state() {
        let id = ContainerId::new("0123456789abcdef".repeat(4));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        child.wait().unwrap();
        let error = must_be_in_container(pid, &id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
    }
}
