//! See [`Container::remove`](runtime_core::Container::remove).

use std::sync::Arc;
use std::time::SystemTime;

use runtime_core::{ContainerStatus, ErrorKind, Operation, Result};

use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::model::container::{CriContainer, Details};
use crate::ops::sandbox::remove_sandbox;
use crate::ops::stop::kill_before_stop;
use crate::state::CriBackend;
use crate::state::inspect;
use crate::state::journal::RemovalRecord;

/// Removes a container with its sandbox and its files. The removal completes if the caller is
/// dropped.
pub(crate) async fn remove(backend: &Arc<CriBackend>, container: &CriContainer) -> Result<()> {
    let (in_task, container) = (Arc::clone(backend), container.clone());
    backend.connection.context.finish(async move { remove_now(&in_task, &container).await }).await
}

/// Removes a container, after a record of it was written to the journal.
pub(crate) async fn remove_now(backend: &CriBackend, container: &CriContainer) -> Result<()> {
    let connection = &backend.connection;
    match end(backend, container).await {
        Ok(record) => {
            backend.exits.removing(&container.id);
            let journal = backend.journal.clone();
            let written = run_blocking(move || Ok(journal.write(&record))).await?;
            if let Err(error) = written {
                tracing::debug!(%error, "failed to record the removal for later events");
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let request = cri::PodSandboxStatusRequest {
                pod_sandbox_id: container.sandbox.to_string(),
                verbose: false,
            };
            let query = connection.context.deadlines.query;
            let found = connection.client.call(Operation::Remove, query, request).await;
            if let Err(error) = found {
                if error.kind() == ErrorKind::NotFound {
                    connection.container_dirs().clear(&container.annotations).await?;
                }
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    remove_sandbox(connection, Operation::Remove, &container.sandbox).await?;
    backend.poller.poll_now();
    backend.samples.remove(&container.id);
    connection.container_dirs().clear(&container.annotations).await
}

/// Kills the container, if it runs, and returns the record of its removal.
async fn end(backend: &CriBackend, container: &CriContainer) -> Result<RemovalRecord> {
    let connection = &backend.connection;
    let mut details = inspect::details(connection, Operation::Remove, &container.id).await?;
    if details.info.status == ContainerStatus::Running {
        kill_before_stop(connection, container).await;
        let request =
            cri::StopContainerRequest { container_id: container.id.to_string(), timeout: 0 };
        let deadline = connection.context.deadlines.stop_margin;
        connection.client.call(Operation::Remove, deadline, request).await?;
        details = inspect::details(connection, Operation::Remove, &container.id).await?;
    }
    let Details { info, out_of_memory } = details;
    Ok(RemovalRecord { removed_at: SystemTime::now(), out_of_memory, info })
}
