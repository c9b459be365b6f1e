//! Requests the health of the cluster.

use runtime_core::{Health, Result};

use crate::error::BACKEND;
use crate::state::KubernetesBackend;

/// Requests the version of the API server.
pub(crate) async fn health(backend: &KubernetesBackend) -> Result<Health> {
    let version = backend.client.version().await?;
    let capabilities = backend.context.capabilities.clone();
    let mut health = Health::new(BACKEND, "Kubernetes", version.git_version, capabilities);
    health.api_version = Some("v1".to_owned());
    health.warnings.clone_from(&backend.server.warnings);
    Ok(health)
}
