//! Container events.

use futures_util::StreamExt as _;
use runtime_core::{Container, Event, EventKind, EventStream, EventsOptions, LabelFilter};

use crate::case::cases;
use crate::expect::recent;
use crate::failure::fail;
use crate::poll::PATIENCE;
use crate::{Context, Failure, Outcome};

cases! { "events":
    whole_life_in_order [Events, Wait];
    only_of_this_scope [Events];
    by_label [Events];
    out_of_memory [Events, OomReason, MemoryLimit, Wait];
    since_a_time [Events, EventsSince, Wait];
    none_missing_after_a_reconnect [Events, EventsSince, Wait];
    two_subscribers [Events];
    dropped [Events];
}

async fn subscribe(t: &Context, options: EventsOptions) -> Result<EventStream, Failure> {
    Ok(t.runtime().events(options).await?)
}

/// Returns the events up to the removal of `container`.
async fn until_removed(
    events: &mut EventStream,
    container: &dyn Container,
) -> Result<Vec<Event>, Failure> {
    let mut seen = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, events.next()).await {
            Ok(Some(event)) => seen.push(event?),
            Ok(None) => fail!("the events have ended after {seen:?}"),
            Err(_) => fail!("no event has come after {seen:?}"),
        }
        let last = seen.last().filter(|last| &last.container == container.id());
        if last.is_some_and(|last| last.kind == EventKind::Removed) {
            return Ok(seen);
        }
    }
}

fn kinds(events: &[Event]) -> Vec<&EventKind> {
    events.iter().map(|event| &event.kind).collect()
}

async fn whole_life_in_order(t: Context) -> Outcome {
    let mut events = subscribe(&t, EventsOptions::default()).await?;
    let (container, exit) = t.run(&t.script("exit 3")).await?;
    container.remove().await?;
    let seen = until_removed(&mut events, &*container).await?;
    assert_eq!(
        kinds(&seen),
        [&EventKind::Created, &EventKind::Started, &EventKind::Exited(exit), &EventKind::Removed]
    );
    for event in &seen {
        assert_eq!((&event.container, event.name.as_str()), (container.id(), container.name()));
        recent("the time of an event", Some(event.time))?;
        let json = serde_json::to_string(event)?;
        assert_eq!(&serde_json::from_str::<Event>(&json)?, event);
    }
    assert!(seen.is_sorted_by_key(|event| event.time));
    Ok(())
}

async fn only_of_this_scope(t: Context) -> Outcome {
    let other = t.connect_other_scope().await?;
    let mut events = subscribe(&t, EventsOptions::default()).await?;
    let theirs = other.create_container(&t.idle()).await?;
    theirs.remove().await?;
    let mine = t.create(&t.idle()).await?;
    mine.remove().await?;
    let seen = until_removed(&mut events, &*mine).await?;
    assert_eq!(kinds(&seen), [&EventKind::Created, &EventKind::Removed]);
    assert!(seen.iter().all(|event| &event.container == mine.id()));
    Ok(())
}

async fn by_label(t: Context) -> Outcome {
    let labels =
        LabelFilter::from([("job".to_owned(), Some("a=b/c".to_owned())), ("any".to_owned(), None)]);
    let mut events = subscribe(&t, EventsOptions::default().labels(labels)).await?;
    for spec in [t.idle(), t.idle().label("job", "a=b/c"), t.idle().label("any", "x")] {
        t.create(&spec).await?.remove().await?;
    }
    let wanted = t.create(&t.idle().label("job", "a=b/c").label("any", "x")).await?;
    wanted.remove().await?;
    let seen = until_removed(&mut events, &*wanted).await?;
    assert_eq!(kinds(&seen), [&EventKind::Created, &EventKind::Removed]);
    Ok(())
}

