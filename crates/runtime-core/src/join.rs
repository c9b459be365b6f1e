//! Joins partial log lines.
//!
//! Docker splits lines at 16 KiB, and the CRI log format tags the pieces of a line `P` and the last
//! piece `F`. Both interleave the pieces of the two streams.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use crate::{LogRecord, LogStream, UnfinishedLine};

/// Maximum number of lines that wait for an unfinished line. Even an empty line takes memory.
const WAITING_LINES_MAX: usize = 8192;

/// A piece of a log, as returned by an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Time at which the engine received the chunk.
    pub time: SystemTime,
    /// Stream of the chunk.
    pub stream: LogStream,
    /// The bytes, including the line end if the chunk ends a line.
    pub bytes: Bytes,
    /// `true` if the line ends with this chunk.
    pub ends_line: bool,
}

/// Joins chunks into records.
///
/// The records of each stream are its lines, in order; lines longer than `max_line` are split into
/// pieces of `max_line` bytes. All pieces of a line carry the time of its first chunk. The split of
/// a stream therefore depends on that stream alone, and a second read of the log splits it the same
/// way.
///
/// Across streams, records are returned in the order in which their lines began. A finished line
/// waits for an earlier unfinished line of another stream until more than `max_line` bytes or 8192
/// lines wait, or until the caller calls [`let_pass`](Self::let_pass). After that, lines of other
/// streams overtake the unfinished line, and their records name it in [`LogRecord::unfinished`].
#[derive(Debug, Clone)]
pub struct LineJoiner {
    max_line: usize,
    /// Lines in the order in which they began, which is the order of their numbers.
    lines: VecDeque<Line>,
    /// Number of the next line.
    next_number: u64,
    /// Number of the unfinished line of each stream.
    unfinished: [Option<u64>; 4],
    /// Time of the last record of each stream, and the number of its records with that time.
    returned: [Option<(SystemTime, u64)>; 4],
    /// Number of bytes in `lines` after the first line.
    waiting_bytes: usize,
}

#[derive(Debug, Clone)]
struct Line {
    number: u64,
    time: SystemTime,
    stream: LogStream,
    /// Pieces of exactly `max_line` bytes, already split off.
    pieces: VecDeque<Bytes>,
    bytes: LineBytes,
    state: LineState,
}

/// Bytes of a line. A line that consists of one chunk is returned without a copy.
#[derive(Debug, Clone)]
enum LineBytes {
    Single(Bytes),
    Joined(BytesMut),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineState {
    Unfinished,
    /// Unfinished, and lines of other streams no longer wait for it.
    Overtaken,
    Finished,
}

impl Line {
    fn len(&self) -> usize {
        self.bytes.len() + self.pieces.iter().map(Bytes::len).sum::<usize>()
    }

