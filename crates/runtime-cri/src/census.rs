//! One look at all containers of the scope, for everyone who wants to know what changes.
//!
//! The CRI has no call to wait with, and its events are missing, stolen or switched off on many
//! engines. So a list that is asked for again and again decides; everything else only makes the
//! next one come sooner: the engine's events, our own calls, and the log file of a container,
//! which the engine closes when the container ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use runtime_core::{
    Backoff, ContainerId, ContainerInfo, ContainerStatus, ErrorKind, Operation, Result,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::too_late;
use crate::folders::{Subscription, Wanted};
use crate::generated as cri;
use crate::info::from_list;
use crate::notes::Notes;
use crate::shared::{Shared, is_closed};
use crate::wait;

/// The time to the next list after a change, and the longest one.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// How many log folders are watched for the ends of containers.
const MOST_WATCHED: usize = 1024;

/// What the last list said of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) info: ContainerInfo,
    pub(crate) sandbox: String,
    pub(crate) notes: Arc<Notes>,
}

/// What is different from the list before. A container that is there now and was not has nothing
/// before; one that has gone has nothing after.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) before: Option<Seen>,
    pub(crate) after: Option<Seen>,
    /// When it was found out.
    pub(crate) noticed: SystemTime,
    /// What the list does not say, of a container that was started.
    pub(crate) detail: Option<Arc<Detail>>,
}

/// What the engine says of a container that is asked for by itself.
#[derive(Debug, Clone)]
pub(crate) struct Detail {
    pub(crate) info: ContainerInfo,
    pub(crate) out_of_memory: bool,
}

impl Change {
    /// Which container it is about.
    pub(crate) fn id(&self) -> Option<&ContainerId> {
        self.after.as_ref().or(self.before.as_ref()).map(|seen| &seen.info.id)
    }

    /// A container that is there, as if it was not before.
    pub(crate) async fn appeared(shared: &Shared, seen: Seen) -> Result<Self> {
        let noticed = SystemTime::now();
        let mut change = Self { before: None, after: Some(seen), noticed, detail: None };
        change.ask(shared).await?;
        Ok(change)
    }

