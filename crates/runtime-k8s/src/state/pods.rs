//! The watch of a connection: all pods of its scope.
//!
//! Info, wait, list and events of any number of containers use its state. The watch begins with the
//! first call that needs it, and ends with the runtime. After a lost connection or a restart of the
//! server it resumes from the last version, and lists again if the server does not have that
//! version any more.

mod exits;
mod freshness;
mod poll;
#[cfg(test)]
mod recordings;
mod removals;
mod store;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime_core::{Backoff, Error, ErrorKind, Event, LabelFilter, Result, Scope};
use runtime_support::backend::closed;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::client::Client;
use crate::model::api::{Pod, WatchLine};
use crate::model::labels;
use crate::model::pod::observed::ObservedPod;
use crate::state::nodes::Nodes;

use freshness::Freshness;
use removals::Removals;
pub(crate) use store::Entry;
use store::{EVENT_CHANNEL_CAPACITY, Listener, Store};

/// How long a server may refuse the credentials before the watch fails. A token may have expired
/// and be renewed soon, and a server that has just started has not read the roles yet.
const UNAUTHENTICATED_LIMIT: Duration = Duration::from_secs(75);

/// How long a right may be missing that was granted before, for example while a role is being
/// replaced.
const PERMISSION_DENIED_LIMIT: Duration = Duration::from_secs(10);

/// Minimum interval between watches that end at once.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// After a watch of this length an expired version is normal and resets the backoff.
const WATCH_BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// Interval of the checks for a watch that is behind, and for unclear ends.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The watch and the state of its pods.
#[derive(Debug)]
pub(crate) struct Pods {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    selector: String,
    nodes: Nodes,
    store: Mutex<Store>,
    condition: watch::Sender<Condition>,
    freshness: Freshness,
    removals: Removals,
}

#[derive(Debug, Clone)]
enum Condition {
    /// The watch has not been used yet.
    Idle,
    /// The first list is in progress, or the connection is being reopened. The error is the last
    /// failure.
    Away(Option<Error>),
    /// The watch is open.
    Live,
    /// The server has refused the watch. The next call starts it again.
    Failed(Error),
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pods {
    pub(crate) fn new(client: Client, scope: &Scope) -> Self {
        let selector = labels::selector(scope, &LabelFilter::new());
        let inner = Inner {
            nodes: Nodes::new(client.clone()),
            client,
            selector,
            store: Mutex::default(),
            condition: watch::Sender::new(Condition::Idle),
            freshness: Freshness::default(),
            removals: Removals::default(),
        };
        Self { inner: Arc::new(inner), task: Mutex::default() }
    }

    /// Ends the watch.
    pub(crate) fn close(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
        drop(task);
        let mut store = self.inner.store();
        store.listeners.clear();
        store.entries.clear();
        drop(store);
        self.inner.removals.clear();
        self.inner.condition.send_replace(Condition::Idle);
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.inner.condition.send_replace(Condition::Away(None));
            *task = Some(tokio::spawn(Arc::clone(&self.inner).run()));
        }
    }

