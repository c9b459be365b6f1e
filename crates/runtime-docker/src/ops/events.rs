//! The events of a scope, and how the stream resumes after a lost connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use runtime_core::{
    Backoff, ContainerId, ContainerStatus, Error, ErrorKind, Event, EventKind, EventStream,
    EventsOptions, Exit, ExitReason, Operation, Result,
};
use tokio::sync::broadcast;
use tokio::time::{Instant, Sleep};

use super::list::summaries;
use crate::client::events::{EVENTS_MARGIN, filters, messages};
use crate::client::http::ApiRequest;
use crate::error::BACKEND;
use crate::model::events::Message;
use crate::model::info::Summary;
use crate::model::labels::{has_labels, is_managed};
use crate::model::time::to_query;
use crate::state::DockerBackend;

/// How long after a reconnect the engine's replay of past events is read. The engine sends all
/// events that it still has at once. The rest follows from a comparison of its list with the
/// reported events.
const REPLAY_TIME: Duration = Duration::from_millis(500);

/// How many removed containers are remembered, so that their events are not reported twice.
const REMOVED_CAPACITY: usize = 4096;

/// Opens the stream of a scope's events.
pub(crate) async fn open(
    backend: &Arc<DockerBackend>,
    options: EventsOptions,
) -> Result<EventStream> {
    let from = options.since.unwrap_or_else(|| backend.engine.clock.at(SystemTime::now()));
    let mut follower = Follower {
        backend: Arc::clone(backend),
        from,
        since: from,
        options,
        stream: None,
        queue: VecDeque::new(),
        reported: HashMap::new(),
        removed: HashSet::new(),
        removed_order: VecDeque::new(),
        compare_at: None,
        failures: backend.containers.start_failures(),
        backoff: Backoff::default(),
    };
    follower.connect().await?;
    for summary in summaries(backend, Operation::Events, &follower.options.labels).await? {
        let stage = Stage::of(summary.status());
        let entry = follower.reported.entry(ContainerId::new(&summary.id)).or_default();
        entry.at_open = entry.at_open.max(stage);
        entry.name = summary.name().to_owned();
    }
    let events = stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        match follower.next().await {
            Ok(event) => Some((Ok(event), Some(follower))),
            Err(error) => Some((Err(error.during(Operation::Events).on(BACKEND)), None)),
        }
    });
    Ok(events.boxed())
}

/// A stage in the life of a container, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stage {
    #[default]
    Unknown,
    Created,
    Started,
    Exited,
}

impl Stage {
    const fn of(status: ContainerStatus) -> Self {
        match status {
            ContainerStatus::Created => Self::Created,
            ContainerStatus::Running => Self::Started,
            ContainerStatus::Exited => Self::Exited,
        }
    }
}

/// The events of one container that were reported.
#[derive(Debug, Default)]
struct Reported {
    name: String,
    /// The stage when the stream was opened.
    at_open: Stage,
    /// The stage of the last event.
    last: Stage,
    /// The time of the last `Oom` event.
    oom: Option<SystemTime>,
}

impl Reported {
    fn stage(&self) -> Stage {
        self.at_open.max(self.last)
    }

    /// Returns `true` if `exit` is out of memory, and no `Oom` event was reported.
    fn misses_oom(&self, exit: &Exit) -> bool {
        exit.reason == ExitReason::OutOfMemory && self.oom.is_none()
    }
}

struct Follower {
    backend: Arc<DockerBackend>,
    options: EventsOptions,
    /// Events before this time are dropped.
    from: SystemTime,
    /// The time of the last event, from which the stream resumes after a lost connection.
    since: SystemTime,
    stream: Option<BoxStream<'static, Result<Message>>>,
    queue: VecDeque<Event>,
    reported: HashMap<ContainerId, Reported>,
    removed: HashSet<ContainerId>,
    removed_order: VecDeque<ContainerId>,
    /// When to compare the reported events with the engine's list.
    compare_at: Option<Pin<Box<Sleep>>>,
    /// Starts that failed in this process. Neither engine has an event for them.
    failures: broadcast::Receiver<ContainerId>,
    backoff: Backoff,
}

