//! Span, deadline, close check and error context of an operation.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use runtime_core::{Deadlines, Operation, Result, ResultExt as _};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::Backend;
use crate::within;

/// Returns the deadline of a whole operation. Other operations wait or transfer data without a
/// deadline, or have one that depends on their arguments.
fn deadline(
    operation: Operation,
    is_of_container: bool,
    deadlines: &Deadlines,
) -> Option<Duration> {
    match operation {
        Operation::Health
        | Operation::Reattach
        | Operation::List
        | Operation::Events
        | Operation::Info
        | Operation::Kill
        | Operation::Attach => Some(deadlines.query),
        // The statistics of many containers take longer, the more there are.
        Operation::Stats if is_of_container => Some(deadlines.query),
        Operation::Start | Operation::Exec => Some(deadlines.start),
        Operation::Remove => Some(deadlines.remove),
        _ => None,
    }
}

/// Runs `work` in `span`, with the deadline of the operation, until the runtime is closed. Adds the
/// operation and the backend to the error.
///
/// `work` is boxed because each layer around it would hold it by value, twice: the future of a small
/// operation would overflow the stack of a thread.
pub(super) async fn call<B: Backend, T>(
    backend: &Arc<B>,
    operation: Operation,
    container: Option<&B::Container>,
    span: &Span,
    work: BoxFuture<'_, Result<T>>,
) -> Result<T> {
    let context = backend.context();
    let started = Instant::now();
    let limited = async {
        match deadline(operation, container.is_some(), &context.deadlines) {
            Some(deadline) => within(operation, deadline, work).await,
            None => work.await,
        }
    };
    let done = context.unless_closed(limited).instrument(span.clone()).await;
    done.map_err(|error| backend.explain(operation, container, started, error))
        .during(operation)
        .on(B::NAME)
}
