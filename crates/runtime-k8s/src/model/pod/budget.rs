//! Budgets of containers that may never run, and the times at which they are spent.
//!
//! They count from times that are recorded in the cluster: the start, which is an annotation of the
//! pod, the binding to a node, the first failure, the silence of the node. These are the same for
//! every process, so that a new process does not restart a budget. A process whose clock is behind
//! counts from its own observations.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::lifecycle::{self, PendingReason, State};
use super::observed::ObservedPod;
use crate::model::api::Pod;
use crate::model::labels::{STARTED_AT, STOPPED_IMAGE};
use crate::options::KubernetesOptions;

/// How long a node may report nothing before the events of the pod are read. The interval grows
/// with each check.
pub(crate) const EVENT_CHECK_INTERVAL_MIN: Duration = Duration::from_secs(2);

/// A delay that never ends.
const FAR_FUTURE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a start may take before its failure is reported.
const REPORT_FAILING_AFTER: Duration = Duration::from_secs(3);

/// How long a start without a failure may take before its progress is reported: nodes are busy, and
/// images are large.
const REPORT_PENDING_AFTER: Duration = Duration::from_secs(10);

/// Returns when to report why a container does not run yet.
pub(crate) fn report_due(seen: &ObservedPod) -> Option<Instant> {
    let is_pending = matches!(seen.state, State::Pending(_));
    if !is_pending || seen.is_stopping() || seen.is_going() {
        return None;
    }
    let delay =
        if seen.pending_reason.is_some() { REPORT_FAILING_AFTER } else { REPORT_PENDING_AFTER };
    Some(spent(requested_at(&seen.pod), seen.pending_since, delay))
}

/// Returns when to evaluate a pod, if it does not change before.
pub(crate) fn due(seen: &ObservedPod, options: &KubernetesOptions) -> Option<Instant> {
    let pod = &*seen.pod;
    let reason = match &seen.state {
        State::Running => {
            let silent = pod.status.conditions.get(lifecycle::silence(pod)?)?;
            let recorded = silent.last_transition_time.map(|time| time.0);
            return Some(spent(recorded, seen.silent_since, options.node_budget));
        }
        State::Pending(reason) => reason,
        _ => return None,
    };
    // The end of a deletion does not depend on a budget.
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let failing = seen.pending_reason.as_ref().map(|(_, since)| *since);
    match reason {
        PendingReason::Final { .. } => Some(failing.unwrap_or_else(Instant::now)),
        PendingReason::Pull(_) => Some(spent(placed_at(pod), failing, options.pull_budget)),
        PendingReason::Start(_) => Some(spent(placed_at(pod), failing, options.start_budget)),
        PendingReason::Unschedulable(_) => {
            Some(spent(requested_at(pod), failing, options.schedule_budget))
        }
        // The stop completes by itself.
        PendingReason::None if image(pod) == STOPPED_IMAGE => None,
        PendingReason::None if pod.spec.node_name.is_none() => {
            Some(spent(requested_at(pod), seen.pending_since, options.schedule_budget))
        }
        PendingReason::None => {
            Some(spent(placed_at(pod), seen.pending_since, EVENT_CHECK_INTERVAL_MIN))
        }
    }
}

/// Returns the end of a budget that began at the recorded time, or at the time at which this
/// process observed the beginning: the earlier of both.
pub(crate) fn spent(
    recorded: Option<SystemTime>,
    seen: Option<Instant>,
    budget: Duration,
) -> Instant {
    let now = Instant::now();
    let after = |time: Instant, delay: Duration| {
        time.checked_add(delay.min(FAR_FUTURE)).unwrap_or_else(|| now + FAR_FUTURE)
    };
    let by_record = recorded.map(|since| {
        let passed = SystemTime::now().duration_since(since).unwrap_or_default();
        after(now, budget.saturating_sub(passed))
    });
    let by_sight = seen.map(|since| after(since, budget));
    let end = by_record.into_iter().chain(by_sight).min();
    end.unwrap_or_else(|| after(now, budget))
}

/// Returns the time of the start, by the clock of the caller.
pub(crate) fn requested_at(pod: &Pod) -> Option<SystemTime> {
    pod.annotated_time(STARTED_AT)
}

/// Returns the time from which a node was able to start the pod.
pub(crate) fn placed_at(pod: &Pod) -> Option<SystemTime> {
    let placed = pod.condition("PodScheduled").filter(|scheduled| scheduled.status == "True");
    let placed = placed.and_then(|scheduled| scheduled.last_transition_time).map(|time| time.0);
    placed.max(requested_at(pod))
}

