//! A connected engine.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    Capabilities, Container, ContainerId, ContainerSpec, ContainerStats, Error, ErrorKind,
    EventStream, EventsOptions, Health, Image, ListOptions, Listed, Operation, PullOptions,
    PullStream, ReapOptions, ReapReport, Result, ResultExt, Runtime, Scope,
};
use runtime_support::locality::Locality;
use runtime_support::{ExitHub, newest_first};
use serde::Deserialize;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use crate::BACKEND;
use crate::capabilities::EnginePlace;
use crate::census::{self, Census, Seen};
use crate::client::Client;
use crate::connect::{CriOptions, Endpoint, LogRotation};
use crate::container::CriContainer;
use crate::folders::FolderWatch;
use crate::generated as cri;
use crate::host::ENGINES;
use crate::info::has_labels;
use crate::journal::Journal;
use crate::node::POD_LOGS;
use crate::rotate::{self, Rotator};
use crate::sandbox::{self, on_host};
use crate::shared::{Engine, Shared, Whose};
use crate::spec::{Plan, Settings};
use crate::stats::Meter;
use crate::wait::Exits;
use crate::{capabilities, events, images, kubelet, private, reap, stats};

/// How often all containers that are waited for are looked at, whatever the census said.
const RESYNC: Duration = Duration::from_secs(30);

/// A connection to an engine that speaks the CRI. It was run on containerd only.
///
/// Clones share the connection. Dropping the last one, and the last of its containers' handles,
/// closes it.
#[derive(Clone)]
pub struct CriRuntime {
    shared: Arc<Shared>,
}

impl fmt::Debug for CriRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriRuntime")
            .field("endpoint", &format_args!("{}", self.shared.client.endpoint()))
            .field("engine", &format_args!("{}", self.shared.engine))
            .field("scope", &self.shared.scope)
            .finish_non_exhaustive()
    }
}

/// The error, which says where that was: who does not answer has said nothing.
fn at_place(error: Error, place: &str) -> Error {
    match error.message().map(str::to_owned) {
        Some(words) if words.contains(place) => error,
        Some(words) => error.with_message(format!("{words}: {place}")),
        None => error.with_message(place),
    }
}

impl CriRuntime {
    /// Connects to an engine: finds out where it is, and asks it who it is and what it can do.
    ///
    /// # Errors
    /// `InvalidArgument` when an option or `CONTAINER_RUNTIME_ENDPOINT` makes no sense;
    /// `Unavailable` when nobody is there, or no engine, with the sockets that were tried;
    /// `Timeout` when it does not answer; `PermissionDenied` when this user may not open the
    /// socket; `Unsupported` when it does not speak version 1 of the CRI.
    pub async fn connect(options: CriOptions) -> Result<Self> {
        let shared = Self::open(options, Whose::Ours).await;
        Ok(Self { shared: shared.during(Operation::Connect).on(BACKEND)? })
    }

