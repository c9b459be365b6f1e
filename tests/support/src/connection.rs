//! Connection of a fault test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use runtime_conformance::BoxError;
use runtime_core::{Container, ContainerSpec, Nonce, ReapOptions, Runtime, Scope, async_trait};

use crate::{Outcome, PATIENCE};

/// Connection with its own scope, which is emptied at the end.
#[async_trait]
pub trait Connection: Sized + Send + Sync {
    /// Backend name in errors.
    const BACKEND: &'static str;

    /// Returns the runtime.
    fn runtime(&self) -> &dyn Runtime;

    /// Returns a spec that lacks only a command.
    fn spec(&self) -> ContainerSpec;

    /// Returns what the engine itself lists for the scope.
    ///
    /// # Errors
    /// If the request to the engine fails.
    async fn left(&self) -> Result<Vec<String>, BoxError>;

    /// Returns a spec that runs a script.
    fn script(&self, script: &str) -> ContainerSpec {
        self.spec().command(["sh", "-c", script])
    }

    /// Returns a spec that runs until it is killed.
    fn idle(&self) -> ContainerSpec {
        self.spec().command(["sleep", "3600"])
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// Errors of the two calls.
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, BoxError> {
        let container = self.runtime().create_container(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Starts `count` idle containers.
    ///
    /// # Errors
    /// Same as [`Connection::start`].
    async fn start_idle(&self, count: usize) -> Result<Vec<Arc<dyn Container>>, BoxError> {
        let spec = self.idle();
        try_join_all((0..count).map(|_| self.start(&spec))).await
    }

    /// Waits until the engine lists `count` objects of the scope, because a cancelled call may
    /// still be undone. With a limit of zero the condition has to hold immediately.
    ///
    /// # Errors
    /// If the request to the engine fails.
    ///
    /// # Panics
    /// If the condition does not hold within the limit.
    async fn until_left(&self, count: usize, limit: Duration) -> Outcome {
        let end = Instant::now() + limit;
        loop {
            let left = self.left().await?;
            if left.len() == count {
                return Ok(());
            }
            assert!(Instant::now() < end, "expected {count} remaining objects, found {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the scope is empty.
    ///
    /// # Errors
    /// If the request to the engine fails.
    ///
    /// # Panics
    /// If an object remains.
    async fn until_empty(&self) -> Outcome {
        self.until_left(0, PATIENCE).await
    }

    /// Removes everything in the scope, and asserts that it is empty.
    ///
    /// # Errors
    /// Errors of the reap and of the close.
    ///
    /// # Panics
    /// If an object cannot be removed, or remains.
    async fn finish(self) -> Outcome {
        let report = self.runtime().reap(ReapOptions::default()).await?;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        // The connection is closed last, because a close may interrupt the cleanup.
        self.until_empty().await?;
        Ok(self.runtime().close().await?)
    }
}

/// Returns an unused scope.
///
/// # Panics
/// If the system returns no random numbers.
#[must_use]
pub fn scope() -> Scope {
    let nonce = Nonce::random().expect("random numbers are available");
    Scope::new(format!("faults-{}", &nonce.as_str()[..12])).expect("letters and digits")
}
