//! The options of the operations, and what they come to.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{ContainerId, Error, Exit, LogCursor, PullPolicy, Result};

macro_rules! setters {
    ($type:ident { $($(#[$doc:meta])* $field:ident: $ty:ty = $value:expr;)* }) => {
        impl $type {
            $($(#[$doc])*
            #[must_use]
            pub fn $field(mut self, $field: $ty) -> Self {
                self.$field = $value;
                self
            })*
        }
    };
}

/// How to pull.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullOptions {
    /// When to pull.
    pub policy: PullPolicy,
}

setters!(PullOptions {
    /// Pulls by this policy.
    policy: PullPolicy = policy;
});

/// Labels that a container must have, all of them.
pub type LabelFilter = BTreeMap<String, Option<String>>;

/// Which containers to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListOptions {
    /// Labels that they must have: with this value, or with any for `None`.
    pub labels: LabelFilter,
}

impl ListOptions {
    /// Only containers with this label and value.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), Some(value.into()));
        self
    }

    /// Only containers with this label, whatever its value.
    #[must_use]
    pub fn has_label(mut self, key: impl Into<String>) -> Self {
        self.labels.insert(key.into(), None);
        self
    }
}

/// Whether a log reader goes on when it has reached the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// It ends where the log ends now.
    #[default]
    No,
    /// It goes on until the container has ended and its last byte was given.
    Yes,
}

/// What to read of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogOptions {
    /// Only records of this time or later, to the nanosecond.
    pub since: Option<SystemTime>,
    /// Only what comes after this place. It may not be combined with `since` or `tail`. The reader
    /// ends with [`Lost`](crate::ErrorKind::Lost) when the log goes on after the place and the engine
    /// has thrown away the record before it, so that there may have been others. A cursor counts
    /// records: `max_line` has to be what it was.
    pub after: Option<LogCursor>,
    /// Only the last so many of the records that are there when the reader is opened.
    pub tail: Option<u64>,
    /// Whether to go on at the end.
    pub follow: Follow,
    /// The longest line, in bytes, that is given in one piece. 1 MiB. Longer ones come in pieces
    /// marked [`continues`](crate::LogRecord). A reader holds at most a few times as much.
    pub max_line: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { since: None, after: None, tail: None, follow: Follow::No, max_line: 1 << 20 }
    }
}

setters!(LogOptions {
    /// Only records of this time or later.
    since: SystemTime = Some(since);
    /// Only what comes after this place.
    after: LogCursor = Some(after);
    /// Only the last so many records.
    tail: u64 = Some(tail);
    /// Whether to go on at the end.
    follow: Follow = follow;
    /// The longest line that is given in one piece, in bytes.
    max_line: usize = max_line;
});

impl LogOptions {
    /// Checks what does not depend on the engine.
    ///
    /// # Errors
    /// `InvalidArgument` naming `after` when it is combined with `since` or `tail`, or naming
    /// `max_line` when that is 0.
    pub fn check(&self) -> crate::Result<()> {
        if self.after.is_some() && (self.since.is_some() || self.tail.is_some()) {
            return Err(crate::Error::invalid("after", "cannot be combined with since or tail"));
        }
        if self.max_line == 0 {
            return Err(crate::Error::invalid("max_line", "must be at least 1"));
        }
        Ok(())
    }
}

/// How often to sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StatsOptions {
    /// The time between two samples. 1 s, and at least 10 ms. An engine that samples more rarely
    /// gives its own.
    pub interval: Duration,
}

impl Default for StatsOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

setters!(StatsOptions {
    /// The time between two samples.
    interval: Duration = interval;
});

impl StatsOptions {
    /// For a backend, before it asks the engine for anything.
    ///
    /// # Errors
    /// `InvalidArgument` naming `interval` when it is below 10 ms.
    pub fn check(&self) -> Result<()> {
        const SHORTEST: Duration = Duration::from_millis(10);
        if self.interval < SHORTEST {
            return Err(Error::invalid("interval", format!("must be at least {SHORTEST:?}")));
        }
        Ok(())
    }
}

/// How to stop.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StopOptions {
    /// How long the main process may take after the stop signal before it is killed. `None` means
    /// the grace of the create (10 s where that gave none). It is rounded up to
    /// [`stop_grace_unit`](crate::Limits). Zero kills at once. A grace other than the created one
    /// needs the capability `stop_grace_override`.
    pub grace: Option<Duration>,
}

setters!(StopOptions {
    /// How long the main process may take.
    grace: Duration = Some(grace);
});

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartOutcome {
    /// Its process was started by this call.
    Started,
    /// It was started before. It may have ended since: a container runs once.
    AlreadyStarted,
}

/// What a stop came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StopOutcome {
    /// It was running and has ended, and how.
    Stopped(Exit),
    /// It had ended before.
    AlreadyExited(Exit),
    /// It had not been started, and still is not.
    NotStarted,
}

/// How to copy into a container. Numeric owners and modes of the tar stream are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopyInOptions {}

/// How to copy out of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopyOutOptions {}

/// Which events to give.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventsOptions {
    /// Events from this time on, as far back as the engine remembers. `None` means from now on.
    /// It takes the capability `events_since`.
    pub since: Option<SystemTime>,
    /// Labels that the container must have, as in [`ListOptions`].
    pub labels: LabelFilter,
}

setters!(EventsOptions {
    /// Events from this time on.
    since: SystemTime = Some(since);
    /// Labels that the container must have.
    labels: LabelFilter = labels;
});

/// What to reap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReapOptions {
    /// Only what was created at least so long ago, by the caller's clock, or by the engine's where
    /// a container does not say it. Zero reaps all. What a create on the CRI makes on the host
    /// before its sandbox stays until the deadline of a create is over.
    pub older_than: Duration,
    /// Labels that the container must have, as in [`ListOptions`].
    pub labels: LabelFilter,
}

setters!(ReapOptions {
    /// Only what was created at least so long ago.
    older_than: Duration = older_than;
    /// Labels that the container must have.
    labels: LabelFilter = labels;
});

/// What a reap removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReapReport {
    /// The containers that are gone.
    pub removed: Vec<ContainerId>,
    /// Other things that are gone, in words: sandboxes without a container, Secrets.
    pub others: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<(ContainerId, String)>,
}

/// The default grace of a stop: 10 s, as Docker's `stop` has it.
pub(crate) const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