impl Follower {
    async fn connect(&mut self) -> Result<()> {
        const ACTIONS: &[&str] = &["create", "start", "oom", "die", "destroy", "remove"];
        let filters = filters(self.backend.engine.flavour, self.backend.scope(), ACTIONS);
        // The engines send the response head before they subscribe to their own events. An event in
        // between is only sent to a request for the past.
        let since = self.since.checked_sub(EVENTS_MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        let request = ApiRequest::get(Operation::Events, "/events")
            .query("filters", filters)
            .query("since", to_query(since));
        let response = self.backend.open(Operation::Events, request).await?;
        let bytes = self.backend.http.stream(Operation::Events, response);
        self.stream = Some(messages(Operation::Events, bytes).boxed());
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.advance().await {
                let is_transient = matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal
                );
                if !is_transient {
                    return Err(error);
                }
                tracing::debug!(%error, "the stream of events was lost and is reopened");
                self.stream = None;
                self.compare_at = None;
                tokio::time::sleep(self.backoff.delay()).await;
            }
        }
    }

    async fn advance(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else {
            self.connect().await?;
            self.compare_at =
                Some(Box::pin(tokio::time::sleep_until(Instant::now() + REPLAY_TIME)));
            return Ok(());
        };
        let compare = async {
            match &mut self.compare_at {
                Some(at) => at.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            message = stream.next() => match message {
                Some(message) => self.take(&message?).await,
                None => Err(Error::new(ErrorKind::Unavailable)
                    .with_message("the engine ended the stream of events")),
            },
            failed = self.failures.recv() => {
                if let Ok(id) = failed {
                    self.start_failed(&id);
                }
                Ok(())
            }
            () = compare => {
                self.compare().await?;
                self.compare_at = None;
                self.backoff.reset();
                Ok(())
            }
        }
    }

    /// Reports an event of the engine.
    async fn take(&mut self, message: &Message) -> Result<()> {
        let ours = is_managed(self.backend.scope(), |key| message.attribute(key))
            && has_labels(&self.options.labels, |key| message.attribute(key));
        let Some(id) = message.container().filter(|_| ours) else { return Ok(()) };
        let (name, time) = (message.name(), message.time());
        if time < self.from {
            return Ok(());
        }
        match message.action() {
            "create" => self.report(&id, name, Stage::Created, time, EventKind::Created),
            "start" => self.report(&id, name, Stage::Started, time, EventKind::Started),
            "oom" => {
                let entry = self.reported.entry(id.clone()).or_default();
                // An `oom` after the exit was reported before it, if the exit has that reason.
                let is_reported =
                    entry.oom.is_some_and(|last| last >= time || entry.last == Stage::Exited);
                if !self.removed.contains(&id) && !is_reported {
                    entry.oom = Some(time);
                    self.push(&id, name, time, EventKind::Oom);
                }
            }
            "die" => {
                let exit = exit_of(&Arc::clone(&self.backend), &id, message.exit()).await?;
                self.report_exit(&id, name, time, exit);
            }
            "destroy" | "remove" => self.report_removal(&id, name, time),
            _ => {}
        }
        // Updated last, so that the event is requested again after an error above. Events that are
        // sent twice are dropped by their stage.
        self.since = self.since.max(time);
        Ok(())
    }

    /// Reports `kind`, unless this stage of the container was reported before.
    fn report(
        &mut self,
        id: &ContainerId,
        name: &str,
        stage: Stage,
        time: SystemTime,
        kind: EventKind,
    ) {
        if self.removed.contains(id) {
            return;
        }
        let entry = self.reported.entry(id.clone()).or_default();
        if entry.last >= stage {
            return;
        }
        entry.last = stage;
        name.clone_into(&mut entry.name);
        self.push(id, name, time, kind);
    }

    /// Reports an exit, and before it an `Oom` event if the engine has sent none.
    fn report_exit(&mut self, id: &ContainerId, name: &str, time: SystemTime, exit: Exit) {
        if self.removed.contains(id) {
            return;
        }
        let entry = self.reported.entry(id.clone()).or_default();
        if entry.last < Stage::Exited && entry.misses_oom(&exit) {
            entry.oom = Some(time);
            self.push(id, name, time, EventKind::Oom);
        }
        self.report(id, name, Stage::Exited, time, EventKind::Exited(exit));
    }

    fn report_removal(&mut self, id: &ContainerId, name: &str, time: SystemTime) {
        if self.removed.contains(id) {
            return;
        }
        let entry = match self.reported.remove(id) {
            Some(entry) => entry,
            // Docker also sends this for a create that failed, of which nothing was reported.
            None if self.options.since.is_none() => return,
            None => Reported::default(),
        };
        let exit = self.known_exit(id);
        match (entry.stage(), exit) {
            // Neither engine has an event for a start that failed.
            (Stage::Created, Some(exit)) => self.push(id, name, time, EventKind::Exited(exit)),
            // Podman has no event for the exit of a container that a removal killed.
            (Stage::Started, exit) => {
                let exit = exit.unwrap_or_else(|| Exit::new(ExitReason::Removed));
                if entry.misses_oom(&exit) {
                    self.push(id, name, time, EventKind::Oom);
                }
                self.push(id, name, time, EventKind::Exited(exit));
            }
            _ => {}
        }
        if self.removed.len() == REMOVED_CAPACITY
            && let Some(oldest) = self.removed_order.pop_front()
        {
            self.removed.remove(&oldest);
        }
        self.removed.insert(id.clone());
        self.removed_order.push_back(id.clone());
        self.push(id, name, time, EventKind::Removed);
    }

    fn push(&mut self, id: &ContainerId, name: &str, time: SystemTime, kind: EventKind) {
        self.queue.push_back(Event::new(time, id.clone(), name, kind));
    }

    fn known_exit(&self, id: &ContainerId) -> Option<Exit> {
        self.backend.containers.get(id).and_then(|state| state.exit().cloned())
    }

    fn start_failed(&mut self, id: &ContainerId) {
        // Containers without a reported event do not belong to this stream.
        if let (Some(exit), Some(entry)) = (self.known_exit(id), self.reported.get(id)) {
            let name = entry.name.clone();
            let time = self.backend.engine.clock.at(SystemTime::now());
            self.report(id, &name, Stage::Exited, time, EventKind::Exited(exit));
        }
    }

    /// Reports the events that the engine no longer has after a lost connection: Docker keeps 256
    /// events, and none over a restart.
    async fn compare(&mut self) -> Result<()> {
        let backend = Arc::clone(&self.backend);
        let listed = summaries(&backend, Operation::Events, &self.options.labels).await?;
        let listed: HashMap<ContainerId, &Summary> =
            listed.iter().map(|summary| (ContainerId::new(&summary.id), summary)).collect();
        let absent: Vec<_> =
            self.reported.keys().filter(|id| !listed.contains_key(*id)).cloned().collect();
        for (id, summary) in listed {
            let stage = Stage::of(summary.status());
            let reported = self.reported.get(&id).map_or(Stage::Unknown, Reported::stage);
            if reported >= stage {
                continue;
            }
            let inspect = match backend.inspect(Operation::Events, &id).await {
                Ok(inspect) => inspect,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let info = inspect.info(self.known_exit(&id));
            let now = SystemTime::now();
            if reported < Stage::Created {
                let time = info.created_at.unwrap_or(now);
                self.report(&id, &info.name, Stage::Created, time, EventKind::Created);
            }
            if reported < Stage::Started
                && let Some(time) = info.started_at
            {
                self.report(&id, &info.name, Stage::Started, time, EventKind::Started);
            }
            if let Some(exit) = info.exit {
                let exit = backend.containers.settle(&id, exit).await;
                let time = exit.ended_at.unwrap_or(now);
                self.report_exit(&id, &info.name, time, exit);
            }
        }
        for id in absent {
            let name = self.reported.get(&id).map(|entry| entry.name.clone()).unwrap_or_default();
            self.report_removal(&id, &name, SystemTime::now());
        }
        Ok(())
    }
}

/// Returns the exit of a container, the same one that its waiters get.
async fn exit_of(backend: &DockerBackend, id: &ContainerId, seen: Option<Exit>) -> Result<Exit> {
    if let Some(exit) = backend.containers.get(id).and_then(|state| state.exit().cloned()) {
        return Ok(exit);
    }
    let exit = match backend.inspect(Operation::Events, id).await {
        Ok(inspect) => inspect.exit().or(seen),
        Err(error) if error.kind() == ErrorKind::NotFound => seen,
        Err(error) => return Err(error),
    };
    Ok(backend.containers.settle(id, exit.unwrap_or_else(|| Exit::new(ExitReason::Unknown))).await)
}
