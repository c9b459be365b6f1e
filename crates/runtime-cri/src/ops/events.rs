//! See [`Runtime::events`](runtime_core::Runtime::events).
//!
//! The events of the engine exist only on some versions and can be lost. So this library compares
//! lists, with the times that the engine keeps, and reads the journal of removed containers.

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
use crate::state::poller::{CHANNEL_CAPACITY, Change, INSPECT_CONCURRENCY};

/// Delay between two reads of a journal that cannot be watched.
const JOURNAL_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of removed containers whose ids are kept, so that each removal is reported once.
const REMOVED_IDS_MAX: usize = 1024;

/// Opens a stream of events.
pub(crate) async fn open(backend: &Arc<CriBackend>, options: EventsOptions) -> Result<EventStream> {
    let EventsOptions { since, labels, .. } = options;
    let journal = backend.journal.clone();
    // Before the list, so that later reads return the removals after the list.
    let (offset, records) = run_blocking(move || {
        let mut offset = JournalOffset::default();
        let records = journal.read(&mut offset).unwrap_or_default();
        Ok((offset, records))
    })
    .await?;
    let (now, changes) = backend.poller.subscribe(Operation::Events, true).await?;
    let mut diff = EventDiff {
        labels,
        changes,
        offset,
        reported: HashMap::new(),
        times: HashMap::new(),
        removing: HashMap::new(),
        removed: Removed::default(),
        queue: VecDeque::new(),
        watch: backend.watcher.watch(backend.journal.directory(), WatchMode::Write),
        backend: Arc::clone(backend),
    };
    let existing: HashSet<ContainerId> = now.iter().map(|listed| listed.info.id.clone()).collect();
    match since {
        None => {
            diff.removed = Removed::before(records, &existing);
            for listed in now {
                diff.reported.insert(listed.info.id.clone(), Stage::of(listed.info.status));
            }
        }
        Some(since) => {
            for record in records {
                if existing.contains(&record.info.id) {
                    diff.removing.insert(record.info.id.clone(), record);
                } else {
                    diff.report_record(record);
                }
            }
            let connection = &backend.connection;
            let mut changes = stream::iter(now)
                .map(|listed| Change::appeared(connection, listed))
                .buffered(INSPECT_CONCURRENCY);
            while let Some(change) = changes.next().await {
                diff.report_change(change?);
            }
            drop(changes);
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
fn too_slow() -> Error {
    Error::new(ErrorKind::Lost).with_message(format!(
        "the events were not read, and more than {CHANNEL_CAPACITY} changes were pending"
    ))
}

/// Last reported stage of a container.
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

/// State of one event stream.
struct EventDiff {
    backend: Arc<CriBackend>,
    labels: LabelFilter,
    changes: mpsc::Receiver<Change>,
    offset: JournalOffset,
    /// Last reported stages of existing containers.
    reported: HashMap<ContainerId, Stage>,
    /// Times of the last events of existing containers.
    times: HashMap<ContainerId, SystemTime>,
    /// Records of containers that may still exist.
    removing: HashMap<ContainerId, RemovalRecord>,
    removed: Removed,
    queue: VecDeque<Event>,
    watch: Option<DirectoryWatch>,
}

/// Ids of the last containers whose removal was reported.
#[derive(Debug, Default)]
struct Removed {
    ids: HashSet<ContainerId>,
    order: VecDeque<ContainerId>,
}

impl Removed {
    /// Returns the containers that were removed before the stream was opened. Their records are
    /// read again after the journal was rewritten.
    fn before(records: Vec<RemovalRecord>, existing: &HashSet<ContainerId>) -> Self {
        let mut removed = Self::default();
        for record in records.into_iter().filter(|record| !existing.contains(&record.info.id)) {
            removed.insert(record.info.id);
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
        if self.order.len() > REMOVED_IDS_MAX
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
                    None => tokio::time::sleep(JOURNAL_POLL_INTERVAL).await,
                }
            };
            tokio::select! {
                biased;
                () = token.cancelled() => return Err(closed()),
                change = self.changes.recv() => match change {
                    Some(change) => self.handle_change(change).await?,
                    None => return Err(too_slow()),
                },
                () = written => self.read_journal().await?,
            }
        }
    }

    async fn handle_change(&mut self, change: Change) -> Result<()> {
        if change.after.is_none() {
            // The record was written before the removal.
            self.read_journal().await?;
        }
        self.report_change(change);
        Ok(())
    }

    fn report_change(&mut self, change: Change) {
        let Some(id) = change.id().cloned() else { return };
        if self.removed.has(&id) {
            return;
        }
        match (&change.after, &change.before) {
            (Some(listed), _) => {
                let mut info = listed.info.clone();
                let mut out_of_memory = false;
                if let Some(details) = &change.details {
                    info = details.info.clone();
                    out_of_memory = details.out_of_memory;
                }
                self.report(&info, out_of_memory, change.noticed);
                self.reported.insert(id, Stage::of(info.status));
            }
            (None, before) => {
                if let Some(record) = self.removing.remove(&id) {
                    self.report_record(record);
                } else if let Some(ListedContainer { info, .. }) = before {
                    let mut info = info.clone();
                    if info.status == ContainerStatus::Running {
                        // It was removed before its exit was listed.
                        info.status = ContainerStatus::Exited;
                        info.exit = Some(Exit::new(ExitReason::Removed));
                    }
                    self.report(&info, false, change.noticed);
                    self.report_removed(&info, change.noticed);
                }
            }
        }
    }

    /// Reads new records. A change reports the removal of a container with earlier events.
    async fn read_journal(&mut self) -> Result<()> {
        let (journal, mut offset) = (self.backend.journal.clone(), self.offset.clone());
        let (offset, records) = run_blocking(move || {
            let records = journal.read(&mut offset).map_err(|error| {
                Error::internal("failed to read the journal of removed containers")
                    .with_source(error)
            })?;
            Ok((offset, records))
        })
        .await?;
        self.offset = offset;
        for record in records {
            if !self.removed.has(&record.info.id) {
                self.removing.insert(record.info.id.clone(), record);
            }
        }
        let unlisted: Vec<ContainerId> =
            self.removing.keys().filter(|id| !self.reported.contains_key(*id)).cloned().collect();
        if !unlisted.is_empty() {
            // They were created and removed between two lists, or are not listed yet: list again.
            match self.backend.poller.refresh(Operation::Events).await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => return Ok(()),
                Err(error) => return Err(error),
            }
            for id in unlisted {
                if !self.backend.poller.has(&id)
                    && let Some(record) = self.removing.remove(&id)
                {
                    self.report_record(record);
                }
            }
        }
        Ok(())
    }

    fn report_record(&mut self, record: RemovalRecord) {
        if self.removed.has(&record.info.id) {
            return;
        }
        self.report(&record.info, record.out_of_memory, record.removed_at);
        self.report_removed(&record.info, record.removed_at);
    }

    fn report_removed(&mut self, info: &ContainerInfo, at: SystemTime) {
        self.reported.remove(&info.id);
        self.removed.insert(info.id.clone());
        self.push(info, at, EventKind::Removed);
    }

    /// Reports the events of a container up to its current stage, except for reported ones.
    fn report(&mut self, info: &ContainerInfo, out_of_memory: bool, noticed: SystemTime) {
        let reported = self.reported.get(&info.id).copied();
        let stage = Stage::of(info.status);
        if reported.is_none() {
            self.push(info, info.created_at.unwrap_or(noticed), EventKind::Created);
        }
        // A container that failed to start has no start time.
        let started = info.started_at.is_some() || stage == Stage::Started;
        if reported.is_none_or(|reported| reported < Stage::Started)
            && stage >= Stage::Started
            && started
        {
            self.push(info, info.started_at.unwrap_or(noticed), EventKind::Started);
        }
        if reported.is_none_or(|reported| reported < Stage::Exited) && stage == Stage::Exited {
            let exit = info.exit.clone().unwrap_or_else(|| Exit::new(ExitReason::Unknown));
            let ended = exit.ended_at.unwrap_or(noticed);
            if out_of_memory {
                self.push(info, ended, EventKind::Oom);
            }
            self.push(info, ended, EventKind::Exited(exit));
        }
    }

    fn push(&mut self, info: &ContainerInfo, at: SystemTime, kind: EventKind) {
        // The start time of a short container of containerd can be after its end.
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
    use crate::state::journal::tests::record;

    #[test]
    fn rewritten_journal_repeats_no_removals() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path(), &Scope::new("s").unwrap());
        for number in 0..511 {
            journal.write(&record(number)).unwrap();
        }
        let mut offset = JournalOffset::default();
        let records = journal.read(&mut offset).unwrap();
        // A container that still exists is being removed.
        let removed = Removed::before(records, &[ContainerId::new("510")].into());
        for number in 511..514 {
            journal.write(&record(number)).unwrap();
        }
        let again = journal.read(&mut offset).unwrap();
        assert!(again.len() > 4, "the journal was not rewritten");
        let new: Vec<_> = again.iter().filter(|record| !removed.has(&record.info.id)).collect();
        let new: Vec<_> = new.iter().map(|record| record.info.id.as_str()).collect();
        assert_eq!(new, ["510", "511", "512", "513"]);
    }

    fn options(fake: &FakeCrio) -> CriOptions {
        CriOptions::new(Scope::new("s").unwrap())
            .endpoint(fake.endpoint().to_string())
            .log_dir(fake.directory.path().join("logs"))
            .state_dir(fake.directory.path().join("state"))
            .log_rotation(LogRotation::Off)
    }

    #[tokio::test]
    async fn unread_stream_ends_with_lost() {
        let fake = FakeCrio::start();
        let backend = connect(options(&fake), Ownership::Managed).await.unwrap();
        let mut events = open(&backend, EventsOptions::default()).await.unwrap();
        let listed = |number: usize| ListedContainer {
            info: record(number).info,
            sandbox: String::new(),
            annotations: Arc::default(),
        };
        for number in 0..=CHANNEL_CAPACITY {
            let noticed = SystemTime::now();
            let change =
                Change { before: None, after: Some(listed(number)), noticed, details: None };
            backend.poller.publish(&[change]);
        }
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_opens_time_out_together() {
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
