//! The logs of a container.
//!
//! The kubelet gives its log file line by line with times, both streams together, and of a rotated
//! log only the newest file. A kubelet before 1.29 goes on reading a file that was rotated away
//! under a follower, in which nothing will ever come: that is noticed here, and the log is opened
//! anew. A part of a log that was rotated away before it was read is said to be lost.

mod ending;
mod line;
mod raw;
mod source;
#[cfg(test)]
mod tests;

use futures_util::{Stream, StreamExt as _};
use runtime_core::{Container as _, Error, LogOptions, LogReader, Operation, RawLogs, Result};
use runtime_support::follow::read_log;

use crate::BACKEND;
use crate::container::KubernetesContainer;

/// Opens the log of a container.
pub(crate) async fn open(
    container: &KubernetesContainer,
    options: LogOptions,
) -> Result<LogReader> {
    #[cfg(feature = "cri")]
    if let Some(engine) = crate::engine::with_logs(&container.shared) {
        return crate::engine::logs(container, engine, options).await;
    }
    let source = source::PodLog::new(container.clone());
    let shared = &container.shared;
    let reader = shared.query(Operation::Logs, read_log(source, options.clone())).await?;
    let closed = shared.closed();
    let name = container.name().to_owned();
    let records =
        until(reader, closed, move |error| error.during(Operation::Logs).on(BACKEND).about(&name));
    Ok(LogReader::new(records, options.after))
}

/// Opens the log of a container without times.
pub(crate) async fn open_raw(container: &KubernetesContainer) -> Result<RawLogs> {
    let shared = &container.shared;
    // A terminal's log needs mending.
    let with_times = container.tty;
    // The log files of a node's engine are here, and have times.
    #[cfg(feature = "cri")]
    let with_times = with_times || crate::engine::with_logs(shared).is_some();
    let raw = if with_times { None } else { raw::open(container).await? };
    let Some(raw) = raw else {
        return Ok(open(container, LogOptions::default()).await?.into_raw());
    };
    let name = container.name().to_owned();
    let pieces = until(raw, shared.closed(), move |error| {
        error.during(Operation::Logs).on(BACKEND).about(&name)
    });
    Ok(Box::pin(pieces))
}

/// The records until the runtime is closed.
pub(crate) fn until<T>(
    mut reader: impl Stream<Item = Result<T>> + Send + Unpin,
    closed: impl Future<Output = Error> + Send + 'static,
    context: impl Fn(Error) -> Error + Send + 'static,
) -> impl Stream<Item = Result<T>> + Send {
    let mut closed = Some(Box::pin(closed));
    futures_util::stream::poll_fn(move |cx| {
        let Some(waiting) = closed.as_mut() else { return std::task::Poll::Ready(None) };
        if let std::task::Poll::Ready(error) = waiting.as_mut().poll(cx) {
            closed = None;
            return std::task::Poll::Ready(Some(Err(context(error))));
        }
        reader.poll_next_unpin(cx).map_err(&context)
    })
}
