//! Reports of operations that take long.

/// The target of the `tracing` events by which a backend reports why a container that was started
/// does not run yet: no node takes it, or its image is still being pulled.
///
/// The events have level info and the fields `backend`, `container` (its name) and `reason`. There is
/// one for each reason, from a few seconds after the start on.
pub const PENDING_START: &str = "runtime_core::pending_start";
