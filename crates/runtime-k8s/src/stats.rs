//! What containers use.
//!
//! From the kubelets, through the API server's proxy: one summary a node for CPU, memory and
//! network of all its pods, and one page of cAdvisor's metrics for block devices and for what the
//! node itself has. Or from the metrics API: CPU and memory only.

mod cadvisor;
mod summary;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use runtime_core::{
    Capability, ContainerId, ContainerStats, Error, ErrorKind, Operation, Result, ResultExt as _,
    StatsOptions, StatsStream,
};

use crate::BACKEND;
use crate::client::Call;
use crate::connect::StatsSource;
use crate::container::KubernetesContainer;
use crate::info;
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::State;

/// How many nodes are asked at once.
const AT_ONCE: usize = 8;

/// How often a node is asked again that does not know a container yet.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A sample of so long ago is of a container that has ended, or says little of what it does now.
const OLD: Duration = Duration::from_secs(3600);

/// Fewer samples than this are kept whatever they are of.
const LEAST_ROOM: usize = 256;

/// What was measured of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measured {
    time: Option<SystemTime>,
    /// CPU time since the start.
    cpu: Option<Duration>,
    /// CPUs in use, where the source counts that itself.
    cores: Option<f64>,
    memory: Option<u64>,
    received: Option<u64>,
    sent: Option<u64>,
    block_read: Option<u64>,
    block_written: Option<u64>,
}

impl Measured {
    /// Whether nothing had run yet: a kubelet also measures a cgroup that has no process so far. One
    /// that runs has taken some time of a CPU, though its memory can be counted as zero: of what is
    /// charged to it, what may be dropped is taken off.
    fn is_before_the_start(&self) -> bool {
        self.cpu == Some(Duration::ZERO) && self.memory == Some(0)
    }
}

/// What a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Machine {
    cores: Option<f64>,
    memory: Option<u64>,
}

/// What the measurement before has seen.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The last measurement of each container, for the CPU time between two.
    last: Mutex<Last>,
    /// The nodes that did not answer.
    silent: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Last {
    samples: HashMap<String, Sample>,
    /// How many there may be before those of containers that nobody asks for any more are dropped.
    room: usize,
}

impl Last {
    fn insert(&mut self, uid: &str, sample: Sample) {
        if self.samples.len() >= self.room {
            let oldest = sample.time.checked_sub(OLD).unwrap_or(SystemTime::UNIX_EPOCH);
            self.samples.retain(|_, sample| sample.time >= oldest);
            self.room = (2 * self.samples.len()).max(LEAST_ROOM);
        }
        self.samples.insert(uid.to_owned(), sample);
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    time: SystemTime,
    cpu: Duration,
    cores: Option<f64>,
}

impl Samples {
    /// CPUs in use since the measurement before.
    fn cores(&self, uid: &str, time: SystemTime, cpu: Duration) -> Option<f64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.samples.get(uid).copied();
        let cores = match before {
            // The same measurement again, or an older one.
            Some(before) if before.time >= time => return before.cores,
            Some(before) => {
                let wall = time.duration_since(before.time).unwrap_or_default();
                Some(cpu.saturating_sub(before.cpu).as_secs_f64() / wall.as_secs_f64())
            }
            None => None,
        };
        last.insert(uid, Sample { time, cpu, cores });
        cores
    }

    /// Warns of a node that does not answer, once until it does.
    fn note_answer<T>(&self, node: &str, answer: &Result<T>) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(_) => drop(silent.remove(node)),
            Err(error) => {
                if silent.insert(node.to_owned()) {
                    tracing::warn!(node, %error, "a node does not say what its containers use");
                }
            }
        }
    }

    fn forget_all_but(&self, keep: impl Fn(&str) -> bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.samples.retain(|uid, _| keep(uid));
    }
}

/// Measures one container once.
pub(crate) async fn once(container: &KubernetesContainer) -> Result<ContainerStats> {
    let shared = &container.shared;
    #[cfg(feature = "cri")]
    if let Some(engine) = &shared.engine {
        return shared.query(Operation::Stats, crate::engine::stats_once(container, engine)).await;
    }
    shared.query(Operation::Stats, until_known(container)).await
}

