//! What happens to containers, told from what the census finds.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    Backoff, ContainerStatus, Error, ErrorKind, Event, EventKind, EventStream, EventsOptions, Exit,
    ExitReason, LabelFilter, Operation, Result,
};

use crate::BACKEND;
use crate::census::{Census, Change, Seen};
use crate::generated as cri;
use crate::info;
use crate::shared::{Shared, is_closed};
use crate::wait;

/// See [`Runtime::events`](runtime_core::Runtime::events).
///
/// The engine's own events come only on some versions and can be lost: these are made of what is
/// different between two lists, with the times that the engine keeps. What another process makes,
/// runs and removes between two lists is not seen.
pub(crate) async fn open(shared: &Arc<Shared>, options: EventsOptions) -> Result<EventStream> {
    let EventsOptions { since, labels, .. } = options;
    let (now, changes) = Census::listen(shared, Operation::Events).await?;
    let mut before = Vec::new();
    if let Some(since) = since {
        for seen in now.into_iter().filter(|seen| matches(seen, &labels)) {
            let noticed = SystemTime::now();
            let change = Change { before: None, after: Some(seen), noticed };
            let events = told(shared, &change).await?;
            before.extend(events.into_iter().filter(|event| event.time >= since));
        }
        before.sort_by_key(|event| event.time);
    }
    // A stream that is held does not hold the connection.
    let closed = shared.closed.clone();
    let state = Some((Arc::downgrade(shared), labels, changes, closed));
    let later = stream::unfold(state, |state| async {
        let (shared, labels, mut changes, closed) = state?;
        let fails = |error: Error| Some((Err(error.during(Operation::Events).on(BACKEND)), None));
        loop {
            let Some(Some(change)) = closed.run_until_cancelled(changes.recv()).await else {
                return fails(is_closed());
            };
            let seen = change.after.as_ref().or(change.before.as_ref());
            if !seen.is_some_and(|seen| matches(seen, &labels)) {
                continue;
            }
            let Some(strong) = shared.upgrade() else { return fails(is_closed()) };
            match told_at_last(&strong, &change).await {
                Ok(events) => {
                    let events = stream::iter(events.into_iter().map(Ok));
                    return Some((Ok(events), Some((shared, labels, changes, closed))));
                }
                Err(error) => return fails(error),
            }
        }
    });
    let later = later.flat_map(|events| match events {
        Ok(events) => events.left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    });
    Ok(stream::iter(before.into_iter().map(Ok)).chain(later).boxed())
}

/// Waits out an engine that is away.
async fn told_at_last(shared: &Shared, change: &Change) -> Result<Vec<Event>> {
    let mut backoff = Backoff::default();
    loop {
        match told(shared, change).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(backoff.delay()).await,
            done => return done,
        }
    }
}

/// Whether a container has the labels that are wanted.
pub(crate) fn matches(seen: &Seen, wanted: &LabelFilter) -> bool {
    has_labels(&seen.info, wanted)
}

/// Whether a container has the labels that are wanted.
pub(crate) fn has_labels(info: &runtime_core::ContainerInfo, wanted: &LabelFilter) -> bool {
    wanted.iter().all(|(key, value)| {
        info.labels.get(key).is_some_and(|label| value.as_ref().is_none_or(|value| value == label))
    })
}

/// The events that lie between two sights of one container, in their order.
async fn told(shared: &Shared, change: &Change) -> Result<Vec<Event>> {
    let Some(seen) = change.after.as_ref().or(change.before.as_ref()) else {
        return Ok(Vec::new());
    };
    let id = &seen.info.id;
    let rank = |seen: Option<&Seen>| seen.map(|seen| stage(seen.info.status));
    let (before, after) = (rank(change.before.as_ref()), rank(change.after.as_ref()));
    // The list has no times but the first: the container itself is asked where more is needed.
    let container = match after {
        Some(1..) => match wait::status(shared, Operation::Events, id).await {
            Ok(container) => Some(container),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let exit = match container.clone() {
        Some(container) => wait::exit(shared, Operation::Events, container).await.ok().flatten(),
        None => None,
    };
    let container = exit.as_ref().map(|(container, _)| container).or(container.as_ref());
    let exit = exit.as_ref().map(|(_, exit)| exit);
    Ok(tell(change, seen, (before, after), container, exit))
}

/// What can be told without asking the engine any more.
fn tell(
    change: &Change,
    seen: &Seen,
    (before, after): (Option<u8>, Option<u8>),
    container: Option<&cri::ContainerStatus>,
    exit: Option<&Exit>,
) -> Vec<Event> {
    let event = |time, kind| Event::new(time, seen.info.id.clone(), seen.info.name.clone(), kind);
    let mut events = Vec::new();
    let created = seen.info.created_at.unwrap_or(change.noticed);
    if before.is_none() {
        events.push(event(created, EventKind::Created));
    }
    let started = container.and_then(|container| info::time(container.started_at));
    if before.is_none_or(|before| before < 1) && after.is_some_and(|after| after >= 1) {
        // One that could not be started has no start.
        if started.is_some() || after == Some(1) {
            events.push(event(started.unwrap_or(change.noticed), EventKind::Started));
        }
    }
    if before.is_none_or(|before| before < 2) && after == Some(2) {
        let exit = exit.cloned().unwrap_or_else(|| Exit::new(ExitReason::Unknown));
        let ended = exit.ended_at.unwrap_or(change.noticed);
        if container.is_some_and(|container| container.reason == "OOMKilled") {
            events.push(event(ended, EventKind::Oom));
        }
        events.push(event(ended, EventKind::Exited(exit)));
    }
    if after.is_none() {
        if before == Some(1) {
            // It went away before its end was seen.
            events.push(event(change.noticed, EventKind::Exited(Exit::new(ExitReason::Removed))));
        }
        events.push(event(change.noticed, EventKind::Removed));
    }
    events
}

const fn stage(status: ContainerStatus) -> u8 {
    match status {
        ContainerStatus::Created => 0,
        ContainerStatus::Running => 1,
        ContainerStatus::Exited => 2,
    }
}
