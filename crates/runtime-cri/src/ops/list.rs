//! See [`Runtime::list_containers`](runtime_core::Runtime::list_containers) and
//! [`Runtime::container`](runtime_core::Runtime::container).

use runtime_core::{ContainerId, ContainerInfo, Error, ErrorKind, LabelFilter, Operation, Result};

use crate::model::container::{CriContainer, ListedContainer};
use crate::model::info::has_labels;
use crate::state::connection::Connection;

/// Returns the containers with these labels.
pub(crate) async fn list(
    connection: &Connection,
    labels: &LabelFilter,
) -> Result<Vec<(CriContainer, ContainerInfo)>> {
    let all = connection.list(Operation::List).await?;
    Ok(all
        .into_values()
        .filter(|listed| has_labels(&listed.info, labels))
        .map(|listed| (listed.identity(), listed.info))
        .collect())
}

/// Returns the container with this id.
pub(crate) async fn find(connection: &Connection, id: &ContainerId) -> Result<CriContainer> {
    let found = connection.list_raw(Operation::Reattach, id.to_string()).await?;
    // The engine accepts a prefix of an id.
    match found.iter().find(|container| container.id == id.as_str()) {
        Some(container) => Ok(ListedContainer::new(container).identity()),
        None => Err(Error::new(ErrorKind::NotFound)),
    }
}
