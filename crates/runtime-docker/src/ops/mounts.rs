//! Checks that mount sources exist and have the kind of the spec.

use std::io::ErrorKind;
use std::path::Path;

use runtime_core::{Error, Mount, Result};

use crate::model::engine::Flavour;
use crate::state::DockerBackend;

/// Checks the sources of mounts, if the engine does not.
///
/// Docker refuses a missing source at the create. Podman's Docker API creates a directory instead.
/// Neither has a field for the kind of a source. The sources are checked here if the engine is
/// proven to share the files of this host.
pub(crate) async fn check(backend: &DockerBackend, mounts: &[Mount]) -> Result<()> {
    let has_kind = mounts.iter().any(|mount| mount.kind.is_some());
    if (backend.engine.flavour == Flavour::Docker && !has_kind) || mounts.is_empty() {
        return Ok(());
    }
    // Checked each time, because Podman's service exits when idle, and is started again.
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
