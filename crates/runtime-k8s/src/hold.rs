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

use serde_json::{Value, json};

use crate::names::{GATE, HELD_IMAGE, RELEASED, STARTED_AT};
use crate::wire::Pod;

/// Whether the server keeps the pod from its scheduler.
pub(crate) fn is_gated(pod: &Pod) -> bool {
    pod.spec.scheduling_gates.iter().any(|gate| gate.name == GATE)
}

/// The change that starts a held pod, and that no pod takes twice.
pub(crate) fn start(uid: &str, nonce: &str, image: &str, is_gated: bool) -> Vec<Value> {
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": uid}),
        json!({"op": "test", "path": "/spec/containers/0/image", "value": HELD_IMAGE}),
        json!({"op": "replace", "path": "/spec/containers/0/image", "value": image}),
        annotate(STARTED_AT, &millis_now()),
    ];
    patch.push(open_gate(nonce, is_gated));
    patch
}

/// The change that gives a held pod to the scheduler, and leaves it held by its image.
pub(crate) fn release(uid: &str, nonce: &str, is_gated: bool) -> Vec<Value> {
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": uid}),
        json!({"op": "test", "path": "/spec/containers/0/image", "value": HELD_IMAGE}),
        open_gate(nonce, is_gated),
    ]
}

fn open_gate(nonce: &str, is_gated: bool) -> Value {
    if is_gated {
        // There is no other gate: a pod is created with all that it will ever have.
        json!({"op": "remove", "path": "/spec/schedulingGates"})
    } else {
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
        let patch = start("u", "n", "busybox", true);
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(patch[1]["value"], "!created");
        assert_eq!(patch[3]["path"], "/metadata/annotations/container-runtime~1started-at");
        assert_eq!(patch[4]["path"], "/spec/schedulingGates");
        let patch = start("u", "n", "busybox", false);
        assert_eq!(
            patch[4],
            json!({"op": "add", "path": "/metadata/labels/container-runtime~1released", "value": "n"})
        );
    }
}
