//! Number of requests to the API server.

use runtime_core::{EventsOptions, ExitReason, ListOptions, Runtime};
use runtime_k8s::StatsSource;
use test_support::{Connection as _, Waiter};

use super::support::{Outcome, Subject};

/// Reads that the one watch answers cost no further requests, regardless of the number of callers.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_info_lists_and_events_are_answered_by_one_watch() -> Outcome {
    let subject = Subject::new().await?;
    let mut containers = Vec::new();
    for _ in 0..3 {
        containers.push(subject.start(&subject.script("sleep 10; exit 7")).await?);
    }
    let before = subject.runtime.requests_sent();
    let waiters = Waiter::many(&containers, 300);
    let events = subject.runtime.events(EventsOptions::default()).await?;
    for container in &containers {
        container.info().await?;
    }
    let listed = subject.runtime.list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 3);
    for waiter in waiters {
        let exit = waiter.answer(60).await??;
        assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    }
    assert_eq!(subject.runtime.requests_sent() - before, 0);
    drop(events);
    subject.finish().await
}

/// A node gets two requests, for its summary and for cAdvisor's metrics, which cover all of its containers.
#[tokio::test(flavor = "multi_thread")]
async fn the_stats_of_all_on_a_node_are_two_requests() -> Outcome {
    let subject = Subject::with(|environment, options| {
        options.kubeconfig(&environment.kubeconfig_stats).stats(StatsSource::NodeProxy)
    })
    .await?;
    let containers = subject.start_idle(4).await?;
    for container in &containers {
        container.stats_once().await?;
    }
    let ids: Vec<_> = containers.iter().map(|container| container.id().clone()).collect();
    let before = subject.runtime.requests_sent();
    let stats = subject.runtime.stats(&ids).await?;
    assert_eq!(stats.len(), 4);
    assert_eq!(subject.runtime.requests_sent() - before, 2);
    subject.finish().await
}
