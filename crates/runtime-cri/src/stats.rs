//! What containers use.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    Capability, ContainerId, ContainerStats, ContainerStatus, Error, ErrorKind, Operation, Result,
    ResultExt, StatsOptions, StatsStream,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::BACKEND;
use crate::cgroup::{Cgroup, Cgroups, Kernel};
use crate::container::CriContainer;
use crate::generated as cri;
use crate::notes::Notes;
use crate::sandbox::on_host;
use crate::shared::Shared;
use crate::{census, info, kill};

/// What has to be remembered between two measurements.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    cpu: Mutex<HashMap<ContainerId, CpuSample>>,
    cgroups: Arc<Cgroups>,
}

#[derive(Debug, Clone, Copy)]
struct CpuSample {
    time: SystemTime,
    used: Duration,
}

impl Meter {
    /// The container is gone.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
        self.cgroups.forget(id);
    }

    /// Of all containers that are listed, only these are there. What was measured since `asked` may be of
    /// one that came later.
    fn keep(&self, listed: &HashSet<&str>, asked: SystemTime) {
        self.lock().retain(|id, last| listed.contains(id.as_str()) || last.time >= asked);
        self.cgroups.keep(|id| listed.contains(id.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, CpuSample>> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The use of CPU since the sample before, in CPUs.
    fn cpus_used(&self, id: &ContainerId, now: CpuSample) -> Option<f64> {
        let before = self.lock().insert(id.clone(), now)?;
        let time = now.time.duration_since(before.time).ok().filter(|time| !time.is_zero())?;
        let used = now.used.checked_sub(before.used)?;
        Some(used.as_secs_f64() / time.as_secs_f64())
    }
}

/// See [`Container::stats_once`](runtime_core::Container::stats_once).
pub(crate) async fn once(container: &CriContainer) -> Result<ContainerStats> {
    let shared = &container.shared;
    let request = cri::ContainerStatsRequest { container_id: container.id.to_string() };
    let answer = shared.ask(Operation::Stats, request).await;
    match answer {
        Ok(cri::ContainerStatsResponse { stats: Some(stats) }) if was_measured(&stats) => {
            let ids = [container.id.clone()];
            let mut kernel = kernel(shared, &ids).await?;
            let kernel = kernel.remove(&container.id).unwrap_or_default();
            let is_unseen = shared.capabilities.stats_network && kernel.network.is_none();
            if is_unseen || shared.engine.is_crio() {
                // No process is seen, so it may have ended or not started. CRI-O measures the runc
                // init of a created container.
                container.must_run(&container.status(Operation::Stats).await?)?;
            }
            return Ok(measured(shared, &container.id, &container.notes, &stats, kernel));
        }
        // The engine has no words of its own for containers that do not run.
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Internal => {}
        Err(error) => {
            if error.kind() == ErrorKind::NotFound {
                shared.meter.forget(&container.id);
            }
            return Err(error);
        }
    }
    container.must_run(&container.status(Operation::Stats).await?)?;
    Err(Error::new(ErrorKind::Unavailable).with_message("the engine gives no figures now"))
}

/// Whether these are figures of something that runs. An engine can also measure a cgroup that has no
/// process yet.
fn was_measured(stats: &cri::ContainerStats) -> bool {
    let cpu = stats.cpu.as_ref();
    let zero = |value: Option<&cri::UInt64Value>| value.is_some_and(|value| value.value == 0);
    let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    cpu.is_some_and(|cpu| !(zero(cpu.usage_core_nano_seconds.as_ref()) && zero(memory)))
}

/// See [`Container::stats`](runtime_core::Container::stats).
pub(crate) async fn stream(container: &CriContainer, options: StatsOptions) -> Result<StatsStream> {
    options.check()?;
    let first = once(container).await?;
    let period = runtime_core::bounded(options.interval);
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((container.clone(), ticks));
    let more = stream::unfold(state, |state| async {
        let (container, mut ticks) = state?;
        ticks.tick().await;
        match once(&container).await {
            Ok(stats) => Some((Ok(stats), Some((container, ticks)))),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidState)
                    && !container.shared.closed.is_cancelled() =>
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

/// See [`Runtime::stats`](runtime_core::Runtime::stats). What is known of a container is read from
/// its notes, where `known` does not have it.
pub(crate) async fn many(
    shared: &Shared,
    ids: &[ContainerId],
    known: &HashMap<ContainerId, Notes>,
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    shared.capabilities.require(Capability::BulkStats)?;
    let filter =
        cri::ContainerStatsFilter { label_selector: shared.selector(), ..Default::default() };
    let request = cri::ListContainerStatsRequest { filter: Some(filter) };
    let asked = SystemTime::now();
    let answer = shared.ask(Operation::Stats, request).await?;
    let listed = answer.stats.iter().filter_map(|stats| stats.attributes.as_ref());
    shared.meter.keep(&listed.map(|attributes| attributes.id.as_str()).collect(), asked);
    let mut wanted: BTreeSet<&str> = ids.iter().map(ContainerId::as_str).collect();
    let table = match shared.engine.is_crio() {
        // It measures created containers as well.
        true => Some(census::list(shared, Operation::Stats).await?),
        false => None,
    };
    if let Some(table) = &table {
        let is_running = |id: &str| {
            let seen = table.get(&ContainerId::new(id));
            seen.is_some_and(|seen| seen.info.status == ContainerStatus::Running)
        };
        wanted.retain(|id| is_running(id));
    }
    let found: HashMap<ContainerId, cri::ContainerStats> = answer
        .stats
        .into_iter()
        // What does not run has no figures.
        .filter(was_measured)
        .filter_map(|stats| {
            let id = stats.attributes.as_ref()?.id.as_str();
            let id = wanted.contains(id).then(|| ContainerId::new(id))?;
            Some((id, stats))
        })
        .collect();
    let running: Vec<ContainerId> =
        ids.iter().filter(|id| found.contains_key(*id)).cloned().collect();
    let mut kernel = kernel(shared, &running).await.during(Operation::Stats).on(BACKEND)?;
    let measured = running.into_iter().filter_map(|id| {
        let stats = found.get(&id)?;
        let annotations = stats.attributes.as_ref().map(|attributes| &attributes.annotations);
        let notes = known.get(&id).cloned().or_else(|| annotations.and_then(Notes::read));
        let notes = notes.unwrap_or_default();
        let stats = measured(shared, &id, &notes, stats, kernel.remove(&id).unwrap_or_default());
        Some((id, stats))
    });
    Ok(measured.collect())
}

/// What the engine said and what the kernel said, together.
fn measured(
    shared: &Shared,
    id: &ContainerId,
    notes: &Notes,
    stats: &cri::ContainerStats,
    kernel: Kernel,
) -> ContainerStats {
    let value = |value: Option<&cri::UInt64Value>| value.map(|value| value.value);
    let cpu = stats.cpu.as_ref();
    let time = cpu.and_then(|cpu| info::time(cpu.timestamp)).unwrap_or_else(SystemTime::now);
    let mut out = ContainerStats::new(time);
    if let Some(used) = cpu.and_then(|cpu| value(cpu.usage_core_nano_seconds.as_ref())) {
        let used = Duration::from_nanos(used);
        let limit = notes.cpu_count.or_else(|| shared.meter.cgroups.host_cpus());
        let cpus_used = shared.meter.cpus_used(id, CpuSample { time, used });
        out.cpu_percent = cpus_used.zip(limit).map(|(used, limit)| used / limit * 100.0);
        out.cpu_time = Some(used);
    }
    let memory = stats.memory.as_ref();
    out.memory_bytes = memory.and_then(|memory| value(memory.working_set_bytes.as_ref()));
    let limit = notes.memory.or_else(|| shared.meter.cgroups.host_memory());
    #[expect(clippy::cast_precision_loss, reason = "a percentage need not be exact")]
    let percent = |(used, limit): (u64, u64)| used as f64 / limit as f64 * 100.0;
    out.memory_percent = out.memory_bytes.zip(limit).map(percent);
    (out.network_rx_bytes, out.network_tx_bytes) = kernel.network.unzip();
    (out.block_read_bytes, out.block_write_bytes) = kernel.block.unzip();
    out
}

/// What the engine does not tell and the kernel does: the traffic of networks and disks.
///
/// It is read from the cgroups of the containers, whose places are learnt from one container: the
/// others lie beside it.
async fn kernel(shared: &Shared, ids: &[ContainerId]) -> Result<HashMap<ContainerId, Kernel>> {
    if !shared.capabilities.stats_block_io {
        return Ok(HashMap::new());
    }
    let cgroups = shared.meter.cgroups.clone();
    let mut places = HashMap::new();
    for id in ids {
        let place = match cgroups.place(id) {
            Some(place) => place,
            None => {
                let looked = kill::look(shared, Operation::Stats, id).await;
                let pid = match looked {
                    Ok((_, pid)) => pid,
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                };
                let Some(pid) = pid else { continue };
                let Some(place) = cgroups.learn(id, pid) else { continue };
                place
            }
        };
        places.insert(id.clone(), place);
    }
    on_host(move || {
        let read = |(id, place): (ContainerId, Cgroup)| {
            let kernel = place.read();
            (id, kernel)
        };
        Ok(places.into_iter().map(read).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_lists_no_more_is_forgotten() {
        let meter = Meter::default();
        let now = SystemTime::now();
        let before = now - Duration::from_secs(1);
        let used = Duration::ZERO;
        for (id, time) in [("here", before), ("gone", before), ("new", now)] {
            meter.cpus_used(&ContainerId::new(id), CpuSample { time, used });
        }
        meter.keep(&["here"].into(), now);
        let mut left: Vec<_> = meter.lock().keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["here", "new"]);
    }

    #[test]
    fn nothing_used_is_no_measurement() {
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
