//! See [`Container::stats`](runtime_core::Container::stats) and
//! [`Runtime::stats`](runtime_core::Runtime::stats).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    ContainerId, ContainerStats, ContainerStatus, Error, ErrorKind, Operation, Result,
    StatsOptions, StatsStream,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::BACKEND;
use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::host::cgroup::{Cgroup, KernelCounters};
use crate::model::annotations::Annotations;
use crate::model::container::CriContainer;
use crate::model::info::{self, require_running};
use crate::state::CriBackend;
use crate::state::inspect::{self, status_and_pid};
use crate::state::samples::CpuSample;

/// Measures a container once.
pub(crate) async fn once(backend: &CriBackend, container: &CriContainer) -> Result<ContainerStats> {
    let connection = &backend.connection;
    let request = cri::ContainerStatsRequest { container_id: container.id.to_string() };
    let response = connection.call(Operation::Stats, request).await;
    match response {
        Ok(cri::ContainerStatsResponse { stats: Some(stats) }) if was_measured(&stats) => {
            let ids = [container.id.clone()];
            let mut kernel = kernel(backend, &ids).await?;
            let kernel = kernel.remove(&container.id).unwrap_or_default();
            let is_unseen =
                connection.context.capabilities.stats_network && kernel.network.is_none();
            if is_unseen || connection.engine.is_crio() {
                // Without a visible process the container may have exited or not started. CRI-O
                // measures the runc init of a created container.
                require_running(
                    &inspect::status(connection, Operation::Stats, &container.id).await?,
                )?;
            }
            return Ok(measured(backend, &container.id, &container.annotations, &stats, kernel));
        }
        // The engine has no specific error for containers that do not run.
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Internal => {}
        Err(error) => {
            if error.kind() == ErrorKind::NotFound {
                backend.samples.remove(&container.id);
            }
            return Err(error);
        }
    }
    require_running(&inspect::status(connection, Operation::Stats, &container.id).await?)?;
    Err(Error::new(ErrorKind::Unavailable).with_message("the engine sent no statistics"))
}

/// Returns whether statistics are of a running container. An engine may also measure a cgroup
/// without processes.
fn was_measured(stats: &cri::ContainerStats) -> bool {
    let cpu = stats.cpu.as_ref();
    let zero = |value: Option<&cri::UInt64Value>| value.is_some_and(|value| value.value == 0);
    let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    cpu.is_some_and(|cpu| !(zero(cpu.usage_core_nano_seconds.as_ref()) && zero(memory)))
}

/// Measures a container repeatedly.
pub(crate) async fn stream(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: StatsOptions,
) -> Result<StatsStream> {
    let first = once(backend, container).await?;
    let period = runtime_core::bounded(options.interval);
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((Arc::clone(backend), container.clone(), ticks));
    let more = stream::unfold(state, |state| async {
        let (backend, container, mut ticks) = state?;
        let context = &backend.connection.context;
        let tick = async { Ok(ticks.tick().await) };
        if let Err(error) = context.unless_closed(tick).await {
            let error = error.during(Operation::Stats).on(BACKEND).about(&container.id);
            return Some((Err(error), None));
        }
        match once(&backend, &container).await {
            Ok(stats) => Some((Ok(stats), Some((backend, container, ticks)))),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidState)
                    && !backend.connection.context.closed.is_cancelled() =>
            {
                None
            }
            Err(error) => {
                let error = error.during(Operation::Stats).on(BACKEND).about(&container.id);
                Some((Err(error), None))
            }
        }
    });
    Ok(stream::iter([Ok(first)]).chain(more).boxed())
}

/// Measures several containers. The annotations of a container are read from the engine, unless
/// `known` has them.
pub(crate) async fn many(
    backend: &CriBackend,
    ids: &[ContainerId],
    known: &HashMap<ContainerId, Annotations>,
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    let connection = &backend.connection;
    let filter =
        cri::ContainerStatsFilter { label_selector: connection.selector(), ..Default::default() };
    let request = cri::ListContainerStatsRequest { filter: Some(filter) };
    let asked = SystemTime::now();
    let response = connection.call(Operation::Stats, request).await?;
    let listed = response.stats.iter().filter_map(|stats| stats.attributes.as_ref());
    backend.samples.retain(&listed.map(|attributes| attributes.id.as_str()).collect(), asked);
    let mut wanted: BTreeSet<&str> = ids.iter().map(ContainerId::as_str).collect();
    let table = match connection.engine.is_crio() {
        // CRI-O measures created containers as well.
        true => Some(connection.list(Operation::Stats).await?),
        false => None,
    };
    if let Some(table) = &table {
        let is_running = |id: &str| {
            let listed = table.get(&ContainerId::new(id));
            listed.is_some_and(|listed| listed.info.status == ContainerStatus::Running)
        };
        wanted.retain(|id| is_running(id));
    }
    let found: HashMap<ContainerId, cri::ContainerStats> = response
        .stats
        .into_iter()
        // A container that does not run has no statistics.
        .filter(was_measured)
        .filter_map(|stats| {
            let id = stats.attributes.as_ref()?.id.as_str();
            let id = wanted.contains(id).then(|| ContainerId::new(id))?;
            Some((id, stats))
        })
        .collect();
    let running: Vec<ContainerId> =
        ids.iter().filter(|id| found.contains_key(*id)).cloned().collect();
    let mut kernel = kernel(backend, &running).await?;
    let measured = running.into_iter().filter_map(|id| {
        let stats = found.get(&id)?;
        let annotations = stats.attributes.as_ref().map(|attributes| &attributes.annotations);
        let annotations =
            known.get(&id).cloned().or_else(|| annotations.and_then(Annotations::read));
        let annotations = annotations.unwrap_or_default();
        let stats =
            measured(backend, &id, &annotations, stats, kernel.remove(&id).unwrap_or_default());
        Some((id, stats))
    });
    Ok(measured.collect())
}

