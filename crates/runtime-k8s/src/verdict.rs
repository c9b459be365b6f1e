//! Ending what would never run, and what was lost with its node.
//!
//! A node tries to pull an image for ever, and a scheduler to find a node. A pod whose node has
//! fallen silent is called running for as long as nobody gives it up; some controllers never do
//! (kubernetes#94183). When that has gone on for long enough, this library decides that it is over.
//! So that it is over for everyone, and does not come to life an hour later, the decision is written
//! to the pod, and the pod is changed so that it cannot run any more.
//!
//! The budgets count from times that are recorded in the cluster: the start, which the pod carries
//! as an annotation, the binding to a node, the first failure, the silence of the node. They are
//! the same for every process, so that a budget does not begin anew with each of them. A process
//! whose clock is behind those of the others counts from what it has seen itself.

use std::time::{Duration, SystemTime};

use runtime_core::{ErrorKind, Exit, ExitReason, LabelFilter, Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Patched;
use crate::connect::KubernetesOptions;
use crate::hold::annotate;
use crate::info;
use crate::names::{STARTED_AT, STOPPED_IMAGE, VERDICT};
use crate::pods::Entry;
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::{self, State, Trouble};
use crate::stop;
use crate::wire::{ClusterEvent, Pod, refuses_source};

/// How long a node may say nothing before the cluster's events are asked what it does. Longer after
/// each time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const RAREST_LOOK: Duration = Duration::from_secs(60);

/// A time that does not come.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a pod has to be looked at more closely, if it does not change until then.
pub(crate) fn due(seen: &Seen, options: &KubernetesOptions) -> Option<Instant> {
    let pod = &*seen.pod;
    let trouble = match &seen.state {
        State::Running => {
            let silent = pod.status.conditions.get(state::silence(pod)?)?;
            let recorded = silent.last_transition_time.map(|time| time.0);
            return Some(spent(recorded, seen.silent_since, options.node_budget));
        }
        State::Pending(trouble) => trouble,
        _ => return None,
    };
    // How that ends is not decided here.
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let failing = seen.trouble.as_ref().map(|(_, since)| *since);
    match trouble {
        Trouble::Final { .. } => Some(failing.unwrap_or_else(Instant::now)),
        Trouble::Pull(_) => Some(spent(placed_at(pod), failing, options.pull_budget)),
        Trouble::Start(_) => Some(spent(placed_at(pod), failing, options.start_budget)),
        Trouble::Unschedulable(_) => {
            Some(spent(requested_at(pod), failing, options.schedule_budget))
        }
        // A stop is on its way by itself.
        Trouble::None if image(pod) == STOPPED_IMAGE => None,
        Trouble::None if pod.spec.node_name.is_none() => {
            Some(spent(requested_at(pod), seen.pending_since, options.schedule_budget))
        }
        Trouble::None => Some(spent(placed_at(pod), seen.pending_since, FIRST_LOOK)),
    }
}

/// The end of a budget that has begun at the recorded time, or when this process has seen it begin:
/// whichever was earlier.
pub(crate) fn spent(
    recorded: Option<SystemTime>,
    seen: Option<Instant>,
    budget: Duration,
) -> Instant {
    let now = Instant::now();
    let after = |time: Instant, delay: Duration| {
        time.checked_add(delay.min(NEVER)).unwrap_or_else(|| now + NEVER)
    };
    let by_record = recorded.map(|since| {
        let passed = SystemTime::now().duration_since(since).unwrap_or_default();
        after(now, budget.saturating_sub(passed))
    });
    let by_sight = seen.map(|since| after(since, budget));
    let end = by_record.into_iter().chain(by_sight).min();
    end.unwrap_or_else(|| after(now, budget))
}

/// The time of the start, by the caller's clock.
pub(crate) fn requested_at(pod: &Pod) -> Option<SystemTime> {
    pod.annotated_time(STARTED_AT)
}

/// The time from which a node has had the pod to start.
fn placed_at(pod: &Pod) -> Option<SystemTime> {
    let placed = pod.condition("PodScheduled").filter(|scheduled| scheduled.status == "True");
    let placed = placed.and_then(|scheduled| scheduled.last_transition_time).map(|time| time.0);
    placed.max(requested_at(pod))
}

fn image(pod: &Pod) -> &str {
    pod.container().map(|container| container.image.as_str()).unwrap_or_default()
}

impl Shared {
    /// Looks closer at a pod that is due, and ends it if it has to be. Gives the time of the next
    /// look if there is one before the pod changes.
    pub(crate) async fn judge(&self, entry: &Entry) -> Result<Option<Instant>> {
        // Of any number of waiters one looks; the others find it done.
        let mut judging = entry.judging.lock().await;
        let seen = entry.now();
        let options = &self.options;
        let Some(due) = due(&seen, options) else { return Ok(None) };
        let now = Instant::now();
        if let Some(next) = judging.next.filter(|next| *next > now) {
            return Ok(Some(next));
        }
        if due > now {
            return Ok(Some(due));
        }
        let trouble = match &seen.state {
            State::Running => {
                let node = seen.pod.spec.node_name.as_deref().unwrap_or_default();
                self.pronounce(&seen, &node_lost(node)).await?;
                return Ok(None);
            }
            State::Pending(trouble) => trouble,
            _ => return Ok(None),
        };
        let exit = match trouble {
            Trouble::Final { reason, message } => Exit::new(*reason).with_message(message.clone()),
            Trouble::Pull(message) => {
                let events = self.events_of(&seen).await?;
                if let Some(next) = fails_within(&events, &seen, options.pull_budget) {
                    judging.next = Some(next);
                    return Ok(Some(next));
                }
                Exit::new(ExitReason::ImagePullFailed)
                    .with_message(words_of_registry(&events, message))
            }
            Trouble::Unschedulable(_) => {
                Exit::new(ExitReason::StartFailed).with_message(seen.waits_for())
            }
            Trouble::Start(message) => {
                let events = self.events_of(&seen).await?;
                if let Some(next) = fails_within(&events, &seen, options.start_budget) {
                    judging.next = Some(next);
                    return Ok(Some(next));
                }
                Exit::new(ExitReason::StartFailed).with_message(message.clone())
            }
            Trouble::None if seen.pod.spec.node_name.is_none() => {
                Exit::new(ExitReason::StartFailed).with_message(seen.waits_for())
            }
            Trouble::None => {
                let events = self.events_of(&seen).await?;
                let long = spent(placed_at(&seen.pod), seen.pending_since, options.start_budget);
                match failure(&events, long <= now) {
                    Some(words) => Exit::new(ExitReason::StartFailed).with_message(words),
                    None => {
                        if let Some(words) = progress(&events) {
                            entry.progress(words);
                        }
                        let delay =
                            FIRST_LOOK.saturating_mul(1 << judging.looks.min(10)).min(RAREST_LOOK);
                        judging.looks += 1;
                        let next = now + delay;
                        judging.next = Some(next);
                        return Ok(Some(next));
                    }
                }
            }
        };
        self.pronounce(&seen, &exit).await?;
        Ok(None)
    }

    /// Evaluates the budgets of a container that may be waiting to run, for callers that do not wait
    /// on the watch. Returns whether that took a closer look.
    pub(crate) async fn judge_if_due(&self, seen: &Seen) -> Result<bool> {
        if due(seen, &self.options).is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        let meta = &seen.pod.metadata;
        let entry = self.entry(&meta.uid, &meta.name).await?;
        self.judge(&entry).await?;
        Ok(true)
    }

    /// Evaluates the budgets of all containers with these labels, for callers that wait for any of
    /// them.
    pub(crate) async fn judge_overdue(&self, labels: &LabelFilter) {
        let now = Instant::now();
        let is_overdue = |seen: &Seen| {
            due(seen, &self.options).is_some_and(|due| due <= now)
                && info::has_labels(&seen.pod, labels)
        };
        for entry in self.pods.those(is_overdue) {
            if let Err(error) = self.judge(&entry).await {
                tracing::debug!(%error, "a budget could not be evaluated");
            }
        }
    }

    /// Writes a verdict to the pod, which cannot run from then on.
    pub(crate) async fn pronounce(&self, seen: &Seen, exit: &Exit) -> Result<()> {
        let pod = &*seen.pod;
        let (uid, name) = (&pod.metadata.uid, &pod.metadata.name);
        let verdict =
            serde_json::to_string(&exit.clone().with_ended_at(Some(std::time::SystemTime::now())))
                .map_err(|source| {
                    runtime_core::Error::internal("the verdict cannot be written")
                        .with_source(source)
                })?;
        let mut patch = end(pod, &verdict);
        let mut patched = self.client.patch_pod(name, &patch).await;
        if let Ok(Patched::Other(error)) | Err(error) = &patched
            && stop::is_policy(error)
        {
            // A policy refuses images that are none. The deadline alone keeps the pod from running
            // for longer than a moment, if a node should take it yet.
            tracing::debug!(%error, "a pod is ended by its deadline alone");
            let path = pod.image_path();
            patch.retain(|change| change["op"] != "replace" || change["path"] != path.as_str());
            patched = self.client.patch_pod(name, &patch).await;
        }
        let after = match patched {
            Ok(Patched::Done(pod)) => *pod,
            // It runs after all, or somebody else was faster.
            Ok(Patched::Other(_)) => self.client.pod(name).await?,
            // It is gone, as the watch will say.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if after.metadata.uid == *uid {
            self.pods.take(after);
        }
        Ok(())
    }

    /// What the cluster recorded about a pod; nothing where that may not be read.
    async fn events_of(&self, seen: &Seen) -> Result<Vec<ClusterEvent>> {
        match self.client.events_of(&seen.pod.metadata).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Vec::new()),
            events => events,
        }
    }
}

