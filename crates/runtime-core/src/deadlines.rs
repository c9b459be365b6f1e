//! How long the operations may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest time that is waited for anything. Any longer time is this one.
///
/// A later point in time may not exist: adding [`Duration::MAX`] to the present panics.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Returns a duration that can be added to any present: ten years if it is longer.
#[must_use]
pub fn bounded(duration: Duration) -> Duration {
    duration.min(LONGEST_WAIT)
}

/// The deadline of each kind of operation. When one passes, the operation fails with
/// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) and what it had begun is undone.
///
/// [`wait`](crate::Container::wait), followed logs and events have none: they end when the
/// container does, or when their caller drops them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Deadlines {
    /// Opening a connection and asking who is there. 10 s.
    pub connect: Duration,
    /// One question that the engine answers from what it knows: info, list, health, the open
    /// of a stream. 30 s.
    pub query: Duration,
    /// Creating a container whose image is there. 2 min.
    pub create: Duration,
    /// Starting a container. 2 min.
    pub start: Duration,
    /// What a stop may take beyond its grace period. 30 s.
    pub stop_margin: Duration,
    /// Removing a container. 1 min.
    pub remove: Duration,
    /// The longest silence during a pull or a copy, and on Docker while a log is read that is not
    /// followed, or a login looked up. Not the time of the whole: a large image on a slow line is
    /// no error. 2 min.
    pub pull_inactivity: Duration,
    /// A whole pull, also that of a create, where the engine reports no progress, so that a silence
    /// cannot be seen. That is the CRI. 2 h: a large image on a slow line is no error.
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
    /// Returns these deadlines with each longer than ten years cut to that. Backends use no others.
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
