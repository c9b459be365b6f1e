//! Number of requests to the engine.

use runtime_core::{ListOptions, Runtime};
use test_support::{Connection as _, Waiter, all_killed};

use super::support::{Engine, Outcome};

#[tokio::test]
async fn a_list_with_info_is_one_request_and_so_are_the_stats_of_all() -> Outcome {
    let engine = Engine::of_environment().await?;
    let containers = engine.start_idle(4).await?;
    let before = engine.runtime.requests_sent();
    let listed = engine.runtime.list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 4);
    assert_eq!(engine.runtime.requests_sent() - before, 1);
    let ids: Vec<_> = containers.iter().map(|container| container.id().clone()).collect();
    // The first round reads the location of the cgroups from one container.
    engine.runtime.stats(&ids).await?;
    let before = engine.runtime.requests_sent();
    let stats = engine.runtime.stats(&ids).await?;
    assert_eq!(stats.len(), 4);
    for (_, stats) in &stats {
        assert!(stats.network_rx_bytes.is_some() && stats.block_read_bytes.is_some(), "{stats:?}");
    }
    assert_eq!(engine.runtime.requests_sent() - before, 1);
    engine.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_cost_one_list_at_a_time() -> Outcome {
    let engine = Engine::of_environment().await?;
    let containers = engine.start_idle(3).await?;
    let waiters = Waiter::many(&containers, 1000);
    let before = engine.runtime.requests_sent();
    let begun = std::time::Instant::now();
    all_killed(&containers, waiters).await?;
    let (requests, took) = (engine.runtime.requests_sent() - before, begun.elapsed());
    println!("1000 waiters for 3 containers: {requests} requests in {took:?}");
    // Two to kill each container, a few to read each exit, and the lists. An engine with events causes one
    // more list for each event, and reports the events of other clients as well.
    let lists = took.as_millis() / 10 + 100;
    assert!(u128::from(requests) <= 3 * 8 + lists, "{requests} requests in {took:?}");
    engine.finish().await
}
