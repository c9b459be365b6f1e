//! Identity of the connected engine.

use std::fmt;
use std::time::Duration;

use runtime_core::{Error, ErrorKind, Operation, Result};
use serde::Deserialize;

use super::Client;
use crate::generated as cri;

/// Identity of the connected engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    /// `containerd` or `cri-o`.
    pub(crate) name: String,
    /// Version of the engine.
    pub(crate) version: String,
    /// Version of the CRI, `v1`.
    pub(crate) api_version: String,
    /// Whether the configuration enables CDI devices, if the engine reports it.
    pub(crate) cdi: Option<bool>,
}

impl Engine {
    /// Returns whether the engine is containerd.
    pub(crate) fn is_containerd(&self) -> bool {
        self.name == "containerd"
    }

    /// Returns whether the engine is CRI-O.
    pub(crate) fn is_crio(&self) -> bool {
        self.name == "cri-o"
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The part of the configuration of containerd that this crate reads.
#[derive(Debug, Deserialize)]
struct EngineConfig {
    #[serde(rename = "enableCDI")]
    cdi: Option<bool>,
}

/// Returns the identity and the status of the engine.
///
/// # Errors
/// `Unavailable` if the server is not a CRI engine; `Unsupported` if the engine lacks version 1.
pub(crate) async fn identify(
    client: &Client,
    operation: Operation,
    deadline: Duration,
) -> Result<(Engine, cri::StatusResponse)> {
    let version = cri::VersionRequest { version: "v1".to_owned() };
    let version = client.call(operation, deadline, version).await.map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::Unsupported => "does not speak version 1 of the CRI",
            ErrorKind::Internal => "is not a CRI engine",
            _ => return error,
        };
        let kind = match error.kind() {
            ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind)
            .with_message(format!("the server at {} {reason}", client.endpoint()))
            .with_source(error)
    })?;
    let status = client.call(operation, deadline, cri::StatusRequest { verbose: true }).await?;
    let config = status.info.get("config");
    let cdi = config.and_then(|text| serde_json::from_str::<EngineConfig>(text).ok()?.cdi);
    let engine = Engine {
        name: version.runtime_name,
        version: version.runtime_version,
        api_version: version.runtime_api_version,
        cdi,
    };
    Ok((engine, status))
}
