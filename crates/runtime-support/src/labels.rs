//! Label filters and label-based ages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::LabelFilter;

/// Returns `true` if all labels of a filter match. `label` returns the value of a label.
pub fn has_labels<'a>(filter: &LabelFilter, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    filter.iter().all(|(key, wanted)| {
        label(key).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
    })
}

/// Returns `true` if a resource was created at least `age` ago, by the caller's clock. `label` is
/// its [`LABEL_CREATED_AT`](runtime_core::LABEL_CREATED_AT). If the label is missing or malformed,
/// `engine_time` is used, the creation time by the engine's clock.
///
/// An `age` of zero matches every resource. A clock that was set back makes a resource appear
/// newer, never older.
#[must_use]
pub fn is_old(
    label: Option<&str>,
    engine_time: Option<SystemTime>,
    age: Duration,
    now: SystemTime,
) -> bool {
    let created = label
        .and_then(|millis| millis.parse().ok())
        .and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))
        .or(engine_time)
        .unwrap_or(UNIX_EPOCH);
    now.duration_since(created).unwrap_or_default() >= age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_labels_matches_key_or_key_and_value() {
        let filter = |key: &str, value: Option<&str>| {
            LabelFilter::from([(key.to_owned(), value.map(str::to_owned))])
        };
        let label = |key: &str| (key == "mine").then_some("1");
        assert!(has_labels(&LabelFilter::new(), label));
        assert!(has_labels(&filter("mine", None), label));
        assert!(has_labels(&filter("mine", Some("1")), label));
        assert!(!has_labels(&filter("mine", Some("2")), label));
        assert!(!has_labels(&filter("other", None), label));
    }

    #[test]
    fn is_old_compares_label_or_engine_time() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let (now, age) = (at(100), Duration::from_secs(10));
        assert!(is_old(Some("90000"), None, age, now));
        assert!(!is_old(Some("90001"), None, age, now));
        assert!(!is_old(Some("200000"), None, age, now), "the clock was set back");
        assert!(is_old(Some("200000"), None, Duration::ZERO, now));
        assert!(is_old(Some("90000"), Some(at(99)), age, now), "the caller's clock counts");
        for unreadable in [None, Some(""), Some("99999999999999999999")] {
            assert!(is_old(unreadable, Some(at(90)), age, now));
            assert!(!is_old(unreadable, Some(at(91)), age, now));
            assert!(is_old(unreadable, None, age, now), "as old as can be");
        }
    }
}
