//! Stats: one answer of the engine per container and sample, and what is remembered for the next.

pub(crate) mod answer;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{
    Capability, ContainerId, ContainerStats, ContainerStatus, Error, ErrorKind, LabelFilter,
    Operation, Result, ResultExt, StatsOptions, StatsStream,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::answer::Answer;
use crate::BACKEND;
use crate::container::DockerContainer;
use crate::http::Call;
use crate::shared::{Shared, within};

/// How many containers are measured at once. Docker measures all that somebody asks about once a
/// second, and answers then: one after another, they would take a second each.
const AT_ONCE: usize = 256;

/// How long a sample is kept of a container that nobody asks about.
const KEPT: Duration = Duration::from_secs(600);

impl DockerContainer {
    /// Measures it once.
    pub(crate) async fn measure(&self) -> Result<ContainerStats> {
        self.shared().require_any_stats()?;
        // It may start between the two questions, but not without end.
        for _ in 0..3 {
            if let Some(stats) = self.shared().measure(self.full_id()).await? {
                return Ok(stats);
            }
            if self.life().exit().is_some() {
                break;
            }
            match self.shared().inspect(Operation::Stats, self.full_id()).await?.status() {
                ContainerStatus::Created => return Err(Error::new(ErrorKind::NotStarted)),
                ContainerStatus::Exited => break,
                ContainerStatus::Running => {}
            }
        }
        Err(Error::new(ErrorKind::InvalidState).with_message("it is not running"))
    }

