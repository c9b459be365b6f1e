//! What an engine does otherwise than the suite says, known and asserted.

use runtime_conformance::Difference;

/// The differences of an engine, by its name in the environment.
pub(crate) fn of(_engine: &str) -> Vec<Difference> {
    Vec::new()
}