async fn out_of_memory(t: Context) -> Outcome {
    let mut events = subscribe(&t, EventsOptions::default()).await?;
    let (container, exit) = t.out_of_memory().await?;
    container.remove().await?;
    let mut seen = until_removed(&mut events, &*container).await?;
    // The stream may have returned events of other containers as well.
    seen.retain(|event| &event.container == container.id());
    let mut kinds = kinds(&seen);
    assert!(kinds.contains(&&EventKind::Oom), "{kinds:?}");
    kinds.retain(|kind| **kind != EventKind::Oom);
    assert_eq!(
        kinds,
        [&EventKind::Created, &EventKind::Started, &EventKind::Exited(exit), &EventKind::Removed]
    );
    Ok(())
}

/// Reads the events since the creation of one container, after its removal.
async fn since_a_time(t: Context) -> Outcome {
    let before = t.create(&t.idle()).await?;
    before.remove().await?;
    let container = t.create(&t.script("exit 3")).await?;
    let Some(since) = container.info().await?.created_at else { fail!("no creation time") };
    container.start().await?;
    let exit = container.wait().await?;
    container.remove().await?;
    let mut events = subscribe(&t, EventsOptions::default().since(since)).await?;
    let mut seen = until_removed(&mut events, &*container).await?;
    seen.retain(|event| &event.container == container.id());
    let mut kinds = kinds(&seen);
    // The engine decides whether the creation itself is after its own time.
    kinds.retain(|kind| **kind != EventKind::Created);
    let code = |kind: &EventKind| match kind {
        EventKind::Exited(exit) => exit.code,
        _ => None,
    };
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert_eq!((kinds[0], kinds[2]), (&EventKind::Started, &EventKind::Removed));
    assert_eq!(code(kinds[1]), exit.code);
    Ok(())
}

/// A subscriber disconnects, and another one continues after the last event of the first.
async fn none_missing_after_a_reconnect(t: Context) -> Outcome {
    let mut events = subscribe(&t, EventsOptions::default()).await?;
    let first = t.create(&t.idle()).await?;
    first.remove().await?;
    let seen = until_removed(&mut events, &*first).await?;
    let Some(last) = seen.last() else { fail!("there are no events") };
    drop(events);
    let mut missed = Vec::new();
    for _ in 0..3 {
        let (container, _) = t.run(&t.script("exit 3")).await?;
        container.remove().await?;
        missed.push(container);
    }
    let mut events = t.connect().await?.events(EventsOptions::default().since(last.time)).await?;
    for container in missed {
        let mut seen = until_removed(&mut events, &*container).await?;
        seen.retain(|event| &event.container == container.id());
        let kinds = kinds(&seen);
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        assert_eq!((kinds[0], kinds[1]), (&EventKind::Created, &EventKind::Started));
        assert!(matches!(kinds[2], EventKind::Exited(exit) if exit.code == Some(3)), "{kinds:?}");
    }
    Ok(())
}

async fn two_subscribers(t: Context) -> Outcome {
    let mut one = subscribe(&t, EventsOptions::default()).await?;
    let mut two = t.connect().await?.events(EventsOptions::default()).await?;
    let container = t.create(&t.idle()).await?;
    container.remove().await?;
    let one = until_removed(&mut one, &*container).await?;
    assert_eq!(kinds(&one), [&EventKind::Created, &EventKind::Removed]);
    // If the engine does not report a removal time, each subscriber sets its own.
    let two = until_removed(&mut two, &*container).await?;
    assert_eq!(kinds(&two), kinds(&one));
    assert!(two.iter().all(|event| event.container == one[0].container));
    Ok(())
}

async fn dropped(t: Context) -> Outcome {
    for _ in 0..20 {
        drop(subscribe(&t, EventsOptions::default()).await?);
    }
    let mut events = subscribe(&t, EventsOptions::default()).await?;
    let container = t.create(&t.idle()).await?;
    container.remove().await?;
    assert_eq!(until_removed(&mut events, &*container).await?.len(), 2);
    Ok(())
}
