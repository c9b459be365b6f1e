//! What happens to containers, told from what the census and the journal find.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    ContainerId, ContainerInfo, ContainerStatus, Error, ErrorKind, Event, EventKind, EventStream,
    EventsOptions, Exit, ExitReason, LabelFilter, Operation, Result,
};
use runtime_support::backend::closed;
use tokio::sync::mpsc;

use crate::BACKEND;
use crate::host::blocking::run_blocking;
use crate::host::directory_watcher::{DirectoryWatch, WatchMode};
use crate::model::container::ListedContainer;
use crate::model::info::has_labels;
use crate::state::CriBackend;
use crate::state::journal::{JournalOffset, RemovalRecord};
use crate::state::poller::{CHANNEL_CAPACITY, Change};

/// How often the journal is looked at where it cannot be watched.
const LOOK: Duration = Duration::from_secs(1);

/// How many removed containers are remembered, so that none is told of twice.
const REMEMBERED: usize = 1024;

/// See [`Runtime::events`](runtime_core::Runtime::events).
///
/// The engine's own events come only on some versions and can be lost: these are made of what is
/// different between two lists, with the times that the engine keeps, and of the lives that
/// whoever removes a container writes down.
pub(crate) async fn open(backend: &Arc<CriBackend>, options: EventsOptions) -> Result<EventStream> {
    let EventsOptions { since, labels, .. } = options;
    let journal = backend.journal.clone();
    // Before the list: what is removed after this look is in what is read later.
    let (place, lives) = run_blocking(move || {
        let mut place = JournalOffset::default();
        let lives = journal.read(&mut place).unwrap_or_default();
        Ok((place, lives))
    })
    .await?;
    let (now, changes) = backend.poller.subscribe(Operation::Events, true).await?;
    let mut diff = EventDiff {
        labels,
        changes,
        place,
        told: HashMap::new(),
        times: HashMap::new(),
        removing: HashMap::new(),
        removed: Removed::default(),
        queue: VecDeque::new(),
        watch: backend.watcher.watch(backend.journal.folder(), WatchMode::Write),
        backend: Arc::clone(backend),
    };
    let here: HashSet<ContainerId> = now.iter().map(|seen| seen.info.id.clone()).collect();
    match since {
        None => {
            diff.removed = Removed::before(lives, &here);
            for seen in now {
                diff.told.insert(seen.info.id.clone(), Stage::of(seen.info.status));
            }
        }
        Some(since) => {
            for life in lives {
                if here.contains(&life.info.id) {
                    diff.removing.insert(life.info.id.clone(), life);
                } else {
                    diff.tell_life(life);
                }
            }
            for seen in now {
                diff.tell_change(Change::appeared(&backend.connection, seen).await?);
            }
            diff.queue.retain(|event| event.time >= since);
            diff.queue.make_contiguous().sort_by_key(|event| event.time);
        }
    }
    let events = stream::unfold(Some(diff), |diff| async {
        let mut diff = diff?;
        match diff.next().await {
            Ok(event) => Some((Ok(event), Some(diff))),
            Err(error) => Some((Err(error.during(Operation::Events).on(BACKEND)), None)),
        }
    });
    Ok(events.boxed())
}

/// Returns the error of a stream that was not read for so long that changes were dropped.
fn not_read() -> Error {
    Error::new(ErrorKind::Lost).with_message(format!(
        "the events were not read, and more than {CHANNEL_CAPACITY} changes came meanwhile"
    ))
}

/// How far the telling of a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
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

/// One listener.
struct EventDiff {
    backend: Arc<CriBackend>,
    labels: LabelFilter,
    changes: mpsc::Receiver<Change>,
    place: JournalOffset,
    /// What was told of the containers that are there.
    told: HashMap<ContainerId, Stage>,
    /// The time of the last event of those.
    times: HashMap<ContainerId, SystemTime>,
    /// What was written of containers that may still be there.
    removing: HashMap<ContainerId, RemovalRecord>,
    removed: Removed,
    queue: VecDeque<Event>,
    watch: Option<DirectoryWatch>,
}

/// The containers whose removal was told, the last of them.
#[derive(Debug, Default)]
struct Removed {
    ids: HashSet<ContainerId>,
    order: VecDeque<ContainerId>,
}