    /// Measures it until it ends. Each sample is a question of its own: the engine's stream has
    /// one interval, of a second.
    pub(crate) async fn measure_on(&self, options: StatsOptions) -> Result<StatsStream> {
        options.check()?;
        let mut ticks = interval(runtime_core::bounded(options.interval));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let first = self.measure().await?;
        let (shared, id) = (Arc::clone(self.shared()), self.full_id().clone());
        let later = stream::unfold(Some((shared, id, ticks)), async |state| {
            let (shared, id, mut ticks) = state?;
            ticks.tick().await;
            match shared.measure(&id).await {
                Ok(Some(stats)) => Some((Ok(stats), Some((shared, id, ticks)))),
                Ok(None) => None,
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(stream::iter([Ok(first)]).chain(later).boxed())
    }
}

impl Shared {
    /// Measures those of `containers` that run and are of this scope.
    pub(crate) async fn measure_all(
        &self,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        self.capabilities.require(Capability::BulkStats)?;
        let mut containers = containers.to_vec();
        // Whoever has a handle has shown that it is ours.
        if containers.iter().any(|id| self.lives.get(id).is_none()) {
            let listed = self.list(Operation::Stats, &LabelFilter::new()).await?;
            let ours: BTreeSet<&str> = listed.iter().map(|summary| summary.id.as_str()).collect();
            containers.retain(|id| ours.contains(id.as_str()));
        }
        stream::iter(containers)
            .map(|id| async move {
                match self.measure(&id).await {
                    Ok(stats) => Ok(stats.map(|stats| (id, stats))),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffered(AT_ONCE)
            .try_filter_map(async |sample| Ok(sample))
            .try_collect()
            .await
    }

    /// Refuses where the engine measures nothing: its answer has zeros then.
    fn require_any_stats(&self) -> Result<()> {
        let can = &self.capabilities;
        if can.stats_cpu || can.stats_memory || can.stats_network || can.stats_block_io {
            return Ok(());
        }
        Err(Error::unsupported(Capability::StatsCpu))
    }

    /// Measures a container; `None` if it does not run.
    async fn measure(&self, id: &ContainerId) -> Result<Option<ContainerStats>> {
        let measured = self.ask_and_compare(id).await;
        if measured.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            self.samples.forget(id);
        }
        measured.during(Operation::Stats).on(BACKEND).about(id)
    }

    async fn ask_and_compare(&self, id: &ContainerId) -> Result<Option<ContainerStats>> {
        let Some(answer) = self.ask_stats(id).await? else { return Ok(None) };
        let Some(mut stats) = answer.stats(self.has_swapped_network()) else { return Ok(None) };
        if let Some(now) = stats.cpu_time {
            let before = self.samples.take_turn(id, stats.time, now);
            if let Some(share) = before.and_then(|before| before.share_until(stats.time, now)) {
                let limit = self.cpu_limit(id).await?;
                let host = answer.online_cpus().unwrap_or(f64::from(self.engine.info.cpus));
                let cpus = limit.unwrap_or(host).min(host);
                stats.cpu_percent = (cpus > 0.0).then(|| share / cpus * 100.0);
            }
        }
        Ok(Some(stats))
    }

    /// The engine's answer; `None` if it says that the container does not run.
    async fn ask_stats(&self, id: &ContainerId) -> Result<Option<Answer>> {
        // Without `one-shot`, Docker takes a second sample one or two seconds later.
        let call = Call::get(Operation::Stats, format!("/containers/{id}/stats"))
            .query("stream", false)
            .query("one-shot", true);
        let asked = within(Operation::Stats, self.deadlines.query, async {
            let answer = self.http.call(call).await?;
            self.http.whole(Operation::Stats, answer).await
        });
        match asked.await {
            // Podman says so with nothing.
            Ok(body) if body.is_empty() => Ok(None),
            Ok(body) => serde_json::from_slice(&body).map(Some).map_err(|source| {
                Error::internal("the engine's answer is not what its API says").with_source(source)
            }),
            // It ended while it was measured, and some engines then fail in their own words.
            Err(error) if error.kind() == ErrorKind::Internal => {
                let inspect = self.inspect(Operation::Stats, id).await?;
                if inspect.status() == ContainerStatus::Running { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    /// The CPUs that a container may use; `None` where it has no limit. The engine is asked once
    /// for each container that this process did not create.
    async fn cpu_limit(&self, id: &ContainerId) -> Result<Option<f64>> {
        let known = self.lives.get(id).and_then(|life| life.cpus.get().copied());
        if let Some(limit) = known.or_else(|| self.samples.cpus(id)) {
            return Ok(limit);
        }
        let limit = self.inspect(Operation::Stats, id).await?.host_config.cpus();
        self.samples.set_cpus(id, limit);
        Ok(limit)
    }

    /// Podman before 4.4 gives what the host's end of the container's link received and sent
    /// (containers/podman#16618).
    fn has_swapped_network(&self) -> bool {
        self.engine.is_podman() && self.engine.release() < [4, 4, 0]
    }
}

/// The last sample of each container.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    samples: HashMap<ContainerId, Sample>,
    /// When to look for samples that nobody asks for any more.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    time: SystemTime,
    cpu: Duration,
    /// The limit, where it is known.
    cpus: Option<Option<f64>>,
    used: Instant,
}

impl Sample {
    /// How many CPUs were used since this sample.
    fn share_until(&self, time: SystemTime, cpu: Duration) -> Option<f64> {
        let passed = time.duration_since(self.time).ok().filter(|passed| !passed.is_zero())?;
        Some(cpu.checked_sub(self.cpu)?.as_secs_f64() / passed.as_secs_f64())
    }
}

impl Samples {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a sample in the place of the one before, which it gives.
    fn take_turn(&self, id: &ContainerId, time: SystemTime, cpu: Duration) -> Option<Sample> {
        let used = Instant::now();
        let mut entries = self.lock();
        if let Some(before) = entries.samples.get_mut(id) {
            let now = Sample { time, cpu, cpus: before.cpus, used };
            return Some(std::mem::replace(before, now));
        }
        if entries.samples.len() >= entries.sweep_at {
            entries.samples.retain(|_, sample| used.duration_since(sample.used) < KEPT);
            entries.sweep_at = (entries.samples.len() * 2).max(256);
        }
        entries.samples.insert(id.clone(), Sample { time, cpu, cpus: None, used });
        None
    }

    fn cpus(&self, id: &ContainerId) -> Option<Option<f64>> {
        self.lock().samples.get(id)?.cpus
    }

    fn set_cpus(&self, id: &ContainerId, cpus: Option<f64>) {
        if let Some(sample) = self.lock().samples.get_mut(id) {
            sample.cpus = Some(cpus);
        }
    }

    fn forget(&self, id: &ContainerId) {
        self.lock().samples.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_is_that_since_the_sample_before() {
        let samples = Samples::default();
        let id = ContainerId::new("one");
        let second = Duration::from_secs(1);
        assert!(samples.take_turn(&id, at(10), second).is_none());
        let before = samples.take_turn(&id, at(14), 3 * second).unwrap();
        assert_eq!(before.share_until(at(14), 3 * second), Some(0.5));
        // The same moment, a clock that was set back, a counter that began again.
        assert_eq!(before.share_until(at(10), 3 * second), None);
        assert_eq!(before.share_until(at(9), 3 * second), None);
        assert_eq!(before.share_until(at(14), second / 2), None);
        samples.forget(&id);
        assert!(samples.take_turn(&id, at(20), second).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn samples_that_nobody_asks_for_go() {
        let samples = Samples::default();
        for round in 0..20 {
            for number in 0..200 {
                let id = ContainerId::new(format!("{round}-{number}"));
                samples.take_turn(&id, at(1), Duration::ZERO);
            }
            tokio::time::advance(KEPT / 2).await;
        }
        assert!(samples.lock().samples.len() < 1600, "{}", samples.lock().samples.len());
    }
}