    /// Returns `true` if a record of this line can be returned.
    fn is_ready(&self) -> bool {
        !self.pieces.is_empty() || self.state == LineState::Finished
    }
}

impl LineBytes {
    fn len(&self) -> usize {
        match self {
            Self::Single(bytes) => bytes.len(),
            Self::Joined(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, more: &Bytes) {
        if let Self::Single(bytes) = self {
            let mut joined = BytesMut::with_capacity(bytes.len() + more.len());
            joined.extend_from_slice(bytes);
            *self = Self::Joined(joined);
        }
        if let Self::Joined(bytes) = self {
            bytes.extend_from_slice(more);
        }
    }

    fn split_to(&mut self, at: usize) -> Bytes {
        match self {
            Self::Single(bytes) => bytes.split_to(at),
            Self::Joined(bytes) => bytes.split_to(at).freeze(),
        }
    }

    fn take(&mut self) -> Bytes {
        match self {
            Self::Single(bytes) => std::mem::take(bytes),
            Self::Joined(bytes) => std::mem::take(bytes).freeze(),
        }
    }
}

impl LineJoiner {
    /// Creates a joiner for lines of up to `max_line` bytes, at least 1.
    #[must_use]
    pub fn new(max_line: usize) -> Self {
        Self {
            max_line: max_line.max(1),
            lines: VecDeque::new(),
            next_number: 0,
            unfinished: [None; 4],
            returned: [None; 4],
            waiting_bytes: 0,
        }
    }

    /// Adds the next chunk. Call [`pop`](Self::pop) afterwards until it returns `None`.
    pub fn push(&mut self, chunk: Chunk) {
        let slot = chunk.stream as usize;
        let size = chunk.bytes.len();
        let number = match self.unfinished[slot] {
            Some(number) => {
                self.line(number).bytes.push(&chunk.bytes);
                number
            }
            None => {
                let number = self.next_number;
                self.next_number += 1;
                self.lines.push_back(Line {
                    number,
                    time: chunk.time,
                    stream: chunk.stream,
                    pieces: VecDeque::new(),
                    bytes: LineBytes::Single(chunk.bytes),
                    state: LineState::Unfinished,
                });
                number
            }
        };
        if self.lines.front().is_some_and(|front| front.number != number) {
            self.waiting_bytes += size;
        }
        let max_line = self.max_line;
        let line = self.line(number);
        while line.bytes.len() > max_line {
            let piece = line.bytes.split_to(max_line);
            line.pieces.push_back(piece);
        }
        if chunk.ends_line {
            line.state = LineState::Finished;
            self.unfinished[slot] = None;
        } else {
            self.unfinished[slot] = Some(number);
        }
        if self.waiting_bytes > max_line || self.lines.len() > WAITING_LINES_MAX {
            self.let_pass();
        }
    }

    /// Returns the next complete record.
    pub fn pop(&mut self) -> Option<LogRecord> {
        let mut at = 0;
        let mut unfinished = None;
        loop {
            let line = self.lines.get(at)?;
            if line.is_ready() {
                break;
            }
            if line.state == LineState::Unfinished {
                return None;
            }
            unfinished = unfinished.or_else(|| Some(self.unfinished_line(line)));
            at += 1;
        }
        let line = &mut self.lines[at];
        let (time, stream) = (line.time, line.stream);
        let (bytes, continues) = match line.pieces.pop_front() {
            Some(bytes) => (bytes, true),
            None => (line.bytes.take(), false),
        };
        if at > 0 {
            self.waiting_bytes -= bytes.len();
        }
        if !continues {
            self.lines.remove(at);
            if at == 0
                && let Some(front) = self.lines.front()
            {
                self.waiting_bytes -= front.len();
            }
        }
        let record = LogRecord { time, stream, bytes, continues, unfinished };
        self.count(&record);
        Some(record)
    }

    /// Counts a record of a single-chunk line that the caller returned without the joiner.
    pub fn count(&mut self, record: &LogRecord) {
        match &mut self.returned[record.stream as usize] {
            Some((time, records)) if *time == record.time => *records += 1,
            returned => *returned = Some((record.time, 1)),
        }
    }

    /// Returns `true` if records wait for an unfinished line of another stream.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        let mut lines = self.lines.iter();
        lines.any(|line| line.state == LineState::Unfinished) && lines.any(Line::is_ready)
    }

    /// Lets waiting lines overtake the unfinished lines. Call [`pop`](Self::pop) afterwards until
    /// it returns `None`.
    pub fn let_pass(&mut self) {
        let last = self.lines.len().saturating_sub(1);
        let mut lines = self.lines.iter_mut().take(last);
        if let Some(line) = lines.find(|line| line.state == LineState::Unfinished) {
            line.state = LineState::Overtaken;
        }
    }

    /// Marks the end of the log: unfinished lines are returned as they are.
    pub fn finish(&mut self) {
        for line in &mut self.lines {
            line.state = LineState::Finished;
        }
        self.unfinished = [None; 4];
    }

    /// Returns `true` if a line has begun and not ended.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        self.unfinished.iter().any(Option::is_some)
    }

    fn line(&mut self, number: u64) -> &mut Line {
        let last = self.lines.len().saturating_sub(1);
        let at = match self.lines.back() {
            Some(line) if line.number == number => last,
            // Every number that the joiner stores belongs to a line in `lines`.
            _ => self.lines.binary_search_by_key(&number, |line| line.number).unwrap_or(last),
        };
        &mut self.lines[at]
    }

