//! A connected cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use runtime_core::{
    Capabilities, Capability, Container, ContainerId, ContainerSpec, ContainerStats, Error,
    ErrorKind, Event, EventStream, EventsOptions, Health, Image, LabelFilter, ListOptions, Listed,
    Operation, PullOptions, PullStream, ReapOptions, ReapReport, Result, ResultExt as _, Runtime,
    Scope, async_trait,
};
use runtime_support::{OnExecutor, newest_first, version_numbers};
use tokio::time::MissedTickBehavior;
use tracing::Span;
use tracing::field::Empty;

use crate::capabilities::{Server, capabilities};
use crate::client::Client;
use crate::connect::{KubernetesOptions, StatsSource, StopMethod};
use crate::container::KubernetesContainer;
use crate::link::Clients;
use crate::seen::Seen;
use crate::shared::Shared;
use crate::{BACKEND, create, info, names, reap, stats};

/// The oldest version that this backend is for and tested with.
const OLDEST: u32 = 20;

/// A connection to a cluster, for one scope in one namespace.
///
/// Clones share the connection. Dropping the last one, and the last of its containers' handles,
/// closes it.
#[derive(Clone)]
pub struct KubernetesRuntime {
    shared: Arc<Shared>,
}

impl fmt::Debug for KubernetesRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesRuntime")
            .field("namespace", &self.shared.client.namespace())
            .field("version", &self.shared.server.version)
            .field("scope", &self.shared.options.scope)
            .finish_non_exhaustive()
    }
}

impl KubernetesRuntime {
    /// Connects to a cluster as kubectl would, and asks its API server what it knows.
    ///
    /// # Errors
    /// `InvalidArgument` when the options or the kubeconfig cannot be used; `Unavailable` when there
    /// is no kubeconfig, nobody is there, or no API server; `Timeout` when it does not answer;
    /// `Unauthenticated` when it does not take the credentials; `Unsupported` when it is older
    /// than 1.20.
    pub async fn connect(options: KubernetesOptions) -> Result<Self> {
        let options = options.bounded();
        let connect = async {
            options.check()?;
            let clients = options.clients().await?;
            Self::open(clients, options.clone()).await
        };
        runtime_support::within(Operation::Connect, options.deadlines.connect, connect)
            .await
            .on(BACKEND)
    }

    /// Connects with a client that is there already. The kubeconfig and the context of the options
    /// do not count.
    ///
    /// The connections are the client's: they are neither pinged nor discarded when one of them is
    /// lost, so that a server which has vanished is noticed later, and they end with the executor on
    /// which the client was made.
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
            .with_read_limit(options.deadlines.query)
            .with_session_pings(options.session_pings);
        let server = ask(&client, &options).await?;
        let capabilities = capabilities(&server, &options);
        let shared = Shared::new(client, options, server, capabilities);
        #[cfg(feature = "cri")]
        let shared = crate::engine::add(shared).await?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many requests this connection has sent to the API server so far, those that were repeated
    /// counted each time.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.shared.client.sent()
    }

    /// The namespace that it works in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.shared.client.namespace()
    }

    fn handle(&self, seen: &Seen) -> Arc<dyn Container> {
        Arc::new(KubernetesContainer::new(&self.shared, Arc::clone(&seen.pod)))
    }

    /// Returns the pods of the scope with these labels: from the watch if that is known to be current,
    /// or by one list.
    async fn find(&self, labels: &LabelFilter) -> Result<Vec<Seen>> {
        let shared = &self.shared;
        let mut found = if shared.pods.is_current() {
            shared.pods.all()
        } else {
            let selector = names::selector(&shared.options.scope, labels);
            let (pods, _) = shared.client.list_pods(&selector).await?;
            pods.into_iter().map(|pod| shared.pods.seen(pod)).collect()
        };
        // The server selects by hashes.
        found.retain(|seen| info::has_labels(&seen.pod, labels));
        Ok(found)
    }
}

/// Asks a server who it is and what it knows.
async fn ask(client: &Client, options: &KubernetesOptions) -> Result<Server> {
    let version = client.version().await?;
    if version.git_version.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable)
            .with_message("what answers is no API server")
            .with_retryable(false));
    }
    let mut server = Server {
        // `20+` and `20-gke.1` are 20.
        minor: if version.major == "1" { version_numbers(&version.minor)[0] } else { u32::MAX },
        version: version.git_version,
        ..Server::default()
    };
    if server.minor < OLDEST {
        return Err(Error::new(ErrorKind::Unsupported).with_message(format!(
            "the API server has version {}, and 1.{OLDEST} is the oldest that is supported",
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
        let selector = names::selector(&options.scope, &LabelFilter::new());
        server.metrics = match client.has_metrics(&selector).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let namespace = client.namespace();
                server.warnings.push(format!(
                    "there are no statistics, metrics may not be read in namespace {namespace}: {error}"
                ));
                false
            }
            has => has?,
        };
    }
    Ok(server)
}

