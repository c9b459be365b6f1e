//! Cleanup at the end of a test, also after a failure.

use test_engines::{Engine, Site};

/// Stops all engines on drop.
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
