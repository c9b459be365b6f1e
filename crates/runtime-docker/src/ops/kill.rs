//! Sends a signal to a container.

use bollard::query_parameters::KillContainerOptions;
use runtime_core::{ContainerStatus, Error, ErrorKind, Operation, Result, Signal};

use super::info::info;
use crate::error::from_bollard;
use crate::state::{DockerBackend, DockerContainer};

/// Sends `signal` to the main process.
pub(crate) async fn kill(
    backend: &DockerBackend,
    container: &DockerContainer,
    signal: Signal,
) -> Result<()> {
    let options = KillContainerOptions { signal: signal.number().to_string() };
    let killed = backend.docker.kill_container(container.id.as_str(), Some(options)).await;
    match killed.map_err(|error| from_bollard(Operation::Kill, error)) {
        // The engine returns the same error for a created container and for one that has ended.
        Err(error) if error.kind() == ErrorKind::InvalidState => {
            Err(match info(backend, container).await?.status {
                ContainerStatus::Created => Error::new(ErrorKind::NotStarted),
                _ => error,
            })
        }
        done => done,
    }
}
