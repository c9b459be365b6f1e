//! Ending what would never run, and what was lost with its node.
//!
//! A node tries to pull an image for ever, and a scheduler to find a node. A pod whose node has
//! fallen silent is called running for as long as nobody gives it up; some controllers never do
//! (kubernetes#94183). When that has gone on for long enough, this library decides that it is over.
//! So that it is over for everyone, and does not come to life an hour later, the decision is written
//! to the pod, and the pod is changed so that it cannot run any more.

use std::time::Duration;

use runtime_core::{ErrorKind, Exit, ExitReason, Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Patched;
use crate::connect::KubernetesOptions;
use crate::hold::annotate;
use crate::names::{STOPPED_IMAGE, VERDICT};
use crate::pods::Entry;
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::{self, State, Trouble};
use crate::wire::{ClusterEvent, Pod};

/// How long a node may say nothing before the cluster's events are asked what it does. Longer after
/// each time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const RAREST_LOOK: Duration = Duration::from_secs(60);

/// When a pod has to be looked at more closely, if it does not change until then.
pub(crate) fn due(seen: &Seen, options: &KubernetesOptions) -> Option<Instant> {
    let trouble = match &seen.state {
        State::Running => return seen.silent_since.map(|since| since + options.node_budget),
        State::Pending(trouble) => trouble,
        _ => return None,
    };
    let since = seen.trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
    match trouble {
        Trouble::Final { .. } => Some(since),
        Trouble::Pull(_) => Some(since + options.pull_budget),
        Trouble::Unschedulable(_) => Some(since + options.schedule_budget),
        Trouble::Start(_) => Some(since + options.start_budget),
        Trouble::None => {
            // Without a node there is nothing that could fail. A stop is on its way by itself.
            seen.pod.spec.node_name.as_ref()?;
            let image = seen.pod.container().map(|container| container.image.as_str())?;
            (image != STOPPED_IMAGE)
                .then(|| seen.pending_since.unwrap_or_else(Instant::now) + FIRST_LOOK)
        }
    }
}

impl Shared {
    /// Looks closer at a pod that is due, and ends it if it has to be. Gives the time of the next
    /// look if there is one before the pod changes.
    pub(crate) async fn judge(&self, entry: &Entry) -> Result<Option<Instant>> {
        // Of any number of waiters one looks; the others find it done.
        let mut judging = entry.judging.lock().await;
        let seen = entry.now();
        let Some(due) = due(&seen, &self.options) else { return Ok(None) };
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
                let words = self.words_of_registry(&seen, message).await?;
                Exit::new(ExitReason::ImagePullFailed).with_message(words)
            }
            Trouble::Unschedulable(message) => Exit::new(ExitReason::StartFailed)
                .with_message(format!("no node takes it: {message}")),
            Trouble::Start(message) => {
                Exit::new(ExitReason::StartFailed).with_message(message.clone())
            }
            Trouble::None => {
                let events = self.events_of(&seen).await?;
                let waited = seen.pending_since.map(|since| since.elapsed()).unwrap_or_default();
                match failure(&events, waited >= self.options.start_budget) {
                    Some(words) => Exit::new(ExitReason::StartFailed).with_message(words),
                    None => {
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
        let after = match self.client.patch_pod(name, &end(pod, &verdict)).await {
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

    /// What the registry said. In the pauses between two attempts only the events know.
    async fn words_of_registry(&self, seen: &Seen, message: &str) -> Result<String> {
        if !(message.is_empty() || message.starts_with("Back-off pulling image")) {
            return Ok(message.to_owned());
        }
        let events = self.events_of(seen).await?;
        let words = events.iter().rev().find_map(|event| {
            let words = event.message.as_deref()?;
            (event.reason.as_deref() == Some("Failed") && words.starts_with("Failed to pull image"))
                .then(|| words.to_owned())
        });
        Ok(words.unwrap_or_else(|| message.to_owned()))
    }

    /// What the cluster recorded about a pod; nothing where that may not be read.
    async fn events_of(&self, seen: &Seen) -> Result<Vec<ClusterEvent>> {
        match self.client.events_of(&seen.pod.metadata.uid).await {
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

/// What the events say has kept a container from being made. Some of it passes by itself, so it
/// counts only when it has gone on for `long`.
fn failure(events: &[ClusterEvent], long: bool) -> Option<String> {
    events.iter().rev().find_map(|event| {
        let words = event.message.as_deref()?;
        let counts = match event.reason.as_deref()? {
            "FailedMount" => long || words.contains("hostPath type check failed"),
            "FailedCreatePodSandBox"
            | "FailedCreatePodContainer"
            | "FailedAttachVolume"
            | "Failed" => long,
            _ => false,
        };
        counts.then(|| words.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &str, message: &str) -> ClusterEvent {
        ClusterEvent { reason: Some(reason.into()), message: Some(message.into()) }
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
        let pulled = event("Pulled", "Container image already present");
        let sandbox = event("FailedCreatePodSandBox", "no free addresses");
        assert_eq!(failure(std::slice::from_ref(&pulled), true), None);
        assert_eq!(failure(&[check.clone(), pulled.clone()], false), check.message);
        assert_eq!(failure(std::slice::from_ref(&sandbox), false), None);
        assert_eq!(failure(&[pulled, sandbox.clone()], true), sandbox.message);
    }
}
