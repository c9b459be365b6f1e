//! What happens to containers.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{ContainerId, Exit};

/// One thing that happened to one container of the caller's scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// When, by the engine's clock.
    pub time: SystemTime,
    /// To which container.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// An event.
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

/// What happened. For one container they come in this order, each at most once, but `Oom`,
/// which comes as often as the engine says it. Where the engine does not and the container ended
/// [`OutOfMemory`](crate::ExitReason::OutOfMemory) by the word of the kernel, it comes once, with
/// the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// It was created.
    Created,
    /// Its main process was started.
    Started,
    /// A process in it was killed for want of memory.
    Oom,
    /// It ended, and how.
    Exited(Exit),
    /// It was removed.
    Removed,
}
