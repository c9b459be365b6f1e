//! Several nodes, and the loss of one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use k8s_tests::Environment;
use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerStatus, Deadlines, ErrorKind, ExitReason, Gpus, ListOptions, ReapOptions,
    Runtime,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime, Toleration};
use serde_json::{Value, json};
use test_engines::{Component, HOLLOW};
use test_support::Connection as _;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::support::{Outcome, Subject, Waiter};

/// Label of a node with the name of the test that owns it.
const TEST: &str = "runtime-test/test";

/// Test that has hollow nodes of its own.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Lost,
    Silent,
    Removal,
}

impl Owner {
    const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Removal => "removal",
        }
    }

    /// Returns the range of the test's nodes in [`all_nodes`].
    const fn nodes(self) -> Range<usize> {
        match self {
            Self::Lost => 0..3,
            Self::Silent => 3..4,
            Self::Removal => 4..5,
        }
    }

    /// Restricts pods to the nodes of the test.
    fn options(self, options: KubernetesOptions) -> KubernetesOptions {
        options
            .node_label(TEST, self.name())
            .toleration(Toleration::key(HOLLOW).effect("NoSchedule"))
    }

    /// Connects with the nodes of the test, in parallel with the other tests.
    async fn subject(
        self,
        change: impl FnOnce(KubernetesOptions) -> KubernetesOptions,
    ) -> Result<(Subject, Vec<String>), BoxError> {
        let subject = Subject::beside_others(|_, options| change(self.options(options))).await?;
        let names = all_nodes(&subject).await?[self.nodes()].to_vec();
        let label = format!("{TEST}={}", self.name());
        let labelled = names.clone();
        subject
            .work(move |cluster| {
                let mut label_nodes = vec!["label", "node"];
                label_nodes.extend(labelled.iter().map(String::as_str));
                label_nodes.push(&label);
                Ok(cluster.kubectl(&label_nodes)?)
            })
            .await?;
        Ok((subject, names))
    }
}

/// Returns the hollow nodes of all tests of this file, which run at the same time.
async fn all_nodes(subject: &Subject) -> Result<&'static [String], BoxError> {
    static NODES: OnceCell<Vec<String>> = OnceCell::const_new();
    let up = || {
        subject.work(|cluster| {
            let names = cluster.hollow_nodes(Owner::Removal.nodes().end)?;
            // The controllers of 1.20.2 never evict a pod from a node that joined before it was ready, until
            // they are restarted.
            cluster.restart(Component::ControllerManager)?;
            Ok(names)
        })
    };
    Ok(NODES.get_or_try_init(up).await?)
}

/// Removes the scope and the nodes of a test.
async fn finish(subject: Subject, nodes: Vec<String>) -> Outcome {
    subject
        .work(move |cluster| {
            nodes.iter().try_for_each(|node| Ok(cluster.remove_hollow_node(node)?))
        })
        .await?;
    subject.finish().await
}

/// Containers are spread over all nodes; a list and the waits of one connection cover all of them. When one
/// node stops responding, only its containers are lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_takes_its_containers_and_no_others() -> Outcome {
    let (subject, names) = Owner::Lost.subject(|options| options).await?;
    // Another connection of the same scope, which may read nodes and so has the reason at once when a pod
    // vanishes.
    let options = Owner::Lost
        .options(subject.environment.options(subject.runtime.scope()).kubeconfig(subject.admin()));
    let knowing = KubernetesRuntime::connect(options).await?;

    let mut containers = Vec::new();
    for _ in 0..2 * names.len() {
        containers.push(subject.start(&subject.script("sleep 3600")).await?);
    }
    let mut by_node: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, container) in containers.iter().enumerate() {
        let info = container.info().await?;
        by_node.entry(info.node.ok_or("a container without a node")?).or_default().push(at);
    }
    let landed: BTreeSet<&String> = by_node.keys().collect();
    assert_eq!(landed, names.iter().collect::<BTreeSet<_>>());
    for runtime in [&subject.runtime, &knowing] {
        let listed = runtime.list_containers(ListOptions::default()).await?;
        assert_eq!(listed.len(), containers.len());
    }

    let mut waiters = Vec::new();
    for container in &containers {
        let known = knowing.container(container.id()).await?;
        waiters.push((Waiter::of(container), Waiter::of(&known)));
    }
    let lost = names[1].clone();
    let name = lost.clone();
    subject.work(move |cluster| Ok(cluster.kill_hollow_node(&name)?)).await?;
    for (at, (blind, knowing)) in waiters.into_iter().enumerate() {
        if by_node[&lost].contains(&at) {
            let exit = blind.answer(150).await??;
            assert_eq!((exit.reason, exit.code), (ExitReason::NodeLost, None), "{exit:?}");
            let exit = knowing.answer(30).await??;
            assert_eq!((exit.reason, exit.code), (ExitReason::NodeLost, None), "{exit:?}");
        } else {
            assert!(!blind.is_done() && !knowing.is_done(), "{at} is on a node that is well");
        }
    }
    // A removal does not wait for a node that never answers.
    for at in &by_node[&lost] {
        containers[*at].remove().await?;
    }
    let report = subject.runtime.reap(ReapOptions::default()).await?;
    assert_eq!(report.removed.len(), containers.len() - by_node[&lost].len());
    knowing.close().await?;
    finish(subject, names).await
}

/// Tolerates the taints of unresponsive nodes, so that no controller evicts the pod.
fn never_given_up(options: KubernetesOptions) -> KubernetesOptions {
    ["unreachable", "not-ready"]
        .into_iter()
        .fold(options, |options, taint| {
            let key = format!("node.kubernetes.io/{taint}");
            options.toleration(Toleration::key(key).effect("NoExecute"))
        })
        .node_budget(Duration::from_secs(600))
}

