//! Removal of a sandbox with its containers.

use runtime_core::{Backoff, ErrorKind, Operation, Result};
use tokio::time::Instant;

use crate::generated as cri;
use crate::state::connection::Connection;

/// Number of attempts to remove a sandbox if the engine refuses without a reason.
const REMOVE_ATTEMPTS: usize = 8;

/// Kills the processes of a sandbox, and removes it with its containers. A missing sandbox is not
/// an error.
pub(crate) async fn remove_sandbox(
    connection: &Connection,
    operation: Operation,
    sandbox: &str,
) -> Result<()> {
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let until = Instant::now() + connection.context.deadlines.remove;
    let mut backoff = Backoff::default();
    let mut attempts = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // CRI-O crashes if two clients remove a sandbox that was not stopped.
        let removed = match connection.client.call(operation, left, stop.clone()).await {
            Ok(_) => {
                let left = until.saturating_duration_since(Instant::now());
                connection.client.call(operation, left, request.clone()).await.map(drop)
            }
            failed => failed.map(drop),
        };
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Concurrent removals interfere, and the engine sends an error without a code.
            Err(error) if error.kind() == ErrorKind::Internal && attempts < REMOVE_ATTEMPTS => {
                tracing::debug!(%error, sandbox, "failed to remove a sandbox: retrying");
                attempts += 1;
                tokio::time::sleep(backoff.delay()).await;
            }
            done => return done,
        }
    }
}
