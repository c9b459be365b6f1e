//! Exec locks: one exec of a container starts at a time, so that its process can be identified.
//!
//! A mutex excludes other tasks of this process, and `flock` on a file beside the log of the
//! container excludes other processes of this library. Only this user can open the file, because it
//! is in a private directory.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use runtime_core::{Backoff, ContainerId, Result};
use rustix::fs::FlockOperation;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::host::blocking::run_blocking;
use crate::host::private_files;

/// Deadline for the lock. After it an exec starts without the lock, and its process is not looked
/// up.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Shortest delay between two attempts to lock the file.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(2);
/// Longest delay between two attempts to lock the file.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// Exec locks of a connection.
#[derive(Debug, Default)]
pub(crate) struct ExecLocks {
    containers: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
}

/// Held exec lock, which is released when dropped.
#[derive(Debug)]
pub(crate) struct ExecLock {
    _mutex: OwnedMutexGuard<()>,
    _file: File,
}

impl ExecLocks {
    /// Acquires the exec lock of a container. Returns `None` if it is not free in time.
    pub(crate) async fn acquire(&self, id: &ContainerId, lock: PathBuf) -> Option<ExecLock> {
        let until = Instant::now() + LOCK_DEADLINE;
        let mutex = tokio::time::timeout_at(until, self.of(id).lock_owned()).await.ok()?;
        let mut backoff = Backoff::new(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX);
        loop {
            let path = lock.clone();
            match run_blocking(move || try_lock(path)).await {
                Ok(Some(file)) => return Some(ExecLock { _mutex: mutex, _file: file }),
                Ok(None) if Instant::now() < until => tokio::time::sleep(backoff.delay()).await,
                Ok(None) => return None,
                Err(error) => {
                    tracing::debug!(%error, container = %id, "failed to lock the execs of a container");
                    return None;
                }
            }
        }
    }

    fn of(&self, id: &ContainerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = containers.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        containers.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        containers.insert(id.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// Tries to lock the file. Returns `None` if another process holds it.
fn try_lock(path: PathBuf) -> Result<Option<File>> {
    let locked =
        private_files::file().read(true).write(true).create(true).open(&path).and_then(|file| {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
    locked.map_err(|error| private_files::failed("lock", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn acquire_waits_for_another_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.lock");
        let id = ContainerId::new("a");
        // Two connections share no state, as two processes.
        let (one, other) = (ExecLocks::default(), ExecLocks::default());
        let first = one.acquire(&id, path.clone()).await.unwrap();
        let second = other.acquire(&id, path.clone());
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
        assert!(early.is_err(), "two hold the lock");
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn acquire_of_held_lock_is_none_after_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.lock");
        let id = ContainerId::new("a");
        let (one, other) = (ExecLocks::default(), ExecLocks::default());
        let _held = one.acquire(&id, path.clone()).await.unwrap();
        assert!(other.acquire(&id, path).await.is_none());
    }
}
