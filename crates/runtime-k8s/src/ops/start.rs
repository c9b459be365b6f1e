//! Starts a container and waits for its process.
//!
//! The request is a change of the pod. The cluster then finds a node, which pulls the image and
//! creates the container. `Started` is returned when the process runs. The deadline does not cancel
//! the request: another start continues to wait, and the budgets of the options end a container
//! that never runs, see `state/failure_policy.rs`.

use std::sync::Arc;

use runtime_core::{Error, ErrorKind, Exit, ExitReason, Result, StartOutcome};

use crate::client::{PatchRetries, Patched};
use crate::model::container::KubernetesContainer;
use crate::model::pod::gate;
use crate::model::pod::lifecycle::State;
use crate::model::pod::observed::ObservedPod;
use crate::state::KubernetesBackend;

/// Starts a container, and waits for its process.
pub(crate) async fn start(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<StartOutcome> {
    let outcome = release(backend, container).await?;
    until_started(backend, container, outcome).await
}

/// Removes the gate of the pod, so that a scheduler may place it.
async fn release(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<StartOutcome> {
    let mut pod = Arc::clone(&container.pod);
    let mut refused = PatchRetries::default();
    loop {
        let patch = gate::start(&pod);
        match backend.client.patch_pod(container.pod_name(), &patch).await? {
            Patched::Done(pod) => {
                backend.pods.take(*pod);
                return Ok(StartOutcome::Started);
            }
            // The pod may have been started before.
            Patched::Other(error) => {
                pod = backend.fetch(container).await?;
                if !gate::is_gated(&pod) {
                    return Ok(StartOutcome::AlreadyStarted);
                }
                refused.again(&pod, error)?;
            }
        }
    }
}

/// Waits until the process runs or has run.
///
/// # Errors
/// The reason if the process will never run.
async fn until_started(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    outcome: StartOutcome,
) -> Result<StartOutcome> {
    if outcome == StartOutcome::AlreadyStarted && backend.current(container).await?.exit().is_some()
    {
        return Ok(outcome);
    }
    let is_over = |seen: &ObservedPod| matches!(seen.state, State::Running | State::Ended(_));
    let seen = backend.wait_until(container, is_over).await?;
    match seen.exit() {
        Some(exit) if exit.code.is_none() && !seen.was_started() => Err(failed(exit)),
        _ => Ok(outcome),
    }
}

/// Returns the error of a start whose deadline has passed.
pub(crate) fn not_started_yet(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    error: Error,
) -> Error {
    let entry = backend.pods.entry(container.uid());
    let message = entry.map(|entry| (entry.pending_message(&entry.now()), entry.now()));
    match message {
        Some((message, seen)) if matches!(seen.state, State::Pending(_)) => error.with_message(
            format!("the process has not started yet: {message}; the start continues"),
        ),
        _ => error,
    }
}

/// Returns the error of a start that has ended without a process.
fn failed(exit: &Exit) -> Error {
    let message = exit.message.clone().unwrap_or_default();
    let error = match exit.reason {
        ExitReason::StartFailed => start_failed(message),
        ExitReason::ImagePullFailed => pull_failed(message),
        ExitReason::Removed => Error::new(ErrorKind::NotFound),
        _ => Error::new(ErrorKind::InvalidState)
            .with_message(format!("the container has ended before its process ran: {exit}")),
    };
    // A container that has ended cannot be started again.
    error.with_retryable(false)
}

fn start_failed(message: String) -> Error {
    // The second is the message of earlier versions, which other processes may have stored.
    if ["no node accepts it", "no node takes it"].iter().any(|start| message.starts_with(start)) {
        return Error::new(ErrorKind::ResourceExhausted).with_message(message);
    }
    let field = if crate::model::api::refuses_source(&message) || message.contains("mounting") {
        "mounts"
    } else if message.contains("exec:") || message.contains("executable file not found") {
        "command"
    } else if message.contains("chdir to cwd") || message.contains("cwd") {
        "working_dir"
    } else {
        return Error::new(ErrorKind::InvalidArgument).with_message(message);
    };
    Error::invalid(field, message)
}

/// Returns the error for a failed pull. The message is that of the node's engine.
fn pull_failed(message: String) -> Error {
    let text = message.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|part| text.contains(part));
    let kind = if says(&["couldn't parse image", "invalid reference format", "invalidimagename"]) {
        return Error::invalid("image", message);
    } else if says(&[
        "401 unauthorized",
        "unauthorized",
        "authorization failed",
        "authentication required",
        "authorization required",
        "no basic auth credentials",
        "pull access denied",
    ]) {
        ErrorKind::Unauthenticated
    } else if says(&["403 forbidden", "denied"]) {
        ErrorKind::PermissionDenied
    } else if says(&[
        "not found",
        "notfound",
        "manifest unknown",
        "name unknown",
        "no match for platform",
        "no matching manifest",
        "pull policy of never",
    ]) {
        ErrorKind::ImageNotFound
    } else if says(&["no space left", "quota", "too many requests", "toomanyrequests"]) {
        ErrorKind::ResourceExhausted
    } else {
        ErrorKind::Unavailable
    };
    Error::new(kind).with_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_start_returns_kind_of_reason() {
        use ErrorKind as K;
        use ExitReason as R;
        for (reason, message, want) in [
            (R::StartFailed, "no node accepts it: 0/1 nodes", (K::ResourceExhausted, None)),
            (
                R::StartFailed,
                "exec: \"x\": executable file not found",
                (K::InvalidArgument, Some("command")),
            ),
            (
                R::StartFailed,
                "hostPath type check failed: /x",
                (K::InvalidArgument, Some("mounts")),
            ),
            (R::StartFailed, "configmap \"x\" not found", (K::InvalidArgument, None)),
            (
                R::ImagePullFailed,
                "rpc error: code = NotFound desc = failed to pull and unpack image \"r/a:b\": r/a:b: not found",
                (K::ImageNotFound, None),
            ),
            (
                R::ImagePullFailed,
                "Container image \"r/a:b\" is not present with pull policy of Never",
                (K::ImageNotFound, None),
            ),
            (
                R::ImagePullFailed,
                "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
                (K::Unauthenticated, None),
            ),
            (R::ImagePullFailed, "unexpected status: 403 Forbidden", (K::PermissionDenied, None)),
            (R::ImagePullFailed, "dial tcp: lookup r: no such host", (K::Unavailable, None)),
            (
                R::ImagePullFailed,
                "Failed to apply default image tag \"a:B:c\": couldn't parse image reference",
                (K::InvalidArgument, Some("image")),
            ),
            (R::Removed, "", (K::NotFound, None)),
            (R::StoppedByUs, "stopped before its process was started", (K::InvalidState, None)),
            (R::Evicted, "the node was low on memory", (K::InvalidState, None)),
        ] {
            let error = failed(&Exit::new(reason).with_message(message));
            assert_eq!((error.kind(), error.field()), want, "{message}");
            assert!(!error.is_retryable(), "{message}");
            if !message.is_empty() {
                assert!(error.message().is_some_and(|text| text.contains(message)), "{error:?}");
            }
        }
    }
}
