//! The state of a container, computed from its pod.
//!
//! The state is a pure function of the pod as the server returns it, so that info, wait, list and
//! events agree, as do several processes.

use std::time::SystemTime;

use runtime_core::{Exit, ExitReason, Signal};

use super::gate;
use crate::model::api::{Meta, Pod, Terminated};
use crate::model::labels::{RELEASED, STOPPED_AT, STOPPED_IMAGE, VERDICT};

/// State of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// Created and gated: no process runs.
    Gated,
    /// Started by the caller; the cluster has not started the process yet.
    Pending(PendingReason),
    /// The process runs.
    Running,
    /// The cluster reports that the container has ended, and has not reported the exit yet.
    Settling,
    /// The container has ended.
    Ended(Exit),
}

/// Reason why a started pod does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PendingReason {
    /// No failure is reported.
    None,
    /// The pod will never run.
    Final {
        /// Reason of the exit that `wait` returns.
        reason: ExitReason,
        /// Message of the cluster.
        message: String,
    },
    /// The pull of the image has failed so far; the node retries.
    Pull(String),
    /// The scheduler has found no node so far.
    Unschedulable(String),
    /// The node has failed to create the container so far, and retries.
    Start(String),
}

impl PendingReason {
    /// Returns whether two reasons are of the same kind. Their messages may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns the message of the cluster.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Final { message, .. }
            | Self::Pull(message)
            | Self::Unschedulable(message)
            | Self::Start(message) => Some(message),
        }
    }
}

/// Deletion of a pod as it was known before its end was reported.
///
/// The times of a pod do not show which was first. A server changes the time of the deletion if a
/// second request has a shorter grace, as that of a node has when the processes have ended; from
/// 1.30 on the new time is after their end (kubernetes#122646). The time of an end is from the
/// clock of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// Only the pod itself shows it.
    Unknown,
    /// The pod was being deleted when its container had not ended.
    First,
}

/// Returns the state of the container of a pod.
pub(crate) fn assess(pod: &Pod, deletion: Deletion) -> State {
    // A verdict is written in the same patch that prevents the pod from running.
    if let Some(verdict) = pod.annotation(VERDICT)
        && let Ok(exit) = serde_json::from_str(verdict)
    {
        return State::Ended(exit);
    }
    if let Some(terminated) = terminated(pod) {
        return State::Ended(exit_of(pod, terminated, deletion));
    }
    let running = pod.container_status().is_some_and(|s| s.state.running.is_some());
    if has_final_phase(pod) {
        return without_code(pod).map_or(State::Settling, State::Ended);
    }
    if running {
        return State::Running;
    }
    if gate::is_gated(pod) {
        return State::Gated;
    }
    match pod.container().map(|container| container.image.as_str()) {
        Some(STOPPED_IMAGE) if is_stop_done(pod) => {
            State::Ended(stopped_before_start(pod.annotated_time(STOPPED_AT)))
        }
        _ => State::Pending(pending_reason(pod)),
    }
}

/// Returns the exit of a container whose node was lost.
pub(crate) fn node_lost(node: &str) -> Exit {
    Exit::new(ExitReason::NodeLost).with_message(format!("node {node} has stopped responding"))
}

/// Returns the exit of a container that was stopped before its process ran.
pub(crate) fn stopped_before_start(at: Option<SystemTime>) -> Exit {
    Exit::new(ExitReason::StoppedByUs).with_ended_at(at).with_message(STOPPED_BEFORE_START_MESSAGE)
}

/// Returns the exit of a pod that the server does not have any more, from its last observed state.
pub(crate) fn removed(last: &Pod, deletion: Deletion) -> Exit {
    if let Some(terminated) = terminated(last) {
        return exit_of(last, terminated, deletion);
    }
    without_code(last).unwrap_or_else(|| Exit::new(ExitReason::Removed))
}

/// Returns the exit of a pod that the cluster or a stop has ended, and whose status has no
/// terminated process.
fn without_code(pod: &Pod) -> Option<Exit> {
    let (reason, message) = ended_by_cluster(pod)?;
    let ended_at = match reason {
        ExitReason::StoppedByUs => pod.annotated_time(STOPPED_AT),
        _ => None,
    };
    Some(Exit::new(reason).with_ended_at(ended_at).with_message(message))
}

