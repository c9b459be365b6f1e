//! Log format of the CRI: `TIME STREAM TAG CONTENT`, one line for each chunk of output.
//!
//! `TIME` has the format of RFC 3339 with up to nine fractional digits. `STREAM` is `stdout` or
//! `stderr`. `TAG` begins with `F` (full) for the end of a line, or with `P` for a partial line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use memchr::memchr;
use runtime_core::{Chunk, LogStream};

/// Maximum size of an incomplete chunk that is buffered. A larger one is returned in parts.
const BUFFERED_BYTES_MAX: usize = 64 << 10;

/// Minimum length of a head, `2006-01-02T15:04:05Z stdout F`.
const HEAD_BYTES_MIN: usize = 29;

/// Maximum length of a head. Known tags are shorter.
const HEAD_BYTES_MAX: usize = 256;

/// Parser of the blocks of a log file. It does not copy: the chunks are slices of the blocks.
///
/// Bytes that are not a line of this format are skipped up to the next line. A full disk or a crash
/// of the host can leave such bytes.
#[derive(Debug)]
pub(crate) struct Parser {
    block: Bytes,
    terminal: bool,
    /// Head of a long chunk of which a part was returned.
    partial: Option<Head>,
    timestamps: TimestampParser,
    skipped_bytes: u64,
}

/// Head of a line, before the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    time: SystemTime,
    stream: LogStream,
    ends_line: bool,
}

impl Parser {
    /// Returns a parser for the log of a container with or without a terminal.
    pub(crate) fn new(terminal: bool) -> Self {
        Self {
            block: Bytes::new(),
            terminal,
            partial: None,
            timestamps: TimestampParser::default(),
            skipped_bytes: 0,
        }
    }

    /// Sets the next block, which must begin with the result of [`take_rest`](Self::take_rest).
    pub(crate) fn feed(&mut self, block: Bytes) {
        debug_assert!(self.block.is_empty(), "the rest was not taken");
        self.block = block;
    }

