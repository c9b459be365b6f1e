//! Exits that the pod alone does not show, but its events or its node may.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime_core::{Exit, ExitReason};

use super::Inner;
use crate::model::api::{ClusterEvent, Pod};
use crate::model::pod::lifecycle::State;
use crate::model::pod::lifecycle::node_lost;
use crate::model::pod::observed::ObservedPod;
use crate::state::nodes::NodeHealth;

/// Timeout of the requests for the events that explain an end.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(3);

/// Delays between the requests for such an event, in milliseconds: a scheduler records it after it
/// has removed the pod.
pub(super) const EVENT_RETRY_DELAYS_MS: [u64; 3] = [50, 150, 400];

impl Inner {
    /// Returns the exit of a pod that was removed before its end, if its events or its node explain
    /// it.
    pub(super) async fn explain(&self, last: &Pod) -> Option<Exit> {
        let exit = self.newly_removed(last, |seen| seen.last(None))?;
        if let Some(exit) = self.preemption(last, exit, &[]).await {
            return Some(exit);
        }
        let node = last.spec.node_name.as_deref()?;
        (self.nodes.health(node).await == NodeHealth::Lost).then(|| node_lost(node))
    }

    /// Returns the exit of a pod whose new version shows a removal by another client.
    pub(super) fn removed_with(&self, pod: &Pod, is_gone: bool) -> Option<Exit> {
        if is_gone {
            return self.newly_removed(pod, |seen| seen.last(None));
        }
        pod.metadata.deletion_timestamp?;
        self.newly_removed(pod, |seen| seen)
    }

    /// Returns the exit of a pod that another client has just removed.
    fn newly_removed(
        &self,
        news: &Pod,
        last: impl FnOnce(ObservedPod) -> ObservedPod,
    ) -> Option<Exit> {
        let entry = self.store().entries.get(news.metadata.uid.as_str()).cloned()?;
        let before = entry.now();
        if entry.removing.load(Ordering::Relaxed) || before.exit().is_some() {
            return None;
        }
        let after = last(before.next(news.clone()));
        after.exit().filter(|exit| exit.reason == ExitReason::Removed).cloned()
    }

    /// Returns the exit of a pod that was preempted, or evicted by a taint. Older versions report
    /// this only in an event, newer ones in the pod too. The event is requested at once, and again
    /// after each of the delays, in milliseconds.
    pub(super) async fn preemption(&self, pod: &Pod, exit: Exit, pauses: &[u64]) -> Option<Exit> {
        let look = async {
            let mut pauses = pauses.iter();
            loop {
                let events = self.client.events_of(&pod.metadata).await.ok()?;
                if let Some(message) = eviction(&events) {
                    return Some(message);
                }
                tokio::time::sleep(Duration::from_millis(*pauses.next()?)).await;
            }
        };
        let message = tokio::time::timeout(EVENTS_TIMEOUT, look).await.ok()??;
        Some(exit.with_reason(ExitReason::Evicted).with_message(message))
    }

    /// Sets the exits of the pods whose end was unclear for too long.
    pub(super) async fn clear_up(&self) {
        let due: Vec<(Arc<str>, ObservedPod, bool)> = {
            let store = self.store();
            let overdue = |seen: &ObservedPod| {
                seen.unclear_since.is_some_and(|since| since.elapsed() >= seen.patience())
            };
            let look = |uid: &Arc<str>| {
                let entry = store.entries.get(uid)?;
                Some((Arc::clone(uid), entry.now(), entry.removing.load(Ordering::Relaxed)))
            };
            store.unclear.iter().filter_map(look).filter(|(_, seen, _)| overdue(seen)).collect()
        };
        for (uid, seen, is_ours) in due {
            let exit = if seen.pod.metadata.deletion_timestamp.is_none() {
                Some(
                    Exit::new(ExitReason::Unknown)
                        .with_message("the cluster has reported the end and no exit"),
                )
            } else if is_ours {
                Some(Exit::new(ExitReason::Removed).with_message(NOT_CONFIRMED_MESSAGE))
            } else if let Some(node) = seen.pod.spec.node_name.as_deref() {
                match given_up(&seen, node, self.nodes.health(node).await) {
                    Some(removed) if removed.reason == ExitReason::Removed => {
                        let evicted = self.preemption(&seen.pod, removed.clone(), &[]).await;
                        Some(evicted.unwrap_or(removed))
                    }
                    given_up => given_up,
                }
            } else {
                None
            };
            if let Some(exit) = exit {
                self.store().ended(&uid, exit);
            }
        }
    }
}

