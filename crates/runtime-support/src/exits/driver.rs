//! The task that serves the waiters of a hub.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use runtime_core::{Backoff, ContainerId, Error, ErrorKind, Exit, Result};

use super::{Inner, Look, Sight, WakeStream};

/// How many containers are inspected at once.
const INSPECTIONS: usize = 8;

/// How often a container is looked at that is waited for in the cheaper way: nothing else shows
/// that its connection has gone silent.
const ALONE_CHECK: Duration = Duration::from_secs(10);

/// The task that serves the waiters.
pub(super) struct Driver {
    inner: Arc<Inner>,
    wakes: Option<WakeStream>,
    /// The cheaper way for a single container, while it is taken.
    alone: Option<(ContainerId, BoxFuture<'static, Result<Sight>>)>,
    /// Set after the cheaper way did not lead to an end, until the next one does.
    alone_failed: bool,
    /// When to look at the container of the cheaper way.
    alone_check: Pin<Box<tokio::time::Sleep>>,
    backoff: Backoff,
    resync: Pin<Box<tokio::time::Sleep>>,
    /// Whether the driver ended by itself, and not by a panic of the source.
    done: bool,
}

/// What to do next.
enum Step {
    End,
    Alone,
    Open,
    Look(Vec<ContainerId>),
    Inspect(Vec<(ContainerId, Option<Exit>)>),
    Idle,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            // After a panic the waiters get an error instead of silence, and the next one a new driver.
            // After the end of the executor those on other executors register again.
            let mut state = self.inner.lock();
            state.driven = false;
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
            alone_check: Box::pin(tokio::time::sleep(ALONE_CHECK)),
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
                        Step::Look(ids) => self.look(&ids).await,
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
                    tracing::debug!(%error, "waiting for exits: trying again");
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
            // Under the lock, so that no waiter comes between the look and the end.
            state.driven = false;
            return (Step::End, changes);
        }
        if self.wakes.is_none() && !self.alone_failed && state.entries.len() == 1 {
            let only = state.entries.iter().next().filter(|(_, entry)| entry.look == Look::Any);
            let id = only.map(|(id, _)| id.clone());
            if let Some(id) = id {
                if self.alone.as_ref().is_some_and(|(alone, _)| *alone == id) {
                    return (Step::Alone, changes);
                }
                self.alone = inner.source.alone(&id).map(|future| (id, future));
                if self.alone.is_some() {
                    self.alone_check.as_mut().reset(tokio::time::Instant::now() + ALONE_CHECK);
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
            match std::mem::replace(&mut entry.look, Look::No) {
                Look::No => {}
                Look::Any => any.push(id.clone()),
                Look::Inspect(seen) => single.push((id.clone(), seen)),
            }
        }
        if let [id] = any.as_slice() {
            single.push((id.clone(), None));
            any.clear();
        }
        let step = if !single.is_empty() {
            for id in any {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.look = Look::Any;
                }
            }
            Step::Inspect(single)
        } else if any.is_empty() {
            Step::Idle
        } else {
            Step::Look(any)
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
                // Ended or gone it has to be now. If it is not, the stream will tell.
                self.alone_failed = matches!(sight, Sight::Alive | Sight::Unclear);
                self.inner.apply(&id, sight);
            }
            () = self.alone_check.as_mut() => {
                // The connection may be one of which nothing comes any more.
                let id = id.clone();
                self.inner.exists(&id);
                let sight = self.inner.source.inspect(&id, None).await?;
                if sight != Sight::Alive {
                    self.alone = None;
                }
                self.inner.apply(&id, sight);
                self.alone_check.as_mut().reset(tokio::time::Instant::now() + ALONE_CHECK);
            }
            () = self.inner.changed.notified() => {}
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<()> {
        // A change in the meantime needs no answer: what is new is looked at once it is open.
        let wakes = self.inner.source.watch().await?;
        self.wakes = Some(wakes);
        self.alone_failed = false;
        self.look_at_all();
        Ok(())
    }

    fn look_at_all(&mut self) {
        for entry in self.inner.lock().entries.values_mut() {
            entry.want(Look::Any);
        }
        self.resync.as_mut().reset(tokio::time::Instant::now() + self.inner.resync);
    }

    async fn look(&mut self, ids: &[ContainerId]) -> Result<()> {
        match self.inner.source.look(ids).await {
            Ok(sights) => {
                self.backoff.reset();
                let mut left: BTreeSet<&ContainerId> = ids.iter().collect();
                for (id, sight) in &sights {
                    if left.remove(id) {
                        self.inner.apply(id, sight.clone());
                    }
                }
                for id in left {
                    self.inner.apply(id, Sight::Gone);
                }
                Ok(())
            }
            Err(error) => {
                for id in ids {
                    self.want(id, Look::Any);
                }
                Err(error)
            }
        }
    }

    async fn inspect(&mut self, ids: Vec<(ContainerId, Option<Exit>)>) -> Result<()> {
        let inner = &self.inner;
        let mut answers = futures_util::stream::iter(ids)
            .map(|(id, seen)| async move {
                let sight = inner.source.inspect(&id, seen.clone()).await;
                (id, seen, sight)
            })
            .buffer_unordered(INSPECTIONS);
        let mut failed = Ok(());
        while let Some((id, seen, sight)) = answers.next().await {
            match sight {
                Ok(sight) => inner.apply(&id, sight),
                Err(error) if is_final(&error) => inner.settle(&id, Err(error)),
                Err(error) => {
                    self.want(&id, Look::Inspect(seen));
                    failed = Err(error);
                }
            }
        }
        drop(answers);
        if failed.is_ok() {
            self.backoff.reset();
        }
        failed
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
            () = self.resync.as_mut() => self.look_at_all(),
        }
        Ok(())
    }

    /// Takes the wakes that are there already, so that what ends together is inspected together, and
    /// the removal of a container counts before a look at it.
    fn take_ready_wakes(&mut self) -> Result<()> {
        while let Some(wakes) = &mut self.wakes
            && let Some(wake) = wakes.next().now_or_never()
        {
            self.inner.take(wake)?;
        }
        Ok(())
    }

    fn want(&self, id: &ContainerId, look: Look) {
        if let Some(entry) = self.inner.lock().entries.get_mut(id) {
            entry.want(look);
        }
    }

    fn fail_all(&mut self, error: &Error) {
        self.wakes = None;
        self.alone = None;
        let ids: Vec<_> = self.inner.lock().entries.keys().cloned().collect();
        for id in ids {
            self.inner.settle(&id, Err(error.clone().about(&id)));
        }
    }
}

/// Whether waiting longer does not help.
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
