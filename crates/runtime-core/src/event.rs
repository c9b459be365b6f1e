//! Events of containers.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{ContainerId, Exit};

/// One event of one container of the caller's scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Time of the event, by the engine's clock.
    pub time: SystemTime,
    /// Id of the container.
    pub container: ContainerId,
    /// Name of the container.
    pub name: String,
    /// Kind of the event.
    pub kind: EventKind,
}

impl Event {
    /// Creates an event.
    #[must_use]
    pub fn new(
        time: SystemTime,
        container: ContainerId,
        name: impl Into<String>,
        kind: EventKind,
    ) -> Self {
        Self { time, container, name: name.into(), kind }
    }
}

/// Kind of an [`Event`]. The events of one container arrive in this order, each at most once,
/// except `Oom`, which is repeated for each OOM report of the engine. If the engine reports none
/// and the kernel log shows that the container ended
/// [`OutOfMemory`](crate::ExitReason::OutOfMemory), `Oom` is sent once, together with the exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The container was created.
    Created,
    /// The main process was started.
    Started,
    /// A process in the container was killed because of memory shortage.
    Oom,
    /// The container ended with this exit.
    Exited(Exit),
    /// The container was removed.
    Removed,
}
