//! Stopping a container and keeping its pod.
//!
//! The node ends a container whose image is changed, with the pod's grace, and finds that the new
//! image cannot be one. So the pod stays, with the true exit code and the logs.

use runtime_core::{Capability, Error, ErrorKind, Operation, Result, StopOptions, StopOutcome};
use serde_json::{Value, json};
use std::time::Duration;

use crate::client::{Patched, Refused};
use crate::container::KubernetesContainer;
use crate::hold::{annotate, millis_now};
use crate::names::{STOPPED_AT, STOPPED_IMAGE};
use crate::state::State;
use crate::wire::Pod;

/// The change that stops a pod in the phase that it was seen in.
///
/// The phase is part of the condition, so that a pod whose end the server knows is not marked as
/// stopped.
fn stop(pod: &Pod) -> Vec<Value> {
    let path = pod.image_path();
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": "/status/phase", "value": pod.status.phase}),
        json!({"op": "test", "path": path, "value": image(pod)}),
        json!({"op": "replace", "path": path, "value": STOPPED_IMAGE}),
        annotate(STOPPED_AT, &millis_now()),
    ]
}

fn image(pod: &Pod) -> &str {
    pod.container().map(|container| container.image.as_str()).unwrap_or_default()
}

/// Stops a container and waits for its end.
pub(crate) async fn run(
    container: &KubernetesContainer,
    options: StopOptions,
) -> Result<StopOutcome> {
    let shared = &container.shared;
    let created = Duration::from_secs(container.grace);
    if !shared.capabilities.stop_grace_override
        && let Some(grace) = options.grace
        && shared.capabilities.round_grace(grace) != created
    {
        return Err(Error::unsupported(Capability::StopGraceOverride)
            .with_field("grace")
            .with_message(format!(
                "the grace of this container was set to {created:?} when it was created"
            ))
            .during(Operation::Stop));
    }
    let grace = options.grace.map_or(created, |grace| shared.capabilities.round_grace(grace));
    let deadline = grace + shared.options.deadlines.stop_margin;
    shared.within(Operation::Stop, deadline, until_stopped(container, grace)).await
}

async fn until_stopped(container: &KubernetesContainer, grace: Duration) -> Result<StopOutcome> {
    let shared = &container.shared;
    let uid = container.uid();
    let mut refused = Refused::default();
    loop {
        let seen = shared.entry(uid, &container.pod_name).await?.now();
        match seen.state {
            State::Held => return Ok(StopOutcome::NotStarted),
            State::Ended(exit) => return Ok(StopOutcome::AlreadyExited(exit)),
            State::Settling => {
                return container.until_ended().await.map(StopOutcome::AlreadyExited);
            }
            State::Running | State::Pending(_) => {}
        }
        #[cfg(feature = "cri")]
        if let (Some(engine), State::Running) = (&shared.engine, &seen.state) {
            match crate::engine::stop(container, engine, &seen, grace, &mut refused).await? {
                Some(outcome) => return Ok(outcome),
                None => continue,
            }
        }
        #[cfg(not(feature = "cri"))]
        let _ = grace;
        if image(&seen.pod) != STOPPED_IMAGE {
            let patch = stop(&seen.pod);
            match shared.client.patch_pod(&container.pod_name, &patch).await? {
                Patched::Done(pod) => shared.pods.take(*pod),
                Patched::Other(error) => {
                    // Something happened to it meanwhile. Is it what was waited for?
                    let pod = shared.client.pod(&container.pod_name).await?;
                    if pod.metadata.uid != uid {
                        return Err(Error::new(ErrorKind::NotFound));
                    }
                    refused.again(&pod, error)?;
                    shared.pods.take(pod);
                    continue;
                }
            }
        }
        return container.until_ended().await.map(StopOutcome::Stopped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_for_one_pod_in_one_state() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u"},
            "spec": {"containers": [
                {"name": "istio-proxy", "image": "proxy"}, {"name": "main", "image": "busybox"},
            ]},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        let patch = stop(&pod);
        let tests: Vec<&Value> = patch.iter().filter(|op| op["op"] == "test").collect();
        assert_eq!(tests.len(), 3);
        assert_eq!(tests[1], &json!({"op": "test", "path": "/status/phase", "value": "Running"}));
        let path = "/spec/containers/1/image";
        assert_eq!(tests[2], &json!({"op": "test", "path": path, "value": "busybox"}));
        assert_eq!(patch[3], json!({"op": "replace", "path": path, "value": "!stopped"}));
    }
}
