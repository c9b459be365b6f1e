//! How a container ended whose pod alone does not say it: its events and its node may.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime_core::{Exit, ExitReason};

use super::Inner;
use crate::seen::Seen;
use crate::verdict::node_lost;
use crate::wire::Pod;

/// How long to wait for the events that explain an end.
const EXPLANATION: Duration = Duration::from_secs(3);

/// The pauses after which such an event is looked for once more: a scheduler removes a pod first,
/// and says why a moment later.
pub(super) const LATER: [u64; 3] = [50, 150, 400];

impl Inner {
    /// How a pod ended that vanished before it did, where its events or its node can explain that.
    pub(super) async fn explain(&self, last: &Pod) -> Option<Exit> {
        let exit = self.newly_removed(last, |seen| seen.last(None))?;
        if let Some(exit) = self.preemption(last, exit, &[]).await {
            return Some(exit);
        }
        let node = last.spec.node_name.as_deref()?;
        self.nodes.is_lost(node).await.then(|| node_lost(node))
    }

    /// The exit of a pod that with this news is about to be removed, and not by this runtime.
    pub(super) fn removed_with(&self, pod: &Pod) -> Option<Exit> {
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
    pub(super) async fn preemption(&self, pod: &Pod, exit: Exit, pauses: &[u64]) -> Option<Exit> {
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
    pub(super) async fn clear_up(&self) {
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
