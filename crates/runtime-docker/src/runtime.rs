//! A connected engine.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime_core::{
    Capabilities, Container, ContainerId, ContainerSpec, ContainerStats, Error, ErrorKind,
    EventStream, EventsOptions, Health, Image, LABEL_CREATED_AT, ListOptions, Listed, Operation,
    PullOptions, PullStream, ReapOptions, ReapReport, Result, ResultExt, Runtime, Scope,
};
use runtime_support::{ExitHub, is_old, newest_first};
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use crate::capabilities::capabilities;
use crate::connect::DockerOptions;
use crate::connector::Connector;
use crate::container::DockerContainer;
use crate::engine::{Engine, Flavour};
use crate::exits::DockerExits;
use crate::http::{Http, bollard, closed};
use crate::info::Summary;
use crate::life::Lives;
use crate::list::is_ours;
use crate::shared::{Shared, within};
use crate::stats::Samples;
use crate::{BACKEND, create, events, pull};

/// How many containers are removed at once by a reap.
const REMOVALS: usize = 8;

/// How often those that are waited for are looked at whatever the events say. The engines have no
/// event for a start that failed in another process, and Podman's can be switched off.
const fn resync(flavour: Flavour) -> Duration {
    match flavour {
        Flavour::Docker => Duration::from_secs(30),
        Flavour::Podman => Duration::from_secs(5),
    }
}

/// A connection to a Docker Engine or a Podman service.
///
/// Clones share the connection. Dropping the last one, and the last of its containers' handles,
/// closes it.
#[derive(Clone)]
pub struct DockerRuntime {
    shared: Arc<Shared>,
}

