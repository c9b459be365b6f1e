//! Creates a container completely, or leaves nothing behind.

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
use crate::client::http::{ApiRequest, encode};
use crate::client::list::{self, Filter};
use crate::error::{invalid_response, refusal, was_not_sent};
use crate::model::info::Summary;
use crate::model::spec::{Create, engine_name};
use crate::state::containers::Started;
use crate::state::{DockerBackend, DockerContainer};

/// Creates a container.
///
/// The image is only pulled after the engine has reported it as missing. A check before would cost a
/// request for each create.
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
        let created = async {
            if create.has_empty_arguments() {
                set_entrypoint(backend, &mut create).await?;
            }
            send(backend, &create).await
        };
        match created.await {
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

/// Sets the image's entrypoint as the command, so that the engine ignores the image's arguments.
async fn set_entrypoint(backend: &DockerBackend, create: &mut Create) -> Result<()> {
    let path = format!("/images/{}/json", encode(&engine_name(&create.image)));
    let image: ImageInspect = backend
        .query(Operation::Create, ApiRequest::get(Operation::Create, path))
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => refusal(Operation::Create, 404, "No such image"),
            _ => error,
        })?;
    match image.config.entrypoint.filter(|entrypoint| !entrypoint.is_empty()) {
        Some(entrypoint) => {
            create.body.entrypoint = Some(entrypoint);
            create.body.cmd = None;
            Ok(())
        }
        None => Err(Error::invalid("arguments", "are empty, and the image has no entrypoint")),
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

/// Sends the request in a task of its own, which goes on if the caller drops the future: the engine
/// does not stop a create when the connection is closed, so the task has to wait for the result and
/// remove the container.
async fn send(backend: &Arc<DockerBackend>, create: &Create) -> Result<DockerContainer> {
    let (sender, receiver) = oneshot::channel();
    let task = {
        let (backend, create) = (Arc::clone(backend), create.clone());
        async move {
            let created = request(&backend, create).await;
            // If the receiver is dropped, the container is returned here, and its drop removes it.
            drop(sender.send(created));
        }
    };
    backend.context.half_made.spawn(task);
    match receiver.await {
        Ok(created) => Ok(created?.keep()),
        Err(_) => Err(Error::internal("the task of the create has ended")),
    }
}

async fn request(backend: &Arc<DockerBackend>, create: Create) -> Result<Created> {
    let Create { name, nonce, body, stop_grace, .. } = create;
    let mounts = body.host_config.as_ref().and_then(|config| config.mounts.as_deref());
    let sources: Vec<_> =
        mounts.into_iter().flatten().filter_map(|mount| mount.source.clone()).collect();
    let terminal = body.tty == Some(true);
    let nano_cpus = body.host_config.as_ref().and_then(|config| config.nano_cpus);
    let cpus = nano_cpus.map(|nano| nano as f64 / 1e9);
    // Not sent by bollard, which logs the body of a request, because this body has the environment.
    let body = serde_json::to_value(body)
        .map_err(|source| Error::internal("failed to serialize the request").with_source(source))?;
    let request =
        ApiRequest::post(Operation::Create, "/containers/create").query("name", &name).body(&body);
    let mut is_refused = false;
    let work = async {
        let response = backend.http.send(request).await?;
        let has_refusal = response.status().as_u16() >= 400;
        let response = backend.http.check(Operation::Create, response).await;
        is_refused = has_refusal;
        let body = backend.http.whole(Operation::Create, response?).await?;
        serde_json::from_slice::<ContainerCreateResponse>(&body).map_err(invalid_response)
    };
    match within(Operation::Create, backend.deadlines().create, work).await {
        Ok(response) => {
            for warning in &response.warnings {
                tracing::warn!(container = %response.id, warning, "warning of the engine");
            }
            let container = backend.container(ContainerId::new(&response.id), name.as_str());
            container.state.set_started(Started::No);
            let _ = container.state.stop_grace.set(stop_grace);
            let _ = container.state.terminal.set(terminal);
            let _ = container.state.cpus.set(cpus);
            let backend = Arc::clone(backend);
            Ok(Created { backend, container, kept: false, handle: Handle::current() })
        }
        Err(error) => {
            if is_unclear(&error) && !was_not_sent(&error) {
                if is_refused {
                    // The engine has finished. Undone before the error is returned, because the
                    // caller's process may exit after that.
                    undo(Arc::clone(backend), nonce, Duration::ZERO).await;
                } else {
                    backend.context.half_made.spawn(undo(Arc::clone(backend), nonce, UNDO_TIMEOUT));
                }
            }
            Err(name_mount(error, &sources))
        }
    }
}

/// Adds the field of the mount whose source does not exist to the engine's error.
fn name_mount(error: Error, sources: &[String]) -> Error {
    let message = error.message().unwrap_or_default();
    let Some((_, path)) = message.split_once("source path does not exist: ") else { return error };
    match sources.iter().position(|source| source == path.trim()) {
        Some(at) => error.with_field(format!("mounts[{at}].source")),
        None => error,
    }
}

/// A created container without a handle. Its drop removes the container.
struct Created {
    backend: Arc<DockerBackend>,
    container: DockerContainer,
    kept: bool,
    handle: Handle,
}

impl Created {
    fn keep(mut self) -> DockerContainer {
        self.kept = true;
        self.container.clone()
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (backend, container) = (Arc::clone(&self.backend), self.container.clone());
        let half_made = backend.context.half_made.clone();
        let undone = async move {
            if let Err(error) = remove(&backend, &container).await {
                tracing::warn!(container = %container.id, %error, "failed to undo a cancelled create");
            }
        };
        half_made.spawn_on(undone, &self.handle);
    }
}

/// Removes a container, with retries.
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

/// How long to retry the undo of a create if the engine does not respond. Independent of the
/// deadlines of the caller, so that short ones leave nothing behind.
const UNDO_TIMEOUT: Duration = Duration::from_secs(120);

/// Finds and removes the container of a create without a response. The engine may still be creating
/// it, so this retries until `timeout`.
async fn undo(backend: Arc<DockerBackend>, nonce: Nonce, timeout: Duration) {
    let label = [format!("{LABEL_NONCE}={nonce}")];
    let until = Instant::now() + timeout;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let request = list::request(Operation::Create, &Filter::Labels(backend.scope(), &label));
        match backend.query::<Vec<Summary>>(Operation::Create, request).await {
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
            // The runtime was closed.
            Err(error) if error.kind() == ErrorKind::InvalidState => return,
            Err(_) => {}
        }
        if !backend.context.half_made.another(backoff.delay(), until).await {
            return;
        }
    }
}
