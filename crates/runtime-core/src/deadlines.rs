//! How long the operations may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
