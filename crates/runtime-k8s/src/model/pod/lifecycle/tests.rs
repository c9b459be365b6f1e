//! States and exits of pods.

use super::*;
use serde_json::{Value, json};

fn pod(image: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u", "annotations": {}, "labels": {RELEASED: "n"}},
        "spec": {"nodeName": "n", "containers": [{"name": "main", "image": image}]},
        "status": status,
    }))
    .unwrap()
}

fn assess_of(pod: &Pod) -> State {
    assess(pod, Deletion::Unknown)
}

fn removed_of(pod: &Pod) -> Exit {
    removed(pod, Deletion::Unknown)
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
fn exit_of_terminated_container_has_reason_and_code() {
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
        let state = assess_of(&pod);
        let exit = exit(&state);
        assert_eq!((exit.reason, exit.code), (want, want_code), "{code} {reason}");
        assert_eq!(removed_of(&pod), *exit, "the exit is kept after the removal");
        assert!(exit.ended_at.is_some());
    }
}

#[test]
fn stop_keeps_exit_code() {
    let mut pod = pod(STOPPED_IMAGE, ended(143, "Error"));
    pod.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
    let state = assess_of(&pod);
    assert_eq!(exit(&state).reason, ExitReason::StoppedByUs);
    assert_eq!((exit(&state).code, exit(&state).signal), (Some(143), Some(Signal::TERM)));
}

#[test]
fn silent_node_is_detected_by_ready_condition() {
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
    // Messages of a kubelet.
    assert_eq!(silence(&with("True", Value::Null, "True")), None);
    assert_eq!(silence(&with("False", json!("ContainersNotReady"), "False")), None);
    assert_eq!(silence(&with("False", json!("ReadinessGatesNotReady"), "True")), None);
    assert_eq!(silence(&with("False", Value::Null, "False")), None);
    assert_eq!(silence(&pod("busybox", json!({"phase": "Pending"}))), None);
}

#[test]
fn pod_ended_by_cluster_is_not_success() {
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
        let bare = pod("busybox", json!({"phase": "Failed", "reason": reason, "message": "why"}));
        let state = assess_of(&bare);
        assert_eq!((exit(&state).reason, exit(&state).code), (want, None), "{reason}");
        assert_eq!(exit(&state).message.as_deref(), Some("why"));

        let mut with_code = pod("busybox", ended(0, "Completed"));
        with_code.status.reason = Some(reason.into());
        let state = assess_of(&with_code);
        assert_eq!(exit(&state).reason, want);
        assert!(!exit(&state).success(), "{reason}");
    }
    for (reason, want) in [
        ("PreemptionByScheduler", R::Evicted),
        ("EvictionByEvictionAPI", R::Evicted),
        ("TerminationByKubelet", R::Evicted),
        ("DeletionByTaintManager", R::Evicted),
        ("DeletionByPodGC", R::NodeLost),
    ] {
        let mut status = json!({"phase": "Failed"});
        status["conditions"] =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        let pod = pod("busybox", status);
        assert_eq!(exit(&assess_of(&pod)).reason, want, "{reason}");
        assert_eq!(removed_of(&pod).reason, want);
    }
}

fn deleted(mut pod: Pod, at: &str, grace: u64) -> Pod {
    pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(at)).unwrap());
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

