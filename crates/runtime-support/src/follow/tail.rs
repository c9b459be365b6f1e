//! The last records of a log, with or without engine support for a number of chunks.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use runtime_core::{Chunk, LogCursor, LogRecord};

use super::TIME_SKEW_MAX;

/// Minimum distance in time of two chunks that are certain to be in order.
const ORDERED_GAP_MIN: Duration = Duration::from_millis(100);

/// Number of chunks requested in addition to the wanted records: one or two to detect the start of
/// a line, and some for lines in pieces.
const TAIL_MARGIN_CHUNKS: u64 = 8;

/// If more chunks than this would be requested, the whole log is.
const TAIL_CHUNKS_MAX: u64 = 1 << 20;

/// A log with fewer bytes is read whole if its last lines are not sufficient.
const SHORT_LOG_BYTES: usize = 64 << 10;

/// Collects the last records of a log that is read whole or from its last chunks.
#[derive(Debug)]
pub(super) struct Tail {
    wanted: usize,
    /// Number of requested chunks; `None` means all.
    requested: Option<u64>,
    /// `true` if the engine counts chunks, `false` if it counts parts of chunks.
    exact: bool,
    /// Records before this time are not wanted.
    since: Option<SystemTime>,
    seen: u64,
    bytes: usize,
    /// `true` if a chunk was seen that is certainly before that time.
    reached_since: bool,
    /// `true` if the log was cut off before the end of the requested chunks.
    cut_off: bool,
    records: VecDeque<(LogRecord, bool)>,
    /// Cursor after the last omitted record.
    left_out: Option<LogCursor>,
    streams: [Stream; 4],
    /// Time of the first chunk that certainly begins a line.
    first_head: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    seen: bool,
    in_line: bool,
    /// Time of the first line if it may have begun before the chunks read.
    uncertain_head: Option<SystemTime>,
}

impl Tail {
    /// Creates a collector for the last `wanted` records. `by_chunks` is `true` if the last chunks
    /// can be requested, `exact` if the engine counts whole chunks.
    pub(super) fn new(wanted: u64, by_chunks: bool, exact: bool) -> Self {
        let requested = by_chunks
            .then_some(wanted.saturating_add(TAIL_MARGIN_CHUNKS))
            .filter(|&n| n < TAIL_CHUNKS_MAX);
        Self {
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
            requested,
            exact,
            since: None,
            seen: 0,
            bytes: 0,
            reached_since: false,
            cut_off: false,
            records: VecDeque::new(),
            left_out: None,
            streams: [Stream::default(); 4],
            first_head: None,
        }
    }

    /// Omits the records before a time.
    pub(super) fn since(self, since: Option<SystemTime>) -> Self {
        Self { since, ..self }
    }

    /// Returns the number of chunks to request.
    pub(super) const fn requested(&self) -> Option<u64> {
        self.requested
    }

    /// Registers the next chunk, before its records are added.
    pub(super) fn observe(&mut self, chunk: &Chunk) {
        self.seen += 1;
        self.bytes += chunk.bytes.len();
        self.reached_since |= self.since.is_some_and(|since| chunk.time + TIME_SKEW_MAX < since);
        let stream = &mut self.streams[chunk.stream as usize];
        let begins = if stream.seen {
            !stream.in_line
        } else {
            // The pieces of a line have the time of the first piece. An earlier piece of this line
            // would have been written at that time, which is after the known head, and would have
            // been seen.
            self.first_head.is_some_and(|head| head + ORDERED_GAP_MIN < chunk.time)
        };
        if begins {
            self.first_head = self.first_head.or(Some(chunk.time));
        } else if !stream.seen {
            stream.uncertain_head = Some(chunk.time);
        }
        stream.seen = true;
        stream.in_line = !chunk.ends_line;
    }

    /// Marks the log as cut off, so that a small number of chunks is not taken as the whole log.
    pub(super) const fn mark_cut_off(&mut self) {
        self.cut_off = true;
    }

    /// Adds the next record.
    pub(super) fn push(&mut self, record: LogRecord) {
        let certain = self.streams[record.stream as usize].uncertain_head != Some(record.time);
        self.records.push_back((record, certain));
        if self.records.len() > self.wanted
            && let Some((record, _)) = self.records.pop_front()
        {
            self.left_out = Some(LogCursor::advance(self.left_out, &record));
        }
    }

    /// Returns `true` if the collected records are the last ones, at the end of the requested
    /// chunks.
    pub(super) fn is_enough(&self) -> bool {
        let enough = self.records.len() == self.wanted || self.reached_since;
        self.has_all() || (enough && self.records.iter().all(|(_, certain)| *certain))
    }

    /// Returns `true` if the record is complete, and not the rest of a line that began before the
    /// chunks read.
    pub(super) fn is_whole(&self, record: &LogRecord) -> bool {
        self.has_all() || self.streams[record.stream as usize].uncertain_head != Some(record.time)
    }

    /// Returns `true` if the whole log was read.
    pub(super) fn has_all(&self) -> bool {
        self.requested.is_none_or(|requested| self.exact && !self.cut_off && self.seen < requested)
    }

    /// Starts over, with the same or a larger number of chunks.
    pub(super) fn restart(&mut self, with_more: bool) {
        let requested = match self.requested {
            Some(_) if with_more && !self.exact && self.bytes < SHORT_LOG_BYTES => None,
            Some(requested) if with_more => {
                Some(requested.saturating_mul(8)).filter(|&n| n < TAIL_CHUNKS_MAX)
            }
            requested => requested,
        };
        let new = Self::new(self.wanted as u64, false, self.exact).since(self.since);
        *self = Self { requested, ..new };
    }

    /// Returns the cursor after the last omitted record.
    pub(super) const fn left_out(&self) -> Option<LogCursor> {
        self.left_out
    }

    /// Returns the collected records.
    pub(super) fn into_records(self) -> VecDeque<LogRecord> {
        self.records.into_iter().map(|(record, _)| record).collect()
    }
}
