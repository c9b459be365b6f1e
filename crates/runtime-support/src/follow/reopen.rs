//! How a reader comes from one open log to the next: when it is opened again, and how far that goes.

use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use runtime_core::{Backoff, ContainerStatus, Error, ErrorKind, Result};
use tokio::time::sleep;

use super::{LogSource, OpenLog};

/// How far an open log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// To where it ends now.
    Now,
    /// To where it ends now, which is its end, because the container has ended.
    End,
    /// As far as the container goes.
    Follow,
}

/// What comes after an open log.
pub(super) enum Next<S: LogSource> {
    Open(S::Chunks, Until),
    /// The last byte was read. Is it the last of the container?
    Read {
        ended: bool,
    },
    Failed(Error),
}

/// Completes when the container has ended. An error means that it cannot be known this way.
pub(super) type End = Shared<BoxFuture<'static, Result<()>>>;

pub(super) fn read<S: LogSource>(ended: Result<bool>) -> Next<S> {
    match ended {
        Ok(ended) => Next::Read { ended },
        Err(error) => Next::Failed(error),
    }
}

/// Whether the container has ended. One that is gone has.
pub(super) async fn has_ended<S: LogSource>(source: &S) -> Result<bool> {
    match source.status().await {
        Ok(status) => Ok(status == ContainerStatus::Exited),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits for the end of the container, but no longer than this. Without a way to watch it, waits so
/// long.
pub(super) async fn ended_within(end: &mut Option<End>, time: Duration) -> bool {
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
    mut end: Option<End>,
) -> Next<S> {
    if ended_within(&mut end, backoff.delay()).await {
        return the_rest(source, open, backoff).await;
    }
    reopen_now(source, open, backoff, end).await
}

/// Opens the log of a container that has ended, for what a followed log has not given. One that is
/// gone has given all there was.
pub(super) async fn the_rest<S: LogSource>(
    source: &S,
    open: OpenLog,
    mut backoff: Backoff,
) -> Next<S> {
    loop {
        match source.open(OpenLog { follow: false, ..open }).await {
            Ok(chunks) => return Next::Open(chunks, Until::End),
            Err(error) if error.kind() == ErrorKind::NotFound => return Next::Read { ended: true },
            Err(error) if error.is_retryable() => sleep(backoff.delay()).await,
            Err(error) => return Next::Failed(error),
        }
    }
}

/// Opens the log once the engine is there and the container was started. The end is watched all the
/// while: a backend ends what never runs when somebody waits for that.
pub(super) async fn reopen_now<S: LogSource>(
    source: &S,
    open: OpenLog,
    mut backoff: Backoff,
    mut end: Option<End>,
) -> Next<S> {
    loop {
        let opened = match source.status().await {
            Ok(ContainerStatus::Created) => Ok(None),
            // The container has ended, so all of its log is there.
            Ok(ContainerStatus::Exited) => {
                let whole = OpenLog { follow: false, ..open };
                source.open(whole).await.map(|chunks| Some((chunks, Until::End)))
            }
            Ok(ContainerStatus::Running) => {
                source.open(open).await.map(|chunks| Some((chunks, Until::Follow)))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(Some((chunks, until))) => return Next::Open(chunks, until),
            Err(error) if !error.is_retryable() => return Next::Failed(error),
            Ok(None) | Err(_) => {}
        }
        if ended_within(&mut end, backoff.delay()).await {
            return the_rest(source, open, backoff).await;
        }
    }
}
