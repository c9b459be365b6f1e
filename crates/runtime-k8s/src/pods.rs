//! The one watch of a runtime: all pods of its scope, as the server changes them.
//!
//! Info, wait, list and events of any number of containers are answered from here. The watch
//! begins with the first question that needs it, and ends with the runtime. It goes on over lost
//! connections and restarted servers from the version it has seen, and lists anew when the server
//! has forgotten that version.

mod ends;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use runtime_core::{Backoff, Error, ErrorKind, Event, Exit, LabelFilter, Result, Scope};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::client::Client;
use crate::names;
use crate::node::Nodes;
use crate::seen::Seen;
use crate::shared::is_closed;
use crate::wire::{Pod, WatchLine};

use ends::LATER;
pub(crate) use store::Entry;
use store::{Listener, MOST_WAITING_EVENTS, Store};

/// How long a server may refuse the caller before that is the answer. A token may have expired and
/// be on its way to be renewed; a server that has just started knows no roles yet.
const PATIENCE_WITH_REFUSALS: Duration = Duration::from_secs(75);

/// Watches that end at once begin no more often than this.
const SHORTEST_WATCH: Duration = Duration::from_millis(250);

/// After this a version may well be forgotten.
const LONG_WATCH: Duration = Duration::from_secs(60);

/// How many removals are explained at once. A scheduler takes pods one by one: where so many go,
/// somebody removes them.
const MOST_EXPLAINED: usize = 64;

/// The watch and all it has seen.
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
}

#[derive(Debug, Clone)]
enum Condition {
    /// Nothing was asked yet.
    Idle,
    /// The first list is under way, or the connection is lost and being made anew.
    Away(Option<Error>),
    /// What is seen is what the server has, but for what is under way.
    Live,
    /// The server refuses. Whoever asks next starts it again.
    Failed(Error),
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pods {
    pub(crate) fn new(client: Client, scope: &Scope) -> Self {
        let selector = names::selector(scope, &LabelFilter::new());
        let inner = Inner {
            nodes: Nodes::new(client.clone()),
            client,
            selector,
            store: Mutex::default(),
            condition: watch::Sender::new(Condition::Idle),
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
                return Err(is_closed());
            }
        }
    }

    /// Why the watch is not live, where that is known.
    pub(crate) fn why_away(&self) -> Option<Error> {
        match &*self.inner.condition.borrow() {
            Condition::Away(error) => error.clone(),
            Condition::Failed(error) => Some(error.clone()),
            Condition::Idle | Condition::Live => None,
        }
    }

    /// Completes when the watch has given up, and says why.
    pub(crate) async fn failed(&self) -> Error {
        let mut condition = self.inner.condition.subscribe();
        let failed = condition
            .wait_for(|now| matches!(now, Condition::Failed(_) | Condition::Idle))
            .await
            .map(|now| now.clone());
        match failed {
            Ok(Condition::Failed(error)) => error,
            _ => is_closed(),
        }
    }

    /// Whether what is seen is what the server has.
    pub(crate) fn is_live(&self) -> bool {
        matches!(*self.inner.condition.borrow(), Condition::Live)
    }

    /// A pod of the scope.
    pub(crate) fn entry(&self, uid: &str) -> Option<Arc<Entry>> {
        self.inner.store().entries.get(uid).cloned()
    }

    /// Whether a pod is known to have gone, and was there at `time` as far as that is known.
    pub(crate) fn has_gone_since(&self, uid: &str, time: Instant) -> bool {
        self.inner.store().removed.get(uid).is_some_and(|gone| *gone >= time)
    }

    /// All pods of the scope.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.inner.store().entries.values().map(|entry| entry.now()).collect()
    }

    /// Takes what the server answered to a request of ours.
    pub(crate) fn take(&self, pod: Pod) {
        if !matches!(*self.inner.condition.borrow(), Condition::Idle) {
            self.inner.store().see(pod);
        }
    }

    /// Takes that a pod is gone, because the server said so to us.
    pub(crate) fn take_gone(&self, uid: &str) {
        if !matches!(*self.inner.condition.borrow(), Condition::Idle) {
            self.inner.store().gone(uid, None, None);
        }
    }

    /// What happens from now on to the containers with these labels.
    pub(crate) fn listen(&self, labels: LabelFilter) -> mpsc::Receiver<Result<Event>> {
        let (sender, receiver) = mpsc::channel(MOST_WAITING_EVENTS);
        self.inner.store().listeners.push(Listener { labels, sender });
        receiver
    }
}

