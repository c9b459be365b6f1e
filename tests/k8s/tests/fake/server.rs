//! The fake server itself.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_tests::fake::{FakeNode, FakeServer, Reaction, Recording, Refusal};
use runtime_core::{ContainerSpec, ErrorKind, EventKind, EventsOptions, ExitReason, Runtime as _};
use runtime_k8s::KubernetesRuntime;

fn spec() -> ContainerSpec {
    ContainerSpec::new("registry.test/busybox:1").command(["true"])
}

#[tokio::test]
async fn container_on_fake_node_lives_and_stops() {
    for version in ["1.20", "1.36"] {
        let server = FakeServer::with_node(version, FakeNode::default().exit_code(7)).await;
        let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        container.start().await.unwrap();
        container.stop(Default::default()).await.unwrap();
        let exit = container.wait().await.unwrap();
        assert_eq!((exit.code, exit.reason), (Some(7), ExitReason::StoppedByUs), "{version}");
        container.remove().await.unwrap();
        assert_eq!(server.pods(), Vec::<serde_json::Value>::new());
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn recorded_life_is_seen_step_by_step() {
    let server = FakeServer::start("1.36").await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let mut events = runtime.events(EventsOptions::default()).await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let name = server.only_pod_name();
    let recording = Recording::read("exit-7");
    let starting = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    server.wait_for(k8s_tests::fake::Received::patches_pod).await;
    let mut play = server.play(&name, &recording);
    play.until_ended();
    starting.await.unwrap().unwrap();
    assert_eq!(container.wait().await.unwrap().code, Some(7));
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(events.next().await.unwrap().unwrap().kind);
    }
    assert!(
        matches!(&kinds[..], [EventKind::Created, EventKind::Started, EventKind::Exited(_)]),
        "{kinds:?}"
    );
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn hooks_refuse_lose_and_stall_requests() {
    let server = FakeServer::start("1.30").await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let refused = server.refuse(|r| r.creates("pods"), Refusal::webhook("images.test", "no"));
    let error = runtime.create_container(&spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    server.unhook(refused);
    let lost = server.hook(|r| if r.creates("pods") { Reaction::Lose } else { Reaction::Pass });
    let error = runtime.create_container(&spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.unhook(lost);
    // The pod of the lost response is deleted.
    server.wait_for(k8s_tests::fake::Received::deletes_pod).await;
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn connections_freeze_thaw_and_are_cut() {
    let server = FakeServer::with_node("1.36", FakeNode::default()).await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    container.start().await.unwrap();
    server.freeze();
    let asked = tokio::time::timeout(Duration::from_millis(300), runtime.health()).await;
    assert!(asked.is_err(), "{asked:?}");
    server.thaw();
    server.cut_connections();
    let opened = server.connections();
    // A request on a cut connection may fail; the next one opens a new connection.
    let _ = runtime.health().await;
    runtime.health().await.unwrap();
    assert!(server.connections() > opened);
    // The watch continues at its position, even if the server has dropped that version.
    server.forget_versions();
    server.change_pod(&server.only_pod_name(), |pod| {
        pod["status"]["phase"] = "Failed".into();
        pod["status"]["reason"] = "Evicted".into();
    });
    assert_eq!(container.wait().await.unwrap().reason, ExitReason::Evicted);
    runtime.close().await.unwrap();
}
