//! The gate that keeps a pod from the scheduler until its start.
//!
//! A pod has its real image from its creation, so that the admission of the cluster checks it then.
//! One of two gates keeps it from the scheduler until its start:
//!
//! - a scheduling gate, on servers that support them;
//! - on other servers a required affinity to a label that no pod has. The start adds that label to
//!   the pod itself: a pod may satisfy its own affinity.
//!
//! The pod never has both. Servers older than 1.27 drop a scheduling gate silently, and so may an
//! admission webhook on any server: the pod that the server returns shows if the gate was kept, see
//! [`is_missing`]. Every start adds the label to the pod, so that the pod alone shows if it is
//! gated, independently of the gate that a connection itself would use.

use std::time::{SystemTime, UNIX_EPOCH};

use runtime_core::LABEL_NONCE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::api::Pod;
use crate::model::labels::{GATE, RELEASED, STARTED_AT};

/// Gate of a pod that was created and not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartGate {
    /// A scheduling gate.
    SchedulingGate,
    /// An affinity to the label [`RELEASED`].
    Affinity,
}

/// Returns the index of the gate of this library. A webhook may have added others.
fn gate_index(pod: &Pod) -> Option<usize> {
    pod.spec.scheduling_gates.iter().position(|gate| gate.name == GATE)
}

/// Returns whether a pod was not started yet.
pub(crate) fn is_gated(pod: &Pod) -> bool {
    gate_index(pod).is_some() || !pod.metadata.labels.contains_key(RELEASED)
}

/// Returns whether the pod that a server returned lacks its gate.
pub(crate) fn is_missing(gate: StartGate, pod: &Pod, raw: &[u8]) -> bool {
    match gate {
        StartGate::SchedulingGate => gate_index(pod).is_none(),
        StartGate::Affinity => !has_affinity_to_label(raw),
    }
}

/// Returns whether a pod has the affinity to the label of the start.
///
/// `Pod` does not have that field, because only a create needs it.
fn has_affinity_to_label(raw: &[u8]) -> bool {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Kept {
        spec: Option<KeptSpec>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct KeptSpec {
        affinity: Option<KeptAffinity>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct KeptAffinity {
        pod_affinity: Option<KeptTerms>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct KeptTerms {
        required_during_scheduling_ignored_during_execution: Option<Vec<Value>>,
    }
    let kept: Kept = serde_json::from_slice(raw).unwrap_or_default();
    let terms = kept.spec.and_then(|spec| spec.affinity?.pod_affinity);
    let terms = terms.and_then(|t| t.required_during_scheduling_ignored_during_execution);
    terms.is_some_and(|terms| {
        terms.iter().any(|term| term["labelSelector"]["matchLabels"].get(RELEASED).is_some())
    })
}

/// Returns the patch that starts a gated pod. It cannot be applied twice.
pub(crate) fn start(pod: &Pod) -> Vec<Value> {
    let mut patch = vec![json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid})];
    match gate_index(pod) {
        Some(at) => {
            let gate = format!("/spec/schedulingGates/{at}");
            patch.extend([
                json!({"op": "test", "path": format!("{gate}/name"), "value": GATE}),
                json!({"op": "remove", "path": gate}),
            ]);
        }
        // A test compares an absent member to null: RFC 6902 does not specify that, but the library
        // of the servers does it.
        None => patch.push(json!({"op": "test", "path": released(), "value": null})),
    }
    patch.extend([
        json!({"op": "add", "path": released(), "value": nonce(pod)}),
        annotate(STARTED_AT, &millis_now()),
    ]);
    patch
}

/// Returns the path of the label that a start adds.
fn released() -> String {
    format!("/metadata/labels/{}", RELEASED.replace('/', "~1"))
}

fn nonce(pod: &Pod) -> &str {
    pod.metadata.labels.get(LABEL_NONCE).map(String::as_str).unwrap_or_default()
}

/// Returns the operation of a patch that adds an annotation.
pub(crate) fn annotate(key: &str, value: &str) -> Value {
    let key = key.replace('~', "~0").replace('/', "~1");
    json!({"op": "add", "path": format!("/metadata/annotations/{key}"), "value": value})
}

/// Returns the current time in the format of the annotations.
pub(crate) fn millis_now() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn with(labels: Value, gates: Value) -> Pod {
        pod(json!({
            "metadata": {"uid": "u", "labels": labels},
            "spec": {"schedulingGates": gates, "containers": [{"name": "main", "image": "busybox"}]},
        }))
    }

    #[test]
    fn pod_is_gated_by_gate_or_missing_label() {
        let ours = json!([{"name": GATE}]);
        let others = json!([{"name": "kueue.x-k8s.io/admission"}]);
        let released = json!({RELEASED: "n"});
        assert!(is_gated(&with(json!({}), ours.clone())));
        assert!(is_gated(&with(json!({}), Value::Null)));
        assert!(is_gated(&with(released.clone(), ours)));
        assert!(!is_gated(&with(released.clone(), Value::Null)));
        assert!(!is_gated(&with(released, others)));
    }

    #[test]
    fn start_removes_only_own_gate_and_applies_once() {
        let gates = json!([{"name": "kueue.x-k8s.io/admission"}, {"name": GATE}]);
        let patch = start(&with(json!({LABEL_NONCE: "n"}), gates));
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(
            patch[1..3],
            [
                json!({"op": "test", "path": "/spec/schedulingGates/1/name", "value": GATE}),
                json!({"op": "remove", "path": "/spec/schedulingGates/1"}),
            ]
        );
        let label = "/metadata/labels/container-runtime~1released";
        assert_eq!(patch[3], json!({"op": "add", "path": label, "value": "n"}));
        assert_eq!(patch[4]["path"], "/metadata/annotations/container-runtime~1started-at");

        let patch = start(&with(json!({LABEL_NONCE: "n"}), Value::Null));
        assert_eq!(patch[1], json!({"op": "test", "path": label, "value": null}));
        assert_eq!(patch[2], json!({"op": "add", "path": label, "value": "n"}));
    }

    #[test]
    fn dropped_gate_is_missing() {
        let gated = json!({"spec": {"schedulingGates": [{"name": GATE}]}});
        let term = json!({"labelSelector": {"matchLabels": {RELEASED: "n"}}, "topologyKey": "t"});
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let bound = json!({"spec": {"affinity": {"podAffinity": {required: [term]}}}});
        let bare = json!({"spec": {"affinity": {"nodeAffinity": {}}}});
        for (value, gate, affinity) in
            [(&gated, false, true), (&bound, true, false), (&bare, true, true)]
        {
            let raw = value.to_string();
            let pod = pod(value.clone());
            assert_eq!(
                is_missing(StartGate::SchedulingGate, &pod, raw.as_bytes()),
                gate,
                "{value}"
            );
            assert_eq!(is_missing(StartGate::Affinity, &pod, raw.as_bytes()), affinity, "{value}");
        }
    }
}
