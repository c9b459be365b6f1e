//! See [`Container::wait`](runtime_core::Container::wait).

use runtime_core::{Exit, Result};

use crate::model::container::CriContainer;
use crate::state::CriBackend;

/// Waits for the exit of a container.
pub(crate) async fn wait(backend: &CriBackend, container: &CriContainer) -> Result<Exit> {
    backend.exits.wait(&container.id).await
}
