//! Triggers of the next list.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use runtime_core::{ContainerId, ContainerStatus, Operation};
use tokio::time::Instant;

use crate::generated as cri;
use crate::host::directory_watcher::{DirectoryWatch, DirectoryWatcher, WatchMode};
use crate::model::container::ListedContainer;
use crate::state::connection::Connection;

/// Maximum number of log directories that are watched.
const WATCHED_DIRECTORIES_MAX: usize = 1024;

/// Delay before the events of the engine are requested again after their stream has ended.
const EVENTS_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Triggers of the next list.
#[derive(Default)]
pub(super) struct PollTriggers {
    events: Option<BoxStream<'static, ()>>,
    /// Time from which the events may be requested again.
    events_retry: Option<Instant>,
    /// The log directories of running containers.
    directories: HashMap<ContainerId, DirectoryWatch>,
}

impl PollTriggers {
    /// Opens the events of the engine, if they are not open and the engine has them.
    pub(super) fn open_events(&mut self, connection: &Arc<Connection>) {
        if self.events.is_some()
            || !connection.settings.events
            || self.events_retry.is_some_and(|retry| Instant::now() < retry)
        {
            return;
        }
        self.events_retry = Some(Instant::now() + EVENTS_RETRY_DELAY);
        let connection = Arc::downgrade(connection);
        let open = async move {
            let Some(connection) = connection.upgrade() else { return stream::empty().boxed() };
            let request = cri::GetEventsRequest {};
            match connection.client.call_without_deadline(Operation::Events, request).await {
                Ok(events) => events.map(drop).boxed(),
                Err(error) => {
                    tracing::debug!(%error, "failed to open the events of the engine");
                    stream::empty().boxed()
                }
            }
        };
        self.events = Some(stream::once(open).flatten().boxed());
    }

    /// Watches the log directories of running containers, and of no others.
    pub(super) fn watch_logs(
        &mut self,
        watcher: &DirectoryWatcher,
        table: &HashMap<ContainerId, ListedContainer>,
    ) {
        let runs = |listed: &ListedContainer| listed.info.status == ContainerStatus::Running;
        self.directories.retain(|id, _| table.get(id).is_some_and(runs));
        for (id, listed) in table.iter().filter(|(_, listed)| runs(listed)) {
            if self.directories.len() >= WATCHED_DIRECTORIES_MAX {
                return;
            }
            if !self.directories.contains_key(id)
                && let Some(logs) = &listed.annotations.logs
                && let Some(watch) = watcher.watch(logs, WatchMode::Close)
            {
                self.directories.insert(id.clone(), watch);
            }
        }
    }

    /// Completes on an event of the engine, at the end of its events, or with `closed`.
    pub(super) async fn fire(&mut self, closed: impl Future<Output = ()>) {
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
