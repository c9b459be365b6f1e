//! Refuses to pull images, because the nodes of a cluster pull them when a container starts.

use runtime_core::{Capability, Error, PullStream, Result};

/// Returns the error of every pull: the capability is `deferred_pull`.
pub(crate) fn pull() -> Result<PullStream> {
    Err(Error::unsupported(Capability::PullImage))
}
