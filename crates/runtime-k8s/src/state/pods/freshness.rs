//! Freshness of the state of the watch.
//!
//! A watch is silent if nothing changes, but also if its server is frozen or a load balancer has
//! evicted the connection. So its state is current only for a short time after a sign of life, and
//! the watch is reopened if a response to another request shows that it is behind.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::transport::liveness::Liveness;

/// Maximum age of the last sign of life, and so of returned state.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(5);

/// How long a watch may lack a version that another response had.
const BEHIND_AFTER: Duration = Duration::from_secs(4);

/// The signs of life of a watch.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    signs: Mutex<Signs>,
}

#[derive(Debug, Default)]
struct Signs {
    /// The time of the last response with the state of the pods.
    last: Option<Instant>,
    /// The connection of the open watch, if it is pinged.
    liveness: Option<Liveness>,
    /// The version that the watch has reached.
    version: u64,
    missing: Option<Missing>,
}

/// Versions that the watch lacks.
#[derive(Debug, Clone, Copy)]
struct Missing {
    first: u64,
    newest: u64,
    /// The time at which the first of them was missing.
    since: Instant,
    /// Whether the watch was reopened for them. A server that does not send them then never will.
    is_retried: bool,
}

impl Missing {
    fn new(version: u64) -> Self {
        let since = Instant::now();
        Self { first: version, newest: version, since, is_retried: false }
    }
}

impl Freshness {
    /// Records a list that was requested at `sent`.
    pub(super) fn listed(&self, sent: Instant, version: &str) {
        let mut signs = self.signs();
        *signs = Signs { last: Some(sent), ..Signs::default() };
        signs.reached(version);
    }

    /// Records that a watch was opened.
    pub(super) fn opened(&self, liveness: Option<Liveness>) {
        let mut signs = self.signs();
        signs.last = Some(Instant::now());
        signs.liveness = liveness;
    }

    /// Records a line of the watch, which has reached `version`.
    pub(super) fn line(&self, version: &str) {
        let mut signs = self.signs();
        signs.last = Some(Instant::now());
        signs.reached(version);
    }

    /// Records that the watch has ended.
    pub(super) fn closed(&self) {
        let mut signs = self.signs();
        // The time of missing versions restarts with the next watch.
        signs.missing = signs
            .missing
            .filter(|missing| !missing.is_retried)
            .map(|missing| Missing { since: Instant::now(), is_retried: true, ..missing });
        if let Some(liveness) = signs.liveness.take() {
            signs.last = signs.last.max(Some(liveness.last()));
        }
    }

    /// Records the version of a pod in a response to another request.
    pub(super) fn expect(&self, version: Option<u64>) {
        let mut signs = self.signs();
        let Some(version) = version.filter(|version| *version > signs.version) else { return };
        let missing = signs.missing.get_or_insert_with(|| Missing::new(version));
        missing.newest = missing.newest.max(version);
    }

    /// Returns whether the last sign of life is recent.
    pub(super) fn is_current(&self) -> bool {
        let signs = self.signs();
        let last = signs.last.max(signs.liveness.as_ref().map(Liveness::last));
        last.is_some_and(|last| last.elapsed() < STALE_AFTER)
    }

    /// Returns whether the watch has lacked a version for too long.
    pub(super) fn is_behind(&self) -> bool {
        self.signs().missing.is_some_and(|missing| missing.since.elapsed() >= BEHIND_AFTER)
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signs {
    fn reached(&mut self, version: &str) {
        let Ok(version) = version.parse() else { return };
        self.version = self.version.max(version);
        if let Some(missing) = self.missing
            && missing.first <= self.version
        {
            self.missing = (missing.newest > self.version).then(|| Missing::new(missing.newest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn state_is_not_current_without_sign_of_life() {
        let freshness = Freshness::default();
        assert!(!freshness.is_current());
        freshness.listed(Instant::now(), "1");
        assert!(freshness.is_current());
        tokio::time::advance(STALE_AFTER).await;
        assert!(!freshness.is_current());
        freshness.opened(None);
        tokio::time::advance(STALE_AFTER / 2).await;
        assert!(freshness.is_current());
        freshness.line("2");
        tokio::time::advance(STALE_AFTER * 3 / 4).await;
        assert!(freshness.is_current());
        tokio::time::advance(STALE_AFTER / 2).await;
        assert!(!freshness.is_current());
        freshness.opened(Some(Liveness::now()));
        freshness.closed();
        assert!(freshness.is_current());
        tokio::time::advance(STALE_AFTER).await;
        assert!(!freshness.is_current());
    }

    #[tokio::test(start_paused = true)]
    async fn watch_is_behind_after_missing_version() {
        let freshness = Freshness::default();
        freshness.listed(Instant::now(), "5");
        freshness.expect(Some(5));
        freshness.expect(None);
        tokio::time::advance(BEHIND_AFTER).await;
        assert!(!freshness.is_behind());
        freshness.expect(Some(7));
        tokio::time::advance(BEHIND_AFTER / 2).await;
        freshness.expect(Some(9));
        freshness.line("7");
        tokio::time::advance(BEHIND_AFTER * 3 / 4).await;
        assert!(!freshness.is_behind(), "the time of 9 starts at the arrival of 7");
        tokio::time::advance(BEHIND_AFTER / 2).await;
        assert!(freshness.is_behind());
        freshness.closed();
        assert!(!freshness.is_behind(), "the next watch has its own limit");
        freshness.line("10");
        tokio::time::advance(BEHIND_AFTER * 2).await;
        assert!(!freshness.is_behind());
    }
}
