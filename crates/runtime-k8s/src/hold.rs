//! Held until start.
//!
//! A pod is created with a scheduling gate and with a placeholder where its image belongs. A
//! server that knows gates does not schedule it. One that does not drops the gate without a word;
//! there the pod has an affinity to a label that no pod has, which no node can satisfy, until the
//! start puts that label on the pod itself: a pod may satisfy its own affinity. Either way nothing
//! is charged for it, and the cluster's own scheduler places it when it is started: mostly at once,
//! and where other pods come and go as often as within its longest pause between two attempts, ten
//! seconds unless it is told otherwise. Should both
//! fail, a node finds nothing in it that could run.

use std::time::{SystemTime, UNIX_EPOCH};

use runtime_core::LABEL_NONCE;
use serde_json::{Value, json};

use crate::names::{GATE, HELD_IMAGE, RELEASED, STARTED_AT};
use crate::wire::Pod;

/// Whether the server keeps the pod from its scheduler.
pub(crate) fn is_gated(pod: &Pod) -> bool {
    pod.spec.scheduling_gates.iter().any(|gate| gate.name == GATE)
}

/// The change that starts a held pod, and that no pod takes twice.
pub(crate) fn start(pod: &Pod, image: &str) -> Vec<Value> {
    let path = pod.image_path();
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": path, "value": HELD_IMAGE}),
        json!({"op": "replace", "path": path, "value": image}),
        annotate(STARTED_AT, &millis_now()),
        open_gate(pod),
    ]
}

fn open_gate(pod: &Pod) -> Value {
    if is_gated(pod) {
        // There is no other gate: a pod is created with all that it will ever have.
        json!({"op": "remove", "path": "/spec/schedulingGates"})
    } else {
        let nonce = pod.metadata.labels.get(LABEL_NONCE).map(String::as_str).unwrap_or_default();
        let path = format!("/metadata/labels/{}", RELEASED.replace('/', "~1"));
        json!({"op": "add", "path": path, "value": nonce})
    }
}

/// Adds an annotation, in a patch.
pub(crate) fn annotate(key: &str, value: &str) -> Value {
    let key = key.replace('~', "~0").replace('/', "~1");
    json!({"op": "add", "path": format!("/metadata/annotations/{key}"), "value": value})
}

/// The time as the annotations have it.
pub(crate) fn millis_now() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_taken_once_and_by_the_right_pod_only() {
        let pod = |spec: Value| -> Pod {
            let meta = json!({"uid": "u", "labels": {LABEL_NONCE: "n"}});
            serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
        };
        let gated = pod(json!({
            "schedulingGates": [{"name": GATE}],
            "containers": [{"name": "main", "image": HELD_IMAGE}],
        }));
        let patch = start(&gated, "busybox");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(patch[1]["value"], "!created");
        assert_eq!(patch[3]["path"], "/metadata/annotations/container-runtime~1started-at");
        assert_eq!(patch[4]["path"], "/spec/schedulingGates");
        let with_a_sidecar = pod(json!({"containers": [
            {"name": "istio-proxy", "image": "proxy"}, {"name": "main", "image": HELD_IMAGE},
        ]}));
        let patch = start(&with_a_sidecar, "busybox");
        assert_eq!(patch[1]["path"], "/spec/containers/1/image");
        assert_eq!(patch[2]["path"], "/spec/containers/1/image");
        assert_eq!(
            patch[4],
            json!({"op": "add", "path": "/metadata/labels/container-runtime~1released", "value": "n"})
        );
    }
}
