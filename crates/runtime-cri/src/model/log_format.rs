//! The log format of the CRI: `TIME STREAM TAG CONTENT`, a line for each piece of output.
//!
//! `TIME` is of RFC 3339 with up to nine digits of a second, `STREAM` is `stdout` or `stderr`,
//! `TAG` begins with `F` for the end of a line and with `P` for a piece of one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use memchr::memchr;
use runtime_core::{Chunk, LogStream};

/// A piece of output that is longer than this and not whole yet is given on as it comes.
const LONGEST_HELD: usize = 64 << 10;

/// The shortest head, `2006-01-02T15:04:05Z stdout F`.
const SHORTEST_HEAD: usize = 29;

/// The longest head that is taken for one. A longer one has tags that nobody knows.
const LONGEST_HEAD: usize = 256;

/// Finds the pieces of output in blocks of a log file. It takes no copy: the pieces are parts of
/// the blocks.
///
/// What is no line of this format is passed over up to the next one: a file can be torn where a
/// disk was full or a host went down.
#[derive(Debug)]
pub(crate) struct Parser {
    block: Bytes,
    terminal: bool,
    /// ExecProcessLookup of a long piece, of which some was given already.
    inside: Option<Head>,
    clock: TimestampParser,
    passed_over: u64,
}

/// What stands before the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    time: SystemTime,
    stream: LogStream,
    ends_line: bool,
}

impl Parser {
    /// A parser of the log of a container with or without a terminal.
    pub(crate) fn new(terminal: bool) -> Self {
        Self {
            block: Bytes::new(),
            terminal,
            inside: None,
            clock: TimestampParser::default(),
            passed_over: 0,
        }
    }

    /// Takes the next block. It has to begin with what [`take_rest`](Self::take_rest) gave.
    pub(crate) fn feed(&mut self, block: Bytes) {
        debug_assert!(self.block.is_empty(), "the rest was not taken");
        self.block = block;
    }

    /// What is no whole line yet.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.block)
    }

    /// What comes next is the beginning of a file: a long piece that is given in parts has no more.
    pub(crate) fn begin_again(&mut self) {
        self.inside = None;
    }

    /// How many bytes were passed over because they are no line of this format.
    pub(crate) const fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The next piece. `None` when it needs the next block.
    pub(crate) fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(head) = self.inside {
                return self.go_on(head);
            }
            let Some(end) = memchr(b'\n', &self.block) else {
                return self.begin_long();
            };
            let Some((head, at)) = head(&self.block[..end], &mut self.clock) else {
                self.resync(end);
                continue;
            };
            // The line end of the file stands right where that of the content does.
            let content =
                if head.ends_line { self.block.slice(at..=end) } else { self.block.slice(at..end) };
            self.block.advance(end + 1);
            return Some(self.chunk(head, content, head.ends_line));
        }
    }

    /// The last piece, where the file ends in the middle of a line.
    pub(crate) fn finish(&mut self) -> Option<Chunk> {
        let rest = self.take_rest();
        if rest.is_empty() {
            return None;
        }
        let (head, at) = match self.inside.take() {
            Some(head) => (head, 0),
            None => match head(&rest, &mut self.clock) {
                Some(found) => found,
                None => {
                    self.passed_over += rest.len() as u64;
                    return None;
                }
            },
        };
        Some(self.chunk(head, rest.slice(at..), false))
    }

    fn chunk(&self, head: Head, bytes: Bytes, ends_line: bool) -> Chunk {
        let stream = if self.terminal { LogStream::Console } else { head.stream };
        Chunk { time: head.time, stream, bytes, ends_line }
    }

    /// A line without an end in this block: given in parts if it is long.
    fn begin_long(&mut self) -> Option<Chunk> {
        if self.block.len() < LONGEST_HELD {
            return None;
        }
        match head(&self.block, &mut self.clock) {
            Some((head, at)) => {
                self.block.advance(at);
                self.inside = Some(head);
                self.go_on(head)
            }
            None => {
                // The end may be the beginning of a head.
                self.resync(self.block.len() - LONGEST_HEAD);
                None
            }
        }
    }

    /// More of a long piece.
    fn go_on(&mut self, head: Head) -> Option<Chunk> {
        if self.block.is_empty() {
            return None;
        }
        let Some(end) = memchr(b'\n', &self.block) else {
            let bytes = self.take_rest();
            return Some(self.chunk(head, bytes, false));
        };
        self.inside = None;
        let bytes = self.block.slice(..end + usize::from(head.ends_line));
        self.block.advance(end + 1);
        Some(self.chunk(head, bytes, head.ends_line))
    }

    /// Goes to the next head in a line that has none at its beginning, or to the next line.
    fn resync(&mut self, end: usize) {
        let line = &self.block[..end];
        let mut from = 1;
        let next = loop {
            // Every time has a `T` after ten digits and dashes.
            let Some(at) = line.get(from + 10..).and_then(|rest| memchr(b'T', rest)) else {
                break (end + 1).min(self.block.len());
            };
            let at = from + at;
            if head(&line[at..], &mut self.clock).is_some() {
                break at;
            }
            from = at + 1;
        };
        self.passed_over += next as u64;
        self.block.advance(next);
    }
}

