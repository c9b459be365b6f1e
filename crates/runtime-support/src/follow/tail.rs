//! The last records of a log, from an engine that counts chunks, or not at all.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use runtime_core::{Chunk, LogCursor, LogRecord};

use super::SKEW;

/// Two chunks so far apart were written in the order of their times.
const APART: Duration = Duration::from_millis(100);

/// Asked for beyond the records that are wanted: a chunk or two to see where a line begins, and
/// some for lines in pieces.
const MARGIN: u64 = 8;

/// From so many chunks on the whole log is asked for.
const MOST_CHUNKS: u64 = 1 << 20;

/// A log of fewer bytes is read whole if its last lines are not enough.
const SHORT_LOG: usize = 64 << 10;

/// The last records, from a log of which the last chunks are read, or all.
#[derive(Debug)]
pub(super) struct Tail {
    wanted: usize,
    /// How many chunks were asked for; `None` is all.
    asked: Option<u64>,
    /// Whether the engine counts chunks. Otherwise it counts parts of them.
    exact: bool,
    /// Records before this time are not wanted.
    since: Option<SystemTime>,
    seen: u64,
    bytes: usize,
    /// Whether a chunk was seen that is certainly before that time.
    reached_since: bool,
    /// Whether the log was cut off before the end of what was asked for.
    cut_off: bool,
    kept: VecDeque<(LogRecord, bool)>,
    /// The place after the last record that was left out.
    left_out: Option<LogCursor>,
    streams: [Stream; 4],
    /// The time of the first chunk of which it is certain that it begins a line.
    first_head: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    seen: bool,
    in_line: bool,
    /// The time of the first line, if it may have begun before what is read.
    doubtful: Option<SystemTime>,
}

impl Tail {
    /// The last `wanted` records. `by_chunks` says that the last chunks can be asked for, and `exact`
    /// that the engine counts whole chunks.
    pub(super) fn new(wanted: u64, by_chunks: bool, exact: bool) -> Self {
        let asked = by_chunks.then_some(wanted.saturating_add(MARGIN)).filter(|&n| n < MOST_CHUNKS);
        Self {
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
            asked,
            exact,
            since: None,
            seen: 0,
            bytes: 0,
            reached_since: false,
            cut_off: false,
            kept: VecDeque::new(),
            left_out: None,
            streams: [Stream::default(); 4],
            first_head: None,
        }
    }

    /// Leaves out the records before a time.
    pub(super) fn since(self, since: Option<SystemTime>) -> Self {
        Self { since, ..self }
    }

    /// How many chunks to ask for.
    pub(super) const fn asked(&self) -> Option<u64> {
        self.asked
    }

    /// Looks at the next chunk, before its records come.
    pub(super) fn look(&mut self, chunk: &Chunk) {
        self.seen += 1;
        self.bytes += chunk.bytes.len();
        self.reached_since |= self.since.is_some_and(|since| chunk.time + SKEW < since);
        let stream = &mut self.streams[chunk.stream as usize];
        let begins = if stream.seen {
            !stream.in_line
        } else {
            // The pieces of a line carry its first time. Had this one a piece before it, that
            // piece was written at its time, which is after the head that is known, and would
            // have been seen.
            self.first_head.is_some_and(|head| head + APART < chunk.time)
        };
        if begins {
            self.first_head = self.first_head.or(Some(chunk.time));
        } else if !stream.seen {
            stream.doubtful = Some(chunk.time);
        }
        stream.seen = true;
        stream.in_line = !chunk.ends_line;
    }

    /// The log was cut off: that fewer chunks came than were asked for says nothing of the log.
    pub(super) const fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// Takes the next record.
    pub(super) fn take(&mut self, record: LogRecord) {
        let certain = self.streams[record.stream as usize].doubtful != Some(record.time);
        self.kept.push_back((record, certain));
        if self.kept.len() > self.wanted
            && let Some((record, _)) = self.kept.pop_front()
        {
            self.left_out = Some(LogCursor::advance(self.left_out, &record));
        }
    }

    /// Whether these are the last records, at the end of what was asked for.
    pub(super) fn is_enough(&self) -> bool {
        let enough = self.kept.len() == self.wanted || self.reached_since;
        self.has_all() || (enough && self.kept.iter().all(|(_, certain)| *certain))
    }

    /// Whether this record is whole, and not the rest of one that began before what was read.
    pub(super) fn is_whole(&self, record: &LogRecord) -> bool {
        self.has_all() || self.streams[record.stream as usize].doubtful != Some(record.time)
    }

    /// Whether the log has no more than was read.
    pub(super) fn has_all(&self) -> bool {
        self.asked.is_none_or(|asked| self.exact && !self.cut_off && self.seen < asked)
    }

    /// Starts again, with more chunks or with as many.
    pub(super) fn restart(&mut self, with_more: bool) {
        let asked = match self.asked {
            Some(_) if with_more && !self.exact && self.bytes < SHORT_LOG => None,
            Some(asked) if with_more => Some(asked.saturating_mul(8)).filter(|&n| n < MOST_CHUNKS),
            asked => asked,
        };
        let new = Self::new(self.wanted as u64, false, self.exact).since(self.since);
        *self = Self { asked, ..new };
    }

    /// The place after the last record that was left out.
    pub(super) const fn left_out(&self) -> Option<LogCursor> {
        self.left_out
    }

    /// The records.
    pub(super) fn into_records(self) -> VecDeque<LogRecord> {
        self.kept.into_iter().map(|(record, _)| record).collect()
    }
}
