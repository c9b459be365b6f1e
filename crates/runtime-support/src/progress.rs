//! Reports of starts that take long.

use runtime_core::PENDING_START;

/// Reports why a container that was started does not run yet, see [`PENDING_START`].
///
/// A backend calls this when a start has taken longer than a few seconds, once for each reason.
pub fn report_pending_start(backend: &'static str, container: &str, reason: &str) {
    tracing::info!(target: PENDING_START, backend, container, reason, "the container waits to run");
}
