//! What a connection still has to do when its caller has gone.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The creates of a connection and their undoing, which go on when nobody waits for them any more,
/// and which a connection waits for before it closes.
#[derive(Debug, Clone, Default)]
pub struct HalfMade {
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl HalfMade {
    /// Does `work` to its end, whoever waits for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(work)
    }

    /// The same from where there may be no executor, as in a drop.
    pub fn spawn_on(&self, work: impl Future<Output = ()> + Send + 'static, handle: &Handle) {
        drop(self.tasks.spawn_on(work, handle));
    }

    /// Whether the connection is about to close. What is begun now is not waited for.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Does `work` until the connection is about to close: `None`. What is ready counts for more.
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

    /// Runs `work` until the connection is about to close, and for `grace` more after that. Returns
    /// `None` if that was not enough.
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

    /// Waits before another attempt. `false` when there is no time for one: `until` is near, or the
    /// connection is about to close and waits for this.
    pub async fn another(&self, after: Duration, until: Instant) -> bool {
        if self.is_closing() || Instant::now() + after > until {
            return false;
        }
        // One attempt more for a connection that has begun to close in the meantime.
        let _ = self.unless_closing(tokio::time::sleep(after)).await;
        true
    }

    /// Lets no more begin, and waits for what is left, but no longer than `deadline`.
    pub async fn close(&self, deadline: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!("a runtime was closed while something was still being undone");
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
    async fn closing_waits_for_what_has_begun() {
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
        // Again is no error, and has nothing to wait for.
        half_made.close(LONG).await;
    }

    #[tokio::test(start_paused = true)]
    async fn closing_has_an_end() {
        let half_made = HalfMade::default();
        half_made.spawn(std::future::pending::<()>());
        let begun = Instant::now();
        half_made.close(Duration::from_secs(3)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn work_until_closing_has_its_grace_and_no_more() {
        let half_made = HalfMade::default();
        let sleep = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let second = Duration::from_secs(1);
        assert!(half_made.until_closing(second, sleep(100)).await.is_some());
        half_made.close(LONG).await;
        let begun = Instant::now();
        assert!(half_made.until_closing(second * 3, sleep(2)).await.is_some());
        assert!(half_made.until_closing(second * 3, sleep(4)).await.is_none());
        assert_eq!(begun.elapsed(), second * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_when_closing_begins_and_has_one_attempt_more() {
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
        let begun = Instant::now();
        let (waited, ()) = tokio::join!(waits, close);
        assert_eq!((waited, attempts.load(Ordering::Relaxed)), (None, 2));
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_attempt_after_the_last_moment() {
        let half_made = HalfMade::default();
        let until = Instant::now() + Duration::from_secs(10);
        assert!(half_made.another(Duration::from_secs(6), until).await);
        assert!(!half_made.another(Duration::from_secs(6), until).await);
    }
}
