//! The container that cases share.

use std::sync::Arc;

use runtime_core::{Container, Scope};
use tokio::sync::OnceCell;

use crate::{Context, Failure, Outcome};

/// A running container in a scope of its own, made for the first case that uses it. It saves a
/// container for each case that only reads from one or runs programs in it.
pub(crate) struct SharedContainer {
    scope: Scope,
    made: OnceCell<Made>,
}

/// The container, with the context that its scope is cleaned up by.
struct Made {
    container: Arc<dyn Container>,
    context: Context,
}

impl SharedContainer {
    /// One that is not made yet.
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, made: OnceCell::new() }
    }

    /// Removes the container if it was made, and asserts that the engine lists nothing of it.
    pub(crate) async fn clean(&self) -> Outcome {
        match self.made.get() {
            Some(made) => made.context.clean().await,
            None => Ok(()),
        }
    }
}

impl Context {
    /// A container that runs and ignores TERM, as [`idle`](Self::idle) describes it, with
    /// `KEPT=kept` and `OTHER=old` in its environment. Cases that run at the same time share it: a
    /// case must neither end nor change it, nor leave a session whose processes have to be found and
    /// ended.
    ///
    /// # Errors
    /// Those of its create and start.
    pub(crate) async fn shared(&self) -> Result<Arc<dyn Container>, Failure> {
        let shared = self.shared_container();
        let made = shared.made.get_or_try_init(|| async {
            let context = self.of_scope(shared.scope.clone()).await?;
            let spec = context.idle().env("KEPT", "kept").env("OTHER", "old");
            match context.ready(&spec).await {
                Ok(container) => Ok(Made { container, context }),
                Err(failure) => {
                    // Another case tries again, in the same scope.
                    context.clean().await?;
                    Err(failure)
                }
            }
        });
        Ok(Arc::clone(&made.await?.container))
    }
}
