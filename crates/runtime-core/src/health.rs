//! Who is there.

use serde::{Deserialize, Serialize};

use crate::Capabilities;

/// What [`Runtime::health`](crate::Runtime::health) found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Health {
    /// The backend: `docker`, `cri`, `kubernetes`.
    pub backend: String,
    /// What the engine calls itself: `Docker Engine`, `Podman Engine`, `containerd`.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// The version of the API that is spoken with it.
    pub api_version: Option<String>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl Health {
    /// A healthy engine without warnings.
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
