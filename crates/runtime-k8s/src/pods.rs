//! The one watch of a runtime: all pods of its scope, as the server changes them.
//!
//! Info, wait, list and events of any number of containers are answered from here. The watch
//! begins with the first question that needs it, and ends with the runtime. It goes on over lost
//! connections and restarted servers from the version it has seen, and lists anew when the server
//! has forgotten that version.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use runtime_core::{
    Backoff, Error, ErrorKind, Event, Exit, ExitReason, LabelFilter, Result, Scope,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::client::Client;
use crate::info;
use crate::names;
use crate::node::Nodes;
use crate::seen::Seen;
use crate::verdict::node_lost;
use crate::wire::{Pod, WatchLine};

/// How long a server may refuse the caller before that is the answer. A token may have expired and
/// be on its way to be renewed; a server that has just started knows no roles yet.
const PATIENCE_WITH_REFUSALS: Duration = Duration::from_secs(75);

/// How long a pod that was removed is remembered, in case older news of it is still under way.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Watches that end at once begin no more often than this.
const SHORTEST_WATCH: Duration = Duration::from_millis(250);

/// How long to wait for the events that explain an end.
const EXPLANATION: Duration = Duration::from_secs(3);

/// The pauses after which such an event is looked for once more: a scheduler removes a pod first,
/// and says why a moment later.
const LATER: [u64; 3] = [50, 150, 400];

/// How many removals are explained at once. A scheduler takes pods one by one: where so many go,
/// somebody removes them.
const MOST_EXPLAINED: usize = 64;

/// How many events may wait for one that does not read them.
const MOST_WAITING_EVENTS: usize = 100_000;

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

#[derive(Debug, Default)]
struct Store {
    entries: HashMap<Arc<str>, Arc<Entry>>,
    /// Pods that are known to be gone, and since when.
    removed: HashMap<Arc<str>, Instant>,
    /// Pods of which it is unclear how they end.
    unclear: HashSet<Arc<str>>,
    listeners: Vec<Listener>,
}

/// One who wants to know what happens to the containers with these labels.
#[derive(Debug)]
struct Listener {
    labels: LabelFilter,
    sender: mpsc::Sender<Result<Event>>,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Entry {
    seen: watch::Sender<Seen>,
    /// Held by the one who looks closer at what keeps the pod from running.
    pub(crate) judging: tokio::sync::Mutex<Judging>,
    /// Whether this runtime is removing it.
    removing: AtomicBool,
}

/// How often was looked closer, and when next.
#[derive(Debug, Default)]
pub(crate) struct Judging {
    pub(crate) looks: u32,
    pub(crate) next: Option<Instant>,
}

impl Entry {
    fn new(seen: Seen) -> Self {
        Self {
            seen: watch::Sender::new(seen),
            judging: tokio::sync::Mutex::default(),
            removing: AtomicBool::new(false),
        }
    }

    /// What is seen of it, now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// What is seen of it now.
    pub(crate) fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Says that this runtime is removing it: its end needs no further explanation.
    pub(crate) fn removing(&self) {
        self.removing.store(true, Ordering::Relaxed);
    }
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
                return Err(Error::new(ErrorKind::InvalidState).with_message("it was closed"));
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
            _ => Error::new(ErrorKind::InvalidState).with_message("the runtime was closed"),
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
        tracing::warn!(%error, "the watch of the pods has ended");
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
            if let Err(error) = self.go_on(version, &mut patience).await {
                return error;
            }
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

    /// How a pod ended that vanished before it did, where its events or its node can explain that.
    async fn explain(&self, last: &Pod) -> Option<Exit> {
        let exit = self.newly_removed(last, |seen| seen.last(None))?;
        if let Some(exit) = self.preemption(last, exit, &[]).await {
            return Some(exit);
        }
        let node = last.spec.node_name.as_deref()?;
        self.nodes.is_lost(node).await.then(|| node_lost(node))
    }