/// The change that writes a verdict to a pod in the state that it was seen in.
fn end(pod: &Pod, verdict: &str) -> Vec<Value> {
    let path = pod.image_path();
    let image = pod.container().map(|container| container.image.as_str()).unwrap_or_default();
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": "/status/phase", "value": pod.status.phase}),
        json!({"op": "test", "path": path, "value": image}),
    ];
    if let Some(at) = state::silence(pod) {
        // A node that has been heard again meanwhile has its pod as it is.
        let condition = format!("/status/conditions/{at}");
        patch.extend([
            json!({"op": "test", "path": format!("{condition}/type"), "value": "Ready"}),
            json!({"op": "test", "path": format!("{condition}/status"), "value": "False"}),
        ]);
    }
    patch.extend([
        json!({"op": "replace", "path": path, "value": STOPPED_IMAGE}),
        annotate(VERDICT, verdict),
        // Its node gives back what it holds for it, also one that the scheduler finds only now.
        json!({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1}),
    ]);
    patch
}

/// The end of what ran on a node that is not heard of any more.
pub(crate) fn node_lost(node: &str) -> Exit {
    Exit::new(ExitReason::NodeLost).with_message(format!("node {node} does not answer any more"))
}

/// The registry's words about a pull that failed. In the pauses between two attempts only the events
/// have them.
fn words_of_registry(events: &[ClusterEvent], message: &str) -> String {
    if !(message.is_empty() || message.starts_with("Back-off pulling image")) {
        return message.to_owned();
    }
    let words = events.iter().rev().find_map(|event| {
        let words = event.message.as_deref()?;
        let is_pull = words.starts_with("Failed to pull image");
        (event.reason.as_deref() == Some("Failed") && is_pull).then(|| words.to_owned())
    });
    words.unwrap_or_else(|| message.to_owned())
}