impl Removed {
    /// Those that were gone before anybody listened. A journal that is written anew gives their lives
    /// again.
    fn before(lives: Vec<RemovalRecord>, here: &HashSet<ContainerId>) -> Self {
        let mut removed = Self::default();
        for life in lives.into_iter().filter(|life| !here.contains(&life.info.id)) {
            removed.insert(life.info.id);
        }
        removed
    }

    fn has(&self, id: &ContainerId) -> bool {
        self.ids.contains(id)
    }

    fn insert(&mut self, id: ContainerId) {
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl EventDiff {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            let token = self.backend.connection.context.closed.clone();
            let written = async {
                match &mut self.watch {
                    Some(watch) => watch.changed().await,
                    None => tokio::time::sleep(LOOK).await,
                }
            };
            tokio::select! {
                biased;
                () = token.cancelled() => return Err(closed()),
                change = self.changes.recv() => match change {
                    Some(change) => self.take_change(change).await?,
                    None => return Err(not_read()),
                },
                () = written => self.read_journal().await?,
            }
        }
    }

    async fn take_change(&mut self, change: Change) -> Result<()> {
        if change.after.is_none() {
            // Who removed it has written that down before.
            self.read_journal().await?;
        }
        self.tell_change(change);
        Ok(())
    }

    fn tell_change(&mut self, change: Change) {
        let Some(id) = change.id().cloned() else { return };
        if self.removed.has(&id) {
            return;
        }
        match (&change.after, &change.before) {
            (Some(seen), _) => {
                let mut info = seen.info.clone();
                let mut out_of_memory = false;
                if let Some(details) = &change.details {
                    info = details.info.clone();
                    out_of_memory = details.out_of_memory;
                }
                self.tell(&info, out_of_memory, change.noticed);
                self.told.insert(id, Stage::of(info.status));
            }
            (None, before) => {
                if let Some(life) = self.removing.remove(&id) {
                    self.tell_life(life);
                } else if let Some(ListedContainer { info, .. }) = before {
                    let mut info = info.clone();
                    if info.status == ContainerStatus::Running {
                        // It went away before its end was seen.
                        info.status = ContainerStatus::Exited;
                        info.exit = Some(Exit::new(ExitReason::Removed));
                    }
                    self.tell(&info, false, change.noticed);
                    self.tell_removed(&info, change.noticed);
                }
            }
        }
    }

