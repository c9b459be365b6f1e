//! What a pod says about the life of its container.
//!
//! All of it is one pure function of the pod as the server shows it, so that info, wait, list and
//! events, and two processes that look at one pod, cannot come to different answers.

use std::time::SystemTime;

use runtime_core::{Exit, ExitReason, Signal};

use super::gate;
use crate::model::api::{Meta, Pod, Terminated};
use crate::model::labels::{RELEASED, STOPPED_AT, STOPPED_IMAGE, VERDICT};

/// Where in its life a container is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// Created and held: nothing runs.
    Held,
    /// Started by the caller; the cluster has not started the process yet.
    Pending(Trouble),
    /// The process runs.
    Running,
    /// The cluster says that it is over and not yet how.
    Settling,
    /// Over.
    Ended(Exit),
}

/// What keeps a started pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing is known to be wrong.
    None,
    /// It will never run as it is.
    Final {
        /// How the wait ends.
        reason: ExitReason,
        /// The cluster's words.
        message: String,
    },
    /// The image could not be pulled so far; the node goes on trying.
    Pull(String),
    /// No node takes the pod so far.
    Unschedulable(String),
    /// The node could not make the container so far, and goes on trying.
    Start(String),
}

impl Trouble {
    /// Whether two troubles are of the same kind, whatever their words.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The cluster's words.
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

/// What was known of a pod's deletion before the news of its end.
///
/// The times of a pod do not tell which came first. A server moves the time of the deletion when it
/// is asked again with a shorter grace, as a node does when the processes have ended; from 1.30 on
/// it moves it past their end (kubernetes#122646). And an end has the clock of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// Nothing is known but what stands in the pod.
    Unknown,
    /// The pod was being deleted when its container had not ended.
    First,
}

/// Reads the state of a pod that the server has.
pub(crate) fn assess(pod: &Pod, deletion: Deletion) -> State {
    // A verdict was made only after the pod was kept from running ever.
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
    if gate::is_held(pod) {
        return State::Held;
    }
    match pod.container().map(|container| container.image.as_str()) {
        Some(STOPPED_IMAGE) if is_stop_done(pod) => {
            State::Ended(stopped_before_start(pod.annotated_time(STOPPED_AT)))
        }
        _ => State::Pending(trouble(pod)),
    }
}

/// The end of what ran on a node that is not heard of any more.
pub(crate) fn node_lost(node: &str) -> Exit {
    Exit::new(ExitReason::NodeLost).with_message(format!("node {node} does not answer any more"))
}

/// How a container ends that is stopped before its process has run.
pub(crate) fn stopped_before_start(at: Option<SystemTime>) -> Exit {
    Exit::new(ExitReason::StoppedByUs).with_ended_at(at).with_message(STOPPED_BEFORE)
}

/// How a pod ended that the server does not have any more, by the last that was seen of it.
pub(crate) fn removed(last: &Pod, deletion: Deletion) -> Exit {
    if let Some(terminated) = terminated(last) {
        return exit_of(last, terminated, deletion);
    }
    without_code(last).unwrap_or_else(|| Exit::new(ExitReason::Removed))
}

/// The exit of a pod that the cluster or a stop has ended, and that shows no end of its process.
fn without_code(pod: &Pod) -> Option<Exit> {
    let (reason, message) = ended_by_cluster(pod)?;
    let ended_at = match reason {
        ExitReason::StoppedByUs => pod.annotated_time(STOPPED_AT),
        _ => None,
    };
    Some(Exit::new(reason).with_ended_at(ended_at).with_message(message))
}

/// Whether the container of a pod that is being deleted has not ended by its own or by a stop: the
/// deletion came first.
pub(crate) fn is_deleted_first(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && terminated(pod).is_none()
        && pod.annotation(STOPPED_AT).is_none()
}

/// When the main process was started, where it was.
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

/// Whether the kernel's memory killer was at work in the container.
pub(crate) fn had_oom(pod: &Pod) -> bool {
    terminated(pod).is_some_and(|t| t.reason.as_deref() == Some("OOMKilled"))
}