    /// Starts the watch unless it runs, and waits until it is live.
    pub(crate) async fn live(&self) -> Result<()> {
        self.start();
        let mut condition = self.inner.condition.subscribe();
        loop {
            match &*condition.borrow_and_update() {
                Condition::Live => return Ok(()),
                Condition::Failed(error) => return Err(error.clone()),
                Condition::Idle | Condition::Away(_) => {}
            }
            if condition.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// Returns the reason why the watch is not live, if it is known.
    pub(crate) fn unavailable_reason(&self) -> Option<Error> {
        match &*self.inner.condition.borrow() {
            Condition::Away(error) => error.clone(),
            Condition::Failed(error) => Some(error.clone()),
            Condition::Idle | Condition::Live => None,
        }
    }

    /// Completes when the watch has failed, with the reason.
    pub(crate) async fn failed(&self) -> Error {
        let mut condition = self.inner.condition.subscribe();
        let failed = condition
            .wait_for(|now| matches!(now, Condition::Failed(_) | Condition::Idle))
            .await
            .map(|now| now.clone());
        match failed {
            Ok(Condition::Failed(error)) => error,
            _ => closed(),
        }
    }

    /// Returns whether the state is that of the server, or was a few seconds ago.
    pub(crate) fn is_current(&self) -> bool {
        matches!(*self.inner.condition.borrow(), Condition::Live)
            && self.inner.freshness.is_current()
    }

    /// Returns a pod of the scope.
    pub(crate) fn entry(&self, uid: &str) -> Option<Arc<Entry>> {
        self.inner.store().entries.get(uid).cloned()
    }

    /// Returns whether a pod was removed after `time`, as far as the watch has observed.
    pub(crate) fn has_gone_since(&self, uid: &str, time: Instant) -> bool {
        self.inner.store().removed.get(uid).is_some_and(|gone| *gone >= time)
    }

    /// Returns all pods of the scope.
    pub(crate) fn all(&self) -> Vec<ObservedPod> {
        let seen: Vec<ObservedPod> =
            self.inner.store().entries.values().map(|entry| entry.now()).collect();
        seen.into_iter().filter(|seen| !self.is_gone(&seen.pod.metadata.uid)).collect()
    }

    /// Returns whether a pod is gone whose removal is still being explained.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.inner.removals.is_gone(uid)
    }

    /// Returns the pods of the scope that match a predicate.
    pub(crate) fn matching(&self, predicate: impl Fn(&ObservedPod) -> bool) -> Vec<Arc<Entry>> {
        let store = self.inner.store();
        store.entries.values().filter(|entry| entry.matches(&predicate)).cloned().collect()
    }

    /// Updates the state with a pod that the server has returned. The watch has to reach its
    /// version, too.
    pub(crate) fn take(&self, pod: Pod) {
        if matches!(*self.inner.condition.borrow(), Condition::Idle) {
            return;
        }
        self.inner.freshness.expect(pod.version());
        // A removal is reported after its explanation.
        if !self.inner.removals.contains(&pod.metadata.uid) {
            self.inner.store().see(pod);
        }
    }

    /// Updates the state with a pod that the server has returned, and returns the observed pod.
    pub(crate) fn seen(&self, pod: Pod) -> ObservedPod {
        self.take(pod.clone());
        // Earlier observations have more than the pod alone.
        let entry = self.entry(&pod.metadata.uid);
        entry.map_or_else(|| ObservedPod::first(pod), |entry| entry.now())
    }

    /// Records that a pod is gone, because the server has reported it.
    pub(crate) fn mark_gone(&self, uid: &str) {
        if !matches!(*self.inner.condition.borrow(), Condition::Idle) {
            self.inner.removals.forget(uid);
            self.inner.store().gone(uid, None, None);
        }
    }

    /// Returns a channel with the events of the containers with these labels, from now on.
    pub(crate) fn listen(&self, labels: LabelFilter) -> mpsc::Receiver<Result<Event>> {
        let (sender, receiver) = mpsc::channel(EVENT_CHANNEL_CAPACITY);
        self.inner.store().listeners.push(Listener { labels, sender });
        receiver
    }
}

impl Inner {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let error = tokio::select! {
            error = self.watch() => error,
            never = self.report_removals() => match never {},
            never = self.clear_up_periodically() => match never {},
        };
        self.removals.clear();
        // Later calls return this error.
        tracing::debug!(%error, "the watch of the pods has ended");
        let mut store = self.store();
        for listener in store.listeners.drain(..) {
            let _ = listener.sender.try_send(Err(error.clone()));
        }
        store.unclear.clear();
        drop(store);
        self.condition.send_replace(Condition::Failed(error));
    }

    /// Watches until the server refuses permanently.
    async fn watch(&self) -> Error {
        let mut retry_policy = RetryPolicy::default();
        let mut forgotten = Backoff::default();
        loop {
            let sent = Instant::now();
            let version = match self.client.list_pods(&self.selector).await {
                Ok((pods, version)) => {
                    self.freshness.listed(sent, &version);
                    self.removals.clear();
                    self.store().reset(pods, version.parse().ok());
                    version
                }
                Err(error) => match retry_policy.with(error) {
                    Ok((error, delay)) => {
                        self.away(error);
                        tokio::time::sleep(delay).await;
                        continue;
                    }
                    Err(error) => return error,
                },
            };
            retry_policy.has_been_live = true;
            self.condition.send_replace(Condition::Live);
            let begun = Instant::now();
            if let Err(error) = self.follow(version, &mut retry_policy).await {
                return error;
            }
            // The backoff limits the requests to a server that does not have the version of its own
            // list.
            if begun.elapsed() >= WATCH_BACKOFF_RESET_AFTER {
                forgotten.reset();
            }
            tokio::time::sleep(forgotten.delay()).await;
        }
    }

