//! Deadlines of the operations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum duration of any wait, because adding [`Duration::MAX`] to the current time panics.
const WAIT_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Limits a duration to ten years, so that it can be added to the current time.
#[must_use]
pub fn bounded(duration: Duration) -> Duration {
    duration.min(WAIT_MAX)
}

/// Deadlines of the operations. After its deadline an operation fails with
/// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), and its partial results are undone.
///
/// [`wait`](crate::Container::wait), followed logs and events have no deadline: they end with the
/// container, or when the caller drops them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Deadlines {
    /// Opening a connection and identifying the engine. Default: 10 s.
    pub connect: Duration,
    /// One request that the engine answers from its state: info, list, health, opening a stream.
    /// Default: 30 s.
    pub query: Duration,
    /// Creating a container whose image is present. Default: 2 min.
    pub create: Duration,
    /// Starting a container. Default: 2 min.
    pub start: Duration,
    /// Duration of a stop beyond its grace period. Default: 30 s.
    pub stop_margin: Duration,
    /// Removing a container. Default: 1 min.
    pub remove: Duration,
    /// Inactivity during a pull or a copy; on Docker also while a log is read without following,
    /// and while credentials are looked up. The total duration is not limited, because a large
    /// image on a slow connection is not an error. Default: 2 min.
    pub pull_inactivity: Duration,
    /// A whole pull, including the pull of a create, on engines that report no progress (CRI), so
    /// that inactivity cannot be detected. Default: 2 h, because a large image on a slow connection
    /// is not an error.
    pub pull_without_progress: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            query: Duration::from_secs(30),
            create: Duration::from_secs(120),
            start: Duration::from_secs(120),
            stop_margin: Duration::from_secs(30),
            remove: Duration::from_secs(60),
            pull_inactivity: Duration::from_secs(120),
            pull_without_progress: Duration::from_secs(2 * 60 * 60),
        }
    }
}

impl Deadlines {
    /// Limits each deadline to ten years. Backends use only limited deadlines.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self {
            connect,
            query,
            create,
            start,
            stop_margin,
            remove,
            pull_inactivity,
            pull_without_progress,
        } = self;
        Self {
            connect: bounded(connect),
            query: bounded(query),
            create: bounded(create),
            start: bounded(start),
            stop_margin: bounded(stop_margin),
            remove: bounded(remove),
            pull_inactivity: bounded(pull_inactivity),
            pull_without_progress: bounded(pull_without_progress),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    #[test]
    fn bounded_deadlines_can_be_added_to_the_present() {
        let max = serde_json::json!({
            "connect": Duration::MAX, "query": Duration::MAX, "create": Duration::MAX,
            "start": Duration::MAX, "stop_margin": Duration::MAX, "remove": Duration::MAX,
            "pull_inactivity": Duration::MAX, "pull_without_progress": Duration::MAX,
        });
        let longest: Deadlines = serde_json::from_value(max).unwrap();
        let all = serde_json::to_value(longest.bounded()).unwrap();
        for (name, value) in all.as_object().unwrap() {
            let duration: Duration = serde_json::from_value(value.clone()).unwrap();
            assert!(Instant::now().checked_add(duration * 2).is_some(), "{name}");
            assert!(SystemTime::now().checked_add(duration * 2).is_some(), "{name}");
        }
        let default = Deadlines::default();
        assert_eq!(default.clone().bounded(), default);
    }
}
