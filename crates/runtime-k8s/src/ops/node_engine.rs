//! Operations through the engine of the node that a connection is bound to.
//!
//! Pods are created, watched and removed through the API server. Logs with separate streams,
//! statistics, signals, and stops with any grace use the engine of the node. The kubelet observes
//! the end of the container and reports it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use runtime_core::{
    ContainerId, ContainerStats, Error, ErrorKind, Follow, LogOptions, LogReader, Operation,
    Result, Signal, StopOptions, StopOutcome,
};
use runtime_cri::{NodeContainer, NodeEngine, PodContainer};
use runtime_support::{find_source, is_unclear};
use serde_json::{Value, json};

use crate::client::{PatchRetries, Patched};
use crate::model::container::KubernetesContainer;
use crate::model::info;
use crate::model::labels::STOPPED_AT;
use crate::model::pod::gate::{annotate, millis_now};
use crate::model::pod::lifecycle::{self, State};
use crate::model::pod::observed::ObservedPod;
use crate::ops::logs::closing::{context, until_closed};
use crate::state::KubernetesBackend;

/// Returns the engine if its log files can be read.
pub(crate) fn with_logs(backend: &KubernetesBackend) -> Option<&NodeEngine> {
    backend.engine.as_ref().filter(|engine| engine.capabilities().logs)
}

/// Returns the container of a pod for the engine; `None` before the engine has created it.
fn described(seen: &ObservedPod) -> Option<PodContainer> {
    let pod = &*seen.pod;
    let id = pod.container_status()?.container_id.as_deref()?;
    let (_, id) = id.split_once("://")?;
    let of = info::info(seen);
    let mut container = PodContainer::new(ContainerId::new(id), of.name);
    container.terminal = pod.container().is_some_and(|container| container.tty);
    container.stop_grace =
        Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(30));
    container.memory = of.memory;
    container.cpu_count = of.cpu_count;
    Some(container)
}

/// Returns the container on the engine.
async fn on(
    engine: &NodeEngine,
    operation: Operation,
    seen: &ObservedPod,
) -> Result<NodeContainer> {
    let described =
        described(seen).ok_or_else(|| Error::internal("the pod status has no container id"))?;
    engine.container(operation, &described).await
}

/// Returns the container on the engine, if it runs according to the cluster.
async fn running(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    engine: &NodeEngine,
    operation: Operation,
) -> Result<NodeContainer> {
    let seen = backend.current(container).await?;
    match &seen.state {
        State::Gated | State::Pending(_) => Err(Error::new(ErrorKind::NotStarted)),
        State::Ended(_) | State::Settling => Err(Error::new(ErrorKind::InvalidState)),
        State::Running => on(engine, operation, &seen).await,
    }
}

/// See [`Container::logs`](runtime_core::Container::logs).
pub(crate) async fn logs(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    engine: &NodeEngine,
    options: LogOptions,
) -> Result<LogReader> {
    let seen = backend.query(Operation::Logs, backend.current(container)).await?;
    if lifecycle::started_at(&seen.pod).is_some() {
        return backend.query(Operation::Logs, open(engine, &seen, options)).await;
    }
    let after = options.after;
    if options.follow != Follow::Yes || seen.exit().is_some() {
        return Ok(LogReader::new(futures_util::stream::empty(), after));
    }
    let (task, this, engine) = (Arc::clone(backend), container.clone(), engine.clone());
    let records = futures_util::stream::once(async move {
        let was_started = |seen: &ObservedPod| lifecycle::started_at(&seen.pod).is_some();
        let is_over = |seen: &ObservedPod| was_started(seen) || seen.exit().is_some();
        let seen = task.wait_until(&this, is_over).await?;
        if was_started(&seen) {
            open(&engine, &seen, options).await
        } else {
            Ok(LogReader::new(futures_util::stream::empty(), after))
        }
    })
    .try_flatten();
    let reader = LogReader::new(records.boxed(), after);
    let closed = backend.closed(Operation::Logs);
    Ok(LogReader::new(until_closed(reader, closed, context(container)), after))
}

async fn open(engine: &NodeEngine, seen: &ObservedPod, options: LogOptions) -> Result<LogReader> {
    on(engine, Operation::Logs, seen).await?.logs(options).await
}

/// See [`Container::stats_once`](runtime_core::Container::stats_once).
pub(crate) async fn stats_once(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    engine: &NodeEngine,
) -> Result<ContainerStats> {
    running(backend, container, engine, Operation::Stats).await?.stats_once().await
}

