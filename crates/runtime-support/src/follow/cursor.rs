//! The search for the place of a cursor in a log that is read again.

use std::time::SystemTime;

use runtime_core::{LogCursor, LogRecord, LogStream, UnfinishedLine};

/// Decides which records of a log were returned before a [`LogCursor`] was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorSearch {
    time: SystemTime,
    /// How many records of that time are still to be passed over.
    left: u64,
    /// How many records of that time were passed over, by stream.
    counted: [u64; 4],
    /// The line that was overtaken when the cursor was taken, and how many records of its time are
    /// still to be passed over.
    unfinished: Option<UnfinishedLine>,
    /// The stream of a line that began before the place and is finished only after it in this
    /// reading. It was returned as a whole.
    rest: Option<LogStream>,
}

/// Whether a record was returned before the cursor was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// It is later than the place, which was not found yet. It was returned if the place is found
    /// behind it.
    Unclear,
}

impl CursorSearch {
    /// A search for this place.
    #[must_use]
    pub const fn new(cursor: LogCursor) -> Self {
        let LogCursor { time, records, unfinished } = cursor;
        Self { time, left: records, counted: [0; 4], unfinished, rest: None }
    }

    /// The time of the last record before the place.
    #[must_use]
    pub const fn time(&self) -> SystemTime {
        self.time
    }

    /// The time from which on the log has to be read to find the place of this cursor.
    #[must_use]
    pub fn begin(cursor: LogCursor) -> SystemTime {
        let line = cursor.unfinished.map(|line| line.time);
        line.map_or(cursor.time, |time| time.min(cursor.time))
    }

    /// Whether the place was not found yet, and no line was overtaken there. Until it is found, the
    /// records have to come in the order in which their lines began.
    #[must_use]
    pub const fn needs_order(&self) -> bool {
        self.left > 0 && self.unfinished.is_none()
    }

    /// Whether the last record before the place was found.
    #[must_use]
    pub const fn is_found(&self) -> bool {
        self.left == 0
    }

    /// Looks at the next record of the log, in the order of a
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
            // The next cursor must not name a line that was returned.
            if record.unfinished.is_some_and(|line| Some(line.stream) == self.rest) {
                record.unfinished = None;
            }
            return Given::No;
        }
        if let Some(line) = &mut record.unfinished
            && line.time == self.time
            && (record.time != self.time || self.left == 1)
        {
            // It overtakes the line of the place, so it comes after the place.
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
