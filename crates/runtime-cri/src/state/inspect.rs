//! Inspection of one container: its status, its process and its exit.

use std::time::Duration;

use runtime_core::{ContainerId, Error, ErrorKind, Exit, ExitReason, Operation, Result, Signal};
use serde::Deserialize;

use super::connection::Connection;
use crate::generated as cri;
use crate::host::marks;
use crate::model::annotations::Annotations;
use crate::model::container::Details;
use crate::model::info;

/// Delays between the checks for a report of the memory limit that follows the exit.
const OOM_RECHECK_DELAYS: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// The part of a verbose status that this crate reads. containerd and CRI-O send it.
#[derive(Debug, Deserialize)]
struct Verbose {
    pid: i32,
}

/// Returns the status of a container.
pub(crate) async fn status(
    connection: &Connection,
    operation: Operation,
    id: &ContainerId,
) -> Result<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
    let response = connection.call(operation, request).await.map_err(|error| error.about(id))?;
    response.status.ok_or_else(|| Error::internal("the engine answers without a status").about(id))
}

/// Returns the status of a container, and the PID of its main process while it runs.
pub(crate) async fn status_and_pid(
    connection: &Connection,
    operation: Operation,
    id: &ContainerId,
) -> Result<(cri::ContainerStatus, Option<i32>)> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
    let response = connection.call(operation, request).await?;
    let status = response.status.unwrap_or_default();
    let pid = response
        .info
        .get("info")
        .and_then(|info| serde_json::from_str::<Verbose>(info).ok())
        .map(|verbose| verbose.pid)
        .filter(|pid| *pid > 0);
    Ok((status, pid))
}

/// What the engine knows of a container, as ours, with how it ended.
pub(crate) async fn details(
    connection: &Connection,
    operation: Operation,
    id: &ContainerId,
) -> Result<Details> {
    let container = status(connection, operation, id).await?;
    let ended = exit(connection, operation, container.clone()).await?;
    let (container, exit) = match ended {
        Some((container, exit)) => (container, Some(exit)),
        None => (container, None),
    };
    let mut info = info::from_status(&container, false);
    info.exit = exit;
    Ok(Details { info, out_of_memory: container.reason == info::OUT_OF_MEMORY })
}

/// How a container ended, with the status that says so; `None` while it has not.
///
/// containerd hears of the memory limit and of the end in two messages that can come in either
/// order, and on cgroup v1 it can miss the first one altogether. So of an end that looks like the
/// work of the limit the kernel's log is asked, and where that does not have it, the engine again
/// for a moment. What the kernel says stands in the status as if the engine had said it, so that
/// everyone is told the same: who waits, who asks for information, and who listens to events.
pub(crate) async fn exit(
    connection: &Connection,
    operation: Operation,
    mut container: cri::ContainerStatus,
) -> Result<Option<(cri::ContainerStatus, Exit)>> {
    let stopped = is_marked_stopped(&container).await;
    let Some(mut exit) = info::exit(&container, stopped) else { return Ok(None) };
    if connection.engine.is_crio() && container.started_at <= 0 && exit.code.is_some() {
        // Its removal has ended the runc init that waits for the start; the code is that of runc.
        exit = Exit::new(ExitReason::Removed).with_ended_at(info::time(container.finished_at));
    }
    let limited = Annotations::read(&container.annotations)
        .filter(|annotations| annotations.memory.is_some());
    let Some(annotations) = limited.filter(|_| is_unexplained_kill(&exit)) else {
        return Ok(Some((container, exit)));
    };
    let id = ContainerId::new(&container.id);
    let fresh = exit
        .ended_at
        .is_none_or(|at| at.elapsed().is_ok_and(|elapsed| elapsed < Duration::from_secs(2)));
    if kernel_reports_out_of_memory(connection, &id, &annotations).await {
        info::OUT_OF_MEMORY.clone_into(&mut container.reason);
        if let Some(again) = info::exit(&container, stopped) {
            exit = again;
        }
    } else if fresh && exit.reason == ExitReason::Signaled {
        for pause in OOM_RECHECK_DELAYS {
            tokio::time::sleep(pause).await;
            match status(connection, operation, &id).await {
                Ok(again) => container = again,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
            if let Some(again) = info::exit(&container, stopped) {
                exit = again;
            }
            if exit.reason == ExitReason::OutOfMemory {
                break;
            }
        }
    }
    Ok(Some((container, exit)))
}

/// Whether the kernel may have more to say of an end. A stop does not rule that out: an engine says
/// out of memory of a container that was stopped, too, when something in it had been killed before.
fn is_unexplained_kill(exit: &Exit) -> bool {
    exit.signal == Some(Signal::KILL)
        && matches!(exit.reason, ExitReason::Signaled | ExitReason::StoppedByUs)
}

/// Whether the kernel's log has it that the limit on memory killed a process of the container.
///
/// A mark is left of that, so that every process says the same when the log has gone on.
async fn kernel_reports_out_of_memory(
    connection: &Connection,
    id: &ContainerId,
    annotations: &Annotations,
) -> bool {
    let mark = annotations.out_of_memory_mark();
    if let Some(mark) = mark.clone()
        && marks::exists(mark).await
    {
        return true;
    }
    let told = connection.kernel_log.tells_out_of_memory(id).await;
    if told {
        tracing::debug!(container = %id, "out of memory, by the kernel's log");
        if let Some(mark) = mark
            && let Err(error) = marks::create(mark).await
        {
            // It is told all the same, for as long as the log has it.
            tracing::debug!(%error, "an out of memory could not be marked");
        }
    }
    told
}

/// Whether a stop of this library ended the container. The mark stands in a file, so that every
/// process says the same.
async fn is_marked_stopped(container: &cri::ContainerStatus) -> bool {
    if container.state() != cri::ContainerState::ContainerExited {
        return false;
    }
    let mark =
        Annotations::read(&container.annotations).and_then(|annotations| annotations.stop_mark());
    match mark {
        Some(mark) => marks::exists(mark).await,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_of_kills_that_the_engine_does_not_explain() {
        let killed = Exit::from_code(137);
        for (exit, asked) in [
            (killed.clone(), true),
            (killed.clone().with_reason(ExitReason::StoppedByUs), true),
            (killed.with_reason(ExitReason::OutOfMemory), false),
            (Exit::from_code(143), false),
            (Exit::from_code(1), false),
            (Exit::new(ExitReason::Unknown), false),
        ] {
            assert_eq!(is_unexplained_kill(&exit), asked, "{exit:?}");
        }
    }
}