/// Returns whether the deletion of a pod began before its container ended by itself or by a stop.
pub(crate) fn is_deleted_first(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && terminated(pod).is_none()
        && pod.annotation(STOPPED_AT).is_none()
}

/// Returns the start time of the main process, if it was started.
pub(crate) fn started_at(pod: &Pod) -> Option<SystemTime> {
    let state = &pod.container_status()?.state;
    if let Some(running) = &state.running {
        return running.started_at.map(|time| time.0);
    }
    let terminated = state.terminated.as_ref()?;
    if !was_started(terminated) {
        return None;
    }
    terminated.started_at.map(|time| time.0)
}

/// Returns whether the OOM killer has killed a process of the container.
pub(crate) fn had_oom(pod: &Pod) -> bool {
    terminated(pod).is_some_and(|t| t.reason.as_deref() == Some("OOMKilled"))
}

/// Returns whether the node reports that the processes of the pod have ended.
///
/// A kubelet can remove a container before it has read the exit. It then reports the pod as failed
/// and the container as waiting, like a container that was never created, and reports nothing else
/// (observed for a minute on version 1.20, in two of a hundred removals on a busy node).
pub(crate) fn is_dead(pod: &Pod) -> bool {
    let waits = pod.container_status().is_some_and(|status| status.state.waiting.is_some());
    terminated(pod).is_some() || (waits && has_final_phase(pod))
}

/// Returns whether no process of a pod has run, or can run before the next attempt of its node.
///
/// These reasons are reported between two attempts, or if there is none. With any other reason the
/// node may have started the process and not reported it yet.
pub(crate) fn never_ran(pod: &Pod) -> bool {
    let Some(status) = pod.container_status() else { return pod.spec.node_name.is_none() };
    let state = &status.state;
    state.running.is_none()
        && state.terminated.is_none()
        && status.restart_count == 0
        && state.waiting.as_ref().is_some_and(|waiting| {
            matches!(
                waiting.reason.as_deref(),
                Some(
                    "InvalidImageName"
                        | "ErrImageNeverPull"
                        | "ErrImagePull"
                        | "ImagePullBackOff"
                        | "ImageInspectError"
                        | "RegistryUnavailable"
                        | "SignatureValidationFailed"
                        | "CreateContainerConfigError"
                )
            )
        })
}

/// Message of the exit if a stop preceded the process.
const STOPPED_BEFORE_START_MESSAGE: &str = "stopped before its process was started";

fn has_final_phase(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Failed" | "Succeeded")
}

/// Returns the index of the condition that reports a silent node, if there is one.
///
/// A kubelet that sets `Ready` to false adds a reason, and usually sets `ContainersReady` as well.
/// The node controller changes only the status of `Ready` when a node has become silent, in all
/// versions. A node that is back changes it again.
pub(crate) fn silence(pod: &Pod) -> Option<usize> {
    let conditions = &pod.status.conditions;
    let at = conditions.iter().position(|condition| condition.kind == "Ready")?;
    let ready = &conditions[at];
    let is_changed = ready.status == "False" && ready.reason.as_ref().is_none_or(String::is_empty);
    let as_before = pod.condition("ContainersReady").is_some_and(|c| c.status == "True");
    (is_changed && as_before).then_some(at)
}

fn terminated(pod: &Pod) -> Option<&Terminated> {
    pod.container_status()?.state.terminated.as_ref()
}

