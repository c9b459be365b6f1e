//! Whole lines from the pieces that engines cut them into.
//!
//! Docker cuts lines at 16 KiB, the CRI log format tags the pieces of a line `P` and the last
//! `F`, and both interleave the pieces of the two streams.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use crate::{LogRecord, LogStream};

/// How many lines may wait behind an unfinished one. Each takes memory even when it is empty.
const WAITING_LINES_MAX: usize = 8192;

/// A piece of a log as an engine gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// When the engine received it.
    pub time: SystemTime,
    /// Where it was written.
    pub stream: LogStream,
    /// The bytes, with the line end where the line ends.
    pub bytes: Bytes,
    /// Whether the line ends with it.
    pub ends_line: bool,
}

/// Joins chunks into records.
///
/// Records come out in the order in which their lines began. A line that is finished while an
/// earlier one of the other stream is not waits for it; so that this costs neither memory nor
/// patience without bound, an unfinished line is given out in pieces when more than `max_line`
/// bytes or 8192 lines wait behind it, or when it is itself longer than `max_line`.
///
/// All pieces of a line carry the time of its first chunk, so that a log that is read again from
/// that time is cut the same way. The one exception is a line that was given out because others
/// waited: what comes after that carries the time of its own first chunk.
#[derive(Debug, Clone)]
pub struct LineJoiner {
    max_line: usize,
    /// Lines in the order in which they began.
    lines: VecDeque<Line>,
    /// The number of the front line, counted from the first one ever.
    front: u64,
    /// The number of the unfinished line of each stream.
    unfinished: [Option<u64>; 4],
    /// Bytes in `lines` behind the front one.
    waiting: usize,
}

#[derive(Debug, Clone)]
struct Line {
    time: SystemTime,
    stream: LogStream,
    /// Pieces of exactly `max_line` bytes, already cut off.
    cut: VecDeque<Bytes>,
    rest: Rest,
    state: LineState,
}

/// A line that came in one chunk is passed on without a copy.
#[derive(Debug, Clone)]
enum Rest {
    One(Bytes),
    Many(BytesMut),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineState {
    Unfinished,
    /// Nothing more belongs to this record, but the line goes on in a later one.
    GivenUp,
    Finished,
}

impl Rest {
    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, more: &Bytes) {
        if let Self::One(bytes) = self {
            let mut joined = BytesMut::with_capacity(bytes.len() + more.len());
            joined.extend_from_slice(bytes);
            *self = Self::Many(joined);
        }
        if let Self::Many(bytes) = self {
            bytes.extend_from_slice(more);
        }
    }

    fn split_to(&mut self, at: usize) -> Bytes {
        match self {
            Self::One(bytes) => bytes.split_to(at),
            Self::Many(bytes) => bytes.split_to(at).freeze(),
        }
    }

    fn take(&mut self) -> Bytes {
        match self {
            Self::One(bytes) => std::mem::take(bytes),
            Self::Many(bytes) => std::mem::take(bytes).freeze(),
        }
    }
}

impl LineJoiner {
    /// A joiner that gives out lines whole up to `max_line` bytes, at least 1.
    #[must_use]
    pub fn new(max_line: usize) -> Self {
        Self {
            max_line: max_line.max(1),
            lines: VecDeque::new(),
            front: 0,
            unfinished: [None; 4],
            waiting: 0,
        }
    }

    /// Takes the next chunk. Then call [`pop`](Self::pop) until it has no more.
    pub fn push(&mut self, chunk: Chunk) {
        let slot = chunk.stream as usize;
        let (number, size) = match self.unfinished[slot] {
            Some(number) => {
                let size = chunk.bytes.len();
                self.line(number).rest.push(&chunk.bytes);
                (number, size)
            }
            None => {
                let size = chunk.bytes.len();
                self.lines.push_back(Line {
                    time: chunk.time,
                    stream: chunk.stream,
                    cut: VecDeque::new(),
                    rest: Rest::One(chunk.bytes),
                    state: LineState::Unfinished,
                });
                (self.front + self.lines.len() as u64 - 1, size)
            }
        };
        if number != self.front {
            self.waiting += size;
        }
        let max_line = self.max_line;
        let line = self.line(number);
        while line.rest.len() > max_line {
            let piece = line.rest.split_to(max_line);
            line.cut.push_back(piece);
        }
        if chunk.ends_line {
            line.state = LineState::Finished;
            self.unfinished[slot] = None;
        } else {
            self.unfinished[slot] = Some(number);
        }
        if self.waiting > max_line || self.lines.len() > WAITING_LINES_MAX {
            self.give_up_front();
        }
    }

    /// The next record that is ready.
    pub fn pop(&mut self) -> Option<LogRecord> {
        let line = self.lines.front_mut()?;
        let (time, stream) = (line.time, line.stream);
        if let Some(bytes) = line.cut.pop_front() {
            return Some(LogRecord { time, stream, bytes, continues: true });
        }
        if line.state == LineState::Unfinished {
            return None;
        }
        let continues = line.state == LineState::GivenUp;
        let bytes = line.rest.take();
        self.lines.pop_front();
        self.front += 1;
        if let Some(next) = self.lines.front() {
            self.waiting -= next.rest.len() + next.cut.iter().map(Bytes::len).sum::<usize>();
        }
        Some(LogRecord { time, stream, bytes, continues })
    }

    /// Says that the log has ended: what is unfinished is given out as it is.
    pub fn finish(&mut self) {
        for line in &mut self.lines {
            if line.state == LineState::Unfinished {
                line.state = LineState::Finished;
            }
        }
        self.unfinished = [None; 4];
    }

    /// Whether a line has begun and not ended.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        self.unfinished.iter().any(Option::is_some)
    }

    fn line(&mut self, number: u64) -> &mut Line {
        // The number came from `front` and the length, so it fits and is in range.
        let index = usize::try_from(number - self.front).unwrap_or(usize::MAX);
        &mut self.lines[index]
    }

    fn give_up_front(&mut self) {
        if let Some(line) = self.lines.front_mut()
            && line.state == LineState::Unfinished
        {
            line.state = LineState::GivenUp;
            self.unfinished[line.stream as usize] = None;
        }
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

    #[test]
    fn pieces_of_two_streams_become_whole_lines_in_the_order_they_began() {
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
    fn a_line_over_the_cap_comes_in_marked_pieces_of_one_time() {
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
    fn an_unfinished_line_does_not_hold_the_others_for_ever() {
        let mut joiner = LineJoiner::new(8);
        joiner.push(chunk(1, Stdout, b"prompt"));
        let mut records = Vec::new();
        for at in 2..10 {
            joiner.push(chunk(at, Stderr, b"abc\n"));
            records.extend(std::iter::from_fn(|| joiner.pop()));
        }
        joiner.push(chunk(10, Stdout, b"> \n"));
        records.extend(std::iter::from_fn(|| joiner.pop()));
        assert_eq!(short(&records)[0], (1, Stdout, &b"prompt"[..], true));
        assert_eq!(short(&records).last(), Some(&(10, Stdout, &b"> \n"[..], false)));
        assert_eq!(records.len(), 10);
    }

    #[test]
    fn empty_lines_behind_an_unfinished_line_are_bounded() {
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
        assert_eq!(count, 100_001);
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
        fn no_byte_is_lost_and_pieces_keep_to_the_cap(chunks in chunks(), max in 1_usize..20) {
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
        fn with_room_records_are_whole_lines_in_order_of_time(chunks in chunks()) {
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
