//! The last stats sample of each container.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_core::ContainerId;
use tokio::time::Instant;

/// How long an unused sample is kept.
const SAMPLE_TTL: Duration = Duration::from_secs(600);

/// The last sample of each container.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    samples: HashMap<ContainerId, Sample>,
    /// The number of samples at which expired ones are removed.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    time: SystemTime,
    cpu: Duration,
    /// The CPU limit, if known.
    cpus: Option<Option<f64>>,
    used: Instant,
}

impl Sample {
    /// Returns the number of CPUs that were used since this sample.
    pub(crate) fn share_until(&self, time: SystemTime, cpu: Duration) -> Option<f64> {
        let passed = time.duration_since(self.time).ok().filter(|passed| !passed.is_zero())?;
        Some(cpu.checked_sub(self.cpu)?.as_secs_f64() / passed.as_secs_f64())
    }
}

impl Samples {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a sample, and returns the previous one.
    pub(crate) fn replace(
        &self,
        id: &ContainerId,
        time: SystemTime,
        cpu: Duration,
    ) -> Option<Sample> {
        let used = Instant::now();
        let mut entries = self.lock();
        if let Some(before) = entries.samples.get_mut(id) {
            let now = Sample { time, cpu, cpus: before.cpus, used };
            return Some(std::mem::replace(before, now));
        }
        if entries.samples.len() >= entries.sweep_at {
            entries.samples.retain(|_, sample| used.duration_since(sample.used) < SAMPLE_TTL);
            entries.sweep_at = (entries.samples.len() * 2).max(256);
        }
        entries.samples.insert(id.clone(), Sample { time, cpu, cpus: None, used });
        None
    }

    pub(crate) fn cpus(&self, id: &ContainerId) -> Option<Option<f64>> {
        self.lock().samples.get(id)?.cpus
    }

    pub(crate) fn set_cpus(&self, id: &ContainerId, cpus: Option<f64>) {
        if let Some(sample) = self.lock().samples.get_mut(id) {
            sample.cpus = Some(cpus);
        }
    }

    pub(crate) fn forget(&self, id: &ContainerId) {
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
    async fn share_is_used_time_since_previous_sample() {
        let samples = Samples::default();
        let id = ContainerId::new("one");
        let second = Duration::from_secs(1);
        assert!(samples.replace(&id, at(10), second).is_none());
        let before = samples.replace(&id, at(14), 3 * second).unwrap();
        assert_eq!(before.share_until(at(14), 3 * second), Some(0.5));
        // The same time, a clock that was set back, a counter that was reset.
        assert_eq!(before.share_until(at(10), 3 * second), None);
        assert_eq!(before.share_until(at(9), 3 * second), None);
        assert_eq!(before.share_until(at(14), second / 2), None);
        samples.forget(&id);
        assert!(samples.replace(&id, at(20), second).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn unused_samples_expire() {
        let samples = Samples::default();
        for round in 0..20 {
            for number in 0..200 {
                let id = ContainerId::new(format!("{round}-{number}"));
                samples.replace(&id, at(1), Duration::ZERO);
            }
            tokio::time::advance(SAMPLE_TTL / 2).await;
        }
        assert!(samples.lock().samples.len() < 1600, "{}", samples.lock().samples.len());
    }
}
