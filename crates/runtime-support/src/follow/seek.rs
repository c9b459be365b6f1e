//! Leaves out the records before those that were asked for.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::{LogCursor, LogRecord};

use super::SKEW;

/// The most that is held back while the record of a cursor is looked for.
const MOST_HELD: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Seek {
    /// Every record is wanted.
    All,
    /// Those of this time or later are.
    Since(SystemTime),
    /// Those after this place are.
    After(After),
}

#[derive(Debug)]
pub(super) struct After {
    time: SystemTime,
    /// How many records of that time are still to be passed over.
    left: u64,
    /// Whether one of them shows that nothing after them is gone.
    one_tells: bool,
    /// Whether one was seen.
    seen: bool,
    /// Later records that came before them. They have been given if the place is found behind
    /// them, and not if it is no longer in the log.
    held: VecDeque<LogRecord>,
    bytes: usize,
}

/// What becomes of a record.
#[derive(Debug)]
pub(super) enum Passed {
    Wanted(LogRecord),
    /// It is not wanted, or held back.
    Over,
    /// It is held back, and so far behind the place that this will not come.
    TooFar,
}

impl Seek {
    /// Records of `time` or later, where `unit` is the unit of the records' times.
    pub(super) fn since(time: SystemTime, unit: Duration) -> Self {
        Self::Since(floor(time, unit))
    }

    /// Records after this place, where `unit` is the unit of the records' times.
    ///
    /// With a fine one, records of the same time are the pieces of one line, whose number is
    /// another with another [`max_line`](runtime_core::LogOptions::max_line). With a coarse one
    /// they are lines that are thrown away each for itself.
    pub(super) fn after(cursor: LogCursor, unit: Duration) -> Self {
        if cursor.records == 0 {
            return Self::Since(cursor.time);
        }
        let LogCursor { time, records: left } = cursor;
        Self::After(After {
            time,
            left,
            one_tells: unit <= Duration::from_nanos(1),
            seen: false,
            held: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Whether the record is wanted.
    pub(super) fn pass(&mut self, record: LogRecord) -> Passed {
        match self {
            Self::All => Passed::Wanted(record),
            Self::Since(since) if record.time >= *since => Passed::Wanted(record),
            Self::Since(_) => Passed::Over,
            Self::After(after) => {
                if record.time == after.time {
                    after.seen = true;
                    after.left -= 1;
                    if after.left == 0 {
                        *self = Self::All;
                    }
                } else if record.time > after.time {
                    let limit = after.time.checked_add(SKEW);
                    let beyond = limit.is_some_and(|limit| record.time > limit);
                    // A record costs something even when it is empty.
                    after.bytes += record.bytes.len() + size_of::<LogRecord>();
                    after.held.push_back(record);
                    if beyond || after.bytes > MOST_HELD {
                        return Passed::TooFar;
                    }
                }
                Passed::Over
            }
        }
    }

    /// Whether records are held back.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self, Self::After(after) if !after.held.is_empty())
    }

    /// The time of the place, if the log goes on after it and does not have it any more.
    pub(super) fn gone(&self) -> Option<SystemTime> {
        match self {
            Self::After(after) if after.seen && after.one_tells => None,
            Self::After(after) => (!after.held.is_empty()).then_some(after.time),
            _ => None,
        }
    }

    /// Looks for the place no further: what was held is wanted.
    pub(super) fn give_up(&mut self) -> VecDeque<LogRecord> {
        match std::mem::replace(self, Self::All) {
            Self::After(after) => after.held,
            other => {
                *self = other;
                VecDeque::new()
            }
        }
    }
}

/// The last whole `unit` at or before `time`.
fn floor(time: SystemTime, unit: Duration) -> SystemTime {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else { return time };
    let rest = since.as_nanos() % unit.as_nanos().max(1);
    time - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}
