//! New log files for running containers. The engine writes into one file for ever, unless it is
//! renamed and the engine told to open it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use runtime_core::{ContainerId, ContainerStatus, Error, ErrorKind, Operation, Result};
use rustix::fs::RenameFlags;
use tokio::task::JoinHandle;

use crate::census::{self, Seen};
use crate::connect::LogRotation;
use crate::generated as cri;
use crate::logfiles::{self, LogFile, Place};
use crate::notes::LOG_FILE;
use crate::sandbox::on_host;
use crate::shared::Shared;

/// How often the sizes are looked at: as often as the kubelet does.
const PERIOD: Duration = Duration::from_secs(10);

/// The task that rotates.
#[derive(Debug)]
pub(crate) struct Rotator {
    rotation: LogRotation,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Rotator {
    pub(crate) const fn new(rotation: LogRotation) -> Self {
        Self { rotation, task: Mutex::new(None) }
    }
}

/// Has the sizes looked at for as long as the runtime is there. Does nothing if they are already, and
/// begins again on the executor of the caller if the one has ended on which they were.
pub(crate) fn ensure(shared: &Arc<Shared>) {
    let LogRotation::Size { max_bytes, keep } = shared.rotator.rotation else { return };
    let mut task = shared.rotator.task.lock().unwrap_or_else(PoisonError::into_inner);
    if task.as_ref().is_none_or(JoinHandle::is_finished) {
        let work = run(Arc::downgrade(shared), shared.closed.clone(), max_bytes, keep);
        *task = Some(tokio::spawn(work));
    }
}

async fn run(
    shared: Weak<Shared>,
    closed: tokio_util::sync::CancellationToken,
    max_bytes: u64,
    keep: Option<u32>,
) {
    while closed.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = all(&shared, max_bytes, keep).await {
            tracing::debug!(%error, "log files were not rotated");
        }
    }
}

