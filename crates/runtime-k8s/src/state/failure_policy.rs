//! Ends containers that would never run, or that were lost with their node.
//!
//! A node retries a pull without limit, and a scheduler the search for a node. A pod whose node is
//! silent is reported as running until a controller evicts it, and some controllers never do
//! (kubernetes#94183). When its budget is spent, this library marks the container as failed. The
//! verdict is written to the pod, so that all processes agree, and the same patch prevents the pod
//! from running later.
//!
//! `model/pod/budget.rs` computes when a budget is spent.

use std::time::Duration;

use runtime_core::{ErrorKind, Exit, ExitReason, LabelFilter, Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::backend::KubernetesBackend;
use super::pods::Entry;
use crate::client::Patched;
use crate::error::is_policy;
use crate::model::api::{ClusterEvent, Pod, refuses_source};
use crate::model::info;
use crate::model::labels::{STOPPED_IMAGE, VERDICT};
use crate::model::pod::budget::{EVENT_CHECK_INTERVAL_MIN, due, placed_at, spent};
use crate::model::pod::gate::annotate;
use crate::model::pod::lifecycle::{self, PendingReason, State, node_lost};
use crate::model::pod::observed::ObservedPod;

/// Maximum interval between two checks of the events of one pod.
const EVENT_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);

impl KubernetesBackend {
    /// Evaluates a pod whose budget is due, and marks it as failed if the budget is spent. Returns
    /// the time of the next evaluation if the pod does not change before.
    pub(crate) async fn evaluate(&self, entry: &Entry) -> Result<Option<Instant>> {
        // One of several waiters evaluates the pod; the others use its result.
        let mut evaluation = entry.evaluation.lock().await;
        let seen = entry.now();
        let options = &self.options;
        let Some(due) = due(&seen, options) else { return Ok(None) };
        let now = Instant::now();
        if let Some(next) = evaluation.next.filter(|next| *next > now) {
            return Ok(Some(next));
        }
        if due > now {
            return Ok(Some(due));
        }
        let reason = match &seen.state {
            State::Running => {
                let node = seen.pod.spec.node_name.as_deref().unwrap_or_default();
                self.mark_failed(&seen, &node_lost(node)).await?;
                return Ok(None);
            }
            State::Pending(reason) => reason,
            _ => return Ok(None),
        };
        let exit = match reason {
            PendingReason::Final { reason, message } => {
                Exit::new(*reason).with_message(message.clone())
            }
            PendingReason::Pull(message) => {
                let events = self.events_of(&seen).await?;
                if let Some(next) = fails_within(&events, &seen, options.pull_budget) {
                    evaluation.next = Some(next);
                    return Ok(Some(next));
                }
                Exit::new(ExitReason::ImagePullFailed)
                    .with_message(registry_message(&events, message))
            }
            PendingReason::Unschedulable(_) => {
                Exit::new(ExitReason::StartFailed).with_message(seen.pending_message())
            }
            PendingReason::Start(message) => {
                let events = self.events_of(&seen).await?;
                if let Some(next) = fails_within(&events, &seen, options.start_budget) {
                    evaluation.next = Some(next);
                    return Ok(Some(next));
                }
                Exit::new(ExitReason::StartFailed).with_message(message.clone())
            }
            PendingReason::None if seen.pod.spec.node_name.is_none() => {
                Exit::new(ExitReason::StartFailed).with_message(seen.pending_message())
            }
            PendingReason::None => {
                let events = self.events_of(&seen).await?;
                let long = spent(placed_at(&seen.pod), seen.pending_since, options.start_budget);
                match failure(&events, long <= now) {
                    Some(text) => Exit::new(ExitReason::StartFailed).with_message(text),
                    None => {
                        if let Some(text) = progress(&events) {
                            entry.set_progress(text);
                        }
                        let delay = EVENT_CHECK_INTERVAL_MIN
                            .saturating_mul(1 << evaluation.looks.min(10))
                            .min(EVENT_CHECK_INTERVAL_MAX);
                        evaluation.looks += 1;
                        let next = now + delay;
                        evaluation.next = Some(next);
                        return Ok(Some(next));
                    }
                }
            }
        };
        self.mark_failed(&seen, &exit).await?;
        Ok(None)
    }

    /// Evaluates a pod if its budget is due, for callers that do not wait on the watch. Returns
    /// whether it was due.
    pub(crate) async fn evaluate_if_due(&self, seen: &ObservedPod) -> Result<bool> {
        if due(seen, &self.options).is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        let meta = &seen.pod.metadata;
        let entry = self.entry(&meta.uid, &meta.name).await?;
        self.evaluate(&entry).await?;
        Ok(true)
    }

