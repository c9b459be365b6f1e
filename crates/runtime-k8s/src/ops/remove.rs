//! Removes a container: the pod, and the objects that belong to it.

use std::time::Duration;

use runtime_core::{ErrorKind, ExitReason, Result};

use crate::client::{Deleted, belongings};
use crate::model::api::Pod;
use crate::model::container::KubernetesContainer;
use crate::model::pod::lifecycle::{self, State};
use crate::model::pod::observed::ObservedPod;
use crate::state::KubernetesBackend;
use crate::state::observe::RECHECK_INTERVAL;

/// How long a removal waits for a node to report a process that it may have started. The node kills
/// a process that it reports later.
const PROCESS_REPORTED_WITHIN: Duration = Duration::from_secs(3);

/// Removes a container and the objects that belong to it.
pub(crate) async fn remove(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<()> {
    let pods = &backend.pods;
    let entry = pods.entry(container.uid());
    if let Some(entry) = &entry {
        entry.removing();
    }
    // If no process has run, there is no end to wait for.
    let never_ran = entry.as_ref().is_some_and(|entry| lifecycle::never_ran(&entry.now().pod));
    let grace = if never_ran { 0 } else { 1 };
    let is_starting =
        entry.as_ref().is_some_and(|entry| matches!(entry.now().state, State::Pending(_)));
    if delete(backend, &container.pod, grace).await? == Deleted::Going {
        // A node reports the end of the processes seconds before it releases the pod, and an
        // unreachable node reports nothing. In both cases the pod is then deleted without a grace.
        let patience = backend.context.deadlines.remove / 2;
        if !is_starting
            || is_reported(backend, container, patience.min(PROCESS_REPORTED_WITHIN)).await
        {
            let _ = tokio::time::timeout(patience, until_dead(backend, container)).await;
        }
        match backend.client.delete_pod(container.pod_name(), container.uid(), 0).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    pods.mark_gone(container.uid());
    Ok(())
}

/// Returns whether the node reports a process of a pod that it was starting, or the pod's end.
///
/// A node that pulls an image reports nothing until it has the image. It starts no process of a
/// pod that is gone by then.
async fn is_reported(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    patience: Duration,
) -> bool {
    let reported = |seen: &ObservedPod| {
        seen.gone || matches!(seen.state, State::Running) || lifecycle::is_dead(&seen.pod)
    };
    tokio::time::timeout(patience, backend.wait_until(container, reported)).await.is_ok()
}

/// Waits until the pod is gone, or its processes have ended.
async fn until_dead(backend: &KubernetesBackend, container: &KubernetesContainer) {
    // A lost node will not report the end.
    let lost = |seen: &ObservedPod| seen.exit().is_some_and(|e| e.reason == ExitReason::NodeLost);
    match backend
        .wait_until(container, |seen| seen.gone || lifecycle::is_dead(&seen.pod) || lost(seen))
        .await
    {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Without the watch, the pod is polled.
        Err(_) => loop {
            match backend.client.pod(container.pod_name()).await {
                Ok(pod) if pod.metadata.uid == container.uid() && !lifecycle::is_dead(&pod) => {}
                Err(error) if error.kind() != ErrorKind::NotFound => {}
                _ => return,
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        },
    }
}

/// Deletes a pod and the objects that belong to it. The grace is in seconds.
pub(super) async fn delete(backend: &KubernetesBackend, pod: &Pod, grace: u64) -> Result<Deleted> {
    let meta = &pod.metadata;
    let deleted = backend.client.delete_pod(&meta.name, &meta.uid, grace).await?;
    belongings::delete(&backend.client, &backend.server, pod).await?;
    Ok(deleted)
}