/// Reads the head of a line, and says where the content begins.
fn head(line: &[u8], clock: &mut TimestampParser) -> Option<(Head, usize)> {
    if line.len() < SHORTEST_HEAD {
        return None;
    }
    let (time, at) = clock.read(line)?;
    let rest = line.get(at..)?;
    let stream = match rest.get(..8)? {
        b" stdout " => LogStream::Stdout,
        b" stderr " => LogStream::Stderr,
        _ => return None,
    };
    let tag = *rest.get(8)?;
    let ends_line = match tag {
        b'F' => true,
        b'P' => false,
        _ => return None,
    };
    // One tag and a space as all engines write it; the format allows more tags after a colon.
    let content = match rest.get(9) {
        Some(b' ') => at + 10,
        None => at + 9,
        Some(b':') => {
            let tags = &rest[9..rest.len().min(LONGEST_HEAD)];
            at + 9 + memchr(b' ', tags)? + 1
        }
        Some(_) => return None,
    };
    Some((Head { time, stream, ends_line }, content))
}

/// The time of the line that begins here.
pub(crate) fn time_of(line: &[u8]) -> Option<SystemTime> {
    head(line, &mut TimestampParser::default()).map(|(head, _)| head.time)
}

/// The stream of the line that begins here, and whether it ends with it.
pub(crate) fn tag_of(line: &[u8]) -> Option<(LogStream, bool)> {
    head(line, &mut TimestampParser::default()).map(|(head, _)| (head.stream, head.ends_line))
}

/// Reads times. Most lines of a log are of the same second as the one before.
#[derive(Debug, Default)]
struct TimestampParser {
    /// `2006-01-02T15:04:05`, and the seconds since 1970 that it stands for.
    second: [u8; 19],
    seconds: u64,
}