#[test]
fn exit_of_deleted_pod_without_earlier_end_is_removed() {
    // The times are ignored: a server can have changed the time of the deletion to one after the
    // end.
    for (at, grace) in [
        ("2026-11-23T16:00:38Z", 30),
        ("2026-11-23T16:01:00Z", 30),
        ("2026-11-23T16:00:10Z", 0),
        ("2026-11-23T16:30:00Z", 0),
    ] {
        for code in [0, 3, 143] {
            let pod = deleted(pod("busybox", ended(code, "Completed")), at, grace);
            for exit in [removed_of(&pod), exit(&assess_of(&pod)).clone()] {
                assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None), "{at} {code}");
                assert!(exit.ended_at.is_some());
            }
        }
    }
    let running = pod(
        "busybox",
        json!({"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}),
    );
    assert_eq!(removed_of(&running), Exit::new(ExitReason::Removed));
}

#[test]
fn exit_of_earlier_generation_is_own_exit() {
    for (reported, grace, want) in [
        (json!(2), 0, ExitReason::Exited),
        (json!(3), 0, ExitReason::Removed),
        // The server has set a grace, so the pod had not ended.
        (json!(2), 10, ExitReason::Removed),
        (json!(0), 0, ExitReason::Removed),
        (Value::Null, 0, ExitReason::Removed),
    ] {
        let mut status = ended(0, "Completed");
        status["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "PodCompleted",
            "observedGeneration": reported}]);
        let mut pod = deleted(pod("busybox", status), "2026-11-23T16:00:10Z", grace);
        pod.metadata.generation = 3;
        assert_eq!(removed_of(&pod).reason, want, "{reported} {grace}");
        let known = removed(&pod, Deletion::First);
        assert_eq!((known.reason, known.code), (ExitReason::Removed, None), "{reported}");
    }
}

#[test]
fn stop_keeps_code_only_before_deletion() {
    let mut stopped = pod(STOPPED_IMAGE, ended(0, "Completed"));
    stopped.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
    let stopped = deleted(stopped, "2026-11-23T16:00:10Z", 0);
    assert_eq!(removed_of(&stopped).reason, ExitReason::StoppedByUs);
    let known = removed(&stopped, Deletion::First);
    assert_eq!((known.reason, known.success()), (ExitReason::Removed, false));
}

#[test]
fn exit_after_deadline_of_stop_is_stopped_by_us() {
    let stopped = |status: Value| {
        let mut pod = pod("busybox", status);
        pod.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
        pod.status.reason = Some("DeadlineExceeded".into());
        exit(&assess_of(&pod)).clone()
    };
    for code in [0, 42, 137] {
        let exit = stopped(ended(code, "Error"));
        assert_eq!((exit.reason, exit.code), (ExitReason::StoppedByUs, Some(code)));
    }
    let never = json!({"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"terminated": {
        "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null}}}]});
    let exit = stopped(never);
    assert_eq!((exit.reason, exit.code), (ExitReason::StoppedByUs, None));
    assert_eq!(exit.message.as_deref(), Some(STOPPED_BEFORE_START_MESSAGE));
    assert!(exit.ended_at.is_some());
    assert_eq!(stopped(json!({"phase": "Failed"})).reason, ExitReason::StoppedByUs);
}

#[test]
fn taint_of_silent_node_is_node_lost() {
    let with = |ready: Value| {
        pod(
            "busybox",
            json!({"phase": "Running", "conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"},
                {"type": "ContainersReady", "status": "True"}, ready,
            ]}),
        )
    };
    let silent = with(json!({"type": "Ready", "status": "False"}));
    assert_eq!(removed_of(&silent).reason, ExitReason::NodeLost);
    let well = with(json!({"type": "Ready", "status": "True"}));
    assert_eq!(removed_of(&well).reason, ExitReason::Evicted);
}

#[test]
fn pod_with_ended_or_removed_container_is_dead() {
    let with = |phase: &str, state: Value| {
        let status =
            json!({"phase": phase, "containerStatuses": [{"name": "main", "state": state}]});
        is_dead(&pod("busybox", status))
    };
    assert!(is_dead(&pod("busybox", ended(0, "Completed"))));
    assert!(with("Failed", json!({"waiting": {"reason": "ContainerCreating"}})));
    assert!(!with("Running", json!({"waiting": {"reason": "ContainerCreating"}})));
    // A deadline sets the phase of the pod before it ends the process.
    assert!(!with("Failed", json!({"running": {}})));
    assert!(!is_dead(&pod("busybox", json!({"phase": "Failed"}))));
}