/// See [`Runtime::stats`](runtime_core::Runtime::stats).
pub(crate) async fn stats_of_many(
    engine: &NodeEngine,
    running: &[ObservedPod],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    let mut uids = HashMap::new();
    let mut containers = Vec::with_capacity(running.len());
    for seen in running {
        if let Some(container) = described(seen) {
            uids.insert(container.id.clone(), ContainerId::new(&seen.pod.metadata.uid));
            containers.push(container);
        }
    }
    let measured = engine.stats(&containers).await?;
    Ok(measured.into_iter().filter_map(|(id, stats)| Some((uids.remove(&id)?, stats))).collect())
}

/// Sends a signal to the main process.
pub(crate) async fn kill(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    engine: &NodeEngine,
    signal: Signal,
) -> Result<()> {
    running(backend, container, engine, Operation::Kill).await?.kill(signal).await
}

/// Stops a container that runs according to the cluster. Returns `None` if its state has changed.
pub(crate) async fn stop(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    engine: &NodeEngine,
    seen: &ObservedPod,
    grace: Duration,
    refused: &mut PatchRetries,
) -> Result<Option<StopOutcome>> {
    let inside = on(engine, Operation::Stop, seen).await?;
    if !inside.was_running() {
        // The kubelet has not reported the end yet.
        return backend.wait_ended(container).await.map(StopOutcome::AlreadyExited).map(Some);
    }
    let now = millis_now();
    let patch = [
        json!({"op": "test", "path": "/metadata/uid", "value": container.uid()}),
        json!({"op": "test", "path": "/status/phase", "value": seen.pod.status.phase}),
        annotate(STOPPED_AT, &now),
    ];
    match backend.client.patch_pod(container.pod_name(), &patch).await? {
        Patched::Done(pod) => backend.pods.take(*pod),
        Patched::Other(error) => {
            let pod = backend.client.pod(container.pod_name()).await?;
            if pod.metadata.uid != container.uid() {
                return Err(Error::new(ErrorKind::NotFound));
            }
            refused.again(&pod, error)?;
            backend.pods.take(pod);
            return Ok(None);
        }
    }
    if let Err(error) = inside.stop(StopOptions::default().grace(grace)).await {
        // The mark of an earlier stop is kept.
        if had_no_effect(&error) && seen.pod.annotation(STOPPED_AT).is_none() {
            unmark(backend, container, &now).await;
        }
        return Err(error);
    }
    backend.wait_ended(container).await.map(StopOutcome::Stopped).map(Some)
}

/// Returns whether a failed stop has certainly not reached the container.
fn had_no_effect(error: &Error) -> bool {
    let io = find_source::<io::Error>(error).map(io::Error::kind);
    !is_unclear(error)
        || matches!(io, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// Removes the mark of a stop, so that a later end is not reported as `StoppedByUs`.
async fn unmark(backend: &KubernetesBackend, container: &KubernetesContainer, marked: &str) {
    match backend.client.patch_pod(container.pod_name(), &unmarking(container.uid(), marked)).await
    {
        Ok(Patched::Done(pod)) => backend.pods.take(*pod),
        // Another stop has set the mark in the meantime, or the pod is gone.
        Ok(Patched::Other(_)) => {}
        Err(error) => tracing::warn!(%error, "failed to remove the mark of a failed stop"),
    }
}

fn unmarking(uid: &str, marked: &str) -> [Value; 3] {
    let path = format!("/metadata/annotations/{}", STOPPED_AT.replace('/', "~1"));
    [
        json!({"op": "test", "path": "/metadata/uid", "value": uid}),
        json!({"op": "test", "path": path, "value": marked}),
        json!({"op": "remove", "path": path}),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_stop_removes_only_its_own_mark() {
        let path = "/metadata/annotations/container-runtime~1stopped-at";
        let patch = unmarking("u", "1000");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(patch[1], json!({"op": "test", "path": path, "value": "1000"}));
        assert_eq!(patch[2], json!({"op": "remove", "path": path}));
    }

    #[test]
    fn unclear_stop_keeps_mark() {
        let away = |kind: io::ErrorKind| {
            Error::new(ErrorKind::Unavailable).with_source(io::Error::from(kind))
        };
        assert!(had_no_effect(&Error::new(ErrorKind::PermissionDenied)));
        assert!(had_no_effect(&away(io::ErrorKind::ConnectionRefused)));
        assert!(!had_no_effect(&away(io::ErrorKind::ConnectionReset)));
        assert!(!had_no_effect(&Error::new(ErrorKind::Timeout)));
    }
}
