//! The task that serves the waiters of an exit watcher.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use runtime_core::{Backoff, ContainerId, Error, ErrorKind, Exit, Result};

use super::{Inner, Recheck, Sight, WakeStream};

/// Maximum number of concurrent inspections.
const INSPECTIONS_MAX: usize = 8;

/// Interval of rechecks while a single container is awaited by its own future, because a silent
/// connection is not detected otherwise.
const ALONE_RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The task that serves the waiters.
pub(super) struct Driver {
    inner: Arc<Inner>,
    wakes: Option<WakeStream>,
    /// The container that is awaited by its own future, if any.
    alone: Option<(ContainerId, BoxFuture<'static, Result<Sight>>)>,
    /// Set when that future failed or returned without an end; reset when the stream is opened.
    alone_failed: bool,
    /// Timer for the recheck of that container.
    alone_check: Pin<Box<tokio::time::Sleep>>,
    backoff: Backoff,
    resync: Pin<Box<tokio::time::Sleep>>,
    /// `true` if the driver ended regularly, not by a panic or the shutdown of its executor.
    done: bool,
}

/// Next action of the driver.
enum Step {
    End,
    Alone,
    Open,
    Snapshot(Vec<ContainerId>),
    Inspect(Vec<(ContainerId, Option<Exit>)>),
    Idle,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            // After a panic the waiters get an error, and the next waiter starts a new driver.
            // After the shutdown of the executor, waiters on other executors register again.
            let mut state = self.inner.lock();
            state.has_driver = false;
            state.panicked = std::thread::panicking();
            let entries = std::mem::take(&mut state.entries);
            let seen = entries.into_iter().filter(|(_, entry)| entry.seen_alive);
            state.seen_before = seen.map(|(id, _)| id).collect();
        }
    }
}

impl Driver {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let resync = Box::pin(tokio::time::sleep(inner.resync));
        Self {
            inner,
            wakes: None,
            alone: None,
            alone_failed: false,
            alone_check: Box::pin(tokio::time::sleep(ALONE_RECHECK_INTERVAL)),
            backoff: Backoff::default(),
            resync,
            done: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let done = match self.take_ready_wakes() {
                Ok(()) => {
                    let (step, changes) = self.next_step();
                    match step {
                        Step::End => {
                            self.done = true;
                            return;
                        }
                        Step::Alone => self.wait_alone().await,
                        Step::Open => self.open().await,
                        Step::Snapshot(ids) => self.snapshot(&ids).await,
                        Step::Inspect(ids) => self.inspect(ids).await,
                        Step::Idle => self.idle(changes).await,
                    }
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {}
                Err(error) if is_final(&error) => self.fail_all(&error),
                Err(error) => {
                    tracing::debug!(%error, "failed to watch exits; retrying");
                    self.wakes = None;
                    self.alone = None;
                    self.alone_failed = true;
                    tokio::time::sleep(self.backoff.delay()).await;
                }
            }
        }
    }

