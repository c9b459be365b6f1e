//! Pulls that make no progress.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use runtime_core::{
    ContainerSpec, Deadlines, ErrorKind, Image, Operation, PullOptions, PullPolicy, Runtime,
    RuntimeExt,
};
use test_support::{Connection as _, until};
use tokio::net::{TcpListener, TcpStream};

use super::own::Own;
use super::support::{Engine, Outcome, fails, scope};

const DEADLINE: Duration = Duration::from_secs(2);

/// Returns the default deadlines with a short one for pulls without progress.
fn impatient() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.pull_without_progress = DEADLINE;
    deadlines
}

/// Registry that accepts connections and never answers.
struct SilentRegistry {
    address: SocketAddr,
    came: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl SilentRegistry {
    async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, counts) = (listener.local_addr()?, <[Arc<AtomicUsize>; 2]>::default());
        let [came, open] = counts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                came.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let open = open.clone();
                tokio::spawn(async move {
                    hear_out(stream).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let [came, open] = counts;
        Ok(Self { address, came, open })
    }

    /// Waits until all clients have disconnected.
    async fn until_left(&self) -> Outcome {
        assert!(self.came.load(Ordering::SeqCst) > 0, "nobody came to the registry");
        until("the engine to give the pull up", async || Ok(self.open.load(Ordering::SeqCst) == 0))
            .await
    }
}

/// Reads to the end, or until the connection is lost.
async fn hear_out(mut stream: TcpStream) {
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers() -> Outcome {
    let engine = Engine::of_environment_with(|options| options.deadlines(impatient())).await?;
    let registry = SilentRegistry::start().await?;
    let image = Image::new(format!("{}/test/silent:1", registry.address));

    let begun = Instant::now();
    let pulled = engine.runtime.pull(&image, PullOptions::default()).await;
    let error = fails(pulled, ErrorKind::Timeout, begun);
    assert_eq!(error.operation(), Some(Operation::Pull), "{error:?}");
    assert!(begun.elapsed() >= DEADLINE, "{error:?}");
    registry.until_left().await?;

    let begun = Instant::now();
    let created = engine.runtime.create_container(&ContainerSpec::new(image)).await;
    let error = fails(created, ErrorKind::Timeout, begun);
    assert_eq!(error.operation(), Some(Operation::Create), "{error:?}");
    registry.until_left().await?;
    assert_eq!(engine.left().await?, Vec::<String>::new());
    engine.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_freezes_before_a_pull() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect_as(scope(), |options| options.deadlines(impatient())).await?;
    let image = engine.spec().image;
    own.process().freeze()?;
    let begun = Instant::now();
    let always = PullOptions::default().policy(PullPolicy::Always);
    let pulled = engine.runtime.pull(&image, always).await;
    own.process().thaw()?;
    fails(pulled, ErrorKind::Timeout, begun);
    engine.finish().await
}
