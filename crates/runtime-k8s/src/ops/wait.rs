//! Waits for the end of a container.

use runtime_core::{Exit, Result};

use crate::model::container::KubernetesContainer;
use crate::state::KubernetesBackend;

/// Returns the exit of a container. An unavailable server is retried.
pub(crate) async fn wait(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<Exit> {
    backend.wait_ended_with_retries(container).await
}
