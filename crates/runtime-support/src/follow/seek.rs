//! Leaves out the records before those that were asked for.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::{LogCursor, LogRecord};

use super::SKEW;
use super::cursor::{CursorSearch, Given};

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
    place: CursorSearch,
    /// Whether one record of the time of the place shows that nothing after it is gone.
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
        if cursor.records == 0 && cursor.unfinished.is_none() {
            return Self::Since(cursor.time);
        }
        Self::After(After {
            place: CursorSearch::new(cursor),
            one_tells: unit <= Duration::from_nanos(1),
            seen: false,
            held: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Whether the record is wanted.
    pub(super) fn pass(&mut self, mut record: LogRecord) -> Passed {
        match self {
            Self::All => Passed::Wanted(record),
            Self::Since(since) if record.time >= *since => Passed::Wanted(record),
            Self::Since(_) => Passed::Over,
            Self::After(after) => {
                after.seen |= record.time == after.place.time();
                match after.place.look(&mut record) {
                    // What is held stands before the place if that is found.
                    Given::No => {
                        if after.place.is_found() {
                            after.held.clear();
                        }
                        return Passed::Wanted(record);
                    }
                    Given::Yes if after.place.is_found() => after.held.clear(),
                    Given::Yes => {}
                    Given::Unclear => {
                        let limit = after.place.time().checked_add(SKEW);
                        let beyond = limit.is_some_and(|limit| record.time > limit);
                        // A record costs something even when it is empty.
                        after.bytes += record.bytes.len() + size_of::<LogRecord>();
                        after.held.push_back(record);
                        if beyond || after.bytes > MOST_HELD {
                            return Passed::TooFar;
                        }
                    }
                }
                Passed::Over
            }
        }
    }

    /// Whether a place is looked for at which no line was overtaken. Until it is found, the records
    /// have to come in the order in which their lines began.
    pub(super) fn needs_order(&self) -> bool {
        matches!(self, Self::After(after) if after.place.needs_order())
    }

    /// Whether records are held back.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self, Self::After(after) if !after.held.is_empty())
    }

    /// The time of the place, if the log goes on after it and does not have it any more.
    pub(super) fn gone(&self) -> Option<SystemTime> {
        match self {
            Self::After(after) if after.seen && after.one_tells => None,
            Self::After(after) => (!after.held.is_empty()).then_some(after.place.time()),
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
