//! The observations of one pod so far.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime_core::{ContainerId, Event, EventKind, Exit, ExitReason};
use tokio::time::Instant;

use crate::model::api::Pod;
use crate::model::labels::{NAME, STOPPED_AT};
use crate::model::pod::lifecycle::{self, Deletion, PendingReason, State};

/// A pod, and earlier observations that its latest version does not show any more.
#[derive(Debug, Clone)]
pub(crate) struct ObservedPod {
    /// The latest version of the pod.
    pub(crate) pod: Arc<Pod>,
    /// The state of the container. An exit is final.
    pub(crate) state: State,
    /// Whether the server does not have the pod any more.
    pub(crate) gone: bool,
    /// The reason why it does not run yet, and the time of its first observation.
    pub(crate) pending_reason: Option<(PendingReason, Instant)>,
    /// The time since which its end has been unclear: it is settling, or it is being deleted.
    pub(crate) unclear_since: Option<Instant>,
    /// The time of the first observation of the current pending state.
    pub(crate) pending_since: Option<Instant>,
    /// The time since which its node has been silent.
    pub(crate) silent_since: Option<Instant>,
    /// Whether the deletion began before the end. If so, the end is not attributed to the process.
    deletion: Deletion,
}

impl ObservedPod {
    /// Returns the first observation of a pod.
    pub(crate) fn first(pod: Pod) -> Self {
        let state = lifecycle::assess(&pod, Deletion::Unknown);
        let now = Instant::now();
        let mut seen = Self {
            pod: Arc::new(pod),
            state,
            gone: false,
            pending_reason: None,
            unclear_since: None,
            pending_since: None,
            silent_since: None,
            deletion: Deletion::Unknown,
        };
        seen.note(now);
        seen
    }

    /// Adds a new version of the pod.
    pub(crate) fn next(&self, pod: Pod) -> Self {
        let mut seen = self.clone();
        if !matches!(self.state, State::Ended(_)) {
            seen.state = lifecycle::assess(&pod, self.deletion);
        }
        seen.pod = Arc::new(pod);
        seen.note(Instant::now());
        seen
    }

    /// Adds that the pod is gone. `exit` overrides the exit that follows from the last version.
    pub(crate) fn last(&self, exit: Option<Exit>) -> Self {
        let mut seen = self.clone();
        if !matches!(self.state, State::Ended(_)) {
            seen.state =
                State::Ended(exit.unwrap_or_else(|| lifecycle::removed(&self.pod, self.deletion)));
        }
        seen.gone = true;
        seen
    }

    /// Adds the exit of the container, which is final.
    pub(crate) fn ended(&self, exit: Exit) -> Self {
        Self { state: State::Ended(exit), ..self.clone() }
    }

    fn note(&mut self, now: Instant) {
        if lifecycle::is_deleted_first(&self.pod) && !matches!(self.state, State::Ended(_)) {
            self.deletion = Deletion::First;
        }
        let unclear = match self.state {
            State::Ended(_) => false,
            State::Settling => true,
            _ => self.pod.metadata.deletion_timestamp.is_some(),
        };
        self.unclear_since = unclear.then(|| self.unclear_since.unwrap_or(now));
        let silent = self.state == State::Running && lifecycle::silence(&self.pod).is_some();
        self.silent_since = silent.then(|| self.silent_since.unwrap_or(now));
        let State::Pending(reason) = &mut self.state else {
            self.pending_reason = None;
            self.pending_since = None;
            return;
        };
        self.pending_since.get_or_insert(now);
        if *reason == PendingReason::None {
            // Between two attempts a node may report nothing, although the reason persists.
            return;
        }
        match &self.pending_reason {
            Some((before, since)) if before.is_like(reason) => {
                let since = *since;
                keep_message(before, reason);
                self.pending_reason = Some((reason.clone(), since));
            }
            _ => self.pending_reason = Some((reason.clone(), now)),
        }
    }

    /// Returns whether a stop was requested.
    pub(crate) fn is_stopping(&self) -> bool {
        self.pod.annotation(STOPPED_AT).is_some()
    }

