//! Removes the leftovers of a scope.
//!
//! A Secret or a budget is owned by its pod, and its name contains the pod's nonce. It is removed
//! with its pod, and the cluster deletes it if its pod is gone. So Secrets are never listed,
//! because the right to list them is the right to read every Secret of the namespace.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use runtime_core::{
    Container as _, ErrorKind, LABEL_CREATED_AT, Operation, ReapOptions, ReapReport, Result,
};
use runtime_support::backend::Handle;

use crate::model::api::{Meta, Pod};
use crate::model::container::KubernetesContainer;
use crate::model::labels;
use crate::state::KubernetesBackend;

/// Maximum number of concurrent removals.
const CONCURRENT_REMOVALS_MAX: usize = 16;

/// Removes the containers and the probes of the scope that are old enough.
pub(crate) async fn reap(
    backend: &Arc<KubernetesBackend>,
    options: ReapOptions,
) -> Result<ReapReport> {
    let scope = &backend.options.scope;
    let selector = labels::selector(scope, &options.labels);
    let (pods, _) = backend.query(Operation::Reap, backend.client.list_pods(&selector)).await?;
    let mut report = ReapReport::default();
    let old = pods.into_iter().filter(|pod| is_old(&pod.metadata, options.older_than));
    let mut removals = futures_util::stream::iter(old)
        .map(|pod| async move {
            let container = KubernetesContainer::new(Arc::new(pod));
            let container = Handle::new(backend, container);
            (container.remove().await, container)
        })
        .buffer_unordered(CONCURRENT_REMOVALS_MAX);
    while let Some((removed, container)) = removals.next().await {
        let id = container.id().clone();
        match removed {
            Ok(()) => report.removed.push(id),
            // Another client has removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => report.removed.push(id),
            Err(error) => report.failed.push((id, error.to_string())),
        }
    }
    drop(removals);
    if options.labels.is_empty() {
        let selector = labels::probe_selector(scope);
        let (probes, _) =
            backend.query(Operation::Reap, backend.client.list_pods(&selector)).await?;
        for probe in probes.iter().filter(|pod| is_old(&pod.metadata, options.older_than)) {
            let removal = remove_probe(backend, probe);
            backend
                .with_deadline(Operation::Reap, backend.context.deadlines.remove, removal)
                .await?;
            report.others.push(format!("Pod {}", probe.metadata.name));
        }
    }
    Ok(report)
}

/// Removes a probe. It has no process whose end could be waited for.
async fn remove_probe(backend: &KubernetesBackend, probe: &Pod) -> Result<()> {
    match backend.client.delete_pod(&probe.metadata.name, &probe.metadata.uid, 0).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether an object is older than `age`.
fn is_old(meta: &Meta, age: Duration) -> bool {
    let label = meta.labels.get(LABEL_CREATED_AT).map(String::as_str);
    let engines = meta.creation_timestamp.map(|time| time.0);
    runtime_support::is_old(label, engines, age, SystemTime::now())
}
