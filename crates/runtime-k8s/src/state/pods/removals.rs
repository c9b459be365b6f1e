//! Removals by other clients, which are explained before they are reported.
//!
//! An explanation requires requests to the server. They are sent concurrently with the reader of
//! the watch, few at a time and with a timeout, so that the removal of many pods delays nothing
//! else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use runtime_core::Exit;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Inner;
use super::exits::EVENT_RETRY_DELAYS_MS;
use crate::model::api::Pod;

/// Maximum number of concurrent explanations.
const CONCURRENT_EXPLANATIONS_MAX: usize = 8;

/// Timeout of an explanation.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of removals that wait. Further ones are reported at once, without an explanation.
const WAITING_MAX: usize = 1024;

/// The removals that were not reported yet.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: Mutex<HashMap<Arc<str>, Removal>>,
    queue: Mutex<Option<mpsc::UnboundedSender<Arc<str>>>>,
}

#[derive(Debug)]
struct Removal {
    /// The last version of the pod.
    pod: Box<Pod>,
    /// The exit without an explanation.
    exit: Exit,
    /// Whether the pod is gone, and not only being deleted.
    is_gone: bool,
    until: Instant,
}

impl Removals {
    /// Adds a pod that another client removes. Returns the pod if it cannot wait.
    pub(super) fn add(&self, pod: Box<Pod>, exit: Exit, is_gone: bool) -> Result<(), Box<Pod>> {
        let mut waiting = lock(&self.waiting);
        if let Some(removal) = waiting.get_mut(pod.metadata.uid.as_str()) {
            removal.pod = pod;
            removal.is_gone |= is_gone;
            return Ok(());
        }
        if waiting.len() >= WAITING_MAX {
            return Err(pod);
        }
        let uid: Arc<str> = pod.metadata.uid.as_str().into();
        let queued =
            lock(&self.queue).as_ref().is_some_and(|queue| queue.send(Arc::clone(&uid)).is_ok());
        if !queued {
            return Err(pod);
        }
        let until = Instant::now() + EXPLANATION_TIMEOUT;
        waiting.insert(uid, Removal { pod, exit, is_gone, until });
        Ok(())
    }

    /// Returns whether a removal waits.
    pub(super) fn contains(&self, uid: &str) -> bool {
        lock(&self.waiting).contains_key(uid)
    }

    /// Returns whether the removal of a pod that is gone waits.
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.get(uid, |removal| removal.is_gone).unwrap_or(false)
    }

    /// Drops a removal, because it was reported otherwise.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.waiting).remove(uid);
    }

    /// Drops all removals.
    pub(super) fn clear(&self) {
        lock(&self.waiting).clear();
    }

    fn get<T>(&self, uid: &str, read: impl FnOnce(&Removal) -> T) -> Option<T> {
        lock(&self.waiting).get(uid).map(read)
    }
}

impl Inner {
    /// Explains and reports removals while it is polled.
    pub(super) async fn report_removals(&self) -> Infallible {
        let (sender, mut queue) = mpsc::unbounded_channel();
        *lock(&self.removals.queue) = Some(sender);
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(uid) = queue.recv(), if under_way.len() < CONCURRENT_EXPLANATIONS_MAX => {
                    under_way.push(self.report_removal(uid));
                }
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
        }
    }

    async fn report_removal(&self, uid: Arc<str>) {
        let Some(until) = self.removals.get(&uid, |removal| removal.until) else { return };
        let explained = tokio::time::timeout_at(until, self.explanation(&uid)).await;
        let Some(removal) = lock(&self.removals.waiting).remove(&uid) else { return };
        let exit = explained.ok().flatten();
        let mut store = self.store();
        if removal.is_gone {
            store.gone(&uid, Some(*removal.pod), exit);
            return;
        }
        if let Some(exit) = exit {
            store.ended(&uid, exit);
        }
        store.see(*removal.pod);
    }

    async fn explanation(&self, uid: &str) -> Option<Exit> {
        let of = |removal: &Removal| (removal.pod.clone(), removal.exit.clone(), removal.is_gone);
        let (pod, exit, is_gone) = self.removals.get(uid, of)?;
        if !is_gone {
            if let Some(exit) = self.preemption(&pod, exit, &EVENT_RETRY_DELAYS_MS).await {
                return Some(exit);
            }
            if !self.removals.get(uid, |removal| removal.is_gone)? {
                return None;
            }
        }
        let last = self.removals.get(uid, |removal| removal.pod.clone())?;
        self.explain(&last).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