/// Combines the statistics of the engine and the counters of the kernel.
fn measured(
    backend: &CriBackend,
    id: &ContainerId,
    annotations: &Annotations,
    stats: &cri::ContainerStats,
    kernel: KernelCounters,
) -> ContainerStats {
    let value = |value: Option<&cri::UInt64Value>| value.map(|value| value.value);
    let cpu = stats.cpu.as_ref();
    let time = cpu.and_then(|cpu| info::time(cpu.timestamp)).unwrap_or_else(SystemTime::now);
    let mut out = ContainerStats::new(time);
    if let Some(used) = cpu.and_then(|cpu| value(cpu.usage_core_nano_seconds.as_ref())) {
        let used = Duration::from_nanos(used);
        let limit = annotations.cpu_count.or_else(|| backend.samples.cgroups.host_cpus());
        let cpus_used = backend.samples.cpus_used(id, CpuSample { time, used });
        out.cpu_percent = cpus_used.zip(limit).map(|(used, limit)| used / limit * 100.0);
        out.cpu_time = Some(used);
    }
    let memory = stats.memory.as_ref();
    out.memory_bytes = memory.and_then(|memory| value(memory.working_set_bytes.as_ref()));
    let limit = annotations.memory.or_else(|| backend.samples.cgroups.host_memory());
    #[expect(clippy::cast_precision_loss, reason = "a percentage need not be exact")]
    let percent = |(used, limit): (u64, u64)| used as f64 / limit as f64 * 100.0;
    out.memory_percent = out.memory_bytes.zip(limit).map(percent);
    (out.network_rx_bytes, out.network_tx_bytes) = kernel.network.unzip();
    (out.block_read_bytes, out.block_write_bytes) = kernel.block.unzip();
    out
}

/// Returns the counters of networks and block devices, which the engine lacks.
///
/// They are read from the cgroups of the containers. The path of one cgroup gives those of the
/// others.
async fn kernel(
    backend: &CriBackend,
    ids: &[ContainerId],
) -> Result<HashMap<ContainerId, KernelCounters>> {
    let connection = &backend.connection;
    if !connection.context.capabilities.stats_block_io {
        return Ok(HashMap::new());
    }
    let cgroups = backend.samples.cgroups.clone();
    let mut found_cgroups = HashMap::new();
    for id in ids {
        let cgroup = match cgroups.get(id) {
            Some(cgroup) => cgroup,
            None => {
                let looked = status_and_pid(connection, Operation::Stats, id).await;
                let pid = match looked {
                    Ok((_, pid)) => pid,
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                };
                let Some(pid) = pid else { continue };
                let Some(cgroup) = cgroups.find(id, pid) else { continue };
                cgroup
            }
        };
        found_cgroups.insert(id.clone(), cgroup);
    }
    run_blocking(move || {
        let read = |(id, cgroup): (ContainerId, Cgroup)| {
            let kernel = cgroup.read();
            (id, kernel)
        };
        Ok(found_cgroups.into_iter().map(read).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_usage_is_not_a_measurement() {
        let stats = |cpu: Option<u64>, memory: Option<u64>| {
            let value = |value: Option<u64>| value.map(|value| cri::UInt64Value { value });
            cri::ContainerStats {
                cpu: Some(cri::CpuUsage {
                    usage_core_nano_seconds: value(cpu),
                    ..Default::default()
                }),
                memory: Some(cri::MemoryUsage {
                    working_set_bytes: value(memory),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        for (cpu, memory, measured) in [
            (Some(1), Some(0), true),
            (Some(0), Some(1), true),
            (Some(0), None, true),
            (Some(0), Some(0), false),
        ] {
            assert_eq!(was_measured(&stats(cpu, memory)), measured, "{cpu:?} {memory:?}");
        }
        assert!(!was_measured(&cri::ContainerStats::default()));
    }
}