#[test]
fn state_before_process_runs_is_gated_or_pending() {
    use ExitReason as R;
    let final_ = |reason, message: &str| PendingReason::Final { reason, message: message.into() };
    for (reason, message, want) in [
        ("ContainerCreating", "", PendingReason::None),
        ("InvalidImageName", "couldn't parse image reference \"!stopped\"", PendingReason::None),
        ("InvalidImageName", "bad", final_(R::ImagePullFailed, "bad")),
        ("ErrImageNeverPull", "not there", final_(R::ImagePullFailed, "not there")),
        ("CreateContainerConfigError", "no", final_(R::StartFailed, "no")),
        ("ErrImagePull", "401", PendingReason::Pull("401".into())),
        ("ImagePullBackOff", "Back-off", PendingReason::Pull("Back-off".into())),
        ("CreateContainerError", "name", PendingReason::Start("name".into())),
        ("RunContainerError", "", PendingReason::Start("RunContainerError".into())),
    ] {
        assert_eq!(
            assess_of(&pod("busybox", waiting(reason, message))),
            State::Pending(want),
            "{reason}"
        );
    }
    let status = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]});
    assert_eq!(
        assess_of(&pod("busybox", status.clone())),
        State::Pending(PendingReason::Unschedulable("0/1".into()))
    );
    // The state is gated independently of the scheduler's report and of the image.
    let mut gated = pod("mirror.test/busybox", status);
    gated.metadata.labels.clear();
    assert_eq!(assess_of(&gated), State::Gated);
}

#[test]
fn gate_is_not_a_pending_reason_after_start() {
    for (text, want) in [
        ("0/1: 1 node(s) didn't match pod affinity rules", PendingReason::None),
        ("0/1: Insufficient cpu", PendingReason::Unschedulable("0/1: Insufficient cpu".into())),
    ] {
        let mut started = pod(
            "busybox",
            json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}]}),
        );
        started.metadata.labels.insert(RELEASED.into(), "n".into());
        assert_eq!(assess_of(&started), State::Pending(want));
    }
}

#[test]
fn final_phase_without_exit_is_settling() {
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(assess_of(&pod("busybox", json!({"phase": phase}))), State::Settling);
    }
}

#[test]
fn stop_before_process_ran_is_stopped_by_us() {
    let mut stopped = pod(STOPPED_IMAGE, waiting("ContainerCreating", ""));
    stopped.metadata.annotations.insert(STOPPED_AT.into(), "1000".into());
    assert_eq!(
        assess_of(&stopped),
        State::Pending(PendingReason::None),
        "the node may be starting it"
    );
    stopped.status = serde_json::from_value(waiting("InvalidImageName", "!stopped")).unwrap();
    let state = assess_of(&stopped);
    assert_eq!((exit(&state).reason, exit(&state).code), (ExitReason::StoppedByUs, None));
    stopped.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
    stopped.spec.node_name = None;
    assert_eq!(exit(&assess_of(&stopped)).reason, ExitReason::StoppedByUs);
}

#[test]
fn verdict_is_final() {
    let verdict = Exit::new(ExitReason::ImagePullFailed).with_message("401");
    let mut pod = pod(STOPPED_IMAGE, waiting("InvalidImageName", "!stopped"));
    pod.metadata.annotations.insert(VERDICT.into(), serde_json::to_string(&verdict).unwrap());
    assert_eq!(assess_of(&pod), State::Ended(verdict));
}

#[test]
fn container_without_start_has_no_start_time() {
    let started = pod("busybox", ended(0, "Completed"));
    assert!(started_at(&started).is_some());
    assert_eq!(started_at(&pod("busybox", ended(128, "StartError"))), None);
    assert_eq!(started_at(&pod("busybox", waiting("ContainerCreating", ""))), None);
}

fn read(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

#[test]
fn never_ran_is_true_only_between_attempts() {
    let with = |node: Value, status: Value| {
        never_ran(&read(json!({
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"containerStatuses": status},
        })))
    };
    let waiting =
        |reason: &str| json!([{"name": "main", "state": {"waiting": {"reason": reason}}}]);
    assert!(with(Value::Null, Value::Null));
    assert!(!with(json!("n"), Value::Null));
    assert!(with(json!("n"), waiting("ImagePullBackOff")));
    assert!(with(json!("n"), waiting("InvalidImageName")));
    assert!(!with(json!("n"), waiting("ContainerCreating")));
    assert!(!with(json!("n"), json!([{"name": "main", "state": {"running": {}}}])));
}
