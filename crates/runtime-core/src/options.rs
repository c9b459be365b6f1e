//! Options and results of the operations.

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

/// Options for [`Runtime::pull_image`](crate::Runtime::pull_image).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullOptions {
    /// Pull policy.
    pub policy: PullPolicy,
}

setters!(PullOptions {
    /// Sets the pull policy.
    policy: PullPolicy = policy;
});

/// Labels that a container must have: with this value, or with any value for `None`. All entries
/// must match.
pub type LabelFilter = BTreeMap<String, Option<String>>;

/// Options for [`Runtime::list_containers`](crate::Runtime::list_containers).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListOptions {
    /// Labels that a listed container must have.
    pub labels: LabelFilter,
}

impl ListOptions {
    /// Requires this label with this value.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), Some(value.into()));
        self
    }

    /// Requires this label with any value.
    #[must_use]
    pub fn has_label(mut self, key: impl Into<String>) -> Self {
        self.labels.insert(key.into(), None);
        self
    }
}

/// Behaviour of a log reader at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// The reader ends at the current end of the log.
    #[default]
    No,
    /// The reader continues until the container has ended and its last byte was returned.
    Yes,
}

/// Options for [`Container::logs`](crate::Container::logs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogOptions {
    /// Returns only records with this time or later, at nanosecond resolution.
    pub since: Option<SystemTime>,
    /// Returns only records after this cursor. Cannot be combined with `since` or `tail`, and
    /// requires the `max_line` of the reader that returned the cursor, because a cursor counts
    /// records.
    ///
    /// The reader ends with [`Lost`](crate::ErrorKind::Lost) if the engine has discarded the record
    /// before the cursor while the log continues after it, because further records may have been
    /// discarded.
    pub after: Option<LogCursor>,
    /// Returns only this number of the last records, counted when the reader is opened.
    pub tail: Option<u64>,
    /// Behaviour at the end of the log.
    pub follow: Follow,
    /// Maximum size of a record in bytes. The default is 1 MiB. Longer lines are returned in pieces
    /// marked [`continues`](crate::LogRecord). A reader buffers at most a small multiple of this
    /// size.
    pub max_line: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { since: None, after: None, tail: None, follow: Follow::No, max_line: 1 << 20 }
    }
}

setters!(LogOptions {
    /// Returns only records with this time or later.
    since: SystemTime = Some(since);
    /// Returns only records after this cursor.
    after: LogCursor = Some(after);
    /// Returns only this number of the last records.
    tail: u64 = Some(tail);
    /// Sets the behaviour at the end of the log.
    follow: Follow = follow;
    /// Sets the maximum size of a record in bytes.
    max_line: usize = max_line;
});

impl LogOptions {
    /// Checks the options that do not depend on the engine.
    ///
    /// # Errors
    /// `InvalidArgument` naming `after` if it is combined with `since` or `tail`, or naming
    /// `max_line` if it is 0.
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

/// Options for [`Container::stats`](crate::Container::stats).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StatsOptions {
    /// Time between two samples. The default is 1 s, the minimum 10 ms. An engine with a longer
    /// interval uses its own.
    pub interval: Duration,
}

impl Default for StatsOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

setters!(StatsOptions {
    /// Sets the time between two samples.
    interval: Duration = interval;
});

impl StatsOptions {
    /// Checks the options. For backends, before the first request.
    ///
    /// # Errors
    /// `InvalidArgument` naming `interval` if it is less than 10 ms.
    pub fn check(&self) -> Result<()> {
        const INTERVAL_MIN: Duration = Duration::from_millis(10);
        if self.interval < INTERVAL_MIN {
            return Err(Error::invalid("interval", format!("must be at least {INTERVAL_MIN:?}")));
        }
        Ok(())
    }
}

/// Options for [`Container::stop`](crate::Container::stop).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StopOptions {
    /// Grace period: time between the stop signal and the kill. `None` means the grace period of
    /// the spec (10 s if the spec has none). The value is rounded up to
    /// [`stop_grace_unit`](crate::Limits). Zero kills at once. A grace period other than that of
    /// the spec requires the capability `stop_grace_override`.
    pub grace: Option<Duration>,
}

setters!(StopOptions {
    /// Sets the grace period.
    grace: Duration = Some(grace);
});

/// Result of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartOutcome {
    /// This call started the main process.
    Started,
    /// The main process was started before, and may have ended since: a container runs once.
    AlreadyStarted,
}

/// Result of a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StopOutcome {
    /// The container was running and has ended with this exit.
    Stopped(Exit),
    /// The container had already ended with this exit.
    AlreadyExited(Exit),
    /// The container had not been started. Its state is unchanged.
    NotStarted,
}

/// Options for [`Container::copy_in`](crate::Container::copy_in). Numeric owners and modes of the
/// tar stream are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopyInOptions {}

/// Options for [`Container::copy_out`](crate::Container::copy_out).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopyOutOptions {}

/// Options for [`Runtime::events`](crate::Runtime::events).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventsOptions {
    /// Returns events with this time or later, as far back as the engine's history reaches
    /// (capability `events_since`). `None` means new events only.
    pub since: Option<SystemTime>,
    /// Labels that the container of an event must have.
    pub labels: LabelFilter,
}

setters!(EventsOptions {
    /// Returns events with this time or later.
    since: SystemTime = Some(since);
    /// Sets the labels that the container of an event must have.
    labels: LabelFilter = labels;
});

/// Options for [`Runtime::reap`](crate::Runtime::reap).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReapOptions {
    /// Minimum age, by the creation time on the caller's clock, or on the engine's clock if a
    /// container does not record the former. Zero reaps all. On the CRI, files that a create wrote
    /// on the host before its sandbox existed are kept until the deadline of a create has passed.
    pub older_than: Duration,
    /// Labels that a reaped container must have.
    pub labels: LabelFilter,
}

setters!(ReapOptions {
    /// Sets the minimum age.
    older_than: Duration = older_than;
    /// Sets the labels that a reaped container must have.
    labels: LabelFilter = labels;
});

/// Result of a reap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReapReport {
    /// Containers that were removed.
    pub removed: Vec<ContainerId>,
    /// Descriptions of other resources that were removed: sandboxes without a container, Secrets.
    pub others: Vec<String>,
    /// Containers that could not be removed, with the reason.
    pub failed: Vec<(ContainerId, String)>,
}

/// Default grace period of a stop: 10 s, as for `docker stop`.
pub(crate) const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
