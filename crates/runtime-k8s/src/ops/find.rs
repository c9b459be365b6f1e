//! Finds a container by its id.

use std::sync::Arc;

use runtime_core::{ContainerId, Error, ErrorKind, LabelFilter, Result};

use crate::model::container::KubernetesContainer;
use crate::model::labels;
use crate::state::KubernetesBackend;

/// Returns the container with this id: from the watch if that is current, or by one list of the
/// scope, because the API finds no object by its UID.
pub(crate) async fn run(
    backend: &KubernetesBackend,
    id: &ContainerId,
) -> Result<KubernetesContainer> {
    let pods = &backend.pods;
    if pods.is_current()
        && let Some(entry) = pods.entry(id.as_str())
        && !pods.is_gone(id.as_str())
    {
        return Ok(KubernetesContainer::new(entry.now().pod));
    }
    let selector = labels::selector(&backend.options.scope, &LabelFilter::new());
    let (found, _) = backend.client.list_pods(&selector).await?;
    let pod = found
        .into_iter()
        .find(|pod| pod.metadata.uid == id.as_str())
        .ok_or_else(|| Error::new(ErrorKind::NotFound))?;
    pods.take(pod.clone());
    Ok(KubernetesContainer::new(Arc::new(pod)))
}
