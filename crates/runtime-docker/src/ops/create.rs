//! Creating a container: the whole of it or nothing.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerCreateResponse;
use runtime_core::{
    Backoff, ContainerId, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, PreparedSpec,
    PullPolicy, Result,
};
use runtime_support::is_unclear;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::remove::remove_in_time;
use super::{mounts, pull};
use crate::client::deadline::within;
use crate::client::http::{Call, encode};
use crate::client::list::{self, Filter};
use crate::error::{refusal, was_not_sent};
use crate::model::info::Summary;
use crate::model::spec::{Create, engine_name};
use crate::state::containers::Started;
use crate::state::{DockerBackend, DockerContainer};

/// Creates a container.
///
/// The request is the only one where the image is there: an engine that lacks the image says so,
/// and then it is pulled. Asking first would cost every create a request.
pub(crate) async fn create(
    backend: &Arc<DockerBackend>,
    spec: PreparedSpec,
) -> Result<DockerContainer> {
    mounts::check(backend, &spec.mounts).await?;
    let mut create = Create::new(spec, &backend.engine)?;
    let mut pulled = false;
    if create.pull_policy == PullPolicy::Always {
        pull::ensure(backend, &create.image, create.auth.as_ref()).await?;
        pulled = true;
    }
    loop {
        let made = async {
            if create.wants_no_arguments() {
                give_entrypoint(backend, &mut create).await?;
            }
            send(backend, &create).await
        };
        match made.await {
            Ok(container) => return Ok(container),
            Err(error) if error.kind() == ErrorKind::ImageNotFound && !pulled => {
                if create.pull_policy == PullPolicy::Never || create.image.is_id() {
                    return Err(error);
                }
                pull::ensure(backend, &create.image, create.auth.as_ref()).await?;
                pulled = true;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Gives the image's entrypoint as the caller's command, so that the image's arguments do not
/// count.
async fn give_entrypoint(backend: &DockerBackend, create: &mut Create) -> Result<()> {
    let path = format!("/images/{}/json", encode(&engine_name(&create.image)));
    let image: ImageInspect = backend
        .query(Operation::Create, Call::get(Operation::Create, path))
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => refusal(Operation::Create, 404, "No such image"),
            _ => error,
        })?;
    match image.config.entrypoint.filter(|words| !words.is_empty()) {
        Some(entrypoint) => {
            create.body.entrypoint = Some(entrypoint);
            create.body.cmd = None;
            Ok(())
        }
        None => Err(Error::invalid(
            "arguments",
            "without any, and with an image that has no entrypoint, there is nothing to run",
        )),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageInspect {
    #[serde(default)]
    config: ImageConfig,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ImageConfig {
    entrypoint: Option<Vec<String>>,
}

/// Sends the create in a task of its own, which goes on when the caller has dropped the future:
/// an engine that has begun to create does not stop when the connection goes, so that somebody
/// has to wait for what came of it and remove that.
async fn send(backend: &Arc<DockerBackend>, create: &Create) -> Result<DockerContainer> {
    let (answer, answered) = oneshot::channel();
    let task = {
        let (backend, create) = (Arc::clone(backend), create.clone());
        async move {
            let made = request(&backend, create).await;
            // When nobody waits any more it comes back, and being dropped it is removed.
            drop(answer.send(made));
        }
    };
    backend.context.half_made.spawn(task);
    match answered.await {
        Ok(made) => Ok(made?.keep()),
        Err(_) => Err(Error::internal("the task that creates has ended")),
    }
}

async fn request(backend: &Arc<DockerBackend>, create: Create) -> Result<Made> {
    let Create { name, nonce, body, stop_grace, .. } = create;
    let mounts = body.host_config.as_ref().and_then(|config| config.mounts.as_deref());
    let sources: Vec<_> =
        mounts.into_iter().flatten().filter_map(|mount| mount.source.clone()).collect();
    let terminal = body.tty == Some(true);
    let nano_cpus = body.host_config.as_ref().and_then(|config| config.nano_cpus);
    let cpus = nano_cpus.map(|nano| nano as f64 / 1e9);
    // bollard writes the body of a request to its log, and this one has the environment.
    let body = serde_json::to_value(body)
        .map_err(|source| Error::internal("failed to write the request").with_source(source))?;
    let call = Call::post(Operation::Create, "/containers/create").query("name", &name).body(&body);
    let mut answered = false;
    let answer = async {
        let response = backend.http.send(call).await?;
        let refused = response.status().as_u16() >= 400;
        let response = backend.http.check(Operation::Create, response).await;
        answered = refused;
        let body = backend.http.whole(Operation::Create, response?).await?;
        serde_json::from_slice::<ContainerCreateResponse>(&body).map_err(|source| {
            Error::internal("failed to read the engine's response").with_source(source)
        })
    };
    match within(Operation::Create, backend.deadlines().create, answer).await {
        Ok(answer) => {
            for warning in &answer.warnings {
                tracing::warn!(container = %answer.id, warning, "the engine warns");
            }
            let container = backend.container(ContainerId::new(&answer.id), name.as_str());
            container.state.set_started(Started::No);
            let _ = container.state.stop_grace.set(stop_grace);
            let _ = container.state.terminal.set(terminal);
            let _ = container.state.cpus.set(cpus);
            let backend = Arc::clone(backend);
            Ok(Made { backend, container, kept: false, handle: Handle::current() })
        }
        Err(error) => {
            if is_unclear(&error) && !was_not_sent(&error) {
                if answered {
                    // The engine is not at it any more. The caller may end as soon as it has the
                    // error, and nothing would undo it then.
                    undo(Arc::clone(backend), nonce, Duration::ZERO).await;
                } else {
                    backend.context.half_made.spawn(undo(
                        Arc::clone(backend),
                        nonce,
                        UNDO_PATIENCE,
                    ));
                }
            }
            Err(which_mount(error, &sources))
        }
    }
}

/// Names the mount whose source the engine says is not there.
fn which_mount(error: Error, sources: &[String]) -> Error {
    let why = error.message().unwrap_or_default();
    let Some((_, path)) = why.split_once("source path does not exist: ") else { return error };
    match sources.iter().position(|source| source == path.trim()) {
        Some(at) => error.with_field(format!("mounts[{at}].source")),
        None => error,
    }
}

/// A container that nobody has a handle of yet. Dropped, it is removed.
struct Made {
    backend: Arc<DockerBackend>,
    container: DockerContainer,
    kept: bool,
    handle: Handle,
}

impl Made {
    fn keep(mut self) -> DockerContainer {
        self.kept = true;
        self.container.clone()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (backend, container) = (Arc::clone(&self.backend), self.container.clone());
        let half_made = backend.context.half_made.clone();
        let undone = async move {
            if let Err(error) = remove(&backend, &container).await {
                tracing::warn!(container = %container.id, %error, "a dropped create is not undone");
            }
        };
        half_made.spawn_on(undone, &self.handle);
    }
}

async fn remove(backend: &DockerBackend, container: &DockerContainer) -> Result<()> {
    let mut backoff = Backoff::default();
    let until = Instant::now() + backend.deadlines().remove;
    loop {
        match remove_in_time(backend, container).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.is_retryable() => {
                if !backend.context.half_made.another(backoff.delay(), until).await {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// How long an engine that does not answer is asked to undo a create. A caller in a hurry is no reason
/// to leave something behind.
const UNDO_PATIENCE: Duration = Duration::from_secs(120);

/// Looks for what a create without an answer may have made, and removes it. The engine may still
/// be at it, so it is looked for until a create would have to be done.
async fn undo(backend: Arc<DockerBackend>, nonce: Nonce, patience: Duration) {
    let label = [format!("{LABEL_NONCE}={nonce}")];
    let until = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let call = list::call(Operation::Create, &Filter::Labels(backend.scope(), &label));
        match backend.query::<Vec<Summary>>(Operation::Create, call).await {
            Ok(found) => {
                for summary in found.iter().filter(|found| {
                    found.label(LABEL_NONCE).is_some_and(|value| value == nonce.as_str())
                }) {
                    let container = backend.listed(summary);
                    if remove(&backend, &container).await.is_ok() {
                        return;
                    }
                }
            }
            // A closed runtime asks nothing any more.
            Err(error) if error.kind() == ErrorKind::InvalidState => return,
            Err(_) => {}
        }
        if !backend.context.half_made.another(backoff.delay(), until).await {
            return;
        }
    }
}