    /// Returns the bytes that are not a whole line yet.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.block)
    }

    /// Discards the state of a long chunk, because the next block begins a file.
    pub(crate) fn reset(&mut self) {
        self.partial = None;
    }

    /// Returns the number of skipped bytes.
    pub(crate) const fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// Returns the next chunk, or `None` if the parser needs the next block.
    pub(crate) fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(head) = self.partial {
                return self.continue_partial(head);
            }
            let Some(end) = memchr(b'\n', &self.block) else {
                return self.start_partial();
            };
            let Some((head, at)) = head(&self.block[..end], &mut self.timestamps) else {
                self.resync(end);
                continue;
            };
            // The line end of the file is also that of the content.
            let content =
                if head.ends_line { self.block.slice(at..=end) } else { self.block.slice(at..end) };
            self.block.advance(end + 1);
            return Some(self.chunk(head, content, head.ends_line));
        }
    }

    /// Returns the last chunk, if the file ends in the middle of a line.
    pub(crate) fn finish(&mut self) -> Option<Chunk> {
        let rest = self.take_rest();
        if rest.is_empty() {
            return None;
        }
        let (head, at) = match self.partial.take() {
            Some(head) => (head, 0),
            None => match head(&rest, &mut self.timestamps) {
                Some(found) => found,
                None => {
                    self.skipped_bytes += rest.len() as u64;
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

    /// Returns the first part of a line without an end in this block, if it is long.
    fn start_partial(&mut self) -> Option<Chunk> {
        if self.block.len() < BUFFERED_BYTES_MAX {
            return None;
        }
        match head(&self.block, &mut self.timestamps) {
            Some((head, at)) => {
                self.block.advance(at);
                self.partial = Some(head);
                self.continue_partial(head)
            }
            None => {
                // The end of the block may be the beginning of a head.
                self.resync(self.block.len() - HEAD_BYTES_MAX);
                None
            }
        }
    }

    /// Returns the next part of a long chunk.
    fn continue_partial(&mut self, head: Head) -> Option<Chunk> {
        if self.block.is_empty() {
            return None;
        }
        let Some(end) = memchr(b'\n', &self.block) else {
            let bytes = self.take_rest();
            return Some(self.chunk(head, bytes, false));
        };
        self.partial = None;
        let bytes = self.block.slice(..end + usize::from(head.ends_line));
        self.block.advance(end + 1);
        Some(self.chunk(head, bytes, head.ends_line))
    }

    /// Skips to the next head in this line, or to the next line.
    fn resync(&mut self, end: usize) {
        let line = &self.block[..end];
        let mut from = 1;
        let next = loop {
            // A time has a `T` after ten digits and dashes.
            let Some(at) = line.get(from + 10..).and_then(|rest| memchr(b'T', rest)) else {
                break (end + 1).min(self.block.len());
            };
            let at = from + at;
            if head(&line[at..], &mut self.timestamps).is_some() {
                break at;
            }
            from = at + 1;
        };
        self.skipped_bytes += next as u64;
        self.block.advance(next);
    }
}

/// Parses the head of a line. Also returns the position of the content.
fn head(line: &[u8], timestamps: &mut TimestampParser) -> Option<(Head, usize)> {
    if line.len() < HEAD_BYTES_MIN {
        return None;
    }
    let (time, at) = timestamps.read(line)?;
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
    // Engines write one tag and a space. The format allows more tags after a colon.
    let content = match rest.get(9) {
        Some(b' ') => at + 10,
        None => at + 9,
        Some(b':') => {
            let tags = &rest[9..rest.len().min(HEAD_BYTES_MAX)];
            at + 9 + memchr(b' ', tags)? + 1
        }
        Some(_) => return None,
    };
    Some((Head { time, stream, ends_line }, content))
}

/// Returns the time of the line at the beginning of a block.
pub(crate) fn time_of(line: &[u8]) -> Option<SystemTime> {
    head(line, &mut TimestampParser::default()).map(|(head, _)| head.time)
}

/// Returns the stream of the line at the beginning of a block, and whether its chunk ends a line.
pub(crate) fn tag_of(line: &[u8]) -> Option<(LogStream, bool)> {
    head(line, &mut TimestampParser::default()).map(|(head, _)| (head.stream, head.ends_line))
}

/// Parser of times, which caches the last second, because most lines have that of the line before.
#[derive(Debug, Default)]
struct TimestampParser {
    /// Text of the last second, such as `2006-01-02T15:04:05`.
    second: [u8; 19],
    /// Seconds since 1970 of that text.
    seconds: u64,
}

impl TimestampParser {
    /// Parses a time. Also returns the position of its end.
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

/// Returns the seconds since 1970 of a text such as `2006-01-02T15:04:05`.
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
    // Leap days from 1970 to the year before.
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

    /// Parses a file in blocks of this size.
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
        (chunks, parser.skipped_bytes())
    }

    #[test]
    fn times_of_engines_are_parsed() {
        let mut timestamps = TimestampParser::default();
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-11-23T16:39:22.346953765Z", 1_795_451_962, 346_953_765),
            // containerd omits trailing zeros, and writes the time zone of the host.
            ("2026-11-23T16:39:22.34Z", 1_795_451_962, 340_000_000),
            ("2026-11-23T18:39:22.34+02:00", 1_795_451_962, 340_000_000),
            ("2026-11-23T11:09:22.34-05:30", 1_795_451_962, 340_000_000),
            ("2024-02-29T23:59:59.000000001Z", 1_709_251_199, 1),
            ("2000-03-01T00:00:00Z", 951_868_800, 0),
            ("2100-03-01T00:00:00Z", 4_107_542_400, 0),
        ] {
            let line = format!("{text} stdout F x");
            let (time, end) = timestamps.read(line.as_bytes()).unwrap();
            assert_eq!((time, end), (at(seconds, nanos), text.len()), "{text}");
        }
    }

    #[test]
    fn invalid_time_is_none() {
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
    fn chunks_have_stream_content_and_line_end() {
        let file = b"2026-11-23T16:39:22.1Z stdout F one\n\
            2026-11-23T16:39:22.2Z stderr P two\n\
            2026-11-23T16:39:22.3Z stderr F  three \n\
            2026-11-23T16:39:22.4Z stdout F \n\
            2026-11-23T16:39:22.5Z stdout P:x:y four";
        for size in [1, 7, 64, 1000] {
            let (chunks, skipped_bytes) = parse(file, size);
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
            assert_eq!(skipped_bytes, 0);
        }
    }

    #[test]
    fn torn_line_does_not_affect_others() {
        for torn in ["\0\0\0\0", "2026-11-23T16:39", "2026-11-23T16:39:22.1Z std", "x\n\ny\n", "T"]
        {
            let file = format!(
                "2026-11-23T16:39:22.1Z stdout F one\n{torn}2026-11-23T16:39:22.2Z stdout F two\n"
            );
            for size in [1, 1000] {
                let (chunks, skipped_bytes) = parse(file.as_bytes(), size);
                let texts: Vec<_> = chunks.iter().map(|c| &c.bytes[..]).collect();
                assert_eq!(texts, [&b"one\n"[..], b"two\n"], "{torn:?}");
                assert_eq!(skipped_bytes, torn.len() as u64, "{torn:?}");
            }
        }
    }

    #[test]
    fn long_line_is_returned_in_parts() {
        let long = "x".repeat(5 * BUFFERED_BYTES_MAX);
        let file = format!(
            "2026-11-23T16:39:22.1Z stdout F {long}\n2026-11-23T16:39:22.2Z stdout F two\n"
        );
        let (chunks, _) = parse(file.as_bytes(), BUFFERED_BYTES_MAX);
        assert!(chunks.len() > 3);
        let first = chunks[0].time;
        let bytes: Vec<u8> =
            chunks.iter().filter(|c| c.time == first).flat_map(|c| c.bytes.to_vec()).collect();
        assert_eq!(bytes.len(), long.len() + 1);
        assert_eq!(chunks.iter().filter(|c| c.ends_line).count(), 2);
    }

    #[test]
    fn reset_discards_a_partial_chunk() {
        let mut parser = Parser::new(false);
        let long = format!("2026-11-23T16:39:22.1Z stdout F {}", "x".repeat(BUFFERED_BYTES_MAX));
        parser.feed(long.into());
        assert!(!parser.next().unwrap().ends_line);
        assert_eq!(parser.next(), None);
        parser.reset();
        parser.feed(Bytes::from_static(b"2026-11-23T16:39:22.2Z stderr F two\n"));
        let chunk = parser.next().unwrap();
        assert_eq!((chunk.stream, &chunk.bytes[..]), (LogStream::Stderr, &b"two\n"[..]));
    }

    #[test]
    fn terminal_has_stream_console() {
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
            let (whole, skipped_bytes) = parse(file.as_bytes(), file.len());
            prop_assert_eq!(skipped_bytes, 0);
            prop_assert_eq!(whole.len(), contents.len());
            prop_assert_eq!(parse(file.as_bytes(), size).0, whole);
        }
    }
}
