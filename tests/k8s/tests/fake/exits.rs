//! Exits are independent of the time of the call: each recording on a connection that watches the pod, on one
//! that connects later and watches from then on, and on one that polls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use k8s_tests::fake::{FakeServer, Received, Recording};
use runtime_core::{
    Container, ContainerSpec, ErrorKind, EventKind, EventStream, EventsOptions, ExitReason,
    ListOptions, Runtime,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use tokio::task::JoinHandle;

type End = (ExitReason, Option<i32>);

/// Expected exits of the recorded containers.
const ENDS: [(&str, End); 12] = [
    ("deleted-by-others-exit-0", (ExitReason::Removed, None)),
    ("deleted-by-others-ignores-term", (ExitReason::Removed, None)),
    ("evicted-exit-0", (ExitReason::Evicted, None)),
    ("preempted-exit-0", (ExitReason::Evicted, None)),
    ("own-deadline", (ExitReason::Removed, None)),
    ("exit-0-at-once", (ExitReason::Exited, Some(0))),
    ("exit-7", (ExitReason::Exited, Some(7))),
    ("out-of-memory", (ExitReason::Exited, Some(0))),
    ("out-of-memory-main", (ExitReason::OutOfMemory, Some(137))),
    ("stop-by-deadline-exit-42", (ExitReason::DeadlineExceeded, Some(42))),
    ("stop-by-deadline-exit-0", (ExitReason::DeadlineExceeded, None)),
    ("pull-backoff-then-deadline", (ExitReason::DeadlineExceeded, None)),
];

async fn connect(options: &KubernetesOptions) -> KubernetesRuntime {
    KubernetesRuntime::connect(options.clone()).await.unwrap()
}

fn waiter(container: &Arc<dyn Container>) -> JoinHandle<runtime_core::Result<End>> {
    let container = Arc::clone(container);
    let mut wait =
        Box::pin(async move { container.wait().await.map(|exit| (exit.reason, exit.code)) });
    // The wait begins here, and not when a busy machine runs the task.
    let ready = wait.as_mut().now_or_never();
    tokio::spawn(async move {
        match ready {
            Some(done) => done,
            None => wait.await,
        }
    })
}

async fn told(mut events: EventStream) -> Vec<End> {
    let mut exits = Vec::new();
    loop {
        match futures_util::StreamExt::next(&mut events).await.unwrap().unwrap().kind {
            EventKind::Exited(exit) => exits.push((exit.reason, exit.code)),
            EventKind::Removed => return exits,
            _ => {}
        }
    }
}

async fn plays(name: &str, end: End) {
    let server = FakeServer::start("1.36").await;
    let options = server.options();
    let watching = connect(&options).await;
    let events = watching.events(EventsOptions::default()).await.unwrap();
    let told = tokio::spawn(told(events));
    let spec = ContainerSpec::new("registry.test/busybox:1").command(["true"]);
    let container = watching.create_container(&spec).await.unwrap();
    let first = waiter(&container);
    let starting = tokio::spawn({
        let container = Arc::clone(&container);
        async move { container.start().await }
    });
    server.wait_for(Received::patches_pod).await;

    let asking = connect(&options).await;
    let mut late = Vec::new();
    let pod = server.only_pod_name();
    let mut play = server.play(&pod, &Recording::read(name));
    let mut ends = Vec::new();
    while play.step().is_some() {
        let listed = asking.list_containers(ListOptions::default()).await.unwrap();
        for listed in listed {
            ends.extend(listed.info.exit.map(|exit| (exit.reason, exit.code)));
            let other = connect(&options).await;
            let known = other.container(listed.container.id()).await.unwrap();
            late.push((waiter(&known), other));
        }
        // The new waiters read the pod in its current state.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ends.iter().all(|now| *now == end), "{name}: {ends:?}");
    assert_eq!(first.await.unwrap().unwrap(), end, "{name}");
    for (at, (waiter, other)) in late.into_iter().enumerate() {
        match waiter.await.unwrap() {
            Ok(other) => assert_eq!(other, end, "{name}, late by {at}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{name}, late by {at}"),
        }
        let gone = match other.container(container.id()).await {
            Ok(container) => container.info().await.err(),
            Err(error) => Some(error),
        };
        assert_eq!(gone.map(|error| error.kind()), Some(ErrorKind::NotFound), "{name}");
        other.close().await.unwrap();
    }
    assert_eq!(told.await.unwrap(), [end], "{name}");
    let _ = starting.await.unwrap();
    assert_eq!(container.info().await.unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    for runtime in [watching, asking] {
        runtime.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_of_a_recording_is_the_same_for_every_connection() {
    for (name, end) in ENDS {
        plays(name, end).await;
    }
}

/// The server has repeatedly dropped the history that a late connection would need.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_container_is_no_success_after_lost_history() {
    for name in ["deleted-by-others-exit-0", "evicted-exit-0", "preempted-exit-0"] {
        let server = FakeServer::start("1.36").await;
        let runtime = connect(&server.options()).await;
        let spec = ContainerSpec::new("registry.test/busybox:1").command(["true"]);
        let container = runtime.create_container(&spec).await.unwrap();
        let first = waiter(&container);
        let starting = tokio::spawn({
            let container = Arc::clone(&container);
            async move { container.start().await }
        });
        server.wait_for(Received::patches_pod).await;
        let mut play = server.play(&server.only_pod_name(), &Recording::read(name));
        while play.step().is_some() {
            server.forget_versions();
        }
        let end = first.await.unwrap().unwrap();
        assert!(
            matches!(end, (ExitReason::Removed | ExitReason::Evicted, None)),
            "{name}: {end:?}"
        );
        let _ = starting.await.unwrap();
        runtime.close().await.unwrap();
    }
}
