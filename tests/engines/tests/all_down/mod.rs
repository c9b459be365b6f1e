//! The end of a test, also of one that fails.

use test_engines::{Engine, Site};

/// Stops everything when it goes; what never was up costs nothing.
pub(crate) struct AllDown<'a>(pub(crate) &'a Site);

impl Drop for AllDown<'_> {
    fn drop(&mut self) {
        for engine in Engine::ALL.into_iter().rev() {
            if let Err(error) = self.0.down(engine) {
                eprintln!("{engine}: {error:#}");
            }
        }
    }
}
