//! Lists and finds the containers of the scope.

use std::sync::Arc;

use runtime_core::{ContainerId, ContainerInfo, Error, ErrorKind, LabelFilter, Result};

use crate::model::container::KubernetesContainer;
use crate::model::pod::observed::ObservedPod;
use crate::model::{info, labels};
use crate::state::KubernetesBackend;

/// Returns the containers of the scope with these labels.
pub(crate) async fn list(
    backend: &KubernetesBackend,
    labels: &LabelFilter,
) -> Result<Vec<(KubernetesContainer, ContainerInfo)>> {
    let found = select(backend, labels).await?;
    let mut listed: Vec<_> = found
        .iter()
        .map(|seen| (KubernetesContainer::new(Arc::clone(&seen.pod)), info::info(seen)))
        .collect();
    // Creation times are in whole seconds: the containers of one second are in the order of their
    // names.
    listed.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    Ok(listed)
}

/// Returns the pods of the scope with these labels: from the watch if that is current, or by one
/// list.
async fn select(backend: &KubernetesBackend, labels: &LabelFilter) -> Result<Vec<ObservedPod>> {
    let mut found = if backend.pods.is_current() {
        backend.pods.all()
    } else {
        let selector = labels::selector(&backend.options.scope, labels);
        let (pods, _) = backend.client.list_pods(&selector).await?;
        pods.into_iter().map(|pod| backend.pods.seen(pod)).collect()
    };
    // The server selects by hashes, which may collide.
    found.retain(|seen| info::has_labels(&seen.pod, labels));
    Ok(found)
}

/// Returns the container with this id: from the watch if that is current, or by one list of the
/// scope, because the API finds no object by its UID.
pub(crate) async fn find(
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
