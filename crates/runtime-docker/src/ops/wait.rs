//! Waits for the exit of a container.

use runtime_core::{Exit, Result};

use crate::state::{DockerBackend, DockerContainer};

/// Waits for the exit. All waiters get the same one.
pub(crate) async fn wait(backend: &DockerBackend, container: &DockerContainer) -> Result<Exit> {
    if let Some(exit) = container.state.exit() {
        return Ok(exit.clone());
    }
    Ok(container.state.remember(backend.exits.wait(&container.id).await?))
}