/// Rotates what is too large, and mends what a rotation that broke off has left.
pub(crate) async fn all(shared: &Arc<Shared>, max_bytes: u64, keep: Option<u32>) -> Result<usize> {
    if keep == Some(0) {
        // The newest one's number is what the next one's follows from.
        return Err(Error::invalid("keep", "it must be at least 1"));
    }
    let root = shared.settings.log_dir.join(shared.scope.as_str());
    // The engine is asked only if there is something to do.
    if !on_host(move || Ok(has_work(&root, max_bytes))).await? {
        return Ok(0);
    }
    let table = census::list(shared, Operation::Logs).await?;
    let mut rotated = 0;
    let mut failed = None;
    for seen in table.into_values() {
        let done = match seen.info.status {
            ContainerStatus::Created => continue,
            ContainerStatus::Running => one(shared, &seen, max_bytes, keep).await,
            ContainerStatus::Exited => mend(&seen).await,
        };
        match done {
            Ok(true) => rotated += 1,
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => failed = Some(error.about(&seen.info.id)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(rotated),
    }
}

/// Begins a new file for a container that runs, where the current one is too large. It goes on when
/// nobody waits for it any more: between its two steps there is no current file.
async fn one(shared: &Arc<Shared>, seen: &Seen, max_bytes: u64, keep: Option<u32>) -> Result<bool> {
    let Some(folder) = seen.notes.logs.clone() else { return Ok(false) };
    let (in_task, id) = (shared.clone(), seen.info.id.clone());
    let work = async move { rename_and_reopen(&in_task, &id, folder, max_bytes, keep).await };
    shared.finish(work).await
}

async fn rename_and_reopen(
    shared: &Shared,
    id: &ContainerId,
    folder: PathBuf,
    max_bytes: u64,
    keep: Option<u32>,
) -> Result<bool> {
    let in_folder = folder.clone();
    let renamed =
        on_host(move || rename(&in_folder, max_bytes).map_err(|error| failed(&in_folder, error)))
            .await?;
    let Some(renamed) = renamed else { return Ok(false) };
    let request = cri::ReopenContainerLogRequest { container_id: id.to_string() };
    let deadline = shared.deadlines.query;
    let reopened = shared.client.ask(Operation::Logs, deadline, request).await;
    on_host(move || {
        if reopened.is_err() {
            // The engine still writes to it: it is the current one again, unless there is another.
            let current = folder.join(LOG_FILE);
            if let Err(error) = rename_to_new(&renamed, &current) {
                tracing::debug!(%error, "a log file keeps its rotated name");
            }
        } else if let Some(keep) = keep {
            throw_away(&folder, keep).map_err(|error| failed(&folder, error))?;
        }
        reopened.map(drop)
    })
    .await?;
    Ok(true)
}

/// Gives the last file of a container that has ended its name back, where a rotation broke off. The
/// engine opens no other one any more, and writes no more into this one.
async fn mend(seen: &Seen) -> Result<bool> {
    let Some(folder) = seen.notes.logs.clone() else { return Ok(false) };
    on_host(move || give_back(&folder).map_err(|error| failed(&folder, error))).await?;
    Ok(false)
}

fn failed(folder: &Path, error: io::Error) -> Error {
    Error::internal(format!("cannot rotate the logs in {}", folder.display())).with_source(error)
}

/// Whether some container's current file has more bytes, or is missing.
fn has_work(root: &Path, max_bytes: u64) -> bool {
    fs::read_dir(root).into_iter().flatten().flatten().any(|folder| {
        let folder = folder.path();
        match fs::metadata(folder.join(LOG_FILE)) {
            Ok(file) => file.len() > max_bytes,
            Err(_) => left_over(&folder).is_ok_and(|file| file.is_some()),
        }
    })
}

/// The newest of the files with a number, where there is no current one. Whoever has renamed it was
/// killed before the engine had heard of it: the engine still writes into this one, and has to be
/// told to open a new one.
fn left_over(folder: &Path) -> io::Result<Option<PathBuf>> {
    if folder.join(LOG_FILE).try_exists()? {
        return Ok(None);
    }
    let files = match rotated(folder) {
        Ok(files) => files,
        // The container was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = files.into_iter().filter(|file| file.number.is_some());
    Ok(ours.max_by_key(|file| file.number).map(|file| file.path))
}

/// Makes a file that was left over the current one again.
fn give_back(folder: &Path) -> io::Result<()> {
    let Some(file) = left_over(folder)? else { return Ok(()) };
    match rename_to_new(&file, &folder.join(LOG_FILE)) {
        // Another process has been quicker.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Gives the current file a number, if it is too large. Gives the file that the engine writes into
/// and that is not the current one any more, or was not before either.
fn rename(folder: &Path, max_bytes: u64) -> io::Result<Option<PathBuf>> {
    let current = folder.join(LOG_FILE);
    match fs::metadata(&current) {
        Ok(file) if file.len() > max_bytes => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return left_over(folder),
        Err(error) => return Err(error),
    }
    let mut number = rotated(folder)?.iter().filter_map(|file| file.number).max().unwrap_or(0);
    loop {
        number += 1;
        let name = folder.join(format!("{LOG_FILE}.{number:010}"));
        match rename_to_new(&current, &name) {
            Ok(()) => return Ok(Some(name)),
            // Another process rotates as well: this one looks again next time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// All files but the current one.
fn rotated(folder: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = logfiles::list(&Place::ours(folder))?;
    files.retain(|file| file.path.extension().is_some_and(|name| name != "log"));
    Ok(files)
}

/// Renames without replacing.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::CWD;
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Removes the oldest rotated files.
fn throw_away(folder: &Path, keep: u32) -> io::Result<()> {
    let rotated = rotated(folder)?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let surplus = rotated.len().saturating_sub(keep);
    for file in rotated.into_iter().take(surplus) {
        match fs::remove_file(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_up_and_the_oldest_go_first() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        let write = |text: &str| fs::write(folder.join(LOG_FILE), text).unwrap();
        assert_eq!(rename(&folder, 3).unwrap(), None);
        write("abc");
        assert_eq!(rename(&folder, 3).unwrap(), None);
        assert!(!has_work(root.path(), 3));
        for _ in 0..3 {
            write("abcd");
            rename(&folder, 3).unwrap().unwrap();
        }
        write("abcd");
        assert!(has_work(root.path(), 3));
        throw_away(&folder, 2).unwrap();
        assert_eq!(
            names(&folder),
            ["container.log.0000000002", "container.log.0000000003", "container.log"]
        );
    }

    #[test]
    fn a_rotation_that_broke_off_is_taken_up_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        assert!(!has_work(root.path(), 3), "it was not started");
        for _ in 0..2 {
            fs::write(folder.join(LOG_FILE), "abcd").unwrap();
            rename(&folder, 3).unwrap().unwrap();
        }
        // Here the process was killed. The next one finds the file that the engine writes into, as
        // often as it looks, and renames nothing.
        for _ in 0..2 {
            assert!(has_work(root.path(), 1000), "whatever its size");
            let file = rename(&folder, 1000).unwrap().unwrap();
            assert_eq!(file, folder.join("container.log.0000000002"));
        }
        // The engine has opened a new one.
        fs::write(folder.join(LOG_FILE), "").unwrap();
        assert!(!has_work(root.path(), 1000));
        assert_eq!(rename(&folder, 1000).unwrap(), None);
    }

    #[test]
    fn the_last_file_of_what_has_ended_is_the_current_one_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        give_back(&folder).unwrap();
        for text in ["first", "second"] {
            fs::write(folder.join(LOG_FILE), text).unwrap();
            rename(&folder, 3).unwrap().unwrap();
        }
        give_back(&folder).unwrap();
        assert_eq!(names(&folder), ["container.log.0000000001", "container.log"]);
        assert_eq!(fs::read_to_string(folder.join(LOG_FILE)).unwrap(), "second");
        assert!(!has_work(root.path(), 1000));
        // What is as it should be stays so, and what is gone is no error.
        give_back(&folder).unwrap();
        assert_eq!(names(&folder).len(), 2);
        give_back(&root.path().join("gone")).unwrap();
    }

    /// The folder of a container.
    fn folder_in(root: &tempfile::TempDir) -> PathBuf {
        let folder = root.path().join("nonce");
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        logfiles::list(&Place::ours(folder))
            .unwrap()
            .into_iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}