    /// Connects to the first engine that answers.
    pub(crate) async fn open(options: CriOptions, whose: Whose) -> Result<Arc<Shared>> {
        options.check()?;
        let candidates = options.candidates()?;
        let several = candidates.len() > 1;
        let mut failures = Vec::new();
        for endpoint in candidates {
            let place = endpoint.to_string();
            match Self::open_at(&options, &whose, endpoint).await {
                Ok(shared) => return Ok(shared),
                Err(error) if !several => return Err(at_place(error, &place)),
                Err(error) => failures.push(at_place(error, &place)),
            }
        }
        let tried: Vec<_> = failures.iter().filter_map(Error::message).map(str::to_owned).collect();
        // What one may not open is there: that says more than what is not.
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::Timeout, ErrorKind::Unsupported];
        let kind = kinds.into_iter().find(|kind| failures.iter().any(|f| f.kind() == *kind));
        Err(Error::new(kind.unwrap_or(ErrorKind::Unavailable)).with_message(format!(
            "no engine was found, and CONTAINER_RUNTIME_ENDPOINT is not set; tried: {}",
            tried.join("; ")
        )))
    }

    async fn open_at(
        options: &CriOptions,
        whose: &Whose,
        endpoint: Endpoint,
    ) -> Result<Arc<Shared>> {
        let deadlines = options.deadlines.clone().bounded();
        let client = Client::new(endpoint, deadlines.connect);
        let (engine, _) = identify(&client, Operation::Connect, deadlines.connect).await?;
        let peer = client.peer().clone();
        let (log_dir, state_dir) = (options.log_dir.clone(), options.state_dir.clone());
        let ours = *whose == Whose::Ours;
        let (logs, root) = on_host(move || {
            let root = rustix::process::geteuid().is_root();
            if !ours {
                // A kubelet has made it, or there is none.
                let seen = peer.sees_as(Path::new(POD_LOGS), &log_dir);
                return Ok((seen == Some(true), root));
            }
            let made = private::create_dir_all(&log_dir);
            if let Err(error) = &made {
                tracing::warn!(%error, folder = %log_dir.display(), "no logs: the folder cannot be made");
            }
            if let Err(error) = private::create_dir_all(&state_dir) {
                tracing::debug!(%error, folder = %state_dir.display(), "a folder cannot be made");
            }
            // An engine in another PID namespace has made the socket that is mounted here: the
            // directory is taken for mounted as well, and a log without its files is an error. Of an
            // engine behind a relay nothing is known.
            let shared = peer.sees_the_same(&log_dir).unwrap_or_else(|| !peer.is_relay());
            let logs = made.is_ok() && shared;
            Ok((logs, root))
        })
        .await?;
        let locality = Locality::of_socket(&client.endpoint().socket, &ENGINES).await;
        let place = EnginePlace {
            root,
            shares_pids: locality.shares_pids(),
            sees_mounts: client.peer().shares_namespace("mnt").is_some(),
        };
        let capabilities = capabilities::of(&engine, &place, logs);
        let events = options.engine_events && capabilities::has_events(&engine);
        let settings = Settings {
            log_dir: options.log_dir.clone(),
            state_dir: options.state_dir.clone(),
            logs,
            hosts: place.root && place.sees_mounts,
            runtime_handler: options.runtime_handler.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            gpu_kind: options.gpu_kind.clone(),
            host_ports: options.host_ports.clone(),
            events,
        };
        let rotates = ours && capabilities.logs;
        let rotation = if rotates { options.log_rotation } else { LogRotation::Off };
        let shared = Arc::new_cyclic(|shared| Shared {
            client,
            scope: options.scope.clone(),
            whose: whose.clone(),
            deadlines,
            settings,
            engine,
            capabilities,
            census: Census::default(),
            rotator: Rotator::new(rotation),
            journal: Journal::new(&options.state_dir, &options.scope),
            exits: ExitHub::new(Exits::new(shared.clone()), RESYNC),
            meter: Meter::default(),
            watch: FolderWatch::default(),
            turns: Default::default(),
            kernel_log: Default::default(),
            closed: Default::default(),
            half_made: Default::default(),
        });
        rotate::ensure(&shared);
        Ok(shared)
    }

    /// How many requests this connection has sent to the engine so far.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.shared.client.requests_sent()
    }

    /// Begins a new log file for each running container of the scope whose current one has more
    /// than `max_bytes`, without waiting for the time at which
    /// [`LogRotation`](crate::LogRotation) looks. Gives how many were begun.
    ///
    /// A file that was begun for a container is finished also when the future is dropped. What a
    /// process that was killed has left between the two steps of it is mended by the next call, in
    /// whichever process.
    ///
    /// # Errors
    /// `InvalidArgument` where `keep` is zero. When the containers cannot be listed, or the files cannot be renamed.
    pub async fn rotate_logs(&self, max_bytes: u64, keep: Option<u32>) -> Result<usize> {
        self.doing(Operation::Logs, rotate::all(&self.shared, max_bytes, keep)).await
    }

    fn handle(&self, seen: &Seen) -> Arc<dyn Container> {
        Arc::new(CriContainer {
            shared: self.shared.clone(),
            id: seen.info.id.clone(),
            name: seen.info.name.as_str().into(),
            sandbox: seen.sandbox.as_str().into(),
            notes: seen.notes.clone(),
        })
    }

    /// Does `work` in a span of its own, and says of its errors what is known here.
    async fn doing<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.doing_in(&span(operation), operation, work).await
    }

    async fn doing_in<T>(
        &self,
        span: &Span,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.shared.unless_closed(work).instrument(span.clone()).await.during(operation).on(BACKEND)
    }
}

/// The span of an operation. Where it is about one container, that is said once it is known.
fn span(operation: Operation) -> Span {
    tracing::debug_span!(
        "runtime",
        backend = BACKEND,
        operation = operation.as_str(),
        container = Empty
    )
}

