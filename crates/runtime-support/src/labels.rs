//! What the labels of containers decide.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::LabelFilter;

/// Whether something has all labels of a filter. `label` gives the value of one.
pub fn has_labels<'a>(filter: &LabelFilter, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    filter.iter().all(|(key, wanted)| {
        label(key).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
    })
}

/// Whether something was made at least so long ago, by the caller's clock. `label` is its
/// [`LABEL_CREATED_AT`](runtime_core::LABEL_CREATED_AT), and `engines` when it was made by the
/// engine's clock, which counts where the label does not say it.
///
/// Zero is any age. A clock that was set back makes a thing young, never old.
#[must_use]
pub fn is_old(
    label: Option<&str>,
    engines: Option<SystemTime>,
    age: Duration,
    now: SystemTime,
) -> bool {
    let made = label
        .and_then(|millis| millis.parse().ok())
        .and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))
        .or(engines)
        .unwrap_or(UNIX_EPOCH);
    now.duration_since(made).unwrap_or_default() >= age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_by_name_or_with_their_value() {
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
    fn ages() {
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
