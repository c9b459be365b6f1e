//! Sends signals to the main process.

use runtime_core::{Capability, Error, Result, Signal};

use crate::model::container::KubernetesContainer;
use crate::state::KubernetesBackend;

/// Sends a signal through the engine of the node: the API server has no call for signals.
pub(crate) async fn kill(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    signal: Signal,
) -> Result<()> {
    #[cfg(feature = "cri")]
    if let Some(engine) = &backend.engine {
        return super::node_engine::kill(backend, container, engine, signal).await;
    }
    let _ = (backend, container, signal);
    Err(Error::unsupported(Capability::Kill))
}
