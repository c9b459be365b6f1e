//! Recovery after a crash of the caller and of the engine.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    Container, ContainerSpec, ContainerStatus, ErrorKind, EventKind, EventsOptions, Exit,
    ExitReason, Follow, LabelFilter, ListOptions, LogOptions, Mount, ReapOptions, StopOptions,
    StopOutcome,
};

use tokio::task::JoinHandle;

use crate::case::cases;
use crate::context::{text_of, unknown_id};
use crate::expect::refused;
use crate::failure::fail;
use crate::{Context, Failure, Outcome, child};

cases! { "recovery":
    handle_from_an_id [Reattach, Wait, Logs];
    handle_after_the_caller_was_killed [Reattach, Wait, Logs];
    unknown_ids [Reattach];
    reap_takes_all [Reap, Wait];
    reap_by_age [Reap];
    reap_by_label [Reap];
    reap_after_the_caller_was_killed [Reap, Reattach];
    reap_twice_at_once [Reap];
    engine_killed_during_wait [Wait] kills_engine long;
    ended_while_the_engine_was_away [Wait, ExitWhileAway] kills_engine long;
    engine_killed_during_follow [Logs, LogsFollow] kills_engine long;
    engine_killed_during_events [Events, Wait] kills_engine long;
    engine_away [Wait] kills_engine long;
}

async fn handle_from_an_id(t: Context) -> Outcome {
    let container = t.ready(&t.graceful().label("a", "b")).await?;
    let other = t.connect().await?;
    let again = other.container(container.id()).await?;
    assert_eq!((again.id(), again.name()), (container.id(), container.name()));
    assert_eq!(again.info().await?, container.info().await?);
    // The exit is reported, because this connection stopped the container.
    let StopOutcome::Stopped(exit) = again.stop(StopOptions::default()).await? else {
        fail!("it was running");
    };
    assert_eq!((exit.code, exit.reason), (Some(7), ExitReason::StoppedByUs));
    assert_eq!(again.wait().await?, exit);
    assert_eq!(t.text(&*again).await?, "ready\nbye\n");
    again.remove().await?;
    refused(container.info().await, ErrorKind::NotFound)?;
    Ok(())
}

async fn handle_after_the_caller_was_killed(t: Context) -> Outcome {
    let id = child::container_of_a_killed_process(&t).await?;
    let container = t.runtime().container(&id).await?;
    t.until_logged(&*container, "from the child").await?;
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    let listed = t.runtime().list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].info.id, id);
    container.stop(StopOptions::default()).await?;
    assert_eq!(container.wait().await?.code, Some(7));
    Ok(())
}

async fn unknown_ids(t: Context) -> Outcome {
    let gone = t.create(&t.idle()).await?;
    gone.remove().await?;
    let named = t.create(&t.idle()).await?;
    let part = runtime_core::ContainerId::new(&named.id().as_str()[..12]);
    let name = runtime_core::ContainerId::new(named.name());
    let odd = ["", "/", "..", "a b", "ä", "../../images", "x?y=z", "%00"];
    let mut ids = vec![gone.id().clone(), unknown_id(), part, name];
    ids.extend(odd.map(runtime_core::ContainerId::new));
    for id in ids {
        if let Err(failure) = refused(t.runtime().container(&id).await, ErrorKind::NotFound) {
            fail!("{id:?}: {failure}");
        }
    }
    Ok(())
}

async fn reap_takes_all(t: Context) -> Outcome {
    let created = t.create(&t.idle()).await?;
    let running = t.ready(&t.idle()).await?;
    let (exited, _) = t.run(&t.script("exit 0")).await?;
    let report = t.connect().await?.reap(ReapOptions::default()).await?;
    assert!(report.failed.is_empty(), "{report:?}");
    let removed: BTreeSet<_> = report.removed.into_iter().collect();
    let wanted = [created, running, exited].map(|container| container.id().clone());
    assert_eq!(removed, BTreeSet::from(wanted));
    t.nothing_left().await?;
    assert_eq!(t.runtime().reap(ReapOptions::default()).await?, Default::default());
    Ok(())
}

