//! Copies files with the `tar` of the container, because the API has no call for copies.

use std::sync::Arc;

use futures_util::StreamExt as _;
use runtime_core::{ByteStream, Capability, Error, ErrorKind, Operation, Result, ResultExt as _};
use runtime_support::backend::{ContainerRef as _, Handle};
use runtime_support::copy;

use crate::error::BACKEND;
use crate::model::container::KubernetesContainer;
use crate::state::KubernetesBackend;

/// See [`Container::copy_in`](runtime_core::Container::copy_in).
pub(crate) async fn unpack(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    path: &str,
    content: ByteStream,
) -> Result<()> {
    check_running(backend, container, Operation::CopyIn).await?;
    let silence = backend.context.deadlines.pull_inactivity;
    copy::unpack(&Handle::new(backend, container.clone()), path, content, silence).await
}

/// See [`Container::copy_out`](runtime_core::Container::copy_out).
pub(crate) async fn pack(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    path: &str,
) -> Result<ByteStream> {
    check_running(backend, container, Operation::CopyOut).await?;
    let silence = backend.context.deadlines.pull_inactivity;
    let handle = Handle::new(backend, container.clone());
    let packed = copy::pack(&handle, path, silence).await?;
    let id = container.id().clone();
    let packed = packed.map(move |piece| piece.during(Operation::CopyOut).on(BACKEND).about(&id));
    Ok(packed.boxed())
}

/// Checks that the container runs. Otherwise the copy is `Unsupported`, because `tar` cannot run.
async fn check_running(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    operation: Operation,
) -> Result<()> {
    let running = backend.query(operation, backend.require_running(container)).await;
    running.map_err(|error| match error.kind() {
        ErrorKind::NotStarted | ErrorKind::InvalidState => {
            Error::unsupported(Capability::CopyStopped)
        }
        _ => error,
    })
}