async fn until_known(container: &KubernetesContainer) -> Result<ContainerStats> {
    let shared = &container.shared;
    require(shared, Capability::StatsMemory)?;
    loop {
        let seen = container.look().await?;
        match &seen.state {
            State::Held | State::Pending(_) => return Err(Error::new(ErrorKind::NotStarted)),
            State::Ended(_) => return Err(Error::new(ErrorKind::InvalidState)),
            State::Running | State::Settling => {}
        }
        let measured = measure(shared, std::slice::from_ref(&seen)).await?;
        if let Some((_, stats)) = measured.into_iter().next() {
            return Ok(stats);
        }
        // A container that was just started is measured a little later.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Measures one container until it ends.
pub(crate) async fn stream(
    container: &KubernetesContainer,
    options: StatsOptions,
) -> Result<StatsStream> {
    options.check().during(Operation::Stats).on(BACKEND)?;
    let first = once(container).await?;
    let mut tick = tokio::time::interval(runtime_core::bounded(options.interval));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    let state = Some((container.clone(), tick, first.time));
    let later = futures_util::stream::unfold(state, |state| async move {
        let (container, mut tick, last) = state?;
        loop {
            tokio::select! {
                biased;
                error = container.shared.closed() => {
                    return Some((Err(error.during(Operation::Stats)), None));
                }
                ended = container.until_ended() => {
                    return match ended {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            Some((Err(error.during(Operation::Stats).on(BACKEND)), None))
                        }
                        _ => None,
                    };
                }
                _ = tick.tick() => {}
            }
            match once(&container).await {
                // A node measures every few seconds; what it gives again is not new.
                Ok(stats) if stats.time <= last => {}
                Ok(stats) => {
                    let time = stats.time;
                    return Some((Ok(stats), Some((container, tick, time))));
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) =>
                {
                    return None;
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Ok(Box::pin(futures_util::stream::once(std::future::ready(Ok(first))).chain(later)))
}

/// Measures many containers together: two calls a node, or one for all.
pub(crate) async fn many(
    shared: &Arc<Shared>,
    containers: &[ContainerId],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    let work = async {
        require(shared, Capability::BulkStats)?;
        if containers.is_empty() {
            return Ok(Vec::new());
        }
        shared.pods.live().await?;
        let running: Vec<Seen> = containers
            .iter()
            .filter_map(|id| Some(shared.pods.entry(id.as_str())?.now()))
            .filter(|seen| seen.state == State::Running)
            .collect();
        #[cfg(feature = "cri")]
        if let Some(engine) = &shared.engine {
            return crate::engine::stats_of_many(engine, &running).await;
        }
        shared.samples.forget_all_but(|uid| shared.pods.entry(uid).is_some());
        measure(shared, &running).await
    };
    shared.query(Operation::Stats, work).await
}

fn require(shared: &Shared, needed: Capability) -> Result<()> {
    shared.capabilities.require(needed).map_err(|error| error.on(BACKEND))
}

/// Measures running pods. Those that nobody has measured yet are left out.
async fn measure(shared: &Shared, pods: &[Seen]) -> Result<Vec<(ContainerId, ContainerStats)>> {
    if pods.is_empty() {
        return Ok(Vec::new());
    }
    let mut machines: BTreeMap<String, Machine> = BTreeMap::new();
    let mut measured: HashMap<String, Measured> = HashMap::new();
    if shared.options.stats == StatsSource::NodeProxy {
        let nodes: BTreeSet<String> =
            pods.iter().filter_map(|seen| seen.pod.spec.node_name.clone()).collect();
        let questions: Vec<_> = nodes
            .into_iter()
            .map(|node| async move {
                let answer = of_node(shared, &node).await;
                (node, answer)
            })
            .collect();
        let mut answers = futures_util::stream::iter(questions).buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some((node, answer)) = answers.next().await {
            shared.samples.note_answer(&node, &answer);
            match answer {
                Ok((machine, found)) => {
                    machines.insert(node, machine);
                    measured.extend(found);
                }
                Err(error) => failed = Some(error),
            }
        }
        // A node that is away hides its own containers, and not those of all others.
        if let (true, Some(error)) = (machines.is_empty(), failed) {
            return Err(error);
        }
    } else {
        measured = of_metrics_api(shared, pods).await?;
    }
    Ok(pods
        .iter()
        .filter_map(|seen| {
            let uid = &seen.pod.metadata.uid;
            let node = seen.pod.spec.node_name.as_deref().unwrap_or_default();
            let machine = machines.get(node).copied().unwrap_or_default();
            let stats = stats(shared, seen, measured.get(uid)?, machine)?;
            Some((ContainerId::new(uid), stats))
        })
        .collect())
}

/// What one kubelet has measured, by the UIDs of its pods.
async fn of_node(shared: &Shared, node: &str) -> Result<(Machine, HashMap<String, Measured>)> {
    let client = &shared.client;
    let proxy = format!("/api/v1/nodes/{node}/proxy");
    let (summary, metrics) = futures_util::try_join!(
        client.bytes(Call::get(format!("{proxy}/stats/summary"))),
        client.bytes(Call::get(format!("{proxy}/metrics/cadvisor"))),
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

/// What the metrics API has of all pods of the scope, by their UIDs.
async fn of_metrics_api(shared: &Shared, pods: &[Seen]) -> Result<HashMap<String, Measured>> {
    let selector = crate::names::selector(&shared.options.scope, &runtime_core::LabelFilter::new());
    let call = shared.client.metrics(&selector);
    let found = summary::read_metrics(&shared.client.bytes(call).await?)?;
    let mut uids: HashMap<&str, &str> = HashMap::new();
    for seen in pods {
        uids.insert(&seen.pod.metadata.name, &seen.pod.metadata.uid);
    }
    Ok(found
        .into_iter()
        .filter_map(|(name, measured)| Some(((*uids.get(name.as_str())?).to_owned(), measured)))
        .collect())
}

/// A measurement as our stats; `None` for one from before the container's start.
fn stats(
    shared: &Shared,
    seen: &Seen,
    measured: &Measured,
    machine: Machine,
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
            shared.samples.cores(&seen.pod.metadata.uid, time, cpu)
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

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
fn percent(used: Option<u64>, most: Option<u64>) -> Option<f64> {
    let most = most.filter(|most| *most > 0)?;
    Some(used? as f64 / most as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_counted_between_two_measurements() {
        let samples = Samples::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(samples.cores("u", at(10), Duration::from_secs(1)), None);
        assert_eq!(samples.cores("u", at(10), Duration::from_secs(1)), None, "the same again");
        assert_eq!(samples.cores("u", at(20), Duration::from_secs(6)), Some(0.5));
        assert_eq!(samples.cores("u", at(20), Duration::from_secs(6)), Some(0.5));
        assert_eq!(samples.cores("other", at(20), Duration::ZERO), None);
        samples.forget_all_but(|uid| uid == "other");
        assert_eq!(samples.cores("u", at(30), Duration::from_secs(7)), None);
    }

    #[test]
    fn samples_that_nobody_asks_for_any_more_are_dropped() {
        let samples = Samples::default();
        for second in 0..20_000 {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            samples.cores(&second.to_string(), time, Duration::from_secs(1));
        }
        let last = samples.last.lock().unwrap();
        assert!(last.samples.len() <= 2 * 3601, "{}", last.samples.len());
        assert!(last.samples.contains_key("19999") && last.samples.contains_key("17000"));
    }

    #[test]
    fn an_empty_cgroup_is_no_measurement() {
        let measured = |cpu, memory| {
            let cpu = Some(Duration::from_nanos(cpu));
            Measured { cpu, memory: Some(memory), ..Measured::default() }.is_before_the_start()
        };
        assert!(measured(0, 0));
        assert!(!measured(1, 0));
        assert!(!measured(0, 4096));
    }

    #[test]
    fn percentages_need_both() {
        assert_eq!(percent(Some(1), Some(4)), Some(25.0));
        assert_eq!(percent(Some(1), Some(0)), None);
        assert_eq!(percent(None, Some(4)), None);
        assert_eq!(percent(Some(1), None), None);
    }
}