/// The end of the budget of what fails, if it is to come. The failures may have begun long after
/// the start: a large image is pulled for minutes before a connection breaks.
fn fails_within(events: &[ClusterEvent], seen: &Seen, budget: Duration) -> Option<Instant> {
    let failures = events.iter().filter(|event| event.reason.as_deref() == Some("Failed"));
    let first = failures.filter_map(ClusterEvent::first).min()?;
    let end = spent(Some(first), seen.trouble.as_ref().map(|(_, since)| *since), budget);
    (end > Instant::now()).then_some(end)
}

/// What the events say has kept a container from being made. Some of it passes by itself, so it
/// counts only when it has gone on for `long`, and nothing has gone well since.
fn failure(events: &[ClusterEvent], long: bool) -> Option<String> {
    let went_well = |event: &&ClusterEvent| {
        matches!(event.reason.as_deref(), Some("Pulling" | "Pulled" | "Created" | "Started"))
    };
    let well = events.iter().filter(went_well).filter_map(ClusterEvent::last).max();
    events.iter().rev().find_map(|event| {
        let words = event.message.as_deref()?;
        let counts = match event.reason.as_deref()? {
            "FailedMount" => long || refuses_source(words),
            "FailedCreatePodSandBox"
            | "FailedCreatePodContainer"
            | "FailedAttachVolume"
            | "Failed" => long,
            _ => false,
        };
        let has_passed = matches!((event.last(), well), (Some(last), Some(well)) if last <= well);
        (counts && !has_passed).then(|| words.to_owned())
    })
}

