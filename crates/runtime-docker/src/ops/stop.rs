//! Stops a container.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use runtime_core::{
    ContainerStatus, Error, ErrorKind, ExitReason, Operation, Result, Signal, StopOptions,
    StopOutcome,
};

use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::error::is_refusal;
use crate::state::containers::Requests;
use crate::state::{DockerBackend, DockerContainer};

/// Stops a container: sends the stop signal, waits for the grace, and kills.
pub(crate) async fn stop(
    backend: &DockerBackend,
    container: &DockerContainer,
    options: StopOptions,
) -> Result<StopOutcome> {
    let id = &container.id;
    let grace = options.grace.map(|grace| backend.capabilities().round_grace(grace));
    let mut request = ApiRequest::post(Operation::Stop, format!("/containers/{id}/stop"));
    if let Some(grace) = grace {
        request = request.query("t", grace.as_secs());
    }
    let grace = match grace {
        Some(grace) => grace,
        None => created_grace(backend, container).await?,
    };
    let deadline = grace.saturating_add(backend.deadlines().stop_margin);
    let stopping = backend.containers.stopping(&container.state);
    let work = async {
        // The engine's stop sends its signal even if the grace is zero, and a quick process has the
        // time to handle it.
        let killed =
            grace.is_zero() && kill_to_stop(backend, container, &stopping.requests).await?;
        let status = change(backend, request, &stopping.requests).await?;
        let status = if killed { StatusCode::NO_CONTENT } else { status };
        // The response only reports if the container was stopped or was not running. Podman also
        // reports a stop of a container that was never started.
        let inspect = backend.inspect(Operation::Stop, id).await?;
        Ok((status, inspect))
    };
    let (status, inspect) = match within(Operation::Stop, deadline, work).await {
        Ok(done) => done,
        Err(error) => {
            if error.kind() == ErrorKind::NotFound {
                stopping.was_not_running();
            }
            return Err(error);
        }
    };
    let failed = container.state.exit().filter(|exit| exit.reason == ExitReason::StartFailed);
    let Some(exit) = failed.cloned().or_else(|| inspect.exit()) else {
        stopping.was_not_running();
        return match inspect.status() {
            ContainerStatus::Created => Ok(StopOutcome::NotStarted),
            _ => Err(Error::internal("the engine reports the container as stopped and as running")),
        };
    };
    let stopped = status != StatusCode::NOT_MODIFIED && exit.reason != ExitReason::StartFailed;
    if stopped {
        drop(stopping);
    } else {
        stopping.was_not_running();
    }
    let exit = backend.containers.settle(id, exit).await;
    Ok(if stopped { StopOutcome::Stopped(exit) } else { StopOutcome::AlreadyExited(exit) })
}

/// Kills the container, as the whole of a stop without grace. Returns `false` if it is not running.
async fn kill_to_stop(
    backend: &DockerBackend,
    container: &DockerContainer,
    requests: &Requests,
) -> Result<bool> {
    let request = ApiRequest::post(Operation::Stop, format!("/containers/{}/kill", container.id));
    match change(backend, request.query("signal", Signal::KILL.number()), requests).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::InvalidState => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends a request that changes how the container ends, and records if it may have had an effect.
pub(super) async fn change(
    backend: &DockerBackend,
    request: ApiRequest,
    requests: &Requests,
) -> Result<StatusCode> {
    let mark = requests.next();
    let response = backend.http.unit(request.noting(Arc::clone(&mark))).await;
    let without_effect =
        |error: &Error| is_refusal(error) || error.kind() == ErrorKind::InvalidState;
    if response.as_ref().is_err_and(without_effect) {
        mark.store(false, Ordering::Relaxed);
    }
    response
}

/// Returns the grace that was set when the container was created.
async fn created_grace(backend: &DockerBackend, container: &DockerContainer) -> Result<Duration> {
    if let Some(grace) = container.state.stop_grace.get() {
        return Ok(*grace);
    }
    let inspect = backend.inspect(Operation::Stop, &container.id).await?;
    let seconds = inspect.config.stop_timeout.and_then(|grace| u64::try_from(grace).ok());
    let grace = Duration::from_secs(seconds.unwrap_or(10));
    Ok(*container.state.stop_grace.get_or_init(|| grace))
}
