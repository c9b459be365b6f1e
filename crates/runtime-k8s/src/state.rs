//! What a pod says about the life of its container.
//!
//! All of it is one pure function of the pod as the server shows it, so that info, wait, list and
//! events, and two processes that look at one pod, cannot come to different answers.

use std::time::SystemTime;

use runtime_core::{Exit, ExitReason, Signal};

use crate::names::{HELD_IMAGE, RELEASED, STOPPED_AT, STOPPED_IMAGE, VERDICT};
use crate::wire::{Pod, Terminated};

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

/// Reads the state of a pod that the server has.
pub(crate) fn assess(pod: &Pod) -> State {
    // A verdict was made only after the pod was kept from running ever.
    if let Some(verdict) = pod.annotation(VERDICT)
        && let Ok(exit) = serde_json::from_str(verdict)
    {
        return State::Ended(exit);
    }
    if let Some(terminated) = terminated(pod) {
        return State::Ended(exit_of(pod, terminated));
    }
    let running = pod.container_status().is_some_and(|s| s.state.running.is_some());
    if has_final_phase(pod) {
        return match ended_by_cluster(pod) {
            Some((reason, message)) => State::Ended(Exit::new(reason).with_message(message)),
            None => State::Settling,
        };
    }
    if running {
        return State::Running;
    }
    match pod.container().map(|container| container.image.as_str()) {
        Some(HELD_IMAGE) => State::Held,
        Some(STOPPED_IMAGE) if is_stop_done(pod) => {
            let exit = Exit::new(ExitReason::StoppedByUs)
                .with_ended_at(pod.annotated_time(STOPPED_AT))
                .with_message("stopped before its process was started");
            State::Ended(exit)
        }
        _ => State::Pending(trouble(pod)),
    }
}

/// How a pod ended that the server does not have any more, by the last that was seen of it.
pub(crate) fn removed(last: &Pod) -> Exit {
    if let Some(terminated) = terminated(last) {
        return exit_of(last, terminated);
    }
    match ended_by_cluster(last) {
        Some((reason, message)) => Exit::new(reason).with_message(message),
        None => Exit::new(ExitReason::Removed),
    }
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

fn exit_of(pod: &Pod, terminated: &Terminated) -> Exit {
    let ended_at =
        terminated.finished_at.map(|time| time.0).filter(|t| *t > SystemTime::UNIX_EPOCH);
    let said = terminated.message.clone().unwrap_or_default();
    let exit = match terminated.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => {
            return Exit::new(ExitReason::StartFailed).with_ended_at(ended_at).with_message(said);
        }
        // The node lost sight of the container: its code 137 is made up.
        Some("ContainerStatusUnknown") => {
            let (reason, message) =
                ended_by_cluster(pod).unwrap_or((ExitReason::Unknown, String::new()));
            let message = if message.is_empty() { said } else { message };
            return Exit::new(reason).with_ended_at(ended_at).with_message(message);
        }
        // The reason also stands where a child was killed and the main process then ended by
        // itself; only a killed main process has 137.
        Some("OOMKilled") if terminated.exit_code == 137 => {
            let mut exit = Exit::from_code(137).with_reason(ExitReason::OutOfMemory);
            exit.signal = Some(Signal::KILL);
            exit
        }
        // A bare pod is never restarted, so an end without a word of the cluster is its own.
        _ => {
            let exit = Exit::from_code(terminated.exit_code);
            match ended_by_cluster(pod) {
                Some((reason, message)) => {
                    let message = if message.is_empty() { said } else { message };
                    return without_success(exit.with_reason(reason))
                        .with_ended_at(ended_at)
                        .with_message(message);
                }
                None if pod.annotation(STOPPED_AT).is_some() => {
                    exit.with_reason(ExitReason::StoppedByUs)
                }
                None if was_deleted_first(pod, terminated) => {
                    return Exit::new(ExitReason::Removed)
                        .with_ended_at(ended_at)
                        .with_message(said);
                }
                None => exit,
            }
        }
    };
    exit.with_ended_at(ended_at).with_message(said)
}

/// A process that obeys when the cluster tells it to go may well return 0, and has still not done
/// its work.
fn without_success(mut exit: Exit) -> Exit {
    if exit.code == Some(0) {
        exit.code = None;
    }
    exit
}

