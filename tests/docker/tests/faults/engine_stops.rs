//! An engine of our own that freezes and dies while calls are under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::poll;
use runtime_core::{
    Container, ContainerStatus, Deadlines, ErrorKind, ListOptions, LogOptions, Runtime, StopOptions,
};

use super::own::Own;
use super::support::{Engine, Outcome, fails};

type Call<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<(), runtime_core::Error>> + Send + 'a>>;

/// Every kind of call, each on its way.
fn calls<'a>(
    engine: &'a Engine,
    created: &'a dyn Container,
    running: &'a dyn Container,
) -> Vec<(&'static str, Call<'a>)> {
    let runtime = &engine.runtime;
    vec![
        ("health", Box::pin(async { runtime.health().await.map(drop) })),
        (
            "list",
            Box::pin(async { runtime.list_containers(ListOptions::default()).await.map(drop) }),
        ),
        ("create", Box::pin(async { runtime.create_container(&engine.idle()).await.map(drop) })),
        ("reattach", Box::pin(async { runtime.container(created.id()).await.map(drop) })),
        ("info", Box::pin(async { created.info().await.map(drop) })),
        ("start", Box::pin(async { created.start().await.map(drop) })),
        ("stop", Box::pin(async { running.stop(StopOptions::default()).await.map(drop) })),
        ("stats", Box::pin(async { running.stats_once().await.map(drop) })),
        ("logs", Box::pin(async { running.logs(LogOptions::default()).await.map(drop) })),
        ("remove", Box::pin(async { created.remove().await })),
    ]
}

/// Freezes the engine, sends every call, kills the engine: each call says that it went away.
/// Then it comes back: the container that ran still runs, and the waiter still waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_in_mid_call() -> Outcome {
    let mut own = Own::up().await?;
    let engine = own.connect(Deadlines::default()).await?;
    let created = engine.runtime.create_container(&engine.idle()).await?;
    let running: Arc<dyn Container> = engine.runtime.create_container(&engine.idle()).await?;
    running.start().await?;
    let waiter = tokio::spawn({
        let running = Arc::clone(&running);
        async move { running.wait().await }
    });

    own.process().freeze()?;
    let mut under_way = calls(&engine, &*created, &*running);
    for (name, call) in &mut under_way {
        assert!(poll!(call.as_mut()).is_pending(), "{name} was answered by a frozen engine");
    }
    own.kill()?;
    let begun = Instant::now();
    for (name, call) in under_way {
        let result = tokio::time::timeout(Duration::from_secs(30), call)
            .await
            .unwrap_or_else(|_| panic!("{name} goes on without an engine"));
        println!("{name}: {result:?}");
        fails(result, ErrorKind::Unavailable, begun);
    }
    assert!(!waiter.is_finished(), "a waiter waits for the engine to come back");

    own.restart()?;
    assert_eq!(running.info().await?.status, ContainerStatus::Running);
    assert_eq!(created.info().await?.status, ContainerStatus::Created);
    assert_eq!(engine.left()?.len(), 2, "the create that was cut off has left nothing");
    running.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    let exit = tokio::time::timeout(Duration::from_secs(30), waiter).await???;
    assert_eq!(exit.code, Some(137));

    hangs(&own).await?;
    engine.finish().await
}

/// An engine that is there and does not answer: every call ends with its deadline.
async fn hangs(own: &Own) -> Outcome {
    let short = Duration::from_secs(1);
    let mut deadlines = Deadlines::default();
    deadlines.connect = short;
    deadlines.query = short;
    deadlines.create = short;
    deadlines.start = short;
    deadlines.stop_margin = short;
    deadlines.remove = short;
    let engine = own.connect(deadlines).await?;
    let spec = engine.idle().stop_grace(short);
    let created = engine.runtime.create_container(&spec).await?;
    let running = engine.runtime.create_container(&spec).await?;
    running.start().await?;
    own.process().freeze()?;
    let begun = Instant::now();
    let ends = calls(&engine, &*created, &*running)
        .into_iter()
        .map(async |(name, call)| (name, tokio::time::timeout(Duration::from_secs(8), call).await));
    let ended = futures_util::future::join_all(ends).await;
    own.process().thaw()?;
    for (name, result) in ended {
        let result = result.unwrap_or_else(|_| panic!("{name} has no deadline"));
        println!("{name}: {result:?}");
        let error = fails(result, ErrorKind::Timeout, begun);
        assert!(error.is_retryable());
    }
    engine.finish().await
}
