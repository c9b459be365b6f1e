//! Measurements of containers and nodes.

pub(crate) mod cadvisor;
pub(crate) mod summary;

use std::time::{Duration, SystemTime};

/// Measurement of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measurement {
    pub(crate) time: Option<SystemTime>,
    /// CPU time since the start.
    pub(crate) cpu: Option<Duration>,
    /// CPUs in use, if the source reports them.
    pub(crate) cores: Option<f64>,
    pub(crate) memory: Option<u64>,
    pub(crate) received: Option<u64>,
    pub(crate) sent: Option<u64>,
    pub(crate) block_read: Option<u64>,
    pub(crate) block_written: Option<u64>,
}

impl Measurement {
    /// Returns whether the measurement is from before the start: a kubelet also measures a cgroup
    /// without a process. A process has used some CPU time, though its memory can be zero, because
    /// the kubelet subtracts reclaimable memory.
    pub(crate) fn is_before_the_start(&self) -> bool {
        self.cpu == Some(Duration::ZERO) && self.memory == Some(0)
    }
}

/// Capacity of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct NodeCapacity {
    pub(crate) cores: Option<f64>,
    pub(crate) memory: Option<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs less precision")]
pub(crate) fn percent(used: Option<u64>, most: Option<u64>) -> Option<f64> {
    let most = most.filter(|most| *most > 0)?;
    Some(used? as f64 / most as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurement_of_empty_cgroup_is_before_start() {
        let measured = |cpu, memory| {
            let cpu = Some(Duration::from_nanos(cpu));
            Measurement { cpu, memory: Some(memory), ..Measurement::default() }
                .is_before_the_start()
        };
        assert!(measured(0, 0));
        assert!(!measured(1, 0));
        assert!(!measured(0, 4096));
    }

    #[test]
    fn percent_without_limit_or_usage_is_none() {
        assert_eq!(percent(Some(1), Some(4)), Some(25.0));
        assert_eq!(percent(Some(1), Some(0)), None);
        assert_eq!(percent(None, Some(4)), None);
        assert_eq!(percent(Some(1), None), None);
    }
}
