//! End of a follower whose container is removed.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use runtime_core::{Error, ErrorKind, LogRecord, Result};

/// Records of a follower. The stream ends with `NotFound` if the container was removed, because the
/// rest of the log was removed too, regardless of how the engine ended the log.
pub struct UntilRemoved<S> {
    records: S,
    /// Resolves to `true` if the container was removed.
    was_removed: Option<BoxFuture<'static, bool>>,
    /// The end of the records, kept until `was_removed` has resolved.
    end: Option<Option<Error>>,
}

impl<S> fmt::Debug for UntilRemoved<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilRemoved").field("end", &self.end).finish_non_exhaustive()
    }
}

impl<S> UntilRemoved<S> {
    /// Wraps the records of a follower. `was_removed` is polled only at their end.
    pub fn new(records: S, was_removed: BoxFuture<'static, bool>) -> Self {
        Self { records, was_removed: Some(was_removed), end: None }
    }
}

/// Returns `true` if a removal may have caused this end.
fn may_be_removal(end: Option<&Error>) -> bool {
    let kinds = [ErrorKind::NotFound, ErrorKind::InvalidState, ErrorKind::Lost];
    end.is_none_or(|error| kinds.contains(&error.kind()))
}

impl<S: Stream<Item = Result<LogRecord>> + Unpin> Stream for UntilRemoved<S> {
    type Item = Result<LogRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.end.is_none() {
            match ready!(Pin::new(&mut this.records).poll_next(cx)) {
                Some(Ok(record)) => return Poll::Ready(Some(Ok(record))),
                end => this.end = Some(end.and_then(Result::err)),
            }
        }
        let was_removed = match (&this.end, &mut this.was_removed) {
            (Some(end), Some(was_removed)) if may_be_removal(end.as_ref()) => {
                ready!(was_removed.as_mut().poll(cx))
            }
            _ => false,
        };
        this.was_removed = None;
        let end = this.end.as_mut().and_then(Option::take);
        if was_removed {
            let error = Error::new(ErrorKind::NotFound).with_message("the container was removed");
            return Poll::Ready(Some(Err(match end {
                Some(cause) => error.with_source(cause),
                None => error,
            })));
        }
        Poll::Ready(end.map(Err))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::{FutureExt, StreamExt, stream};
    use runtime_core::LogStream;

    use super::*;

    async fn kinds(end: Option<ErrorKind>, was_removed: bool) -> (usize, Option<ErrorKind>) {
        let record = LogRecord {
            time: SystemTime::UNIX_EPOCH,
            stream: LogStream::Stdout,
            bytes: "a\n".into(),
            continues: false,
            unfinished: None,
        };
        let items = [Ok(record)].into_iter().chain(end.map(|kind| Err(Error::new(kind))));
        let items: Vec<Result<LogRecord>> = items.collect();
        let was_removed = async move { was_removed }.boxed();
        let seen: Vec<_> = UntilRemoved::new(stream::iter(items), was_removed).collect().await;
        let error = seen.last().and_then(|last| last.as_ref().err()).map(Error::kind);
        (seen.len(), error)
    }

    #[tokio::test]
    async fn follower_of_removed_container_ends_with_not_found() {
        use ErrorKind::{InvalidState, Lost, NotFound, Unavailable};
        for (end, was_removed, seen) in [
            (None, false, (1, None)),
            (None, true, (2, Some(NotFound))),
            (Some(NotFound), true, (2, Some(NotFound))),
            (Some(InvalidState), true, (2, Some(NotFound))),
            (Some(Lost), true, (2, Some(NotFound))),
            (Some(Lost), false, (2, Some(Lost))),
            (Some(Unavailable), true, (2, Some(Unavailable))),
        ] {
            assert_eq!(kinds(end, was_removed).await, seen, "{end:?} {was_removed}");
        }
    }
}
