//! Returns the state of a container.

use runtime_core::{ContainerInfo, Operation, Result};

use crate::state::{DockerBackend, DockerContainer};

/// Inspects a container.
pub(crate) async fn info(
    backend: &DockerBackend,
    container: &DockerContainer,
) -> Result<ContainerInfo> {
    let inspect = backend.inspect(Operation::Info, &container.id).await?;
    let exit = match container.state.exit() {
        Some(exit) => Some(exit.clone()),
        None => match inspect.exit() {
            Some(exit) => Some(backend.containers.settle(&container.id, exit).await),
            None => None,
        },
    };
    Ok(inspect.info(exit))
}
