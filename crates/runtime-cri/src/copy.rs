//! Files into containers and out of them, through the container's own `tar`: the CRI has no call.

use futures_util::StreamExt;
use runtime_core::{ByteStream, Capability, ContainerStatus, Operation, Result, ResultExt};
use runtime_support::{check_path, copy};

use crate::BACKEND;
use crate::container::CriContainer;
use crate::info;

/// See [`Container::copy_in`](runtime_core::Container::copy_in).
pub(crate) async fn unpack(
    container: &CriContainer,
    path: &str,
    content: ByteStream,
) -> Result<()> {
    check_path(path)?;
    check_running(container, Operation::CopyIn).await?;
    copy::unpack(container, path, content, container.shared.deadlines.pull_inactivity).await
}

/// See [`Container::copy_out`](runtime_core::Container::copy_out).
pub(crate) async fn pack(container: &CriContainer, path: &str) -> Result<ByteStream> {
    check_path(path)?;
    check_running(container, Operation::CopyOut).await?;
    let packed = copy::pack(container, path, container.shared.deadlines.pull_inactivity).await?;
    let id = container.id.clone();
    let packed = packed.map(move |piece| piece.during(Operation::CopyOut).on(BACKEND).about(&id));
    Ok(packed.boxed())
}

/// Nothing can be run in a container that does not run.
async fn check_running(container: &CriContainer, operation: Operation) -> Result<()> {
    let status = container.status(operation).await?;
    match info::status(status.state()) {
        ContainerStatus::Running => Ok(()),
        _ => Err(container.lacks(Capability::CopyStopped, operation)),
    }
}
