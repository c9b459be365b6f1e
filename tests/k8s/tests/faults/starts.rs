//! Containers that are started and do not run.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    AttachOptions, Container, ContainerSpec, ContainerStatus, Deadlines, ErrorKind, EventKind,
    EventsOptions, ExecOptions, Exit, ExitReason, Follow, LogOptions, Result, Runtime,
    StartOutcome,
};
use runtime_k8s::KubernetesRuntime;
use test_support::Connection as _;
use tokio::time::Instant;

use super::support::{Outcome, Subject};

/// Time that a container may wait for a node.
const BUDGET: Duration = Duration::from_secs(4);

/// Returns a container that fits no node.
fn huge(subject: &Subject) -> ContainerSpec {
    subject.script("true").cpu_count(1000.0)
}

fn deadline_of_start(seconds: u64) -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.start = Duration::from_secs(seconds);
    deadlines
}

/// Repeats a call until it refuses the container as exited.
async fn until_ended<T>(mut refused: impl AsyncFnMut() -> Result<T>) -> Outcome {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let Err(error) = refused().await else { return Err("it runs".into()) };
        match error.kind() {
            ErrorKind::InvalidState => return Ok(()),
            ErrorKind::NotStarted | ErrorKind::Unsupported if Instant::now() < end => {}
            _ => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[track_caller]
fn fits_no_node(exit: Option<&Exit>) {
    let Some(exit) = exit else { panic!("there is no exit") };
    assert_eq!((exit.reason, exit.code), (ExitReason::StartFailed, None), "{exit:?}");
    let words = exit.message.as_deref().unwrap_or_default();
    assert!(words.contains("no node accepts it") && words.contains("cpu"), "{exit:?}");
}

/// Every kind of call that waits for a container that fits no node returns its exit when the budget since its
/// start is spent, also in another process, for which the budget does not start again.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fits_no_node_ends_for_everyone() -> Outcome {
    let subject = Subject::with(|_, options| {
        options.schedule_budget(Duration::from_secs(3600)).deadlines(deadline_of_start(2))
    })
    .await?;
    let mut containers = Vec::new();
    for _ in 0..5 {
        containers.push(subject.runtime.create_container(&huge(&subject)).await?);
    }
    let starts = containers.iter().map(|container| container.start());
    let started = Instant::now();
    for outcome in futures_util::future::join_all(starts).await {
        let error = outcome.expect_err("nothing runs");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(error.is_retryable(), "{error:?}");
        let words = error.message().unwrap_or_default();
        assert!(words.contains("no node accepts it") && words.contains("cpu"), "{error:?}");
    }
    let info = containers[0].info().await?;
    assert_eq!(info.status, ContainerStatus::Created);
    assert!(info.message.is_some_and(|words| words.contains("cpu")));

    // Other processes, whose budget is shorter than the elapsed time.
    let options = subject.environment.options(subject.runtime.scope()).schedule_budget(BUDGET);
    let mut others = Vec::new();
    let mut handles: Vec<std::sync::Arc<dyn Container>> = Vec::new();
    for container in &containers {
        let other = KubernetesRuntime::connect(options.clone()).await?;
        handles.push(other.container(container.id()).await?);
        others.push(other);
    }
    let [follows, listens, attaches, execs, starts] = &handles[..] else { unreachable!() };
    let follow = async {
        let mut log = follows.logs(LogOptions::default().follow(Follow::Yes)).await?;
        assert!(log.next().await.is_none());
        Outcome::Ok(())
    };
    let listen = async {
        let mut events = others[1].events(EventsOptions::default()).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if event.container == *listens.id()
                && let EventKind::Exited(exit) = event.kind
            {
                fits_no_node(Some(&exit));
                return Ok(());
            }
        }
        Outcome::Err("the events have ended".into())
    };
    let attach = until_ended(async || attaches.attach(AttachOptions::default()).await);
    let exec = until_ended(async || execs.exec(ExecOptions::new(["true"])).await);
    let start = async {
        let error = starts.start().await.expect_err("it fits no node");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
        assert!(!error.is_retryable(), "{error:?}");
        Outcome::Ok(())
    };
    let all = async { tokio::try_join!(follow, listen, attach, exec, start) };
    tokio::time::timeout(Duration::from_secs(60), all).await??;
    assert!(started.elapsed() >= BUDGET);
    for handle in handles.iter().chain(&containers) {
        fits_no_node(handle.info().await?.exit.as_ref());
        fits_no_node(Some(&handle.wait().await?));
        assert_eq!(handle.start().await?, StartOutcome::AlreadyStarted);
    }
    for other in others {
        other.close().await?;
    }
    subject.finish().await
}

/// Each start completes when the process runs, even if another start was sent first.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_is_an_error_of_every_start() -> Outcome {
    let subject = Subject::with(|_, options| options.pull_budget(Duration::from_secs(3))).await?;
    let image = format!("{}/test/busybox:no-such-tag", subject.environment.registry.address);
    let registry = &subject.environment.registry;
    let login = runtime_core::RegistryAuth::new(&registry.username, &registry.password);
    let image = runtime_core::Image::new(image).auth(login);
    let container = subject.runtime.create_container(&ContainerSpec::new(image)).await?;
    let (first, second) = tokio::join!(container.start(), container.start());
    for outcome in [first, second] {
        let error = outcome.expect_err("there is no image");
        assert_eq!(error.kind(), ErrorKind::ImageNotFound, "{error:?}");
        assert!(error.message().is_some_and(|words| words.contains("no-such-tag")), "{error:?}");
    }
    assert_eq!(container.wait().await?.reason, ExitReason::ImagePullFailed);
    assert_eq!(container.start().await?, StartOutcome::AlreadyStarted);
    subject.finish().await
}
