//! Several nodes, and one that is taken away.

use std::collections::{BTreeMap, BTreeSet};

use k8s_tests::Environment;
use runtime_core::{Container, ExitReason, ListOptions, ReapOptions, Runtime};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime, Toleration};
use test_engines::{Component, HOLLOW};

use super::support::{Outcome, Subject, Waiter};

const NODES: usize = 3;

fn on_hollow_nodes(_: &Environment, options: KubernetesOptions) -> KubernetesOptions {
    options.node_label(HOLLOW, "true").toleration(Toleration::key(HOLLOW).effect("NoSchedule"))
}

/// Containers land on all nodes; a list and the waits of one connection see all of them. When one
/// node falls silent, what ran there is lost, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_takes_its_containers_and_no_others() -> Outcome {
    let subject = Subject::with(on_hollow_nodes).await?;
    let names = subject
        .work(|cluster| {
            let names = cluster.hollow_nodes(NODES)?;
            // The controllers of 1.20.2 give up no pod of a node that joined before it was ready,
            // until they begin anew.
            cluster.restart(Component::ControllerManager)?;
            Ok(names)
        })
        .await?;
    // One more connection of the same scope, which may look at nodes and so knows at once why a
    // pod vanishes.
    let options = on_hollow_nodes(
        &subject.environment,
        subject.environment.options(subject.runtime.scope()).kubeconfig(subject.admin()),
    );
    let knowing = KubernetesRuntime::connect(options).await?;

    let mut containers = Vec::new();
    for _ in 0..2 * NODES {
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
    subject.work(|cluster| Ok(cluster.remove_hollow_nodes()?)).await?;
    subject.finish().await
}
