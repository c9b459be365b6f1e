//! Containers that a kubelet has made, for the Kubernetes backend on their node.
//!
//! Who knows a container from its pod can read its log files, measure it, signal it and stop it
//! here. Nothing is made and nothing removed: that is the kubelet's.

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

/// The engine of a node, for the containers that its kubelet has made.
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

/// A container of a pod, by what its pod says of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PodContainer {
    /// The engine's id of it, without the name of the engine before it.
    pub id: ContainerId,
    /// What it is called.
    pub name: String,
    /// Whether its main process has a terminal.
    pub terminal: bool,
    /// The grace of a stop that says none. Whole seconds count.
    pub stop_grace: Duration,
    /// The limit on memory in bytes.
    pub memory: Option<u64>,
    /// The limit on CPUs.
    pub cpu_count: Option<f64>,
}

impl PodContainer {
    /// One without limits and without a terminal, with a grace of 30 s, as Kubernetes has it.
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
    /// Connects to the engine of this host, for the containers called `container` in the pods of
    /// one namespace. `log_dir` of the options is where the kubelet's `/var/log/pods` is seen from
    /// here; the scope, the other folder and the rotation of logs do not count.
    ///
    /// # Errors
    /// As [`CriRuntime::connect`](crate::CriRuntime::connect).
    pub async fn connect(options: CriOptions, namespace: &str, container: &str) -> Result<Self> {
        let ownership =
            Ownership::Kubelet { namespace: namespace.to_owned(), container: container.to_owned() };
        let backend = connect::open(options, ownership).await;
        Ok(Self { inner: Connected::new(backend.during(Operation::Connect).on(BACKEND)?) })
    }

    /// What can be done with the containers of a kubelet. `logs` is false where the kubelet's
    /// folder of logs is not seen from here.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    /// A container. The engine is asked for it on behalf of `operation`.
    ///
    /// # Errors
    /// `NotFound` when it is not on this engine.
    pub async fn container(
        &self,
        operation: Operation,
        of: &PodContainer,
    ) -> Result<NodeContainer> {
        let backend = self.inner.inner();
        let connection = &backend.connection;
        let status = Box::pin(inspect::status(connection, operation, &of.id)).await?;
        let mut annotations = of.annotations();
        if let Ok(log) = Path::new(&status.log_path).strip_prefix(KUBELET_LOG_ROOT)
            && let Some(folder) = log.parent()
            && let Some(file) = log.file_name().and_then(|file| file.to_str())
        {
            annotations.logs = Some(connection.settings.log_dir.join(folder));
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

    /// Measures many containers in one call. What does not run is left out.
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
        // A call to the engine is large, and the futures of the caller lie around it.
        let many = Box::pin(async {
            self.inner.capabilities().require(Capability::BulkStats)?;
            stats::many(self.inner.inner(), &ids, &known).await
        });
        self.inner.call(Operation::Stats, many).await
    }

    /// Ends all that is under way, and refuses what comes.
    pub fn close(&self) {
        let backend = self.inner.inner();
        backend.connection.context.closed.cancel();
        backend.disconnect();
    }
}

/// A container of a kubelet: what can be done with it beside its kubelet.
#[derive(Debug, Clone)]
pub struct NodeContainer {
    inner: Handle<CriBackend>,
    is_running: bool,
}

impl NodeContainer {
    /// Whether it ran when the engine was asked for it.
    #[must_use]
    pub fn was_running(&self) -> bool {
        self.is_running
    }

    /// See [`Container::logs`](runtime_core::Container::logs). What the kubelet has rotated away
    /// and packed is not read; a follower that has come too late for it ends with `Lost`.
    ///
    /// # Errors
    /// As there.
    pub async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        self.inner.logs(options).await
    }

    /// See [`Container::stats_once`](runtime_core::Container::stats_once).
    ///
    /// # Errors
    /// As there.
    pub async fn stats_once(&self) -> Result<ContainerStats> {
        self.inner.stats_once().await
    }

    /// See [`Container::stop`](runtime_core::Container::stop). The exit is the engine's: that it
    /// was stopped is not noted anywhere.
    ///
    /// # Errors
    /// As there.
    pub async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        self.inner.stop(options).await
    }

    /// See [`Container::kill`](runtime_core::Container::kill).
    ///
    /// # Errors
    /// As there.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.inner.kill(signal).await
    }
}
