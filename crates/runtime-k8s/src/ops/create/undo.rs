//! Undoes a create that has failed or was cancelled.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Backoff, ErrorKind, LABEL_NONCE, Operation, Result};
use tokio::time::Instant;

use crate::model::api::Pod;
use crate::ops::remove::delete;
use crate::state::KubernetesBackend;

/// How long an undo is retried. It is longer than the request timeout of servers. A reap removes
/// the rest.
pub(super) const UNDO_TIMEOUT: Duration = Duration::from_secs(90);

/// Timeout of one attempt of an undo, and of a create after the runtime was closed.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Undoes a create whose caller waits for the error. The caller waits for at most one attempt.
pub(super) async fn undo_soon(backend: &Arc<KubernetesBackend>, pod: Pod) {
    let undone = backend.context.half_made.spawn(undo(Arc::clone(backend), pod));
    let _ = tokio::time::timeout(ATTEMPT_TIMEOUT, undone).await;
}

/// Runs one attempt of an undo.
async fn attempt<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime_support::within(Operation::Create, ATTEMPT_TIMEOUT, work).await
}

/// Undoes a create whose response was lost. The server may still process it, so an absent pod is
/// requested again.
pub(in crate::ops) async fn undo_by_name(
    backend: Arc<KubernetesBackend>,
    name: String,
    nonce: String,
) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_TIMEOUT);
    loop {
        let failure = match attempt(backend.client.pod(&name)).await {
            Ok(pod) if pod.metadata.labels.get(LABEL_NONCE) == Some(&nonce) => {
                return undo(backend, pod).await;
            }
            // Another pod has the name.
            Ok(_) => return,
            Err(error) => error,
        };
        if !backend.context.half_made.another(backoff.delay(), until).await {
            if failure.kind() != ErrorKind::NotFound {
                tracing::warn!(pod = name, "failed to undo a create whose response was lost");
            }
            return;
        }
    }
}

/// Undoes a create.
pub(in crate::ops) async fn undo(backend: Arc<KubernetesBackend>, pod: Pod) {
    let (mut backoff, until) = (Backoff::default(), Instant::now() + UNDO_TIMEOUT);
    loop {
        // The pod was not started, unless its gate was dropped. Its node ends the process then.
        match attempt(delete(&backend, &pod, 0)).await {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::warn!(pod = pod.metadata.name, %error, "failed to undo a create");
                return;
            }
            Err(error) => tracing::debug!(%error, "failed to undo a create, retrying"),
        }
        if !backend.context.half_made.another(backoff.delay(), until).await {
            tracing::warn!(pod = pod.metadata.name, "failed to undo a create");
            return;
        }
    }
}
