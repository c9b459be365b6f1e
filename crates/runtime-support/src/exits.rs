//! Any number of waiters for the ends of containers, over one source.

mod driver;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use runtime_core::{ContainerId, Error, ErrorKind, Exit, ExitReason, Result};
use tokio::sync::{Notify, watch};

use driver::Driver;

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
    /// This container was removed, at this time of the caller's clock. A waiter that began before
    /// that has waited for a container that was there.
    Removed(ContainerId, SystemTime),
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
    /// Whether the last driver that did not end by itself has panicked.
    panicked: bool,
    /// Containers that were seen by a driver which ended with its executor.
    seen_before: HashSet<ContainerId>,
    /// How many changes there were: a driver that saw this number has seen them all.
    changes: u64,
}

struct Entry {
    waiters: usize,
    /// When the first waiter began.
    since: SystemTime,
    /// Whether it was there when it was looked at, or after that.
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
        loop {
            let mut waiter = self.inner.register(id);
            let result = waiter.result.wait_for(Option::is_some).await;
            match result.as_deref() {
                Ok(Some(result)) => return result.clone(),
                // The task has ended with the executor of another caller: it is spawned here.
                _ if !self.inner.lock().panicked => {}
                _ => {
                    let error = Error::internal("the task that waits for exits has ended");
                    return Err(error.about(id));
                }
            }
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

    /// Says that a container is there and about to be removed: those who wait for it now, and have
    /// not been answered, learn that it was removed and not that it was never there.
    pub fn removing(&self, id: &ContainerId) {
        self.inner.exists(id);
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
        let seen_alive = state.seen_before.remove(id);
        let entry = state.entries.entry(id.clone()).or_insert_with(|| Entry {
            waiters: 0,
            since: SystemTime::now(),
            seen_alive,
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

    /// Takes what the stream of wakes has given.
    fn take(&self, wake: Option<Result<Wake>>) -> Result<()> {
        let wake = wake.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unavailable).with_message("the stream of events has ended"))
        })?;
        let mut state = self.lock();
        match wake {
            Wake::Container(id, seen) => {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.want(Look::Inspect(seen));
                }
            }
            Wake::Removed(id, at) => {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.seen_alive |= entry.since <= at;
                    entry.want(Look::Inspect(None));
                }
            }
            Wake::All => {
                for entry in state.entries.values_mut() {
                    entry.want(Look::Any);
                }
            }
        }
        Ok(())
    }

    /// Notes that a container is there, or was when it was waited for.
    fn exists(&self, id: &ContainerId) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.seen_alive = true;
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