/// Returns whether the process was started. `ContainerCannotRun` is the reason that the old Docker
/// shim of the kubelet reports.
fn was_started(terminated: &Terminated) -> bool {
    !matches!(terminated.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
        && terminated.started_at.is_some_and(|time| time.0 > SystemTime::UNIX_EPOCH)
}

/// Returns whether a stop of a container that had not run is complete: its node has observed the
/// invalid image, or there is no node.
fn is_stop_done(pod: &Pod) -> bool {
    pod.spec.node_name.is_none()
        || pod
            .container_status()
            .and_then(|status| status.state.waiting.as_ref())
            .is_some_and(|waiting| waiting.reason.as_deref() == Some("InvalidImageName"))
}

fn exit_of(pod: &Pod, terminated: &Terminated, deletion: Deletion) -> Exit {
    let ended_at =
        terminated.finished_at.map(|time| time.0).filter(|t| *t > SystemTime::UNIX_EPOCH);
    let reported = terminated.message.clone().unwrap_or_default();
    let or_reported = |message: String| if message.is_empty() { reported.clone() } else { message };
    let exit = match terminated.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => {
            return Exit::new(ExitReason::StartFailed)
                .with_ended_at(ended_at)
                .with_message(reported);
        }
        // The node does not have the container, so the code 137 is not that of a process.
        Some("ContainerStatusUnknown") => {
            let (reason, message) =
                ended_by_cluster(pod).unwrap_or_else(|| match was_deleted_first(pod, deletion) {
                    true => (ExitReason::Removed, String::new()),
                    false => (ExitReason::Unknown, String::new()),
                });
            let ended_at = ended_at.or_else(|| match reason {
                ExitReason::StoppedByUs => pod.annotated_time(STOPPED_AT),
                _ => None,
            });
            return Exit::new(reason).with_ended_at(ended_at).with_message(or_reported(message));
        }
        // The reason is also set if a child was killed and the main process then ended by itself.
        // Only a killed main process has 137.
        Some("OOMKilled") if terminated.exit_code == 137 => {
            let mut exit = Exit::from_code(137).with_reason(ExitReason::OutOfMemory);
            exit.signal = Some(Signal::KILL);
            exit
        }
        _ => own_exit(pod, terminated, deletion),
    };
    let message = exit.message.clone().unwrap_or_default();
    exit.with_ended_at(ended_at).with_message(or_reported(message))
}

/// Returns the exit of a process that ran. A bare pod is never restarted, so an end without a
/// reason of the cluster is its own.
fn own_exit(pod: &Pod, terminated: &Terminated, deletion: Deletion) -> Exit {
    let exit = Exit::from_code(terminated.exit_code);
    match ended_by_cluster(pod) {
        // The stop has set a deadline.
        Some((ExitReason::StoppedByUs, _)) => exit.with_reason(ExitReason::StoppedByUs),
        Some((reason, message)) => without_success(exit.with_reason(reason)).with_message(message),
        None if deletion == Deletion::First => Exit::new(ExitReason::Removed),
        None if pod.annotation(STOPPED_AT).is_some() => exit.with_reason(ExitReason::StoppedByUs),
        None if was_deleted_first(pod, deletion) => Exit::new(ExitReason::Removed),
        None => exit,
    }
}

/// Removes the code 0 from an exit: a process that exits with 0 on SIGTERM has not completed its
/// work.
fn without_success(mut exit: Exit) -> Exit {
    if exit.code == Some(0) {
        exit.code = None;
    }
    exit
}

/// Returns whether the deletion of a pod began before the end of its container. If the order is
/// unknown, the end is not attributed to the container.
fn was_deleted_first(pod: &Pod, deletion: Deletion) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    deletion == Deletion::First || !had_ended_before(pod)
}

/// Returns whether a pod that is being deleted shows that its container had ended before.
///
/// A server sets no grace for a pod that has ended. The node reports the generation that its status
/// is for, and a deletion increments the generation.
fn had_ended_before(pod: &Pod) -> bool {
    let Meta { deletion_grace_period_seconds: grace, generation, .. } = &pod.metadata;
    let reported = pod.condition("Ready").and_then(|ready| ready.observed_generation);
    has_final_phase(pod)
        && grace.unwrap_or(0) == 0
        && reported.is_some_and(|reported| reported > 0 && reported < *generation)
}

