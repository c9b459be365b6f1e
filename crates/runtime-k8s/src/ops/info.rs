//! Returns the state of a container.

use runtime_core::{ContainerInfo, Result};

use crate::model::container::KubernetesContainer;
use crate::model::info;
use crate::state::KubernetesBackend;

/// Returns the info of a container.
pub(crate) async fn info(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<ContainerInfo> {
    Ok(info::info(&backend.current(container).await?))
}