    fn next_step(&mut self) -> (Step, u64) {
        let inner = Arc::clone(&self.inner);
        let mut state = inner.lock();
        let changes = state.changes;
        if state.entries.is_empty() {
            // Still under the lock, so that no waiter can register between the check and the end.
            state.has_driver = false;
            return (Step::End, changes);
        }
        if self.wakes.is_none() && !self.alone_failed && state.entries.len() == 1 {
            let only =
                state.entries.iter().next().filter(|(_, entry)| entry.recheck == Recheck::Batch);
            let id = only.map(|(id, _)| id.clone());
            if let Some(id) = id {
                if self.alone.as_ref().is_some_and(|(alone, _)| *alone == id) {
                    return (Step::Alone, changes);
                }
                self.alone = inner.source.alone(&id).map(|future| (id, future));
                if self.alone.is_some() {
                    self.alone_check
                        .as_mut()
                        .reset(tokio::time::Instant::now() + ALONE_RECHECK_INTERVAL);
                    return (Step::Alone, changes);
                }
            }
        }
        self.alone = None;
        if self.wakes.is_none() {
            return (Step::Open, changes);
        }
        let mut single = Vec::new();
        let mut any = Vec::new();
        for (id, entry) in &mut state.entries {
            match std::mem::replace(&mut entry.recheck, Recheck::None) {
                Recheck::None => {}
                Recheck::Batch => any.push(id.clone()),
                Recheck::Inspect(seen) => single.push((id.clone(), seen)),
            }
        }
        if let [id] = any.as_slice() {
            single.push((id.clone(), None));
            any.clear();
        }
        let step = if !single.is_empty() {
            for id in any {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.recheck = Recheck::Batch;
                }
            }
            Step::Inspect(single)
        } else if any.is_empty() {
            Step::Idle
        } else {
            Step::Snapshot(any)
        };
        (step, changes)
    }

    async fn wait_alone(&mut self) -> Result<()> {
        let Some((id, future)) = &mut self.alone else { return Ok(()) };
        tokio::select! {
            biased;
            sight = future => {
                let id = id.clone();
                self.alone = None;
                let sight = sight?;
                // The container should have ended or be gone. If it is not, the stream takes over.
                self.alone_failed = matches!(sight, Sight::Alive | Sight::Unclear);
                self.inner.apply(&id, sight);
            }
            () = self.alone_check.as_mut() => {
                // The connection may be silent.
                let id = id.clone();
                self.inner.mark_existing(&id);
                let sight = self.inner.source.inspect(&id, None).await?;
                if sight != Sight::Alive {
                    self.alone = None;
                }
                self.inner.apply(&id, sight);
                self.alone_check.as_mut().reset(tokio::time::Instant::now() + ALONE_RECHECK_INTERVAL);
            }
            () = self.inner.changed.notified() => {}
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<()> {
        // Changes during the open need no action, because all containers are rechecked after it.
        let wakes = self.inner.source.watch().await?;
        self.wakes = Some(wakes);
        self.alone_failed = false;
        self.recheck_all();
        Ok(())
    }

    fn recheck_all(&mut self) {
        for entry in self.inner.lock().entries.values_mut() {
            entry.request(Recheck::Batch);
        }
        self.resync.as_mut().reset(tokio::time::Instant::now() + self.inner.resync);
    }

    async fn snapshot(&mut self, ids: &[ContainerId]) -> Result<()> {
        match self.inner.source.look(ids).await {
            Ok(sights) => {
                self.backoff.reset();
                let mut left: BTreeSet<&ContainerId> = ids.iter().collect();
                for (id, sight) in &sights {
                    if left.remove(id) {
                        self.inner.apply(id, sight.clone());
                    }
                }
                let gone: Vec<_> = left.into_iter().cloned().collect();
                self.apply_gone(&gone)
            }
            Err(error) => {
                for id in ids {
                    self.request(id, Recheck::Batch);
                }
                Err(error)
            }
        }
    }

    async fn inspect(&mut self, ids: Vec<(ContainerId, Option<Exit>)>) -> Result<()> {
        let inner = &self.inner;
        let mut observations = futures_util::stream::iter(ids)
            .map(|(id, seen)| async move {
                let sight = inner.source.inspect(&id, seen.clone()).await;
                (id, seen, sight)
            })
            .buffer_unordered(INSPECTIONS_MAX);
        let mut failed = Ok(());
        let mut gone = Vec::new();
        while let Some((id, seen, sight)) = observations.next().await {
            match sight {
                Ok(Sight::Gone) => gone.push(id),
                Ok(sight) => inner.apply(&id, sight),
                Err(error) if is_final(&error) => inner.resolve(&id, Err(error)),
                Err(error) => {
                    self.request(&id, Recheck::Inspect(seen));
                    failed = Err(error);
                }
            }
        }
        drop(observations);
        if failed.is_ok() {
            self.backoff.reset();
        }
        self.apply_gone(&gone)?;
        failed
    }

    /// Resolves the waits for containers that no longer exist. The removal can be among the wake-ups
    /// that are available by now.
    fn apply_gone(&mut self, gone: &[ContainerId]) -> Result<()> {
        let taken = self.take_ready_wakes();
        for id in gone {
            self.inner.apply(id, Sight::Gone);
        }
        taken
    }

    async fn idle(&mut self, changes: u64) -> Result<()> {
        let Some(wakes) = &mut self.wakes else { return Ok(()) };
        if self.inner.lock().changes != changes {
            return Ok(());
        }
        tokio::select! {
            biased;
            wake = wakes.next() => return self.inner.take(wake),
            () = self.inner.changed.notified() => {}
            () = self.resync.as_mut() => self.recheck_all(),
        }
        Ok(())
    }

    /// Applies the available wake-ups, so that containers that end together are inspected together,
    /// and a removal is applied before the container is checked.
    fn take_ready_wakes(&mut self) -> Result<()> {
        if self.inner.lock().entries.is_empty() {
            return Ok(());
        }
        while let Some(wakes) = &mut self.wakes
            && let Some(wake) = wakes.next().now_or_never()
        {
            self.inner.take(wake)?;
        }
        Ok(())
    }

    fn request(&self, id: &ContainerId, recheck: Recheck) {
        if let Some(entry) = self.inner.lock().entries.get_mut(id) {
            entry.request(recheck);
        }
    }

    fn fail_all(&mut self, error: &Error) {
        self.wakes = None;
        self.alone = None;
        let ids: Vec<_> = self.inner.lock().entries.keys().cloned().collect();
        for id in ids {
            self.inner.resolve(&id, Err(error.clone().about(&id)));
        }
    }
}

/// Returns `true` if a retry cannot succeed.
fn is_final(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Lost
            | ErrorKind::ResourceExhausted
            | ErrorKind::Internal
    )
}
