//! An engine that freezes and dies while containers run.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{TryStreamExt, poll};
use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerStatus, Deadlines, ErrorKind, Exit, ExitReason, Follow, ListOptions,
    LogOptions, LogRecord, Mount, Runtime, StopOptions,
};
use tokio::task::JoinHandle;

use super::own::Own;
use super::support::{Engine, Outcome, fails};

/// How many containers, and how many lines each has at least written at every death of the engine.
const CONTAINERS: usize = 6;
const STEP: u64 = 20;
const DEATHS: u64 = 3;

/// Followers and waiters of containers that run on and end while the engine dies three times, and
/// while it is away.
///
/// Two things are lost by containerd itself, and are in no file. What it had read from a container
/// and not yet written when it was killed: here a line at most. And what is in the pipes of a
/// container that ended while it was away: it closes them before it has opened them again
/// ("reading from a closed fifo").
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_again_and_again() -> Outcome {
    let mut own = Own::up().await?;
    let engine = own.connect().await?;
    let folder = tempfile::tempdir_in(&engine.environment.shared)?;
    let mut followed = Vec::new();
    for number in 0..CONTAINERS {
        let script = format!(
            "i=0; while [ ! -e /data/{} ]; do i=$((i+1)); echo $i; echo $i >/data/{number}; \
             sleep 0.02; done; echo end; exit {}",
            if ends_away(number) { "away" } else { "back" },
            10 + number
        );
        let spec = engine.script(&script).mount(Mount::new(folder.path(), "/data"));
        followed.push(Followed::start(engine.runtime.create_container(&spec).await?).await?);
    }
    let written = |number: usize| -> u64 {
        let text = fs::read_to_string(folder.path().join(number.to_string()));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    for death in 1..=DEATHS {
        for number in 0..CONTAINERS {
            until("lines", async || Ok(written(number) >= death * STEP)).await?;
        }
        own.kill()?;
        if death == DEATHS {
            fs::write(folder.path().join("away"), "")?;
        }
        own.restart()?;
    }
    for (number, followed) in followed.iter().enumerate().filter(|(number, _)| !ends_away(*number))
    {
        let before = written(number);
        until("the pipes to be read again", async || {
            Ok(lines(&*followed.container).await?.len() as u64 > before)
        })
        .await?;
    }
    fs::write(folder.path().join("back"), "")?;
    for (number, followed) in followed.into_iter().enumerate() {
        let exit: Exit = within(followed.exit).await?;
        let code = i32::try_from(10 + number)?;
        assert_eq!((exit.code, exit.reason), (Some(code), ExitReason::Exited), "{number}");
        assert_eq!(followed.container.info().await?.exit, Some(exit));
        let found = texts(&within(followed.records).await?);
        assert_eq!(found, lines(&*followed.container).await?, "{number}: what is in the file");
        let numbers: Vec<u64> = found.iter().filter_map(|line| line.parse().ok()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{number}: in order, and none twice");
        if !ends_away(number) {
            assert_eq!(found.last().map(String::as_str), Some("end"), "{number}");
            let missing = written(number) - numbers.len() as u64;
            assert!(missing <= DEATHS, "{number}: {missing} of {} are missing", written(number));
        }
    }
    engine.finish().await
}

fn ends_away(number: usize) -> bool {
    number % 2 == 1
}

/// A container with a waiter and a follower.
struct Followed {
    container: Arc<dyn Container>,
    exit: JoinHandle<runtime_core::Result<Exit>>,
    records: JoinHandle<runtime_core::Result<Vec<LogRecord>>>,
}

impl Followed {
    async fn start(container: Arc<dyn Container>) -> runtime_core::Result<Self> {
        container.start().await?;
        let follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
        let waiting = Arc::clone(&container);
        let exit = tokio::spawn(async move { waiting.wait().await });
        Ok(Self { container, exit, records: tokio::spawn(follower.try_collect()) })
    }
}

async fn lines(container: &dyn Container) -> runtime_core::Result<Vec<String>> {
    let records: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    Ok(texts(&records))
}

fn texts(records: &[LogRecord]) -> Vec<String> {
    let text = |record: &LogRecord| String::from_utf8_lossy(&record.bytes).trim_end().to_owned();
    records.iter().map(text).collect()
}

async fn until(what: &str, ask: impl AsyncFn() -> Result<bool, BoxError>) -> Outcome {
    let end = Instant::now() + Duration::from_secs(30);
    while !ask().await? {
        assert!(Instant::now() < end, "no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn within<T>(task: JoinHandle<runtime_core::Result<T>>) -> Result<T, BoxError> {
    Ok(tokio::time::timeout(Duration::from_secs(60), task).await???)
}

type Call<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<(), runtime_core::Error>> + Send + 'a>>;

/// Every kind of call that asks the engine something, each on its way.
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
    let engine = own.connect().await?;
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
    // A sandbox, a container and a log folder each: the create that was cut off leaves nothing.
    until("undoing", async || Ok(engine.left()?.len() == 6)).await?;
    running.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    let exit: Exit = within(waiter).await?;
    assert_eq!(exit.code, Some(137));
    engine.finish().await
}

/// An engine that is there and does not answer: every call ends with its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer() -> Outcome {
    let own = Own::up().await?;
    let short = Duration::from_secs(2);
    let mut deadlines = Deadlines::default();
    deadlines.connect = short;
    deadlines.query = short;
    deadlines.create = short;
    deadlines.start = short;
    deadlines.stop_margin = short;
    deadlines.remove = short;
    let engine = own.connect().await?;
    let spec = engine.idle().stop_grace(Duration::from_secs(1));
    let created = engine.runtime.create_container(&spec).await?;
    let running = engine.runtime.create_container(&spec).await?;
    running.start().await?;
    let impatient =
        own.connect_as(engine.runtime.scope().clone(), |options| options.deadlines(deadlines));
    let impatient = impatient.await?;
    let created = impatient.runtime.container(created.id()).await?;
    let running = impatient.runtime.container(running.id()).await?;
    own.process().freeze()?;
    let begun = Instant::now();
    let ends = calls(&impatient, &*created, &*running)
        .into_iter()
        .map(async |(name, call)| (name, tokio::time::timeout(Duration::from_secs(9), call).await));
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
