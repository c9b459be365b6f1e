//! Leaks of sockets and tasks, counted in this process while no other case runs.

use futures_util::{StreamExt as _, future};
use runtime_core::{
    AttachOptions, EventsOptions, ExecOptions, Follow, LogOptions, PullOptions, PullPolicy,
    StatsOptions,
};

use super::files::{BIG, drop_copies};
use crate::case::cases;
use crate::failure::fail;
use crate::poll::{PATIENCE, until};
use crate::{Context, Failure, Outcome};

cases! { "leaks":
    dropped_readers [Logs, LogsFollow] exclusive long;
    dropped_raw_logs [Logs, Wait] exclusive long;
    dropped_waiters [Wait] exclusive long;
    dropped_stats [StatsMemory] exclusive long;
    dropped_events [Events] exclusive long;
    dropped_execs [Exec] exclusive long;
    dropped_attaches [Attach] exclusive long;
    dropped_copies [CopyIn, CopyOut] exclusive long;
    dropped_pulls [PullImage] exclusive long;
    dropped_runtimes [Logs, LogsFollow, Wait] exclusive long;
    closed_runtimes [Logs, LogsFollow, Wait] exclusive long;
}

/// Returns the number of open sockets of this process.
fn sockets() -> Result<usize, Failure> {
    let mut sockets = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // The descriptor of the listing itself is closed by the time it is read.
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        sockets += usize::from(target.to_string_lossy().starts_with("socket:"));
    }
    Ok(sockets)
}

/// Repeats an operation and asserts that no socket and no task remains. The first round does not count,
/// because a connection that is kept for reuse is not a leak.
async fn leaks_nothing<F, A>(mut what: F) -> Outcome
where
    F: FnMut() -> A,
    A: Future<Output = Outcome>,
{
    const TIMES: usize = 12;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    what().await?;
    let settled = (settle(sockets).await?, settle(|| Ok(tasks())).await?);
    for _ in 0..TIMES {
        what().await?;
    }
    let now = || Ok::<_, Failure>((sockets()?, tasks()));
    let done = until(PATIENCE, "as few sockets and tasks as before", || async {
        let (sockets, tasks) = now()?;
        // A pool may hold a few more connections than one round needs, but not one for each.
        Ok((sockets < settled.0 + TIMES / 2 && tasks < settled.1 + TIMES / 2).then_some(()))
    })
    .await;
    if done.is_err() {
        fail!("(sockets, tasks) were {settled:?} and are {:?}", now()?);
    }
    Ok(())
}

/// Returns the number once it has not changed for a while.
async fn settle(mut number: impl FnMut() -> Result<usize, Failure>) -> Result<usize, Failure> {
    let (mut last, mut same) = (number()?, 0);
    until(PATIENCE, "a number that stays", || {
        let now = number();
        if now.as_ref().ok() == Some(&last) {
            same += 1;
        } else {
            same = 0;
        }
        last = now.unwrap_or(last);
        let done = (same >= 5).then_some(last);
        async move { Ok(done) }
    })
    .await
}

async fn dropped_readers(t: Context) -> Outcome {
    let container = t.shared().await?;
    leaks_nothing(|| async {
        let mut readers = Vec::new();
        for _ in 0..4 {
            let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
            assert!(reader.next().await.is_some());
            readers.push(reader);
        }
        Ok(())
    })
    .await
}

async fn dropped_raw_logs(t: Context) -> Outcome {
    let (container, _) = t.run(&t.writer("seq 1 200000")).await?;
    leaks_nothing(|| async {
        let mut logs = Vec::new();
        for _ in 0..4 {
            let mut log = container.raw_logs().await?;
            assert!(log.next().await.is_some());
            logs.push(log);
        }
        Ok(())
    })
    .await
}

async fn dropped_waiters(t: Context) -> Outcome {
    let container = t.shared().await?;
    leaks_nothing(|| async {
        for _ in 0..4 {
            let wait = container.wait();
            let short = std::time::Duration::from_millis(5);
            assert!(tokio::time::timeout(short, wait).await.is_err());
        }
        Ok(())
    })
    .await
}

async fn dropped_stats(t: Context) -> Outcome {
    let container = t.shared().await?;
    leaks_nothing(|| async {
        // Concurrently, because an engine takes a second or two for the first sample of each.
        let streams = (0..3).map(async |_| {
            let mut stream = container.stats(StatsOptions::default()).await?;
            assert!(stream.next().await.is_some());
            Ok::<_, Failure>(stream)
        });
        future::try_join_all(streams).await.map(drop)
    })
    .await
}

async fn dropped_events(t: Context) -> Outcome {
    leaks_nothing(|| async {
        for _ in 0..4 {
            drop(t.runtime().events(EventsOptions::default()).await?);
        }
        Ok(())
    })
    .await
}

async fn dropped_execs(t: Context) -> Outcome {
    let container = t.shared().await?;
    leaks_nothing(|| async {
        let mut session = container.exec(ExecOptions::new(["yes"])).await?;
        assert!(session.stdout.next().await.is_some());
        Ok(())
    })
    .await
}

async fn dropped_attaches(t: Context) -> Outcome {
    let script = "while :; do echo tick; sleep 0.05; done";
    let container = t.start(&t.script(script)).await?;
    leaks_nothing(|| async {
        let mut read = container.attach(AttachOptions::default()).await?;
        assert!(read.stdout.next().await.is_some());
        let _unread = container.attach(AttachOptions::default()).await?;
        Ok(())
    })
    .await
}

async fn dropped_copies(t: Context) -> Outcome {
    let container = t.ready(&t.script(BIG)).await?;
    leaks_nothing(|| drop_copies(&*container)).await
}

async fn dropped_pulls(t: Context) -> Outcome {
    leaks_nothing(|| async {
        let image = t.fresh_image().await?;
        let always = || PullOptions::default().policy(PullPolicy::Always);
        let mut begun = t.runtime().pull_image(&image, always()).await?;
        begun.next().await.transpose()?;
        let _unread = t.runtime().pull_image(&image, always()).await?;
        Ok(())
    })
    .await
}

/// Returns a connection that has been used in every way.
async fn used(t: &Context, container: &runtime_core::ContainerId) -> Result<Used, Failure> {
    let runtime = t.connect().await?;
    let container = runtime.container(container).await?;
    let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    assert!(reader.next().await.is_some());
    let short = std::time::Duration::from_millis(5);
    assert!(tokio::time::timeout(short, container.wait()).await.is_err());
    Ok(Used { runtime, _reader: reader })
}

struct Used {
    runtime: std::sync::Arc<dyn runtime_core::Runtime>,
    _reader: runtime_core::LogReader,
}

async fn dropped_runtimes(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    leaks_nothing(|| async {
        used(&t, container.id()).await?;
        Ok(())
    })
    .await
}

/// Closing ends the connections of readers that are still held.
async fn closed_runtimes(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let held = std::sync::Mutex::new(Vec::new());
    leaks_nothing(|| async {
        let used = used(&t, container.id()).await?;
        used.runtime.close().await?;
        crate::poll::lock(&held).push(used);
        Ok(())
    })
    .await
}
