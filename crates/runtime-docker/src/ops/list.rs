//! Lists the containers of a scope, and finds one of them.

use runtime_core::{ContainerId, ContainerInfo, Error, ErrorKind, LabelFilter, Operation, Result};

use crate::client::list::{self, Filter};
use crate::model::info::Summary;
use crate::model::labels::{has_labels, is_managed};
use crate::state::{DockerBackend, DockerContainer};

/// Lists the containers of the scope that have these labels.
pub(crate) async fn list(
    backend: &DockerBackend,
    labels: &LabelFilter,
) -> Result<Vec<(DockerContainer, ContainerInfo)>> {
    let found = summaries(backend, Operation::List, labels).await?;
    Ok(found
        .iter()
        .map(|summary| {
            let container = backend.listed(summary);
            let info = summary.info(container.state.exit().cloned());
            (container, info)
        })
        .collect())
}

/// Finds a container of the scope.
pub(crate) async fn find(backend: &DockerBackend, id: &ContainerId) -> Result<DockerContainer> {
    // Anything else would be a part of an id, a name, or another request.
    let digits = id.as_str().bytes().filter(u8::is_ascii_hexdigit).count();
    if digits != 64 || id.as_str().len() != 64 {
        return Err(Error::new(ErrorKind::NotFound).with_message("an id has 64 hex digits"));
    }
    let inspect = backend.inspect(Operation::Reattach, id).await?;
    // A name can look like an id, and the engine has containers of other scopes.
    let ours = inspect.id == id.as_str()
        && is_managed(backend.scope(), |key| inspect.labels().get(key).map(String::as_str));
    if !ours {
        return Err(Error::new(ErrorKind::NotFound).with_message("not of this scope"));
    }
    Ok(backend.container(id.clone(), inspect.name()))
}

/// Requests the containers of the scope that have these labels.
pub(super) async fn summaries(
    backend: &DockerBackend,
    operation: Operation,
    labels: &LabelFilter,
) -> Result<Vec<Summary>> {
    // The engine splits at the first '=', so a key that has one cannot be requested.
    let more: Vec<String> = labels
        .iter()
        .filter(|(key, _)| !key.contains('='))
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        })
        .collect();
    let request = list::request(operation, &Filter::Labels(backend.scope(), &more));
    let mut listed: Vec<Summary> = backend.query(operation, request).await?;
    // The engine filters too. This check is repeated because a listed container can be removed.
    listed.retain(|summary| {
        is_managed(backend.scope(), |key| summary.label(key))
            && has_labels(labels, |key| summary.label(key))
    });
    Ok(listed)
}