#[async_trait]
impl Runtime for KubernetesRuntime {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn scope(&self) -> &Scope {
        &self.shared.options.scope
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Health.as_str())
    )]
    async fn health(&self) -> Result<Health> {
        let shared = &self.shared;
        let version = shared.query(Operation::Health, shared.client.version()).await?;
        let mut health =
            Health::new(BACKEND, "Kubernetes", version.git_version, shared.capabilities.clone());
        health.api_version = Some("v1".to_owned());
        health.warnings.clone_from(&shared.server.warnings);
        Ok(health)
    }

    /// The nodes of a cluster pull images when a container starts there: the capability is
    /// `deferred_pull`.
    async fn pull_image(&self, image: &Image, _options: PullOptions) -> Result<PullStream> {
        Err(Error::unsupported(Capability::PullImage)
            .during(Operation::Pull)
            .on(BACKEND)
            .about(&image.reference))
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Create.as_str(), container = Empty)
    )]
    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>> {
        let shared = &self.shared;
        let deadline = shared.options.deadlines.create;
        let made = shared.within(Operation::Create, deadline, create::run(shared, spec)).await?;
        Span::current().record("container", made.metadata.uid.as_str());
        shared.pods.take(made.clone());
        Ok(Arc::new(KubernetesContainer::new(shared, Arc::new(made))))
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Reattach.as_str(), container = %id)
    )]
    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
        let shared = &self.shared;
        if shared.pods.is_current()
            && let Some(entry) = shared.pods.entry(id.as_str())
            && !shared.pods.is_gone(id.as_str())
        {
            return Ok(self.handle(&entry.now()));
        }
        let found = async {
            // The API finds no object by its UID, so the scope is listed.
            let selector = names::selector(&shared.options.scope, &LabelFilter::new());
            let (pods, _) = shared.client.list_pods(&selector).await?;
            pods.into_iter()
                .find(|pod| pod.metadata.uid == id.as_str())
                .ok_or_else(|| Error::new(ErrorKind::NotFound))
        };
        let pod = shared.query(Operation::Reattach, found).await.about(id)?;
        shared.pods.take(pod.clone());
        Ok(Arc::new(KubernetesContainer::new(shared, Arc::new(pod))))
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::List.as_str())
    )]
    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>> {
        let found = self.shared.query(Operation::List, self.find(&options.labels)).await?;
        let mut listed: Vec<_> =
            found.iter().map(|seen| Listed::new(self.handle(seen), info::info(seen))).collect();
        // A server counts whole seconds: those of one are in the order of their names.
        listed.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        newest_first(&mut listed);
        Ok(listed)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Stats.as_str())
    )]
    async fn stats(
        &self,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        stats::many(&self.shared, containers).await
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Events.as_str())
    )]
    async fn events(&self, options: EventsOptions) -> Result<EventStream> {
        // A pod that was removed has left nothing that could tell of it.
        if options.since.is_some() {
            return Err(Error::unsupported(Capability::EventsSince)
                .with_field("since")
                .during(Operation::Events)
                .on(BACKEND));
        }
        self.shared.query(Operation::Events, self.shared.pods.live()).await?;
        Ok(Box::pin(events(Arc::clone(&self.shared), options)))
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Reap.as_str())
    )]
    async fn reap(&self, options: ReapOptions) -> Result<ReapReport> {
        // Each of its questions and removals has its own deadline.
        self.shared.unless_closed(Operation::Reap, reap::run(&self.shared, &options)).await
    }

    async fn close(&self) -> Result<()> {
        self.shared.close().await;
        Ok(())
    }
}

/// How often a stream of events evaluates the budgets of the containers that do not run yet.
const EVALUATION: Duration = Duration::from_secs(1);

/// What happens to the containers of the scope from now on.
fn events(shared: Arc<Shared>, options: EventsOptions) -> impl Stream<Item = Result<Event>> + Send {
    let labels = options.labels.clone();
    let receiver = shared.pods.listen(options.labels);
    let closed = Box::pin(shared.closed());
    let mut tick = tokio::time::interval(EVALUATION);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures_util::stream::unfold(
        (receiver, Some(closed), tick, (shared, labels)),
        |(mut receiver, closed, mut tick, (shared, labels))| async move {
            let mut closed = closed?;
            loop {
                tokio::select! {
                    biased;
                    error = &mut closed => {
                        let state = (receiver, None, tick, (shared, labels));
                        return Some((Err(error.during(Operation::Events)), state));
                    }
                    event = receiver.recv() => {
                        let (event, closed) = match event {
                            Some(Ok(event)) => (Ok(event), Some(closed)),
                            Some(Err(error)) => (Err(error), None),
                            None => (Err(overrun()), None),
                        };
                        let event = event.during(Operation::Events).on(BACKEND);
                        return Some((event, (receiver, closed, tick, (shared, labels))));
                    }
                    // The events are what the caller waits by.
                    _ = tick.tick() => shared.judge_overdue(&labels).await,
                }
            }
        },
    )
}

fn overrun() -> Error {
    Error::new(ErrorKind::Lost)
        .with_message("events came faster than they were read, and some are lost")
}
