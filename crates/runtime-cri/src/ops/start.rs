//! See [`Container::start`](runtime_core::Container::start).

use std::sync::Arc;

use runtime_core::{ErrorKind, Operation, Result, StartOutcome};

use crate::error::{at_start, is_started_before};
use crate::generated as cri;
use crate::model::container::CriContainer;
use crate::state::CriBackend;

/// Starts a container. The request completes if the caller is dropped.
pub(crate) async fn start(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
) -> Result<StartOutcome> {
    let (in_task, container) = (Arc::clone(backend), container.clone());
    backend.connection.context.finish(async move { start_now(&in_task, &container).await }).await
}

async fn start_now(backend: &CriBackend, container: &CriContainer) -> Result<StartOutcome> {
    let connection = &backend.connection;
    let request = cri::StartContainerRequest { container_id: container.id.to_string() };
    let deadline = connection.context.deadlines.start;
    let started = connection.client.call(Operation::Start, deadline, request).await;
    backend.poller.poll_now();
    backend.rotator.ensure_running(connection);
    let Err(error) = started else { return Ok(StartOutcome::Started) };
    if is_started_before(&error) {
        return Ok(StartOutcome::AlreadyStarted);
    }
    if error.kind() == ErrorKind::Internal {
        backend.exits.poke(&container.id);
    }
    Err(at_start(error))
}