    /// The exit of a pod that with this news is about to be removed, and not by this runtime.
    fn removed_with(&self, pod: &Pod) -> Option<Exit> {
        pod.metadata.deletion_timestamp?;
        self.newly_removed(pod, |seen| seen)
    }

    /// The exit of a pod that with this news was removed, and not by this runtime.
    fn newly_removed(&self, news: &Pod, last: impl FnOnce(Seen) -> Seen) -> Option<Exit> {
        let entry = self.store().entries.get(news.metadata.uid.as_str()).cloned()?;
        let before = entry.now();
        if entry.removing.load(Ordering::Relaxed) || before.exit().is_some() {
            return None;
        }
        let after = last(before.next(news.clone()));
        after.exit().filter(|exit| exit.reason == ExitReason::Removed).cloned()
    }

    /// The exit of a pod that the scheduler has removed in favour of another. Older schedulers say
    /// so in an event alone, newer ones in the pod too. The event is looked for at once, and again
    /// after each of the pauses, in milliseconds.
    async fn preemption(&self, pod: &Pod, exit: Exit, pauses: &[u64]) -> Option<Exit> {
        let look = async {
            let mut pauses = pauses.iter();
            loop {
                let events = self.client.events_of(&pod.metadata.uid).await.ok()?;
                let mut events = events.into_iter();
                let preempted = events.find(|event| event.reason.as_deref() == Some("Preempted"));
                if preempted.is_some() {
                    return preempted;
                }
                tokio::time::sleep(Duration::from_millis(*pauses.next()?)).await;
            }
        };
        let preempted = tokio::time::timeout(EXPLANATION, look).await.ok()??;
        Some(
            exit.with_reason(ExitReason::Evicted)
                .with_message(preempted.message.unwrap_or_default()),
        )
    }

    /// Decides on the pods that have been unclear for too long.
    async fn clear_up(&self) {
        let due: Vec<(Arc<str>, Seen)> = {
            let store = self.store();
            let overdue = |seen: &Seen| {
                seen.unclear_since.is_some_and(|since| since.elapsed() >= seen.patience())
            };
            store
                .unclear
                .iter()
                .filter_map(|uid| Some((Arc::clone(uid), store.entries.get(uid)?.now())))
                .filter(|(_, seen)| overdue(seen))
                .collect()
        };
        for (uid, seen) in due {
            let exit = if seen.pod.metadata.deletion_timestamp.is_none() {
                Exit::new(ExitReason::Unknown)
                    .with_message("the cluster says that it ended, and not how")
            } else {
                let Some(node) = seen.pod.spec.node_name.as_deref() else { continue };
                if self.nodes.is_known_to_be_well(node).await {
                    continue;
                }
                node_lost(node)
            };
            self.store().ended(&uid, exit);
        }
    }
}

impl Store {
    /// Takes a pod as the server has, or had, it.
    fn see(&mut self, pod: Pod) {
        let uid: Arc<str> = pod.metadata.uid.as_str().into();
        if uid.is_empty() || self.removed.contains_key(&uid) {
            return;
        }
        let (before, after) = match self.entries.get(&uid) {
            Some(entry) => {
                let before = entry.now();
                // Answers to requests of ours and lines of the watch may overtake each other.
                if pod.version() <= before.pod.version() && pod.version().is_some() {
                    return;
                }
                let after = before.next(pod);
                entry.seen.send_replace(after.clone());
                (Some(before), after)
            }
            None => {
                let after = Seen::first(pod);
                self.entries.insert(Arc::clone(&uid), Arc::new(Entry::new(after.clone())));
                (None, after)
            }
        };
        self.mark(uid, &after);
        self.tell(&after, before.as_ref());
    }

