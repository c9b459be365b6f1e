//! Ends open logs when the runtime is closed.

use futures_util::{Stream, StreamExt as _};
use runtime_core::{Error, Operation, Result};
use runtime_support::backend::ContainerRef as _;

use crate::error::BACKEND;
use crate::model::container::KubernetesContainer;

/// Returns a function that adds the operation and the container to the errors of an open log.
pub(in crate::ops) fn context(
    container: &KubernetesContainer,
) -> impl Fn(Error) -> Error + Send + use<> {
    let id = container.id().clone();
    move |error| error.during(Operation::Logs).on(BACKEND).about(&id)
}

/// Returns the stream until the runtime is closed.
pub(in crate::ops) fn until_closed<T>(
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
