//! Created and held: the real image, one hold, no objects created by a connect.

use k8s_tests::fake::{FakeNode, FakeServer, Reaction, Received, Refusal};
use runtime_core::{ContainerStatus, ErrorKind, Runtime as _, StartOutcome};
use runtime_k8s::KubernetesRuntime;
use serde_json::Value;

use super::support::{IMAGE, cluster, spec, status_is};

fn is_gated(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"].is_array()
}

fn has_affinity(pod: &Value) -> bool {
    pod["spec"]["affinity"]["podAffinity"].is_object()
}

#[tokio::test]
async fn connect_creates_nothing() {
    for version in ["1.20", "1.30", "1.36"] {
        let server = FakeServer::start(version).await;
        let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
        let received = server.received();
        assert!(received.iter().all(|request| request.method == "GET"), "{received:#?}");
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn pod_has_real_image_and_one_hold_from_creation() {
    for (version, gated) in [("1.20", false), ("1.26", false), ("1.27", true), ("1.36", true)] {
        let (server, runtime) = cluster(version, FakeNode::default()).await;
        let container = runtime.create_container(&spec()).await.unwrap();
        let pod = server.only_pod();
        assert_eq!(pod["spec"]["containers"][0]["image"], IMAGE, "{version}");
        assert_eq!((is_gated(&pod), has_affinity(&pod)), (gated, !gated), "{version}");
        // The node would start it at once.
        assert_eq!(pod["spec"]["nodeName"], Value::Null, "{version}");
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
        assert_eq!(container.start().await.unwrap(), StartOutcome::Started, "{version}");
        assert_eq!(container.start().await.unwrap(), StartOutcome::AlreadyStarted, "{version}");
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
        let creates = server.received().into_iter().filter(|r| r.creates("pods")).count();
        assert_eq!(creates, 1, "{version}");
        runtime.close().await.unwrap();
    }
}

/// The namespace refused the dry run of a sample pod, for its missing limits: the connection then gave pods
/// both holds, and start removed one.
#[tokio::test]
async fn pod_in_namespace_that_refuses_bare_pods_starts() {
    let server = FakeServer::with_node("1.36", FakeNode::default()).await;
    server.refuse(
        |request| {
            request.creates("pods")
                && request.body["spec"]["containers"][0]["resources"]["limits"]["memory"].is_null()
        },
        Refusal::new(
            403,
            "Forbidden",
            "pods \"p\" is forbidden: failed quota: q: must specify limits",
        ),
    );
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let container = runtime.create_container(&spec().memory(64 << 20)).await.unwrap();
    container.start().await.unwrap();
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn refusal_of_image_is_error_of_create() {
    let (server, runtime) = cluster("1.36", FakeNode::default()).await;
    server.refuse(
        |request| {
            request.creates("pods") && request.body["spec"]["containers"][0]["image"] == IMAGE
        },
        Refusal::webhook("registries.test", "registry.test is not allowed"),
    );
    let error = runtime.create_container(&spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.message().unwrap().contains("registries.test"), "{error:?}");
    assert!(server.pods().is_empty());
    runtime.close().await.unwrap();
}

/// The placeholder was compared with the pod's image: if a webhook rewrote images, start reported that the
/// container had been started, and nothing ran.
#[tokio::test]
async fn pod_with_rewritten_image_is_held_and_starts() {
    let (server, runtime) = cluster("1.36", FakeNode::default()).await;
    server.hook(|request| {
        if !request.creates("pods") {
            return Reaction::Pass;
        }
        let mut body = request.body.clone();
        let image = body["spec"]["containers"][0]["image"].as_str().unwrap();
        body["spec"]["containers"][0]["image"] = format!("mirror.test/{image}").into();
        Reaction::Rewrite(body)
    });
    let container = runtime.create_container(&spec()).await.unwrap();
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
    assert_eq!(container.start().await.unwrap(), StartOutcome::Started);
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
    let image = &server.only_pod()["spec"]["containers"][0]["image"];
    assert_eq!(image.as_str(), Some("mirror.test/registry.test/busybox:1"));
    assert_eq!(container.info().await.unwrap().image.requested.as_deref(), Some(IMAGE));
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn pod_whose_gate_is_dropped_is_made_again_with_affinity() {
    let server = FakeServer::start("1.36").await;
    server.drop_field("/spec/schedulingGates");
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let first = runtime.create_container(&spec()).await.unwrap();
    let pods: Vec<Received> =
        server.received().into_iter().filter(|r| r.creates("pods") || r.deletes_pod()).collect();
    let methods: Vec<&str> = pods.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "DELETE", "POST"]);
    assert!(is_gated(&pods[0].body) && !has_affinity(&pods[0].body));
    assert_eq!(pods[1].body["gracePeriodSeconds"], 0);
    assert!(!is_gated(&pods[2].body) && has_affinity(&pods[2].body));
    // The connection caches the result.
    server.take_received();
    let second = runtime.create_container(&spec()).await.unwrap();
    let created: Vec<Received> =
        server.received().into_iter().filter(|r| r.creates("pods")).collect();
    assert!(created.len() == 1 && !is_gated(&created[0].body), "{created:#?}");
    // Each is held by the hold in its own pod, and starts.
    server.set_node(FakeNode::default());
    for container in [first, second] {
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
        assert_eq!(container.start().await.unwrap(), StartOutcome::Started);
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
    }
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn pod_that_keeps_no_hold_is_an_error_and_leaves_nothing() {
    let server = FakeServer::start("1.36").await;
    server.drop_field("/spec/schedulingGates");
    server.drop_field("/spec/affinity");
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let error = runtime.create_container(&spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(server.pods().is_empty(), "{:#?}", server.pods());
    runtime.close().await.unwrap();
}

/// A webhook of the cluster may add a gate of its own, which must not be removed.
#[tokio::test]
async fn start_leaves_gate_of_others() {
    let (server, runtime) = cluster("1.36", FakeNode::default()).await;
    server.hook(|request| {
        if !request.creates("pods") {
            return Reaction::Pass;
        }
        let mut body = request.body.clone();
        let gates = body["spec"]["schedulingGates"].as_array_mut().unwrap();
        gates.insert(0, serde_json::json!({"name": "queue.test/admission"}));
        Reaction::Rewrite(body)
    });
    let (container, start) = super::support::starting(&runtime).await;
    let name = server.only_pod_name();
    let gates = server.pod(&name).unwrap()["spec"]["schedulingGates"].clone();
    assert_eq!(gates, serde_json::json!([{"name": "queue.test/admission"}]));
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
    server.change_pod(&name, |pod| pod["spec"]["schedulingGates"] = Value::Null);
    start.await.unwrap();
    status_is(&container, ContainerStatus::Running).await;
    runtime.close().await.unwrap();
}

/// The pod is created on a server without gates, and started after an upgrade of the server, by another
/// connection.
#[tokio::test]
async fn hold_is_read_from_the_pod_and_not_from_the_server() {
    let (server, runtime) = cluster("1.36", FakeNode::default()).await;
    server.drop_field("/spec/schedulingGates");
    let container = runtime.create_container(&spec()).await.unwrap();
    let options = server.options();
    let mut other = options.clone();
    other.scope = runtime.scope().clone();
    let other = KubernetesRuntime::connect(other).await.unwrap();
    let again = other.container(container.id()).await.unwrap();
    assert_eq!(again.info().await.unwrap().status, ContainerStatus::Created);
    assert_eq!(again.start().await.unwrap(), StartOutcome::Started);
    assert_eq!(container.start().await.unwrap(), StartOutcome::AlreadyStarted);
    runtime.close().await.unwrap();
    other.close().await.unwrap();
}
