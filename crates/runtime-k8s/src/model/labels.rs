//! Names, labels and annotations of the objects that this backend creates.
//!
//! A label of Kubernetes has at most 63 characters of a small set, but a label of the caller may be
//! any text. So an annotation of the pod has all labels of the caller, and for each of them a label
//! of two hashes is for selection by the server: its name is the hash of the key, its value the
//! hash of the value.

use std::fmt::Write as _;

use runtime_core::{ContainerName, LABEL_MANAGED, LABEL_SCOPE, LabelFilter, Scope};
use sha2::{Digest, Sha256};

/// The name of the one container of every pod.
pub(crate) const CONTAINER: &str = "main";

/// The name that the caller has given to the container.
pub(crate) const NAME: &str = "container-runtime/name";
/// The labels of the caller, as one JSON object.
pub(crate) const LABELS: &str = "container-runtime/labels";
/// The image that the caller has requested. A webhook may replace the field of the pod, and a stop
/// does.
pub(crate) const IMAGE: &str = "container-runtime/image";
/// The time of the start, by the clock of the caller, in milliseconds since the Unix epoch.
pub(crate) const STARTED_AT: &str = "container-runtime/started-at";
/// The time of the stop, by the clock of the caller, in milliseconds since the Unix epoch.
pub(crate) const STOPPED_AT: &str = "container-runtime/stopped-at";
/// The exit, as JSON, if this library has marked the container as failed.
pub(crate) const VERDICT: &str = "container-runtime/verdict";
/// The objects that belong to the pod: `secret`, `budget`, joined by a comma.
pub(crate) const BELONGINGS: &str = "container-runtime/belongings";

/// The value of the managed label of a probe, which is not a container.
pub(crate) const PROBE: &str = "probe";

/// The invalid image reference of a stopped container.
pub(crate) const STOPPED_IMAGE: &str = "!stopped";

/// The name of the scheduling gate of a pod until its start.
pub(crate) const GATE: &str = "container-runtime/start";

/// The label that every start adds to its pod, with the nonce as its value. The affinity of a pod
/// without a scheduling gate requires it.
pub(crate) const RELEASED: &str = "container-runtime/released";

/// Returns the name of the volume of a mount.
pub(crate) fn volume(at: usize) -> String {
    format!("mount-{at}")
}

const SELECTION_PREFIX: &str = "labels.container-runtime/";

/// Returns the name of the pod of a container. It depends only on the name of the container, so
/// that the API server refuses a name that is taken, and it is short enough for a host name.
pub(crate) fn pod_name(name: &ContainerName) -> String {
    let mut slug = String::with_capacity(63);
    for c in name.as_str().chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() == 42 {
            break;
        }
    }
    while slug.ends_with('-') {
        slug.pop();
    }
    if !slug.is_empty() {
        slug.push('-');
    }
    slug.push_str(&hash(name.as_str())[..20]);
    slug
}

/// Returns the label that selects a label of the caller.
pub(crate) fn selection_label(key: &str) -> String {
    format!("{SELECTION_PREFIX}{}", &hash(key)[..32])
}

/// Returns the value of the label that selects a label of the caller.
pub(crate) fn selection_value(value: &str) -> String {
    hash(value)[..32].to_owned()
}

/// Returns the label selector for the pods of a scope with these labels.
pub(crate) fn selector(scope: &Scope, labels: &LabelFilter) -> String {
    let mut selector = format!("{LABEL_MANAGED}=true,{LABEL_SCOPE}={scope}");
    for (key, value) in labels {
        let _ = write!(selector, ",{}", selection_label(key));
        if let Some(value) = value {
            let _ = write!(selector, "={}", selection_value(value));
        }
    }
    selector
}

/// Returns the label selector for the probes of a scope.
pub(crate) fn probe_selector(scope: &Scope) -> String {
    format!("{LABEL_MANAGED}={PROBE},{LABEL_SCOPE}={scope}")
}

fn hash(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_dns_label(text: &str) -> bool {
        (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    }

    #[test]
    fn pod_name_is_slug_and_hash() {
        let name = |text: &str| pod_name(&ContainerName::new(text).unwrap());
        assert!(name("web.1_A").starts_with("web-1-a-"));
        assert_eq!(name("web-1").len(), "web-1-".len() + 20);
        assert_ne!(name("web-1"), name("web_1"), "equal slugs have different hashes");
        assert_eq!(name("web-1"), name("web-1"));
    }

    proptest! {
        #[test]
        fn pod_name_is_dns_label(text in "[A-Za-z0-9][A-Za-z0-9_.-]{1,127}") {
            let name = pod_name(&ContainerName::new(&text).unwrap());
            prop_assert!(is_dns_label(&name), "{name}");
        }

        #[test]
        fn selection_label_is_valid(key in "\\PC{1,80}", value in "\\PC{0,80}") {
            let label = selection_label(&key);
            let (prefix, short) = label.split_once('/').unwrap();
            prop_assert!(prefix.split('.').all(is_dns_label));
            prop_assert!(is_dns_label(short) && is_dns_label(&selection_value(&value)));
        }
    }

    #[test]
    fn selector_has_scope_and_labels() {
        let scope = Scope::new("s1").unwrap();
        let labels = LabelFilter::from([
            ("a/b/c".to_owned(), Some("x y".to_owned())),
            ("only".to_owned(), None),
        ]);
        assert_eq!(
            selector(&scope, &labels),
            format!(
                "container-runtime/managed=true,container-runtime/scope=s1,{}={},{}",
                selection_label("a/b/c"),
                selection_value("x y"),
                selection_label("only")
            )
        );
    }
}
