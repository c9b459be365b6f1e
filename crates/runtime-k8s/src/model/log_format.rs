//! Lines of a log as the kubelet returns them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes, BytesMut};
use runtime_core::{Chunk, Error, ErrorKind, LogStream, Result};
use runtime_support::follow::with_carriage_return;

/// Lengths of the pieces into which engines split long lines: containerd and Docker, CRI-O.
const PIECE_LENGTHS: [usize; 2] = [16 << 10, 8 << 10];

/// How much earlier the time of a piece may be than that of the previous piece. The pieces may be
/// of both streams, which the engine reads independently.
const DISORDER_MAX: Duration = Duration::from_secs(2);

/// How much of a line shows if it has a time after its first piece.
const HEAD_BYTES: usize = PIECE_LENGTHS[0] + 64;

/// Maximum length of a piece. It limits the memory for a line without an end.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;

/// Reads the lines of one log, in order.
///
/// A kubelet before about 1.27 writes a time before every piece of a long line, within the line.
/// Later ones write a time only before the first piece.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: LogStream,
    /// A line whose end was not read yet.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    time: SystemTime,
    /// The part that was not returned yet.
    rest: Bytes,
    /// Whether the kubelet has joined the pieces, so that the line has only one time.
    is_joined: bool,
}

impl Reader {
    pub(crate) const fn new(stream: LogStream) -> Self {
        Self { stream, begun: None }
    }

    /// Returns whether the end of the current line was not read yet.
    pub(crate) const fn is_in_line(&self) -> bool {
        self.begun.is_some()
    }

    /// Reads a line, or the next part of one, and passes its pieces to `take` in order. `is_all`
    /// marks the last part of a line.
    ///
    /// The pieces do not depend on the parts in which a line arrives, so that a reopened log has
    /// the same pieces.
    pub(crate) fn read(
        &mut self,
        part: Bytes,
        is_all: bool,
        mut take: impl FnMut(Chunk),
    ) -> Result<()> {
        let stream = self.stream;
        let Begun { mut time, rest: mut line, mut is_joined } = match self.begun.take() {
            Some(begun) => Begun { rest: join(&begun.rest, part), ..begun },
            None => begin(part)?,
        };
        while is_all || is_joined || line.len() >= HEAD_BYTES {
            let cut = if is_joined { None } else { cut(&line, time) };
            let (at, next, head) = match cut {
                Some(cut) => cut,
                None if line.len() > PIECE_BYTES_MAX => (PIECE_BYTES_MAX, time, 0),
                None => {
                    is_joined = true;
                    break;
                }
            };
            is_joined = cut.is_none();
            take(Chunk { time, stream, bytes: line.split_to(at), ends_line: false });
            line.advance(head);
            time = next;
        }
        if !is_all {
            self.begun = Some(Begun { time, rest: line, is_joined });
            return Ok(());
        }
        let ends_line = line.last() == Some(&b'\n');
        let last = Chunk { time, stream, bytes: line, ends_line };
        // The engine of the node is unknown. With any engine, a terminal ends its lines this way.
        take(if stream == LogStream::Console { with_carriage_return(last) } else { last });
        Ok(())
    }
}

fn begin(mut line: Bytes) -> Result<Begun> {
    let Some((time, head)) = stamp(&line) else { return Err(no_log(&line)) };
    line.advance(head);
    Ok(Begun { time, rest: line, is_joined: false })
}

fn join(rest: &Bytes, part: Bytes) -> Bytes {
    if rest.is_empty() {
        return part;
    }
    let mut joined = BytesMut::with_capacity(rest.len() + part.len());
    joined.extend_from_slice(rest);
    joined.extend_from_slice(&part);
    joined.freeze()
}

/// Returns the end of the first piece of a line, the time of the next piece, and the length of that
/// time.
fn cut(line: &[u8], time: SystemTime) -> Option<(usize, SystemTime, usize)> {
    PIECE_LENGTHS.iter().find_map(|&at| {
        let (next, head) = stamp(line.get(at..)?)?;
        (next + DISORDER_MAX >= time).then_some((at, next, head))
    })
}

