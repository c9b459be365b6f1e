//! Any number of waiters for the ends of containers, over one source.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use runtime_core::{Backoff, ContainerId, Error, ErrorKind, Exit, ExitReason, Result};
use tokio::sync::{Notify, watch};

/// What a source knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It is there and has not ended.
    Alive,
    /// It is there, and may have ended: only [`ExitSource::inspect`] can tell, or tell how.
    Unclear,
    /// It has ended.
    Ended(Exit),
    /// It is not there.
    Gone,
}

/// Why a source wakes its waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Something happened to this container. The exit is given where the wake carries it: it
    /// counts if the container is gone by the time it is inspected.
    Container(ContainerId, Option<Exit>),
    /// Something may have happened to any.
    All,
}

/// Wakes, for as long as the connection lasts.
pub type WakeStream = BoxStream<'static, Result<Wake>>;

/// Where the ends of containers are learnt.
///
/// Errors of kind `Unavailable`, `Timeout`, `Lost`, `ResourceExhausted` and `Internal` are waited
/// out and tried again; all others end the waits that they concern.
#[async_trait]
pub trait ExitSource: Send + Sync + 'static {
    /// Opens the one stream for all waiters. What happens after it is open is not missed. It
    /// ends when the connection does, and is opened again.
    async fn watch(&self) -> Result<WakeStream>;

    /// Looks at many containers in one call. Those that are left out are gone.
    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>>;

    /// Looks at one container. `seen` is the exit that a wake carried.
    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight>;

    /// A way to wait for one container that is cheaper than the stream, if there is one. It is
    /// taken while nobody waits for another.
    fn alone(&self, id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>>;
}

/// The waiters of one runtime.
///
/// While somebody waits, one task holds one stream of the source. It ends with the last waiter,
/// and a waiter is gone when its future is dropped.
#[derive(Clone)]
pub struct ExitHub {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for ExitHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExitHub").field("containers", &self.inner.lock().entries.len()).finish()
    }
}

struct Inner {
    source: Box<dyn ExitSource>,
    resync: Duration,
    state: Mutex<State>,
    /// Told when a waiter comes or goes, or a container is to be looked at.
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<ContainerId, Entry>,
    driven: bool,
    /// How many changes there were: a driver that saw this number has seen them all.
    changes: u64,
}

struct Entry {
    waiters: usize,
    /// Whether it was there when it was looked at.
    seen_alive: bool,
    look: Look,
    result: watch::Sender<Option<Result<Exit>>>,
}

/// Whether an entry has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    No,
    /// Together with others.
    Any,
    /// By itself: it is known or likely to have ended.
    Inspect(Option<Exit>),
}

/// How many containers are inspected at once.
const INSPECTIONS: usize = 8;

impl ExitHub {
    /// A hub over `source`. Every `resync` all containers that are waited for are looked at,
    /// whatever the stream said: for what an engine changes without an event.
    #[must_use]
    pub fn new(source: impl ExitSource, resync: Duration) -> Self {
        let source = Box::new(source);
        let state = Mutex::default();
        Self { inner: Arc::new(Inner { source, resync, state, changed: Notify::new() }) }
    }

    /// Waits for the end of a container. See [`Container::wait`](runtime_core::Container::wait).
    ///
    /// # Errors
    /// `NotFound` when it was gone when it was first looked at; what the source says and what no
    /// patience mends.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        let mut waiter = self.inner.register(id);
        let result = waiter.result.wait_for(Option::is_some).await;
        match result.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(Error::internal("the task that waits for exits has ended").about(id)),
        }
    }

    /// Has a container looked at: something happened to it that the source may not tell.
    pub fn poke(&self, id: &ContainerId) {
        let mut state = self.inner.lock();
        if let Some(entry) = state.entries.get_mut(id) {
            entry.want(Look::Inspect(None));
            self.inner.change(&mut state);
        }
    }

    /// How many containers are waited for.
    #[must_use]
    pub fn waited_for(&self) -> usize {
        self.inner.lock().entries.len()
    }
}

impl Entry {
    fn want(&mut self, look: Look) {
        match (&self.look, &look) {
            (Look::Inspect(Some(_)), _) | (Look::Inspect(None), Look::Any) => {}
            _ => self.look = look,
        }
    }
}

