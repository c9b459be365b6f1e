//! Conversion of a pod to `ContainerInfo`.

use std::collections::BTreeMap;

use runtime_core::{
    ContainerId, ContainerInfo, ContainerStatus, ImageInfo, LabelFilter, TcpPortBinding,
};

use crate::model::api::Pod;
use crate::model::labels::{IMAGE, LABELS, NAME};
use crate::model::pod::lifecycle::{self, State};
use crate::model::pod::observed::ObservedPod;
use crate::quantity::{quantity, whole};

/// Returns the info of a container.
pub(crate) fn info(seen: &ObservedPod) -> ContainerInfo {
    let pod = &*seen.pod;
    let mut info =
        ContainerInfo::new(ContainerId::new(&pod.metadata.uid), name_of(pod), status(&seen.state));
    info.image = image(pod);
    info.labels = labels(pod);
    info.created_at = pod.metadata.creation_timestamp.map(|time| time.0);
    info.started_at = lifecycle::started_at(pod);
    info.node.clone_from(&pod.spec.node_name);
    match &seen.state {
        State::Ended(exit) => {
            info.ended_at = exit.ended_at;
            info.message.clone_from(&exit.message);
            info.exit = Some(exit.clone());
        }
        State::Pending(_) => info.message = Some(seen.pending_message()),
        State::Gated | State::Running | State::Settling => {
            info.message.clone_from(&pod.status.message);
        }
    }
    if let Some(container) = pod.container() {
        let limit = |name: &str| container.resources.limits.get(name).and_then(|q| quantity(q));
        info.memory = limit("memory").and_then(whole);
        info.cpu_count = limit("cpu").filter(|count| *count >= 0.0);
        if seen.state == State::Running {
            info.tcp_ports = container
                .ports
                .iter()
                .filter_map(|port| {
                    let container_port = port.container_port;
                    let host_port = port.host_port.filter(|port| *port > 0)?;
                    Some(TcpPortBinding { host_port, container_port })
                })
                .collect();
        }
    }
    info
}

/// Returns the name that the caller has given to the container of a pod.
pub(crate) fn name_of(pod: &Pod) -> &str {
    pod.annotation(NAME).unwrap_or(&pod.metadata.name)
}

/// Returns the labels that the caller has given to the container of a pod.
pub(crate) fn labels(pod: &Pod) -> BTreeMap<String, String> {
    // A malformed annotation is from another client.
    pod.annotation(LABELS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Returns whether a pod matches a filter.
pub(crate) fn has_labels(pod: &Pod, wanted: &LabelFilter) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let labels = labels(pod);
    runtime_support::has_labels(wanted, |key| labels.get(key).map(String::as_str))
}

/// Returns the status of a container.
///
/// A started pod is Created until its process runs. A pod that has ended is Running until the
/// cluster reports its exit.
pub(crate) const fn status(state: &State) -> ContainerStatus {
    match state {
        State::Gated | State::Pending(_) => ContainerStatus::Created,
        State::Running | State::Settling => ContainerStatus::Running,
        State::Ended(_) => ContainerStatus::Exited,
    }
}

fn image(pod: &Pod) -> ImageInfo {
    let mut image = ImageInfo::default();
    image.requested = pod.annotation(IMAGE).map(str::to_owned);
    let id = pod.container_status().map(|status| status.image_id.as_str()).unwrap_or_default();
    // The old Docker shim adds a prefix.
    let id = id.strip_prefix("docker-pullable://").unwrap_or(id);
    if id.contains('@') {
        image.resolved = Some(id.to_owned());
    } else if !id.is_empty() {
        image.id = Some(id.to_owned());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen() -> ObservedPod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-1-abc", "uid": "u", "creationTimestamp": "2026-11-23T16:00:00Z",
                "labels": {"container-runtime/managed": "true"},
                "annotations": {
                    "container-runtime/name": "web_1",
                    "container-runtime/image": "docker.io/library/busybox:1",
                    "container-runtime/labels": "{\"a/b/c\":\"x y\"}",
                },
            },
            "spec": {"nodeName": "n1", "containers": [{
                "name": "main", "image": "docker.io/library/busybox:1",
                "resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}},
                "ports": [{"containerPort": 80, "hostPort": 20001, "protocol": "TCP"}],
            }]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "main", "imageID": "docker.io/library/busybox@sha256:ab",
                "state": {"running": {"startedAt": "2026-11-23T16:00:01Z"}},
            }]},
        }))
        .unwrap();
        ObservedPod::first(pod)
    }

    #[tokio::test]
    async fn info_of_running_pod_has_limits_and_ports() {
        let info = info(&seen());
        assert_eq!((info.name.as_str(), info.status), ("web_1", ContainerStatus::Running));
        assert_eq!(info.labels.get("a/b/c").map(String::as_str), Some("x y"));
        assert_eq!(info.labels.len(), 1, "labels of this library are not returned");
        assert_eq!(info.memory, Some(64 << 20));
        assert_eq!(info.cpu_count, Some(1.5));
        assert_eq!(info.tcp_ports, [TcpPortBinding { host_port: 20001, container_port: 80 }]);
        assert_eq!(info.image.requested.as_deref(), Some("docker.io/library/busybox:1"));
        assert_eq!(info.image.resolved.as_deref(), Some("docker.io/library/busybox@sha256:ab"));
        assert_eq!(info.node.as_deref(), Some("n1"));
        assert!(info.started_at > info.created_at && info.ended_at.is_none());
    }

    #[tokio::test]
    async fn info_of_ended_pod_has_exit_and_no_ports() {
        let mut pod = (*seen().pod).clone();
        pod.metadata.resource_version = "2".into();
        pod.status = serde_json::from_value(json!({"phase": "Failed", "containerStatuses": [{
            "name": "main", "state": {"terminated": {"exitCode": 3, "reason": "Error", "message": "oh",
                "startedAt": "2026-11-23T16:00:01Z", "finishedAt": "2026-11-23T16:00:05Z"}}}]}))
        .unwrap();
        let info = info(&seen().next(pod));
        assert_eq!(info.status, ContainerStatus::Exited);
        assert_eq!(info.exit.as_ref().and_then(|exit| exit.code), Some(3));
        assert_eq!(info.message.as_deref(), Some("oh"));
        assert!(info.ended_at > info.started_at);
        assert!(info.tcp_ports.is_empty());
    }
}