/// Returns the error for a line without a time, which is an error message of the kubelet with the
/// status 200.
fn no_log(line: &[u8]) -> Error {
    let message = String::from_utf8_lossy(&line[..line.len().min(500)]).trim_end().to_owned();
    // The engine was unavailable, or the container was removed during the request.
    let passes = message.starts_with("rpc error:") || message.contains("failed to watch file");
    let kind = if passes { ErrorKind::Unavailable } else { ErrorKind::Lost };
    Error::new(kind).with_message(format!("failed to read the log on the node: {message}"))
}

/// Returns the time at the beginning of a line, and its length with the following space.
pub(crate) fn stamp(line: &[u8]) -> Option<(SystemTime, usize)> {
    // 2026-11-23T17:03:44.600863496Z, or an offset in place of the Z.
    let fixed = line.get(..20)?;
    if [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')]
        .iter()
        .any(|&(at, byte)| fixed[at] != byte)
    {
        return None;
    }
    let (year, month, day) = (number(&line[..4])?, number(&line[5..7])?, number(&line[8..10])?);
    let (hour, minute, second) =
        (number(&line[11..13])?, number(&line[14..16])?, number(&line[17..19])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0_u32;
    if line[at] == b'.' {
        at += 1;
        let digits = line[at..].iter().take(9).take_while(|b| b.is_ascii_digit()).count();
        let value = u32::try_from(number(line.get(at..at + digits)?)?).ok()?;
        nanos = value * 10_u32.pow(9 - u32::try_from(digits).ok()?);
        at += digits;
    }
    let mut offset = 0_i64;
    match line.get(at)? {
        b'Z' => at += 1,
        sign @ (b'+' | b'-') => {
            let zone = line.get(at + 1..at + 6).filter(|zone| zone[2] == b':')?;
            let seconds =
                i64::try_from(number(&zone[..2])? * 3600 + number(&zone[3..])? * 60).ok()?;
            offset = if *sign == b'+' { seconds } else { -seconds };
            at += 6;
        }
        _ => return None,
    }
    if *line.get(at)? != b' ' {
        return None;
    }
    let days = days_from_civil(i64::try_from(year).ok()?, month, day);
    let time_of_day = i64::try_from(hour * 3600 + minute * 60 + second).ok()?;
    let seconds = u64::try_from(days * 86_400 + time_of_day - offset).ok()?;
    Some((UNIX_EPOCH + Duration::new(seconds, nanos), at + 1))
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar. It counts in years that
/// begin in March, so that a leap day is the last of its year.
fn days_from_civil(year: i64, month: u64, day: u64) -> i64 {
    let (month, day) = (month.cast_signed(), day.cast_signed());
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(line: &[u8]) -> Result<Vec<(u64, Bytes, bool)>> {
        let mut out = Vec::new();
        let line = Bytes::from([line, b"\n"].concat());
        Reader::new(LogStream::Unknown).read(line, true, |chunk| {
            let since = chunk.time.duration_since(UNIX_EPOCH).unwrap();
            out.push((u64::try_from(since.as_nanos()).unwrap(), chunk.bytes, chunk.ends_line));
        })?;
        Ok(out)
    }

    const T: &str = "2026-11-23T17:03:44.600863496Z ";

    #[test]
    fn line_is_parsed_with_time_and_text() {
        let got = pieces(format!("{T}start  2026-11-23T17:03:44Z x").as_bytes()).unwrap();
        let nanos = 1_795_453_424_600_863_496;
        assert_eq!(got, [(nanos, Bytes::from("start  2026-11-23T17:03:44Z x\n"), true)]);
        assert_eq!(pieces(T.as_bytes()).unwrap(), [(nanos, Bytes::from("\n"), true)]);
        let offset = pieces(b"2026-11-23T18:33:44.600863496+01:30 x").unwrap();
        assert_eq!(offset[0].0, nanos);
    }

    #[test]
    fn times_within_long_lines_are_removed() {
        let piece = "x".repeat(16 << 10);
        let later = "2026-11-23T17:03:44.607006791Z ";
        let line = format!("{T}{piece}{later}{piece}{later}rest");
        let got = pieces(line.as_bytes()).unwrap();
        assert_eq!(got.len(), 3);
        assert_eq!((got[0].1.len(), got[0].2), (16 << 10, false));
        assert_eq!((got[1].1.len(), got[1].2), (16 << 10, false));
        assert_eq!((&got[2].1[..], got[2].2), (&b"rest\n"[..], true));
        // The second piece is of the other stream.
        let earlier = "2026-11-23T17:03:44.590000000Z ";
        let got = pieces(format!("{T}{piece}{earlier}rest").as_bytes()).unwrap();
        assert_eq!((got.len(), &got[1].1[..]), (2, &b"rest\n"[..]));
        let other = "2026-11-23T16:59:00Z rest";
        let got = pieces(format!("{T}{piece}{other}").as_bytes()).unwrap();
        assert_eq!(got.len(), 1, "a line of the container");
        let whole = format!("{T}{piece}{piece}");
        assert_eq!(pieces(whole.as_bytes()).unwrap().len(), 1, "a newer kubelet joins them");
    }

    /// Returns the chunks of a line that arrives in parts of this length.
    fn in_parts(line: &[u8], length: usize) -> Vec<Chunk> {
        let mut reader = Reader::new(LogStream::Unknown);
        let mut chunks = Vec::new();
        let mut parts = line.chunks(length).peekable();
        while let Some(part) = parts.next() {
            let is_all = parts.peek().is_none();
            reader.read(Bytes::copy_from_slice(part), is_all, |chunk| chunks.push(chunk)).unwrap();
            assert_eq!(reader.is_in_line(), !is_all);
        }
        chunks
    }

    #[test]
    fn pieces_of_endless_line_do_not_depend_on_parts() {
        let piece = "x".repeat(16 << 10);
        let joined = format!("{T}{}", "x".repeat(2 * PIECE_BYTES_MAX + 5));
        let stamped = format!("{T}{piece}").repeat(150) + T + "rest\n";
        let small = format!("{T}{}", "x".repeat(8 << 10)).repeat(5) + T + "rest\n";
        for line in [&joined, &format!("{T}{}\n", "x".repeat(PIECE_BYTES_MAX)), &stamped, &small] {
            let whole = in_parts(line.as_bytes(), usize::MAX);
            for length in [64, 16 << 10, PIECE_BYTES_MAX + 1] {
                assert_eq!(in_parts(line.as_bytes(), length), whole, "{length}");
            }
            assert!(whole.iter().all(|chunk| chunk.bytes.len() <= PIECE_BYTES_MAX));
            let ends = whole.iter().filter(|chunk| chunk.ends_line).count();
            assert_eq!(ends, usize::from(line.ends_with('\n')));
        }
        assert_eq!(in_parts(joined.as_bytes(), PIECE_BYTES_MAX).len(), 3);
        assert_eq!(in_parts(stamped.as_bytes(), PIECE_BYTES_MAX).len(), 151);
        assert_eq!(in_parts(small.as_bytes(), PIECE_BYTES_MAX).len(), 6);
    }

    #[test]
    fn kubelet_error_message_returns_error() {
        for (message, kind) in [
            ("unable to retrieve container logs for containerd://ab", ErrorKind::Lost),
            ("failed to try resolving symlinks in path \"/var\"", ErrorKind::Lost),
            ("rpc error: code = NotFound desc = an error occurred", ErrorKind::Unavailable),
            ("", ErrorKind::Lost),
            ("2026-13-23T17:03:44Z x", ErrorKind::Lost),
            ("2026-11-23T17:03:44Zx", ErrorKind::Lost),
        ] {
            assert_eq!(pieces(message.as_bytes()).unwrap_err().kind(), kind, "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_time_is_parsed(seconds in 0_i64..4_102_444_800, nanos in 0_i32..1_000_000_000) {
            let time = k8s_openapi::jiff::Timestamp::new(seconds, nanos).unwrap();
            let text = format!("{time:.9} x");
            let (read, head) = stamp(text.as_bytes()).unwrap();
            prop_assert_eq!(read, crate::model::api::system_time(time));
            prop_assert_eq!(&text[head..], "x");
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = pieces(&bytes);
            let mut line = T.as_bytes().to_vec();
            line.extend(&bytes);
            let got = pieces(&line).unwrap();
            prop_assert_eq!(&got[0].1[..], &[&bytes[..], b"\n"].concat()[..]);
        }
    }
}
