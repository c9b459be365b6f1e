//! Signals. The CRI has none but those of a stop; they go to the process itself, which runs on
//! this host.

use runtime_core::{Capability, ContainerId, Error, ErrorKind, Operation, Result, Signal};
use runtime_support::process::{self, Process};
use serde::Deserialize;

use crate::container::CriContainer;
use crate::generated as cri;
use crate::shared::Shared;

/// What containerd and CRI-O tell of a container when asked to be verbose.
#[derive(Debug, Deserialize)]
struct Verbose {
    pid: i32,
}

/// Sends a signal to the main process of a running container.
pub(crate) async fn send(container: &CriContainer, signal: Signal) -> Result<()> {
    let shared = &container.shared;
    let (status, pid) = look(shared, Operation::Kill, &container.id).await?;
    container.must_run(&status)?;
    let Some(pid) = pid else {
        return Err(Error::internal("the engine does not tell the process of the container"));
    };
    let process = Process::hold(pid).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ended(),
        _ => refused(error),
    })?;
    // It runs still, and as the same number: then it is the one that we have hold of, and it was
    // not replaced by another between the question and the hold.
    let (status, again) = look(shared, Operation::Kill, &container.id).await?;
    container.must_run(&status)?;
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

/// The status of a container, and the number of its main process while it runs.
pub(crate) async fn look(
    shared: &Shared,
    operation: Operation,
    id: &ContainerId,
) -> Result<(cri::ContainerStatus, Option<i32>)> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
    let answer = shared.ask(operation, request).await?;
    let status = answer.status.unwrap_or_default();
    let pid = answer
        .info
        .get("info")
        .and_then(|info| serde_json::from_str::<Verbose>(info).ok())
        .map(|verbose| verbose.pid)
        .filter(|pid| *pid > 0);
    Ok((status, pid))
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
