//! Connects to a cluster.

use runtime_core::{Error, ErrorKind, LabelFilter, Operation, Result, ResultExt as _};
use runtime_support::{OnExecutor, version_numbers, within};

use crate::client::transport::connections::Clients;
use crate::client::{self, Client};
use crate::error::BACKEND;
use crate::model::capabilities::{Server, capabilities};
use crate::model::labels;
use crate::options::{KubernetesOptions, StatsSource, StopMethod};
use crate::state::KubernetesBackend;

/// The oldest minor version that is supported and tested.
const OLDEST_MINOR: u32 = 20;

/// Connects with the configuration of kubectl.
pub(crate) async fn connect(options: KubernetesOptions) -> Result<KubernetesBackend> {
    let options = options.bounded();
    let work = async {
        options.check()?;
        open(client::open::clients(&options).await?, options.clone()).await
    };
    within(Operation::Connect, options.deadlines.connect, work).await.on(BACKEND)
}

/// Connects with an existing client.
pub(crate) async fn connect_with(
    client: kube::Client,
    options: KubernetesOptions,
) -> Result<KubernetesBackend> {
    let options = options.bounded();
    let work = async {
        options.check()?;
        open(Clients::single(client), options.clone()).await
    };
    within(Operation::Connect, options.deadlines.connect, work).await.on(BACKEND)
}

async fn open(
    clients: OnExecutor<Clients>,
    options: KubernetesOptions,
) -> Result<KubernetesBackend> {
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
    Ok(backend)
}

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
