//! Lines of a log as the kubelet gives them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use runtime_core::{Chunk, Error, ErrorKind, LogStream, Result};
use runtime_support::follow::with_carriage_return;

/// How long the pieces are into which engines cut long lines: containerd and Docker, CRI-O.
const PIECES: [usize; 2] = [16 << 10, 8 << 10];

/// Reads one line, with its line end if it has one, and gives its pieces in order.
///
/// A kubelet before 1.27 or so writes a time before every piece of a long line, in the middle of
/// the line; later ones only before the first.
pub(super) fn read(mut line: Bytes, stream: LogStream, mut take: impl FnMut(Chunk)) -> Result<()> {
    let Some((mut time, head)) = stamp(&line) else { return Err(no_log(&line)) };
    bytes::Buf::advance(&mut line, head);
    loop {
        let cut = PIECES.iter().find_map(|&at| {
            let (next, head) = stamp(line.get(at..)?)?;
            (next >= time).then_some((at, next, head))
        });
        let Some((at, next, head)) = cut else { break };
        take(Chunk { time, stream, bytes: line.split_to(at), ends_line: false });
        bytes::Buf::advance(&mut line, head);
        time = next;
    }
    let ends_line = line.last() == Some(&b'\n');
    let last = Chunk { time, stream, bytes: line, ends_line };
    // The engine of the node is not known here; a terminal ends its lines this way with any.
    take(if stream == LogStream::Console { with_carriage_return(last) } else { last });
    Ok(())
}

/// Every line begins with its time. What does not is the kubelet speaking, with a status of 200.
fn no_log(line: &[u8]) -> Error {
    let words = String::from_utf8_lossy(&line[..line.len().min(500)]).trim_end().to_owned();
    // The engine was away, or the container went at the moment of the question.
    let passes = words.starts_with("rpc error:") || words.contains("failed to watch file");
    let kind = if passes { ErrorKind::Unavailable } else { ErrorKind::Lost };
    Error::new(kind).with_message(format!("the node has no log to give: {words}"))
}

/// The time at the beginning of a line, and how long it is with the blank behind it.
pub(super) fn stamp(line: &[u8]) -> Option<(SystemTime, usize)> {
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

/// Days from 1970-01-01 to a day of the Gregorian calendar, counted in years that begin in March,
/// so that the day of the leap comes last.
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
        read(line, LogStream::Unknown, |chunk| {
            let since = chunk.time.duration_since(UNIX_EPOCH).unwrap();
            out.push((u64::try_from(since.as_nanos()).unwrap(), chunk.bytes, chunk.ends_line));
        })?;
        Ok(out)
    }

    const T: &str = "2026-11-23T17:03:44.600863496Z ";

    #[test]
    fn a_line_has_its_time_and_its_text() {
        let got = pieces(format!("{T}start  2026-11-23T17:03:44Z x").as_bytes()).unwrap();
        let nanos = 1_795_453_424_600_863_496;
        assert_eq!(got, [(nanos, Bytes::from("start  2026-11-23T17:03:44Z x\n"), true)]);
        assert_eq!(pieces(T.as_bytes()).unwrap(), [(nanos, Bytes::from("\n"), true)]);
        let offset = pieces(b"2026-11-23T18:33:44.600863496+01:30 x").unwrap();
        assert_eq!(offset[0].0, nanos);
    }

    #[test]
    fn an_old_kubelet_writes_times_into_long_lines() {
        let piece = "x".repeat(16 << 10);
        let later = "2026-11-23T17:03:44.607006791Z ";
        let line = format!("{T}{piece}{later}{piece}{later}rest");
        let got = pieces(line.as_bytes()).unwrap();
        assert_eq!(got.len(), 3);
        assert_eq!((got[0].1.len(), got[0].2), (16 << 10, false));
        assert_eq!((got[1].1.len(), got[1].2), (16 << 10, false));
        assert_eq!((&got[2].1[..], got[2].2), (&b"rest\n"[..], true));
        let whole = format!("{T}{piece}{piece}");
        assert_eq!(pieces(whole.as_bytes()).unwrap().len(), 1, "a new kubelet joins them");
    }

    #[test]
    fn the_kubelets_own_words_are_no_line() {
        for (words, kind) in [
            ("unable to retrieve container logs for containerd://ab", ErrorKind::Lost),
            ("failed to try resolving symlinks in path \"/var\"", ErrorKind::Lost),
            ("rpc error: code = NotFound desc = an error occurred", ErrorKind::Unavailable),
            ("", ErrorKind::Lost),
            ("2026-13-23T17:03:44Z x", ErrorKind::Lost),
            ("2026-11-23T17:03:44Zx", ErrorKind::Lost),
        ] {
            assert_eq!(pieces(words.as_bytes()).unwrap_err().kind(), kind, "{words}");
        }
    }

    proptest! {
        #[test]
        fn any_time_is_read_as_it_was_written(seconds in 0_i64..4_102_444_800, nanos in 0_i32..1_000_000_000) {
            let time = k8s_openapi::jiff::Timestamp::new(seconds, nanos).unwrap();
            let text = format!("{time:.9} x");
            let (read, head) = stamp(text.as_bytes()).unwrap();
            prop_assert_eq!(read, crate::wire::system_time(time));
            prop_assert_eq!(&text[head..], "x");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = pieces(&bytes);
            let mut line = T.as_bytes().to_vec();
            line.extend(&bytes);
            let got = pieces(&line).unwrap();
            prop_assert_eq!(&got[0].1[..], &[&bytes[..], b"\n"].concat()[..]);
        }
    }
}