    /// Returns whether the pod is being deleted.
    pub(crate) fn is_going(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Returns whether the pod has a node and does not show why the node has not started it.
    pub(crate) fn is_silent_about_start(&self) -> bool {
        self.pod.spec.node_name.is_some() && self.pending_reason.is_none()
    }

    /// Returns the reason why a started container does not run yet, as a message of the cluster.
    pub(crate) fn pending_message(&self) -> String {
        let reason = match &self.state {
            State::Pending(PendingReason::None) => {
                self.pending_reason.as_ref().map(|(reason, _)| reason)
            }
            State::Pending(reason) => Some(reason),
            _ => None,
        };
        let pod = &*self.pod;
        match (reason, &pod.spec.node_name) {
            (Some(PendingReason::Unschedulable(message)), None) => {
                format!("no node accepts it: {message}")
            }
            (Some(reason), Some(_)) if !matches!(reason, PendingReason::Unschedulable(_)) => {
                reason.message().unwrap_or_default().to_owned()
            }
            (_, Some(node)) => format!("node {node} is starting the container"),
            (_, None) if !pod.spec.scheduling_gates.is_empty() => {
                let gates: Vec<&str> =
                    pod.spec.scheduling_gates.iter().map(|gate| gate.name.as_str()).collect();
                format!(
                    "no node accepts it: it is held by the scheduling gate {}",
                    gates.join(", ")
                )
            }
            (_, None) => "no node accepts it: no scheduler has placed it yet".to_owned(),
        }
    }

    /// Returns how long the end may be unclear.
    pub(crate) fn patience(&self) -> Duration {
        match self.state {
            State::Settling => SETTLING_LIMIT,
            _ => {
                let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
                Duration::from_secs(grace) + DELETION_MARGIN
            }
        }
    }

    /// Returns the exit if the container has ended.
    pub(crate) const fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    /// Returns whether the process was started.
    pub(crate) fn was_started(&self) -> bool {
        self.state == State::Running || lifecycle::started_at(&self.pod).is_some()
    }

    /// Returns the events since `before`.
    pub(crate) fn events_since(&self, before: Option<&Self>) -> Vec<Event> {
        let pod = &*self.pod;
        let mut events = Vec::new();
        let mut happened = |at: Option<SystemTime>, kind| {
            let name = pod.annotation(NAME).unwrap_or(&pod.metadata.name);
            let id = ContainerId::new(&pod.metadata.uid);
            events.push(Event::new(at.unwrap_or_else(SystemTime::now), id, name, kind));
        };
        if before.is_none() {
            happened(pod.metadata.creation_timestamp.map(|time| time.0), EventKind::Created);
        }
        if self.was_started() && !before.is_some_and(Self::was_started) {
            happened(lifecycle::started_at(pod), EventKind::Started);
        }
        if lifecycle::had_oom(pod) && !before.is_some_and(|before| lifecycle::had_oom(&before.pod))
        {
            happened(self.exit().and_then(|exit| exit.ended_at), EventKind::Oom);
        }
        // A container that is removed before its start has no exit.
        let was_gated = before.is_some_and(|before| before.state == State::Gated);
        if let Some(exit) = self.exit()
            && before.is_none_or(|before| before.exit().is_none())
            && !(was_gated && exit.reason == ExitReason::Removed)
        {
            happened(exit.ended_at, EventKind::Exited(exit.clone()));
        }
        if self.gone && !before.is_some_and(|before| before.gone) {
            happened(None, EventKind::Removed);
        }
        events
    }
}

/// How long a final phase may have no exit. The next report of the kubelet adds it.
const SETTLING_LIMIT: Duration = Duration::from_secs(10);

/// How long a node may take, beyond the grace, to end a container and report it.
const DELETION_MARGIN: Duration = Duration::from_secs(30);

/// Keeps the message of the registry. Between two attempts the node reports only that it waits.
fn keep_message(before: &PendingReason, now: &mut PendingReason) {
    if let (PendingReason::Pull(before), PendingReason::Pull(now)) = (before, now)
        && (now.is_empty() || now.starts_with("Back-off pulling image"))
        && now.len() <= before.len()
    {
        now.clone_from(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(version: u64, state: Value) -> Pod {
        let phase = if state.get("terminated").is_some() { "Succeeded" } else { "Running" };
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": version.to_string(),
                "creationTimestamp": "2026-11-23T16:00:00Z",
                "labels": {crate::model::labels::RELEASED: "n"}},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"phase": phase, "containerStatuses": [{"name": "main", "state": state}]},
        }))
        .unwrap()
    }

    fn running() -> Value {
        json!({"running": {"startedAt": "2026-11-23T16:00:01Z"}})
    }

    fn ended(reason: &str, code: i32) -> Value {
        json!({"terminated": {"exitCode": code, "reason": reason,
            "startedAt": "2026-11-23T16:00:01Z", "finishedAt": "2026-11-23T16:00:02Z"}})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"waiting": {"reason": reason, "message": message}})
    }

    fn kinds(seen: &ObservedPod, before: Option<&ObservedPod>) -> Vec<&'static str> {
        seen.events_since(before)
            .iter()
            .map(|event| match event.kind {
                EventKind::Created => "created",
                EventKind::Started => "started",
                EventKind::Oom => "oom",
                EventKind::Exited(_) => "exited",
                EventKind::Removed => "removed",
                _ => "other",
            })
            .collect()
    }

    #[tokio::test]
    async fn events_are_returned_once_and_in_order() {
        let created = ObservedPod::first(pod(1, waiting("ContainerCreating", "")));
        assert_eq!(kinds(&created, None), ["created"]);
        let up = created.next(pod(2, running()));
        assert_eq!(kinds(&up, Some(&created)), ["started"]);
        assert_eq!(kinds(&up.next(pod(3, running())), Some(&up)), [""; 0]);
        let done = up.next(pod(4, ended("OOMKilled", 137)));
        assert_eq!(kinds(&done, Some(&up)), ["oom", "exited"]);
        assert_eq!(kinds(&done.last(None), Some(&done)), ["removed"]);
        assert_eq!(kinds(&up.last(None), Some(&up)), ["exited", "removed"]);
        let all = ObservedPod::first(pod(4, ended("Completed", 0)));
        assert_eq!(kinds(&all, None), ["created", "started", "exited"]);
    }

    #[tokio::test]
    async fn container_removed_before_start_has_no_exit_event() {
        let mut gated = pod(1, json!({}));
        gated.metadata.labels.clear();
        let gated = ObservedPod::first(gated);
        assert_eq!(gated.state, State::Gated);
        assert_eq!(kinds(&gated.last(None), Some(&gated)), ["removed"]);
    }

    #[tokio::test]
    async fn first_exit_is_final() {
        let done = ObservedPod::first(pod(1, ended("Error", 3)));
        let changed = done.next(pod(2, ended("ContainerStatusUnknown", 137)));
        assert_eq!(changed.exit(), done.exit());
        assert_eq!(changed.last(Some(Exit::new(ExitReason::NodeLost))).exit(), done.exit());
    }

    #[tokio::test(start_paused = true)]
    async fn registry_message_and_time_are_kept_between_attempts() {
        let first =
            ObservedPod::first(pod(1, waiting("ErrImagePull", "rpc error: 401 Unauthorized")));
        tokio::time::advance(Duration::from_secs(5)).await;
        let quiet = first.next(pod(2, waiting("ContainerCreating", "")));
        let second =
            quiet.next(pod(3, waiting("ImagePullBackOff", "Back-off pulling image \"x\"")));
        let (reason, since) = second.pending_reason.clone().unwrap();
        assert_eq!(reason, PendingReason::Pull("rpc error: 401 Unauthorized".into()));
        assert_eq!(since.elapsed(), Duration::from_secs(5));
        let other = second.next(pod(4, waiting("CreateContainerError", "no")));
        assert_eq!(other.pending_reason.unwrap().1.elapsed(), Duration::ZERO);
        assert!(second.next(pod(5, running())).pending_reason.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn node_silence_counts_until_node_is_back() {
        let with = |version: u64, ready: &str| {
            let mut pod = pod(version, running());
            pod.status.conditions = serde_json::from_value(json!([
                {"type": "Ready", "status": ready},
                {"type": "ContainersReady", "status": "True"},
            ]))
            .unwrap();
            pod
        };
        let well = ObservedPod::first(with(1, "True"));
        assert!(well.silent_since.is_none());
        let silent = well.next(with(2, "False"));
        tokio::time::advance(Duration::from_secs(7)).await;
        let still = silent.next(with(3, "False"));
        assert_eq!(still.silent_since.unwrap().elapsed(), Duration::from_secs(7));
        assert!(still.next(with(4, "True")).silent_since.is_none());
    }

    #[tokio::test]
    async fn deleted_pod_is_unclear_until_end() {
        let mut going = pod(1, running());
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-11-23T16:01:00Z")).unwrap());
        going.metadata.deletion_grace_period_seconds = Some(5);
        let seen = ObservedPod::first(going);
        assert!(seen.unclear_since.is_some());
        assert_eq!(seen.patience(), Duration::from_secs(35));
        assert!(seen.next(pod(2, ended("Error", 143))).unclear_since.is_none());
    }
}
