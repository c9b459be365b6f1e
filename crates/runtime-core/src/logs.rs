//! Log records, the place in a log, and the stream that gives them.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use futures_core::Stream;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::Result;

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The terminal, of a container that has one: it carries both.
    Console,
    /// The engine does not say (capability `logs_streams_apart` is false).
    Unknown,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Console => "console",
            Self::Unknown => "unknown",
        })
    }
}

/// One line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When the engine received the first byte of the line, to the nanosecond.
    pub time: SystemTime,
    /// Where it was written.
    pub stream: LogStream,
    /// The line with its line end, as it was written: bytes, not assumed to be UTF-8. The last
    /// line of a log has no line end if none was written.
    ///
    /// An engine without the capability `logs_exact_bytes` has put U+FFFD in place of each byte
    /// that was not UTF-8 when it stored the line. One without `logs_carriage_returns` has left a
    /// carriage return out that stood right before the line end.
    pub bytes: Bytes,
    /// True when the line was longer than [`LogOptions::max_line`](crate::LogOptions) and goes
    /// on in the next record of the same stream.
    pub continues: bool,
    /// A line of another stream that began before this one and is not finished: its record is
    /// returned later, although the order across streams is otherwise that in which lines began. A
    /// [`LogCursor`] needs it.
    #[serde(default)]
    pub unfinished: Option<UnfinishedLine>,
}

/// A line that began before others that were returned already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnfinishedLine {
    /// The stream of the line.
    pub stream: LogStream,
    /// The time of its records.
    pub time: SystemTime,
    /// The number of records of its stream with that time that were returned.
    pub records: u64,
}

/// A place in a log, good for going on from there in another process or after a crash.
///
/// It is the time of the last record that was given, and how many records of exactly that time
/// have been given, because an engine may stamp several lines alike. While a line of another stream
/// is overtaken, the place in that stream is stored beside it.
///
/// # Stored form
/// With serde, `unfinished` is left out of formats for people (such as JSON) while there is none, so
/// that versions without the field read the cursor; values of those versions are read as cursors
/// without an unfinished line. Other formats always store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct LogCursor {
    /// The time of the last record.
    pub time: SystemTime,
    /// How many records with that time were given. While a line is overtaken, those of the stream
    /// of that line are not counted.
    pub records: u64,
    /// The line that was overtaken by the last record, if it was not finished since.
    #[serde(default)]
    pub unfinished: Option<UnfinishedLine>,
}

impl LogCursor {
    /// The place after the first `records` records of a time.
    #[must_use]
    pub const fn new(time: SystemTime, records: u64) -> Self {
        Self { time, records, unfinished: None }
    }

    /// The place after `record`, when `before` was the place before it.
    #[must_use]
    pub fn advance(before: Option<Self>, record: &LogRecord) -> Self {
        let Some(before) = before else {
            return Self { unfinished: record.unfinished, ..Self::new(record.time, 1) };
        };
        if let Some(line) = before.unfinished
            && line.stream == record.stream
        {
            return before.advance_overtaken(line, record);
        }
        let mut cursor = match before.time == record.time {
            true => Self { records: before.records + 1, ..before },
            false => Self::new(record.time, 1),
        };
        if let (None, Some(line)) = (before.unfinished, record.unfinished)
            && line.time == before.time
            && line.time == record.time
        {
            cursor.records = cursor.records.saturating_sub(line.records);
        }
        cursor.unfinished = record.unfinished;
        cursor
    }

    /// The place after a record of the line that was overtaken.
    fn advance_overtaken(self, line: UnfinishedLine, record: &LogRecord) -> Self {
        let line = UnfinishedLine { records: line.records + 1, ..line };
        if record.continues {
            return Self { unfinished: Some(line), ..self };
        }
        // In the order in which lines began, the last record is still the one before this line's.
        let counted = if line.time == self.time { line.records } else { 0 };
        Self { records: self.records + counted, unfinished: None, ..self }
    }
}

impl Serialize for LogCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let stores_line = self.unfinished.is_some() || !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("LogCursor", 2 + usize::from(stores_line))?;
        fields.serialize_field("time", &self.time)?;
        fields.serialize_field("records", &self.records)?;
        match stores_line {
            true => fields.serialize_field("unfinished", &self.unfinished)?,
            false => fields.skip_field("unfinished")?,
        }
        fields.end()
    }
}

/// After so many records without a pause a reader lets the other futures of its task run.
const IN_A_ROW: u8 = 128;

