//! Creates that nobody waits for any more leave nothing behind.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use runtime_core::{ErrorKind, Runtime};
use test_support::Connection as _;

use super::own::Own;
use super::support::Outcome;

/// How many creates are dropped. `RUNTIME_TEST_DROPS=1000` takes minutes.
fn times() -> u32 {
    std::env::var("RUNTIME_TEST_DROPS").ok().and_then(|times| times.parse().ok()).unwrap_or(64)
}

/// Creates under way at once, and how many are made until all of them have to be undone. A create
/// that is dropped goes on and is undone for longer than the next ones take: without an end to
/// that, the engine would have hundreds at once.
const AT_ONCE: usize = 8;
const BATCH: u32 = 64;

/// Ports, a /dev/shm of its own and logs: everything that a create can leave. What there is is
/// counted before and after, not asked of the code under test.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_creates_leave_nothing() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let spec = engine.idle().tcp_port(80).shared_memory(1 << 20);
    // So that the image is there, and the bridge, and the first rules of the packet filter.
    let begun = Instant::now();
    engine.runtime.create_container(&spec).await?.remove().await?;
    // Several at once take longer than one.
    let span = (begun.elapsed() * 4).clamp(Duration::from_millis(200), Duration::from_secs(4));
    let before = own.count()?;
    let mut whole = 0;
    for first in (0..times()).step_by(BATCH as usize) {
        let numbers = first..times().min(first + BATCH);
        let created: Vec<_> = stream::iter(numbers)
            .map(|number| {
                // A prime's multiples are spread over the time of a create.
                let after = span * (number * 389 % 1000) / 1000;
                let create = engine.runtime.create_container(&spec);
                async move { tokio::time::timeout(after, create).await.ok() }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        for container in created {
            container?.remove().await?;
            whole += 1;
        }
        // Undoing goes on, and is waited for as long as it gets on.
        let mut left = (engine.left().await?, own.count()?);
        while !(left.0.is_empty() && left.1 == before) {
            let until = Instant::now() + Duration::from_secs(20);
            let mut now = left.clone();
            while now == left {
                assert!(Instant::now() < until, "{left:?} is left, and before was {before:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                now = (engine.left().await?, own.count()?);
            }
            left = now;
        }
    }
    let (all, took) = (times(), begun.elapsed());
    println!("{all} creates, {whole} not dropped, in {took:?}: {before:?} before and after");
    assert!(whole < all, "none was dropped in {span:?}");
    engine.finish().await
}

/// The runtime is closed while creates are under way: they are undone as well.
#[tokio::test(flavor = "multi_thread")]
async fn creates_of_a_closed_runtime_leave_nothing() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let spec = engine.idle().tcp_port(80).shared_memory(1 << 20);
    engine.runtime.create_container(&spec).await?.remove().await?;
    let before = own.count()?;
    let creates = (0..8).map(|_| engine.runtime.create_container(&spec));
    let creates = futures_util::future::join_all(creates);
    let close = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        engine.runtime.close().await
    };
    let (created, closed) = tokio::join!(creates, close);
    closed?;
    let whole = created.iter().filter(|created| created.is_ok()).count();
    for error in created.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
    }
    // Closing waits for what has to be undone.
    assert_eq!(
        engine.left().await?.len(),
        whole * 3,
        "a sandbox, a container and a log folder each"
    );
    let again = own.connect_as(engine.runtime.scope().clone(), |options| options).await?;
    again.finish().await?;
    let until = Instant::now() + Duration::from_secs(20);
    while own.count()? != before {
        assert!(Instant::now() < until, "{:?} and before {before:?}", own.count()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