async fn reap_by_age(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let old = ReapOptions::default().older_than(Duration::from_secs(3600));
    assert!(t.runtime().reap(old).await?.removed.is_empty());
    t.until_left(1).await?;
    let young = ReapOptions::default().older_than(Duration::from_millis(200));
    let report = t
        .until("a container of 200 ms", || async {
            let report = t.runtime().reap(young.clone()).await?;
            Ok((!report.removed.is_empty()).then_some(report))
        })
        .await?;
    assert_eq!(report.removed, [container.id().clone()]);
    t.nothing_left().await
}

async fn reap_by_label(t: Context) -> Outcome {
    let keep = t.create(&t.idle().label("job", "keep")).await?;
    let go = t.create(&t.idle().label("job", "go")).await?;
    let labels = LabelFilter::from([("job".to_owned(), Some("go".to_owned()))]);
    let report = t.runtime().reap(ReapOptions::default().labels(labels)).await?;
    assert_eq!(report.removed, [go.id().clone()]);
    assert_eq!(keep.info().await?.status, ContainerStatus::Created);
    Ok(())
}

async fn reap_after_the_caller_was_killed(t: Context) -> Outcome {
    let id = child::container_of_a_killed_process(&t).await?;
    let report = t.runtime().reap(ReapOptions::default()).await?;
    assert_eq!(report.removed, [id]);
    t.nothing_left().await
}

/// Two callers clean up after the same crash: a container that one of them removes is not a failure of the
/// other.
async fn reap_twice_at_once(t: Context) -> Outcome {
    for _ in 0..6 {
        t.create(&t.spec()).await?;
    }
    let other = t.connect().await?;
    let (one, two) =
        tokio::join!(t.runtime().reap(ReapOptions::default()), other.reap(ReapOptions::default()));
    let (one, two) = (one?, two?);
    assert!(one.failed.is_empty() && two.failed.is_empty(), "{one:?} {two:?}");
    assert!(one.removed.len() + two.removed.len() >= 6);
    t.nothing_left().await
}

async fn kill_engine(t: &Context) -> Outcome {
    let Some(control) = t.subject().control() else { fail!("the subject cannot kill the engine") };
    control.kill().await.map_err(|error| Failure::new(error.to_string()))
}

async fn start_engine(t: &Context) -> Outcome {
    let Some(control) = t.subject().control() else { fail!("the subject cannot start the engine") };
    control.start().await.map_err(|error| Failure::new(error.to_string()))
}

/// Waits for work that must continue while the engine restarts.
async fn survived<T>(
    what: &str,
    task: tokio::task::JoinHandle<Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(Duration::from_secs(60), task).await {
        Ok(done) => done?,
        Err(_) => fail!("{what} has no end after the restart of the engine"),
    }
}

async fn engine_killed_during_wait(t: Context) -> Outcome {
    let folder = t.folder()?;
    let container = t.ready(&until_told(&t, &folder, 22)).await?;
    let waits = wait_for(&container);
    container.info().await?;
    kill_engine(&t).await?;
    start_engine(&t).await?;
    std::fs::write(folder.join("told"), "")?;
    let exit = survived("a wait", waits).await?;
    assert_eq!((exit.code, exit.reason), (Some(22), ExitReason::Exited));
    assert_eq!(container.info().await?.exit, Some(exit));
    Ok(())
}

async fn ended_while_the_engine_was_away(t: Context) -> Outcome {
    let exit = end_while_away(&t).await?;
    assert_eq!((exit.code, exit.reason), (Some(21), ExitReason::Exited));
    Ok(())
}

