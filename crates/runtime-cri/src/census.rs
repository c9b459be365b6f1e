//! One look at all containers of the scope, for everyone who wants to know what changes.
//!
//! The CRI has no call to wait with, and its events are missing, stolen or switched off on many
//! engines. So a list that is asked for again and again decides; everything else only makes the
//! next one come sooner: the engine's events, our own calls, and the log file of a container,
//! which the engine closes when the container ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use runtime_core::{Backoff, ContainerId, ContainerInfo, ContainerStatus, Operation, Result};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::capabilities::has_events;
use crate::folders::{FolderWatch, Subscription, Wanted};
use crate::generated as cri;
use crate::info::from_list;
use crate::notes::Notes;
use crate::shared::{Shared, is_closed};

/// The time to the next list after a change, and the longest one.
const SHORTEST: Duration = Duration::from_millis(10);
const FIRST: Duration = Duration::from_millis(50);
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
}

impl Change {
    /// Which container it is about.
    pub(crate) fn id(&self) -> Option<&ContainerId> {
        self.after.as_ref().or(self.before.as_ref()).map(|seen| &seen.info.id)
    }
}

/// Everyone who wants to know of changes.
#[derive(Debug, Default)]
pub(crate) struct Census {
    state: Mutex<State>,
    sooner: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// The last list. `None` until there is one, and again when nobody wanted any more.
    table: Option<HashMap<ContainerId, Seen>>,
    listeners: Vec<mpsc::UnboundedSender<Change>>,
    runs: bool,
}

impl Census {
    /// Everything that changes from now on, and what is there now.
    pub(crate) async fn listen(
        shared: &Arc<Shared>,
        operation: Operation,
    ) -> Result<(Vec<Seen>, mpsc::UnboundedReceiver<Change>)> {
        let census = &shared.census;
        if census.lock().table.is_none() {
            let table = list(shared, operation).await?;
            census.take(table);
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = census.lock();
        let now = state.table.iter().flat_map(HashMap::values).cloned().collect();
        state.listeners.push(sender);
        if !state.runs {
            state.runs = true;
            tokio::spawn(run(Arc::downgrade(shared)));
        }
        drop(state);
        census.sooner.notify_one();
        Ok((now, receiver))
    }

    /// Makes the next list come soon: something has happened.
    pub(crate) fn hurry(&self) {
        self.sooner.notify_one();
    }

    /// Whether somebody listens.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.lock().listeners.iter().any(|listener| !listener.is_closed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listeners what a new list says. Gives whether there is a change.
    pub(crate) fn take(&self, table: HashMap<ContainerId, Seen>) -> bool {
        let mut state = self.lock();
        let Some(before) = state.table.replace(table) else { return true };
        let noticed = SystemTime::now();
        let mut changes = Vec::new();
        let after = state.table.iter().flatten();
        for (id, seen) in after {
            let old = before.get(id);
            if old.is_none_or(|old| old.info.status != seen.info.status) {
                changes.push(Change { before: old.cloned(), after: Some(seen.clone()), noticed });
            }
        }
        for (id, seen) in before {
            if !state.table.as_ref().is_some_and(|table| table.contains_key(&id)) {
                changes.push(Change { before: Some(seen), after: None, noticed });
            }
        }
        for change in &changes {
            state.listeners.retain(|listener| listener.send(change.clone()).is_ok());
        }
        !changes.is_empty()
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
    let filter = cri::ContainerFilter {
        id,
        label_selector: [shared.scope_label()].into(),
        ..Default::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    let mut client = shared.client.runtime();
    Ok(shared.call(operation, client.list_containers(request)).await?.containers)
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
    let mut next = FIRST;
    let mut backoff = Backoff::default();
    let mut wakes = Wakes::default();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        {
            let mut state = strong.census.lock();
            state.listeners.retain(|listener| !listener.is_closed());
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
        match list(&strong, Operation::Wait).await {
            Ok(table) => {
                backoff.reset();
                wakes.follow(&strong.watch, &table);
                let changed = strong.census.take(table);
                next = if hurried || changed {
                    // What woke us may come before the engine's state shows it.
                    SHORTEST
                } else {
                    (next * 3 / 2).clamp(FIRST, LONGEST)
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
    fn prepare(&mut self, shared: &Shared) {
        if self.events.is_some()
            || !has_events(&shared.engine)
            || self.events_again.is_some_and(|again| Instant::now() < again)
        {
            return;
        }
        self.events_again = Some(Instant::now() + Duration::from_secs(10));
        let mut client = shared.client.runtime();
        let open = async move {
            match client.get_container_events(cri::GetEventsRequest {}).await {
                Ok(events) => events.into_inner().map(drop).boxed(),
                Err(error) => {
                    tracing::debug!(%error, "the engine gives no events");
                    futures_util::stream::empty().boxed()
                }
            }
        };
        self.events = Some(futures_util::stream::once(open).flatten().boxed());
    }

    /// Watches the log folders of what runs.
    fn follow(&mut self, watch: &FolderWatch, table: &HashMap<ContainerId, Seen>) {
        let runs = |id: &ContainerId| {
            table.get(id).is_some_and(|seen| seen.info.status == ContainerStatus::Running)
        };
        self.folders.retain(|id, _| runs(id));
        for (id, seen) in table {
            if self.folders.len() >= MOST_WATCHED {
                return;
            }
            if seen.info.status == ContainerStatus::Running
                && !self.folders.contains_key(id)
                && let Some(folder) = &seen.notes.logs
                && let Some(subscription) = watch.subscribe(folder, Wanted::Closes)
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
