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
    /// Later records that came before them. They have been given if the place is found behind
    /// them, and not if it is no longer in the log.
    held: VecDeque<LogRecord>,
    bytes: usize,
}

impl Seek {
    /// Records of `time` or later, where `unit` is the unit of the records' times.
    pub(super) fn since(time: SystemTime, unit: Duration) -> Self {
        Self::Since(floor(time, unit))
    }

    pub(super) fn after(cursor: LogCursor) -> Self {
        if cursor.records == 0 {
            return Self::Since(cursor.time);
        }
        let LogCursor { time, records: left } = cursor;
        Self::After(After { time, left, held: VecDeque::new(), bytes: 0 })
    }

    /// Gives the record back if it is wanted. Such as turn out to be wanted later go to `ready`,
    /// and the record that settles it with them.
    pub(super) fn pass(
        &mut self,
        record: LogRecord,
        ready: &mut VecDeque<LogRecord>,
    ) -> Option<LogRecord> {
        match self {
            Self::All => Some(record),
            Self::Since(since) => (record.time >= *since).then_some(record),
            Self::After(after) => {
                if record.time == after.time {
                    after.left -= 1;
                    if after.left == 0 {
                        *self = Self::All;
                    }
                } else if record.time > after.time {
                    let beyond = record.time > after.time + SKEW;
                    // A record costs something even when it is empty.
                    after.bytes += record.bytes.len() + size_of::<LogRecord>();
                    after.held.push_back(record);
                    if beyond || after.bytes > MOST_HELD {
                        self.give_up(ready);
                    }
                }
                None
            }
        }
    }

    /// Whether records are held back.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self, Self::After(after) if !after.held.is_empty())
    }

    /// Says that the place is not in the log: what is held goes to `ready`.
    pub(super) fn give_up(&mut self, ready: &mut VecDeque<LogRecord>) {
        if let Self::After(after) = self {
            ready.append(&mut after.held);
            *self = Self::All;
        }
    }
}

/// The last whole `unit` at or before `time`.
fn floor(time: SystemTime, unit: Duration) -> SystemTime {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else { return time };
    let rest = since.as_nanos() % unit.as_nanos().max(1);
    time - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}
