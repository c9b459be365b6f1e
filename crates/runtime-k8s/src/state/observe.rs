//! The current state of a container, and waiting for a state.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Error, ErrorKind, Exit, Result};
use runtime_support::backend::ContainerRef as _;
use tokio::time::Instant;

use super::backend::KubernetesBackend;
use crate::error::BACKEND;
use crate::model::api::Pod;
use crate::model::container::KubernetesContainer;
use crate::model::pod::budget;
use crate::model::pod::lifecycle::{self, State};
use crate::model::pod::observed::ObservedPod;

impl KubernetesBackend {
    /// Returns the current state: from the watch if that is current, else from the server.
    pub(crate) async fn current(&self, container: &KubernetesContainer) -> Result<ObservedPod> {
        if self.pods.is_current()
            && let Some(entry) = self.pods.entry(container.uid())
        {
            if self.pods.is_gone(container.uid()) {
                return Err(Error::new(ErrorKind::NotFound));
            }
            return Ok(entry.now());
        }
        let pod = self.client.pod(container.pod_name()).await?;
        if pod.metadata.uid != container.uid() {
            return Err(Error::new(ErrorKind::NotFound));
        }
        Ok(self.pods.seen(pod))
    }

    /// Waits until the state matches a predicate, and evaluates the budgets in the meantime. There
    /// is no deadline.
    pub(crate) async fn wait_until(
        &self,
        container: &KubernetesContainer,
        wanted: impl Fn(&ObservedPod) -> bool,
    ) -> Result<ObservedPod> {
        let entry = self.entry(container.uid(), container.pod_name()).await?;
        let mut seen = entry.subscribe();
        let mut next_look: Option<Instant> = None;
        let mut was_reported = false;
        loop {
            let now = seen.borrow_and_update().clone();
            if wanted(&now) {
                return Ok(now);
            }
            let due = budget::due(&now, &self.options);
            let due = due.map(|due| next_look.map_or(due, |next| next.max(due)));
            let report = budget::report_due(&now).filter(|_| !was_reported);
            tokio::select! {
                changed = seen.changed() => {
                    next_look = None;
                    was_reported = false;
                    if changed.is_err() {
                        // The watch was closed, or a new list is without this pod.
                        let last = seen.borrow().clone();
                        if wanted(&last) {
                            return Ok(last);
                        }
                        return Err(Error::new(ErrorKind::NotFound));
                    }
                }
                () = sleep_until(report) => {
                    if let Some(message) = entry.unreported_message(&now) {
                        runtime_support::report_pending_start(BACKEND, container.name(), &message);
                    }
                    was_reported = true;
                }
                () = sleep_until(due) => match Box::pin(self.evaluate(&entry)).await {
                    Ok(next) => {
                        next_look = next.or(Some(Instant::now() + RECHECK_INTERVAL));
                        // The reason may be another one now.
                        was_reported = false;
                    }
                    // An unavailable server is retried.
                    Err(error) if error.is_retryable() => {
                        next_look = Some(Instant::now() + RECHECK_INTERVAL);
                    }
                    Err(error) => return Err(error),
                },
                error = self.pods.failed() => return Err(error),
            }
        }
    }

    /// Waits for the end of the container.
    pub(crate) async fn wait_ended(&self, container: &KubernetesContainer) -> Result<Exit> {
        let begun = Instant::now();
        match self.wait_until(container, |seen| seen.exit().is_some()).await {
            Ok(seen) => seen
                .exit()
                .cloned()
                .ok_or_else(|| Error::internal("the container has ended without an exit")),
            // The pod was removed after the beginning of the wait and before the watch was live.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && self.pods.has_gone_since(container.uid(), begun) =>
            {
                Ok(lifecycle::removed(&container.pod, lifecycle::Deletion::Unknown))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of the container, also while the server is unavailable.
    pub(crate) async fn wait_ended_with_retries(
        &self,
        container: &KubernetesContainer,
    ) -> Result<Exit> {
        loop {
            match self.wait_ended(container).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(RECHECK_INTERVAL).await,
                done => return done,
            }
        }
    }

    /// Requests the pod.
    pub(crate) async fn fetch(&self, container: &KubernetesContainer) -> Result<Arc<Pod>> {
        let pod = self.client.pod(container.pod_name()).await?;
        if pod.metadata.uid != container.uid() || pod.metadata.deletion_timestamp.is_some() {
            return Err(Error::new(ErrorKind::NotFound));
        }
        self.pods.take(pod.clone());
        Ok(Arc::new(pod))
    }

    /// Checks that the container runs.
    pub(crate) async fn require_running(&self, container: &KubernetesContainer) -> Result<()> {
        let mut seen = self.current(container).await?;
        if Box::pin(self.evaluate_if_due(&seen)).await? {
            seen = self.current(container).await?;
        }
        match seen.state {
            _ if seen.gone => Err(Error::new(ErrorKind::NotFound)),
            State::Gated | State::Pending(_) => Err(Error::new(ErrorKind::NotStarted)),
            State::Running => Ok(()),
            State::Settling | State::Ended(_) => {
                Err(Error::new(ErrorKind::InvalidState).with_message("the container has ended"))
            }
        }
    }

    /// Returns the error of a session that was not opened. If the container has ended in the
    /// meantime, the errors of servers vary, so that the state is the better reason.
    pub(crate) async fn explain_unopened(
        &self,
        container: &KubernetesContainer,
        error: Error,
    ) -> Error {
        if error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command") {
            return error;
        }
        // The watch may be behind the server.
        if let Err(gone) = self.fetch(container).await
            && gone.kind() == ErrorKind::NotFound
        {
            return gone.with_source(error);
        }
        match self.require_running(container).await {
            Err(state) if state.kind() == ErrorKind::InvalidState => state.with_source(error),
            _ => error,
        }
    }
}

pub(crate) const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
