//! The last measurements of each container.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_core::Result;

/// Maximum age of a sample. The container of an older one has probably ended.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(3600);

/// Number of samples that are kept independently of their age.
const SAMPLES_MIN: usize = 256;

/// The previous measurements.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The last measurement of each container, for the CPU time between two.
    last: Mutex<Last>,
    /// The nodes that did not respond.
    silent: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Last {
    samples: HashMap<String, Sample>,
    /// The number of samples at which old ones are dropped.
    room: usize,
}

impl Last {
    fn insert(&mut self, uid: &str, sample: Sample) {
        if self.samples.len() >= self.room {
            let oldest = sample.time.checked_sub(SAMPLE_AGE_MAX).unwrap_or(SystemTime::UNIX_EPOCH);
            self.samples.retain(|_, sample| sample.time >= oldest);
            self.room = (2 * self.samples.len()).max(SAMPLES_MIN);
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
    /// Returns the CPUs in use since the previous measurement.
    pub(crate) fn cores(&self, uid: &str, time: SystemTime, cpu: Duration) -> Option<f64> {
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

    /// Logs a warning for a node that does not respond, once until it responds.
    pub(crate) fn record_response<T>(&self, node: &str, response: &Result<T>) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match response {
            Ok(_) => drop(silent.remove(node)),
            Err(error) => {
                if silent.insert(node.to_owned()) {
                    tracing::warn!(node, %error, "failed to measure the containers of a node");
                }
            }
        }
    }

    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.samples.retain(|uid, _| keep(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_computed_between_two_measurements() {
        let samples = Samples::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(samples.cores("u", at(10), Duration::from_secs(1)), None);
        assert_eq!(
            samples.cores("u", at(10), Duration::from_secs(1)),
            None,
            "the measurement is the same"
        );
        assert_eq!(samples.cores("u", at(20), Duration::from_secs(6)), Some(0.5));
        assert_eq!(samples.cores("u", at(20), Duration::from_secs(6)), Some(0.5));
        assert_eq!(samples.cores("other", at(20), Duration::ZERO), None);
        samples.retain(|uid| uid == "other");
        assert_eq!(samples.cores("u", at(30), Duration::from_secs(7)), None);
    }

    #[test]
    fn old_samples_are_dropped() {
        let samples = Samples::default();
        for second in 0..20_000 {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            samples.cores(&second.to_string(), time, Duration::from_secs(1));
        }
        let last = samples.last.lock().unwrap();
        assert!(last.samples.len() <= 2 * 3601, "{}", last.samples.len());
        assert!(last.samples.contains_key("19999") && last.samples.contains_key("17000"));
    }
}