/// Returns the exit of a container that exited with 21 while the engine was down. The exit is the same for a
/// waiter from before, for a later call on the handle, and for a new connection.
pub(crate) async fn end_while_away(t: &Context) -> Result<Exit, Failure> {
    let folder = t.folder()?;
    let container = t.ready(&until_told(t, &folder, 21)).await?;
    let waits = wait_for(&container);
    container.info().await?;
    kill_engine(t).await?;
    std::fs::write(folder.join("told"), "")?;
    let ended = t
        .until("the end of a container without its engine", || async {
            Ok(folder.join("ended").exists().then_some(()))
        })
        .await;
    start_engine(t).await?;
    ended?;
    let exit = survived("a wait", waits).await?;
    assert_eq!(container.info().await?.exit.as_ref(), Some(&exit));
    let later = t.connect().await?.container(container.id()).await?;
    assert_eq!(later.wait().await?, exit);
    assert_eq!(later.info().await?.exit.as_ref(), Some(&exit));
    Ok(exit)
}

/// Returns a container that exits with `code` when the file `told` appears in the directory.
fn until_told(t: &Context, folder: &Path, code: u8) -> ContainerSpec {
    let wait = "while [ ! -e /data/told ]; do sleep 0.1; done";
    let script = format!("echo ready; {wait}; touch /data/ended; exit {code}");
    t.script(&script).mount(Mount::new(folder, "/data"))
}

fn wait_for(container: &Arc<dyn Container>) -> JoinHandle<Result<Exit, Failure>> {
    let container = Arc::clone(container);
    tokio::spawn(async move { Ok(container.wait().await?) })
}

async fn engine_killed_during_follow(t: Context) -> Outcome {
    const LINES: u32 = 80;
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end"
    );
    let container = t.start(&t.script(&script)).await?;
    let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let mut records = Vec::new();
    while records.len() < 15 {
        match reader.next().await {
            Some(record) => records.push(record?),
            None => fail!("the follower has ended"),
        }
    }
    let follower = tokio::spawn(crate::context::rest(reader));
    kill_engine(&t).await?;
    start_engine(&t).await?;
    records.extend(survived("a follower", follower).await?);
    let wanted: String = (1..=LINES).map(|i| format!("{i}\n")).collect();
    assert_eq!(text_of(&records), format!("{wanted}end\n"));
    Ok(())
}

/// Events from the time when the engine was down or no client was connected are returned afterwards.
async fn engine_killed_during_events(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let id = container.id().clone();
    let mut events = t.runtime().events(EventsOptions::default()).await?;
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            let event = event?;
            if event.container == id {
                let last = event.kind == EventKind::Removed;
                seen.push(event.kind);
                if last {
                    break;
                }
            }
        }
        Ok::<_, Failure>(seen)
    });
    kill_engine(&t).await?;
    start_engine(&t).await?;
    container.stop(StopOptions::default()).await?;
    let exit = container.wait().await?;
    container.remove().await?;
    let seen = survived("the events", task).await?;
    assert_eq!(seen, [EventKind::Exited(exit), EventKind::Removed]);
    Ok(())
}

/// While the engine is down every call fails at once; after the restart every call works.
async fn engine_away(t: Context) -> Outcome {
    let container = t.create(&t.script("exit 0")).await?;
    kill_engine(&t).await?;
    let away = async {
        let error = refused(container.info().await, ErrorKind::Unavailable)?;
        assert!(error.is_retryable());
        refused(container.start().await, ErrorKind::Unavailable)?;
        refused(t.runtime().health().await, ErrorKind::Unavailable)?;
        refused(t.runtime().create_container(&t.spec()).await, ErrorKind::Unavailable)?;
        refused(t.runtime().list_containers(ListOptions::default()).await, ErrorKind::Unavailable)?;
        Ok::<_, Failure>(())
    };
    let away = tokio::time::timeout(Duration::from_secs(60), away).await;
    start_engine(&t).await?;
    away??;
    container.start().await?;
    assert!(container.wait().await?.success());
    t.until_left(1).await
}
