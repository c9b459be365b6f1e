//! See [`Container::copy_in`](runtime_core::Container::copy_in) and
//! [`Container::copy_out`](runtime_core::Container::copy_out).
//!
//! The CRI has no method for files, so the `tar` of the container packs and unpacks them.

use std::sync::Arc;

use futures_util::StreamExt;
use runtime_core::{ByteStream, Capability, ContainerStatus, Error, Operation, Result, ResultExt};
use runtime_support::backend::Handle;
use runtime_support::copy;

use crate::BACKEND;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::state::CriBackend;
use crate::state::inspect;

/// Unpacks a tar stream in a running container.
pub(crate) async fn unpack(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    path: &str,
    content: ByteStream,
) -> Result<()> {
    check_running(backend, container, Operation::CopyIn).await?;
    let handle = Handle::new(backend, container.clone());
    let silence = backend.connection.context.deadlines.pull_inactivity;
    copy::unpack(&handle, path, content, silence).await
}

/// Packs a file or a directory of a running container.
pub(crate) async fn pack(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    path: &str,
) -> Result<ByteStream> {
    check_running(backend, container, Operation::CopyOut).await?;
    let handle = Handle::new(backend, container.clone());
    let silence = backend.connection.context.deadlines.pull_inactivity;
    let packed = copy::pack(&handle, path, silence).await?;
    let id = container.id.clone();
    let packed = packed.map(move |piece| piece.during(Operation::CopyOut).on(BACKEND).about(&id));
    Ok(packed.boxed())
}

/// Returns an error unless the container is running, because `tar` cannot run otherwise.
async fn check_running(
    backend: &CriBackend,
    container: &CriContainer,
    operation: Operation,
) -> Result<()> {
    let status = inspect::status(&backend.connection, operation, &container.id).await?;
    match info::status(status.state()) {
        ContainerStatus::Running => Ok(()),
        _ => Err(Error::unsupported(Capability::CopyStopped)),
    }
}
