//! Stops a container and keeps its pod.
//!
//! Two changes of a pod end its container with the pod's grace, and keep the true exit code and the
//! logs. One is an invalid image: the node ends the container because its image has changed, and
//! cannot start another one. The other is a deadline that has passed, on servers whose nodes keep
//! the exit code then. The image is used first, because it is faster and works on every version. If
//! a policy of the cluster refuses it, the deadline is used.
//!
//! A container whose process has not run gets both at once. With the image alone, the pod could be
//! scheduled later and keep its reservation. With the deadline alone, the process could run for a
//! moment on a later node, because the deadline counts from the time at which the node accepts the
//! pod.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use runtime_core::{Capability, Error, ErrorKind, Operation, Result, StopOptions, StopOutcome};
use serde_json::{Value, json};

use crate::client::{PatchRetries, Patched};
use crate::error::is_policy;
use crate::model::api::Pod;
use crate::model::container::KubernetesContainer;
use crate::model::labels::{STOPPED_AT, STOPPED_IMAGE, VERDICT};
use crate::model::pod::gate::{annotate, millis_now};
use crate::model::pod::lifecycle::{self, State};
use crate::model::pod::observed::ObservedPod;
use crate::options::StopMethod;
use crate::state::KubernetesBackend;

/// The changes of a pod that a stop makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// An invalid image.
    Image,
    /// A deadline that has passed.
    Deadline,
    /// Both.
    Both,
}

/// Returns the patch that stops a pod in its observed phase.
///
/// The patch tests the phase, so that a pod that has already ended is not marked as stopped.
pub(crate) fn stop_patch(pod: &Pod, change: Change) -> Vec<Value> {
    let path = pod.image_path();
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": "/status/phase", "value": pod.status.phase}),
        json!({"op": "test", "path": path, "value": image(pod)}),
    ];
    if pod.spec.node_name.is_none() {
        // The pod has no node, and no node will run it from now on, so that the exit is final.
        patch.push(json!({"op": "test", "path": "/spec/nodeName", "value": null}));
        let now = Some(SystemTime::now());
        if change == Change::Both
            && let Ok(exit) = serde_json::to_string(&lifecycle::stopped_before_start(now))
        {
            patch.push(annotate(VERDICT, &exit));
        }
    }
    if change != Change::Deadline {
        patch.push(json!({"op": "replace", "path": path, "value": STOPPED_IMAGE}));
    }
    if change != Change::Image {
        patch.push(json!({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1}));
    }
    if pod.annotation(STOPPED_AT).is_none() {
        patch.push(annotate(STOPPED_AT, &millis_now()));
    }
    patch
}

fn image(pod: &Pod) -> &str {
    pod.container().map(|container| container.image.as_str()).unwrap_or_default()
}

impl KubernetesBackend {
    /// Returns the change that stops this pod, or `None` if the pod already has it.
    fn stopping_change(&self, seen: &ObservedPod) -> Option<Change> {
        let pod = &*seen.pod;
        let has_image = image(pod) == STOPPED_IMAGE;
        let keeps_code = self.server.deadline_keeps_code();
        let may_change_image = match self.options.stop_method {
            StopMethod::Automatic => !self.stop_image_refused.load(Ordering::Relaxed),
            StopMethod::Image => true,
            StopMethod::Deadline => false,
        };
        let has_deadline = pod.spec.active_deadline_seconds == Some(1);
        let wanted = match &seen.state {
            State::Pending(_) if pod.spec.node_name.is_none() => Change::Both,
            // The node may start the process at this moment, and on old servers a deadline would
            // lose its exit code. A node between two attempts does not start it, and would report
            // the image only with the next attempt, ten seconds later.
            State::Pending(_) if may_change_image && (keeps_code || lifecycle::never_ran(pod)) => {
                Change::Both
            }
            _ if may_change_image => Change::Image,
            _ => Change::Deadline,
        };
        match wanted {
            Change::Image => (!has_image).then_some(Change::Image),
            Change::Deadline => (!has_deadline).then_some(Change::Deadline),
            Change::Both => match (has_image, has_deadline) {
                (true, true) => None,
                (true, false) => Some(Change::Deadline),
                (false, _) => Some(Change::Both),
            },
        }
    }

