//! Engines that freeze and stop during calls.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, poll, stream};
use runtime_conformance::EngineControl as _;
use runtime_core::{
    AttachOptions, Bytes, Container, ContainerStatus, CopyInOptions, CopyOutOptions, Deadlines,
    ErrorKind, EventsOptions, ExecOptions, Interactive, ListOptions, LogOptions, ReapOptions,
    Result, Signal, StopOptions,
};

use crate::{Connection, Outcome, Own, Waiter, fails};

/// The end of a tar stream, which is also an empty tar stream.
const END_OF_TAR: [u8; 1024] = [0; 1024];

type Call<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Returns a pending call of every kind that sends a request to the engine.
fn calls<'a>(
    connection: &'a impl Connection,
    created: &'a dyn Container,
    running: &'a dyn Container,
) -> Vec<(&'static str, Call<'a>)> {
    let runtime = connection.runtime();
    let create = async { runtime.create_container(&connection.idle()).await.map(drop) };
    let list = async { runtime.list_containers(ListOptions::default()).await.map(drop) };
    let stats = async { runtime.stats(&[running.id().clone()]).await.map(drop) };
    let exec = async { running.exec(ExecOptions::new(["true"])).await.map(drop) };
    let attach = async { running.attach(AttachOptions::default()).await.map(drop) };
    let copy_in = async {
        let content = stream::once(async { Ok(Bytes::from_static(&END_OF_TAR)) }).boxed();
        running.copy_in("/tmp", content, CopyInOptions::default()).await
    };
    let copy_out = async {
        // A missing first chunk is reported by the stream.
        let mut content = running.copy_out("/etc", CopyOutOptions::default()).await?;
        content.next().await.transpose().map(drop)
    };
    vec![
        ("health", Box::pin(async { runtime.health().await.map(drop) })),
        ("list", Box::pin(list)),
        ("create", Box::pin(create)),
        ("bulk stats", Box::pin(stats)),
        ("events", Box::pin(async { runtime.events(EventsOptions::default()).await.map(drop) })),
        ("reap", Box::pin(async { runtime.reap(ReapOptions::default()).await.map(drop) })),
        ("reattach", Box::pin(async { runtime.container(created.id()).await.map(drop) })),
        ("info", Box::pin(async { created.info().await.map(drop) })),
        ("start", Box::pin(async { created.start().await.map(drop) })),
        ("stop", Box::pin(async { running.stop(StopOptions::default()).await.map(drop) })),
        ("stats", Box::pin(async { running.stats_once().await.map(drop) })),
        ("logs", Box::pin(async { running.logs(LogOptions::default()).await.map(drop) })),
        ("raw logs", Box::pin(async { running.raw_logs().await.map(drop) })),
        ("kill", Box::pin(async { running.kill(Signal::HUP).await })),
        ("exec", Box::pin(exec)),
        ("attach", Box::pin(attach)),
        ("copy in", Box::pin(copy_in)),
        ("copy out", Box::pin(copy_out)),
        ("remove", Box::pin(async { created.remove().await })),
    ]
}

/// Freezes the engine, sends every call, and kills the engine: each call returns that the engine is
/// gone. After a restart, the running container still runs and the waiter still waits. Nothing is
/// left of the interrupted create: `left` is the number of objects that the engine lists for two
/// containers, at the latest after `undone`.
///
/// # Errors
/// Errors of the calls that must succeed.
///
/// # Panics
/// If a condition does not hold.
pub async fn dies_in_mid_call<C: Connection>(
    own: &Own,
    connection: &C,
    left: usize,
    undone: Duration,
) -> Outcome {
    let created = connection.runtime().create_container(&connection.idle()).await?;
    let running = connection.start(&connection.idle().interactive(Interactive::Stdin)).await?;
    let waiter = Waiter::of(&running);

    own.process().freeze()?;
    let mut under_way = calls(connection, &*created, &*running);
    for (name, call) in &mut under_way {
        assert!(poll!(call.as_mut()).is_pending(), "{name}: a frozen engine responded");
    }
    own.kill().await?;
    let begun = Instant::now();
    for (name, call) in under_way {
        let result = tokio::time::timeout(Duration::from_secs(30), call)
            .await
            .unwrap_or_else(|_| panic!("{name}: the call continues without an engine"));
        println!("{name}: {result:?}");
        fails(C::BACKEND, result, ErrorKind::Unavailable, begun);
    }
    assert!(!waiter.is_done(), "a waiter waits for the restart of the engine");

    own.start().await?;
    assert_eq!(running.info().await?.status, ContainerStatus::Running);
    assert_eq!(created.info().await?.status, ContainerStatus::Created);
    connection.until_left(left, undone).await?;
    running.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    assert_eq!(waiter.answer(30).await??.code, Some(137));
    Ok(())
}

/// Returns the same deadline for every operation.
#[must_use]
pub fn deadlines_of(each: Duration) -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.connect = each;
    deadlines.query = each;
    deadlines.create = each;
    deadlines.start = each;
    deadlines.stop_margin = each;
    deadlines.remove = each;
    deadlines.pull_inactivity = each;
    deadlines
}

/// Asserts that every call to an engine that does not respond ends with its deadline, and in any
/// case within `limit`. `impatient` is a connection of the same scope with [short
/// deadlines](deadlines_of).
///
/// # Errors
/// Errors of the calls that must succeed.
///
/// # Panics
/// If a call ends with another error, or does not end.
pub async fn does_not_answer<C: Connection>(
    own: &Own,
    connection: &C,
    impatient: &C,
    limit: Duration,
) -> Outcome {
    let spec = connection.idle().stop_grace(Duration::from_secs(1));
    let created = connection.runtime().create_container(&spec).await?;
    let running = connection.start(&spec.clone().interactive(Interactive::Stdin)).await?;
    let created = impatient.runtime().container(created.id()).await?;
    let running = impatient.runtime().container(running.id()).await?;
    own.process().freeze()?;
    let begun = Instant::now();
    let ends = calls(impatient, &*created, &*running)
        .into_iter()
        .map(async |(name, call)| (name, tokio::time::timeout(limit, call).await));
    let ended = join_all(ends).await;
    own.process().thaw()?;
    for (name, result) in ended {
        let result = result.unwrap_or_else(|_| panic!("{name}: the deadline has no effect"));
        println!("{name}: {result:?}");
        let error = fails(C::BACKEND, result, ErrorKind::Timeout, begun);
        assert!(error.is_retryable());
    }
    Ok(())
}
