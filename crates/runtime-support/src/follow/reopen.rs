//! Transition of a reader from one open of a log to the next.

use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use runtime_core::{Backoff, ContainerStatus, Error, ErrorKind, Result};
use tokio::time::sleep;

use super::{LogSource, OpenLog};

/// End of an open log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenUntil {
    /// The current end of the log.
    Now,
    /// The final end of the log, because the container has ended.
    End,
    /// The end of the container.
    Follow,
}

/// State of a reader after an open log.
pub(super) enum Transition<S: LogSource> {
    Open(S::Chunks, OpenUntil),
    /// The last byte was read; `ended` is `true` if the container has ended.
    Read {
        ended: bool,
    },
    Failed(Error),
}

/// Completes when the container has ended. An error means that the end cannot be observed this way.
pub(super) type EndWatch = Shared<BoxFuture<'static, Result<()>>>;

pub(super) fn read<S: LogSource>(ended: Result<bool>) -> Transition<S> {
    match ended {
        Ok(ended) => Transition::Read { ended },
        Err(error) => Transition::Failed(error),
    }
}

/// Returns `true` if the container has ended or does not exist.
pub(super) async fn has_ended<S: LogSource>(source: &S) -> Result<bool> {
    match source.status().await {
        Ok(status) => Ok(status == ContainerStatus::Exited),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits for the end of the container, at most for `time`. If the end cannot be observed, waits for
/// `time`.
pub(super) async fn ended_within(end: &mut Option<EndWatch>, time: Duration) -> bool {
    let wait = sleep(time);
    if let Some(watched) = end.clone() {
        tokio::pin!(wait);
        tokio::select! {
            biased;
            ended = watched => match ended {
                Ok(()) => return true,
                Err(_) => *end = None,
            },
            () = &mut wait => return false,
        }
        wait.await;
        return false;
    }
    wait.await;
    false
}

pub(super) async fn reopen<S: LogSource>(
    source: &S,
    open: OpenLog,
    mut backoff: Backoff,
    mut end: Option<EndWatch>,
) -> Transition<S> {
    if ended_within(&mut end, backoff.delay()).await {
        return open_rest(source, open, backoff).await;
    }
    reopen_now(source, open, backoff, end).await
}

/// Opens the log of an ended container to read the rest that a followed log did not return. If the
/// container does not exist, there is no rest.
pub(super) async fn open_rest<S: LogSource>(
    source: &S,
    open: OpenLog,
    mut backoff: Backoff,
) -> Transition<S> {
    loop {
        match source.open(OpenLog { follow: false, ..open }).await {
            Ok(chunks) => return Transition::Open(chunks, OpenUntil::End),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Transition::Read { ended: true };
            }
            Err(error) if error.is_retryable() => sleep(backoff.delay()).await,
            Err(error) => return Transition::Failed(error),
        }
    }
}

/// Opens the log as soon as the engine is reachable and the container was started. The end of the
/// container is awaited at the same time, because a backend ends a container that can never run
/// only while its exit is awaited.
pub(super) async fn reopen_now<S: LogSource>(
    source: &S,
    open: OpenLog,
    mut backoff: Backoff,
    mut end: Option<EndWatch>,
) -> Transition<S> {
    loop {
        let opened = match source.status().await {
            Ok(ContainerStatus::Created) => Ok(None),
            // The log of an ended container is complete.
            Ok(ContainerStatus::Exited) => {
                let rest = OpenLog { follow: false, ..open };
                source.open(rest).await.map(|chunks| Some((chunks, OpenUntil::End)))
            }
            Ok(ContainerStatus::Running) => {
                source.open(open).await.map(|chunks| Some((chunks, OpenUntil::Follow)))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(Some((chunks, until))) => return Transition::Open(chunks, until),
            Err(error) if !error.is_retryable() => return Transition::Failed(error),
            Ok(None) | Err(_) => {}
        }
        if ended_within(&mut end, backoff.delay()).await {
            return open_rest(source, open, backoff).await;
        }
    }
}
