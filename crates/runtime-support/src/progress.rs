//! Progress reports of pending starts.

use runtime_core::PENDING_START;

/// Reports why a started container does not run yet, see [`PENDING_START`].
///
/// A backend calls this once per reason when a start takes longer than a few seconds.
pub fn report_pending_start(backend: &'static str, container: &str, reason: &str) {
    tracing::info!(target: PENDING_START, backend, container, reason, "container start is pending");
}
