//! Parses and formats the engine's times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses an RFC 3339 time with up to nine fractional digits, in UTC or with an offset. Returns
/// `None` for Go's zero time and all other times before 1970.
pub(crate) fn parse_rfc3339(text: &[u8]) -> Option<SystemTime> {
    let number = |from: usize, to: usize| -> Option<u64> {
        text.get(from..to)?.iter().try_fold(0_u64, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
        })
    };
    let separated = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')]
        .iter()
        .all(|(at, byte)| text.get(*at) == Some(byte));
    if !separated || !matches!(text.get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for at in 0..9 {
            let digit = fraction.get(at).filter(|_| at < digits).map_or(0, |byte| byte - b'0');
            nanos = nanos * 10 + u32::from(digit);
        }
        rest = fraction.get(digits..)?;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let time = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
    match rest {
        b"Z" | b"z" => Some(time),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
            let minutes = (digit(h1)? * 10 + digit(h2)?) * 60 + digit(m1)? * 10 + digit(m2)?;
            let offset = Duration::from_secs(minutes * 60);
            if *sign == b'+' { time.checked_sub(offset) } else { time.checked_add(offset) }
        }
        _ => None,
    }
}

/// Returns the days since 1 January 1970 in the Gregorian calendar. The years begin in March, so
/// that the leap day is the last day.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // 153 days in five months since March; 719_468 days before 1970.
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Converts nanoseconds since 1970. Returns `None` for zero and less.
pub(crate) fn from_nanos(nanos: i64) -> Option<SystemTime> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

/// Formats a time as a query parameter: `SECONDS.NANOSECONDS` since 1970.
pub(crate) fn to_query(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_to_the_nanosecond() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            ("2026-11-23T16:39:14.969965638Z", 1_795_451_954, 969_965_638),
            ("2026-11-23T16:39:14.97Z", 1_795_451_954, 970_000_000),
            ("2026-11-23T17:39:14.97+01:00", 1_795_451_954, 970_000_000),
            ("2026-11-23T11:09:14.97-05:30", 1_795_451_954, 970_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400, 0),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(parse_rfc3339(text.as_bytes()), Some(time), "{text}");
            assert_eq!(to_query(time), format!("{seconds}.{nanos:09}"));
        }
    }

    #[test]
    fn invalid_times_are_none() {
        for text in [
            "",
            "0001-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23",
            "2026-11-23T16:39:14",
            "2026-11-23T16:39:14.Z",
            "2026-11-23T16:39:1xZ",
            "2026-11-23T16:39:14+0100",
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()), None, "{text}");
        }
        assert_eq!(from_nanos(0), None);
        assert_eq!(from_nanos(-1), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_not_panic(text in proptest::collection::vec(0_u8.., 0..40)) {
            let _ = parse_rfc3339(&text);
        }

        #[test]
        fn every_day_since_1970_parses(day in 0_u64..60_000) {
            // Computed by counting days since 1970.
            let (mut year, mut month, mut left) = (1970, 1, day);
            loop {
                let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                let length = match month { 2 => 28 + u64::from(leap), 4 | 6 | 9 | 11 => 30, _ => 31 };
                if left < length { break; }
                left -= length;
                if month == 12 { year += 1; month = 1; } else { month += 1; }
            }
            let text = format!("{year:04}-{month:02}-{:02}T00:00:00Z", left + 1);
            let time = UNIX_EPOCH + Duration::from_secs(day * 86_400);
            proptest::prop_assert_eq!(parse_rfc3339(text.as_bytes()), Some(time));
        }
    }
}
