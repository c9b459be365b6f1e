//! Undo of a create that failed or that nobody waits for.

use std::time::Duration;

use runtime_core::{Backoff, Error, ErrorKind, LABEL_NONCE, Nonce, Operation, Result};
use tokio::time::Instant;

use crate::error::was_not_sent;
use crate::generated as cri;
use crate::model::annotations::Annotations;
use crate::ops::sandbox::remove_sandbox;
use crate::state::connection::Connection;

/// How long an engine that has not answered may take to make what it was asked for.
pub(super) const UNDO_PATIENCE: Duration = Duration::from_secs(120);

/// Whether the engine may still be at it: it has not answered, or was stopped.
pub(super) fn may_come(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) && !was_not_sent(error)
}

/// Removes everything that a create made, and for as long as `patience` also what may still come of
/// it. Gives up when the engine is away for long: then a reap finds it by its labels.
pub(super) async fn undo(
    connection: &Connection,
    nonce: &Nonce,
    sandbox: Option<&str>,
    annotations: &Annotations,
    patience: Duration,
) {
    let mut backoff = Backoff::default();
    let begun = Instant::now();
    let (until, looks_until) = (begun + connection.context.deadlines.remove, begun + patience);
    loop {
        match try_undo(connection, nonce, sandbox).await {
            Ok(found) => {
                if let Err(error) = connection.container_dirs().clear(annotations).await {
                    tracing::warn!(%error, %nonce, "something of a create was left on the host");
                }
                let half_made = &connection.context.half_made;
                if found || !half_made.another(backoff.delay(), looks_until).await {
                    return;
                }
            }
            Err(error) if error.is_retryable() && Instant::now() < until.max(looks_until) => {
                tokio::time::sleep(backoff.delay()).await;
            }
            Err(error) => {
                tracing::warn!(%error, %nonce, "a create could not be undone");
                return;
            }
        }
    }
}

/// Gives whether there was something.
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