impl fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerRuntime")
            .field("endpoint", &format_args!("{}", self.shared.http.endpoint()))
            .field("engine", &format_args!("{}", self.shared.engine))
            .field("scope", &self.shared.scope)
            .finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Connects to an engine: finds out where it is, asks it who it is, and agrees with it on a
    /// version of the API.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` when the options or the environment name no place that
    /// can be used; `Unavailable` when nobody is there, or no engine; `Timeout` when it does not
    /// answer; `PermissionDenied` when this user may not open the socket; `Unsupported` when the
    /// engine is too old (API before 1.41, Engine 20.10) or runs no Linux containers.
    pub async fn connect(options: DockerOptions) -> Result<Self> {
        Self::open(options).await.during(Operation::Connect).on(BACKEND)
    }

    async fn open(options: DockerOptions) -> Result<Self> {
        let endpoint = options.endpoint()?;
        let DockerOptions { scope, deadlines, .. } = options;
        let deadlines = deadlines.bounded();
        let connector = Connector::new(&endpoint, deadlines.connect)?;
        let place = endpoint.to_string();
        let mut http = Http::new(endpoint, connector);
        let identify = Engine::identify(&mut http);
        let engine = within(Operation::Connect, deadlines.connect, identify).await.about(place)?;
        let mut capabilities = capabilities(&engine);
        // The engine has no call for it, but gives the number of the process. Without cgroups
        // nothing proves that a process belongs to the container.
        let locality = http.endpoint().locality().await;
        capabilities.exec_signal = locality.shares_pids()
            && runtime_support::process::is_root()
            && engine.info.cgroup_driver != "none";
        capabilities.exec_descendants = capabilities.exec_signal;
        let http = Arc::new(http);
        let docker = bollard(&http)?;
        let lives = Arc::new(Lives::default());
        let exits = DockerExits {
            http: Arc::clone(&http),
            deadlines: deadlines.clone(),
            scope: scope.clone(),
            flavour: engine.flavour,
            clock: engine.clock,
            lives: Arc::clone(&lives),
        };
        let exits = ExitHub::new(exits, resync(engine.flavour));
        tracing::debug!(backend = BACKEND, engine = %engine, "connected");
        let shared = Shared {
            http,
            docker,
            scope,
            deadlines,
            engine,
            capabilities,
            lives,
            exits,
            half_made: Default::default(),
            samples: Samples::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many requests this connection has sent to the engine so far, those that were repeated
    /// counted each time.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.shared.http.requests_sent()
    }

    async fn doing<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.doing_in(&self.span(operation), operation, work).await
    }

    async fn doing_in<T>(
        &self,
        span: &Span,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        work.instrument(span.clone()).await.during(operation).on(BACKEND)
    }

    /// The span of an operation. Where it is about one container, that is said once it is known.
    fn span(&self, operation: Operation) -> Span {
        tracing::debug_span!(
            "runtime",
            backend = BACKEND,
            operation = operation.as_str(),
            scope = %self.shared.scope,
            container = Empty
        )
    }

    fn handle(&self, summary: &Summary) -> DockerContainer {
        let id = ContainerId::new(&summary.id);
        DockerContainer::new(Arc::clone(&self.shared), id, summary.name())
    }

    async fn reattach(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
        // Anything else would be part of an id, a name, or another question.
        let digits = id.as_str().bytes().filter(u8::is_ascii_hexdigit).count();
        if digits != 64 || id.as_str().len() != 64 {
            return Err(Error::new(ErrorKind::NotFound).with_message("an id has 64 hex digits"));
        }
        let inspect = self.shared.inspect(Operation::Reattach, id).await?;
        // A name can look like an id, and the engine knows containers that are not ours.
        let ours = inspect.id == id.as_str()
            && is_ours(&self.shared.scope, |key| inspect.labels().get(key).map(String::as_str));
        if !ours {
            return Err(Error::new(ErrorKind::NotFound).with_message("not of this scope"));
        }
        let name = inspect.name();
        Ok(Arc::new(DockerContainer::new(Arc::clone(&self.shared), id.clone(), name)))
    }

    async fn list(&self, options: &ListOptions) -> Result<Vec<Listed>> {
        let found = self.shared.list(Operation::List, &options.labels).await?;
        let mut listed: Vec<_> = found
            .iter()
            .map(|summary| {
                let container = self.handle(summary);
                let info = summary.info(container.life().exit().cloned());
                Listed::new(Arc::new(container), info)
            })
            .collect();
        // Docker has them so, Podman in no order.
        newest_first(&mut listed);
        Ok(listed)
    }

    async fn reap_old(&self, options: &ReapOptions) -> Result<ReapReport> {
        let mut listed = self.shared.list(Operation::Reap, &options.labels).await?;
        let now = SystemTime::now();
        listed.retain(|summary| {
            let label = summary.label(LABEL_CREATED_AT);
            is_old(label, summary.created_at(), options.older_than, now)
        });
        let containers: Vec<_> = listed.iter().map(|summary| self.handle(summary)).collect();
        let mut removals = futures_util::stream::iter(containers)
            .map(|container| async move {
                let removed = container.remove_it().await;
                (container.full_id().clone(), removed)
            })
            .buffer_unordered(REMOVALS);
        let mut report = ReapReport::default();
        while let Some((id, removed)) = removals.next().await {
            match removed {
                Ok(()) => report.removed.push(id),
                Err(error) if error.kind() == ErrorKind::NotFound => report.removed.push(id),
                Err(error) => report.failed.push((id, error.to_string())),
            }
        }
        Ok(report)
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn scope(&self) -> &Scope {
        &self.shared.scope
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    async fn health(&self) -> Result<Health> {
        let work = async {
            let health = self.shared.engine.ask_again(&self.shared.http);
            let (name, version) =
                within(Operation::Health, self.shared.deadlines.query, health).await?;
            let mut health = Health::new(BACKEND, name, version, self.shared.capabilities.clone());
            health.api_version = Some(self.shared.engine.api.to_string());
            health.warnings = self.shared.engine.warnings();
            Ok(health)
        };
        self.doing(Operation::Health, work).await
    }

    async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream> {
        let work = async {
            let reference = image.resolve()?;
            pull::open(&self.shared, &reference, image.auth.as_ref(), options.policy).await
        };
        self.doing(Operation::Pull, work).await.about(&image.reference)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>> {
        let create = async {
            let made = self.shared.half_made.unless_closing(create::create(&self.shared, spec));
            made.await.unwrap_or_else(|| Err(closed()))
        };
        let span = self.span(Operation::Create);
        let made = self.doing_in(&span, Operation::Create, create).await;
        match made {
            Ok(container) => {
                span.record("container", display(container.id()));
                Ok(Arc::new(container))
            }
            Err(error) if error.kind() == ErrorKind::ImageNotFound => {
                Err(error.about(&spec.image.reference))
            }
            Err(error) => Err(match &spec.name {
                Some(name) => error.about(name),
                None => error,
            }),
        }
    }

    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
        let span = self.span(Operation::Reattach);
        span.record("container", display(id));
        self.doing_in(&span, Operation::Reattach, self.reattach(id)).await.about(id)
    }

    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>> {
        self.doing(Operation::List, self.list(&options)).await
    }

    async fn stats(
        &self,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        self.doing(Operation::Stats, self.shared.measure_all(containers)).await
    }

    async fn events(&self, options: EventsOptions) -> Result<EventStream> {
        self.doing(Operation::Events, events::open(&self.shared, options)).await
    }

    async fn reap(&self, options: ReapOptions) -> Result<ReapReport> {
        self.doing(Operation::Reap, self.reap_old(&options)).await
    }

    async fn close(&self) -> Result<()> {
        // What is half made is undone before the connection goes.
        self.shared.half_made.close(self.shared.deadlines.remove).await;
        self.shared.http.close();
        Ok(())
    }
}
