//! The engine of the one node that a connection is bound to.
//!
//! Pods are made, watched and removed through the API server as always. What the API server would
//! only pass on to the node goes to the node's engine itself: the log files, with the streams
//! apart; the figures; signals; and a stop, with whatever grace. The kubelet sees that the
//! container has ended and tells everyone.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use runtime_core::{
    Capability, Container as _, ContainerId, ContainerStats, Error, ErrorKind, Follow, LogOptions,
    LogReader, Operation, Result, ResultExt as _, Signal, StopOptions, StopOutcome,
};
use runtime_cri::{CriOptions, NodeContainer, NodeEngine, PodContainer};
use runtime_support::{find_source, is_unclear};
use serde_json::{Value, json};

use crate::BACKEND;
use crate::client::{Patched, Refused};
use crate::container::KubernetesContainer;
use crate::hold::{annotate, millis_now};
use crate::info;
use crate::logs::until;
use crate::names::{CONTAINER, STOPPED_AT};
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::{self, State};

/// Connects to the engine that the options name, and adds what can be done with it.
pub(crate) async fn add(mut shared: Shared) -> Result<Shared> {
    let Some(endpoint) = shared.options.node_engine.clone() else { return Ok(shared) };
    let options = CriOptions::new(shared.options.scope.clone())
        .endpoint(endpoint)
        .log_dir(&shared.options.node_logs)
        .deadlines(shared.options.deadlines.clone());
    let engine = NodeEngine::connect(options, shared.client.namespace(), CONTAINER).await?;
    let of = engine.capabilities();
    let can = &mut shared.capabilities;
    can.kill = of.kill;
    can.stop_immediately = true;
    can.stop_grace_override = true;
    can.limits.minimum_stop_grace = None;
    can.logs_streams_apart = of.logs;
    can.logs_carriage_returns = of.logs_carriage_returns;
    can.logs_at_exit = of.logs_at_exit;
    can.stats_cpu = of.stats_cpu;
    can.stats_memory = of.stats_memory;
    can.stats_network = of.stats_network;
    can.stats_block_io = of.stats_block_io;
    can.bulk_stats = of.bulk_stats;
    if !of.logs {
        let folder = shared.options.node_logs.display();
        shared.server.warnings.push(format!(
            "the logs come through the API server: {folder} is not the node's /var/log/pods"
        ));
    }
    shared.engine = Some(engine);
    Ok(shared)
}

/// The engine, where its log files can be read.
pub(crate) fn with_logs(shared: &Shared) -> Option<&NodeEngine> {
    shared.engine.as_ref().filter(|engine| engine.capabilities().logs)
}

