//! Objects that outlive the executor on which they were created.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    Capability, Container, ContainerExt as _, EventsOptions, ExecOptions, Follow, ListOptions,
    LogOptions, Runtime, Session, SessionMode, StatsOptions, StopOptions,
};
use tokio::sync::oneshot;

use crate::case::cases;
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "executors":
    dropped_outside_of_one [Exec];
    dropped_after_its_end [Exec];
    wait_outlives_the_executor_of_another [Wait];
    used_after_the_end_of_the_one_that_connected [Wait, Logs];
    longest_durations [Wait];
}

/// Runs `work` in a thread that has no executor.
async fn without_executor<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
    });
    match told.await {
        Ok(Ok(done)) => Ok(done),
        _ => fail!("it panics"),
    }
}

/// Runs `work` on an executor of its own, which is dropped afterwards.
async fn on_another_executor<T: Send + 'static, F: Future<Output = Result<T, Failure>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Failure> {
    without_executor(move || {
        let mut executor = tokio::runtime::Builder::new_multi_thread();
        let executor = executor.worker_threads(1).enable_all().build()?;
        let done = executor.block_on(work());
        executor.shutdown_background();
        done
    })
    .await?
}

/// Creates one of each object that a program holds while its container runs.
async fn one_of_each(
    runtime: Arc<dyn Runtime>,
    container: Arc<dyn Container>,
) -> Result<Vec<Box<dyn Send>>, Failure> {
    let has = |capability| runtime.capabilities().has(capability);
    let mut all: Vec<Box<dyn Send>> = Vec::new();
    let cat = ExecOptions::new(["cat"]).mode(SessionMode::Stdin);
    all.push(Box::new(container.exec(cat.clone()).await?));
    // Each part of a session on its own as well.
    let Session { stdin, stdout, stderr, control, .. } = container.exec(cat).await?;
    all.push(Box::new(stdin));
    all.push(Box::new(stdout));
    all.push(Box::new(stderr));
    all.push(Box::new(control));
    if has(Capability::LogsFollow) {
        let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
        if let Some(record) = reader.next().await {
            record?;
        }
        all.push(Box::new(reader));
    }
    if has(Capability::Events) {
        all.push(Box::new(runtime.events(EventsOptions::default()).await?));
    }
    if has(Capability::StatsMemory) {
        let mut stats = container.stats(StatsOptions::default()).await?;
        if let Some(sample) = stats.next().await {
            sample?;
        }
        all.push(Box::new(stats));
    }
    all.push(Box::new(container));
    all.push(Box::new(runtime));
    Ok(all)
}

async fn dropped_outside_of_one(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let all = one_of_each(t.connect().await?, container.clone()).await?;
    without_executor(move || drop(all)).await?;
    container.remove().await?;
    Ok(())
}

async fn dropped_after_its_end(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let (other, id) = (t.clone(), container.id().clone());
    let all = on_another_executor(move || async move {
        let runtime = other.connect().await?;
        let container = runtime.container(&id).await?;
        one_of_each(runtime, container).await
    });
    let all = all.await?;
    without_executor(move || drop(all)).await?;
    container.remove().await?;
    Ok(())
}

/// Two executors wait with one connection. The first one is dropped.
async fn wait_outlives_the_executor_of_another(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let first = container.clone();
    let other = on_another_executor(move || async move {
        let waited = tokio::time::timeout(Duration::from_millis(300), first.wait()).await;
        Ok(waited.is_err())
    });
    let second = tokio::spawn({
        let container = container.clone();
        async move { container.wait().await }
    });
    assert!(other.await?, "the first one had nothing to wait for");
    container.stop(StopOptions::default()).await?;
    assert_eq!(second.await??.code, Some(7));
    Ok(())
}

async fn used_after_the_end_of_the_one_that_connected(t: Context) -> Outcome {
    let other = t.clone();
    let runtime = on_another_executor(move || async move {
        let runtime = other.connect().await?;
        let container = runtime.create_container(&other.script("exit 4")).await?;
        assert_eq!(container.run().await?.code, Some(4));
        Ok(runtime)
    });
    let runtime = runtime.await?;
    let container = runtime.create_container(&t.script("echo said; exit 3")).await?;
    container.start().await?;
    assert_eq!(container.wait().await?.code, Some(3));
    assert_eq!(t.text(&*container).await?, "said\n");
    assert_eq!(runtime.list_containers(ListOptions::default()).await?.len(), 2);
    runtime.close().await?;
    Ok(())
}

/// The longest duration means no time limit, and does not overflow.
async fn longest_durations(t: Context) -> Outcome {
    let container = t.ready(&t.graceful().stop_grace(Duration::MAX)).await?;
    if t.has(Capability::StatsMemory) {
        let options = StatsOptions::default().interval(Duration::MAX);
        let mut stats = container.stats(options).await?;
        let Some(first) = stats.next().await else { fail!("there is no sample") };
        first?;
    }
    let options = match t.has(Capability::StopGraceOverride) {
        true => StopOptions::default().grace(Duration::MAX),
        false => StopOptions::default(),
    };
    container.stop(options).await?;
    assert_eq!(container.wait().await?.code, Some(7));
    Ok(())
}
