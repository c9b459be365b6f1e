//! See [`Container::info`](runtime_core::Container::info).

use runtime_core::{ContainerInfo, Operation, Result};

use crate::model::container::CriContainer;
use crate::state::connection::Connection;
use crate::state::inspect;

/// Returns the information about a container.
pub(crate) async fn info(
    connection: &Connection,
    container: &CriContainer,
) -> Result<ContainerInfo> {
    let details = inspect::details(connection, Operation::Info, &container.id).await?;
    Ok(details.info)
}
