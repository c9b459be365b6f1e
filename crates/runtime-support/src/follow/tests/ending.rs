//! Tests of the end of a follower after the end of its container.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use runtime_core::{Chunk, ContainerStatus, LogStream, Result};

use super::super::{LogSource, OpenLog, read_log};
use super::{chunk, follow, run};

/// The log of a container whose end is reported at a given time.
#[derive(Debug, Clone)]
struct Ending {
    status: tokio::sync::watch::Sender<ContainerStatus>,
    /// The engine ends the log with the process, before the container has ended.
    ends_early: bool,
    watches: Arc<std::sync::atomic::AtomicUsize>,
}

impl Ending {
    fn new(status: ContainerStatus, ends_early: bool) -> Self {
        let status = tokio::sync::watch::Sender::new(status);
        Self { status, ends_early, watches: Arc::default() }
    }
}

#[runtime_core::async_trait]
impl LogSource for Ending {
    type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

    async fn open(&self, from: OpenLog) -> Result<Self::Chunks> {
        let status = *self.status.borrow();
        let line = (status != ContainerStatus::Created).then(|| chunk(1, LogStream::Stdout, "x\n"));
        let line = futures_util::stream::iter(line.map(Ok));
        let goes_on = from.follow && !self.ends_early && status != ContainerStatus::Created;
        Ok(match goes_on {
            true => line.chain(futures_util::stream::pending()).boxed(),
            false => line.boxed(),
        })
    }

    async fn status(&self) -> Result<ContainerStatus> {
        Ok(*self.status.borrow())
    }

    async fn ended(&self) -> Result<()> {
        self.watches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|status| *status == ContainerStatus::Exited).await;
        Ok(())
    }

    fn drained(&self) -> Duration {
        Duration::from_millis(25)
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        Some(time)
    }
}

#[test]
fn follower_ends_soon_after_container() {
    for ends_early in [true, false] {
        for after in [10, 60, 170, 333, 1000, 5000, 33_333] {
            run(async {
                let source = Ending::new(ContainerStatus::Running, ends_early);
                let mut reader = read_log(source.clone(), follow()).await.unwrap();
                let end = async {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    source.status.send_replace(ContainerStatus::Exited);
                    tokio::time::Instant::now()
                };
                let read = async {
                    assert_eq!(reader.next().await.unwrap().unwrap().bytes, "x\n");
                    assert!(reader.next().await.is_none());
                    tokio::time::Instant::now()
                };
                let (ended, closed) = tokio::join!(end, read);
                let late = closed - ended;
                assert!(
                    late <= Duration::from_millis(50),
                    "{late:?} after {after} ms, {ends_early}"
                );
            });
        }
    }
}

#[test]
fn end_before_start_ends_follower() {
    run(async {
        let source = Ending::new(ContainerStatus::Created, false);
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        let never = tokio::time::timeout(Duration::from_secs(3600), reader.next()).await;
        assert!(never.is_err(), "{never:?}");
        // The end is watched once, independent of the number of status requests.
        assert_eq!(source.watches.load(std::sync::atomic::Ordering::Relaxed), 1);
        source.status.send_replace(ContainerStatus::Exited);
        let ended = tokio::time::Instant::now();
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "x\n");
        assert!(reader.next().await.is_none());
        assert!(ended.elapsed() <= Duration::from_millis(50), "{:?}", ended.elapsed());
    });
}
