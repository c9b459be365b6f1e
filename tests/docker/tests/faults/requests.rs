//! Number of requests to the engine.

use futures_util::future;
use runtime_core::{ListOptions, Runtime};
use test_support::{Connection as _, Waiter, all_killed};

use super::support::{Engine, Outcome};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_cost_one_stream() -> Outcome {
    let engine = Engine::of_environment().await?;
    let containers = engine.start_idle(4).await?;
    // The first waiter opens the stream that all waiters share.
    let first = containers[0].wait();
    let short = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(short, first).await.is_err());
    let before = engine.runtime.requests_sent();
    let waiters = Waiter::many(&containers, 1000);
    all_killed(&containers, waiters).await?;
    let requests = engine.runtime.requests_sent() - before;
    println!("1000 waiters for 4 containers: {requests} requests, 4 of them to kill");
    // For each container: the kill, the check that it runs, the read of its exit.
    assert!(requests <= 4 * 3 + 2, "{requests} requests");
    engine.finish().await
}

#[tokio::test]
async fn a_list_with_info_is_one_request() -> Outcome {
    let engine = Engine::of_environment().await?;
    let spec = engine.idle();
    future::try_join_all((0..5).map(|_| engine.runtime.create_container(&spec))).await?;
    let before = engine.runtime.requests_sent();
    let listed = engine.runtime.list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 5);
    assert!(listed.iter().all(|listed| !listed.info.name.is_empty()));
    assert_eq!(engine.runtime.requests_sent() - before, 1);
    engine.finish().await
}