    fn unfinished_line(&self, line: &Line) -> UnfinishedLine {
        let records = match self.returned[line.stream as usize] {
            Some((time, records)) if time == line.time => records,
            _ => 0,
        };
        UnfinishedLine { stream: line.stream, time: line.time, records }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn chunk(at: u64, stream: LogStream, bytes: &[u8]) -> Chunk {
        Chunk {
            time: UNIX_EPOCH + Duration::from_nanos(at),
            stream,
            bytes: Bytes::copy_from_slice(bytes),
            ends_line: bytes.last() == Some(&b'\n'),
        }
    }

    fn join(max_line: usize, chunks: impl IntoIterator<Item = Chunk>) -> Vec<LogRecord> {
        let mut joiner = LineJoiner::new(max_line);
        let mut records = Vec::new();
        for chunk in chunks {
            joiner.push(chunk);
            records.extend(std::iter::from_fn(|| joiner.pop()));
        }
        joiner.finish();
        records.extend(std::iter::from_fn(|| joiner.pop()));
        assert!(!joiner.is_in_line());
        records
    }

    fn short(records: &[LogRecord]) -> Vec<(u64, LogStream, &[u8], bool)> {
        let nanos = |time: SystemTime| {
            u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
        };
        records.iter().map(|r| (nanos(r.time), r.stream, &r.bytes[..], r.continues)).collect()
    }

    use LogStream::{Stderr, Stdout};

    const ONE: Duration = Duration::from_nanos(1);

    #[test]
    fn interleaved_pieces_are_joined_in_line_start_order() {
        let records = join(
            100,
            [
                chunk(1, Stdout, b"out-"),
                chunk(2, Stderr, b"err-"),
                chunk(3, Stderr, b"one\n"),
                chunk(4, Stderr, b"two\n"),
                chunk(5, Stdout, b"one\n"),
                chunk(6, Stdout, b"no end"),
            ],
        );
        assert_eq!(
            short(&records),
            [
                (1, Stdout, &b"out-one\n"[..], false),
                (2, Stderr, b"err-one\n", false),
                (4, Stderr, b"two\n", false),
                (6, Stdout, b"no end", false),
            ]
        );
    }

    #[test]
    fn line_over_max_is_split_into_continued_pieces_with_one_time() {
        let records = join(4, [chunk(1, Stdout, b"abcdef"), chunk(2, Stdout, b"ghij\n")]);
        assert_eq!(
            short(&records),
            [
                (1, Stdout, &b"abcd"[..], true),
                (1, Stdout, b"efgh", true),
                (1, Stdout, b"ij\n", false),
            ]
        );
        let exactly = join(4, [chunk(1, Stdout, b"abc\n")]);
        assert_eq!(short(&exactly), [(1, Stdout, &b"abc\n"[..], false)]);
    }

    #[test]
    fn unfinished_line_is_overtaken_when_waiting_bytes_exceed_max() {
        let mut joiner = LineJoiner::new(8);
        joiner.push(chunk(1, Stdout, b"prompt"));
        let mut records = Vec::new();
        for at in 2..10 {
            joiner.push(chunk(at, Stderr, b"abc\n"));
            records.extend(std::iter::from_fn(|| joiner.pop()));
        }
        assert_eq!(records.len(), 8);
        let line = UnfinishedLine { stream: Stdout, time: records[0].time - ONE, records: 0 };
        assert!(records.iter().all(|record| record.unfinished == Some(line)));
        joiner.push(chunk(10, Stdout, b">\n"));
        records.extend(std::iter::from_fn(|| joiner.pop()));
        assert_eq!(short(&records).last(), Some(&(1, Stdout, &b"prompt>\n"[..], false)));
        joiner.push(chunk(11, Stderr, b"abc\n"));
        assert_eq!(joiner.pop().unwrap().unfinished, None);
    }

    #[test]
    fn overtaken_line_does_not_hold_back_records() {
        let mut joiner = LineJoiner::new(100);
        joiner.push(chunk(1, Stderr, b"\r50%"));
        assert!(!joiner.holds_back());
        joiner.push(chunk(2, Stdout, b"line\n"));
        assert!(joiner.holds_back() && joiner.pop().is_none());
        joiner.let_pass();
        assert!(joiner.pop().is_some() && joiner.pop().is_none());
        joiner.push(chunk(3, Stdout, b"line\n"));
        assert!(joiner.pop().is_some());
        // A second unfinished line is overtaken only after another call.
        joiner.push(chunk(4, Stdout, b"prompt"));
        joiner.push(chunk(5, Stderr, b"\r99%\n"));
        assert_eq!(joiner.pop().unwrap().bytes, "\r50%\r99%\n");
        joiner.push(chunk(6, Stderr, b"more\n"));
        assert!(joiner.holds_back() && joiner.pop().is_none());
        joiner.let_pass();
        assert_eq!(joiner.pop().unwrap().bytes, "more\n");
    }

    #[test]
    fn waiting_empty_lines_are_bounded() {
        let mut joiner = LineJoiner::new(1 << 20);
        joiner.push(chunk(1, Stdout, b"prompt"));
        let mut most = 0;
        let mut count = 0;
        for _ in 0..100_000 {
            joiner.push(chunk(2, Stderr, b"\n"));
            most = most.max(joiner.lines.len());
            count += std::iter::from_fn(|| joiner.pop()).count();
        }
        assert!(most <= WAITING_LINES_MAX + 1, "{most} lines wait");
        assert_eq!(count, 100_000);
    }

    prop_compose! {
        fn chunks()(parts in prop::collection::vec((any::<bool>(), "[ab]{0,12}", any::<bool>()), 0..60))
            -> Vec<Chunk> {
            parts
                .into_iter()
                .enumerate()
                .map(|(at, (err, text, ends))| Chunk {
                    time: UNIX_EPOCH + Duration::from_nanos(at as u64 / 3),
                    stream: if err { Stderr } else { Stdout },
                    bytes: Bytes::from(if ends { text + "\n" } else { text }),
                    ends_line: ends,
                })
                .collect()
        }
    }

    proptest! {
        #[test]
        fn join_keeps_all_bytes_within_max_line(chunks in chunks(), max in 1_usize..20) {
            let records = join(max, chunks.clone());
            for stream in [Stdout, Stderr] {
                let given: Vec<u8> = chunks.iter().filter(|c| c.stream == stream)
                    .flat_map(|c| c.bytes.to_vec()).collect();
                let got: Vec<u8> = records.iter().filter(|r| r.stream == stream)
                    .flat_map(|r| r.bytes.to_vec()).collect();
                prop_assert_eq!(given, got);
            }
            prop_assert!(records.iter().all(|r| r.bytes.len() <= max));
        }

        #[test]
        fn streams_are_split_independently(chunks in chunks(), max in 1_usize..20, passes in any::<u64>()) {
            let mut joiner = LineJoiner::new(max);
            let mut records = Vec::new();
            for (at, chunk) in chunks.iter().enumerate() {
                joiner.push(chunk.clone());
                if passes >> (at % 64) & 1 == 1 {
                    joiner.let_pass();
                }
                records.extend(std::iter::from_fn(|| joiner.pop()));
            }
            joiner.finish();
            records.extend(std::iter::from_fn(|| joiner.pop()));
            for stream in [Stdout, Stderr] {
                let alone = join(max, chunks.iter().filter(|c| c.stream == stream).cloned());
                let records: Vec<_> =
                    records.iter().filter(|r| r.stream == stream).cloned().collect();
                prop_assert_eq!(short(&records), short(&alone));
            }
            prop_assert_eq!(joiner.waiting_bytes, 0);
        }

        #[test]
        fn join_with_large_max_returns_whole_lines_in_time_order(chunks in chunks()) {
            let records = join(1 << 20, chunks.clone());
            prop_assert!(records.iter().all(|r| !r.continues));
            prop_assert!(records.is_sorted_by_key(|r| r.time));
            for stream in [Stdout, Stderr] {
                let ends = chunks.iter().filter(|c| c.stream == stream && c.ends_line).count();
                let got = records.iter().filter(|r| r.stream == stream && r.bytes.ends_with(b"\n")).count();
                prop_assert_eq!(ends, got);
            }
        }
    }
}
