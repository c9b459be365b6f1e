//! Undo of a create that failed or was dropped.

use std::time::Duration;

use runtime_core::{Backoff, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, Result};
use tokio::time::Instant;

use crate::error::was_not_sent;
use crate::generated as cri;
use crate::model::annotations::Annotations;
use crate::ops::sandbox::remove_sandbox;
use crate::state::connection::Connection;

/// Time for which an engine that has not responded may still create the sandbox.
pub(super) const UNDO_PATIENCE: Duration = Duration::from_secs(120);

/// Returns whether the engine may still create the sandbox after this error.
pub(super) fn may_appear(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) && !was_not_sent(error)
}

/// Removes the sandbox and the files of a create. A sandbox that may still appear is polled for
/// during `patience`. If the engine is down for long, the undo fails, and a reap finds the sandbox
/// by its labels.
pub(super) async fn undo(
    connection: &Connection,
    nonce: &Nonce,
    sandbox: Option<&str>,
    annotations: &Annotations,
    patience: Duration,
) {
    let mut backoff = Backoff::default();
    let begun = Instant::now();
    let (until, poll_until) = (begun + connection.context.deadlines.remove, begun + patience);
    loop {
        match try_undo(connection, nonce, sandbox).await {
            Ok(found) => {
                if let Err(error) = connection.container_dirs().clear(annotations).await {
                    tracing::warn!(%error, %nonce, "failed to remove the files of a create");
                }
                let half_made = &connection.context.half_made;
                if found || !half_made.another(backoff.delay(), poll_until).await {
                    return;
                }
            }
            Err(error) if error.is_retryable() && Instant::now() < until.max(poll_until) => {
                tokio::time::sleep(backoff.delay()).await;
            }
            Err(error) => {
                tracing::warn!(%error, %nonce, "failed to undo a create");
                return;
            }
        }
    }
}

/// Removes the sandbox of a create. Returns whether there was one.
pub(super) async fn try_undo(
    connection: &Connection,
    nonce: &Nonce,
    sandbox: Option<&str>,
) -> Result<bool> {
    if let Some(sandbox) = sandbox {
        return remove_sandbox(connection, Operation::Create, sandbox).await.map(|()| true);
    }
    let filter = cri::PodSandboxFilter {
        label_selector: [(LABEL_NONCE.to_owned(), nonce.to_string())].into(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let query = connection.context.deadlines.query;
    let found = connection.client.call(Operation::Create, query, request).await?;
    for sandbox in &found.items {
        remove_sandbox(connection, Operation::Create, &sandbox.id).await?;
    }
    Ok(!found.items.is_empty())
}
