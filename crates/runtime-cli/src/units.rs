//! Parsing and formatting of sizes, durations and times.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

/// Parses a size in bytes: `512m`, `1.5g`, `4096`.
pub(crate) fn size(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match number.as_bytes().last() {
        Some(b'k') => (&number[..number.len() - 1], 10),
        Some(b'm') => (&number[..number.len() - 1], 20),
        Some(b'g') => (&number[..number.len() - 1], 30),
        Some(b't') => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << shift).with_context(|| format!("{text:?} is too large"));
    }
    match digits.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "was checked")]
        #[expect(clippy::cast_precision_loss, reason = "a shift by 40 is exact")]
        Ok(part) if (0.0..1e9).contains(&part) => Ok((part * (1_u64 << shift) as f64) as u64),
        _ => bail!("{text:?} is not a size such as 512m or 2g"),
    }
}

/// Parses a duration: `90s`, `10m`, `1h30m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .with_context(|| format!("{text:?} is not a duration"));
    }
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .with_context(|| format!("{text:?} is not a duration such as 90s or 10m"))
}

/// Parses a time: RFC 3339, Unix seconds, or a duration ago.
pub(crate) fn time(text: &str) -> Result<SystemTime> {
    let now = SystemTime::now();
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.into());
    }
    // A number is always Unix seconds and never a duration.
    if let Ok(seconds) = text.parse::<f64>() {
        let since = Duration::try_from_secs_f64(seconds).ok();
        return since
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
            .with_context(|| format!("{text:?} is not a time"));
    }
    match duration(text) {
        Ok(ago) => Ok(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)),
        Err(_) => bail!(
            "{text:?} is not a time such as 2026-01-02T03:04:05Z, 1760000000, or 10m for ten minutes ago"
        ),
    }
}

/// Formats a time as RFC 3339 in UTC with nanoseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(timestamp) => format!("{timestamp:.9}"),
        Err(_) => String::new(),
    }
}

/// Formats the age of a time, rounded: `3 minutes ago`.
pub(crate) fn ago(time: SystemTime) -> String {
    let Ok(age) = SystemTime::now().duration_since(time) else { return "just now".to_owned() };
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0 => return "just now".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

/// Formats bytes with four digits: `12.34MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = if unit == 0 || value >= 1000.0 {
        0
    } else if value >= 100.0 {
        1
    } else {
        2
    };
    format!("{value:.places$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_parsed() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("2gb", 2 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "m", "-1", "1x", "1mm", "99999999999g", "nan", "inf"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn time_is_parsed() {
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap(), time("1").unwrap());
        let ago = SystemTime::now().duration_since(time("10m").unwrap()).unwrap();
        assert!((599..610).contains(&ago.as_secs()));
        assert!(time("yesterday").is_err());
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("0.5").unwrap().as_millis(), 500);
        assert!(duration("-5s").is_err());
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000)),
            "1970-01-01T00:00:01.500000000Z"
        );
    }

    #[test]
    fn bytes_are_formatted_with_four_digits() {
        for (number, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00KiB"),
            (150 << 10, "150.0KiB"),
            (1000 << 20, "1000MiB"),
            (3 << 29, "1.50GiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
