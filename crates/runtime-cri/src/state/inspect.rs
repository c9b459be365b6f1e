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

/// Returns the status of a container. Also works while the runtime is being closed, because a stop and
/// a removal complete then.
pub(crate) async fn status(
    connection: &Connection,
    operation: Operation,
    id: &ContainerId,
) -> Result<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
    let query = connection.context.deadlines.query;
    let response = connection.client.call(operation, query, request).await;
    let response = response.map_err(|error| error.about(id))?;
    response.status.ok_or_else(|| Error::internal("the engine sent no status").about(id))
}

/// Returns the status of a container, and the PID of its main process while it runs.
pub(crate) async fn status_and_pid(
    connection: &Connection,
    operation: Operation,
    id: &ContainerId,
) -> Result<(cri::ContainerStatus, Option<i32>)> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
    let query = connection.context.deadlines.query;
    let response = connection.client.call(operation, query, request).await?;
    let status = response.status.unwrap_or_default();
    let pid = response
        .info
        .get("info")
        .and_then(|info| serde_json::from_str::<Verbose>(info).ok())
        .map(|verbose| verbose.pid)
        .filter(|pid| *pid > 0);
    Ok((status, pid))
}

/// Returns the information about a container, with its exit.
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

/// Returns the exit of a container and the status with it, or `None` if it has not exited.
///
/// containerd receives the out-of-memory event and the exit in either order, and on cgroup v1 it
/// can miss the event. So if an exit may be an out-of-memory kill, the kernel log is read, and if
/// that has no record, the status is requested again for a short time. The result of the kernel log
/// is set in the status, so that `wait`, `info` and events agree.
pub(crate) async fn exit(
    connection: &Connection,
    operation: Operation,
    mut container: cri::ContainerStatus,
) -> Result<Option<(cri::ContainerStatus, Exit)>> {
    let stopped = is_marked_stopped(&container).await;
    let Some(mut exit) = info::exit(&container, stopped) else { return Ok(None) };
    if connection.engine.is_crio() && container.started_at <= 0 && exit.code.is_some() {
        // A removal has ended the runc init that waits for the start. The code is that of runc.
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

/// Returns whether the kernel log may explain an exit. A stop does not exclude that, because an
/// engine reports out of memory also for a stopped container with an earlier kill.
fn is_unexplained_kill(exit: &Exit) -> bool {
    exit.signal == Some(Signal::KILL)
        && matches!(exit.reason, ExitReason::Signaled | ExitReason::StoppedByUs)
}

/// Returns whether the kernel log has an out-of-memory kill of the container.
///
/// A mark records it, so that every process returns the same after the log was overwritten.
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
    let killed = connection.kernel_log.tells_out_of_memory(id).await;
    if killed {
        tracing::debug!(container = %id, "out of memory according to the kernel log");
        if let Some(mark) = mark
            && let Err(error) = marks::create(mark).await
        {
            // Later calls return it while the log has the record.
            tracing::debug!(%error, "failed to mark an out-of-memory kill");
        }
    }
    killed
}

/// Returns whether a stop of this library ended the container, by its mark.
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
    fn kernel_log_may_explain_kills_only() {
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
