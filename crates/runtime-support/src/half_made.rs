//! Background cleanup of cancelled operations.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks of a connection that create containers or undo a create. They continue when the caller
/// drops its future, and the connection waits for them before it closes.
#[derive(Debug, Clone, Default)]
pub struct HalfMade {
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl HalfMade {
    /// Spawns `work`, which runs to completion even if the handle is dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(work)
    }

    /// Spawns `work` on an executor from a thread that may not belong to one, for example in
    /// `Drop`.
    pub fn spawn_on(&self, work: impl Future<Output = ()> + Send + 'static, handle: &Handle) {
        drop(self.tasks.spawn_on(work, handle));
    }

    /// Returns `true` if the connection is about to close. New tasks are then not waited for.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Runs `work` until the connection is about to close, then returns `None`. A result that is
    /// ready takes precedence over the close.
    pub async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_closing() {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.closing.cancelled() => None,
        }
    }

    /// Runs `work` until `grace` after the connection is about to close, then returns `None`.
    pub async fn until_closing<T>(
        &self,
        grace: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let overdue = async {
            self.closing.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = overdue => None,
        }
    }

    /// Sleeps for `delay` before another attempt. Returns `false` without sleeping if no attempt is
    /// possible: `deadline` is too near, or the connection is about to close.
    pub async fn another(&self, delay: Duration, deadline: Instant) -> bool {
        if self.is_closing() || Instant::now() + delay > deadline {
            return false;
        }
        // If the connection begins to close during the sleep, one more attempt follows.
        let _ = self.unless_closing(tokio::time::sleep(delay)).await;
        true
    }

    /// Refuses new work and waits for the running tasks, at most for `deadline`. Closing twice is a
    /// no-op.
    pub async fn close(&self, deadline: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!("runtime closed before background cleanup completed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn close_waits_for_running_tasks() {
        let half_made = HalfMade::default();
        let done = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&done);
        half_made.spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            count.fetch_add(1, Ordering::Relaxed);
        });
        half_made.close(LONG).await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert_eq!(half_made.unless_closing(async { 1 }).await, None);
        // A second close is a no-op.
        half_made.close(LONG).await;
    }

    #[tokio::test(start_paused = true)]
    async fn close_returns_at_deadline() {
        let half_made = HalfMade::default();
        half_made.spawn(std::future::pending::<()>());
        let start = Instant::now();
        half_made.close(Duration::from_secs(3)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn until_closing_after_close_runs_for_grace() {
        let half_made = HalfMade::default();
        let sleep = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let second = Duration::from_secs(1);
        assert!(half_made.until_closing(second, sleep(100)).await.is_some());
        half_made.close(LONG).await;
        let start = Instant::now();
        assert!(half_made.until_closing(second * 3, sleep(2)).await.is_some());
        assert!(half_made.until_closing(second * 3, sleep(4)).await.is_none());
        assert_eq!(start.elapsed(), second * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn another_during_close_allows_one_more_attempt() {
        let half_made = HalfMade::default();
        let (attempts, until) = (Arc::new(AtomicU32::new(0)), Instant::now() + LONG);
        let (count, this) = (Arc::clone(&attempts), half_made.clone());
        half_made.spawn(async move {
            loop {
                count.fetch_add(1, Ordering::Relaxed);
                if !this.another(Duration::from_secs(60), until).await {
                    return;
                }
            }
        });
        let waits = half_made.unless_closing(std::future::pending::<()>());
        let close = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            half_made.close(LONG).await;
        };
        let start = Instant::now();
        let (waited, ()) = tokio::join!(waits, close);
        assert_eq!((waited, attempts.load(Ordering::Relaxed)), (None, 2));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn another_beyond_deadline_returns_false() {
        let half_made = HalfMade::default();
        let until = Instant::now() + Duration::from_secs(10);
        assert!(half_made.another(Duration::from_secs(6), until).await);
        assert!(!half_made.another(Duration::from_secs(6), until).await);
    }
}
