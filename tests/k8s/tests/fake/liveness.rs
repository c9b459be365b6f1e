//! A server that stops answering, and one that is replaced by another.

use std::sync::Arc;
use std::time::Duration;

use k8s_tests::fake::{FakeNode, FakeServer};
use runtime_core::{
    Container, ContainerSpec, ContainerStatus, Deadlines, ErrorKind, ExitReason, ListOptions,
    Runtime as _,
};
use runtime_k8s::KubernetesRuntime;
use serde_json::json;
use tokio::time::{Instant, timeout};

/// Time limit for an operation that has a deadline of its own.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns a connection whose queries have this deadline, and a running container.
async fn running(server: &FakeServer, query: Duration) -> (KubernetesRuntime, Arc<dyn Container>) {
    let mut deadlines = Deadlines::default();
    deadlines.query = query;
    let runtime = KubernetesRuntime::connect(server.options().deadlines(deadlines)).await.unwrap();
    let spec = ContainerSpec::new("registry.test/busybox:1").command(["true"]);
    let container = runtime.create_container(&spec).await.unwrap();
    container.start().await.unwrap();
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
    (runtime, container)
}

/// Ends the only container with the code 7.
fn end(server: &FakeServer) {
    server.change_pod(&server.only_pod_name(), |pod| {
        pod["status"]["phase"] = "Failed".into();
        pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
            "exitCode": 7, "reason": "Error",
            "startedAt": "2026-11-30T01:00:00Z", "finishedAt": "2026-11-30T01:00:05Z",
        }});
    });
}

/// Polls until the container is no longer reported as running.
async fn not_running(container: &dyn Container) -> runtime_core::Result<ContainerStatus> {
    let end = Instant::now() + LIMIT;
    loop {
        match timeout(LIMIT, container.info()).await.expect("info has a deadline") {
            Ok(info) if info.status == ContainerStatus::Running => {}
            other => return other.map(|info| info.status),
        }
        assert!(Instant::now() < end, "it is said to run for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn info_of_frozen_server_fails_and_wait_learns_of_exit_later() {
    let server = FakeServer::with_node("1.36", FakeNode::default()).await;
    let (runtime, container) = running(&server, Duration::from_secs(2)).await;
    let waiter = tokio::spawn({
        let container = container.clone();
        async move { container.wait().await }
    });
    server.freeze();
    end(&server);
    let error = not_running(&*container).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error:?}");
    let listed = timeout(LIMIT, runtime.list_containers(ListOptions::default())).await.unwrap();
    assert!(listed.is_err(), "{listed:?}");
    assert!(!waiter.is_finished());
    server.thaw();
    let exit = timeout(LIMIT, waiter).await.expect("the server is back").unwrap().unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Exited);
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn info_and_wait_go_on_over_new_connections_when_old_ones_lead_nowhere() {
    let server = FakeServer::with_node("1.36", FakeNode::default()).await;
    let (runtime, container) = running(&server, Duration::from_secs(6)).await;
    let waiter = tokio::spawn({
        let container = container.clone();
        async move { container.wait().await }
    });
    // Several connections are in the pool.
    let all = (0..8).map(|_| runtime.health());
    futures_util::future::try_join_all(all).await.unwrap();
    server.freeze_open_connections();
    end(&server);
    assert_eq!(not_running(&*container).await.unwrap(), ContainerStatus::Exited);
    let exit = timeout(LIMIT, waiter).await.expect("another server answers").unwrap().unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn close_is_not_held_by_a_create_that_has_no_answer() {
    let server = FakeServer::with_node("1.36", FakeNode::default()).await;
    let (runtime, _container) = running(&server, Duration::from_secs(6)).await;
    server.freeze();
    let spec = ContainerSpec::new("registry.test/busybox:1").command(["true"]);
    let created = timeout(Duration::from_millis(300), runtime.create_container(&spec)).await;
    assert!(created.is_err(), "{created:?}");
    timeout(Duration::from_secs(40), runtime.close()).await.expect("it does not end").unwrap();
}
