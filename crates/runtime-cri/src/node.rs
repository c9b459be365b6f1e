//! Containers of a kubelet, for the Kubernetes backend on their node.
//!
//! The backend identifies a container from its pod. It can read the log files, measure, signal and
//! stop the container. It creates and removes none, because the kubelet does that.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use runtime_core::{
    Capabilities, Capability, Container as _, ContainerId, ContainerStats, ContainerStatus,
    LogOptions, LogReader, Operation, Result, ResultExt, Runtime as _, Signal, StopOptions,
    StopOutcome,
};
use runtime_support::backend::{Connected, Handle};

use crate::BACKEND;
use crate::connect;
use crate::model::annotations::Annotations;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::model::log_directory::KUBELET_LOG_ROOT;
use crate::ops::stats;
use crate::options::CriOptions;
use crate::state::connection::Ownership;
use crate::state::{CriBackend, inspect};

/// Engine of a node, for the containers of its kubelet.
///
/// Clones share the connection.
#[derive(Clone)]
pub struct NodeEngine {
    inner: Connected<CriBackend>,
}

impl fmt::Debug for NodeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = &self.inner.inner().connection;
        f.debug_struct("NodeEngine")
            .field("endpoint", &format_args!("{}", connection.client.endpoint()))
            .field("engine", &format_args!("{}", connection.engine))
            .finish_non_exhaustive()
    }
}

/// Container of a pod, as its pod describes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PodContainer {
    /// Id at the engine, without the prefix that names the engine.
    pub id: ContainerId,
    /// Name of the container.
    pub name: String,
    /// Whether the main process has a terminal.
    pub terminal: bool,
    /// Default grace of a stop, in whole seconds.
    pub stop_grace: Duration,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPU limit.
    pub cpu_count: Option<f64>,
}

impl PodContainer {
    /// Returns a container without limits and terminal, with the default grace of Kubernetes, 30 s.
    #[must_use]
    pub fn new(id: ContainerId, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            terminal: false,
            stop_grace: Duration::from_secs(30),
            memory: None,
            cpu_count: None,
        }
    }

    fn annotations(&self) -> Annotations {
        Annotations {
            terminal: self.terminal,
            stop_grace: self.stop_grace.as_secs(),
            memory: self.memory,
            cpu_count: self.cpu_count,
            ..Annotations::default()
        }
    }
}

impl NodeEngine {
    /// Connects to the engine of this host, for the containers named `container` in the pods of
    /// one namespace. `log_dir` of the options is the path of the kubelet's `/var/log/pods` in this
    /// process. The scope, `state_dir` and the log rotation are ignored.
    ///
    /// # Errors
    /// As [`CriRuntime::connect`](crate::CriRuntime::connect).
    pub async fn connect(options: CriOptions, namespace: &str, container: &str) -> Result<Self> {
        let ownership =
            Ownership::Kubelet { namespace: namespace.to_owned(), container: container.to_owned() };
        let backend = connect::open(options, ownership).await;
        Ok(Self { inner: Connected::new(backend.during(Operation::Connect).on(BACKEND)?) })
    }

    /// Returns the capabilities for containers of a kubelet. `logs` is false if the log directory
    /// of the kubelet is not visible to this process.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    /// Inspects a container on behalf of `operation`, and returns a handle.
    ///
    /// # Errors
    /// `NotFound` if the engine does not have the container.
    pub async fn container(
        &self,
        operation: Operation,
        of: &PodContainer,
    ) -> Result<NodeContainer> {
        let backend = self.inner.inner();
        let connection = &backend.connection;
        let status = Box::pin(inspect::status(connection, operation, &of.id)).await;
        let status = status.during(operation).on(BACKEND)?;
        let mut annotations = of.annotations();
        if let Ok(log) = Path::new(&status.log_path).strip_prefix(KUBELET_LOG_ROOT)
            && let Some(directory) = log.parent()
            && let Some(file) = log.file_name().and_then(|file| file.to_str())
        {
            annotations.logs = Some(connection.settings.log_dir.join(directory));
            annotations.kubelets_log = Some(file.to_owned());
        }
        let is_running = info::status(status.state()) == ContainerStatus::Running;
        let container = CriContainer {
            id: of.id.clone(),
            name: of.name.as_str().into(),
            sandbox: "".into(),
            annotations: annotations.into(),
        };
        Ok(NodeContainer { inner: Handle::new(backend, container), is_running })
    }

    /// Measures many containers in one request. Containers that do not run are omitted.
    ///
    /// # Errors
    /// As [`Runtime::stats`](runtime_core::Runtime::stats).
    pub async fn stats(
        &self,
        containers: &[PodContainer],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        let ids: Vec<_> = containers.iter().map(|container| container.id.clone()).collect();
        let known: HashMap<_, _> = containers
            .iter()
            .map(|container| (container.id.clone(), container.annotations()))
            .collect();
        // Boxed, because the future is large and the caller embeds it in its own.
        let many = Box::pin(async {
            self.inner.capabilities().require(Capability::BulkStats)?;
            stats::many(self.inner.inner(), &ids, &known).await
        });
        self.inner.call(Operation::Stats, many).await
    }

    /// Ends all operations, and refuses later ones.
    pub fn close(&self) {
        let backend = self.inner.inner();
        backend.connection.context.closed.cancel();
        backend.disconnect();
    }
}

/// Handle of a container of a kubelet.
#[derive(Debug, Clone)]
pub struct NodeContainer {
    inner: Handle<CriBackend>,
    is_running: bool,
}

impl NodeContainer {
    /// Returns whether the container ran when it was inspected.
    #[must_use]
    pub fn was_running(&self) -> bool {
        self.is_running
    }

    /// See [`Container::logs`](runtime_core::Container::logs). Rotated files that the
    /// kubelet has compressed are not read; a follower that needs one ends with `Lost`.
    ///
    /// # Errors
    /// See there.
    pub async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        self.inner.logs(options).await
    }

    /// See [`Container::stats_once`](runtime_core::Container::stats_once).
    ///
    /// # Errors
    /// See there.
    pub async fn stats_once(&self) -> Result<ContainerStats> {
        self.inner.stats_once().await
    }

    /// See [`Container::stop`](runtime_core::Container::stop). The exit is that of
    /// the engine: no mark records the stop.
    ///
    /// # Errors
    /// See there.
    pub async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        self.inner.stop(options).await
    }

    /// See [`Container::kill`](runtime_core::Container::kill).
    ///
    /// # Errors
    /// See there.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.inner.kill(signal).await
    }
}
