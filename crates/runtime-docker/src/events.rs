//! What happens to containers, and how the stream of it is resumed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use runtime_core::{
    Backoff, ContainerId, ContainerStatus, Error, ErrorKind, Event, EventKind, EventStream,
    EventsOptions, Exit, ExitReason, LABEL_SCOPE, Operation, Result, Scope,
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::{Instant, Sleep};

use crate::BACKEND;
use crate::engine::{EVENTS_MARGIN, Flavour};
use crate::http::Call;
use crate::info::Summary;
use crate::json_lines;
use crate::labels::has_labels;
use crate::list::is_ours;
use crate::shared::Shared;
use crate::time::{from_nanos, to_query};

/// After a lost connection the engine repeats what it remembers at once. What it has not by then
/// it has forgotten, and the rest comes from comparing its list with what was told.
const REPLAY: Duration = Duration::from_millis(500);

/// How many of those that were removed are remembered, against being told of them twice.
const REMEMBERED: usize = 4096;

/// The engine's filters for the containers of a scope.
pub(crate) fn filters(flavour: Flavour, scope: &Scope, actions: &[&str]) -> serde_json::Value {
    // Podman wants any of several labels, and Docker all. So one is asked for, and the others are
    // looked at here.
    let label = format!("{LABEL_SCOPE}={scope}");
    match flavour {
        Flavour::Docker => json!({ "type": ["container"], "label": [label], "event": actions }),
        // Its filter knows the actions by other names than its answer, and gives nothing at all
        // for one that it does not know.
        Flavour::Podman => json!({ "type": ["container"], "label": [label] }),
    }
}

/// One event of the engine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    /// The labels, and some more.
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

impl Message {
    /// Whether it tells of the end of this container.
    pub(crate) fn is_end_of(&self, id: &str) -> bool {
        self.action() == "die" && self.actor.id == id
    }

    pub(crate) fn container(&self) -> Option<ContainerId> {
        (!self.actor.id.is_empty()).then(|| ContainerId::new(&self.actor.id))
    }

    pub(crate) fn action(&self) -> &str {
        &self.action
    }

    /// The exit that a `die` carries.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let code = self.attribute("exitCode").or_else(|| self.attribute("containerExitCode"))?;
        Some(Exit::from_code(code.parse().ok()?).with_ended_at(from_nanos(self.time_nano)))
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.actor.attributes.get(name).map(String::as_str)
    }

    fn name(&self) -> &str {
        self.attribute("name").unwrap_or_default()
    }

    pub(crate) fn time(&self) -> SystemTime {
        from_nanos(self.time_nano).unwrap_or_else(SystemTime::now)
    }
}

/// The engine's events.
pub(crate) fn messages(
    operation: Operation,
    bytes: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Message>> + Send + 'static {
    json_lines::values(operation, bytes)
}

