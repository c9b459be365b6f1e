//! Containers that are started and do not run, for reasons that the test cluster cannot produce: no
//! scheduler, gates of other clients, a node that reports nothing.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_tests::fake::{FakeNode, FakeServer, Refusal};
use runtime_core::{
    AttachOptions, ContainerSpec, ContainerStatus, Deadlines, ErrorKind, ExecOptions, ExitReason,
    Follow, LogOptions, Runtime as _, StartOutcome,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use serde_json::json;

const BUDGET: Duration = Duration::from_secs(3);

/// Longer than any of these takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec() -> ContainerSpec {
    ContainerSpec::new("registry.test/busybox:1").command(["true"])
}

fn quick(options: KubernetesOptions) -> KubernetesOptions {
    let mut deadlines = Deadlines::default();
    deadlines.start = Duration::from_secs(1);
    options.deadlines(deadlines)
}

#[tokio::test(flavor = "multi_thread")]
async fn start_at_its_deadline_is_a_timeout_with_the_reason_and_goes_on() {
    let server = FakeServer::with_node("1.36", FakeNode::default().schedules(false)).await;
    let runtime = KubernetesRuntime::connect(quick(server.options())).await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    for _ in 0..2 {
        let error = container.start().await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true), "{error:?}");
        let words = error.message().unwrap_or_default();
        assert!(words.contains("no scheduler has placed it"), "{error:?}");
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
    }
    server.set_node(FakeNode::default().starts(false));
    let error = container.start().await.unwrap_err();
    assert!(error.message().unwrap_or_default().contains("node1"), "{error:?}");
    server.set_node(FakeNode::default());
    assert_eq!(container.start().await.unwrap(), StartOutcome::AlreadyStarted);
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
    runtime.close().await.unwrap();
}

/// The follower is the only waiter.
#[tokio::test(flavor = "multi_thread")]
async fn follower_alone_ends_what_no_scheduler_takes() {
    let server = FakeServer::with_node("1.36", FakeNode::default().schedules(false)).await;
    let options = quick(server.options()).schedule_budget(BUDGET);
    let runtime = KubernetesRuntime::connect(options).await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let mut log = container.logs(LogOptions::default().follow(Follow::Yes)).await.unwrap();
    container.start().await.unwrap_err();
    let end = tokio::time::timeout(PATIENCE, log.next()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
    let exit = container.info().await.unwrap().exit.unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::StartFailed, None), "{exit:?}");
    assert!(exit.message.unwrap_or_default().contains("no scheduler"));
    runtime.close().await.unwrap();
}

/// A new process finds a budget that was spent while no process was connected.
#[tokio::test(flavor = "multi_thread")]
async fn spent_budget_ends_the_container_in_another_process_at_once() {
    for (operation, gates) in [("wait", true), ("attach", false), ("exec", true), ("start", false)]
    {
        let server = FakeServer::with_node("1.36", FakeNode::default().schedules(false)).await;
        let options = quick(server.options());
        let runtime = KubernetesRuntime::connect(options.clone()).await.unwrap();
        let made = runtime.create_container(&spec()).await.unwrap();
        made.start().await.unwrap_err();
        runtime.close().await.unwrap();
        // An hour ago.
        server.change_pod(&server.only_pod_name(), |pod| {
            let annotations = &mut pod["metadata"]["annotations"];
            let started = &annotations["container-runtime/started-at"];
            let started: u64 = started.as_str().unwrap().parse().unwrap();
            annotations["container-runtime/started-at"] = json!((started - 3_600_000).to_string());
            if gates {
                pod["spec"]["schedulingGates"] = json!([{"name": "queue.test/admission"}]);
            }
        });
        let runtime = KubernetesRuntime::connect(options).await.unwrap();
        let container = runtime.container(made.id()).await.unwrap();
        let ended = async {
            match operation {
                "wait" => drop(container.wait().await.unwrap()),
                "attach" => {
                    let error = container.attach(AttachOptions::default()).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
                }
                "exec" => {
                    let error = container.exec(ExecOptions::new(["true"])).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
                }
                _ => {
                    let error = container.start().await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
                    assert!(!error.is_retryable());
                }
            }
        };
        // Less than the budget, which is five minutes.
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
        let exit = container.wait().await.unwrap();
        let words = exit.message.clone().unwrap_or_default();
        assert_eq!(exit.reason, ExitReason::StartFailed, "{operation}: {exit:?}");
        let reason = if gates { "queue.test/admission" } else { "no scheduler" };
        assert!(words.contains(reason), "{operation}: {exit:?}");
        runtime.close().await.unwrap();
    }
}

/// A policy of the cluster refuses changes to an image that is not a valid reference.
#[tokio::test(flavor = "multi_thread")]
async fn budget_ends_the_container_where_a_policy_forbids_the_placeholder() {
    let server = FakeServer::with_node("1.36", FakeNode::default().schedules(false)).await;
    server.refuse(|r| r.changes_image(), Refusal::webhook("images.test", "not a reference"));
    let options = quick(server.options()).schedule_budget(BUDGET);
    let runtime = KubernetesRuntime::connect(options.clone()).await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    container.start().await.unwrap_err();
    let exit = tokio::time::timeout(PATIENCE, container.wait()).await.unwrap().unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::StartFailed, None), "{exit:?}");
    let other = KubernetesRuntime::connect(options).await.unwrap();
    let known = other.container(container.id()).await.unwrap();
    assert_eq!(known.info().await.unwrap().exit, Some(exit));
    for runtime in [runtime, other] {
        runtime.close().await.unwrap();
    }
}
