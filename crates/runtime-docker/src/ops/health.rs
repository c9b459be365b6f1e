//! The engine's health.

use runtime_core::{Health, Result};

use crate::client::identify::identify_again;
use crate::error::BACKEND;
use crate::state::DockerBackend;

/// Requests the engine's version and reports it with the capabilities of the connection.
pub(crate) async fn health(backend: &DockerBackend) -> Result<Health> {
    let (name, version) = identify_again(&backend.http, &backend.engine).await?;
    let mut health = Health::new(BACKEND, name, version, backend.capabilities().clone());
    health.api_version = Some(backend.engine.api.to_string());
    health.warnings = backend.engine.warnings();
    Ok(health)
}