/// The records of a container's log, in order.
///
/// A reader that always has a record lets the other futures of its task run from time to time, as
/// the streams of tokio do: who reads two logs in one task, with `join!` or `select!`, hears of both.
///
/// It ends after the last record, or after the first error. Dropping it closes its connection.
/// Without [`Follow::Yes`](crate::Follow) it ends where the log ends now; with it, when the
/// container has ended and its last byte was given, and never before: lost connections, engine
/// restarts and rotated files are gone over without a line lost or given twice. Where an
/// engine is told to keep only so much of a log, it may have thrown away the record after which a
/// reader goes on, and lines after that with it: then the reader ends with
/// [`Lost`](crate::ErrorKind::Lost), and [`LogOptions::since`](crate::LogOptions::since) reads what
/// is there still. A follower whose container is removed returns the lines that it could read, and
/// ends with [`NotFound`](crate::ErrorKind::NotFound); if another program removes the container, the
/// follower may have read the whole log before, and ends without an error.
pub struct LogReader {
    records: Option<Pin<Box<dyn Stream<Item = Result<LogRecord>> + Send>>>,
    cursor: Option<LogCursor>,
    /// Where the first record comes after, where that is no cursor that was asked for.
    left_out: Option<Arc<OnceLock<LogCursor>>>,
    /// How many records were given since it last had none.
    in_a_row: u8,
}

impl LogReader {
    /// Makes a reader of a backend's records. `from` is the cursor it was asked to go on from.
    #[must_use]
    pub fn new(
        records: impl Stream<Item = Result<LogRecord>> + Send + 'static,
        from: Option<LogCursor>,
    ) -> Self {
        Self { records: Some(Box::pin(records)), cursor: from, left_out: None, in_a_row: 0 }
    }

    /// For a backend whose records begin after others that it leaves out, as those of a
    /// [`tail`](crate::LogOptions::tail) do: the place after the last of those, which it says before
    /// it gives the first record. A cursor counts them where they have the time of the first.
    #[must_use]
    pub fn after_those_left_out(mut self, place: Arc<OnceLock<LogCursor>>) -> Self {
        self.left_out = Some(place);
        self
    }

    /// The place after the last record that was given: hand it to
    /// [`LogOptions::after`](crate::LogOptions::after) to go on from there. `None` before the
    /// first record.
    #[must_use]
    pub const fn cursor(&self) -> Option<LogCursor> {
        self.cursor
    }

    /// The bytes of the records that are left, without their times.
    #[must_use]
    pub fn into_raw(self) -> RawLogs {
        Box::pin(Untimed(self))
    }
}

impl Stream for LogReader {
    type Item = Result<LogRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.in_a_row == IN_A_ROW {
            self.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(records) = self.records.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(item) = records.as_mut().poll_next(cx) else {
            self.in_a_row = 0;
            return Poll::Pending;
        };
        self.in_a_row += 1;
        match &item {
            Some(Ok(record)) => {
                let left_out = self.left_out.take().and_then(|place| place.get().copied());
                let before = self.cursor.or(left_out);
                self.cursor = Some(LogCursor::advance(before, record));
            }
            // Dropping the inner stream here is what closes its connection.
            Some(Err(_)) | None => self.records = None,
        }
        Poll::Ready(item)
    }
}

/// Some bytes of a log, see [`Container::raw_logs`](crate::Container::raw_logs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawLog {
    /// Where they were written.
    pub stream: LogStream,
    /// The bytes as they were written, line ends included. They may begin and end within a line.
    pub bytes: Bytes,
}

/// A log without its times. It ends after the last byte, or after the first error. Dropping it
/// closes its connection.
pub type RawLogs = Pin<Box<dyn Stream<Item = Result<RawLog>> + Send>>;

struct Untimed(LogReader);

impl Stream for Untimed {
    type Item = Result<RawLog>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(item.map(|record| {
            record.map(|record| RawLog { stream: record.stream, bytes: record.bytes })
        }))
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("open", &self.records.is_some())
            .field("cursor", &self.cursor)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a record whenever it is asked.
    struct Endless(u64);

    impl Stream for Endless {
        type Item = Result<LogRecord>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0 += 1;
            Poll::Ready(Some(Ok(LogRecord {
                time: std::time::UNIX_EPOCH + std::time::Duration::from_nanos(self.0),
                stream: LogStream::Stdout,
                bytes: Bytes::new(),
                continues: false,
                unfinished: None,
            })))
        }
    }

    #[test]
    fn reader_that_always_has_a_record_lets_others_run() {
        let mut reader = Box::pin(LogReader::new(Endless(0), None));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut pauses, mut records) = (0, 0);
        for _ in 0..1000 {
            match reader.as_mut().poll_next(&mut cx) {
                Poll::Ready(record) => {
                    records += 1;
                    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(records);
                    assert_eq!(record.unwrap().unwrap().time, time, "no record is lost at a pause");
                }
                Poll::Pending => pauses += 1,
            }
        }
        assert_eq!((pauses, records), (7, 993));
    }

    #[test]
    fn stored_cursor_is_read_across_versions() {
        let old = r#"{"time":{"secs_since_epoch":5,"nanos_since_epoch":7},"records":2}"#;
        let cursor: LogCursor = serde_json::from_str(old).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(5, 7);
        assert_eq!(cursor, LogCursor::new(time, 2));
        assert_eq!(serde_json::to_string(&cursor).unwrap(), old);
        let line = UnfinishedLine { stream: LogStream::Stderr, time, records: 3 };
        let cursor = LogCursor { unfinished: Some(line), ..cursor };
        let stored = serde_json::to_string(&cursor).unwrap();
        assert_eq!(serde_json::from_str::<LogCursor>(&stored).unwrap(), cursor, "{stored}");
    }
}