    /// Evaluates all pods with these labels whose budgets are due, for callers that wait for any of
    /// them.
    pub(crate) async fn evaluate_overdue(&self, labels: &LabelFilter) {
        let now = Instant::now();
        let is_overdue = |seen: &ObservedPod| {
            due(seen, &self.options).is_some_and(|due| due <= now)
                && info::has_labels(&seen.pod, labels)
        };
        for entry in self.pods.matching(is_overdue) {
            if let Err(error) = self.evaluate(&entry).await {
                tracing::debug!(%error, "failed to evaluate a budget");
            }
        }
    }

    /// Writes the exit to the pod, and prevents the pod from running.
    pub(crate) async fn mark_failed(&self, seen: &ObservedPod, exit: &Exit) -> Result<()> {
        let pod = &*seen.pod;
        let (uid, name) = (&pod.metadata.uid, &pod.metadata.name);
        let verdict =
            serde_json::to_string(&exit.clone().with_ended_at(Some(std::time::SystemTime::now())))
                .map_err(|source| {
                    runtime_core::Error::internal("failed to serialize the exit")
                        .with_source(source)
                })?;
        let mut patch = end(pod, &verdict);
        let mut patched = self.client.patch_pod(name, &patch).await;
        if let Ok(Patched::Other(error)) | Err(error) = &patched
            && is_policy(error)
        {
            // A policy refuses invalid images. The deadline alone still ends the pod soon after a
            // node has started it.
            tracing::debug!(%error, "a policy refuses the image of a failed pod, so it gets only a deadline");
            let path = pod.image_path();
            patch.retain(|change| change["op"] != "replace" || change["path"] != path.as_str());
            patched = self.client.patch_pod(name, &patch).await;
        }
        let after = match patched {
            Ok(Patched::Done(pod)) => *pod,
            // The pod runs after all, or another client was faster.
            Ok(Patched::Other(_)) => self.client.pod(name).await?,
            // The pod is gone, which the watch will report.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if after.metadata.uid == *uid {
            self.pods.take(after);
        }
        Ok(())
    }

    /// Returns the events of a pod; none if the caller may not read events.
    async fn events_of(&self, seen: &ObservedPod) -> Result<Vec<ClusterEvent>> {
        match self.client.events_of(&seen.pod.metadata).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Vec::new()),
            events => events,
        }
    }
}

/// Returns the patch that writes a verdict to a pod in its observed state.
fn end(pod: &Pod, verdict: &str) -> Vec<Value> {
    let path = pod.image_path();
    let image = pod.container().map(|container| container.image.as_str()).unwrap_or_default();
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": "/status/phase", "value": pod.status.phase}),
        json!({"op": "test", "path": path, "value": image}),
    ];
    if let Some(at) = lifecycle::silence(pod) {
        // The patch fails if the node is back in the meantime.
        let condition = format!("/status/conditions/{at}");
        patch.extend([
            json!({"op": "test", "path": format!("{condition}/type"), "value": "Ready"}),
            json!({"op": "test", "path": format!("{condition}/status"), "value": "False"}),
        ]);
    }
    patch.extend([
        json!({"op": "replace", "path": path, "value": STOPPED_IMAGE}),
        annotate(VERDICT, verdict),
        // Its node releases the reservation, also if the scheduler finds it later.
        json!({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1}),
    ]);
    patch
}

/// Returns the message of the registry about a failed pull. Between two attempts only the events
/// have it.
fn registry_message(events: &[ClusterEvent], message: &str) -> String {
    if !(message.is_empty() || message.starts_with("Back-off pulling image")) {
        return message.to_owned();
    }
    let text = events.iter().rev().find_map(|event| {
        let text = event.message.as_deref()?;
        let is_pull = text.starts_with("Failed to pull image");
        (event.reason.as_deref() == Some("Failed") && is_pull).then(|| text.to_owned())
    });
    text.unwrap_or_else(|| message.to_owned())
}

/// Returns the end of the budget of a failure, if it is in the future. The failures may have begun
/// long after the start: the pull of a large image may fail after minutes.
fn fails_within(events: &[ClusterEvent], seen: &ObservedPod, budget: Duration) -> Option<Instant> {
    let failures = events.iter().filter(|event| event.reason.as_deref() == Some("Failed"));
    let first = failures.filter_map(ClusterEvent::first).min()?;
    let end = spent(Some(first), seen.pending_reason.as_ref().map(|(_, since)| *since), budget);
    (end > Instant::now()).then_some(end)
}