/// Opens the stream of a scope's events.
pub(crate) async fn open(shared: &Arc<Shared>, options: EventsOptions) -> Result<EventStream> {
    let from = options.since.unwrap_or_else(|| shared.engine.clock.at(SystemTime::now()));
    let mut follower = Follower {
        shared: Arc::clone(shared),
        from,
        since: from,
        options,
        stream: None,
        queue: VecDeque::new(),
        lives: HashMap::new(),
        gone: HashSet::new(),
        gone_order: VecDeque::new(),
        compare_at: None,
        failures: shared.lives.start_failures(),
        backoff: Backoff::default(),
    };
    follower.connect().await?;
    for summary in shared.list(Operation::Events, &follower.options.labels).await? {
        let stage = Stage::of(summary.status());
        let life = follower.lives.entry(ContainerId::new(&summary.id)).or_default();
        life.known = life.known.max(stage);
        life.name = summary.name().to_owned();
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

/// How far a container has come.
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

/// What was told of a container.
#[derive(Debug, Default)]
struct Told {
    name: String,
    /// Where it was when the stream was opened.
    known: Stage,
    told: Stage,
    /// When it last was short of memory.
    oom: Option<SystemTime>,
}

impl Told {
    fn stage(&self) -> Stage {
        self.known.max(self.told)
    }

    /// Whether an end says that there was no memory left, and nobody was told of that.
    fn misses_oom(&self, exit: &Exit) -> bool {
        exit.reason == ExitReason::OutOfMemory && self.oom.is_none()
    }
}

struct Follower {
    shared: Arc<Shared>,
    options: EventsOptions,
    /// What was before this is left out.
    from: SystemTime,
    /// Where to go on after a lost connection: the time of the last event.
    since: SystemTime,
    stream: Option<BoxStream<'static, Result<Message>>>,
    queue: VecDeque<Event>,
    lives: HashMap<ContainerId, Told>,
    gone: HashSet<ContainerId>,
    gone_order: VecDeque<ContainerId>,
    /// When to compare what was told with the engine's list.
    compare_at: Option<Pin<Box<Sleep>>>,
    /// Neither engine has an event for a start that failed. Those of this process are known.
    failures: broadcast::Receiver<ContainerId>,
    backoff: Backoff,
}

impl Follower {
    async fn connect(&mut self) -> Result<()> {
        const ACTIONS: &[&str] = &["create", "start", "oom", "die", "destroy", "remove"];
        let filters = filters(self.shared.engine.flavour, &self.shared.scope, ACTIONS);
        // The engines begin to answer before they begin to listen to their own events, so that
        // one from between is only there for who asks for the past.
        let since = self.since.checked_sub(EVENTS_MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        let call = Call::get(Operation::Events, "/events")
            .query("filters", filters)
            .query("since", to_query(since));
        let answer = self.shared.open(Operation::Events, call).await?;
        let bytes = self.shared.http.stream(Operation::Events, answer);
        self.stream = Some(messages(Operation::Events, bytes).boxed());
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.advance().await {
                let passes = matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal
                );
                if !passes {
                    return Err(error);
                }
                tracing::debug!(%error, "events: the connection is opened again");
                self.stream = None;
                self.compare_at = None;
                tokio::time::sleep(self.backoff.delay()).await;
            }
        }
    }

    async fn advance(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else {
            self.connect().await?;
            self.compare_at = Some(Box::pin(tokio::time::sleep_until(Instant::now() + REPLAY)));
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

    /// Takes an event of the engine's.
    async fn take(&mut self, message: &Message) -> Result<()> {
        let ours = is_ours(&self.shared.scope, |key| message.attribute(key))
            && has_labels(&self.options.labels, |key| message.attribute(key));
        let Some(id) = message.container().filter(|_| ours) else { return Ok(()) };
        let time = message.time();
        if time < self.from {
            return Ok(());
        }
        match message.action() {
            "create" => self.tell(&id, message.name(), Stage::Created, time, EventKind::Created),
            "start" => self.tell(&id, message.name(), Stage::Started, time, EventKind::Started),
            "oom" => {
                let life = self.lives.entry(id.clone()).or_default();
                // What comes after the end was told before it, where the end said so.
                let told = life.oom.is_some_and(|last| last >= time || life.told == Stage::Exited);
                if !self.gone.contains(&id) && !told {
                    life.oom = Some(time);
                    self.push(&id, message.name(), time, EventKind::Oom);
                }
            }
            "die" => {
                let exit = exit_of(&Arc::clone(&self.shared), &id, message.exit()).await?;
                self.tell_end(&id, message.name(), time, exit);
            }
            "destroy" | "remove" => self.removed(&id, message.name(), time),
            _ => {}
        }
        // Only now: an error above has the event asked for again. What comes twice because of
        // that, or after a lost connection, is known to have been told.
        self.since = self.since.max(time);
        Ok(())
    }

    fn tell(
        &mut self,
        id: &ContainerId,
        name: &str,
        stage: Stage,
        time: SystemTime,
        kind: EventKind,
    ) {
        if self.gone.contains(id) {
            return;
        }
        let life = self.lives.entry(id.clone()).or_default();
        if life.told >= stage {
            return;
        }
        life.told = stage;
        name.clone_into(&mut life.name);
        self.push(id, name, time, kind);
    }

    /// Tells of an end, and before it that there was no memory left, where the engine has no event
    /// of that.
    fn tell_end(&mut self, id: &ContainerId, name: &str, time: SystemTime, exit: Exit) {
        if self.gone.contains(id) {
            return;
        }
        let life = self.lives.entry(id.clone()).or_default();
        if life.told < Stage::Exited && life.misses_oom(&exit) {
            life.oom = Some(time);
            self.push(id, name, time, EventKind::Oom);
        }
        self.tell(id, name, Stage::Exited, time, EventKind::Exited(exit));
    }

    fn removed(&mut self, id: &ContainerId, name: &str, time: SystemTime) {
        if self.gone.contains(id) {
            return;
        }
        let life = match self.lives.remove(id) {
            Some(life) => life,
            // Docker says so of what it began to create and could not: nobody was told of that.
            None if self.options.since.is_none() => return,
            None => Told::default(),
        };
        let failed = self.shared.lives.get(id).and_then(|life| life.exit().cloned());
        match (life.stage(), failed) {
            // Neither engine has an event for a start that failed.
            (Stage::Created, Some(exit)) => self.push(id, name, time, EventKind::Exited(exit)),
            // Podman has none for the end of a container that a removal killed.
            (Stage::Started, exit) => {
                let exit = exit.unwrap_or_else(|| Exit::new(ExitReason::Removed));
                if life.misses_oom(&exit) {
                    self.push(id, name, time, EventKind::Oom);
                }
                self.push(id, name, time, EventKind::Exited(exit));
            }
            _ => {}
        }
        if self.gone.len() == REMEMBERED
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        self.gone.insert(id.clone());
        self.gone_order.push_back(id.clone());
        self.push(id, name, time, EventKind::Removed);
    }

    fn push(&mut self, id: &ContainerId, name: &str, time: SystemTime, kind: EventKind) {
        self.queue.push_back(Event::new(time, id.clone(), name, kind));
    }

    fn start_failed(&mut self, id: &ContainerId) {
        let exit = self.shared.lives.get(id).and_then(|life| life.exit().cloned());
        // What this stream has not told of does not belong to it.
        if let (Some(exit), Some(life)) = (exit, self.lives.get(id)) {
            let name = life.name.clone();
            let time = self.shared.engine.clock.at(SystemTime::now());
            self.tell(id, &name, Stage::Exited, time, EventKind::Exited(exit));
        }
    }

    /// Tells what happened while the connection was lost and the engine has forgotten: Docker
    /// remembers 256 events, and none over a restart.
    async fn compare(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let listed = shared.list(Operation::Events, &self.options.labels.clone()).await?;
        let there: HashMap<ContainerId, &Summary> =
            listed.iter().map(|summary| (ContainerId::new(&summary.id), summary)).collect();
        let absent: Vec<_> =
            self.lives.keys().filter(|id| !there.contains_key(*id)).cloned().collect();
        for (id, summary) in there {
            let stage = Stage::of(summary.status());
            let told = self.lives.get(&id).map_or(Stage::Unknown, Told::stage);
            if told >= stage {
                continue;
            }
            let inspect = match shared.inspect(Operation::Events, &id).await {
                Ok(inspect) => inspect,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let known = self.shared.lives.get(&id).and_then(|life| life.exit().cloned());
            let info = inspect.info(known);
            let now = SystemTime::now();
            if told < Stage::Created {
                let time = info.created_at.unwrap_or(now);
                self.tell(&id, &info.name, Stage::Created, time, EventKind::Created);
            }
            if told < Stage::Started
                && let Some(time) = info.started_at
            {
                self.tell(&id, &info.name, Stage::Started, time, EventKind::Started);
            }
            if let Some(exit) = info.exit {
                let exit = shared.lives.settle(&id, exit).await;
                let time = exit.ended_at.unwrap_or(now);
                self.tell_end(&id, &info.name, time, exit);
            }
        }
        for id in absent {
            let name = self.lives.get(&id).map(|life| life.name.clone()).unwrap_or_default();
            self.removed(&id, &name, SystemTime::now());
        }
        Ok(())
    }
}

/// How a container ended: as all who wait for it are told it.
async fn exit_of(shared: &Shared, id: &ContainerId, seen: Option<Exit>) -> Result<Exit> {
    if let Some(exit) = shared.lives.get(id).and_then(|life| life.exit().cloned()) {
        return Ok(exit);
    }
    let exit = match shared.inspect(Operation::Events, id).await {
        Ok(inspect) => inspect.exit().or(seen),
        Err(error) if error.kind() == ErrorKind::NotFound => seen,
        Err(error) => return Err(error),
    };
    Ok(shared.lives.settle(id, exit.unwrap_or_else(|| Exit::new(ExitReason::Unknown))).await)
}
