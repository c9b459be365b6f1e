//! Samples of earlier measurements, from which rates are computed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_core::ContainerId;

use crate::host::cgroup::Cgroups;

/// Samples of a connection.
#[derive(Debug, Default)]
pub(crate) struct StatsSamples {
    cpu: Mutex<HashMap<ContainerId, CpuSample>>,
    pub(crate) cgroups: Arc<Cgroups>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuSample {
    pub(crate) time: SystemTime,
    pub(crate) used: Duration,
}

impl StatsSamples {
    /// Evicts a container.
    pub(crate) fn remove(&self, id: &ContainerId) {
        self.lock().remove(id);
        self.cgroups.remove(id);
    }

    /// Evicts all containers that are not listed. Samples since `asked` are kept, because their
    /// containers may be newer than the list.
    pub(crate) fn retain(&self, listed: &HashSet<&str>, asked: SystemTime) {
        self.lock().retain(|id, last| listed.contains(id.as_str()) || last.time >= asked);
        self.cgroups.retain(|id| listed.contains(id.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, CpuSample>> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a sample, and returns the CPU usage since the last sample, in CPUs.
    pub(crate) fn cpus_used(&self, id: &ContainerId, now: CpuSample) -> Option<f64> {
        let before = self.lock().insert(id.clone(), now)?;
        let time = now.time.duration_since(before.time).ok().filter(|time| !time.is_zero())?;
        let used = now.used.checked_sub(before.used)?;
        Some(used.as_secs_f64() / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retain_evicts_containers_that_are_not_listed() {
        let samples = StatsSamples::default();
        let now = SystemTime::now();
        let before = now - Duration::from_secs(1);
        let used = Duration::ZERO;
        for (id, time) in [("here", before), ("gone", before), ("new", now)] {
            samples.cpus_used(&ContainerId::new(id), CpuSample { time, used });
        }
        samples.retain(&["here"].into(), now);
        let mut left: Vec<_> = samples.lock().keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["here", "new"]);
    }
}