/// Returns the reason of an eviction from the events of a pod.
fn eviction(events: &[ClusterEvent]) -> Option<String> {
    events.iter().rev().find_map(|event| {
        let message = event.message.clone().unwrap_or_default();
        match event.reason.as_deref() {
            Some("Preempted") => Some(message),
            Some("TaintManagerEviction") if message.starts_with("Marking for deletion") => {
                Some(format!("its node has a taint with effect NoExecute: {message}"))
            }
            _ => None,
        }
    })
}

/// Message of the exit of a container whose node has not confirmed its end.
const NOT_CONFIRMED_MESSAGE: &str = "its node has not confirmed its end";

/// Returns the exit of a pod that another client removes and whose node has not ended it in time. A
/// healthy node has no limit: it is busy, or still pulls an image.
fn given_up(seen: &ObservedPod, node: &str, health: NodeHealth) -> Option<Exit> {
    match health {
        NodeHealth::Well => None,
        NodeHealth::Lost => Some(node_lost(node)),
        // The node controller marks the pod of a lost node, but only if the pod was ready.
        NodeHealth::Unknown if seen.silent_since.is_some() => Some(node_lost(node)),
        NodeHealth::Unknown if seen.state == State::Running => None,
        NodeHealth::Unknown => {
            Some(Exit::new(ExitReason::Removed).with_message(NOT_CONFIRMED_MESSAGE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn eviction_is_read_from_events() {
        let event = |reason: &str, message: &str| ClusterEvent {
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..ClusterEvent::default()
        };
        let killing = event("Killing", "Stopping container main");
        let preempted = event("Preempted", "Preempted by a/b on node c");
        let taint = event("TaintManagerEviction", "Marking for deletion Pod a/b");
        let cancelled = event("TaintManagerEviction", "Cancelling deletion of Pod a/b");
        assert_eq!(eviction(&[killing.clone(), cancelled]), None);
        assert_eq!(eviction(&[preempted.clone(), killing.clone()]), preempted.message);
        let message = eviction(&[taint, killing]).unwrap();
        assert!(message.contains("NoExecute") && message.contains("a/b"), "{message}");
    }

    fn removed(state: Value, ready: &str) -> ObservedPod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "3",
                "deletionTimestamp": "2026-11-23T16:00:00Z", "deletionGracePeriodSeconds": 1},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": state}],
                "conditions": [{"type": "ContainersReady", "status": "True"},
                    {"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        ObservedPod::first(pod)
    }

    #[test]
    fn slow_node_is_not_lost() {
        use NodeHealth::{Lost, Unknown, Well};
        let started = json!({"running": {"startedAt": "2026-11-23T16:00:01Z"}});
        let slow = removed(started.clone(), "True");
        let silent = removed(started, "False");
        let pulling = removed(json!({"waiting": {"reason": "ContainerCreating"}}), "True");
        let reason = |seen, health| given_up(seen, "n", health).map(|exit| exit.reason);
        let removal = Some(ExitReason::Removed);
        let lost = Some(ExitReason::NodeLost);
        for (seen, health, expected) in [
            (&slow, Well, None),
            (&slow, Unknown, None),
            (&slow, Lost, lost),
            (&silent, Well, None),
            (&silent, Unknown, lost),
            (&silent, Lost, lost),
            (&pulling, Well, None),
            (&pulling, Unknown, removal),
            (&pulling, Lost, lost),
        ] {
            assert_eq!(reason(seen, health), expected, "{:?} {health:?}", seen.state);
        }
    }
}
