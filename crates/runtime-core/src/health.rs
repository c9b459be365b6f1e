//! Identity of the connected engine.

use serde::{Deserialize, Serialize};

use crate::Capabilities;

/// Result of [`Runtime::health`](crate::Runtime::health).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Health {
    /// Name of the backend: `docker`, `cri` or `kubernetes`.
    pub backend: String,
    /// Name of the engine, as reported by the engine: `Docker Engine`, `Podman Engine`,
    /// `containerd`.
    pub engine: String,
    /// Version of the engine.
    pub version: String,
    /// Version of the API that is used.
    pub api_version: Option<String>,
    /// Capabilities of the engine.
    pub capabilities: Capabilities,
    /// Warnings for the user, one sentence each.
    pub warnings: Vec<String>,
}

impl Health {
    /// Creates the result for a healthy engine, without an API version and warnings.
    #[must_use]
    pub fn new(
        backend: impl Into<String>,
        engine: impl Into<String>,
        version: impl Into<String>,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            backend: backend.into(),
            engine: engine.into(),
            version: version.into(),
            api_version: None,
            capabilities,
            warnings: Vec::new(),
        }
    }
}
