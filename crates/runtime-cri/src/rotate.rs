//! New log files for running containers. The engine writes into one file for ever, unless it is
//! renamed and the engine told to open it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use runtime_core::{ContainerStatus, Error, ErrorKind, Operation, Result};
use rustix::fs::RenameFlags;

use crate::census::{self, Seen};
use crate::connect::LogRotation;
use crate::generated as cri;
use crate::logfiles::{self, LogFile, Place};
use crate::notes::LOG_FILE;
use crate::sandbox::on_host;
use crate::shared::Shared;

/// How often the sizes are looked at: as often as the kubelet does.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks at the sizes for as long as the runtime is there.
pub(crate) fn spawn(shared: &Arc<Shared>, rotation: LogRotation) {
    let LogRotation::Size { max_bytes, keep } = rotation else { return };
    tokio::spawn(run(Arc::downgrade(shared), shared.closed.clone(), max_bytes, keep));
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

/// Rotates what is too large.
pub(crate) async fn all(shared: &Arc<Shared>, max_bytes: u64, keep: Option<u32>) -> Result<usize> {
    if keep == Some(0) {
        // The newest one's number is what the next one's follows from.
        return Err(Error::invalid("keep", "it must be at least 1"));
    }
    let root = shared.settings.log_dir.join(shared.scope.as_str());
    // The engine is asked only if there is something to do.
    if !on_host(move || Ok(has_larger(&root, max_bytes))).await? {
        return Ok(0);
    }
    let table = census::list(shared, Operation::Logs).await?;
    let mut rotated = 0;
    let mut failed = None;
    for seen in table.into_values() {
        if seen.info.status != ContainerStatus::Running {
            continue;
        }
        match one(shared, &seen, max_bytes, keep).await {
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

async fn one(shared: &Shared, seen: &Seen, max_bytes: u64, keep: Option<u32>) -> Result<bool> {
    let Some(folder) = seen.notes.logs.clone() else { return Ok(false) };
    let in_folder = folder.clone();
    let renamed =
        on_host(move || rename(&in_folder, max_bytes).map_err(|error| failed(&in_folder, error)))
            .await?;
    let Some(renamed) = renamed else { return Ok(false) };
    let request = cri::ReopenContainerLogRequest { container_id: seen.info.id.to_string() };
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

fn failed(folder: &Path, error: io::Error) -> Error {
    Error::internal(format!("cannot rotate the logs in {}", folder.display())).with_source(error)
}

/// Whether some container's current file has more bytes.
fn has_larger(root: &Path, max_bytes: u64) -> bool {
    fs::read_dir(root).into_iter().flatten().flatten().any(|folder| {
        fs::metadata(folder.path().join(LOG_FILE)).is_ok_and(|file| file.len() > max_bytes)
    })
}

/// Gives the current file a number, if it is too large.
fn rename(folder: &Path, max_bytes: u64) -> io::Result<Option<PathBuf>> {
    let current = folder.join(LOG_FILE);
    match fs::metadata(&current) {
        Ok(file) if file.len() > max_bytes => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
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
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join(LOG_FILE), text).unwrap();
        assert_eq!(rename(folder.path(), 3).unwrap(), None);
        write("abc");
        assert_eq!(rename(folder.path(), 3).unwrap(), None);
        for _ in 0..3 {
            write("abcd");
            rename(folder.path(), 3).unwrap().unwrap();
        }
        write("abcd");
        assert!(has_larger(folder.path().parent().unwrap(), 3));
        throw_away(folder.path(), 2).unwrap();
        let names: Vec<_> = logfiles::list(&Place::ours(folder.path()))
            .unwrap()
            .into_iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            ["container.log.0000000002", "container.log.0000000003", "container.log"]
        );
    }
}
