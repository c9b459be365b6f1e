//! See [`Container::stop`](runtime_core::Container::stop).

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Capability, ContainerStatus, ErrorKind, Exit, ExitReason, Operation, Result, Signal,
    StopOptions, StopOutcome,
};
use runtime_support::is_unclear;

use crate::error::was_not_sent;
use crate::generated as cri;
use crate::host::marks;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::ops::kill;
use crate::state::CriBackend;
use crate::state::connection::Connection;
use crate::state::inspect;

/// Stops a container. The stop completes if the caller is dropped.
pub(crate) async fn stop(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: StopOptions,
) -> Result<StopOutcome> {
    let connection = &backend.connection;
    let status = inspect::status(connection, Operation::Stop, &container.id).await?;
    match info::status(status.state()) {
        ContainerStatus::Created => return Ok(StopOutcome::NotStarted),
        ContainerStatus::Exited => {
            let ended = inspect::exit(connection, Operation::Stop, status).await?;
            return Ok(StopOutcome::AlreadyExited(exit_of(ended)));
        }
        ContainerStatus::Running => {}
    }
    let grace = match options.grace {
        Some(grace) => connection.context.capabilities.round_grace(grace),
        None => container.annotations.stop_grace(),
    };
    let (in_task, of_task) = (Arc::clone(backend), container.clone());
    let work = async move { stop_marked(&in_task, &of_task, grace).await };
    connection.context.finish(work).await?;
    backend.poller.poll_now();
    let status = inspect::status(connection, Operation::Stop, &container.id).await?;
    let ended = inspect::exit(connection, Operation::Stop, status).await?;
    Ok(StopOutcome::Stopped(exit_of(ended)))
}

fn exit_of(ended: Option<(cri::ContainerStatus, Exit)>) -> Exit {
    ended.map_or_else(|| Exit::new(ExitReason::Unknown), |(_, exit)| exit)
}

/// Stops a container under a mark, which stays while this stop may be what ends the container.
async fn stop_marked(
    backend: &CriBackend,
    container: &CriContainer,
    grace: Duration,
) -> Result<()> {
    // Before the request, because an observer of the exit must also find the mark.
    let made = marks::mark_stopped(&container.annotations).await;
    let (stopped, had_effect) = stop_now(backend, container, grace).await;
    match &stopped {
        // The mark was that of a concurrent stop, which may have failed and removed it.
        Ok(()) if !made => {
            marks::mark_stopped(&container.annotations).await;
        }
        // A later end is then not attributed to this library.
        Err(_) if made && !had_effect => marks::unmark_stopped(&container.annotations).await,
        _ => {}
    }
    stopped
}

/// Stops a container. Also returns whether the stop may have had an effect, even if it failed.
async fn stop_now(
    backend: &CriBackend,
    container: &CriContainer,
    grace: Duration,
) -> (Result<()>, bool) {
    let connection = &backend.connection;
    match stop_by_signal(backend, container, grace).await {
        Ok(BySignal::NotSent) => {
            let stopped = request_stop(connection, container, grace).await;
            let had_effect = stopped
                .as_ref()
                .err()
                .is_none_or(|error| is_unclear(error) && !was_not_sent(error));
            (stopped, had_effect)
        }
        Ok(BySignal::Ended) => (Ok(()), true),
        Ok(BySignal::RunsOn) => (request_stop(connection, container, Duration::ZERO).await, true),
        // Nothing was sent: the signal is the last step that can fail.
        Err(error) => (Err(error), false),
    }
}

/// Outcome of a stop signal.
enum BySignal {
    /// The engine is to send the signal.
    NotSent,
    /// The container has ended.
    Ended,
    /// The container runs after the grace.
    RunsOn,
}

/// Sends the stop signal of the spec, if there is one, and waits for the end.
///
/// Most engines have no field for the signal. So this library sends it, and the engine kills the
/// container after the grace.
async fn stop_by_signal(
    backend: &CriBackend,
    container: &CriContainer,
    grace: Duration,
) -> Result<BySignal> {
    let connection = &backend.connection;
    let signal = container.annotations.stop_signal.filter(|_| !grace.is_zero());
    let Some(signal) = signal else { return Ok(BySignal::NotSent) };
    connection.context.capabilities.require(Capability::StopSignal)?;
    match kill::send(connection, container, signal).await {
        // It has ended since the inspection, by itself or by a concurrent stop. The engine accepts
        // a stop of an exited container, and so does this; the engine may not have noticed the end.
        Err(error)
            if error.kind() == ErrorKind::InvalidState
                && !connection.context.closed.is_cancelled() => {}
        sent => sent?,
    }
    let ended = async {
        match backend.exits.wait(&container.id).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // A close ends all waits, but not this stop: the container has the rest of its grace.
                tracing::debug!(%error, container = %container.id, "failed to wait for a stop");
                std::future::pending::<()>().await;
            }
            _ => {}
        }
    };
    let ended = tokio::time::timeout(grace, ended).await;
    Ok(if ended.is_ok() { BySignal::Ended } else { BySignal::RunsOn })
}

async fn request_stop(
    connection: &Connection,
    container: &CriContainer,
    grace: Duration,
) -> Result<()> {
    if grace.is_zero() {
        kill_before_stop(connection, container).await;
    }
    let request = cri::StopContainerRequest {
        container_id: container.id.to_string(),
        timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
    };
    let deadline = grace.saturating_add(connection.context.deadlines.stop_margin);
    connection.client.call(Operation::Stop, deadline, request).await.map(drop)
}

/// Kills the process before a stop without grace on CRI-O, which sends the stop signal first.
pub(crate) async fn kill_before_stop(connection: &Connection, container: &CriContainer) {
    if connection.engine.is_crio()
        && connection.context.capabilities.kill
        && let Err(error) = kill::send(connection, container, Signal::KILL).await
    {
        // It has ended, or the engine kills it.
        tracing::debug!(%error, container = %container.id, "not killed before the stop");
    }
}