impl Inner {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let error = self.watch().await;
        // Whoever asks is told.
        tracing::debug!(%error, "the watch of the pods has ended");
        let mut store = self.store();
        for listener in store.listeners.drain(..) {
            let _ = listener.sender.try_send(Err(error.clone()));
        }
        store.unclear.clear();
        drop(store);
        self.condition.send_replace(Condition::Failed(error));
    }

    /// Watches until the server refuses for good.
    async fn watch(&self) -> Error {
        let mut patience = Patience::default();
        let mut forgotten = Backoff::default();
        loop {
            let version = match self.client.list_pods(&self.selector).await {
                Ok((pods, version)) => {
                    self.store().reset(pods, version.parse().ok());
                    version
                }
                Err(error) => match patience.with(error) {
                    Ok((error, delay)) => {
                        self.away(error);
                        tokio::time::sleep(delay).await;
                        continue;
                    }
                    Err(error) => return error,
                },
            };
            patience.has_been_live = true;
            self.condition.send_replace(Condition::Live);
            let begun = Instant::now();
            if let Err(error) = self.go_on(version, &mut patience).await {
                return error;
            }
            // A server that has forgotten the version of its own list is not asked without end.
            if begun.elapsed() >= LONG_WATCH {
                forgotten.reset();
            }
            tokio::time::sleep(forgotten.delay()).await;
        }
    }

    /// Watches from a version on, until a new list is needed.
    async fn go_on(&self, mut version: String, patience: &mut Patience) -> Result<()> {
        let mut opened = Instant::now();
        let mut explained = FuturesUnordered::new();
        loop {
            let failed = match self.client.watch_pods(&self.selector, &version).await {
                Ok(watch) => {
                    opened = Instant::now();
                    patience.good();
                    self.condition.send_replace(Condition::Live);
                    self.read(watch, &mut version, &mut explained).await
                }
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                // A watch that just ended is opened again at once, unless it ends again and again.
                tokio::time::sleep(SHORTEST_WATCH.saturating_sub(opened.elapsed())).await;
                continue;
            };
            if error.kind() == ErrorKind::Lost {
                tracing::debug!(%error, "the server has forgotten the version of the watch");
                return Ok(());
            }
            let (error, delay) = patience.with(error)?;
            self.away(error);
            tokio::time::sleep(delay).await;
        }
    }

    fn away(&self, error: Error) {
        tracing::debug!(%error, "the watch of the pods is away");
        self.condition.send_replace(Condition::Away(Some(error)));
    }

    /// Reads an open watch to its end, and says why it ended if that was a failure.
    async fn read<'a>(
        &'a self,
        mut watch: crate::watch::Watch,
        version: &mut String,
        explained: &mut FuturesUnordered<BoxFuture<'a, (Box<Pod>, Option<Exit>)>>,
    ) -> Option<Error> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_unclear = !self.store().unclear.is_empty();
            let line = tokio::select! {
                line = watch.next() => line,
                Some((pod, exit)) = explained.next(), if !explained.is_empty() => {
                    let mut store = self.store();
                    if let Some(exit) = exit {
                        store.ended(&pod.metadata.uid, exit);
                    }
                    store.see(*pod);
                    continue;
                }
                _ = tick.tick(), if has_unclear => {
                    self.clear_up().await;
                    continue;
                }
            };
            match line {
                Ok(Some(WatchLine::Seen(pod))) => {
                    version.clone_from(&pod.metadata.resource_version);
                    match self.removed_with(&pod) {
                        // It is news when it is explained, and others do not wait for that.
                        Some(exit) if explained.len() < MOST_EXPLAINED => {
                            let explain = async {
                                let exit = self.preemption(&pod, exit, &LATER).await;
                                (pod, exit)
                            };
                            explained.push(explain.boxed());
                        }
                        _ => self.store().see(*pod),
                    }
                }
                Ok(Some(WatchLine::Deleted(pod))) => {
                    version.clone_from(&pod.metadata.resource_version);
                    let exit = self.explain(&pod).await;
                    let uid = pod.metadata.uid.clone();
                    self.store().gone(&uid, Some(*pod), exit);
                }
                Ok(Some(WatchLine::Bookmark(at))) => *version = at,
                Ok(Some(WatchLine::Failed(status))) => {
                    return Some(crate::error::from_status(&status));
                }
                Ok(None) => {
                    // The server ends watches as it likes; one that ends them at once is ill.
                    return None;
                }
                Err(error) => return Some(error),
            }
        }
    }
}

/// How often to come again, and when to give up.
#[derive(Debug, Default)]
struct Patience {
    backoff: Backoff,
    refused_since: Option<Instant>,
    has_been_live: bool,
}

impl Patience {
    fn good(&mut self) {
        self.backoff.reset();
        self.refused_since = None;
    }

    /// The error and the delay after it, or the error alone if it is the last.
    fn with(&mut self, error: Error) -> Result<(Error, Duration)> {
        match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => {
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                if !self.has_been_live || since.elapsed() >= PATIENCE_WITH_REFUSALS {
                    return Err(error);
                }
            }
            ErrorKind::InvalidArgument | ErrorKind::Unsupported => return Err(error),
            _ => self.refused_since = None,
        }
        Ok((error, self.backoff.delay()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_server_that_forgets_its_own_version_is_not_asked_without_end() {
        let lists = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let client = crate::client::tests::of(move |_, uri| {
            if uri.contains("watch=true") {
                return (410, r#"{"kind": "Status", "code": 410, "reason": "Expired"}"#);
            }
            count.fetch_add(1, Ordering::Relaxed);
            (200, r#"{"metadata": {"resourceVersion": "1"}, "items": []}"#)
        });
        let pods = Pods::new(client, &Scope::new("t").unwrap());
        pods.live().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let lists = lists.load(Ordering::Relaxed);
        assert!((2..60).contains(&lists), "{lists}");
    }
}
