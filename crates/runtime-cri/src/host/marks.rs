//! Marks: empty files beside the log of a container that every process of this library reads.

use std::io;
use std::path::PathBuf;

use runtime_core::Result;

use super::blocking::run_blocking;
use super::private_files;
use crate::model::annotations::Annotations;

/// Returns whether a mark exists.
pub(crate) async fn exists(mark: PathBuf) -> bool {
    run_blocking(move || Ok(mark.exists())).await.unwrap_or(false)
}

/// Creates a mark. Returns `false` if it exists already.
pub(crate) async fn create(mark: PathBuf) -> Result<bool> {
    run_blocking(move || match private_files::file().write(true).create_new(true).open(&mark) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(private_files::failed("create", &mark, error)),
    })
    .await
}

/// Marks a container as stopped by this library. Returns `false` if it has that mark already, or
/// if the mark cannot be created.
pub(crate) async fn mark_stopped(annotations: &Annotations) -> bool {
    let Some(mark) = annotations.stop_mark() else { return false };
    create(mark).await.unwrap_or_else(|error| {
        // The exit then reports the signal, and not that this library sent it.
        tracing::warn!(%error, "failed to mark a stop");
        false
    })
}

/// Removes the mark of a stop that failed. Only the stop that created the mark may remove it,
/// because a concurrent stop may rely on it.
pub(crate) async fn unmark_stopped(annotations: &Annotations) {
    let Some(mark) = annotations.stop_mark() else { return };
    let removed = run_blocking(move || match std::fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(private_files::failed("remove", &mark, error))
        }
        _ => Ok(()),
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "failed to remove the mark of a failed stop");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn mark_is_created_by_one_stop() {
        let directory = tempfile::tempdir().unwrap();
        let annotations =
            Annotations { logs: Some(directory.path().to_owned()), ..Annotations::default() };
        let mark = annotations.stop_mark().unwrap();
        assert!(mark_stopped(&annotations).await);
        assert!(!mark_stopped(&annotations).await, "another stop has made it");
        assert!(mark.exists());
        unmark_stopped(&annotations).await;
        assert!(!mark.exists());
        // A missing mark is not an error, and can be created again.
        unmark_stopped(&annotations).await;
        assert!(mark_stopped(&annotations).await);
        // Without a log directory there is no mark.
        assert!(!mark_stopped(&Annotations::default()).await);
    }
}
