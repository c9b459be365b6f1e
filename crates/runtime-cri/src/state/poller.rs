//! Container poller: one list poll that all operations of a connection share.
//!
//! The CRI has no method that waits, and many engines lack events, deliver each event to one client
//! only, or have them disabled. So a repeated list decides, and everything else only triggers
//! the next list: the events of the engine, calls of this library, and the log file of a container,
//! which the engine closes when the container ends.

mod triggers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use runtime_core::{Backoff, ContainerId, ContainerStatus, ErrorKind, Operation, Result};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::triggers::PollTriggers;
use super::connection::Connection;
use super::inspect;
use crate::client::too_late;
use crate::host::directory_watcher::DirectoryWatcher;
use crate::model::container::{Details, ListedContainer};

/// Delay of the next list after a change.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest delay between two lists.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Capacity of the channel of a subscriber. A subscriber whose channel is full is dropped, and its
/// channel ends.
pub(crate) const CHANNEL_CAPACITY: usize = 4096;

/// Number of containers that are inspected at the same time.
pub(crate) const INSPECT_CONCURRENCY: usize = 8;

/// Difference between two lists.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Entry of the earlier list; `None` if the container is new.
    pub(crate) before: Option<ListedContainer>,
    /// Entry of the later list; `None` if the container is gone.
    pub(crate) after: Option<ListedContainer>,
    /// Time of the later list.
    pub(crate) noticed: SystemTime,
    /// Result of an inspection, for a container that was started.
    pub(crate) details: Option<Arc<Details>>,
}

impl Change {
    /// Returns the id of the container.
    pub(crate) fn id(&self) -> Option<&ContainerId> {
        self.after.as_ref().or(self.before.as_ref()).map(|listed| &listed.info.id)
    }

    /// Returns the change for a container that exists, as if it were new.
    pub(crate) async fn appeared(connection: &Connection, listed: ListedContainer) -> Result<Self> {
        let noticed = SystemTime::now();
        let mut change = Self { before: None, after: Some(listed), noticed, details: None };
        change.inspect(connection).await?;
        Ok(change)
    }

