//! The caller's labels among those that a container has.
//!
//! The engines put an image's labels on its containers and do not say which are which. So the
//! keys of the caller's own are kept in one more label.

use std::collections::{BTreeMap, BTreeSet};

use runtime_core::{LABEL_PREFIX, LabelFilter};

/// The keys of the caller's labels, as a JSON list.
pub(crate) const LABEL_KEYS: &str = "container-runtime/labels";

/// The value of [`LABEL_KEYS`] for a container with these labels.
pub(crate) fn keys_of(labels: &BTreeMap<String, String>) -> String {
    let own: Vec<&String> = labels.keys().filter(|key| !key.starts_with(LABEL_PREFIX)).collect();
    serde_json::json!(own).to_string()
}

/// The labels of a container that its caller gave.
pub(crate) fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let keys = own_keys(labels.get(LABEL_KEYS).map(String::as_str));
    labels
        .iter()
        .filter(|(key, _)| !key.starts_with(LABEL_PREFIX) && is_own(keys.as_ref(), key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether a container has all labels of a filter, by its caller and not by its image.
pub(crate) fn has_labels<'a>(
    filter: &LabelFilter,
    label: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let keys = match filter.is_empty() {
        true => None,
        false => own_keys(label(LABEL_KEYS)),
    };
    filter.iter().all(|(key, wanted)| match (label(key), wanted) {
        (None, _) => false,
        (Some(value), wanted) => {
            is_own(keys.as_ref(), key) && wanted.as_ref().is_none_or(|wanted| value == wanted)
        }
    })
}

/// `None` for a container that does not say it: any label then counts as its caller's.
fn own_keys(label: Option<&str>) -> Option<BTreeSet<String>> {
    serde_json::from_str(label?).ok()
}

fn is_own(keys: Option<&BTreeSet<String>>, key: &str) -> bool {
    key.starts_with(LABEL_PREFIX) || keys.is_none_or(|keys| keys.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn labels_of_the_image_are_not_the_callers() {
        let given = map([("mine", "1"), ("with \"quotes\"", ""), ("container-runtime/nonce", "n")]);
        let keys = keys_of(&given);
        let mut seen = given.clone();
        seen.insert(LABEL_KEYS.to_owned(), keys);
        seen.insert("image".to_owned(), "x".to_owned());
        assert_eq!(own_labels(&seen), map([("mine", "1"), ("with \"quotes\"", "")]));

        let label = |key: &str| seen.get(key).map(String::as_str);
        let filter = |key: &str, value: Option<&str>| {
            LabelFilter::from([(key.to_owned(), value.map(ToOwned::to_owned))])
        };
        assert!(has_labels(&LabelFilter::new(), label));
        assert!(has_labels(&filter("mine", Some("1")), label));
        assert!(has_labels(&filter("mine", None), label));
        assert!(!has_labels(&filter("mine", Some("2")), label));
        assert!(!has_labels(&filter("image", None), label));
        assert!(!has_labels(&filter("none", None), label));
        assert!(has_labels(&filter("container-runtime/nonce", Some("n")), label));
    }

    #[test]
    fn without_the_list_all_labels_count() {
        let seen = map([("a", "1"), ("container-runtime/scope", "s")]);
        assert_eq!(own_labels(&seen), map([("a", "1")]));
    }
}
