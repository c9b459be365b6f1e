//! Starts a container.

use std::time::Duration;

use http::StatusCode;
use runtime_core::{ContainerStatus, Error, ErrorKind, Operation, Result, StartOutcome};

use crate::client::http::ApiRequest;
use crate::state::containers::Started;
use crate::state::{DockerBackend, DockerContainer};

/// Starts a container that has not run.
pub(crate) async fn start(
    backend: &DockerBackend,
    container: &DockerContainer,
) -> Result<StartOutcome> {
    let state = &container.state;
    // One start at a time. Docker would restart a container that has run, so the start is only sent
    // if the container is known not to have run. That is known of one that was created here.
    let _one = state.starting.lock().await;
    if state.started() != Started::No {
        // This also returns `NotFound` for a container that was removed.
        let inspect = backend.inspect(Operation::Start, &container.id).await?;
        if inspect.status() != ContainerStatus::Created {
            state.set_started(Started::Yes);
        }
    }
    if state.started() == Started::Yes {
        return Ok(StartOutcome::AlreadyStarted);
    }
    // If the caller drops the future, or there is no response, the outcome is unknown, and the next
    // start has to inspect the container first.
    state.set_started(Started::Unknown);
    let request = ApiRequest::post(Operation::Start, format!("/containers/{}/start", container.id));
    match backend.http.unit(request).await {
        Ok(status) => {
            state.set_started(Started::Yes);
            Ok(match status {
                StatusCode::NOT_MODIFIED => StartOutcome::AlreadyStarted,
                _ => StartOutcome::Started,
            })
        }
        Err(error) if is_start_failure(&error) => {
            state.set_started(Started::Yes);
            backend.containers.start_failed(state, error.message().unwrap_or_default());
            // Neither engine sends an event for it.
            backend.exits.poke(&container.id);
            // Waiters get this failure as the container's exit, so it is not started again, although
            // the engine might do that.
            Err(name_group(backend, container, error).await.with_retryable(false))
        }
        Err(error) => Err(error),
    }
}

/// Timeout of the inspection after a start that failed because of a group.
const NAME_GROUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Adds the field to the error of a group that does not exist. The engines report the group of the
/// user and a supplementary group with the same message.
async fn name_group(backend: &DockerBackend, container: &DockerContainer, error: Error) -> Error {
    let text = error.message().unwrap_or_default().to_owned();
    let Some((_, rest)) = text.split_once("nable to find group ") else { return error };
    let group = rest.split(':').next().unwrap_or_default();
    // A slow response must not replace the failure by the timeout of the start.
    let inspect = backend.inspect(Operation::Start, &container.id);
    match tokio::time::timeout(NAME_GROUP_TIMEOUT, inspect).await {
        Ok(Ok(inspect)) if inspect.host_config.group_add.iter().flatten().any(|g| g == group) => {
            error.with_field("groups")
        }
        _ => error,
    }
}

/// Returns `true` if the engine refused the start, as opposed to a lost or missing response.
fn is_start_failure(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidArgument | ErrorKind::ResourceExhausted | ErrorKind::Internal
    )
}
