//! Exit watcher: any number of waiters for exits of containers, over one source.

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

/// Observation of a container by a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The container exists and has not ended.
    Alive,
    /// The container exists and may have ended: [`ExitSource::inspect`] is required to decide, or
    /// to get the exit.
    Unclear,
    /// The container has ended.
    Ended(Exit),
    /// The container does not exist.
    Gone,
}

/// A wake-up of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// The state of this container may have changed. The exit is present if the wake-up carries
    /// one; it is used if the container no longer exists when it is inspected.
    Container(ContainerId, Option<Exit>),
    /// This container was removed at this time of the caller's clock. A waiter that was registered
    /// before returns the exit reason `Removed`.
    Removed(ContainerId, SystemTime),
    /// The state of any container may have changed.
    All,
}

/// Wake-ups of one connection. The stream ends with the connection.
pub type WakeStream = BoxStream<'static, Result<Wake>>;

/// Source of the exits of containers.
///
/// Errors of kind `Unavailable`, `Timeout`, `Lost`, `ResourceExhausted` and `Internal` are retried;
/// all other errors end the affected waits.
#[async_trait]
pub trait ExitSource: Send + Sync + 'static {
    /// Opens the stream that all waiters share. No change after the open is missed. The stream ends
    /// with its connection, and is then opened again.
    async fn watch(&self) -> Result<WakeStream>;

    /// Observes many containers with one request. Containers that are missing in the result do not
    /// exist.
    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>>;

    /// Observes one container. `seen` is the exit that a wake-up carried.
    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight>;

    /// Returns a future that waits for one container more cheaply than the stream, if the source
    /// has one. It is used while there is only one container to wait for.
    fn alone(&self, id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>>;
}

/// The exit watcher of one runtime.
///
/// While there are waiters, one task holds one stream of the source. The task ends with the last
/// waiter. A waiter is removed when its future is dropped.
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
    /// Notified when a waiter is added or removed, or when a container has to be rechecked.
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<ContainerId, Entry>,
    has_driver: bool,
    /// `true` if the last driver that was dropped early had panicked.
    panicked: bool,
    /// Containers observed by a driver that ended with its executor.
    seen_before: HashSet<ContainerId>,
    /// Number of changes, so that a driver can detect changes since its last step.
    changes: u64,
}

struct Entry {
    waiters: usize,
    /// When the first waiter was registered.
    since: SystemTime,
    /// `true` if the container was observed to exist at that time or later.
    seen_alive: bool,
    recheck: Recheck,
    result: watch::Sender<Option<Result<Exit>>>,
}

/// Pending recheck of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Recheck {
    None,
    /// Recheck together with other containers.
    Batch,
    /// Recheck individually, because the container has ended or is likely to have ended.
    Inspect(Option<Exit>),
}

impl ExitHub {
    /// Creates an exit watcher over `source`. Every `resync`, all awaited containers are rechecked
    /// independently of the stream, because an engine may change a container without an event.
    #[must_use]
    pub fn new(source: impl ExitSource, resync: Duration) -> Self {
        let source = Box::new(source);
        let state = Mutex::default();
        Self { inner: Arc::new(Inner { source, resync, state, changed: Notify::new() }) }
    }

    /// Waits for the exit of a container. See [`Container::wait`](runtime_core::Container::wait).
    ///
    /// # Errors
    /// `NotFound` if the container did not exist at its first observation; errors of the source
    /// that are not retried.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        loop {
            let mut waiter = self.inner.register(id);
            let result = waiter.result.wait_for(Option::is_some).await;
            match result.as_deref() {
                Ok(Some(result)) => return result.clone(),
                // The task has ended with the executor of another caller. It is spawned again on
                // this one.
                _ if !self.inner.lock().panicked => {}
                _ => {
                    let error = Error::internal("the exit watcher panicked");
                    return Err(error.about(id));
                }
            }
        }
    }

    /// Rechecks a container, after a change that the source may not report. No-op without waiters.
    pub fn poke(&self, id: &ContainerId) {
        let mut state = self.inner.lock();
        if let Some(entry) = state.entries.get_mut(id) {
            entry.request(Recheck::Inspect(None));
            self.inner.change(&mut state);
        }
    }

    /// Marks a container as existing before its removal, so that current waiters get the exit
    /// `Removed` instead of `NotFound`. No-op without waiters.
    pub fn removing(&self, id: &ContainerId) {
        self.inner.mark_existing(id);
    }

    /// Returns the number of awaited containers.
    #[must_use]
    pub fn waited_for(&self) -> usize {
        self.inner.lock().entries.len()
    }
}

impl Entry {
    fn request(&mut self, recheck: Recheck) {
        match (&self.recheck, &recheck) {
            (Recheck::Inspect(Some(_)), _) | (Recheck::Inspect(None), Recheck::Batch) => {}
            _ => self.recheck = recheck,
        }
    }
}

/// A registered waiter. Dropping it removes the registration.
struct Waiter {
    inner: Arc<Inner>,
    id: ContainerId,
    result: watch::Receiver<Option<Result<Exit>>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let Some(entry) = state.entries.get_mut(&self.id) else { return };
        // The entry may be a later one of the same container, with other waiters.
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
            recheck: Recheck::Batch,
            result: watch::Sender::new(None),
        });
        entry.waiters += 1;
        let result = entry.result.subscribe();
        self.change(&mut state);
        if !state.has_driver {
            state.has_driver = true;
            tokio::spawn(Driver::new(Arc::clone(self)).run());
        }
        Waiter { inner: Arc::clone(self), id: id.clone(), result }
    }

    fn resolve(&self, id: &ContainerId, result: Result<Exit>) {
        if let Some(entry) = self.lock().entries.remove(id) {
            entry.result.send_replace(Some(result));
        }
    }

    /// Applies an item of the wake-up stream.
    fn take(&self, wake: Option<Result<Wake>>) -> Result<()> {
        let wake = wake.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unavailable).with_message("the event stream ended"))
        })?;
        let mut state = self.lock();
        match wake {
            Wake::Container(id, seen) => {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.request(Recheck::Inspect(seen));
                }
            }
            Wake::Removed(id, at) => {
                if let Some(entry) = state.entries.get_mut(&id) {
                    entry.seen_alive |= entry.since <= at;
                    entry.request(Recheck::Inspect(None));
                }
            }
            Wake::All => {
                for entry in state.entries.values_mut() {
                    entry.request(Recheck::Batch);
                }
            }
        }
        Ok(())
    }

    /// Marks a container as existing.
    fn mark_existing(&self, id: &ContainerId) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.seen_alive = true;
        }
    }

    /// Applies an observation of a container.
    fn apply(&self, id: &ContainerId, sight: Sight) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(id) else { return };
        match sight {
            Sight::Alive => entry.seen_alive = true,
            Sight::Unclear => {
                entry.seen_alive = true;
                entry.request(Recheck::Inspect(None));
            }
            Sight::Ended(exit) => {
                drop(state);
                self.resolve(id, Ok(exit));
            }
            Sight::Gone => {
                let result = if entry.seen_alive {
                    Ok(Exit::new(ExitReason::Removed))
                } else {
                    Err(Error::new(ErrorKind::NotFound).about(id))
                };
                drop(state);
                self.resolve(id, result);
            }
        }
    }
}