/// Waits until the status of the one pod of the scope matches.
async fn until(subject: &Subject, wanted: impl Fn(&Value) -> bool) -> Outcome {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let pod = subject.pod().await?;
        let status = &pod["status"];
        if wanted(status) {
            return Ok(());
        }
        assert!(Instant::now() < end, "it stays {status}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns `true` if the status of a pod is ready.
fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// No controller evicts the pods of an unresponsive node, as on 1.20.2 with many nodes. If the node recovers
/// in time, the container is not affected; otherwise it is lost permanently and for every client.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_be_silent_for_as_long_as_its_budget() -> Outcome {
    let (subject, names) = Owner::Silent.subject(never_given_up).await?;
    let node = subject.cluster.hollow_node(&names[0])?;
    let container = subject.start(&subject.script("sleep 3600")).await?;
    until(&subject, is_ready).await?;
    let patient = Waiter::of(&container);

    node.freeze()?;
    until(&subject, |status| !is_ready(status)).await?;
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    node.thaw()?;
    until(&subject, is_ready).await?;
    assert!(!patient.is_done(), "the node is back");

    // Another connection of the same scope has a shorter budget.
    let options = subject.environment.options(subject.runtime.scope());
    let options = never_given_up(Owner::Silent.options(options));
    let hasty = KubernetesRuntime::connect(options.node_budget(Duration::from_secs(3))).await?;
    let known = hasty.container(container.id()).await?;
    let waiter = Waiter::of(&known);
    node.freeze()?;
    for waiter in [waiter, patient] {
        let exit = waiter.answer(120).await??;
        assert_eq!((exit.reason, exit.code), (ExitReason::NodeLost, None), "{exit:?}");
    }
    node.thaw()?;
    until(&subject, |status| status["phase"] == "Failed").await?;
    // A new connection gets the same exit.
    let options = subject.environment.options(subject.runtime.scope());
    let late = KubernetesRuntime::connect(options).await?;
    let exit = late.container(container.id()).await?.wait().await?;
    assert_eq!((exit.reason, exit.code), (ExitReason::NodeLost, None), "{exit:?}");
    container.remove().await?;
    finish(subject, names).await
}

/// A removed container whose node does not stop it in time is not lost: its waiter gets the exit reason
/// Removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_its_node_does_not_answer_is_a_removal() -> Outcome {
    let patient = |options: KubernetesOptions| {
        let mut deadlines = Deadlines::default();
        deadlines.remove = Duration::from_secs(90);
        options.deadlines(deadlines)
    };
    let (subject, names) = Owner::Removal.subject(patient).await?;
    let node = subject.cluster.hollow_node(&names[0])?;
    let container = subject.start(&subject.script("sleep 3600")).await?;
    let waiter = Waiter::of(&container);
    node.freeze()?;
    // The removal completes after the pod is deleted at the server without its node, which is later than the
    // waiter's answer.
    let (removed, exit) = tokio::join!(container.remove(), waiter.answer(90));
    removed?;
    let exit = exit??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None), "{exit:?}");
    node.thaw()?;
    finish(subject, names).await
}

/// GPUs by count are limited by the capacity of the nodes: a container within it runs, and a container beyond
/// it finds no node.
#[tokio::test(flavor = "multi_thread")]
async fn gpus_by_count_are_what_the_nodes_have() -> Outcome {
    const RESOURCE: &str = "example.com/gpu";
    const BUDGET: Duration = Duration::from_secs(15);
    let with = |_: &Environment, options: KubernetesOptions| {
        options.gpu_resource(RESOURCE).schedule_budget(BUDGET)
    };
    let subject = Subject::beside_others(with).await?;
    give_node(&subject, RESOURCE, Some("2")).await?;
    let spec = |count| subject.script("sleep 3600").gpus(Gpus::Count(count));
    let runs = subject.start(&spec(2)).await?;
    assert_eq!(runs.info().await?.status, ContainerStatus::Running);
    let waits = subject.runtime.create_container(&spec(1)).await?;
    let error = waits.start().await.expect_err("there is none left");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
    assert!(error.message().is_some_and(|words| words.contains(RESOURCE)), "{error:?}");
    let exit = waits.wait().await?;
    assert_eq!((exit.reason, exit.code), (ExitReason::StartFailed, None), "{exit:?}");
    runs.remove().await?;
    give_node(&subject, RESOURCE, None).await?;
    subject.finish().await
}

/// Sets the amount of a resource in the status of the node.
async fn give_node(subject: &Subject, resource: &'static str, amount: Option<&str>) -> Outcome {
    let (node, amount) = (subject.environment.node.clone(), amount.map(str::to_owned));
    subject
        .work(move |cluster| {
            let path = format!("/api/v1/nodes/{node}");
            let mut object: Value =
                serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path])?)?;
            // The kubelet updates the object all the time.
            if let Some(meta) = object["metadata"].as_object_mut() {
                meta.remove("resourceVersion");
            }
            for list in ["capacity", "allocatable"] {
                let list = object["status"][list].as_object_mut().ok_or("a node without status")?;
                match &amount {
                    Some(amount) => list.insert(resource.to_owned(), json!(amount)),
                    None => list.remove(resource),
                };
            }
            let replace = ["replace", "--raw", &format!("{path}/status"), "-f", "-"];
            cluster.kubectl_as("admin", &replace, &object.to_string())?;
            Ok(())
        })
        .await
}