/// One waiter. Dropping it takes it off the list.
struct Waiter {
    inner: Arc<Inner>,
    id: ContainerId,
    result: watch::Receiver<Option<Result<Exit>>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let Some(entry) = state.entries.get_mut(&self.id) else { return };
        // The entry may be a later one of the same container, with waiters of its own.
        if !entry.result.subscribe().same_channel(&self.result) {
            return;
        }
        entry.waiters -= 1;
        if entry.waiters == 0 {
            state.entries.remove(&self.id);
            self.inner.change(&mut state);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, state: &mut State) {
        state.changes += 1;
        self.changed.notify_one();
    }

    fn register(self: &Arc<Self>, id: &ContainerId) -> Waiter {
        let mut state = self.lock();
        let entry = state.entries.entry(id.clone()).or_insert_with(|| Entry {
            waiters: 0,
            seen_alive: false,
            look: Look::Any,
            result: watch::Sender::new(None),
        });
        entry.waiters += 1;
        let result = entry.result.subscribe();
        self.change(&mut state);
        if !state.driven {
            state.driven = true;
            tokio::spawn(Driver::new(Arc::clone(self)).run());
        }
        Waiter { inner: Arc::clone(self), id: id.clone(), result }
    }

    fn settle(&self, id: &ContainerId, result: Result<Exit>) {
        if let Some(entry) = self.lock().entries.remove(id) {
            entry.result.send_replace(Some(result));
        }
    }

    /// Applies what is known of a container.
    fn apply(&self, id: &ContainerId, sight: Sight) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(id) else { return };
        match sight {
            Sight::Alive => entry.seen_alive = true,
            Sight::Unclear => {
                entry.seen_alive = true;
                entry.want(Look::Inspect(None));
            }
            Sight::Ended(exit) => {
                drop(state);
                self.settle(id, Ok(exit));
            }
            Sight::Gone => {
                let result = if entry.seen_alive {
                    Ok(Exit::new(ExitReason::Removed))
                } else {
                    Err(Error::new(ErrorKind::NotFound).about(id))
                };
                drop(state);
                self.settle(id, result);
            }
        }
    }
}

/// The task that serves the waiters.
struct Driver {
    inner: Arc<Inner>,
    wakes: Option<WakeStream>,
    /// The cheaper way for a single container, while it is taken.
    alone: Option<(ContainerId, BoxFuture<'static, Result<Sight>>)>,
    /// Set after the cheaper way did not lead to an end, until the next one does.
    alone_failed: bool,
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
            // The waiters get an error instead of silence, and the next one a new driver.
            let mut state = self.inner.lock();
            state.driven = false;
            state.entries.clear();
        }
    }
}

impl Driver {
    fn new(inner: Arc<Inner>) -> Self {
        let resync = Box::pin(tokio::time::sleep(inner.resync));
        Self {
            inner,
            wakes: None,
            alone: None,
            alone_failed: false,
            backoff: Backoff::default(),
            resync,
            done: false,
        }
    }

    async fn run(mut self) {
        loop {
            let (step, changes) = self.next_step();
            let failure = match step {
                Step::End => {
                    self.done = true;
                    return;
                }
                Step::Alone => self.wait_alone().await,
                Step::Open => self.open().await,
                Step::Look(ids) => self.look(&ids).await,
                Step::Inspect(ids) => self.inspect(ids).await,
                Step::Idle => self.idle(changes).await,
            };
            match failure {
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
            wake = wakes.next() => {
                // Those that are there already are taken together, so that what ends together
                // is inspected together.
                let mut next = Some(wake);
                while let Some(wake) = next {
                    match wake {
                        Some(Ok(Wake::Container(id, seen))) => {
                            Self::wake(&self.inner, &id, seen);
                        }
                        Some(Ok(Wake::All)) => {
                            for entry in self.inner.lock().entries.values_mut() {
                                entry.want(Look::Any);
                            }
                        }
                        Some(Err(error)) => return Err(error),
                        None => {
                            return Err(Error::new(ErrorKind::Unavailable)
                                .with_message("the stream of events has ended"));
                        }
                    }
                    next = wakes.next().now_or_never();
                }
            }
            () = self.inner.changed.notified() => {}
            () = self.resync.as_mut() => self.look_at_all(),
        }
        Ok(())
    }

    fn wake(inner: &Inner, id: &ContainerId, seen: Option<Exit>) {
        if let Some(entry) = inner.lock().entries.get_mut(id) {
            entry.want(Look::Inspect(seen));
        }
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
