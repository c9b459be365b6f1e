//! Streams the events of the containers of the scope.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use runtime_core::{
    Error, ErrorKind, Event, EventStream, EventsOptions, Operation, Result, ResultExt as _,
};
use tokio::time::MissedTickBehavior;

use crate::error::BACKEND;
use crate::state::KubernetesBackend;

/// Opens a stream of events. There is no `since`: a pod that was removed leaves no events.
pub(crate) async fn open(
    backend: &Arc<KubernetesBackend>,
    options: EventsOptions,
) -> Result<EventStream> {
    backend.pods.live().await?;
    Ok(Box::pin(stream(Arc::clone(backend), options)))
}

/// Interval at which a stream of events evaluates the budgets of pending containers.
const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the events of the containers of the scope from now on.
fn stream(
    backend: Arc<KubernetesBackend>,
    options: EventsOptions,
) -> impl Stream<Item = Result<Event>> + Send {
    let labels = options.labels.clone();
    let receiver = backend.pods.listen(options.labels);
    let closed = Box::pin(backend.closed(Operation::Events));
    let mut tick = tokio::time::interval(EVALUATION_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures_util::stream::unfold(
        (receiver, Some(closed), tick, (backend, labels)),
        |(mut receiver, closed, mut tick, (backend, labels))| async move {
            let mut closed = closed?;
            loop {
                tokio::select! {
                    biased;
                    error = &mut closed => {
                        let state = (receiver, None, tick, (backend, labels));
                        return Some((Err(error), state));
                    }
                    event = receiver.recv() => {
                        let (event, closed) = match event {
                            Some(Ok(event)) => (Ok(event), Some(closed)),
                            Some(Err(error)) => (Err(error), None),
                            None => (Err(overrun()), None),
                        };
                        let event = event.during(Operation::Events).on(BACKEND);
                        return Some((event, (receiver, closed, tick, (backend, labels))));
                    }
                    // The caller may wait for a container only by its events.
                    _ = tick.tick() => backend.evaluate_overdue(&labels).await,
                }
            }
        },
    )
}

fn overrun() -> Error {
    Error::new(ErrorKind::Lost)
        .with_message("the event stream was read too slowly, and events were lost")
}