    /// What is new in the journal. A change tells when one that was told of is gone.
    async fn read_journal(&mut self) -> Result<()> {
        let (journal, mut place) = (self.backend.journal.clone(), self.place.clone());
        let (place, lives) = run_blocking(move || {
            let lives = journal.read(&mut place).map_err(|error| {
                Error::internal("the journal of removed containers cannot be read")
                    .with_source(error)
            })?;
            Ok((place, lives))
        })
        .await?;
        self.place = place;
        for life in lives {
            if !self.removed.has(&life.info.id) {
                self.removing.insert(life.info.id.clone(), life);
            }
        }
        let unseen: Vec<ContainerId> =
            self.removing.keys().filter(|id| !self.told.contains_key(*id)).cloned().collect();
        if !unseen.is_empty() {
            // Made and removed between two lists, or just not listed yet: a list tells.
            match self.backend.poller.refresh(Operation::Events).await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => return Ok(()),
                Err(error) => return Err(error),
            }
            for id in unseen {
                if !self.backend.poller.has(&id)
                    && let Some(life) = self.removing.remove(&id)
                {
                    self.tell_life(life);
                }
            }
        }
        Ok(())
    }

    fn tell_life(&mut self, life: RemovalRecord) {
        if self.removed.has(&life.info.id) {
            return;
        }
        self.tell(&life.info, life.out_of_memory, life.removed_at);
        self.tell_removed(&life.info, life.removed_at);
    }

    fn tell_removed(&mut self, info: &ContainerInfo, at: SystemTime) {
        self.told.remove(&info.id);
        self.removed.insert(info.id.clone());
        self.push(info, at, EventKind::Removed);
    }

    /// What was not told yet of a container that has come so far.
    fn tell(&mut self, info: &ContainerInfo, out_of_memory: bool, noticed: SystemTime) {
        let told = self.told.get(&info.id).copied();
        let stage = Stage::of(info.status);
        if told.is_none() {
            self.push(info, info.created_at.unwrap_or(noticed), EventKind::Created);
        }
        // One that could not be started has no start.
        let started = info.started_at.is_some() || stage == Stage::Started;
        if told.is_none_or(|told| told < Stage::Started) && stage >= Stage::Started && started {
            self.push(info, info.started_at.unwrap_or(noticed), EventKind::Started);
        }
        if told.is_none_or(|told| told < Stage::Exited) && stage == Stage::Exited {
            let exit = info.exit.clone().unwrap_or_else(|| Exit::new(ExitReason::Unknown));
            let ended = exit.ended_at.unwrap_or(noticed);
            if out_of_memory {
                self.push(info, ended, EventKind::Oom);
            }
            self.push(info, ended, EventKind::Exited(exit));
        }
    }

    fn push(&mut self, info: &ContainerInfo, at: SystemTime, kind: EventKind) {
        // containerd can date the start of a short container after its end.
        let last = self.times.entry(info.id.clone()).or_insert(at);
        let at = at.max(*last);
        *last = at;
        if kind == EventKind::Removed {
            self.times.remove(&info.id);
        }
        if has_labels(info, &self.labels) {
            self.queue.push_back(Event::new(at, info.id.clone(), info.name.clone(), kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::Scope;

    use runtime_core::Runtime as _;

    use super::*;
    use crate::connect::open as connect;
    use crate::fake_crio::FakeCrio;
    use crate::options::{CriOptions, LogRotation};
    use crate::runtime::CriRuntime;
    use crate::state::connection::Ownership;
    use crate::state::journal::Journal;
    use crate::state::journal::tests::life;

    #[test]
    fn what_was_gone_before_stays_so_when_the_journal_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path(), &Scope::new("s").unwrap());
        for number in 0..511 {
            journal.write(&life(number)).unwrap();
        }
        let mut place = JournalOffset::default();
        let lives = journal.read(&mut place).unwrap();
        // One that is still there is on its way to be removed.
        let removed = Removed::before(lives, &[ContainerId::new("510")].into());
        for number in 511..514 {
            journal.write(&life(number)).unwrap();
        }
        let again = journal.read(&mut place).unwrap();
        assert!(again.len() > 4, "it was not written anew");
        let new: Vec<_> = again.iter().filter(|life| !removed.has(&life.info.id)).collect();
        let new: Vec<_> = new.iter().map(|life| life.info.id.as_str()).collect();
        assert_eq!(new, ["510", "511", "512", "513"]);
    }

    fn options(fake: &FakeCrio) -> CriOptions {
        CriOptions::new(Scope::new("s").unwrap())
            .endpoint(fake.endpoint().to_string())
            .log_dir(fake.folder.path().join("logs"))
            .state_dir(fake.folder.path().join("state"))
            .log_rotation(LogRotation::Off)
    }

    #[tokio::test]
    async fn stream_that_is_not_read_ends_with_lost() {
        let fake = FakeCrio::start();
        let backend = connect(options(&fake), Ownership::Managed).await.unwrap();
        let mut events = open(&backend, EventsOptions::default()).await.unwrap();
        let seen = |number: usize| ListedContainer {
            info: life(number).info,
            sandbox: String::new(),
            annotations: Arc::default(),
        };
        for number in 0..=CHANNEL_CAPACITY {
            let noticed = SystemTime::now();
            let change = Change { before: None, after: Some(seen(number)), noticed, details: None };
            backend.poller.publish(&[change]);
        }
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_do_not_wait_for_the_deadlines_of_others() {
        let fake = FakeCrio::start();
        let runtime = CriRuntime::connect(options(&fake)).await.unwrap();
        fake.state.lock().unwrap().hangs = Some("ListContainers");
        let begun = tokio::time::Instant::now();
        let calls = (0..20).map(|_| runtime.events(EventsOptions::default()));
        for called in futures_util::future::join_all(calls).await {
            assert_eq!(called.err().unwrap().kind(), ErrorKind::Timeout);
        }
        let deadline = runtime_core::Deadlines::default().query;
        assert!(begun.elapsed() < deadline * 2, "{:?}", begun.elapsed());
    }
}