/// Whether somebody had asked for the pod's deletion when the process ended. Times count seconds.
fn was_deleted_first(pod: &Pod, terminated: &Terminated) -> bool {
    let Some(deletion) = pod.metadata.deletion_timestamp else { return false };
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let asked = deletion.0.checked_sub(std::time::Duration::from_secs(grace));
    match (asked, terminated.finished_at) {
        (Some(asked), Some(finished)) => finished.0 >= asked,
        _ => true,
    }
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
        Some("DeletionByTaintManager" | "DeletionByPodGC") => ExitReason::NodeLost,
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
        // The node still looks at the placeholder, or at what a stop left.
        "InvalidImageName" if message.contains(HELD_IMAGE) || message.contains(STOPPED_IMAGE) => {
            Trouble::None
        }
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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(image: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "annotations": {}},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": image}]},
            "status": status,
        }))
        .unwrap()
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [{"name": "main", "state": {"terminated": {
            "exitCode": code, "reason": reason,
            "startedAt": "2026-11-23T16:00:00Z", "finishedAt": "2026-11-23T16:00:09Z",
        }}}]})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    fn exit(state: &State) -> &Exit {
        match state {
            State::Ended(exit) => exit,
            other => panic!("{other:?} is no end"),
        }
    }

    #[test]
    fn exits() {
        use ExitReason as R;
        for (code, reason, want, want_code) in [
            (0, "Completed", R::Exited, Some(0)),
            (1, "Error", R::Exited, Some(1)),
            (137, "Error", R::Signaled, Some(137)),
            (137, "OOMKilled", R::OutOfMemory, Some(137)),
            (0, "OOMKilled", R::Exited, Some(0)),
            (1, "OOMKilled", R::Exited, Some(1)),
            (128, "StartError", R::StartFailed, None),
            (127, "ContainerCannotRun", R::StartFailed, None),
            (137, "ContainerStatusUnknown", R::Unknown, None),
        ] {
            let pod = pod("busybox", ended(code, reason));
            let state = assess(&pod);
            let exit = exit(&state);
            assert_eq!((exit.reason, exit.code), (want, want_code), "{code} {reason}");
            assert_eq!(removed(&pod), *exit, "a known exit outlives the pod");
            assert!(exit.ended_at.is_some());
        }
    }

    #[test]
    fn a_stop_of_ours_keeps_the_code() {
        let mut pod = pod(STOPPED_IMAGE, ended(143, "Error"));
        pod.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
        let state = assess(&pod);
        assert_eq!(exit(&state).reason, ExitReason::StoppedByUs);
        assert_eq!((exit(&state).code, exit(&state).signal), (Some(143), Some(Signal::TERM)));
    }

    #[test]
    fn a_silent_node_shows_in_one_word() {
        let with = |ready: &str, reason: Value, containers: &str| {
            pod(
                "busybox",
                json!({"phase": "Running", "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {"type": "Ready", "status": ready, "reason": reason},
                    {"type": "ContainersReady", "status": containers},
                ]}),
            )
        };
        assert_eq!(silence(&with("False", Value::Null, "True")), Some(1));
        assert_eq!(silence(&with("False", json!(""), "True")), Some(1));
        // The words of a kubelet.
        assert_eq!(silence(&with("True", Value::Null, "True")), None);
        assert_eq!(silence(&with("False", json!("ContainersNotReady"), "False")), None);
        assert_eq!(silence(&with("False", json!("ReadinessGatesNotReady"), "True")), None);
        assert_eq!(silence(&with("False", Value::Null, "False")), None);
        assert_eq!(silence(&pod("busybox", json!({"phase": "Pending"}))), None);
    }

    #[test]
    fn the_cluster_ends_a_pod_and_it_is_no_success() {
        use ExitReason as R;
        for (reason, want) in [
            ("Evicted", R::Evicted),
            ("Preempting", R::Evicted),
            ("Shutdown", R::Evicted),
            ("Terminated", R::Evicted),
            ("NodeLost", R::NodeLost),
            ("DeadlineExceeded", R::DeadlineExceeded),
            ("OutOfcpu", R::StartFailed),
            ("NodeAffinity", R::StartFailed),
            ("UnexpectedAdmissionError", R::StartFailed),
        ] {
            let bare =
                pod("busybox", json!({"phase": "Failed", "reason": reason, "message": "why"}));
            let state = assess(&bare);
            assert_eq!((exit(&state).reason, exit(&state).code), (want, None), "{reason}");
            assert_eq!(exit(&state).message.as_deref(), Some("why"));

            let mut with_code = pod("busybox", ended(0, "Completed"));
            with_code.status.reason = Some(reason.into());
            let state = assess(&with_code);
            assert_eq!(exit(&state).reason, want);
            assert!(!exit(&state).success(), "{reason}");
        }
        for (reason, want) in [
            ("PreemptionByScheduler", R::Evicted),
            ("EvictionByEvictionAPI", R::Evicted),
            ("TerminationByKubelet", R::Evicted),
            ("DeletionByTaintManager", R::NodeLost),
            ("DeletionByPodGC", R::NodeLost),
        ] {
            let mut status = json!({"phase": "Failed"});
            status["conditions"] =
                json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
            let pod = pod("busybox", status);
            assert_eq!(exit(&assess(&pod)).reason, want, "{reason}");
            assert_eq!(removed(&pod).reason, want);
        }
    }

    #[test]
    fn a_deleted_pod_was_removed_unless_it_had_ended_before() {
        for (deleted, want, success) in [
            ("2026-11-23T16:00:38Z", ExitReason::Removed, false),
            ("2026-11-23T16:01:00Z", ExitReason::Exited, true),
        ] {
            let mut pod = pod("busybox", ended(0, "Completed"));
            pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(deleted)).unwrap());
            pod.metadata.deletion_grace_period_seconds = Some(30);
            let exit = removed(&pod);
            assert_eq!((exit.reason, exit.success()), (want, success), "{deleted}");
        }
        let running = pod(
            "busybox",
            json!({"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}),
        );
        assert_eq!(removed(&running), Exit::new(ExitReason::Removed));
    }

    #[test]
    fn dead_is_what_has_ended_or_was_swept_away() {
        let with = |phase: &str, state: Value| {
            let status =
                json!({"phase": phase, "containerStatuses": [{"name": "main", "state": state}]});
            is_dead(&pod("busybox", status))
        };
        assert!(is_dead(&pod("busybox", ended(0, "Completed"))));
        assert!(with("Failed", json!({"waiting": {"reason": "ContainerCreating"}})));
        assert!(!with("Running", json!({"waiting": {"reason": "ContainerCreating"}})));
        // A deadline ends the pod in name before it ends the process.
        assert!(!with("Failed", json!({"running": {}})));
        assert!(!is_dead(&pod("busybox", json!({"phase": "Failed"}))));
    }

    #[test]
    fn before_it_runs() {
        use ExitReason as R;
        let final_ = |reason, message: &str| Trouble::Final { reason, message: message.into() };
        for (reason, message, want) in [
            ("ContainerCreating", "", Trouble::None),
            ("InvalidImageName", "couldn't parse image reference \"!created\"", Trouble::None),
            ("InvalidImageName", "bad", final_(R::ImagePullFailed, "bad")),
            ("ErrImageNeverPull", "not there", final_(R::ImagePullFailed, "not there")),
            ("CreateContainerConfigError", "no", final_(R::StartFailed, "no")),
            ("ErrImagePull", "401", Trouble::Pull("401".into())),
            ("ImagePullBackOff", "Back-off", Trouble::Pull("Back-off".into())),
            ("CreateContainerError", "name", Trouble::Start("name".into())),
            ("RunContainerError", "", Trouble::Start("RunContainerError".into())),
        ] {
            assert_eq!(
                assess(&pod("busybox", waiting(reason, message))),
                State::Pending(want),
                "{reason}"
            );
        }
        let status = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]});
        assert_eq!(
            assess(&pod("busybox", status.clone())),
            State::Pending(Trouble::Unschedulable("0/1".into()))
        );
        assert_eq!(assess(&pod(HELD_IMAGE, status)), State::Held);
        assert_eq!(assess(&pod(HELD_IMAGE, waiting("InvalidImageName", "!created"))), State::Held);
    }

    #[test]
    fn what_held_a_pod_is_no_trouble_after_its_start() {
        for (words, want) in [
            ("0/1: 1 node(s) didn't match pod affinity rules", Trouble::None),
            ("0/1: Insufficient cpu", Trouble::Unschedulable("0/1: Insufficient cpu".into())),
        ] {
            let mut started = pod(
                "busybox",
                json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]}),
            );
            started.metadata.labels.insert(RELEASED.into(), "n".into());
            assert_eq!(assess(&started), State::Pending(want));
        }
    }

    #[test]
    fn a_phase_can_be_final_before_the_exit_is_known() {
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(assess(&pod("busybox", json!({"phase": phase}))), State::Settling);
        }
    }

    #[test]
    fn a_stop_before_the_process_ran() {
        let mut stopped = pod(STOPPED_IMAGE, waiting("ContainerCreating", ""));
        stopped.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
        assert_eq!(assess(&stopped), State::Pending(Trouble::None), "the node may just start it");
        stopped.status = serde_json::from_value(waiting("InvalidImageName", "!stopped")).unwrap();
        let state = assess(&stopped);
        assert_eq!((exit(&state).reason, exit(&state).code), (ExitReason::StoppedByUs, None));
        stopped.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
        stopped.spec.node_name = None;
        assert_eq!(exit(&assess(&stopped)).reason, ExitReason::StoppedByUs);
    }

    #[test]
    fn a_verdict_stands() {
        let verdict = Exit::new(ExitReason::ImagePullFailed).with_message("401");
        let mut pod = pod(STOPPED_IMAGE, waiting("InvalidImageName", "!stopped"));
        pod.metadata.annotations.insert(VERDICT.into(), serde_json::to_string(&verdict).unwrap());
        assert_eq!(assess(&pod), State::Ended(verdict));
    }

    #[test]
    fn what_was_not_started_has_no_start_time() {
        let started = pod("busybox", ended(0, "Completed"));
        assert!(started_at(&started).is_some());
        assert_eq!(started_at(&pod("busybox", ended(128, "StartError"))), None);
        assert_eq!(started_at(&pod("busybox", waiting("ContainerCreating", ""))), None);
    }
}
