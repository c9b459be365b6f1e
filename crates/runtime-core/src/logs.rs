//! Log records, cursors and readers.

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

/// Stream to which a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The terminal of a container with a terminal, which carries stdout and stderr.
    Console,
    /// The engine does not report the stream (capability `logs_streams_apart` is `false`).
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

/// One line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Time at which the engine received the first byte of the line, at nanosecond resolution.
    pub time: SystemTime,
    /// Stream of the line.
    pub stream: LogStream,
    /// The bytes of the line including its line end, not necessarily UTF-8. The last line of a log
    /// has no line end if none was written.
    ///
    /// An engine without the capability `logs_exact_bytes` replaces each byte that is not UTF-8
    /// with U+FFFD when it stores the line. An engine without `logs_carriage_returns` drops a
    /// carriage return directly before the line end.
    pub bytes: Bytes,
    /// `true` if the line was longer than [`LogOptions::max_line`](crate::LogOptions) and continues
    /// in the next record of the same stream.
    pub continues: bool,
    /// A line of another stream that began before this one and is not finished. Its record is
    /// returned later, although records of different streams are otherwise ordered by the start of
    /// their lines. Used by [`LogCursor`].
    #[serde(default)]
    pub unfinished: Option<UnfinishedLine>,
}

/// An unfinished line that was overtaken by later lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnfinishedLine {
    /// Stream of the line.
    pub stream: LogStream,
    /// Time of the line's records.
    pub time: SystemTime,
    /// Number of records of its stream with that time that were returned.
    pub records: u64,
}

/// A position in a log, from which another process can resume, for example after a crash.
///
/// A cursor consists of the time of the last returned record and the number of returned records
/// with exactly that time, because an engine may give several lines the same time. While a line of
/// another stream is overtaken, the position in that stream is stored as well.
///
/// # Serialised form
/// With serde, human-readable formats such as JSON omit `unfinished` while it is `None`, so that
/// versions without this field can read the cursor; cursors of those versions are read as cursors
/// without an unfinished line. Other formats always contain the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct LogCursor {
    /// Time of the last record.
    pub time: SystemTime,
    /// Number of returned records with that time. While a line is overtaken, records of that line's
    /// stream are not counted.
    pub records: u64,
    /// The line that the last record overtook, unless it has been finished since.
    #[serde(default)]
    pub unfinished: Option<UnfinishedLine>,
}

impl LogCursor {
    /// Creates the cursor after the first `records` records with `time`.
    #[must_use]
    pub const fn new(time: SystemTime, records: u64) -> Self {
        Self { time, records, unfinished: None }
    }

    /// Returns the cursor after `record`, given the cursor `before` it.
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

    /// Returns the cursor after a record of the overtaken line.
    fn advance_overtaken(self, line: UnfinishedLine, record: &LogRecord) -> Self {
        let line = UnfinishedLine { records: line.records + 1, ..line };
        if record.continues {
            return Self { unfinished: Some(line), ..self };
        }
        // By the start of lines, the last record is still the one before this line's.
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

/// Number of consecutive records after which a reader yields to the other futures of its task.
const RECORDS_PER_POLL_MAX: u8 = 128;

/// The records of a container's log, in order.
///
/// The reader ends after the last record, or after the first error. Dropping it closes its
/// connection.
///
/// Without [`Follow::Yes`](crate::Follow) the reader ends at the current end of the log. With it,
/// the reader ends after the container has ended and its last byte was returned, not earlier: after
/// lost connections, engine restarts and log rotations it resumes without lost or repeated lines.
///
/// If the engine limits the size of a log, it may have discarded the record at which a reader
/// resumes, and lines after it. The reader then ends with [`Lost`](crate::ErrorKind::Lost);
/// [`LogOptions::since`](crate::LogOptions::since) reads the remaining lines. A follower whose
/// container is removed returns the lines that it could read and ends with
/// [`NotFound`](crate::ErrorKind::NotFound); if another program removed the container, and the
/// follower had already read the whole log, it ends without an error.
///
/// Like the streams of tokio, a reader that is always ready yields from time to time, so that other
/// futures of its task (for example with `join!` or `select!`) make progress.
pub struct LogReader {
    records: Option<Pin<Box<dyn Stream<Item = Result<LogRecord>> + Send>>>,
    cursor: Option<LogCursor>,
    /// Cursor after the records that the backend left out, if the reader was not opened at a
    /// cursor.
    left_out: Option<Arc<OnceLock<LogCursor>>>,
    /// Number of consecutive records since the reader was last pending.
    consecutive: u8,
}

impl LogReader {
    /// Creates a reader for a backend's records. `from` is the cursor after which the records
    /// begin.
    #[must_use]
    pub fn new(
        records: impl Stream<Item = Result<LogRecord>> + Send + 'static,
        from: Option<LogCursor>,
    ) -> Self {
        Self { records: Some(Box::pin(records)), cursor: from, left_out: None, consecutive: 0 }
    }

    /// Sets the position for a backend that leaves out the first records, as for
    /// [`tail`](crate::LogOptions::tail). The backend stores the cursor after the last omitted
    /// record in `place` before it returns the first record. The reader's cursor includes omitted
    /// records that have the time of the first record.
    #[must_use]
    pub fn after_those_left_out(mut self, place: Arc<OnceLock<LogCursor>>) -> Self {
        self.left_out = Some(place);
        self
    }

    /// Returns the cursor after the last returned record, or `None` before the first record. Pass
    /// it to [`LogOptions::after`](crate::LogOptions::after) to resume.
    #[must_use]
    pub const fn cursor(&self) -> Option<LogCursor> {
        self.cursor
    }

    /// Converts the reader into a stream of the remaining bytes without timestamps.
    #[must_use]
    pub fn into_raw(self) -> RawLogs {
        Box::pin(RawReader(self))
    }
}

impl Stream for LogReader {
    type Item = Result<LogRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.consecutive == RECORDS_PER_POLL_MAX {
            self.consecutive = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(records) = self.records.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(item) = records.as_mut().poll_next(cx) else {
            self.consecutive = 0;
            return Poll::Pending;
        };
        self.consecutive += 1;
        match &item {
            Some(Ok(record)) => {
                let left_out = self.left_out.take().and_then(|place| place.get().copied());
                let before = self.cursor.or(left_out);
                self.cursor = Some(LogCursor::advance(before, record));
            }
            // Dropping the inner stream closes its connection.
            Some(Err(_)) | None => self.records = None,
        }
        Poll::Ready(item)
    }
}

/// A part of a log, see [`Container::raw_logs`](crate::Container::raw_logs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawLog {
    /// Stream to which the bytes were written.
    pub stream: LogStream,
    /// The bytes, including line ends. They may begin and end within a line.
    pub bytes: Bytes,
}

/// A log without timestamps. The stream ends after the last byte, or after the first error.
/// Dropping it closes its connection.
pub type RawLogs = Pin<Box<dyn Stream<Item = Result<RawLog>> + Send>>;

struct RawReader(LogReader);

impl Stream for RawReader {
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

    /// A stream that is always ready.
    struct AlwaysReady(u64);

    impl Stream for AlwaysReady {
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
    fn reader_yields_when_always_ready() {
        let mut reader = Box::pin(LogReader::new(AlwaysReady(0), None));
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
    fn cursor_without_unfinished_line_is_compatible_with_old_form() {
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
