//! Types of the responses of the API server.
//!
//! The types have only the fields that this backend uses. A complete pod is several times larger
//! and thousands are in memory at once, and an unused field cannot differ between versions of
//! Kubernetes.

mod lenient;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::labels::CONTAINER;
use crate::error::Status;
use crate::json;

pub(crate) use self::lenient::{read_line, read_list};

/// A time of the API, in seconds or in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) SystemTime);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}

impl Time {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|time| Self(system_time(time)))
    }
}

/// Converts a timestamp.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let since = time.as_duration();
    let distance = since.unsigned_abs();
    let moved = if since.is_negative() {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    moved.unwrap_or(UNIX_EPOCH)
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta {
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) uid: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) resource_version: String,
    #[serde(deserialize_with = "json::texts")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "json::texts")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) creation_timestamp: Option<Time>,
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) deletion_timestamp: Option<Time>,
    #[serde(deserialize_with = "json::seconds")]
    pub(crate) deletion_grace_period_seconds: Option<u64>,
    /// Number of changes of the spec, including the first deletion. Pods have it from 1.33 on.
    pub(crate) generation: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) metadata: Meta,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) spec: PodSpec,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) status: PodStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) node_name: Option<String>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) scheduling_gates: Vec<Gate>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) containers: Vec<ContainerSpec>,
    #[serde(deserialize_with = "json::seconds")]
    pub(crate) termination_grace_period_seconds: Option<u64>,
    pub(crate) active_deadline_seconds: Option<u64>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Volume {
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
    pub(crate) host_path: Option<HostPath>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct HostPath {
    #[serde(deserialize_with = "json::text")]
    pub(crate) path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Gate {
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerSpec {
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) image: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) image_pull_policy: String,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) stdin: bool,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) tty: bool,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) ports: Vec<Port>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) resources: Resources,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) lifecycle: Lifecycle,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Port {
    #[serde(deserialize_with = "json::number")]
    pub(crate) host_port: Option<u16>,
    #[serde(deserialize_with = "json::number_or_zero")]
    pub(crate) container_port: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "json::texts")]
    pub(crate) limits: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    #[serde(deserialize_with = "json::text")]
    pub(crate) phase: String,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) message: Option<String>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    #[serde(deserialize_with = "json::text")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) status: String,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) message: Option<String>,
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) last_transition_time: Option<Time>,
    /// The generation of the pod that the condition is for.
    pub(crate) observed_generation: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
    #[serde(rename = "imageID")]
    #[serde(deserialize_with = "json::text")]
    pub(crate) image_id: String,
    /// The id with the name of the engine as prefix: `containerd://ID`.
    #[cfg(feature = "cri")]
    #[serde(rename = "containerID")]
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) container_id: Option<String>,
    #[serde(deserialize_with = "json::number_or_zero")]
    pub(crate) restart_count: u32,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) state: ContainerState,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerState {
    pub(crate) waiting: Option<Waiting>,
    pub(crate) running: Option<Running>,
    pub(crate) terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Waiting {
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Running {
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) started_at: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Terminated {
    #[serde(default = "json::no_exit_code", deserialize_with = "json::exit_code")]
    pub(crate) exit_code: i32,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) message: Option<String>,
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) started_at: Option<Time>,
    #[serde(deserialize_with = "lenient::time")]
    pub(crate) finished_at: Option<Time>,
}

impl Pod {
    /// Returns the container of this library. A cluster may have added others before it and after
    /// it.
    pub(crate) fn container(&self) -> Option<&ContainerSpec> {
        self.spec.containers.iter().find(|container| container.name == CONTAINER)
    }

    /// Returns the status of the container of this library.
    pub(crate) fn container_status(&self) -> Option<&ContainerStatus> {
        self.status.container_statuses.iter().find(|status| status.name == CONTAINER)
    }

