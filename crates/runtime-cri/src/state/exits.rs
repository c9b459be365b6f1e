//! Source of the exit watcher: the container poller reports ends, and an inspection returns the
//! exit.

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use runtime_core::{ContainerId, ContainerStatus, ErrorKind, Exit, Operation, Result};
use runtime_support::{ExitSource, Sight, Wake, WakeStream};

use super::inspect;
use super::poller::Poller;

/// Source of the exit watcher.
#[derive(Debug)]
pub(crate) struct PolledExits {
    poller: Poller,
}

impl PolledExits {
    /// Returns a source over the poller.
    pub(crate) const fn new(poller: Poller) -> Self {
        Self { poller }
    }
}

#[async_trait]
impl ExitSource for PolledExits {
    async fn watch(&self) -> Result<WakeStream> {
        let (_, changes) = self.poller.subscribe(Operation::Wait, false).await?;
        // The receiver ends with the poller, when the runtime is closed.
        let wakes = stream::unfold(changes, |mut changes| async move {
            loop {
                let change = changes.recv().await?;
                let ended = change
                    .after
                    .as_ref()
                    .is_none_or(|after| after.info.status == ContainerStatus::Exited);
                if let Some(id) = change.id().filter(|_| ended) {
                    return Some((Ok(Wake::Container(id.clone(), None)), changes));
                }
            }
        });
        Ok(wakes.boxed())
    }

    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>> {
        let table = self.poller.connection().list(Operation::Wait).await?;
        let sights = ids.iter().map(|id| {
            let sight = match table.get(id).map(|seen| seen.info.status) {
                None => Sight::Gone,
                Some(ContainerStatus::Exited) => Sight::Unclear,
                Some(ContainerStatus::Created | ContainerStatus::Running) => Sight::Alive,
            };
            (id.clone(), sight)
        });
        Ok(sights.collect())
    }

    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight> {
        let connection = self.poller.connection();
        match inspect::status(connection, Operation::Wait, id).await {
            Ok(container) => match inspect::exit(connection, Operation::Wait, container).await? {
                Some((_, exit)) => Ok(Sight::Ended(exit)),
                None => Ok(Sight::Alive),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(seen.map_or(Sight::Gone, Sight::Ended))
            }
            Err(error) => Err(error),
        }
    }

    fn alone(&self, _id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>> {
        None
    }
}
