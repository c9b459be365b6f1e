//! What every operation of every backend has around it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use runtime_core::{Deadlines, Operation, Result, ResultExt as _};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::Backend;
use crate::within;

/// Returns how long an operation may take as a whole. The others have no deadline, because they
/// wait or transfer, or one that depends on what they are asked for.
fn deadline(operation: Operation, deadlines: &Deadlines) -> Option<Duration> {
    match operation {
        Operation::Health
        | Operation::Reattach
        | Operation::List
        | Operation::Events
        | Operation::Info
        | Operation::Stats
        | Operation::Kill
        | Operation::Attach => Some(deadlines.query),
        Operation::Start | Operation::Exec => Some(deadlines.start),
        Operation::Remove => Some(deadlines.remove),
        _ => None,
    }
}

/// Does `work` in `span`, within the deadline of the operation and until the runtime is closed, and
/// adds the operation and the backend to its error.
///
/// `work` is boxed because each of these layers would hold it by value, twice: the future of a small
/// operation would overflow the stack of a thread.
pub(super) async fn call<B: Backend, T>(
    backend: &Arc<B>,
    operation: Operation,
    container: Option<&B::Container>,
    span: &Span,
    work: BoxFuture<'_, Result<T>>,
) -> Result<T> {
    let context = backend.context();
    let begun = Instant::now();
    let limited = async {
        match deadline(operation, &context.deadlines) {
            Some(deadline) => within(operation, deadline, work).await,
            None => work.await,
        }
    };
    let done = context.unless_closed(limited).instrument(span.clone()).await;
    done.map_err(|error| backend.explain(operation, container, begun, error))
        .during(operation)
        .on(B::NAME)
}
