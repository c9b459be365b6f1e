//! Progress of long operations.

/// Target of the `tracing` events that report why a started container does not run yet: no node
/// accepts it, or its image is still being pulled.
///
/// The events have level info and the fields `backend`, `container` (its name) and `reason`. Each
/// reason is reported once, beginning a few seconds after the start.
pub const PENDING_START: &str = "runtime_core::pending_start";
