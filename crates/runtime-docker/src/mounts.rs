//! Mount sources that are not there, or of another kind than the spec requires.

use runtime_core::{Mount, Result};

use crate::engine::Flavour;
use crate::shared::Shared;

/// Refuses mounts whose source is not there, where the engine does not.
///
/// Docker refuses them at the create. Podman's Docker API makes the folder instead, as of an
/// older form of mounts. Where it can be seen what the engine sees, it is looked for here, and so is
/// the kind of a source: neither engine has a field for that.
pub(crate) async fn check(shared: &Shared, mounts: &[Mount]) -> Result<()> {
    let has_kind = mounts.iter().any(|mount| mount.kind.is_some());
    if (shared.engine.flavour == Flavour::Docker && !has_kind) || mounts.is_empty() {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    if let Some(root) = look::root_of_engine(shared).await {
        for (at, mount) in mounts.iter().enumerate() {
            look::there(&root, at, mount).await?;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod look {
    use std::io::ErrorKind;
    use std::path::{Path, PathBuf};

    use runtime_core::{Error, Mount, Result};
    use tokio::net::UnixStream;

    use crate::connect::Place;
    use crate::shared::Shared;

    /// The root folder as the process at the other end of the socket sees it. `None` where that
    /// cannot be known: over TCP, in another PID namespace, without the right to look.
    pub(super) async fn root_of_engine(shared: &Shared) -> Option<PathBuf> {
        let Place::Unix(socket) = shared.http.endpoint().place() else { return None };
        let pid = UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()?;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        tokio::fs::metadata(root.join("proc")).await.ok()?;
        Some(root)
    }

    pub(super) async fn there(root: &Path, at: usize, mount: &Mount) -> Result<()> {
        let Ok(inside) = mount.source.strip_prefix("/") else { return Ok(()) };
        match tokio::fs::metadata(root.join(inside)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::invalid(
                format!("mounts[{at}].source"),
                format!("{} does not exist", mount.source.display()),
            )),
            Ok(metadata) => runtime_support::check_mount_kind(at, mount, metadata.file_type()),
            Err(_) => Ok(()),
        }
    }
}
