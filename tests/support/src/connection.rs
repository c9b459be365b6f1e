//! What a fault test works with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use runtime_conformance::BoxError;
use runtime_core::{Container, ContainerSpec, Nonce, ReapOptions, Runtime, Scope, async_trait};

use crate::{Outcome, PATIENCE};

/// A connection with a scope of its own, which is emptied at the end.
#[async_trait]
pub trait Connection: Sized + Send + Sync {
    /// What errors call the backend.
    const BACKEND: &'static str;

    /// The connection itself.
    fn runtime(&self) -> &dyn Runtime;

    /// A container that needs only a command.
    fn spec(&self) -> ContainerSpec;

    /// What the engine itself lists of the scope.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    async fn left(&self) -> Result<Vec<String>, BoxError>;

    /// A container that runs a script.
    fn script(&self, script: &str) -> ContainerSpec {
        self.spec().command(["sh", "-c", script])
    }

    /// A container that runs until it is killed.
    fn idle(&self) -> ContainerSpec {
        self.spec().command(["sleep", "3600"])
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// Those of the two calls.
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, BoxError> {
        let container = self.runtime().create_container(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Starts so many that are idle.
    ///
    /// # Errors
    /// As for [`Connection::start`].
    async fn start_idle(&self, count: usize) -> Result<Vec<Arc<dyn Container>>, BoxError> {
        let spec = self.idle();
        try_join_all((0..count).map(|_| self.start(&spec))).await
    }

    /// Waits until the engine lists so many things of the scope: what was cut off may be undone just
    /// now. With a limit of zero it has to be so already.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    ///
    /// # Panics
    /// When it does not come to that within the limit.
    async fn until_left(&self, count: usize, limit: Duration) -> Outcome {
        let end = Instant::now() + limit;
        loop {
            let left = self.left().await?;
            if left.len() == count {
                return Ok(());
            }
            assert!(Instant::now() < end, "not {count} things are left but {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until nothing is left of the scope.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    ///
    /// # Panics
    /// When something stays.
    async fn until_empty(&self) -> Outcome {
        self.until_left(0, PATIENCE).await
    }

    /// Empties the scope, and asserts that it is empty.
    ///
    /// # Errors
    /// Those of the reap and of the close.
    ///
    /// # Panics
    /// When something could not be removed, or stays.
    async fn finish(self) -> Outcome {
        let report = self.runtime().reap(ReapOptions::default()).await?;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        // Not closed before: that may keep what is being undone from its end.
        self.until_empty().await?;
        Ok(self.runtime().close().await?)
    }
}

/// A scope that nobody has.
///
/// # Panics
/// When the system gives no random numbers.
#[must_use]
pub fn scope() -> Scope {
    let nonce = Nonce::random().expect("the system gives random numbers");
    Scope::new(format!("faults-{}", &nonce.as_str()[..12])).expect("letters and digits")
}