/// Whether the node says that the processes of the pod have ended.
///
/// A kubelet can have swept a container away before it looked how it ended. It then calls the pod
/// failed and the container waiting, as one that was never made, and says no more for as long as
/// was seen (a minute; version 1.20, two of a hundred removals on a busy node).
pub(crate) fn is_dead(pod: &Pod) -> bool {
    let waits = pod.container_status().is_some_and(|status| status.state.waiting.is_some());
    terminated(pod).is_some() || (waits && has_final_phase(pod))
}

/// Returns whether no process of a pod has run or can come to run without the node's next attempt.
///
/// The words of a node that is between two attempts, or makes none. One that creates the container
/// may have started the process and not reported it yet.
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

/// The message of a stop that came before the process.
const STOPPED_BEFORE: &str = "stopped before its process was started";

fn has_final_phase(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Failed" | "Succeeded")
}

/// Which of the pod's conditions says that the cluster does not hear from its node, if one does.
///
/// A kubelet that calls a pod not ready gives the reason, and mostly calls its containers so too.
/// What watches the nodes changes that one word alone when a node has fallen silent, in all
/// versions; a node that is back changes it again.
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

/// `ContainerCannotRun` is how the kubelet's old Docker shim says it.
fn was_started(terminated: &Terminated) -> bool {
    !matches!(terminated.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
        && terminated.started_at.is_some_and(|time| time.0 > SystemTime::UNIX_EPOCH)
}

/// A stop of a container that did not run yet is done when its node has seen that there is nothing
/// to run any more, or when it has no node.
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
    let said = terminated.message.clone().unwrap_or_default();
    let or_said = |message: String| if message.is_empty() { said.clone() } else { message };
    let exit = match terminated.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => {
            return Exit::new(ExitReason::StartFailed).with_ended_at(ended_at).with_message(said);
        }
        // The node lost sight of the container, or never had one: its code 137 is made up.
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
            return Exit::new(reason).with_ended_at(ended_at).with_message(or_said(message));
        }
        // The reason also stands where a child was killed and the main process then ended by
        // itself; only a killed main process has 137.
        Some("OOMKilled") if terminated.exit_code == 137 => {
            let mut exit = Exit::from_code(137).with_reason(ExitReason::OutOfMemory);
            exit.signal = Some(Signal::KILL);
            exit
        }
        _ => own_exit(pod, terminated, deletion),
    };
    let message = exit.message.clone().unwrap_or_default();
    exit.with_ended_at(ended_at).with_message(or_said(message))
}

/// The exit of a process that ran. A bare pod is never restarted, so an end without a word of the
/// cluster is its own.
fn own_exit(pod: &Pod, terminated: &Terminated, deletion: Deletion) -> Exit {
    let exit = Exit::from_code(terminated.exit_code);
    match ended_by_cluster(pod) {
        // A stop that was made with a deadline.
        Some((ExitReason::StoppedByUs, _)) => exit.with_reason(ExitReason::StoppedByUs),
        Some((reason, message)) => without_success(exit.with_reason(reason)).with_message(message),
        None if deletion == Deletion::First => Exit::new(ExitReason::Removed),
        None if pod.annotation(STOPPED_AT).is_some() => exit.with_reason(ExitReason::StoppedByUs),
        None if was_deleted_first(pod, deletion) => Exit::new(ExitReason::Removed),
        None => exit,
    }
}

/// A process that obeys when the cluster tells it to go may well return 0, and has still not done
/// its work.
fn without_success(mut exit: Exit) -> Exit {
    if exit.code == Some(0) {
        exit.code = None;
    }
    exit
}

/// Whether the deletion of a pod has come before the end of its container, as far as it can be told
/// apart: an end that cannot is not called the container's own.
fn was_deleted_first(pod: &Pod, deletion: Deletion) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    deletion == Deletion::First || !had_ended_before(pod)
}

