//! Log rotation: the task that checks file sizes, and the requests to the engine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use runtime_core::{ContainerId, ContainerStatus, Error, ErrorKind, Operation, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::host::log_rotation::{has_work, remove_oldest, rename, rename_to_new, restore};
use crate::model::container::ListedContainer;
use crate::model::log_directory::LOG_FILE;
use crate::options::LogRotation;

/// Delay between two checks of the file sizes, as in the kubelet.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The task that rotates the logs of a connection.
#[derive(Debug)]
pub(crate) struct Rotator {
    rotation: LogRotation,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Rotator {
    /// Returns a rotator without a task.
    pub(crate) const fn new(rotation: LogRotation) -> Self {
        Self { rotation, task: Mutex::new(None) }
    }

    /// Spawns the task, unless it runs already. It ends with its executor, and is then spawned
    /// again on the executor of the caller.
    pub(crate) fn ensure_running(&self, connection: &Arc<Connection>) {
        let LogRotation::Size { max_bytes, keep } = self.rotation else { return };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let closed = connection.context.closed.clone();
            *task = Some(tokio::spawn(run(Arc::downgrade(connection), closed, max_bytes, keep)));
        }
    }
}

async fn run(
    connection: Weak<Connection>,
    closed: CancellationToken,
    max_bytes: u64,
    keep: Option<u32>,
) {
    while closed.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
        let Some(connection) = connection.upgrade() else { return };
        if let Err(error) = rotate_all(&connection, max_bytes, keep).await {
            tracing::debug!(%error, "failed to rotate log files");
        }
    }
}

/// Rotates each current file of more than `max_bytes`, and completes rotations that another process
/// has left unfinished. Returns the number of rotated files.
pub(crate) async fn rotate_all(
    connection: &Arc<Connection>,
    max_bytes: u64,
    keep: Option<u32>,
) -> Result<usize> {
    if keep == Some(0) {
        // The number of the next file follows from the number of the newest one.
        return Err(Error::invalid("keep", "it must be at least 1"));
    }
    let root = connection.log_scope();
    // The engine gets a request only if there is something to rotate.
    if !run_blocking(move || Ok(has_work(&root, max_bytes))).await? {
        return Ok(0);
    }
    let table = connection.list(Operation::Logs).await?;
    let mut rotated = 0;
    let mut failed = None;
    for listed in table.into_values() {
        let done = match listed.info.status {
            ContainerStatus::Created => continue,
            ContainerStatus::Running => rotate(connection, &listed, max_bytes, keep).await,
            ContainerStatus::Exited => restore_last(&listed).await.map(|()| false),
        };
        match done {
            Ok(true) => rotated += 1,
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => failed = Some(error.about(&listed.info.id)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(rotated),
    }
}

/// Rotates the current file of a running container, if it is too large. The rotation completes if
/// the caller is dropped, because there is no current file between its two steps.
async fn rotate(
    connection: &Arc<Connection>,
    listed: &ListedContainer,
    max_bytes: u64,
    keep: Option<u32>,
) -> Result<bool> {
    let Some(directory) = listed.annotations.logs.clone() else { return Ok(false) };
    let (in_task, id) = (Arc::clone(connection), listed.info.id.clone());
    let work = async move { rename_and_reopen(&in_task, &id, directory, max_bytes, keep).await };
    connection.context.finish(work).await
}

async fn rename_and_reopen(
    connection: &Connection,
    id: &ContainerId,
    directory: PathBuf,
    max_bytes: u64,
    keep: Option<u32>,
) -> Result<bool> {
    let path = directory.clone();
    let renamed =
        run_blocking(move || rename(&path, max_bytes).map_err(|error| failed(&path, error)))
            .await?;
    let Some(renamed) = renamed else { return Ok(false) };
    let request = cri::ReopenContainerLogRequest { container_id: id.to_string() };
    let query = connection.context.deadlines.query;
    let reopened = connection.client.call(Operation::Logs, query, request).await;
    run_blocking(move || {
        if reopened.is_err() {
            // The engine still writes to the file: it becomes the current one again, unless the
            // engine has opened another.
            let current = directory.join(LOG_FILE);
            if let Err(error) = rename_to_new(&renamed, &current) {
                tracing::debug!(%error, "a log file keeps its rotated name");
            }
        } else if let Some(keep) = keep {
            remove_oldest(&directory, keep).map_err(|error| failed(&directory, error))?;
        }
        reopened.map(drop)
    })
    .await?;
    Ok(true)
}

/// Restores the name of the last file of an exited container after an unfinished rotation. The
/// engine writes no more to it and opens no other file.
async fn restore_last(listed: &ListedContainer) -> Result<()> {
    let Some(directory) = listed.annotations.logs.clone() else { return Ok(()) };
    run_blocking(move || restore(&directory).map_err(|error| failed(&directory, error))).await
}

fn failed(directory: &Path, error: io::Error) -> Error {
    let message = format!("failed to rotate the logs in {}", directory.display());
    Error::internal(message).with_source(error)
}
