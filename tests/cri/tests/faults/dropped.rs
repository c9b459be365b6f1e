//! Cancelled creates leave nothing behind.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use runtime_conformance::BoxError;
use runtime_core::{ErrorKind, LABEL_SCOPE, Runtime};
use runtime_support::ports::{self, PortReservation};
use test_support::{Connection as _, until};

use super::own::{HELD_PORTS, Own};
use super::support::{Engine, Outcome, matrix};

/// Returns the number of creates to drop: `RUNTIME_TEST_DROPS` if set, else 1000 with the whole matrix, which
/// takes minutes, and fewer without.
fn times() -> Result<u32, BoxError> {
    if let Ok(times) = std::env::var("RUNTIME_TEST_DROPS") {
        return Ok(times.parse()?);
    }
    Ok(if matrix() { 1000 } else { 64 })
}

/// Times of the drops, which differ in each run. They are derived from a seed that is printed;
/// `RUNTIME_TEST_SEED` repeats the times of a failed run.
struct Moments {
    state: u64,
}

impl Moments {
    fn new() -> Result<Self, BoxError> {
        let seed = match std::env::var("RUNTIME_TEST_SEED") {
            Ok(seed) => seed.parse::<u64>()?,
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("RUNTIME_TEST_SEED={seed} has the same moments again");
        Ok(Self { state: seed })
    }

    /// Returns a time between the start and the end of `span`.
    fn next(&mut self, span: Duration) -> Duration {
        // splitmix64 (Steele, Lea and Flood, 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        span.mul_f64(mixed as f64 / u64::MAX as f64)
    }
}

/// Asserts that the count includes the ports that a create holds, so that a leaked port would change it.
fn sees_held_ports(own: &Own) -> Outcome {
    let held = || Ok::<_, BoxError>(own.count()?[HELD_PORTS]);
    let before = held()?;
    let mut random = ports::random(&runtime_core::Nonce::random()?);
    let reserved = PortReservation::new(ports::HOST_PORTS, 2, &mut random)?;
    assert_eq!(held()?, before + 2, "{reserved:?}");
    drop(reserved);
    assert_eq!(held()?, before);
    Ok(())
}

/// Concurrent creates, and the number of creates until all of them must be cleaned up. The cleanup of a
/// dropped create takes longer than the next creates: without a limit the engine would have hundreds in
/// progress.
const AT_ONCE: usize = 8;
const BATCH: u32 = 64;

/// Covers every object that a create can leave: ports, a /dev/shm of its own and logs. The objects are
/// counted before and after, without the code under test.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_creates_leave_nothing() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let spec = engine.idle().tcp_port(80).shared_memory(1 << 20);
    // Pulls the image and creates the bridge and the first rules of the packet filter.
    let begun = Instant::now();
    engine.runtime.create_container(&spec).await?.remove().await?;
    // Concurrent creates take longer than a single one.
    let span = (begun.elapsed() * 4).clamp(Duration::from_millis(200), Duration::from_secs(4));
    sees_held_ports(&own)?;
    let (times, mut moments) = (times()?, Moments::new()?);
    let before = own.count()?;
    let mut whole = 0;
    for first in (0..times).step_by(BATCH as usize) {
        let numbers = first..times.min(first + BATCH);
        let created: Vec<_> = stream::iter(numbers)
            .map(|_| {
                let after = moments.next(span);
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
        // The cleanup runs in the background; the wait continues as long as the count changes.
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
    let took = begun.elapsed();
    println!("{times} creates, {whole} not dropped, in {took:?}: {before:?} before and after");
    assert!(whole <= times / 2, "only {} of {times} were dropped within {span:?}", times - whole);
    engine.finish().await
}

/// Creates in progress when the runtime is closed: enough that some are still in progress when the first
/// object at the engine is detected.
const TO_CLOSE: usize = 16;

/// Waits until the engine has something of the scope.
async fn until_something_is_made(engine: &Engine) -> Outcome {
    let scope = engine.runtime.scope().to_string();
    until("sandbox", async || {
        let (raw, scope) = (engine.raw.clone(), scope.clone());
        let made = move || raw.containers(&[(LABEL_SCOPE, scope.as_str())]);
        Ok(!tokio::task::spawn_blocking(made).await??.is_empty())
    })
    .await
}

/// The runtime is closed while creates are in progress: they are undone as well.
#[tokio::test(flavor = "multi_thread")]
async fn creates_of_a_closed_runtime_leave_nothing() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let spec = engine.idle().tcp_port(80).shared_memory(1 << 20);
    engine.runtime.create_container(&spec).await?.remove().await?;
    let before = own.count()?;
    let creates = (0..TO_CLOSE).map(|_| engine.runtime.create_container(&spec));
    let creates = futures_util::future::join_all(creates);
    let close = async {
        until_something_is_made(&engine).await?;
        Ok::<_, BoxError>(engine.runtime.close().await?)
    };
    let (created, closed) = tokio::join!(creates, close);
    closed?;
    let whole = created.iter().filter(|created| created.is_ok()).count();
    assert!(whole < TO_CLOSE, "all were made before the runtime was closed");
    for error in created.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error:?}");
    }
    // Closing waits for the cleanup.
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
