//! What an engine knows about a container.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Container, ContainerId, Exit};

/// Where in its one life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStatus {
    /// It is made and has not been started: nothing runs.
    Created,
    /// Its main process runs. A paused one counts as running.
    Running,
    /// Its main process has ended, or could not be started.
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

/// A port of the container and the port of the host that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TcpPortBinding {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
}

/// The image of a container under its three names.
///
/// Once it runs, an engine knows at least one of `resolved` and `id`. Kubernetes gives one of them
/// alone: the digest if the node has ever pulled the image, else the id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageInfo {
    /// As the caller asked for it, normalised.
    pub requested: Option<String>,
    /// As the engine resolved it, usually with a digest.
    pub resolved: Option<String>,
    /// The engine's id of it.
    pub id: Option<String>,
}

/// What an engine knows about a container. A field that the engine does not give is `None`.
///
/// From [`Container::info`] it is as complete as the engine can make it. In a
/// [listing](crate::Runtime::list_containers) it holds what the engine's one list answer holds,
/// which can be less: Docker's has no start and end times, no exit and no limits, so that `memory`
/// and `cpu_count` are `None` there also where there is a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerInfo {
    /// The engine's id.
    pub id: ContainerId,
    /// The name.
    pub name: String,
    /// The image.
    pub image: ImageInfo,
    /// The caller's labels. Those that this library adds are left out.
    pub labels: BTreeMap<String, String>,
    /// Where in its life it is.
    pub status: ContainerStatus,
    /// When it was created, by the engine's clock.
    pub created_at: Option<SystemTime>,
    /// When its main process was started.
    pub started_at: Option<SystemTime>,
    /// When its main process ended.
    pub ended_at: Option<SystemTime>,
    /// How it ended. `None` until it has.
    pub exit: Option<Exit>,
    /// The engine's words about its state.
    pub message: Option<String>,
    /// The limit on memory in bytes.
    pub memory: Option<u64>,
    /// The limit on CPUs.
    pub cpu_count: Option<f64>,
    /// The ports, with the host's ports while it runs.
    pub tcp_ports: Vec<TcpPortBinding>,
    /// The node it is on, where the engine has nodes.
    pub node: Option<String>,
}

impl ContainerInfo {
    /// What is known of every container; the rest is absent.
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

/// One container of a listing: the handle, and what the list said of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// The handle.
    pub container: Arc<dyn Container>,
    /// What the engine's list said.
    pub info: ContainerInfo,
}

impl Listed {
    /// A container of a listing.
    #[must_use]
    pub fn new(container: Arc<dyn Container>, info: ContainerInfo) -> Self {
        Self { container, info }
    }
}
