//! What an engine does otherwise than the suite says, known and asserted.

use runtime_conformance::Difference;

/// The differences of an engine, by its name in the environment.
pub(crate) fn of(engine: &str) -> Vec<Difference> {
    if !engine.starts_with("containerd") {
        return Vec::new();
    }
    vec![test_support::no_last_carriage_return()]
}