impl TimestampParser {
    /// Reads a time, and says where it ends.
    #[inline]
    fn read(&mut self, line: &[u8]) -> Option<(SystemTime, usize)> {
        let second: &[u8; 19] = line.first_chunk()?;
        if *second != self.second {
            self.seconds = seconds(second)?;
            self.second = *second;
        }
        let mut at = 19;
        let mut nanos = 0;
        if line.get(at) == Some(&b'.') {
            at += 1;
            let mut scale = 1_000_000_000;
            while let Some(digit) = line.get(at).map(|byte| byte.wrapping_sub(b'0'))
                && digit <= 9
            {
                if scale == 1 {
                    return None;
                }
                scale /= 10;
                nanos = nanos * 10 + u32::from(digit);
                at += 1;
            }
            if scale == 1_000_000_000 {
                return None;
            }
            nanos *= scale;
        }
        let mut seconds = self.seconds;
        match line.get(at)? {
            b'Z' => at += 1,
            sign @ (b'+' | b'-') => {
                let offset: &[u8; 5] = line.get(at + 1..)?.first_chunk()?;
                if offset[2] != b':' {
                    return None;
                }
                let minutes = digits(&offset[..2])? * 60 + digits(&offset[3..])?;
                seconds = if *sign == b'+' {
                    seconds.checked_sub(minutes * 60)?
                } else {
                    seconds.checked_add(minutes * 60)?
                };
                at += 6;
            }
            _ => return None,
        }
        Some((UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?, at))
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// The seconds since 1970 of `2006-01-02T15:04:05`.
fn seconds(text: &[u8; 19]) -> Option<u64> {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| text[at] != byte) {
        return None;
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year < 1970 || day == 0 || day > length || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Leap days before this year, less those before 1970.
    let past = year - 1;
    let leap_days = (past / 4 - past / 100 + past / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months = lengths.iter().take(usize::try_from(month).ok()? - 1).sum::<u64>();
    let days = (year - 1970) * 365 + leap_days + months + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    /// Parses a file that comes in blocks of this size.
    fn parse(file: &[u8], size: usize) -> (Vec<Chunk>, u64) {
        let mut parser = Parser::new(false);
        let mut chunks = Vec::new();
        for part in file.chunks(size.max(1)) {
            let mut block = parser.take_rest().to_vec();
            block.extend_from_slice(part);
            parser.feed(block.into());
            chunks.extend(std::iter::from_fn(|| parser.next()));
        }
        chunks.extend(parser.finish());
        (chunks, parser.passed_over())
    }

    #[test]
    fn times_as_the_engines_write_them() {
        let mut clock = TimestampParser::default();
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-11-23T16:39:22.346953765Z", 1_795_451_962, 346_953_765),
            // containerd leaves out zeros at the end, and writes the zone of the host.
            ("2026-11-23T16:39:22.34Z", 1_795_451_962, 340_000_000),
            ("2026-11-23T18:39:22.34+02:00", 1_795_451_962, 340_000_000),
            ("2026-11-23T11:09:22.34-05:30", 1_795_451_962, 340_000_000),
            ("2024-02-29T23:59:59.000000001Z", 1_709_251_199, 1),
            ("2000-03-01T00:00:00Z", 951_868_800, 0),
            ("2100-03-01T00:00:00Z", 4_107_542_400, 0),
        ] {
            let line = format!("{text} stdout F x");
            let (time, end) = clock.read(line.as_bytes()).unwrap();
            assert_eq!((time, end), (at(seconds, nanos), text.len()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "1969-12-31T23:59:59Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00+0200",
            "1970-01-01T00:00:00+02:00",
            "",
        ] {
            let line = format!("{text} stdout F x");
            assert_eq!(time_of(line.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn pieces_and_ends() {
        let file = b"2026-11-23T16:39:22.1Z stdout F one\n\
            2026-11-23T16:39:22.2Z stderr P two\n\
            2026-11-23T16:39:22.3Z stderr F  three \n\
            2026-11-23T16:39:22.4Z stdout F \n\
            2026-11-23T16:39:22.5Z stdout P:x:y four";
        for size in [1, 7, 64, 1000] {
            let (chunks, passed_over) = parse(file, size);
            let short: Vec<_> =
                chunks.iter().map(|c| (c.stream, &c.bytes[..], c.ends_line)).collect();
            assert_eq!(
                short,
                [
                    (LogStream::Stdout, &b"one\n"[..], true),
                    (LogStream::Stderr, b"two", false),
                    (LogStream::Stderr, b" three \n", true),
                    (LogStream::Stdout, b"\n", true),
                    (LogStream::Stdout, b"four", false),
                ]
            );
            assert_eq!(chunks[1].time, at(1_795_451_962, 200_000_000));
            assert_eq!(passed_over, 0);
        }
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        for torn in ["\0\0\0\0", "2026-11-23T16:39", "2026-11-23T16:39:22.1Z std", "x\n\ny\n", "T"]
        {
            let file = format!(
                "2026-11-23T16:39:22.1Z stdout F one\n{torn}2026-11-23T16:39:22.2Z stdout F two\n"
            );
            for size in [1, 1000] {
                let (chunks, passed_over) = parse(file.as_bytes(), size);
                let texts: Vec<_> = chunks.iter().map(|c| &c.bytes[..]).collect();
                assert_eq!(texts, [&b"one\n"[..], b"two\n"], "{torn:?}");
                assert_eq!(passed_over, torn.len() as u64, "{torn:?}");
            }
        }
    }

    #[test]
    fn a_line_without_bound_comes_in_parts() {
        let long = "x".repeat(5 * LONGEST_HELD);
        let file = format!(
            "2026-11-23T16:39:22.1Z stdout F {long}\n2026-11-23T16:39:22.2Z stdout F two\n"
        );
        let (chunks, _) = parse(file.as_bytes(), LONGEST_HELD);
        assert!(chunks.len() > 3);
        let first = chunks[0].time;
        let bytes: Vec<u8> =
            chunks.iter().filter(|c| c.time == first).flat_map(|c| c.bytes.to_vec()).collect();
        assert_eq!(bytes.len(), long.len() + 1);
        assert_eq!(chunks.iter().filter(|c| c.ends_line).count(), 2);
    }

    #[test]
    fn a_file_that_begins_again_is_no_part_of_a_long_piece() {
        let mut parser = Parser::new(false);
        let long = format!("2026-11-23T16:39:22.1Z stdout F {}", "x".repeat(LONGEST_HELD));
        parser.feed(long.into());
        assert!(!parser.next().unwrap().ends_line);
        assert_eq!(parser.next(), None);
        parser.begin_again();
        parser.feed(Bytes::from_static(b"2026-11-23T16:39:22.2Z stderr F two\n"));
        let chunk = parser.next().unwrap();
        assert_eq!((chunk.stream, &chunk.bytes[..]), (LogStream::Stderr, &b"two\n"[..]));
    }

    #[test]
    fn a_terminal_has_one_stream() {
        let mut parser = Parser::new(true);
        parser.feed(Bytes::from_static(b"2026-11-23T16:39:22.1Z stdout F one\r\n"));
        assert_eq!(parser.next().unwrap().stream, LogStream::Console);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_every_byte_is_accounted_for(
            file in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..50
        ) {
            parse(&file, size);
        }

        #[test]
        fn lines_among_garbage_are_found(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(None),
                    "[a-zA-Z0-9 T:.-]{0,40}".prop_map(Some),
                ],
                0..20,
            ),
            size in 1_usize..200,
        ) {
            let mut file = String::new();
            for (number, part) in parts.iter().enumerate() {
                match part {
                    None => file.push_str(
                        &format!("2026-11-23T16:39:22.{number:09}Z stderr F line {number}\n")
                    ),
                    Some(garbage) => { file.push_str(garbage); file.push('\n'); }
                }
            }
            let (chunks, _) = parse(file.as_bytes(), size);
            let lines = parts.iter().filter(|part| part.is_none()).count();
            prop_assert_eq!(chunks.len(), lines);
        }

        #[test]
        fn the_cut_of_the_blocks_makes_no_difference(
            contents in prop::collection::vec(("[a-z]{0,30}", any::<bool>(), any::<bool>()), 0..30),
            size in 1_usize..100,
        ) {
            let mut file = String::new();
            for (number, (text, err, ends)) in contents.iter().enumerate() {
                let stream = if *err { "stderr" } else { "stdout" };
                let tag = if *ends { 'F' } else { 'P' };
                file.push_str(&format!("2026-11-23T16:39:22.{number:09}Z {stream} {tag} {text}\n"));
            }
            let (whole, passed_over) = parse(file.as_bytes(), file.len());
            prop_assert_eq!(passed_over, 0);
            prop_assert_eq!(whole.len(), contents.len());
            prop_assert_eq!(parse(file.as_bytes(), size).0, whole);
        }
    }
}
