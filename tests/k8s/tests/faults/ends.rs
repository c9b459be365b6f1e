//! Containers that the cluster ends.

use k8s_tests::Raw;
use runtime_conformance::BoxError;
use runtime_core::{ContainerId, ContainerStatus, ExitReason, Runtime};
use runtime_k8s::{CpuShares, KubernetesRuntime};
use serde_json::{Value, json};
use test_support::Connection as _;

use super::support::{Outcome, Subject, Waiter, scope};

/// Script that exits with 0 on TERM.
const OBEDIENT: &str = "trap 'exit 0' TERM; echo ready; sleep 3600 & wait";

/// A node is full, and a pod of a higher priority is created: the scheduler removes the pod of the lower
/// priority, which is reported as an eviction.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_gives_way_to_one_of_a_higher_priority() -> Outcome {
    let name = scope().to_string();
    let [low, high] = ["low", "high"].map(|class| format!("{name}-{class}"));
    let class = low.clone();
    let subject =
        Subject::with(|_, options| options.priority_class(class).cpu_shares(CpuShares::AsRequest))
            .await?;
    let classes = [(&low, 1), (&high, 2)].map(|(class, value)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": class},
            "value": value,
        })
    });
    let classes = json!({"apiVersion": "v1", "kind": "List", "items": classes});
    subject.create(&classes).await?;
    let node = subject.environment.node.clone();
    let raw = Raw::new(&subject.admin(), &subject.environment.namespace).await?;
    let cores = raw.get(&format!("/api/v1/nodes/{node}")).await?["status"]["allocatable"]["cpu"]
        .as_str()
        .and_then(|cores| cores.parse::<u64>().ok())
        .ok_or("a node without CPUs")?;
    // More than half of the node, so that two do not fit.
    let spec = subject.script(OBEDIENT).cpu_shares(cores * 1024 * 6 / 10);
    let victim = subject.start(&spec).await?;
    let waiter = Waiter::of(&victim);

    let options = subject.environment.options(subject.runtime.scope());
    let options = options.priority_class(high.clone()).cpu_shares(CpuShares::AsRequest);
    let urgent = KubernetesRuntime::connect(options).await?;
    let winner = urgent.create_container(&spec).await?;
    winner.start().await?;
    let exit = waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Evicted, None), "{exit:?}");
    assert!(exit.message.as_deref().is_some_and(|words| words.contains("reempted")), "{exit:?}");
    assert_eq!(winner.info().await?.status, ContainerStatus::Running);
    urgent.close().await?;
    subject.delete(&classes).await?;
    subject.finish().await
}

/// A node evicts a container and reports that in the status of its pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_evicts_a_container() -> Outcome {
    let subject = Subject::new().await?;
    let container = subject.start(&subject.script(OBEDIENT)).await?;
    let waiter = Waiter::of(&container);
    let mut pod = subject.pod().await?;
    pod["status"]["phase"] = json!("Failed");
    pod["status"]["reason"] = json!("Evicted");
    pod["status"]["message"] = json!("The node was low on resource: memory.");
    // The kubelet updates the object as well.
    pod["metadata"].as_object_mut().ok_or("no pod")?.remove("resourceVersion");
    let path = format!("{}/status", path(&pod));
    subject
        .work(move |cluster| {
            let replace = ["replace", "--raw", &path, "-f", "-"];
            Ok(cluster.kubectl_as("admin", &replace, &pod.to_string())?)
        })
        .await?;
    let exit = waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Evicted, None), "{exit:?}");
    assert_eq!(exit.message.as_deref(), Some("The node was low on resource: memory."));
    assert_eq!(container.wait().await?, exit);
    subject.finish().await
}

/// Another client sets a time limit for a pod, which expires.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_container_is_up() -> Outcome {
    let subject = Subject::new().await?;
    let container = subject.start(&subject.script(OBEDIENT)).await?;
    let waiter = Waiter::of(&container);
    let name = name(&subject.pod().await?)?;
    let namespace = subject.environment.namespace.clone();
    subject
        .work(move |cluster| {
            let limit = r#"{"spec":{"activeDeadlineSeconds":1}}"#;
            Ok(cluster.kubectl(&["-n", &namespace, "patch", "pod", &name, "-p", limit])?)
        })
        .await?;
    let exit = waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::DeadlineExceeded, None), "{exit:?}");
    subject.finish().await
}

/// A node cannot configure a container: the cluster has added a variable from a missing object. The container
/// never runs, and no call waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_configured_fails_to_start() -> Outcome {
    let subject = Subject::new().await?;
    let model = subject.runtime.create_container(&subject.script("true")).await?;
    let mut pod = subject.pod().await?;
    let name = format!("{}-changed", name(&pod)?);
    let meta = pod["metadata"].as_object_mut().ok_or("no pod")?;
    for given in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        meta.remove(given);
    }
    meta.insert("name".to_owned(), json!(name));
    let spec = pod["spec"].as_object_mut().ok_or("no pod")?;
    spec.remove("nodeName");
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "not-there"}}]);
    pod.as_object_mut().ok_or("no pod")?.remove("status");
    let uid = subject
        .work(move |cluster| {
            let create = ["create", "-f", "-", "-o", "jsonpath={.metadata.uid}"];
            Ok(cluster.kubectl_as("admin", &create, &pod.to_string())?)
        })
        .await?;
    let container = subject.runtime.container(&ContainerId::new(uid)).await?;
    let waiter = Waiter::of(&container);
    let error = container.start().await.expect_err("it cannot be configured");
    assert!(!error.is_retryable(), "{error:?}");
    assert!(error.message().is_some_and(|words| words.contains("not-there")), "{error:?}");
    let exit = waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::StartFailed, None), "{exit:?}");
    assert!(exit.message.as_deref().is_some_and(|words| words.contains("not-there")), "{exit:?}");
    model.remove().await?;
    subject.finish().await
}

/// Returns the name of a pod.
fn name(pod: &Value) -> Result<String, BoxError> {
    Ok(pod["metadata"]["name"].as_str().ok_or("a pod without a name")?.to_owned())
}

/// Returns the API path of a pod.
fn path(pod: &Value) -> String {
    let [namespace, name] =
        ["namespace", "name"].map(|key| pod["metadata"][key].as_str().unwrap_or_default());
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}
