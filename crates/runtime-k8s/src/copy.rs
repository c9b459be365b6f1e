//! Files into containers and out of them, through the container's own `tar`: the API has no call.

use futures_util::StreamExt as _;
use runtime_core::{
    ByteStream, Capability, Container as _, Error, ErrorKind, Operation, Result, ResultExt as _,
};
use runtime_support::{check_path, copy};

use crate::BACKEND;
use crate::container::KubernetesContainer;

/// See [`Container::copy_in`](runtime_core::Container::copy_in).
pub(crate) async fn unpack(
    container: &KubernetesContainer,
    path: &str,
    content: ByteStream,
) -> Result<()> {
    check_path(path)?;
    check_running(container, Operation::CopyIn).await?;
    copy::unpack(container, path, content, silence(container)).await
}

/// See [`Container::copy_out`](runtime_core::Container::copy_out).
pub(crate) async fn pack(container: &KubernetesContainer, path: &str) -> Result<ByteStream> {
    check_path(path)?;
    check_running(container, Operation::CopyOut).await?;
    let packed = copy::pack(container, path, silence(container)).await?;
    let name = container.name().to_owned();
    let packed = packed.map(move |piece| piece.during(Operation::CopyOut).on(BACKEND).about(&name));
    Ok(packed.boxed())
}

fn silence(container: &KubernetesContainer) -> std::time::Duration {
    container.shared.options.deadlines.pull_inactivity
}

/// Nothing can be run in a container that does not run.
async fn check_running(container: &KubernetesContainer, operation: Operation) -> Result<()> {
    let running = container.shared.query(operation, container.must_run()).await;
    running.map_err(|error| match error.kind() {
        ErrorKind::NotStarted | ErrorKind::InvalidState => {
            Error::unsupported(Capability::CopyStopped)
        }
        _ => error,
    })
}
