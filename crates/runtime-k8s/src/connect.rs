//! Connects to a cluster.

use std::fmt;
use std::sync::Arc;

use runtime_core::{Error, ErrorKind, LabelFilter, Operation, Result, ResultExt as _};
use runtime_support::backend::Connected;
use runtime_support::{OnExecutor, delegate_runtime, version_numbers};

use crate::BACKEND;
use crate::client::transport::connections::Clients;
use crate::client::{self, Client};
use crate::model::capabilities::{Server, capabilities};
use crate::model::labels;
use crate::options::{KubernetesOptions, StatsSource, StopMethod};
use crate::state::KubernetesBackend;

/// The oldest minor version that is supported and tested.
const OLDEST_MINOR: u32 = 20;

/// A connection to a cluster, for one scope in one namespace.
///
/// Clones share the connection. Dropping the last clone and the last handle of a container closes
/// it.
#[derive(Clone)]
pub struct KubernetesRuntime {
    inner: Connected<KubernetesBackend>,
}

impl fmt::Debug for KubernetesRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesRuntime")
            .field("namespace", &self.backend().client.namespace())
            .field("version", &self.backend().server.version)
            .field("scope", &self.backend().options.scope)
            .finish_non_exhaustive()
    }
}

impl KubernetesRuntime {
    fn backend(&self) -> &KubernetesBackend {
        self.inner.inner()
    }

    /// Connects to a cluster with the configuration of kubectl, and requests the version of its API
    /// server.
    ///
    /// # Errors
    /// `InvalidArgument` if the options or the kubeconfig cannot be used; `Unavailable` if
    /// there is no kubeconfig, or the server is unreachable or not an API server; `Timeout` if it
    /// does not respond; `Unauthenticated` if it refuses the credentials; `Unsupported` if it is
    /// older than 1.20.
    pub async fn connect(options: KubernetesOptions) -> Result<Self> {
        let options = options.bounded();
        let connect = async {
            options.check()?;
            let clients = client::open::clients(&options).await?;
            Self::open(clients, options.clone()).await
        };
        runtime_support::within(Operation::Connect, options.deadlines.connect, connect)
            .await
            .on(BACKEND)
    }

    /// Connects with an existing client. The kubeconfig and the context of the options are ignored.
    ///
    /// The client owns the connections: they are neither pinged nor discarded if one of them is
    /// lost, so that a vanished server is detected later, and they end with the executor on which
    /// the client was created.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn with_client(client: kube::Client, options: KubernetesOptions) -> Result<Self> {
        let options = options.bounded();
        let connect = async {
            options.check()?;
            Self::open(Clients::single(client), options.clone()).await
        };
        runtime_support::within(Operation::Connect, options.deadlines.connect, connect)
            .await
            .on(BACKEND)
    }

    async fn open(clients: OnExecutor<Clients>, options: KubernetesOptions) -> Result<Self> {
        let namespace = options
            .namespace
            .clone()
            .unwrap_or_else(|| clients.get().all.default_namespace().to_owned());
        let client = Client::new(clients, &namespace)
            .with_read_timeout(options.deadlines.query)
            .with_session_pings(options.session_pings);
        let server = inspect(&client, &options).await?;
        let capabilities = capabilities(&server, &options);
        let backend = KubernetesBackend::new(client, options, server, capabilities);
        #[cfg(feature = "cri")]
        let backend = with_node_engine(backend).await?;
        Ok(Self { inner: Connected::new(Arc::new(backend)) })
    }

    /// Returns the number of requests that this connection has sent to the API server, retries
    /// included.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.backend().client.sent()
    }

    /// Returns the namespace of the connection.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.backend().client.namespace()
    }
}

delegate_runtime!(KubernetesRuntime);

/// Requests the version and the features of a server.
async fn inspect(client: &Client, options: &KubernetesOptions) -> Result<Server> {
    let version = client.version().await?;
    if version.git_version.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable)
            .with_message("the server is not an API server")
            .with_retryable(false));
    }
    let mut server = Server {
        // `20+` and `20-gke.1` are parsed as 20.
        minor: if version.major == "1" { version_numbers(&version.minor)[0] } else { u32::MAX },
        version: version.git_version,
        ..Server::default()
    };
    if server.minor < OLDEST_MINOR {
        return Err(Error::new(ErrorKind::Unsupported).with_message(format!(
            "the API server has version {}, but the oldest supported version is 1.{OLDEST_MINOR}",
            server.version
        )));
    }
    if options.stop_method == StopMethod::Deadline && !server.deadline_keeps_code() {
        return Err(Error::invalid(
            "stop_method",
            format!("a deadline loses the exit code on a server of version {}", server.version),
        ));
    }
    if options.stats == StatsSource::MetricsApi {
        let selector = labels::selector(&options.scope, &LabelFilter::new());
        server.metrics = match client.has_metrics(&selector).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let namespace = client.namespace();
                server.warnings.push(format!(
                    "statistics are not available: failed to read metrics in namespace {namespace}: {error}"
                ));
                false
            }
            has => has?,
        };
    }
    Ok(server)
}

/// Connects to the engine of the options, and adds its capabilities.
#[cfg(feature = "cri")]
async fn with_node_engine(mut backend: KubernetesBackend) -> Result<KubernetesBackend> {
    let Some(endpoint) = backend.options.node_engine.clone() else { return Ok(backend) };
    let options = runtime_cri::CriOptions::new(backend.options.scope.clone())
        .endpoint(endpoint)
        .log_dir(&backend.options.node_logs)
        .deadlines(backend.context.deadlines.clone());
    let namespace = backend.client.namespace();
    let engine = runtime_cri::NodeEngine::connect(options, namespace, labels::CONTAINER).await?;
    let of = engine.capabilities();
    let can = &mut backend.context.capabilities;
    can.kill = of.kill;
    can.stop_immediately = true;
    can.stop_grace_override = true;
    can.limits.minimum_stop_grace = None;
    can.logs_streams_apart = of.logs;
    can.logs_carriage_returns = of.logs_carriage_returns;
    can.logs_at_exit = of.logs_at_exit;
    can.stats_cpu = of.stats_cpu;
    can.stats_memory = of.stats_memory;
    can.stats_network = of.stats_network;
    can.stats_block_io = of.stats_block_io;
    can.bulk_stats = of.bulk_stats;
    if !of.logs {
        let folder = backend.options.node_logs.display();
        backend.server.warnings.push(format!(
            "logs are read through the API server: {folder} is not the node's /var/log/pods"
        ));
    }
    backend.engine = Some(engine);
    Ok(backend)
}
