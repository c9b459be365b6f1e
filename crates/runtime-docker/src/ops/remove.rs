//! Removes a container.

use http::Method;
use runtime_core::{ErrorKind, Operation, Result, Signal};
use serde::Deserialize;

use super::stop::change;
use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::error::refusal;
use crate::state::containers::Started;
use crate::state::{DockerBackend, DockerContainer};

/// Removes a container, running or not.
pub(crate) async fn remove(backend: &DockerBackend, container: &DockerContainer) -> Result<()> {
    // Noted before the kill, so that no waiter takes the kill for the container's own end.
    let removing = container.state.removing();
    backend.exits.removing(&container.id);
    if backend.engine.is_podman() && container.state.started() != Started::No {
        // Podman's Docker API stops the container first, with the whole grace of its creation. The
        // result of this kill does not matter, because the removal reports the state.
        let request =
            ApiRequest::post(Operation::Remove, format!("/containers/{}/kill", container.id))
                .query("signal", Signal::KILL.number());
        if let Err(error) = change(backend, request, &removing.requests).await {
            tracing::trace!(%error, "failed to kill the container before its removal");
        }
    }
    let path = format!("/containers/{}", container.id);
    let request = ApiRequest::new(Operation::Remove, Method::DELETE, path)
        .query("force", true)
        .query("v", true);
    match change(backend, request, &removing.requests).await {
        // Another removal is under way. This one ends with it.
        Err(error) if error.kind() == ErrorKind::InvalidState => {
            until_removed(backend, container).await
        }
        done => done.map(drop),
    }
}

/// Removes a container within the deadline of removals, as a part of another operation.
pub(crate) async fn remove_in_time(
    backend: &DockerBackend,
    container: &DockerContainer,
) -> Result<()> {
    within(Operation::Remove, backend.deadlines().remove, remove(backend, container)).await
}

async fn until_removed(backend: &DockerBackend, container: &DockerContainer) -> Result<()> {
    let request = ApiRequest::post(Operation::Remove, format!("/containers/{}/wait", container.id))
        .query("condition", "removed");
    match backend.http.json::<Removed>(request).await {
        Ok(Removed { error: Some(Refused { message }) }) if !message.is_empty() => {
            Err(refusal(Operation::Remove, 500, &message))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The response to a wait for a removal. The engine also sends it if the removal fails.
#[derive(Deserialize)]
struct Removed {
    #[serde(rename = "Error")]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(rename = "Message", default)]
    message: String,
}