/// Whether a pod that is being deleted shows that its end was known before that.
///
/// A server gives no grace to a pod that has ended. The node writes for which generation of the pod
/// it reports, and a deletion makes a new one.
fn had_ended_before(pod: &Pod) -> bool {
    let Meta { deletion_grace_period_seconds: grace, generation, .. } = &pod.metadata;
    let reported = pod.condition("Ready").and_then(|ready| ready.observed_generation);
    has_final_phase(pod)
        && grace.unwrap_or(0) == 0
        && reported.is_some_and(|reported| reported > 0 && reported < *generation)
}

/// The cluster's own reason for the end of a pod, where it has one.
fn ended_by_cluster(pod: &Pod) -> Option<(ExitReason, String)> {
    let status = &pod.status;
    let message = || status.message.clone().unwrap_or_default();
    let by_reason = match status.reason.as_deref() {
        // `Shutdown` and `Terminated`: the node was shut down in good order.
        Some(
            "Evicted" | "Preempting" | "Preempted" | "Shutdown" | "NodeShutdown" | "Terminated",
        ) => Some(ExitReason::Evicted),
        Some("NodeLost") => Some(ExitReason::NodeLost),
        // A stop sets a deadline where the image cannot be changed, or nothing ran yet.
        Some("DeadlineExceeded") if pod.annotation(STOPPED_AT).is_some() => {
            let never_ran = started_at(pod).is_none();
            let words = if never_ran { STOPPED_BEFORE } else { "" };
            return Some((ExitReason::StoppedByUs, words.to_owned()));
        }
        Some("DeadlineExceeded") => Some(ExitReason::DeadlineExceeded),
        // The node refused the pod that the scheduler had given it.
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
        let words = message();
        let words =
            if words.is_empty() { status.reason.clone().unwrap_or_default() } else { words };
        return Some((reason, words));
    }
    let target = pod.condition("DisruptionTarget").filter(|target| target.status == "True")?;
    let words = target.message.clone().unwrap_or_default();
    let reason = match target.reason.as_deref() {
        Some("DeletionByPodGC") => ExitReason::NodeLost,
        // Somebody has tainted the node, or a controller because the node is silent.
        Some("DeletionByTaintManager") if silence(pod).is_some() => ExitReason::NodeLost,
        _ => ExitReason::Evicted,
    };
    Some((reason, words))
}

/// What every scheduler says of a pod that an affinity holds.
const HELD_WORDS: &str = "didn't match pod affinity";

/// What the kubelet leaves out when it does not find an image that must not be pulled: it hides from
/// a pod what the pod's login does not give access to.
const NEVER_PULLED: &str = " (a node from version 1.35 on reports the same for an image that it has, unless the login of \
     the container has pulled it there before)";

/// What keeps a started pod from running.
fn trouble(pod: &Pod) -> Trouble {
    if let Some(scheduled) = pod.condition("PodScheduled")
        && scheduled.status == "False"
        && scheduled.reason.as_deref() == Some("Unschedulable")
    {
        let words = scheduled.message.clone().unwrap_or_default();
        // The scheduler's words from before the start, where an affinity has held the pod: with the
        // start it has what it waited for.
        let is_of_hold = pod.metadata.labels.contains_key(RELEASED) && words.contains(HELD_WORDS);
        return if is_of_hold { Trouble::None } else { Trouble::Unschedulable(words) };
    }
    let waiting = pod.container_status().and_then(|status| status.state.waiting.as_ref());
    let Some(waiting) = waiting else { return Trouble::None };
    let message = waiting.message.clone().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        // The node looks at what a stop left.
        "InvalidImageName" if message.contains(STOPPED_IMAGE) => Trouble::None,
        "InvalidImageName" => Trouble::Final { reason: ExitReason::ImagePullFailed, message },
        "ErrImageNeverPull" => {
            let hides = message.contains("is not present with pull policy of Never");
            let message = format!("{message}{}", if hides { NEVER_PULLED } else { "" });
            Trouble::Final { reason: ExitReason::ImagePullFailed, message }
        }
        "CreateContainerConfigError" => Trouble::Final { reason: ExitReason::StartFailed, message },
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Trouble::Pull(message),
        "" | "ContainerCreating" | "PodInitializing" => Trouble::None,
        reason => Trouble::Start(if message.is_empty() { reason.to_owned() } else { message }),
    }
}

#[cfg(test)]
mod tests;
