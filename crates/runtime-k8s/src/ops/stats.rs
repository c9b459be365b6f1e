//! Statistics of containers.
//!
//! The source is the kubelets, through the API server's proxy: one summary for each node has CPU,
//! memory and network of all its pods, and one page of cAdvisor's metrics has the block devices and
//! the capacity of the node. Or it is the metrics API, which has only CPU and memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    Capability, ContainerId, ContainerStats, Error, ErrorKind, LabelFilter, Operation, Result,
    StatsOptions, StatsStream,
};
use runtime_support::backend::ContainerRef as _;
use tokio::time::MissedTickBehavior;

use crate::client::ApiRequest;
use crate::error::BACKEND;
use crate::model::container::KubernetesContainer;
use crate::model::pod::lifecycle::State;
use crate::model::pod::observed::ObservedPod;
use crate::model::stats::{Measurement, NodeCapacity, cadvisor, percent, summary};
use crate::model::{info, labels};
use crate::options::StatsSource;
use crate::state::KubernetesBackend;

/// Maximum number of concurrent requests to nodes.
const CONCURRENT_NODES_MAX: usize = 8;

/// Interval of the requests until a new container is measured.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Measures one container once.
pub(crate) async fn once(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<ContainerStats> {
    #[cfg(feature = "cri")]
    if let Some(engine) = &backend.engine {
        return super::node_engine::stats_once(backend, container, engine).await;
    }
    until_known(backend, container).await
}

async fn until_known(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<ContainerStats> {
    backend.context.capabilities.require(Capability::StatsMemory)?;
    loop {
        let seen = backend.current(container).await?;
        match &seen.state {
            State::Gated | State::Pending(_) => return Err(Error::new(ErrorKind::NotStarted)),
            State::Ended(_) => return Err(Error::new(ErrorKind::InvalidState)),
            State::Running | State::Settling => {}
        }
        let measured = measure(backend, std::slice::from_ref(&seen)).await?;
        if let Some((_, stats)) = measured.into_iter().next() {
            return Ok(stats);
        }
        // A new container has no measurement yet.
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Measures one container until it ends.
pub(crate) async fn stream(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    options: StatsOptions,
) -> Result<StatsStream> {
    let first = once(backend, container).await?;
    let mut tick = tokio::time::interval(runtime_core::bounded(options.interval));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let state = Some((Arc::clone(backend), container.clone(), tick, first.time));
    let later = futures_util::stream::unfold(state, |state| async move {
        let (backend, container, mut tick, last) = state?;
        let context =
            |error: Error| error.during(Operation::Stats).on(BACKEND).about(container.id());
        loop {
            tokio::select! {
                biased;
                error = backend.closed(Operation::Stats) => return Some((Err(context(error)), None)),
                ended = backend.wait_ended(&container) => {
                    return match ended {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            Some((Err(context(error)), None))
                        }
                        _ => None,
                    };
                }
                _ = tick.tick() => {}
            }
            match backend.query(Operation::Stats, once(&backend, &container)).await {
                // A node measures every few seconds, so this is the same measurement.
                Ok(stats) if stats.time <= last => {}
                Ok(stats) => {
                    let time = stats.time;
                    return Some((Ok(stats), Some((backend, container, tick, time))));
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) =>
                {
                    return None;
                }
                Err(error) => return Some((Err(context(error)), None)),
            }
        }
    });
    Ok(Box::pin(futures_util::stream::once(std::future::ready(Ok(first))).chain(later)))
}

/// Measures many containers with two requests for each node, or one for all.
pub(crate) async fn of_many(
    backend: &KubernetesBackend,
    containers: &[ContainerId],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    if containers.is_empty() {
        return Ok(Vec::new());
    }
    backend.pods.live().await?;
    let running: Vec<ObservedPod> = containers
        .iter()
        .filter_map(|id| Some(backend.pods.entry(id.as_str())?.now()))
        .filter(|seen| seen.state == State::Running)
        .collect();
    #[cfg(feature = "cri")]
    if let Some(engine) = &backend.engine {
        return super::node_engine::stats_of_many(engine, &running).await;
    }
    backend.samples.retain(|uid| backend.pods.entry(uid).is_some());
    backend.query(Operation::Stats, measure(backend, &running)).await
}

/// Measures running pods. Pods without a measurement are left out.
async fn measure(
    backend: &KubernetesBackend,
    pods: &[ObservedPod],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    if pods.is_empty() {
        return Ok(Vec::new());
    }
    let mut machines: BTreeMap<String, NodeCapacity> = BTreeMap::new();
    let mut measured: HashMap<String, Measurement> = HashMap::new();
    if backend.options.stats == StatsSource::NodeProxy {
        let nodes: BTreeSet<String> =
            pods.iter().filter_map(|seen| seen.pod.spec.node_name.clone()).collect();
        let requests: Vec<_> = nodes
            .into_iter()
            .map(|node| async move {
                let response = of_node(backend, &node).await;
                (node, response)
            })
            .collect();
        let mut responses =
            futures_util::stream::iter(requests).buffer_unordered(CONCURRENT_NODES_MAX);
        let mut failed = None;
        while let Some((node, response)) = responses.next().await {
            backend.samples.record_response(&node, &response);
            match response {
                Ok((machine, found)) => {
                    machines.insert(node, machine);
                    measured.extend(found);
                }
                Err(error) => failed = Some(error),
            }
        }
        // An unreachable node does not fail the measurements of other nodes.
        if let (true, Some(error)) = (machines.is_empty(), failed) {
            return Err(error);
        }
    } else {
        measured = of_metrics_api(backend, pods).await?;
    }
    Ok(pods
        .iter()
        .filter_map(|seen| {
            let uid = &seen.pod.metadata.uid;
            let node = seen.pod.spec.node_name.as_deref().unwrap_or_default();
            let machine = machines.get(node).copied().unwrap_or_default();
            let stats = stats(backend, seen, measured.get(uid)?, machine)?;
            Some((ContainerId::new(uid), stats))
        })
        .collect())
}

/// Returns the measurements of one kubelet, by the UIDs of its pods.
async fn of_node(
    backend: &KubernetesBackend,
    node: &str,
) -> Result<(NodeCapacity, HashMap<String, Measurement>)> {
    let client = &backend.client;
    let proxy = format!("/api/v1/nodes/{node}/proxy");
    let (summary, metrics) = futures_util::try_join!(
        client.bytes(ApiRequest::get(format!("{proxy}/stats/summary"))),
        client.bytes(ApiRequest::get(format!("{proxy}/metrics/cadvisor"))),
    )?;
    let (machine, blocks) = cadvisor::read(&metrics, client.namespace());
    let mut found = summary::read(&summary)?;
    for pod in &mut found {
        if let Some(block) = blocks.get(&pod.name) {
            pod.measured.block_read = Some(block.read);
            pod.measured.block_written = Some(block.written);
        }
    }
    Ok((machine, found.into_iter().map(|pod| (pod.uid, pod.measured)).collect()))
}

/// Returns the measurements of the metrics API for all pods of the scope, by their UIDs.
async fn of_metrics_api(
    backend: &KubernetesBackend,
    pods: &[ObservedPod],
) -> Result<HashMap<String, Measurement>> {
    let selector = labels::selector(&backend.options.scope, &LabelFilter::new());
    let call = backend.client.metrics(&selector);
    let found = summary::read_metrics(&backend.client.bytes(call).await?)?;
    let mut uids: HashMap<&str, &str> = HashMap::new();
    for seen in pods {
        uids.insert(&seen.pod.metadata.name, &seen.pod.metadata.uid);
    }
    Ok(found
        .into_iter()
        .filter_map(|(name, measured)| Some(((*uids.get(name.as_str())?).to_owned(), measured)))
        .collect())
}

/// Converts a measurement; `None` if it is from before the start of the container.
fn stats(
    backend: &KubernetesBackend,
    seen: &ObservedPod,
    measured: &Measurement,
    machine: NodeCapacity,
) -> Option<ContainerStats> {
    let time = measured.time?;
    let memory = measured.memory?;
    if measured.is_before_the_start() {
        return None;
    }
    let limits = info::info(seen);
    let mut stats = ContainerStats::new(time);
    let cores = match measured.cpu {
        Some(cpu) => {
            stats.cpu_time = Some(cpu);
            backend.samples.cores(&seen.pod.metadata.uid, time, cpu)
        }
        None => None,
    };
    let cores = cores.or(measured.cores);
    let most = limits.cpu_count.or(machine.cores).filter(|most| *most > 0.0);
    stats.cpu_percent = cores.zip(most).map(|(used, most)| used / most * 100.0);
    stats.memory_bytes = Some(memory);
    stats.memory_percent = percent(measured.memory, limits.memory.or(machine.memory));
    stats.network_rx_bytes = measured.received;
    stats.network_tx_bytes = measured.sent;
    stats.block_read_bytes = measured.block_read;
    stats.block_write_bytes = measured.block_written;
    Some(stats)
}