/// Who is at the other end, and in what state.
async fn identify(
    client: &Client,
    operation: Operation,
    deadline: Duration,
) -> Result<(Engine, cri::StatusResponse)> {
    let version = cri::VersionRequest { version: "v1".to_owned() };
    let version = client.ask(operation, deadline, version).await.map_err(|error| {
        let what = match error.kind() {
            ErrorKind::Unsupported => "does not speak version 1 of the CRI",
            ErrorKind::Internal => "is no CRI engine",
            _ => return error,
        };
        let kind = match error.kind() {
            ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind)
            .with_message(format!("what answers at {} {what}", client.endpoint()))
            .with_source(error)
    })?;
    let status = client.ask(operation, deadline, cri::StatusRequest { verbose: true }).await?;
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

/// What of containerd's configuration counts here.
#[derive(Debug, Deserialize)]
struct EngineConfig {
    #[serde(rename = "enableCDI")]
    cdi: Option<bool>,
}

#[async_trait]
impl Runtime for CriRuntime {
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
        self.doing(Operation::Health, async {
            let shared = &self.shared;
            let deadline = shared.deadlines.query;
            let (engine, status) = identify(&shared.client, Operation::Health, deadline).await?;
            let mut health = Health::new(
                BACKEND,
                engine.name.as_str(),
                engine.version.as_str(),
                shared.capabilities.clone(),
            );
            health.api_version = Some(engine.api_version.clone());
            let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
            for condition in conditions.iter().filter(|condition| !condition.status) {
                health.warnings.push(format!(
                    "The engine says that {} is false: {} {}.",
                    condition.r#type, condition.reason, condition.message
                ));
            }
            if !shared.capabilities.logs {
                health.warnings.push(format!(
                    "There are no logs: engine and caller do not share the folder {}.",
                    shared.settings.log_dir.display()
                ));
            }
            health.warnings.extend(kubelet::warning(shared).await?);
            Ok(health)
        })
        .await
    }

    async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream> {
        self.doing(Operation::Pull, async {
            let reference = image.resolve()?;
            let (shared, auth) = (self.shared.clone(), image.auth.clone());
            images::pull_stream(shared, reference, auth, options.policy).await
        })
        .await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>> {
        let create = async {
            let shared = &self.shared;
            let prepared = spec.prepare(&shared.scope, &shared.capabilities)?;
            let name = prepared.name.clone();
            let plan = Plan::new(prepared, &shared.scope, &shared.settings);
            let made = sandbox::create(shared, plan).await.about(&name)?;
            shared.census.hurry();
            let container: Arc<dyn Container> = Arc::new(CriContainer {
                shared: shared.clone(),
                id: ContainerId::new(&made.container),
                name: made.name.as_str().into(),
                sandbox: made.sandbox.as_str().into(),
                notes: Arc::new(made.notes),
            });
            Ok(container)
        };
        let span = span(Operation::Create);
        let made = self.doing_in(&span, Operation::Create, create).await?;
        span.record("container", display(made.id()));
        Ok(made)
    }

    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
        let span = span(Operation::Reattach);
        span.record("container", display(id));
        self.doing_in(&span, Operation::Reattach, async {
            let id_text = id.to_string();
            let found = census::list_raw(&self.shared, Operation::Reattach, id_text).await?;
            // The engine takes the beginning of an id for the whole.
            match found.iter().find(|container| container.id == id.as_str()) {
                Some(container) => Ok(self.handle(&census::seen(container))),
                None => Err(Error::new(ErrorKind::NotFound)),
            }
        })
        .await
        .about(id)
    }

    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>> {
        self.doing(Operation::List, async {
            let all = census::list(&self.shared, Operation::List).await?;
            let mut listed: Vec<_> = all
                .into_values()
                .filter(|seen| has_labels(&seen.info, &options.labels))
                .map(|seen| Listed::new(self.handle(&seen), seen.info))
                .collect();
            newest_first(&mut listed);
            Ok(listed)
        })
        .await
    }

    async fn stats(
        &self,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        self.doing(Operation::Stats, stats::many(&self.shared, containers, &Default::default()))
            .await
    }

    async fn events(&self, options: EventsOptions) -> Result<EventStream> {
        self.doing(Operation::Events, events::open(&self.shared, options)).await
    }

    async fn reap(&self, options: ReapOptions) -> Result<ReapReport> {
        self.doing(Operation::Reap, reap::reap(&self.shared, options)).await
    }

    async fn close(&self) -> Result<()> {
        let shared = &self.shared;
        shared.closed.cancel();
        shared.census.hurry();
        // What is half made is undone before the connection goes.
        shared.half_made.close(shared.deadlines.remove).await;
        shared.client.close();
        shared.watch.close();
        Ok(())
    }
}
