//! Check of the sources of mounts.

use std::fs;
use std::io;

use runtime_core::{Error, Mount, Result};

use crate::host::blocking::run_blocking;
use crate::model::spec::Plan;
use crate::state::connection::Connection;

/// Checks that the sources of mounts exist and have the kinds that the spec requires. Some engines
/// create a directory for a missing source, and none has a field for the kind.
pub(super) async fn check_mount_sources(connection: &Connection, plan: &Plan) -> Result<()> {
    if plan.mounts.is_empty() {
        return Ok(());
    }
    let peer = connection.client.peer().clone();
    let mounts = plan.mounts.clone();
    run_blocking(move || {
        let checked = peer.among_its_mounts(|| {
            let mut mounts = mounts.iter().enumerate();
            Ok(mounts.try_for_each(|(at, mount)| check_mount_source(at, mount)))
        });
        // If the files of the engine are not visible, the engine itself has to check.
        checked.unwrap_or(Ok(()))
    })
    .await
}

fn check_mount_source(at: usize, mount: &Mount) -> Result<()> {
    let source = &mount.source;
    if fs::symlink_metadata(source).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let message = format!("{} does not exist", source.display());
        return Err(Error::invalid(format!("mounts[{at}].source"), message));
    }
    match fs::metadata(source) {
        Ok(metadata) => runtime_support::check_mount_kind(at, mount, metadata.file_type()),
        Err(_) => Ok(()),
    }
}
