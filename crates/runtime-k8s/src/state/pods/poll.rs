//! Polls the pods for a caller that has no right to watch them.

use std::time::Duration;

use runtime_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Condition, Inner};

/// Interval of the lists.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long the pods are polled before the watch is retried.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Returns whether the caller has no right to watch pods. The error of a server that has just
/// started is another one.
pub(super) fn may_not_watch(error: &Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

impl Inner {
    /// Polls the pods, and returns when the watch has to be retried.
    ///
    /// # Errors
    /// That of a list that fails.
    pub(super) async fn poll(&self, version: &mut String, error: &Error) -> Result<()> {
        tracing::debug!(%error, "no right to watch pods, polling them every second");
        let until = Instant::now() + WATCH_AGAIN_AFTER;
        while Instant::now() < until {
            let sent = Instant::now();
            let (pods, listed) = self.client.list_pods(&self.selector).await?;
            self.freshness.listed(sent, &listed);
            self.removals.clear();
            self.store().reset(pods, listed.parse().ok());
            *version = listed;
            self.condition.send_replace(Condition::Live);
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use runtime_core::{ContainerStatus, Scope};

    use super::*;
    use crate::model::info;
    use crate::state::pods::Pods;

    #[tokio::test(start_paused = true)]
    async fn pods_are_polled_without_right_to_watch() {
        const FORBIDDEN: &str = r#"{"kind": "Status", "code": 403, "reason": "Forbidden", "message":
            "pods is forbidden: User \"u\" cannot watch resource \"pods\" in API group \"\" in the namespace \"x\""}"#;
        const HELD: &str = r#"{"metadata": {"resourceVersion": "1"}, "items": [{"metadata":
            {"name": "p", "uid": "u", "resourceVersion": "1"}, "status": {"phase": "Pending"}}]}"#;
        const ENDED: &str = r#"{"metadata": {"resourceVersion": "2"}, "items": [{"metadata":
            {"name": "p", "uid": "u", "resourceVersion": "2"}, "status": {"phase": "Failed",
            "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 3}}}]}}]}"#;
        let lists = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let client = crate::client::tests::of(move |_, uri| match uri {
            "/readyz" => (200, "ok"),
            uri if uri.contains("watch=true") => (403, FORBIDDEN),
            _ if count.fetch_add(1, Ordering::Relaxed) < 5 => (200, HELD),
            _ => (200, ENDED),
        });
        let pods = Pods::new(client, &Scope::new("t").unwrap());
        let begun = Instant::now();
        pods.live().await.unwrap();
        let mut seen = pods.entry("u").unwrap().subscribe();
        let ended = seen.wait_for(|seen| info::status(&seen.state) == ContainerStatus::Exited);
        assert_eq!(ended.await.unwrap().exit().unwrap().code, Some(3));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // The watch is retried from time to time, and the polling continues.
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert!((150..220).contains(&lists.load(Ordering::Relaxed)), "{lists:?}");
    }
}