    /// Records that a policy of the cluster has refused a change. Returns an error if there is no
    /// other change.
    fn change_refused(&self, seen: &ObservedPod, change: Change, error: Error) -> Result<()> {
        let has_other = match (change, &seen.state) {
            (Change::Deadline, _) => false,
            // With the deadline alone the process could run on a later node.
            (Change::Both, _) if seen.pod.spec.node_name.is_none() => false,
            _ => {
                self.options.stop_method == StopMethod::Automatic
                    && self.server.deadline_keeps_code()
                    && !self.stop_image_refused.load(Ordering::Relaxed)
            }
        };
        if !has_other {
            return Err(forbidden(change, error));
        }
        tracing::debug!(%error, "a policy refuses the image of a stop, so containers are stopped by a deadline");
        self.stop_image_refused.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the error of a stop that a policy of the cluster forbids.
fn forbidden(change: Change, error: Error) -> Error {
    let what = match change {
        Change::Image => "the image that stops a container",
        Change::Deadline => "the deadline that stops a container",
        Change::Both => "the image and the deadline that stop a container",
    };
    let policy = error.message().unwrap_or_default().to_owned();
    Error::new(ErrorKind::PermissionDenied)
        .with_message(format!(
            "failed to set {what}: {policy}; the container continues to run, and `remove` still ends it"
        ))
        .with_source(error)
}

/// Stops a container and waits for its end.
pub(crate) async fn stop(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    options: StopOptions,
) -> Result<StopOutcome> {
    let created = Duration::from_secs(container.stop_grace());
    if !backend.context.capabilities.stop_grace_override
        && let Some(grace) = options.grace
        && backend.context.capabilities.round_grace(grace) != created
    {
        return Err(Error::unsupported(Capability::StopGraceOverride)
            .with_field("grace")
            .with_message(format!(
                "the grace of this container was set to {created:?} when it was created"
            )));
    }
    let grace =
        options.grace.map_or(created, |grace| backend.context.capabilities.round_grace(grace));
    let deadline = grace.saturating_add(backend.context.deadlines.stop_margin);
    let work = until_stopped(backend, container, grace);
    match backend.with_deadline(Operation::Stop, deadline, work).await {
        Err(error) if error.kind() == ErrorKind::Timeout => {
            Err(not_stopped_yet(backend, container, error))
        }
        done => done,
    }
}

/// Returns the error of a stop whose deadline has passed while a node starts the container.
///
/// A kubelet that pulls an image processes the stop only after it has started the process, and then
/// ends it. Only a removal prevents the start.
fn not_stopped_yet(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    error: Error,
) -> Error {
    let Some(entry) = backend.pods.entry(container.uid()) else { return error };
    let seen = entry.now();
    match seen.state {
        State::Pending(_) if seen.is_stopping() && seen.pod.spec.node_name.is_some() => {
            let message = entry.pending_message(&seen);
            error.with_message(format!(
                "the node has not processed the stop yet: {message}; the stop continues, and `remove` \
                 ends the container at once"
            ))
        }
        _ => error,
    }
}

async fn until_stopped(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    grace: Duration,
) -> Result<StopOutcome> {
    let uid = container.uid();
    let mut refused = PatchRetries::default();
    // Whether this stop has made its change.
    let mut stopped = false;
    loop {
        let seen = backend.entry(uid, container.pod_name()).await?.now();
        match seen.state {
            State::Gated => return Ok(StopOutcome::NotStarted),
            State::Ended(exit) if stopped => {
                release_reservation(backend, container, &seen.pod).await;
                return Ok(StopOutcome::Stopped(exit));
            }
            State::Ended(exit) => return Ok(StopOutcome::AlreadyExited(exit)),
            State::Settling => {
                let exit = backend.wait_ended(container).await?;
                return Ok(match stopped {
                    true => StopOutcome::Stopped(exit),
                    false => StopOutcome::AlreadyExited(exit),
                });
            }
            State::Running | State::Pending(_) => {}
        }
        #[cfg(feature = "cri")]
        if let (Some(engine), State::Running) = (&backend.engine, &seen.state) {
            match crate::ops::node_engine::stop(
                backend,
                container,
                engine,
                &seen,
                grace,
                &mut refused,
            )
            .await?
            {
                Some(outcome) => return Ok(outcome),
                None => continue,
            }
        }
        #[cfg(not(feature = "cri"))]
        let _ = grace;
        if let Some(change) = backend.stopping_change(&seen) {
            let patch = stop_patch(&seen.pod, change);
            let patched = backend.client.patch_pod(container.pod_name(), &patch).await;
            match patched {
                Ok(Patched::Other(error)) | Err(error) if is_policy(&error) => {
                    backend.change_refused(&seen, change, error)?;
                    continue;
                }
                Err(error) => return Err(error),
                Ok(Patched::Done(pod)) => {
                    stopped = true;
                    backend.pods.take(*pod);
                    continue;
                }
                Ok(Patched::Other(error)) => {
                    // The pod has changed in the meantime, possibly to its end.
                    let pod = backend.client.pod(container.pod_name()).await?;
                    if pod.metadata.uid != uid {
                        return Err(Error::new(ErrorKind::NotFound));
                    }
                    refused.again(&pod, error)?;
                    backend.pods.take(pod);
                    continue;
                }
            }
        }
        stopped = true;
        // A pending container may have run in the meantime, and may need another change.
        let was_pending = matches!(seen.state, State::Pending(_));
        let version = seen.pod.metadata.resource_version.clone();
        let now = backend
            .wait_until(container, |now| {
                now.exit().is_some() || was_pending && now.pod.metadata.resource_version != version
            })
            .await;
        match now {
            // The loop continues with the new state.
            Ok(_) => {}
            Err(_) => return backend.wait_ended(container).await.map(StopOutcome::Stopped),
        }
    }
}

/// Adds a deadline to a stopped pod that never ran and has none, so that the node releases its
/// reservation. It was not added before, because it would have lost an exit code.
async fn release_reservation(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    pod: &Pod,
) {
    let is_waiting = pod.status.phase == "Pending" && pod.spec.node_name.is_some();
    if !is_waiting || pod.spec.active_deadline_seconds.is_some() {
        return;
    }
    match backend.client.patch_pod(container.pod_name(), &stop_patch(pod, Change::Deadline)).await {
        Ok(Patched::Done(pod)) => backend.pods.take(*pod),
        // The pod has changed, or is gone.
        Ok(Patched::Other(_)) => {}
        Err(error) => tracing::debug!(%error, "failed to release the reservation of a stopped pod"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn stop_patch_tests_uid_and_phase() {
        let pod = pod(json!({
            "metadata": {"uid": "u"},
            "spec": {"nodeName": "n", "containers": [
                {"name": "istio-proxy", "image": "proxy"}, {"name": "main", "image": "busybox"},
            ]},
            "status": {"phase": "Running"},
        }));
        let patch = stop_patch(&pod, Change::Image);
        let tests: Vec<&Value> = patch.iter().filter(|op| op["op"] == "test").collect();
        assert_eq!(tests.len(), 3);
        assert_eq!(tests[1], &json!({"op": "test", "path": "/status/phase", "value": "Running"}));
        let path = "/spec/containers/1/image";
        assert_eq!(tests[2], &json!({"op": "test", "path": path, "value": "busybox"}));
        assert_eq!(patch[3], json!({"op": "replace", "path": path, "value": "!stopped"}));
        let paths = |change| -> Vec<Value> {
            let patch = stop_patch(&pod, change);
            patch.iter().filter(|op| op["op"] != "test").map(|op| op["path"].clone()).collect()
        };
        let mark = "/metadata/annotations/container-runtime~1stopped-at";
        let deadline = "/spec/activeDeadlineSeconds";
        assert_eq!(paths(Change::Image), [path, mark]);
        assert_eq!(paths(Change::Deadline), [deadline, mark]);
        assert_eq!(paths(Change::Both), [path, deadline, mark]);
    }
}