/// Returns the reason of the cluster for the end of a pod, if there is one.
fn ended_by_cluster(pod: &Pod) -> Option<(ExitReason, String)> {
    let status = &pod.status;
    let message = || status.message.clone().unwrap_or_default();
    let by_reason = match status.reason.as_deref() {
        // `Shutdown` and `Terminated`: a graceful shutdown of the node.
        Some(
            "Evicted" | "Preempting" | "Preempted" | "Shutdown" | "NodeShutdown" | "Terminated",
        ) => Some(ExitReason::Evicted),
        Some("NodeLost") => Some(ExitReason::NodeLost),
        // A stop sets a deadline if the image cannot be changed, or no process has run yet.
        Some("DeadlineExceeded") if pod.annotation(STOPPED_AT).is_some() => {
            let never_ran = started_at(pod).is_none();
            let text = if never_ran { STOPPED_BEFORE_START_MESSAGE } else { "" };
            return Some((ExitReason::StoppedByUs, text.to_owned()));
        }
        Some("DeadlineExceeded") => Some(ExitReason::DeadlineExceeded),
        // The node has refused the pod after the scheduler had placed it.
        Some(
            "NodeAffinity"
            | "NodePorts"
            | "PodFitsHostPorts"
            | "UnexpectedAdmissionError"
            | "AppArmor"
            | "SysctlForbidden"
            | "TopologyAffinityError"
            | "PodOSNotSupported"
            | "PodOSSelectorNodeLabelDoesNotMatch"
            | "InvalidNodeInfo"
            | "UnsupportedPodSpec",
        ) => Some(ExitReason::StartFailed),
        Some(reason) if reason.starts_with("OutOf") || reason.starts_with("Insufficient") => {
            Some(ExitReason::StartFailed)
        }
        _ => None,
    };
    if let Some(reason) = by_reason {
        let text = message();
        let text = if text.is_empty() { status.reason.clone().unwrap_or_default() } else { text };
        return Some((reason, text));
    }
    let target = pod.condition("DisruptionTarget").filter(|target| target.status == "True")?;
    let text = target.message.clone().unwrap_or_default();
    let reason = match target.reason.as_deref() {
        Some("DeletionByPodGC") => ExitReason::NodeLost,
        // The taint is from a user, or from a controller because the node is silent.
        Some("DeletionByTaintManager") if silence(pod).is_some() => ExitReason::NodeLost,
        _ => ExitReason::Evicted,
    };
    Some((reason, text))
}

/// Message of every scheduler for a pod that is gated by an affinity.
const GATED_MESSAGE: &str = "didn't match pod affinity";

/// Explanation that is added to the kubelet's error about a missing image that must not be pulled:
/// a kubelet hides an image from a pod whose login does not give access to it.
const NEVER_PULLED_HINT: &str = " (a node from version 1.35 on reports the same for an image that it has, unless the login of \
     the container has pulled it there before)";

/// Returns the reason why a started pod does not run yet.
fn pending_reason(pod: &Pod) -> PendingReason {
    if let Some(scheduled) = pod.condition("PodScheduled")
        && scheduled.status == "False"
        && scheduled.reason.as_deref() == Some("Unschedulable")
    {
        let text = scheduled.message.clone().unwrap_or_default();
        // This message is from before the start, when an affinity gated the pod.
        let is_of_gate = pod.metadata.labels.contains_key(RELEASED) && text.contains(GATED_MESSAGE);
        return if is_of_gate { PendingReason::None } else { PendingReason::Unschedulable(text) };
    }
    let waiting = pod.container_status().and_then(|status| status.state.waiting.as_ref());
    let Some(waiting) = waiting else { return PendingReason::None };
    let message = waiting.message.clone().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        // The node reports the image that a stop has set.
        "InvalidImageName" if message.contains(STOPPED_IMAGE) => PendingReason::None,
        "InvalidImageName" => PendingReason::Final { reason: ExitReason::ImagePullFailed, message },
        "ErrImageNeverPull" => {
            let hides = message.contains("is not present with pull policy of Never");
            let message = format!("{message}{}", if hides { NEVER_PULLED_HINT } else { "" });
            PendingReason::Final { reason: ExitReason::ImagePullFailed, message }
        }
        "CreateContainerConfigError" => {
            PendingReason::Final { reason: ExitReason::StartFailed, message }
        }
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => PendingReason::Pull(message),
        "" | "ContainerCreating" | "PodInitializing" => PendingReason::None,
        reason => {
            PendingReason::Start(if message.is_empty() { reason.to_owned() } else { message })
        }
    }
}

#[cfg(test)]
mod tests;
