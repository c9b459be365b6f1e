//! State of a container.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Container, ContainerId, Exit};

/// Lifecycle state of a container. A container runs once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStatus {
    /// Created and not started: no process runs.
    Created,
    /// The main process runs. A paused container counts as running.
    Running,
    /// The main process has ended or could not be started.
    Exited,
}

impl fmt::Display for ContainerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        })
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TcpPortBinding {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
}

/// Names of a container's image.
///
/// While the container runs or after it has run, at least one of `resolved` and `id` is present.
/// Kubernetes reports only one of them: the digest if the node has ever pulled the image, else the
/// id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The reference that the caller requested, normalised.
    pub requested: Option<String>,
    /// The reference that the engine resolved, usually with a digest.
    pub resolved: Option<String>,
    /// The engine's image id.
    pub id: Option<String>,
}

/// State of a container. A field that the engine does not report is `None`.
///
/// [`Container::info`] returns all fields that the engine can report. A
/// [listing](crate::Runtime::list_containers) contains only the fields of the engine's list
/// response: Docker's has no start and end times, no exit and no limits, so `memory` and
/// `cpu_count` are `None` there even if the container has limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerInfo {
    /// The engine's container id.
    pub id: ContainerId,
    /// Name of the container.
    pub name: String,
    /// Image of the container.
    pub image: ImageInfo,
    /// The caller's labels, without the labels that this library adds.
    pub labels: BTreeMap<String, String>,
    /// Lifecycle state.
    pub status: ContainerStatus,
    /// Creation time, by the engine's clock.
    pub created_at: Option<SystemTime>,
    /// Start time of the main process.
    pub started_at: Option<SystemTime>,
    /// End time of the main process.
    pub ended_at: Option<SystemTime>,
    /// Exit of the container. `None` until the container has ended.
    pub exit: Option<Exit>,
    /// The engine's message about the state.
    pub message: Option<String>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPU limit in CPUs.
    pub cpu_count: Option<f64>,
    /// Published ports. The host ports are present while the container runs.
    pub tcp_ports: Vec<TcpPortBinding>,
    /// Node of the container, if the engine has nodes.
    pub node: Option<String>,
}

impl ContainerInfo {
    /// Creates an info in which all optional fields are absent.
    #[must_use]
    pub fn new(id: ContainerId, name: impl Into<String>, status: ContainerStatus) -> Self {
        Self {
            id,
            name: name.into(),
            image: ImageInfo::default(),
            labels: BTreeMap::new(),
            status,
            created_at: None,
            started_at: None,
            ended_at: None,
            exit: None,
            message: None,
            memory: None,
            cpu_count: None,
            tcp_ports: Vec::new(),
            node: None,
        }
    }
}

/// An entry of a listing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// Handle for the container.
    pub container: Arc<dyn Container>,
    /// State of the container, as reported by the list response.
    pub info: ContainerInfo,
}

impl Listed {
    /// Creates an entry of a listing.
    #[must_use]
    pub fn new(container: Arc<dyn Container>, info: ContainerInfo) -> Self {
        Self { container, info }
    }
}
