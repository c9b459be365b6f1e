//! Container that cases share.

use std::sync::Arc;

use runtime_core::{Container, Scope};
use tokio::sync::OnceCell;

use crate::{Context, Failure, Outcome};

/// Running container in a scope of its own, created for the first case that uses it. It saves a container for
/// each case that only reads from it or runs commands in it.
pub(crate) struct SharedContainer {
    scope: Scope,
    made: OnceCell<Made>,
}

/// Container with the context that cleans up its scope.
struct Made {
    container: Arc<dyn Container>,
    context: Context,
}

impl SharedContainer {
    /// Creates the handle; the container is created by the first use.
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, made: OnceCell::new() }
    }

    /// Removes the container if it was created, and asserts that the engine lists nothing of it.
    pub(crate) async fn clean(&self) -> Outcome {
        match self.made.get() {
            Some(made) => made.context.clean().await,
            None => Ok(()),
        }
    }
}

impl Context {
    /// Returns a container that runs and ignores TERM, as [`idle`](Self::idle) describes it, with `KEPT=kept`
    /// and `OTHER=old` in its environment. Concurrent cases share it: a case must neither end nor change it,
    /// nor leave a session whose processes have to be found and ended.
    ///
    /// # Errors
    /// If the create or the start fails.
    pub(crate) async fn shared(&self) -> Result<Arc<dyn Container>, Failure> {
        let shared = self.shared_container();
        let made = shared.made.get_or_try_init(|| async {
            let context = self.of_scope(shared.scope.clone()).await?;
            let spec = context.idle().env("KEPT", "kept").env("OTHER", "old");
            match context.ready(&spec).await {
                Ok(container) => Ok(Made { container, context }),
                Err(failure) => {
                    // The next case retries in the same scope.
                    context.clean().await?;
                    Err(failure)
                }
            }
        });
        Ok(Arc::clone(&made.await?.container))
    }
}
