//! The pods as the watch has observed them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime_core::{Event, Exit, LabelFilter, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::model::api::Pod;
use crate::model::info;
use crate::model::pod::observed::ObservedPod;

/// How long a removed pod is remembered, in case an older version of it arrives later.
const REMOVED_TTL: Duration = Duration::from_secs(300);

/// Capacity of the channel to a listener, in events.
pub(super) const EVENT_CHANNEL_CAPACITY: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) entries: HashMap<Arc<str>, Arc<Entry>>,
    /// Pods that are gone, with the time of their removal.
    pub(super) removed: HashMap<Arc<str>, Instant>,
    /// Pods whose end is unclear.
    pub(super) unclear: HashSet<Arc<str>>,
    pub(super) listeners: Vec<Listener>,
}

/// A receiver of the events of the containers with these labels.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) labels: LabelFilter,
    pub(super) sender: mpsc::Sender<Result<Event>>,
}

/// A pod of the scope.
#[derive(Debug)]
pub(crate) struct Entry {
    seen: watch::Sender<ObservedPod>,
    /// Locked while one of the waiters evaluates the budget.
    pub(crate) evaluation: tokio::sync::Mutex<Evaluation>,
    /// Whether this runtime is removing the pod.
    pub(super) removing: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// Progress of a pending start.
#[derive(Debug, Default)]
struct Waiting {
    /// The latest message of the node in the events of the cluster.
    progress: Option<String>,
    /// The message that was reported last.
    reported: Option<String>,
}

/// Number of evaluations, and the time of the next.
#[derive(Debug, Default)]
pub(crate) struct Evaluation {
    pub(crate) looks: u32,
    pub(crate) next: Option<Instant>,
}

impl Entry {
    fn new(seen: ObservedPod) -> Self {
        Self {
            seen: watch::Sender::new(seen),
            evaluation: tokio::sync::Mutex::default(),
            removing: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the latest message of the node in the events of the cluster.
    pub(crate) fn set_progress(&self, message: String) {
        self.waiting().progress = Some(message);
    }

    /// Returns the reason why the container does not run yet.
    pub(crate) fn pending_message(&self, seen: &ObservedPod) -> String {
        let progress = || self.waiting().progress.clone();
        let message = if seen.is_silent_about_start() { progress() } else { None };
        message.unwrap_or_else(|| seen.pending_message())
    }

    /// Returns the reason why the container does not run yet, unless it was reported before.
    pub(crate) fn unreported_message(&self, seen: &ObservedPod) -> Option<String> {
        let message = self.pending_message(seen);
        let mut waiting = self.waiting();
        if waiting.reported.as_ref() == Some(&message) {
            return None;
        }
        waiting.reported = Some(message.clone());
        Some(message)
    }

    /// Returns a receiver of the current and all later observations.
    pub(crate) fn subscribe(&self) -> watch::Receiver<ObservedPod> {
        self.seen.subscribe()
    }

    /// Returns the current observation.
    pub(crate) fn now(&self) -> ObservedPod {
        self.seen.borrow().clone()
    }

    /// Returns whether the current observation matches a predicate.
    pub(super) fn matches(&self, predicate: impl Fn(&ObservedPod) -> bool) -> bool {
        predicate(&self.seen.borrow())
    }

    /// Records that this runtime is removing the pod, so that its end needs no explanation.
    pub(crate) fn removing(&self) {
        self.removing.store(true, Ordering::Relaxed);
    }
}

impl Store {
    /// Adds a version of a pod.
    pub(super) fn see(&mut self, pod: Pod) {
        let uid: Arc<str> = pod.metadata.uid.as_str().into();
        if uid.is_empty() || self.removed.contains_key(&uid) {
            return;
        }
        let (before, after) = match self.entries.get(&uid) {
            Some(entry) => {
                let before = entry.now();
                // Responses to requests and lines of the watch can arrive in any order.
                if pod.version() <= before.pod.version() && pod.version().is_some() {
                    return;
                }
                let after = before.next(pod);
                entry.seen.send_replace(after.clone());
                (Some(before), after)
            }
            None => {
                let after = ObservedPod::first(pod);
                self.entries.insert(Arc::clone(&uid), Arc::new(Entry::new(after.clone())));
                (None, after)
            }
        };
        self.mark(uid, &after);
        self.notify(&after, before.as_ref());
    }

    /// Records that a pod is gone.
    pub(super) fn gone(&mut self, uid: &str, last: Option<Pod>, exit: Option<Exit>) {
        self.unclear.remove(uid);
        let now = Instant::now();
        let known = self.removed.contains_key(uid);
        self.removed.entry(uid.into()).or_insert(now);
        if self.removed.len() > 1024 {
            self.removed.retain(|_, since| since.elapsed() < REMOVED_TTL);
        }
        let (before, entry) = match self.entries.remove(uid) {
            Some(entry) => (Some(entry.now()), Some(entry)),
            None if known => return,
            None => (None, None),
        };
        let latest = match (&before, last) {
            (Some(before), Some(last)) => before.next(last),
            (Some(before), None) => before.clone(),
            (None, Some(last)) => ObservedPod::first(last),
            (None, None) => return,
        };
        let after = latest.last(exit);
        if let Some(entry) = entry {
            entry.seen.send_replace(after.clone());
        }
        self.notify(&after, before.as_ref());
    }

    /// Records the exit of a container.
    pub(super) fn ended(&mut self, uid: &str, exit: Exit) {
        self.unclear.remove(uid);
        let Some(entry) = self.entries.get(uid).cloned() else { return };
        let before = entry.now();
        if before.exit().is_none() {
            let after = before.ended(exit);
            entry.seen.send_replace(after.clone());
            self.notify(&after, Some(&before));
        }
    }

    /// Applies a complete list. Other pods are gone, unless they are newer than the list.
    pub(super) fn reset(&mut self, pods: Vec<Pod>, version: Option<u64>) {
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

    fn mark(&mut self, uid: Arc<str>, seen: &ObservedPod) {
        if seen.unclear_since.is_some() {
            self.unclear.insert(uid);
        } else {
            self.unclear.remove(&uid);
        }
    }

    fn notify(&mut self, after: &ObservedPod, before: Option<&ObservedPod>) {
        if self.listeners.is_empty() {
            return;
        }
        let events = after.events_since(before);
        // The stream of a full listener is ended, because events would be missing from it.
        self.listeners.retain(|Listener { labels, sender }| {
            if sender.is_closed() {
                return false;
            }
            !info::has_labels(&after.pod, labels)
                || events.iter().all(|event| sender.try_send(Ok(event.clone())).is_ok())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::{EventKind, ExitReason};
    use serde_json::json;

    fn running(uid: &str, version: u64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn pending_reason_is_reported_once() {
        let pod = |version: u64, node: Option<&str>, message: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "u", "resourceVersion": version.to_string(),
                    "labels": {crate::model::labels::RELEASED: "n"}},
                "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
                "status": {"phase": "Pending", "containerStatuses": [
                    {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": message}}}]},
            }))
            .unwrap()
        };
        let seen = ObservedPod::first(pod(1, Some("n"), "no such image"));
        let entry = Entry::new(seen.clone());
        assert_eq!(entry.unreported_message(&seen).as_deref(), Some("no such image"));
        assert_eq!(entry.unreported_message(&seen), None);
        let other = seen.next(pod(2, Some("n"), "no such registry"));
        assert_eq!(entry.unreported_message(&other).as_deref(), Some("no such registry"));
        // The events have the progress of a node that the pod does not show.
        let quiet: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "labels": {crate::model::labels::RELEASED: "n"}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}))
        .unwrap();
        let quiet = ObservedPod::first(quiet);
        assert_eq!(
            entry.unreported_message(&quiet).as_deref(),
            Some("node n is starting the container")
        );
        entry.set_progress("Pulling image \"large\"".to_owned());
        assert_eq!(entry.unreported_message(&quiet).as_deref(), Some("Pulling image \"large\""));
        assert_eq!(entry.pending_message(&other), "no such registry");
    }

    #[tokio::test]
    async fn list_removes_missing_pods_and_keeps_newer_pods() {
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

        // Older versions do not restore a removed pod.
        store.see(running("went", 5));
        assert!(!store.entries.contains_key("went"));
    }
}