/// What the node does for a pod that it has said nothing of.
fn progress(events: &[ClusterEvent]) -> Option<String> {
    let told = |event: &&ClusterEvent| event.reason.as_deref() != Some("Scheduled");
    events.iter().rev().find(told)?.message.clone().filter(|words| !words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &str, message: &str) -> ClusterEvent {
        ClusterEvent {
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..ClusterEvent::default()
        }
    }

    #[test]
    fn a_verdict_ends_a_pod_that_has_no_node_yet() {
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
    fn events_tell_what_the_pod_does_not() {
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
        let time =
            |second| Some(crate::wire::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(second)));
        ClusterEvent { first_timestamp: time(second), last_timestamp: time(second), ..event }
    }

    #[test]
    fn failure_that_has_passed_does_not_count() {
        let mount = || event("FailedMount", "the volume is not there yet");
        let pulling = || event("Pulling", "Pulling image \"large\"");
        assert_eq!(failure(&[at(mount(), 1), at(pulling(), 5)], true), None);
        assert_eq!(failure(&[at(pulling(), 5), at(mount(), 6)], true), mount().message);
        assert_eq!(progress(&[at(mount(), 1), at(pulling(), 5)]), pulling().message);
        assert_eq!(progress(&[event("Scheduled", "Successfully assigned x/y to z")]), None);
    }

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

    /// A pod that was started so many seconds ago.
    fn started(seconds: u64, node: Option<&str>, status: &Value) -> Seen {
        let since = ago(seconds).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {crate::names::RELEASED: "n"},
                "annotations": {STARTED_AT: since.as_millis().to_string()}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
            "status": status,
        }))
        .unwrap();
        Seen::first(pod)
    }

    fn left(seen: &Seen) -> Option<u64> {
        let due = due(seen, &options())?;
        Some(due.saturating_duration_since(Instant::now()).as_secs_f64().round() as u64)
    }

    #[tokio::test]
    async fn budget_counts_from_the_start_for_every_process() {
        let unschedulable = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]});
        // Other people's gates, and a scheduler that nobody runs.
        let gated = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
        for status in [&unschedulable, &gated, &json!({"phase": "Pending"})] {
            assert_eq!(left(&started(30, None, status)), Some(70), "{status}");
            assert_eq!(left(&started(500, None, status)), Some(0), "{status}");
        }
        let placed = |seconds| {
            json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": text(ago(seconds))})
        };
        let pull = |condition: Value| {
            json!({"phase": "Pending", "conditions": [condition], "containerStatuses": [
            {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]})
        };
        // The search for a node is not taken from the budget of the pull.
        for (since_placed, want) in [(20, 40), (50, 10), (400, 0)] {
            let seen = started(500, Some("n"), &pull(placed(since_placed)));
            let left = left(&seen).unwrap();
            assert!(left.abs_diff(want) <= 1, "{left} {want}");
        }
        let silent = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": text(ago(20))},
            {"type": "ContainersReady", "status": "True"}],
            "containerStatuses": [{"name": "main", "state": {"running": {}}}]});
        let left = left(&started(500, Some("n"), &silent)).unwrap();
        assert!(left.abs_diff(30) <= 1, "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn budget_counts_from_what_was_seen_when_clocks_disagree() {
        let mut seen = started(0, None, &json!({"phase": "Pending"}));
        let later = SystemTime::now() + Duration::from_secs(3600);
        let millis = later.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let mut pod = (*seen.pod).clone();
        pod.metadata.annotations.insert(STARTED_AT.into(), millis.to_string());
        seen = Seen::first(pod);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(left(&seen), Some(60));
    }

    #[tokio::test]
    async fn budget_of_failures_counts_from_the_first_of_them() {
        let seen = started(
            500,
            Some("n"),
            &json!({"phase": "Pending", "containerStatuses": [
            {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]}),
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let budget = Duration::from_secs(60);
        let failed = |ago| at(event("Failed", "Failed to pull image"), now - ago);
        assert!(fails_within(&[failed(2)], &seen, budget).is_some());
        assert!(fails_within(&[failed(90), failed(2)], &seen, budget).is_none());
        assert!(fails_within(&[], &seen, budget).is_none());
    }

    #[tokio::test]
    async fn pod_that_is_being_deleted_has_no_budget() {
        let mut pod = (*started(500, None, &json!({"phase": "Pending"})).pod).clone();
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-11-23T16:01:00Z")).unwrap());
        assert_eq!(left(&Seen::first(pod)), None);
    }
}
