//! Skips the records before the start of a read.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::{LogCursor, LogRecord};

use super::TIME_SKEW_MAX;
use super::cursor::{CursorSearch, Given};

/// Maximum number of bytes that are held back during the search for the record of a cursor.
const HELD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Seek {
    /// Every record is wanted.
    All,
    /// Records with this time or later are wanted.
    Since(SystemTime),
    /// Records after this position are wanted.
    After(After),
}

#[derive(Debug)]
pub(super) struct After {
    search: CursorSearch,
    /// `true` if one record with the time of the position proves that no later record is missing.
    one_is_proof: bool,
    /// `true` if such a record was seen.
    seen: bool,
    /// Later records that preceded the position. They were returned before if the position is found
    /// after them, and were not if the position is no longer in the log.
    held: VecDeque<LogRecord>,
    bytes: usize,
}

/// Result of the check of a record.
#[derive(Debug)]
pub(super) enum SeekResult {
    Wanted(LogRecord),
    /// The record is not wanted, or is held back.
    Skipped,
    /// The record is held back, and is so far beyond the position that the position is no longer in
    /// the log.
    BeyondPosition,
}

impl Seek {
    /// Selects records with `time` or later. `unit` is the resolution of the records' times.
    pub(super) fn since(time: SystemTime, unit: Duration) -> Self {
        Self::Since(floor_to(time, unit))
    }

    /// Selects records after `cursor`. `unit` is the resolution of the records' times.
    ///
    /// With a fine resolution, records with the same time are the pieces of one line, whose number
    /// depends on [`max_line`](runtime_core::LogOptions::max_line). With a coarse resolution they
    /// are lines that the engine may discard individually.
    pub(super) fn after(cursor: LogCursor, unit: Duration) -> Self {
        if cursor.records == 0 && cursor.unfinished.is_none() {
            return Self::Since(cursor.time);
        }
        Self::After(After {
            search: CursorSearch::new(cursor),
            one_is_proof: unit <= Duration::from_nanos(1),
            seen: false,
            held: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Checks if the record is wanted.
    pub(super) fn pass(&mut self, mut record: LogRecord) -> SeekResult {
        match self {
            Self::All => SeekResult::Wanted(record),
            Self::Since(since) if record.time >= *since => SeekResult::Wanted(record),
            Self::Since(_) => SeekResult::Skipped,
            Self::After(after) => {
                after.seen |= record.time == after.search.time();
                match after.search.look(&mut record) {
                    // If the position is found, the held records precede it.
                    Given::No => {
                        if after.search.is_found() {
                            after.held.clear();
                        }
                        return SeekResult::Wanted(record);
                    }
                    Given::Yes if after.search.is_found() => after.held.clear(),
                    Given::Yes => {}
                    Given::Unclear => {
                        let limit = after.search.time().checked_add(TIME_SKEW_MAX);
                        let beyond = limit.is_some_and(|limit| record.time > limit);
                        // An empty record has a size, too.
                        after.bytes += record.bytes.len() + size_of::<LogRecord>();
                        after.held.push_back(record);
                        if beyond || after.bytes > HELD_BYTES_MAX {
                            return SeekResult::BeyondPosition;
                        }
                    }
                }
                SeekResult::Skipped
            }
        }
    }

    /// Returns `true` while the search runs for a position at which no line was overtaken. During
    /// that search, records have to be in the order in which their lines began.
    pub(super) fn needs_order(&self) -> bool {
        matches!(self, Self::After(after) if after.search.needs_order())
    }

    /// Returns `true` if records are held back.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self, Self::After(after) if !after.held.is_empty())
    }

    /// Returns the time of the position if the log continues after it but no longer contains it.
    pub(super) fn missing_position(&self) -> Option<SystemTime> {
        match self {
            Self::After(after) if after.seen && after.one_is_proof => None,
            Self::After(after) => (!after.held.is_empty()).then_some(after.search.time()),
            _ => None,
        }
    }

    /// Ends the search and returns the held records, which are wanted.
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

/// Rounds `time` down to a multiple of `unit`.
fn floor_to(time: SystemTime, unit: Duration) -> SystemTime {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else { return time };
    let rest = since.as_nanos() % unit.as_nanos().max(1);
    time - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}