    /// Takes that a pod is gone.
    fn gone(&mut self, uid: &str, last: Option<Pod>, exit: Option<Exit>) {
        self.unclear.remove(uid);
        let now = Instant::now();
        let known = self.removed.contains_key(uid);
        self.removed.entry(uid.into()).or_insert(now);
        if self.removed.len() > 1024 {
            self.removed.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        let (before, entry) = match self.entries.remove(uid) {
            Some(entry) => (Some(entry.now()), Some(entry)),
            None if known => return,
            None => (None, None),
        };
        let latest = match (&before, last) {
            (Some(before), Some(last)) => before.next(last),
            (Some(before), None) => before.clone(),
            (None, Some(last)) => Seen::first(last),
            (None, None) => return,
        };
        let after = latest.last(exit);
        if let Some(entry) = entry {
            entry.seen.send_replace(after.clone());
        }
        self.tell(&after, before.as_ref());
    }

    /// Takes how a container ended.
    fn ended(&mut self, uid: &str, exit: Exit) {
        self.unclear.remove(uid);
        let Some(entry) = self.entries.get(uid).cloned() else { return };
        let before = entry.now();
        if before.exit().is_none() {
            let after = before.ended(exit);
            entry.seen.send_replace(after.clone());
            self.tell(&after, Some(&before));
        }
    }

    /// Takes a whole list. What is not in it is gone, unless it is newer than the list.
    fn reset(&mut self, pods: Vec<Pod>, version: Option<u64>) {
        let listed: HashSet<String> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        let lost: Vec<Arc<str>> = self
            .entries
            .iter()
            .filter(|(uid, entry)| {
                !listed.contains(&***uid) && entry.seen.borrow().pod.version() <= version
            })
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        for uid in lost {
            self.gone(&uid, None, None);
        }
        for pod in pods {
            self.see(pod);
        }
    }

    fn mark(&mut self, uid: Arc<str>, seen: &Seen) {
        if seen.unclear_since.is_some() {
            self.unclear.insert(uid);
        } else {
            self.unclear.remove(&uid);
        }
    }

    fn tell(&mut self, after: &Seen, before: Option<&Seen>) {
        if self.listeners.is_empty() {
            return;
        }
        let events = after.events_since(before);
        // One that cannot take any more has its stream ended: a gap in it would be a lie.
        self.listeners.retain(|Listener { labels, sender }| {
            if sender.is_closed() {
                return false;
            }
            !info::has_labels(&after.pod, labels)
                || events.iter().all(|event| sender.try_send(Ok(event.clone())).is_ok())
        });
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
    use runtime_core::EventKind;
    use serde_json::json;

    fn running(uid: &str, version: u64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_new_list_removes_what_went_in_the_gap_and_keeps_what_is_newer() {
        let mut store = Store::default();
        for (uid, version) in [("stays", 3), ("went", 4), ("newer", 12)] {
            store.see(running(uid, version));
        }
        let went = Arc::clone(&store.entries["went"]);
        let (sender, mut events) = mpsc::channel(10);
        store.listeners.push(Listener { labels: LabelFilter::new(), sender });

        store.reset(vec![running("stays", 3), running("came", 9)], Some(10));
        let mut known: Vec<&str> = store.entries.keys().map(|uid| &**uid).collect();
        known.sort_unstable();
        assert_eq!(known, ["came", "newer", "stays"]);
        assert!(went.now().gone);
        assert_eq!(went.now().exit(), Some(&Exit::new(ExitReason::Removed)));
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            let event = event.unwrap();
            told.push((event.container.to_string(), event.kind));
        }
        let of_went: Vec<_> = told.iter().filter(|(id, _)| id == "went").collect();
        assert!(
            matches!(&of_went[..], [(_, EventKind::Exited(_)), (_, EventKind::Removed)]),
            "{told:?}"
        );
        assert!(told.iter().all(|(id, _)| id == "went" || id == "came"), "{told:?}");

        // News that were under way bring nothing back.
        store.see(running("went", 5));
        assert!(!store.entries.contains_key("went"));
    }
}