fn image(pod: &Pod) -> &str {
    pod.container().map(|container| container.image.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};

    use crate::model::labels::{RELEASED, STOPPED_AT};

    fn options() -> KubernetesOptions {
        KubernetesOptions::new(runtime_core::Scope::new("t").unwrap())
            .schedule_budget(Duration::from_secs(100))
            .pull_budget(Duration::from_secs(60))
            .node_budget(Duration::from_secs(50))
    }

    fn ago(seconds: u64) -> SystemTime {
        SystemTime::now() - Duration::from_secs(seconds)
    }

    fn text(time: SystemTime) -> String {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(since.as_secs()).unwrap();
        k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap().to_string()
    }

    /// Returns a pod that was started this many seconds ago.
    fn started_ago(seconds: u64, node: Option<&str>, status: &Value) -> ObservedPod {
        let since = ago(seconds).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {crate::model::labels::RELEASED: "n"},
                "annotations": {STARTED_AT: since.as_millis().to_string()}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
            "status": status,
        }))
        .unwrap();
        ObservedPod::first(pod)
    }

    fn left(seen: &ObservedPod) -> Option<u64> {
        let due = due(seen, &options())?;
        Some(due.saturating_duration_since(Instant::now()).as_secs_f64().round() as u64)
    }

    #[tokio::test]
    async fn budget_counts_from_recorded_times() {
        let unschedulable = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]});
        // Gates of other controllers, and an absent scheduler.
        let gated = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
        for status in [&unschedulable, &gated, &json!({"phase": "Pending"})] {
            assert_eq!(left(&started_ago(30, None, status)), Some(70), "{status}");
            assert_eq!(left(&started_ago(500, None, status)), Some(0), "{status}");
        }
        let placed = |seconds| {
            json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": text(ago(seconds))})
        };
        let pull = |condition: Value| {
            json!({"phase": "Pending", "conditions": [condition], "containerStatuses": [
            {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]})
        };
        // The search for a node does not count for the budget of the pull.
        for (since_placed, want) in [(20, 40), (50, 10), (400, 0)] {
            let seen = started_ago(500, Some("n"), &pull(placed(since_placed)));
            let left = left(&seen).unwrap();
            assert!(left.abs_diff(want) <= 1, "{left} {want}");
        }
        let silent = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": text(ago(20))},
            {"type": "ContainersReady", "status": "True"}],
            "containerStatuses": [{"name": "main", "state": {"running": {}}}]});
        let left = left(&started_ago(500, Some("n"), &silent)).unwrap();
        assert!(left.abs_diff(30) <= 1, "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn budget_counts_from_observations_if_clocks_differ() {
        let mut seen = started_ago(0, None, &json!({"phase": "Pending"}));
        let later = SystemTime::now() + Duration::from_secs(3600);
        let millis = later.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let mut pod = (*seen.pod).clone();
        pod.metadata.annotations.insert(STARTED_AT.into(), millis.to_string());
        seen = ObservedPod::first(pod);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(left(&seen), Some(60));
    }

    #[tokio::test]
    async fn deleted_pod_has_no_budget() {
        let mut pod = (*started_ago(500, None, &json!({"phase": "Pending"})).pod).clone();
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-11-23T16:01:00Z")).unwrap());
        assert_eq!(left(&ObservedPod::first(pod)), None);
    }

    fn started(status: &Value, annotations: &Value) -> ObservedPod {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {RELEASED: "n"}, "annotations": annotations},
            "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            "status": status,
        }));
        ObservedPod::first(pod.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn report_is_due_only_for_pending_start() {
        let now = Instant::now();
        let unschedulable = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]});
        let pending = json!({"phase": "Pending"});
        let running = json!({"phase": "Running", "containerStatuses": [
            {"name": "main", "state": {"running": {}}}]});
        let stopped = json!({STOPPED_AT: "1000"});
        for (status, annotations, want) in [
            (&unschedulable, &json!({}), Some(REPORT_FAILING_AFTER)),
            (&pending, &json!({}), Some(REPORT_PENDING_AFTER)),
            (&pending, &stopped, None),
            (&running, &json!({}), None),
        ] {
            let due = report_due(&started(status, annotations));
            assert_eq!(due.map(|due| due - now), want, "{status}");
        }
        let seen = started(&unschedulable, &json!({}));
        assert_eq!(seen.pending_message(), "no node accepts it: 0/1");
    }
}
