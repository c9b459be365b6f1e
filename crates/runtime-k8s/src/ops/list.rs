//! Lists the containers of the scope.

use std::sync::Arc;

use runtime_core::{ContainerInfo, LabelFilter, Result};

use crate::model::container::KubernetesContainer;
use crate::model::pod::observed::ObservedPod;
use crate::model::{info, labels};
use crate::state::KubernetesBackend;

/// Returns the containers of the scope with these labels.
pub(crate) async fn run(
    backend: &KubernetesBackend,
    labels: &LabelFilter,
) -> Result<Vec<(KubernetesContainer, ContainerInfo)>> {
    let found = find(backend, labels).await?;
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
async fn find(backend: &KubernetesBackend, labels: &LabelFilter) -> Result<Vec<ObservedPod>> {
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