    /// Adds the details, which a list lacks.
    async fn inspect(&mut self, connection: &Connection) -> Result<()> {
        let is_started = |listed: &&ListedContainer| listed.info.status != ContainerStatus::Created;
        let Some(listed) = self.after.as_ref().filter(is_started) else { return Ok(()) };
        match inspect::details(connection, Operation::Events, &listed.info.id).await {
            Ok(details) => self.details = Some(Arc::new(details)),
            // It was removed after the list: the next list reports that.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Handle of the container poller of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Poller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: Arc<Connection>,
    watcher: DirectoryWatcher,
    state: Mutex<State>,
    /// Held during a list: results are applied in the order of the requests.
    list_lock: tokio::sync::Mutex<()>,
    poll_now: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// The last list. `None` before the first list and while there are no subscribers.
    table: Option<HashMap<ContainerId, ListedContainer>>,
    subscribers: Vec<Subscriber>,
    /// Whether the task that lists was started and has not ended.
    running: bool,
}

#[derive(Debug)]
struct Subscriber {
    changes: mpsc::Sender<Change>,
    /// Whether its changes need details.
    details: bool,
}

impl State {
    fn publish(&mut self, changes: &[Change]) {
        for change in changes {
            self.subscribers
                .retain(|subscriber| subscriber.changes.try_send(change.clone()).is_ok());
        }
    }
}

impl Poller {
    /// Returns the poller of a connection. It sends no request before the first subscription.
    pub(crate) fn new(connection: Arc<Connection>, watcher: DirectoryWatcher) -> Self {
        let shared = Shared {
            connection,
            watcher,
            state: Mutex::default(),
            list_lock: tokio::sync::Mutex::default(),
            poll_now: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the connection that the poller uses.
    pub(crate) fn connection(&self) -> &Connection {
        &self.shared.connection
    }

    /// Returns the containers that exist now, and a channel of all later changes.
    pub(crate) async fn subscribe(
        &self,
        operation: Operation,
        details: bool,
    ) -> Result<(Vec<ListedContainer>, mpsc::Receiver<Change>)> {
        let shared = &self.shared;
        // A list separates earlier changes from later ones. One deadline covers the lock and the
        // list, so that callers do not wait for the deadlines of earlier callers.
        let deadline = shared.connection.context.deadlines.query;
        tokio::time::timeout(deadline, shared.refresh(operation))
            .await
            .unwrap_or_else(|_| Err(too_late(operation, deadline)))?;
        let (changes, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let mut state = shared.lock();
        let now = state.table.iter().flat_map(HashMap::values).cloned().collect();
        state.subscribers.push(Subscriber { changes, details });
        let was_running = std::mem::replace(&mut state.running, true);
        drop(state);
        if was_running {
            shared.poll_now.notify_one();
        } else {
            // The task begins with the shortest delay, after the list above. The lock is not held,
            // because an executor that is shutting down drops the task at once.
            tokio::spawn(run(ResetOnDrop(Arc::downgrade(shared))));
        }
        Ok((now, receiver))
    }

    /// Lists, and publishes the changes since the last list.
    pub(crate) async fn refresh(&self, operation: Operation) -> Result<()> {
        self.shared.refresh(operation).await.map(drop)
    }

    /// Publishes changes as if a list had found them.
    #[cfg(test)]
    pub(crate) fn publish(&self, changes: &[Change]) {
        self.shared.lock().publish(changes);
    }

    /// Triggers the next list. No-op without subscribers, because a new subscriber lists first.
    pub(crate) fn poll_now(&self) {
        if self.shared.lock().running {
            self.shared.poll_now.notify_one();
        }
    }

    /// Returns whether the last list had this container.
    pub(crate) fn has(&self, id: &ContainerId) -> bool {
        self.shared.lock().table.as_ref().is_some_and(|table| table.contains_key(id))
    }
}

impl Shared {
    /// Lists, and publishes the changes since the last list. Returns whether there are any.
    async fn refresh(&self, operation: Operation) -> Result<bool> {
        let _list_lock = self.list_lock.lock().await;
        let table = self.connection.list(operation).await?;
        let mut changes = self.compare(&table);
        if self.needs_details() {
            let inspected = changes.into_iter().map(|mut change| async move {
                change.inspect(&self.connection).await.map(|()| change)
            });
            changes = stream::iter(inspected.collect::<Vec<_>>())
                .buffered(INSPECT_CONCURRENCY)
                .try_collect()
                .await?;
        }
        let mut state = self.lock();
        state.table = Some(table);
        state.publish(&changes);
        Ok(!changes.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn needs_details(&self) -> bool {
        let state = self.lock();
        state.subscribers.iter().any(|one| one.details && !one.changes.is_closed())
    }

    /// Returns the differences between the last list and `after`.
    fn compare(&self, after: &HashMap<ContainerId, ListedContainer>) -> Vec<Change> {
        let state = self.lock();
        let Some(before) = &state.table else { return Vec::new() };
        let noticed = SystemTime::now();
        let change = |before, after| Change { before, after, noticed, details: None };
        let moved = after.iter().filter_map(|(id, listed)| {
            let old = before.get(id);
            let differs = old.is_none_or(|old| old.info.status != listed.info.status);
            differs.then(|| change(old.cloned(), Some(listed.clone())))
        });
        let gone = before
            .iter()
            .filter(|(id, _)| !after.contains_key(*id))
            .map(|(_, listed)| change(Some(listed.clone()), None));
        moved.chain(gone).collect()
    }
}

/// Resets the state when the task ends, also if its executor ends first: the channels of the
/// subscribers end, and a later subscriber starts the task on another executor.
struct ResetOnDrop(Weak<Shared>);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            *shared.lock() = State::default();
        }
    }
}

/// Lists while there are subscribers.
async fn run(mut reset: ResetOnDrop) {
    let shared = reset.0.clone();
    let mut next = POLL_INTERVAL_MIN;
    let mut backoff = Backoff::default();
    let mut triggers = PollTriggers::default();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let closed = strong.connection.context.closed.clone();
        {
            let mut state = strong.lock();
            state.subscribers.retain(|subscriber| !subscriber.changes.is_closed());
            if state.subscribers.is_empty() || closed.is_cancelled() {
                // Under the lock: a subscriber that is added after this starts another task.
                *state = State::default();
                reset.0 = Weak::new();
                return;
            }
        }
        let until = Instant::now() + next;
        let poll_now = strong.poll_now.clone();
        let file_closed = strong.watcher.any_closed();
        triggers.open_events(&strong.connection);
        // The task holds no strong reference while it sleeps, so that a dropped runtime ends it.
        drop(strong);
        let triggered = tokio::select! {
            () = poll_now.notified() => true,
            () = triggers.fire(file_closed) => true,
            () = tokio::time::sleep_until(until) => false,
            () = closed.cancelled() => false,
        };
        let Some(strong) = shared.upgrade() else { return };
        match strong.refresh(Operation::Wait).await {
            Ok(changed) => {
                backoff.reset();
                let state = strong.lock();
                if let Some(table) = &state.table {
                    triggers.watch_logs(&strong.watcher, table);
                }
                drop(state);
                next = if triggered || changed {
                    // A trigger can precede the state that the engine lists.
                    POLL_INTERVAL_MIN
                } else {
                    // From the shortest on, because an engine closes the log, or sends the event,
                    // some tens of milliseconds before its list has the end.
                    (next * 3 / 2).clamp(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX)
                };
            }
            Err(_) if closed.is_cancelled() => {}
            Err(error) => {
                tracing::debug!(%error, "failed to list the containers: retrying");
                next = backoff.delay();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::{ContainerSpec, PullPolicy, Runtime as _, Scope};
    use runtime_support::backend::Connected;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::connect::open;
    use crate::fake_crio::FakeCrio;
    use crate::options::{CriOptions, LogRotation};
    use crate::state::connection::Ownership;

    fn executor() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn subscribe_after_the_end_of_the_executor_starts_the_task_again() {
        let (server, first, second) = (executor(), executor(), executor());
        let fake = server.block_on(async { FakeCrio::start() });
        let options = CriOptions::new(Scope::new("s").unwrap())
            .endpoint(fake.endpoint().to_string())
            .log_dir(fake.directory.path().join("logs"))
            .state_dir(fake.directory.path().join("state"))
            .log_rotation(LogRotation::Off);
        let backend = first.block_on(open(options, Ownership::Managed)).unwrap();
        let (_, mut old) =
            first.block_on(backend.poller.subscribe(Operation::Events, false)).unwrap();
        drop(first);
        second.block_on(async {
            let (_, mut new) = backend.poller.subscribe(Operation::Events, false).await.unwrap();
            let runtime = Connected::new(Arc::clone(&backend));
            let spec = ContainerSpec::new("r.io/a:1").command(["x"]);
            let spec = spec.pull_policy(PullPolicy::Never);
            let container = runtime.create_container(&spec).await.unwrap();
            let limit = Duration::from_secs(10);
            let ended = tokio::time::timeout(limit, old.recv()).await.unwrap();
            assert!(ended.is_none(), "the channel of the first executor's task ends");
            let change = tokio::time::timeout(limit, new.recv()).await.unwrap();
            assert_eq!(change.unwrap().id(), Some(container.id()));
        });
    }
}