    /// Watches from a version on, until a new list is required.
    async fn follow(&self, mut version: String, retry_policy: &mut RetryPolicy) -> Result<()> {
        let mut opened = Instant::now();
        loop {
            let failed = match self.client.watch_pods(&self.selector, &version).await {
                Ok(watch) => {
                    opened = Instant::now();
                    retry_policy.good();
                    self.freshness.opened(watch.liveness());
                    self.condition.send_replace(Condition::Live);
                    let failed = self.read(watch, &mut version).await;
                    self.freshness.closed();
                    failed
                }
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                // A watch is reopened at once, unless it has ended soon after it was opened.
                tokio::time::sleep(WATCH_INTERVAL_MIN.saturating_sub(opened.elapsed())).await;
                continue;
            };
            if error.kind() == ErrorKind::Lost {
                tracing::debug!(%error, "the version of the watch has expired");
                return Ok(());
            }
            let error = match error {
                error if poll::may_not_watch(&error) => {
                    match self.poll(&mut version, &error).await {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                error => error,
            };
            let (error, delay) = retry_policy.with(error)?;
            self.away(error);
            tokio::time::sleep(delay).await;
        }
    }

    fn away(&self, error: Error) {
        tracing::debug!(%error, "the watch of the pods is not connected");
        self.condition.send_replace(Condition::Away(Some(error)));
    }

    /// Reads an open watch to its end, and returns the error if it failed. No request is sent in
    /// the meantime, because it would delay all changes.
    async fn read(
        &self,
        mut watch: crate::client::watch::Watch,
        version: &mut String,
    ) -> Option<Error> {
        let mut check = interval(CHECK_INTERVAL);
        loop {
            let line = tokio::select! {
                line = watch.next() => line,
                _ = check.tick() => {
                    if self.freshness.is_behind() {
                        tracing::debug!("the watch is behind another response of the server");
                        return None;
                    }
                    continue;
                }
            };
            let (pod, is_gone) = match line {
                Ok(Some(WatchLine::Changed(pod))) => (pod, false),
                Ok(Some(WatchLine::Deleted(pod))) => (pod, true),
                Ok(Some(WatchLine::Bookmark(at))) => {
                    self.freshness.line(&at);
                    *version = at;
                    continue;
                }
                Ok(Some(WatchLine::Failed(status))) => {
                    return Some(crate::error::from_status(&status));
                }
                // A server may end a watch at any time.
                Ok(None) => return None,
                Err(error) => return Some(error),
            };
            version.clone_from(&pod.metadata.resource_version);
            self.freshness.line(version);
            self.take(pod, is_gone);
        }
    }

    /// Updates the state with a pod from the watch. A removal by another client is reported after
    /// its explanation, which delays no other pod.
    fn take(&self, pod: Box<Pod>, is_gone: bool) {
        let pod = match self.removed_with(&pod, is_gone) {
            Some(exit) => match self.removals.add(pod, exit, is_gone) {
                Ok(()) => return,
                Err(pod) => pod,
            },
            None => pod,
        };
        let uid = pod.metadata.uid.clone();
        self.removals.forget(&uid);
        if is_gone {
            self.store().gone(&uid, Some(*pod), None);
        } else {
            self.store().see(*pod);
        }
    }

    async fn clear_up_periodically(&self) -> Infallible {
        let mut check = interval(CHECK_INTERVAL);
        loop {
            check.tick().await;
            if !self.store().unclear.is_empty() {
                self.clear_up().await;
            }
        }
    }
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Backoff after errors, and the limits after which an error is final.
#[derive(Debug, Default)]
struct RetryPolicy {
    backoff: Backoff,
    refused_since: Option<Instant>,
    has_been_live: bool,
}

impl RetryPolicy {
    fn good(&mut self) {
        self.backoff.reset();
        self.refused_since = None;
    }

    /// Returns the error and the delay before the next attempt.
    fn with(&mut self, error: Error) -> Result<(Error, Duration)> {
        match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                // A token may be renewed soon, but a missing right usually stays missing.
                let limit = match error.kind() {
                    ErrorKind::PermissionDenied => PERMISSION_DENIED_LIMIT,
                    _ => UNAUTHENTICATED_LIMIT,
                };
                if !self.has_been_live || since.elapsed() >= limit {
                    return Err(error);
                }
            }
            ErrorKind::InvalidArgument | ErrorKind::Unsupported => return Err(error),
            _ => self.refused_since = None,
        }
        Ok((error, self.backoff.delay()))
    }
}
