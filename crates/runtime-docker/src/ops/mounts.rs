//! Mount sources that do not exist, or are of another kind than the spec requires.

use std::io::ErrorKind;
use std::path::Path;

use runtime_core::{Error, Mount, Result};

use crate::model::engine::Flavour;
use crate::state::DockerBackend;

/// Refuses mounts whose source does not exist or is of the wrong kind, if the engine does not.
///
/// Docker refuses a missing source at the create. Podman's Docker API makes the directory instead, as
/// of an older form of mounts. Neither has a field for the kind of a source. If the engine's files are
/// proven to be on this host, the sources are checked here.
pub(crate) async fn check(backend: &DockerBackend, mounts: &[Mount]) -> Result<()> {
    let has_kind = mounts.iter().any(|mount| mount.kind.is_some());
    if (backend.engine.flavour == Flavour::Docker && !has_kind) || mounts.is_empty() {
        return Ok(());
    }
    // Proven anew each time: Podman's service ends when it is idle, and starts again.
    let Some(root) = backend.http.endpoint().locality().await.root() else { return Ok(()) };
    for (at, mount) in mounts.iter().enumerate() {
        check_source(&root, at, mount).await?;
    }
    Ok(())
}

async fn check_source(root: &Path, at: usize, mount: &Mount) -> Result<()> {
    let Ok(inside) = mount.source.strip_prefix("/") else { return Ok(()) };
    match tokio::fs::metadata(root.join(inside)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::invalid(
            format!("mounts[{at}].source"),
            format!("{} does not exist", mount.source.display()),
        )),
        #[cfg(unix)]
        Ok(metadata) => runtime_support::check_mount_kind(at, mount, metadata.file_type()),
        _ => Ok(()),
    }
}