/// The container as its pod describes it; nothing before the engine has made one.
fn described(seen: &Seen) -> Option<PodContainer> {
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

/// The container on the engine.
async fn on(engine: &NodeEngine, operation: Operation, seen: &Seen) -> Result<NodeContainer> {
    let described = described(seen)
        .ok_or_else(|| Error::internal("the cluster gives no id of the container"))?;
    engine.container(operation, &described).await
}

/// The container on the engine, if it runs as far as the cluster knows.
async fn running(
    container: &KubernetesContainer,
    engine: &NodeEngine,
    operation: Operation,
) -> Result<NodeContainer> {
    let seen = container.look().await?;
    match &seen.state {
        State::Held | State::Pending(_) => Err(Error::new(ErrorKind::NotStarted)),
        State::Ended(_) | State::Settling => Err(Error::new(ErrorKind::InvalidState)),
        State::Running => on(engine, operation, &seen).await,
    }
}

/// See [`Container::logs`](runtime_core::Container::logs).
pub(crate) async fn logs(
    container: &KubernetesContainer,
    engine: &NodeEngine,
    options: LogOptions,
) -> Result<LogReader> {
    options.check().during(Operation::Logs).on(BACKEND)?;
    let shared = &container.shared;
    let seen = shared.query(Operation::Logs, container.look()).await?;
    if state::started_at(&seen.pod).is_some() {
        return shared.query(Operation::Logs, open(engine, &seen, options)).await;
    }
    let after = options.after;
    if options.follow != Follow::Yes || seen.exit().is_some() {
        return Ok(LogReader::new(futures_util::stream::empty(), after));
    }
    let (this, engine) = (container.clone(), engine.clone());
    let records = futures_util::stream::once(async move {
        let was_started = |seen: &Seen| state::started_at(&seen.pod).is_some();
        let seen = this.until(|seen| was_started(seen) || seen.exit().is_some()).await?;
        if was_started(&seen) {
            open(&engine, &seen, options).await
        } else {
            Ok(LogReader::new(futures_util::stream::empty(), after))
        }
    })
    .try_flatten();
    let reader = LogReader::new(records.boxed(), after);
    let name = container.name().to_owned();
    let context = move |error: Error| error.during(Operation::Logs).on(BACKEND).about(&name);
    Ok(LogReader::new(until(reader, shared.closed(), context), after))
}

async fn open(engine: &NodeEngine, seen: &Seen, options: LogOptions) -> Result<LogReader> {
    on(engine, Operation::Logs, seen).await?.logs(options).await
}

/// See [`Container::stats_once`](runtime_core::Container::stats_once).
pub(crate) async fn stats_once(
    container: &KubernetesContainer,
    engine: &NodeEngine,
) -> Result<ContainerStats> {
    running(container, engine, Operation::Stats).await?.stats_once().await
}

/// See [`Runtime::stats`](runtime_core::Runtime::stats).
pub(crate) async fn stats_of_many(
    engine: &NodeEngine,
    running: &[Seen],
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
    container: &KubernetesContainer,
    engine: &NodeEngine,
    signal: Signal,
) -> Result<()> {
    container.shared.capabilities.require(Capability::Kill)?;
    running(container, engine, Operation::Kill).await?.kill(signal).await
}

/// Stops a container that runs as far as the cluster knows. `None` when the cluster has to be asked
/// again.
pub(crate) async fn stop(
    container: &KubernetesContainer,
    engine: &NodeEngine,
    seen: &Seen,
    grace: Duration,
    refused: &mut Refused,
) -> Result<Option<StopOutcome>> {
    let shared = &container.shared;
    let inside = on(engine, Operation::Stop, seen).await?;
    if !inside.was_running() {
        // The kubelet has not told yet.
        return container.until_ended().await.map(StopOutcome::AlreadyExited).map(Some);
    }
    let now = millis_now();
    let patch = [
        json!({"op": "test", "path": "/metadata/uid", "value": container.uid()}),
        json!({"op": "test", "path": "/status/phase", "value": seen.pod.status.phase}),
        annotate(STOPPED_AT, &now),
    ];
    match shared.client.patch_pod(&container.pod_name, &patch).await? {
        Patched::Done(pod) => shared.pods.take(*pod),
        Patched::Other(error) => {
            let pod = shared.client.pod(&container.pod_name).await?;
            if pod.metadata.uid != container.uid() {
                return Err(Error::new(ErrorKind::NotFound));
            }
            refused.again(&pod, error)?;
            shared.pods.take(pod);
            return Ok(None);
        }
    }
    if let Err(error) = inside.stop(StopOptions::default().grace(grace)).await {
        // The mark of another stop before this one stays.
        if had_no_effect(&error) && seen.pod.annotation(STOPPED_AT).is_none() {
            unmark(container, &now).await;
        }
        return Err(error);
    }
    container.until_ended().await.map(StopOutcome::Stopped).map(Some)
}

/// Whether the container cannot have felt a stop that failed.
fn had_no_effect(error: &Error) -> bool {
    let io = find_source::<io::Error>(error).map(io::Error::kind);
    !is_unclear(error)
        || matches!(io, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// Takes the mark of a stop back, so that an end that comes later is not called ours.
async fn unmark(container: &KubernetesContainer, marked: &str) {
    let shared = &container.shared;
    match shared.client.patch_pod(&container.pod_name, &unmarking(container.uid(), marked)).await {
        Ok(Patched::Done(pod)) => shared.pods.take(*pod),
        // It is another stop's by now, or the pod is gone.
        Ok(Patched::Other(_)) => {}
        Err(error) => tracing::warn!(%error, "the mark of a stop that failed stays"),
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
    fn a_stop_that_failed_takes_back_its_own_mark_alone() {
        let path = "/metadata/annotations/container-runtime~1stopped-at";
        let patch = unmarking("u", "1000");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(patch[1], json!({"op": "test", "path": path, "value": "1000"}));
        assert_eq!(patch[2], json!({"op": "remove", "path": path}));
    }

    #[test]
    fn an_engine_that_may_have_stopped_it_keeps_the_mark() {
        let away = |kind: io::ErrorKind| {
            Error::new(ErrorKind::Unavailable).with_source(io::Error::from(kind))
        };
        assert!(had_no_effect(&Error::new(ErrorKind::PermissionDenied)));
        assert!(had_no_effect(&away(io::ErrorKind::ConnectionRefused)));
        assert!(!had_no_effect(&away(io::ErrorKind::ConnectionReset)));
        assert!(!had_no_effect(&Error::new(ErrorKind::Timeout)));
    }
}
