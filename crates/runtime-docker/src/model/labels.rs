//! The caller's labels among the labels of a container.
//!
//! The engines add an image's labels to its containers without a mark, and Podman truncates a key
//! at its first `=`. Therefore an additional label stores the caller's labels as JSON.

use std::collections::BTreeMap;

use runtime_core::{LABEL_MANAGED, LABEL_PREFIX, LABEL_SCOPE, LabelFilter, Scope};

/// The label with the caller's labels, as a JSON object.
pub(crate) const LABEL_OWN: &str = "container-runtime/labels";

/// Returns the value of [`LABEL_OWN`] for these labels.
pub(crate) fn own_as_text(labels: &BTreeMap<String, String>) -> String {
    let own: BTreeMap<&String, &String> =
        labels.iter().filter(|(key, _)| !key.starts_with(LABEL_PREFIX)).collect();
    serde_json::json!(own).to_string()
}

/// Returns the caller's labels among the labels of a container.
pub(crate) fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    own_of_text(labels.get(LABEL_OWN).map(String::as_str)).unwrap_or_else(|| {
        labels
            .iter()
            .filter(|(key, _)| !key.starts_with(LABEL_PREFIX))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    })
}

/// Returns `true` if the caller's labels of a container match a filter. `label` returns one of the
/// engine's labels.
pub(crate) fn has_labels<'a>(
    filter: &LabelFilter,
    label: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    if filter.is_empty() {
        return true;
    }
    let own = own_of_text(label(LABEL_OWN));
    runtime_support::has_labels(filter, |key| match &own {
        Some(own) if !key.starts_with(LABEL_PREFIX) => own.get(key).map(String::as_str),
        _ => label(key),
    })
}

/// Returns `true` if a container was created by this library in this scope.
pub(crate) fn is_managed<'a>(scope: &Scope, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    label(LABEL_MANAGED) == Some("true") && label(LABEL_SCOPE) == Some(scope.as_str())
}

/// Parses [`LABEL_OWN`]. Without it, all labels count as the caller's.
fn own_of_text(label: Option<&str>) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(label?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn labels_of_image_are_excluded() {
        let given = map([("mine", "1"), ("with \"quotes\"", ""), ("container-runtime/nonce", "n")]);
        let own = own_as_text(&given);
        let mut seen = given.clone();
        seen.insert(LABEL_OWN.to_owned(), own);
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
    fn labels_without_own_label_all_count() {
        let seen = map([("a", "1"), ("container-runtime/scope", "s")]);
        assert_eq!(own_labels(&seen), map([("a", "1")]));
    }
}