/// Returns the failure that the events report for the creation of a container. Some failures are
/// transient, so most count only if `long` is set and no later event reports progress.
fn failure(events: &[ClusterEvent], long: bool) -> Option<String> {
    let went_well = |event: &&ClusterEvent| {
        matches!(event.reason.as_deref(), Some("Pulling" | "Pulled" | "Created" | "Started"))
    };
    let well = events.iter().filter(went_well).filter_map(ClusterEvent::last).max();
    events.iter().rev().find_map(|event| {
        let text = event.message.as_deref()?;
        let counts = match event.reason.as_deref()? {
            "FailedMount" => long || refuses_source(text),
            "FailedCreatePodSandBox"
            | "FailedCreatePodContainer"
            | "FailedAttachVolume"
            | "Failed" => long,
            _ => false,
        };
        let has_passed = matches!((event.last(), well), (Some(last), Some(well)) if last <= well);
        (counts && !has_passed).then(|| text.to_owned())
    })
}

/// Returns the latest message of the node about a pod whose status shows nothing.
fn progress(events: &[ClusterEvent]) -> Option<String> {
    let told = |event: &&ClusterEvent| event.reason.as_deref() != Some("Scheduled");
    events.iter().rev().find(told)?.message.clone().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::SystemTime;

    fn event(reason: &str, message: &str) -> ClusterEvent {
        ClusterEvent {
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..ClusterEvent::default()
        }
    }

    #[test]
    fn verdict_patch_ends_pod_without_node() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u"},
            "spec": {"containers": [
                {"name": "istio-proxy", "image": "proxy"}, {"name": "main", "image": "busybox"},
            ]},
            "status": {"phase": "Pending"},
        }))
        .unwrap();
        let patch = end(&pod, "{}");
        let path = "/spec/containers/1/image";
        assert_eq!(patch[2], json!({"op": "test", "path": path, "value": "busybox"}));
        assert_eq!(patch[3], json!({"op": "replace", "path": path, "value": "!stopped"}));
        assert_eq!(
            patch[5],
            json!({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1})
        );
    }

    #[test]
    fn failure_is_read_from_events() {
        let check = event("FailedMount", "hostPath type check failed: /x is not a directory");
        let missing = event("FailedMount", "MountVolume.SetUp failed: hostPath /x doesn't exist");
        assert_eq!(failure(std::slice::from_ref(&missing), false), missing.message);
        let pulled = event("Pulled", "Container image already present");
        let sandbox = event("FailedCreatePodSandBox", "no free addresses");
        assert_eq!(failure(std::slice::from_ref(&pulled), true), None);
        assert_eq!(failure(&[check.clone(), pulled.clone()], false), check.message);
        assert_eq!(failure(std::slice::from_ref(&sandbox), false), None);
        assert_eq!(failure(&[pulled, sandbox.clone()], true), sandbox.message);
    }

    fn at(event: ClusterEvent, second: u64) -> ClusterEvent {
        let time = |second| {
            Some(crate::model::api::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(second)))
        };
        ClusterEvent { first_timestamp: time(second), last_timestamp: time(second), ..event }
    }

    #[test]
    fn transient_failure_is_ignored_after_progress() {
        let mount = || event("FailedMount", "the volume is not there yet");
        let pulling = || event("Pulling", "Pulling image \"large\"");
        assert_eq!(failure(&[at(mount(), 1), at(pulling(), 5)], true), None);
        assert_eq!(failure(&[at(pulling(), 5), at(mount(), 6)], true), mount().message);
        assert_eq!(progress(&[at(mount(), 1), at(pulling(), 5)]), pulling().message);
        assert_eq!(progress(&[event("Scheduled", "Successfully assigned x/y to z")]), None);
    }

    #[tokio::test]
    async fn failure_budget_counts_from_first_failure() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {crate::model::labels::RELEASED: "n"}},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]},
        }))
        .unwrap();
        let seen = ObservedPod::first(pod);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let budget = Duration::from_secs(60);
        let failed = |ago| at(event("Failed", "Failed to pull image"), now - ago);
        assert!(fails_within(&[failed(2)], &seen, budget).is_some());
        assert!(fails_within(&[failed(90), failed(2)], &seen, budget).is_none());
        assert!(fails_within(&[], &seen, budget).is_none());
    }
}
