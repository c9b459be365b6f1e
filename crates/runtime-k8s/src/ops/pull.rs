//! Pulling an image. The nodes of a cluster pull images when a container starts there.

use runtime_core::{Capability, Error, PullStream, Result};

/// Returns the error of every pull: the capability is `deferred_pull`.
pub(crate) fn run() -> Result<PullStream> {
    Err(Error::unsupported(Capability::PullImage))
}
