//! Leftovers at the engine, according to its own listing.

use std::sync::Mutex;

use runtime_core::{ContainerExt as _, ListOptions, ReapOptions, Scope};

use crate::failure::fail;
use crate::poll::{PATIENCE, lock, until};
use crate::{Context, Failure, Outcome, Subject};

impl Context {
    /// Waits until the engine's own listing shows `count` objects of this scope. The wait continues as long
    /// as the listing changes, because a busy engine takes time for each object.
    ///
    /// # Errors
    /// If the listing stops changing at another count.
    pub async fn until_left(&self, count: usize) -> Result<(), Failure> {
        until_left(self.subject(), self.scope(), count).await
    }

    /// Asserts that the engine's own listing shows nothing of this scope now.
    ///
    /// # Errors
    /// If the listing is not empty.
    pub async fn nothing_left(&self) -> Result<(), Failure> {
        let left = leftovers(self.subject(), self.scope()).await?;
        if !left.is_empty() {
            fail!("this is left at the engine: {left:?}");
        }
        Ok(())
    }

    /// Removes everything in the scopes of this case, and asserts that the engine lists nothing of them.
    pub(crate) async fn clean(&self) -> Outcome {
        let mut outcome = Ok(());
        for scope in self.scopes() {
            outcome = outcome.and(self.clean_scope(&scope).await);
        }
        for folder in self.take_folders() {
            outcome = outcome.and(std::fs::remove_dir_all(folder).map_err(Failure::from));
        }
        let closed = self.runtime().close().await.map_err(Failure::from);
        outcome.and(closed)
    }

    async fn clean_scope(&self, scope: &Scope) -> Outcome {
        let runtime = self.subject().connect(scope).await?;
        if runtime.capabilities().reap {
            let report = runtime.reap(ReapOptions::default()).await?;
            if !report.failed.is_empty() {
                fail!("could not be reaped: {:?}", report.failed);
            }
        } else {
            for listed in runtime.list_containers(ListOptions::default()).await? {
                listed.container.ensure_removed().await?;
            }
        }
        runtime.close().await?;
        until_left(self.subject(), scope, 0).await
    }

    /// Describes the engine's objects in the scopes of this case, for a case that times out.
    pub(crate) async fn describe(&self) -> String {
        let mut all = Vec::new();
        for scope in self.scopes() {
            match leftovers(self.subject(), &scope).await {
                Ok(left) => all.extend(left),
                Err(failure) => all.push(failure.to_string()),
            }
        }
        all.truncate(10);
        format!("{all:?}")
    }
}

async fn until_left(subject: &dyn Subject, scope: &Scope, count: usize) -> Result<(), Failure> {
    let mut left = leftovers(subject, scope).await?;
    while left.len() != count {
        let now = Mutex::new(Vec::new());
        // An engine with many removals in progress may show no change for a while.
        let changed = until(PATIENCE * 3, "a change", || async {
            *lock(&now) = leftovers(subject, scope).await?;
            Ok((*lock(&now) != left).then_some(()))
        })
        .await;
        if let Err(failure) = changed {
            fail!("not {count} things are at the engine but {left:?}: {failure}");
        }
        left = std::mem::take(&mut *lock(&now));
    }
    Ok(())
}

/// Returns the engine's own listing of a scope.
async fn leftovers(subject: &dyn Subject, scope: &Scope) -> Result<Vec<String>, Failure> {
    subject.leftovers(scope).await.map_err(|error| Failure::new(error.to_string()))
}