    /// Returns the path of the image in a patch. The list of the containers of a pod never changes.
    pub(crate) fn image_path(&self) -> String {
        let ours = self.spec.containers.iter().position(|container| container.name == CONTAINER);
        format!("/spec/containers/{}/image", ours.unwrap_or(0))
    }

    /// Returns an annotation.
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }

    /// Returns an annotation that is a time in milliseconds.
    pub(crate) fn annotated_time(&self, key: &str) -> Option<SystemTime> {
        let millis = self.annotation(key)?.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }

    /// Returns a condition of the pod.
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Returns the version of the object as a number. The API documents versions as opaque before
    /// 1.35, but on all servers they are revisions of etcd.
    pub(crate) fn version(&self) -> Option<u64> {
        self.metadata.resource_version.parse().ok()
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(crate) struct List<T> {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "items")]
    pub(crate) items: Vec<T>,
}

fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ListMeta {
    #[serde(deserialize_with = "json::text")]
    pub(crate) resource_version: String,
    #[serde(rename = "continue")]
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) next: Option<String>,
}

/// An object of which only the metadata is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) metadata: Meta,
}

/// An event that the cluster recorded about a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClusterEvent {
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "json::some_text")]
    pub(crate) message: Option<String>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) involved_object: Involved,
    pub(crate) first_timestamp: Option<Time>,
    pub(crate) last_timestamp: Option<Time>,
    pub(crate) event_time: Option<Time>,
}

/// The object that an event is about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Involved {
    pub(crate) uid: String,
}

impl ClusterEvent {
    /// Returns the time of the first occurrence.
    pub(crate) fn first(&self) -> Option<SystemTime> {
        self.first_timestamp.or(self.event_time).or(self.last_timestamp).map(|time| time.0)
    }

    /// Returns the time of the last occurrence.
    pub(crate) fn last(&self) -> Option<SystemTime> {
        self.last_timestamp.or(self.event_time).or(self.first_timestamp).map(|time| time.0)
    }

    /// Returns whether the event is about this pod. The event of an eviction by a controller has no
    /// UID.
    pub(crate) fn is_about(&self, pod: &Meta) -> bool {
        if !self.involved_object.uid.is_empty() {
            return self.involved_object.uid == pod.uid;
        }
        let created = pod.creation_timestamp.map(|time| time.0);
        // An older event is about an earlier pod of the same name.
        self.last().is_none_or(|last| created.is_none_or(|created| last >= created))
    }
}

/// Returns whether a message of a node refuses the source of a mount because of its kind or its
/// absence.
pub(crate) fn refuses_source(message: &str) -> bool {
    message.contains("hostPath type check failed") || reports_missing_source(message)
}

/// Returns whether a message of a node reports that the source of a mount does not exist. Nodes
/// before about 1.30 report only that it is of another kind.
pub(crate) fn reports_missing_source(message: &str) -> bool {
    message.contains("hostPath ") && message.contains(" doesn't exist")
}

/// A node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) conditions: Vec<Condition>,
}

/// Response of `/version`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServerVersion {
    #[serde(deserialize_with = "json::text")]
    pub(crate) major: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) minor: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) git_version: String,
}

/// A line of a watch.
#[derive(Debug)]
pub(crate) enum WatchLine {
    /// A new version of a pod.
    Changed(Box<Pod>),
    /// The last version of a removed pod.
    Deleted(Box<Pod>),
    /// There are no further changes up to this version.
    Bookmark(String),
    /// The watch has failed.
    Failed(Status),
}

impl<'de> Deserialize<'de> for WatchLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
        enum Line {
            Added(Box<Pod>),
            Modified(Box<Pod>),
            Deleted(Box<Pod>),
            Bookmark(Object),
            Error(Status),
        }
        Ok(match Line::deserialize(deserializer)? {
            Line::Added(pod) | Line::Modified(pod) => Self::Changed(pod),
            Line::Deleted(pod) => Self::Deleted(pod),
            Line::Bookmark(object) => Self::Bookmark(object.metadata.resource_version),
            Line::Error(status) => Self::Failed(status),
        })
    }
}
