//! The time at the beginning of a message: RFC 3339 with up to nine digits of a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::time::parse_rfc3339;

/// The length of `2006-01-02T15:04:05.000000000+07:00` and a space.
pub(super) const LENGTH_MAX: usize = 36;

/// The result of parsing a time at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// A time, and its length with the space after it.
    Time(SystemTime, usize),
    /// The start of a time. More bytes are needed.
    Incomplete,
    /// No time.
    Invalid,
}

/// Parser of times. It caches the last one, because most differ only in the fraction.
#[derive(Debug)]
pub(super) struct StampParser {
    text: [u8; 19],
    /// The time of `text` in UTC.
    second: SystemTime,
}

impl Default for StampParser {
    fn default() -> Self {
        // A valid time, so that no other text matches the cache.
        Self { text: *b"1970-01-01T00:00:00", second: UNIX_EPOCH }
    }
}

impl StampParser {
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Stamp {
        let Some((text, rest)) = bytes.split_first_chunk::<19>() else {
            return if has_shape(bytes, SHAPE) { Stamp::Incomplete } else { Stamp::Invalid };
        };
        if *text != self.text {
            if !has_shape(text, SHAPE) {
                return Stamp::Invalid;
            }
            let mut utc = [b'Z'; 20];
            utc[..19].copy_from_slice(text);
            let Some(second) = parse_rfc3339(&utc) else { return Stamp::Invalid };
            (self.text, self.second) = (*text, second);
        }
        let (mut nanos, mut at) = (0_u32, 0);
        if rest.first() == Some(&b'.') {
            let mut unit = 1_000_000_000;
            for &byte in rest[1..].iter().take(9).take_while(|byte| byte.is_ascii_digit()) {
                unit /= 10;
                nanos += u32::from(byte - b'0') * unit;
                at += 1;
            }
            at += 1;
            if at == 1 {
                return if rest.len() == 1 { Stamp::Incomplete } else { Stamp::Invalid };
            }
        }
        let (offset, zone) = match rest.get(at) {
            None => return Stamp::Incomplete,
            Some(b'Z') => (0, 1),
            Some(b'+' | b'-') => {
                let zone = &rest[at + 1..];
                if !has_shape(zone, b"00:00") {
                    return Stamp::Invalid;
                }
                let Some(zone) = zone.first_chunk::<5>() else { return Stamp::Incomplete };
                (two(zone, 0) * 3600 + two(zone, 3) * 60, 6)
            }
            Some(_) => return Stamp::Invalid,
        };
        match rest.get(at + zone) {
            None => return Stamp::Incomplete,
            Some(b' ') => {}
            Some(_) => return Stamp::Invalid,
        }
        let offset = Duration::from_secs(offset);
        let east = rest[at] == b'+';
        let second =
            if east { self.second.checked_sub(offset) } else { self.second.checked_add(offset) };
        let time = second.and_then(|second| second.checked_add(Duration::from_nanos(nanos.into())));
        time.map_or(Stamp::Invalid, |time| Stamp::Time(time, 19 + at + zone + 1))
    }
}

const SHAPE: &[u8; 19] = b"0000-00-00T00:00:00";

/// Returns `true` if `bytes` are a prefix of the format `shape`: digits for zeros, and all else as it
/// is.
fn has_shape(bytes: &[u8], shape: &[u8]) -> bool {
    bytes.iter().zip(shape).all(|(byte, &wanted)| match wanted {
        b'0' => byte.is_ascii_digit(),
        wanted => *byte == wanted,
    })
}

fn two(bytes: &[u8], at: usize) -> u64 {
    u64::from(bytes[at] - b'0') * 10 + u64::from(bytes[at + 1] - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Stamp {
        StampParser::default().parse(text.as_bytes())
    }

    fn time(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn nul_bytes_are_invalid() {
        assert_eq!(StampParser::default().parse(&[0; 19]), Stamp::Invalid);
        assert_eq!(parse("1970-01-01T00:00:00Z "), Stamp::Time(UNIX_EPOCH, 21));
    }

    #[test]
    fn times_of_engines_parse() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z ", 0, 0),
            ("2026-11-23T16:24:36.876662544Z ", 1_795_451_076, 876_662_544),
            ("2026-11-23T16:24:37Z ", 1_795_451_077, 0),
            ("2026-11-23T18:54:37.5+02:30 ", 1_795_451_077, 500_000_000),
            ("2026-11-23T09:24:37.000000001-07:00 ", 1_795_451_077, 1),
            ("2024-02-29T23:59:59.999999999Z ", 1_709_251_199, 999_999_999),
            ("2000-03-01T00:00:00Z ", 951_868_800, 0),
            ("2100-03-01T00:00:00.1Z ", 4_107_542_400, 100_000_000),
            ("9999-12-31T23:59:59.123456Z ", 253_402_300_799, 123_456_000),
        ] {
            assert_eq!(parse(text), Stamp::Time(time(seconds, nanos), text.len()), "{text}");
            for short in 0..text.len() {
                assert_eq!(parse(&text[..short]), Stamp::Incomplete, "{}", &text[..short]);
            }
        }
    }

    #[test]
    fn invalid_times_are_rejected() {
        for text in [
            "x",
            "2026-11-23 16:24:37Z ",
            "2026-13-23T16:24:37Z ",
            "2026-11-00T16:24:37Z ",
            "2026-11-23T24:00:00Z ",
            "2026-11-23T16:24:37Zx",
            "2026-11-23T16:24:37.Z ",
            "2026-11-23T16:24:37.1234567890Z ",
            "2026-11-23T16:24:37+0200 ",
            "0001-01-01T00:00:00Z ",
            "2026-11-23T16:24:37",
        ] {
            let whole = text == "2026-11-23T16:24:37";
            assert_eq!(
                parse(text),
                if whole { Stamp::Incomplete } else { Stamp::Invalid },
                "{text}"
            );
        }
    }

    #[test]
    fn cached_second_does_not_change_result() {
        let mut stamps = StampParser::default();
        for (text, seconds) in [
            ("2026-11-23T16:24:37.5Z ", 1_795_451_077),
            ("2026-11-23T16:24:37.5+01:00 ", 1_795_447_477),
            ("2026-11-23T16:24:37.5Z ", 1_795_451_077),
            ("2026-11-23T16:24:38.5Z ", 1_795_451_078),
        ] {
            assert_eq!(
                stamps.parse(text.as_bytes()),
                Stamp::Time(time(seconds, 500_000_000), text.len())
            );
        }
    }
}
