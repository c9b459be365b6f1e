//! Creates that nobody waits for any more leave nothing behind.

use std::path::Path;
use std::time::Duration;

use futures_util::future;
use runtime_core::Runtime;

use super::support::{Engine, Outcome};

/// How many creates are dropped. A thousand where somebody asks for that.
fn times() -> usize {
    std::env::var("RUNTIME_TEST_DROPS").ok().and_then(|times| times.parse().ok()).unwrap_or(40)
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_creates_leave_nothing() -> Outcome {
    let engine = Engine::of_environment().await?;
    let spec = engine.idle().tcp_port(80).shared_memory(1 << 20);
    // So that the image is there, and one create has gone all the way.
    let first = engine.runtime.create_container(&spec).await?;
    first.remove().await?;
    let sockets = || count(Path::new("/proc/self/fd"));
    let before = sockets();
    for round in 0..times() / 8 {
        let creates = (0..8).map(|number| {
            // A create takes some hundred milliseconds: the cuts are spread over that and more.
            let after = Duration::from_millis(((round * 8 + number) * 37 % 900) as u64);
            let create = engine.runtime.create_container(&spec);
            async move { tokio::time::timeout(after, create).await }
        });
        for done in future::join_all(creates).await.into_iter().flatten() {
            done?.remove().await?;
        }
    }
    let mut left = engine.left()?;
    for _ in 0..600 {
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = engine.left()?;
    }
    assert_eq!(left, Vec::<String>::new());
    // Held ports are sockets of this process.
    assert!(sockets() <= before + 8, "{} and before {before}", sockets());
    engine.finish().await
}
