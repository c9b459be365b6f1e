//! Search for the position of a cursor in a log.

use std::time::SystemTime;

use runtime_core::{LogCursor, LogRecord, LogStream, UnfinishedLine};

/// Decides which records of a log were returned before a [`LogCursor`] was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorSearch {
    time: SystemTime,
    /// Number of records with that time that remain to be skipped.
    left: u64,
    /// Number of records with that time that were skipped, by stream.
    counted: [u64; 4],
    /// The line that was overtaken when the cursor was created, with the number of its records that
    /// remain to be skipped.
    unfinished: Option<UnfinishedLine>,
    /// Stream of a line that began before the position and, in this read, ends after it. The whole
    /// line was already returned.
    rest: Option<LogStream>,
}

/// Relation of a record to the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The record was returned before the cursor was created.
    Yes,
    /// The record was not returned before.
    No,
    /// The record is later than the position, which has not been found yet. The record was returned
    /// before if the position is found after it.
    Unclear,
}

impl CursorSearch {
    /// Creates a search for a cursor.
    #[must_use]
    pub const fn new(cursor: LogCursor) -> Self {
        let LogCursor { time, records, unfinished } = cursor;
        Self { time, left: records, counted: [0; 4], unfinished, rest: None }
    }

    /// Returns the time of the last record before the cursor.
    #[must_use]
    pub const fn time(&self) -> SystemTime {
        self.time
    }

    /// Returns the time from which the log has to be read to find the cursor.
    #[must_use]
    pub fn begin(cursor: LogCursor) -> SystemTime {
        let line = cursor.unfinished.map(|line| line.time);
        line.map_or(cursor.time, |time| time.min(cursor.time))
    }

    /// Returns `true` until the position is found, if no line was overtaken at the cursor. During
    /// that time, records have to be in the order in which their lines began.
    #[must_use]
    pub const fn needs_order(&self) -> bool {
        self.left > 0 && self.unfinished.is_none()
    }

    /// Returns `true` if the last record before the cursor was found.
    #[must_use]
    pub const fn is_found(&self) -> bool {
        self.left == 0
    }

    /// Checks the next record of the log, in the order of a
    /// [`LineJoiner`](runtime_core::LineJoiner).
    pub fn look(&mut self, record: &mut LogRecord) -> Given {
        if let Some(line) = &mut self.unfinished
            && line.stream == record.stream
        {
            if record.time < line.time {
                return Given::Yes;
            }
            if record.time == line.time && line.records > 0 {
                line.records -= 1;
                return Given::Yes;
            }
            line.records = 0;
            return Given::No;
        }
        if self.rest == Some(record.stream) {
            if !record.continues {
                self.rest = None;
            }
            return Given::Yes;
        }
        if self.left == 0 {
            // The next cursor must not name a line that was already returned.
            if record.unfinished.is_some_and(|line| Some(line.stream) == self.rest) {
                record.unfinished = None;
            }
            return Given::No;
        }
        if let Some(line) = &mut record.unfinished
            && line.time == self.time
            && (record.time != self.time || self.left == 1)
        {
            // The record overtakes the line of the cursor, so it is after the cursor.
            line.records = self.counted[line.stream as usize] + self.left;
            self.unfinished = Some(UnfinishedLine { records: self.left, ..*line });
            self.left = 0;
            return Given::No;
        }
        if record.time == self.time {
            self.left -= 1;
            self.counted[record.stream as usize] += 1;
            if self.left == 0 && self.unfinished.is_none() {
                self.rest = record.unfinished.map(|line| line.stream);
            }
            return Given::Yes;
        }
        if record.time > self.time { Given::Unclear } else { Given::Yes }
    }
}