    /// Asks for what the list does not say.
    async fn ask(&mut self, shared: &Shared) -> Result<()> {
        let started = |seen: &&Seen| seen.info.status != ContainerStatus::Created;
        let Some(seen) = self.after.as_ref().filter(started) else { return Ok(()) };
        match wait::details(shared, Operation::Events, &seen.info.id).await {
            Ok(detail) => self.detail = Some(Arc::new(detail)),
            // It has gone since: the next list says so.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Everyone who wants to know of changes.
#[derive(Debug, Default)]
pub(crate) struct Census {
    state: Mutex<State>,
    /// One list at a time: an older one must not come after a newer one.
    turn: tokio::sync::Mutex<()>,
    sooner: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// The last list. `None` until there is one, and again when nobody wanted any more.
    table: Option<HashMap<ContainerId, Seen>>,
    listeners: Vec<Listener>,
    /// The task that lists, which ends with its executor.
    task: Option<JoinHandle<()>>,
}

impl State {
    fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    fn tell(&mut self, changes: &[Change]) {
        for change in changes {
            self.listeners.retain(|listener| listener.changes.try_send(change.clone()).is_ok());
        }
    }
}

#[derive(Debug)]
struct Listener {
    changes: mpsc::Sender<Change>,
    /// Whether it wants to know more than the list says.
    details: bool,
}

/// How many changes wait for a listener. One that has not taken them when there are more is given up,
/// and its channel ends.
pub(crate) const CHANNEL_CAPACITY: usize = 4096;

/// How many containers are asked for at once.
const AT_ONCE: usize = 8;

impl Census {
    /// Everything that changes from now on, and what is there now.
    pub(crate) async fn listen(
        shared: &Arc<Shared>,
        operation: Operation,
        details: bool,
    ) -> Result<(Vec<Seen>, mpsc::Receiver<Change>)> {
        let census = &shared.census;
        // What changed before is not told as new. The deadline is one for the turn and the list: callers
        // do not wait for the deadlines of those before them.
        let deadline = shared.deadlines.query;
        tokio::time::timeout(deadline, Self::refresh(shared, operation))
            .await
            .unwrap_or_else(|_| Err(too_late(operation, deadline)))?;
        let (changes, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let mut state = census.lock();
        let now = state.table.iter().flat_map(HashMap::values).cloned().collect();
        state.listeners.push(Listener { changes, details });
        if state.is_running() {
            census.sooner.notify_one();
        } else {
            // It begins with the shortest pause, after the list above.
            state.task = Some(tokio::spawn(run(Arc::downgrade(shared))));
        }
        drop(state);
        Ok((now, receiver))
    }

    /// Lists, and tells the listeners what has changed. Gives whether something has.
    pub(crate) async fn refresh(shared: &Shared, operation: Operation) -> Result<bool> {
        let census = &shared.census;
        let _turn = census.turn.lock().await;
        let table = list(shared, operation).await?;
        let mut changes = census.compare(&table);
        if census.wants_details() {
            let asked = changes
                .into_iter()
                .map(|mut change| async move { change.ask(shared).await.map(|()| change) });
            let asked: Vec<_> =
                stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
            changes = asked;
        }
        let mut state = census.lock();
        state.table = Some(table);
        state.tell(&changes);
        Ok(!changes.is_empty())
    }

    /// Sends changes to the listeners, as a list does.
    #[cfg(test)]
    pub(crate) fn tell(&self, changes: &[Change]) {
        self.lock().tell(changes);
    }

    /// Makes the next list come soon: something has happened. Where nobody listens there is none, and
    /// whoever comes to listen begins with one.
    pub(crate) fn hurry(&self) {
        if self.lock().is_running() {
            self.sooner.notify_one();
        }
    }

    /// Whether the last list had this container.
    pub(crate) fn has(&self, id: &ContainerId) -> bool {
        self.lock().table.as_ref().is_some_and(|table| table.contains_key(id))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants_details(&self) -> bool {
        let state = self.lock();
        state.listeners.iter().any(|listener| listener.details && !listener.changes.is_closed())
    }

    /// What is different from the list before.
    fn compare(&self, after: &HashMap<ContainerId, Seen>) -> Vec<Change> {
        let state = self.lock();
        let Some(before) = &state.table else { return Vec::new() };
        let noticed = SystemTime::now();
        let change = |before, after| Change { before, after, noticed, detail: None };
        let moved = after.iter().filter_map(|(id, seen)| {
            let old = before.get(id);
            let differs = old.is_none_or(|old| old.info.status != seen.info.status);
            differs.then(|| change(old.cloned(), Some(seen.clone())))
        });
        let gone = before
            .iter()
            .filter(|(id, _)| !after.contains_key(*id))
            .map(|(_, seen)| change(Some(seen.clone()), None));
        moved.chain(gone).collect()
    }
}

/// The containers of the scope, in one call.
pub(crate) async fn list(
    shared: &Shared,
    operation: Operation,
) -> Result<HashMap<ContainerId, Seen>> {
    let containers = list_raw(shared, operation, String::new()).await?;
    Ok(containers
        .iter()
        .map(|container| (ContainerId::new(&container.id), seen(container)))
        .collect())
}

/// The same as the engine gives it; of one container only where `id` is not empty.
pub(crate) async fn list_raw(
    shared: &Shared,
    operation: Operation,
    id: String,
) -> Result<Vec<cri::Container>> {
    let filter =
        cri::ContainerFilter { id, label_selector: shared.selector(), ..Default::default() };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    Ok(shared.ask(operation, request).await?.containers)
}

pub(crate) fn seen(container: &cri::Container) -> Seen {
    Seen {
        info: from_list(container),
        sandbox: container.pod_sandbox_id.clone(),
        notes: Arc::new(Notes::read(&container.annotations).unwrap_or_default()),
    }
}

/// Lists for as long as somebody listens.
async fn run(shared: Weak<Shared>) {
    let mut next = SHORTEST;
    let mut backoff = Backoff::default();
    let mut wakes = Wakes::default();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        {
            let mut state = strong.census.lock();
            state.listeners.retain(|listener| !listener.changes.is_closed());
            if state.listeners.is_empty() || strong.closed.is_cancelled() {
                // Under the lock, so that nobody comes between the look and the end.
                *state = State::default();
                return;
            }
        }
        let until = Instant::now() + next;
        let sooner = strong.census.sooner.clone();
        let closed = strong.closed.clone();
        let file_closed = strong.watch.any_closed();
        wakes.prepare(&strong);
        // Nothing of the runtime is held while nothing happens: dropping it ends this.
        drop(strong);
        let hurried = tokio::select! {
            () = sooner.notified() => true,
            () = wakes.wake(file_closed) => true,
            () = tokio::time::sleep_until(until) => false,
            () = closed.cancelled() => false,
        };
        let Some(strong) = shared.upgrade() else { return };
        match Census::refresh(&strong, Operation::Wait).await {
            Ok(changed) => {
                backoff.reset();
                wakes.follow(&strong);
                next = if hurried || changed {
                    // What woke us may come before the engine's state shows it.
                    SHORTEST
                } else {
                    // From the shortest on: an engine closes the log, or tells of the end, some tens
                    // of milliseconds before its list shows it.
                    (next * 3 / 2).clamp(SHORTEST, LONGEST)
                };
            }
            Err(error) if error.kind() == is_closed().kind() => {}
            Err(error) => {
                tracing::debug!(%error, "the containers could not be listed: trying again");
                next = backoff.delay();
            }
        }
    }
}

/// What makes the next list come sooner.
#[derive(Default)]
struct Wakes {
    events: Option<BoxStream<'static, ()>>,
    /// When the engine's events are asked for again after they ended.
    events_again: Option<Instant>,
    /// The log folders of running containers.
    folders: HashMap<ContainerId, Subscription>,
}

impl Wakes {
    fn prepare(&mut self, shared: &Arc<Shared>) {
        if self.events.is_some()
            || !shared.settings.events
            || self.events_again.is_some_and(|again| Instant::now() < again)
        {
            return;
        }
        self.events_again = Some(Instant::now() + Duration::from_secs(10));
        let shared = Arc::downgrade(shared);
        let open = async move {
            let Some(shared) = shared.upgrade() else { return stream::empty().boxed() };
            let question = cri::GetEventsRequest {};
            match shared.client.ask_patiently(Operation::Events, question).await {
                Ok(events) => events.map(drop).boxed(),
                Err(error) => {
                    tracing::debug!(%error, "the engine gives no events");
                    stream::empty().boxed()
                }
            }
        };
        self.events = Some(stream::once(open).flatten().boxed());
    }

    /// Watches the log folders of what runs.
    fn follow(&mut self, shared: &Shared) {
        let state = shared.census.lock();
        let Some(table) = &state.table else { return };
        let runs = |seen: &Seen| seen.info.status == ContainerStatus::Running;
        self.folders.retain(|id, _| table.get(id).is_some_and(runs));
        for (id, seen) in table.iter().filter(|(_, seen)| runs(seen)) {
            if self.folders.len() >= MOST_WATCHED {
                return;
            }
            if !self.folders.contains_key(id)
                && let Some(folder) = &seen.notes.logs
                && let Some(subscription) = shared.watch.subscribe(folder, Wanted::Closes)
            {
                self.folders.insert(id.clone(), subscription);
            }
        }
    }

    async fn wake(&mut self, closed: impl Future<Output = ()>) {
        let events = async {
            match &mut self.events {
                Some(events) => events.next().await.is_some(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = events => if !more {
                self.events = None;
            },
            () = closed => {}
        }
    }
}
