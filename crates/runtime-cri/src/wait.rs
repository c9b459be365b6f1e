//! Ends of containers, for the hub of waiters.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use runtime_core::{
    ContainerId, ContainerStatus, ErrorKind, Exit, ExitReason, Operation, Result, Signal,
};
use runtime_support::{ExitSource, Sight, Wake, WakeStream};

use crate::census::{self, Census, Detail};
use crate::generated as cri;
use crate::info;
use crate::notes::Notes;
use crate::private;
use crate::sandbox::on_host;
use crate::shared::{Shared, is_closed};

/// How long the word of the memory limit may come after the exit, and how often it is looked for.
const OOM_LOOKS: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// The census, as the hub of waiters wants it.
#[derive(Debug)]
pub(crate) struct Exits {
    shared: Weak<Shared>,
}

impl Exits {
    pub(crate) const fn new(shared: Weak<Shared>) -> Self {
        Self { shared }
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.upgrade().ok_or_else(is_closed)
    }
}

#[async_trait]
impl ExitSource for Exits {
    async fn watch(&self) -> Result<WakeStream> {
        let (_, changes) = Census::listen(&self.shared()?, Operation::Wait, false).await?;
        // The receiver ends when the census does, which is when the runtime is closed.
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
        let shared = self.shared()?;
        let table = census::list(&shared, Operation::Wait).await?;
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
        let shared = self.shared()?;
        match status(&shared, Operation::Wait, id).await {
            Ok(container) => match exit(&shared, Operation::Wait, container).await? {
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

/// What the engine knows of a container.
pub(crate) async fn status(
    shared: &Shared,
    operation: Operation,
    id: &ContainerId,
) -> Result<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
    let answer = shared.ask(operation, request).await;
    answer.map_err(|error| error.about(id))?.status.ok_or_else(|| {
        runtime_core::Error::internal("the engine answers without a status").about(id)
    })
}

/// What the engine knows of a container, as ours, with how it ended.
pub(crate) async fn details(
    shared: &Shared,
    operation: Operation,
    id: &ContainerId,
) -> Result<Detail> {
    let container = status(shared, operation, id).await?;
    let ended = exit(shared, operation, container.clone()).await?;
    let (container, exit) = match ended {
        Some((container, exit)) => (container, Some(exit)),
        None => (container, None),
    };
    let mut info = info::from_status(&container, false);
    info.exit = exit;
    Ok(Detail { info, out_of_memory: container.reason == info::OUT_OF_MEMORY })
}

/// How a container ended, with the status that says so; `None` while it has not.
///
/// containerd hears of the memory limit and of the end in two messages that can come in either
/// order, and on cgroup v1 it can miss the first one altogether. So of an end that looks like the
/// work of the limit the kernel's log is asked, and where that does not have it, the engine again
/// for a moment. What the kernel says stands in the status as if the engine had said it, so that
/// everyone is told the same: who waits, who asks for information, and who listens to events.
pub(crate) async fn exit(
    shared: &Shared,
    operation: Operation,
    mut container: cri::ContainerStatus,
) -> Result<Option<(cri::ContainerStatus, Exit)>> {
    let stopped = is_marked_stopped(&container).await;
    let Some(mut exit) = info::exit(&container, stopped) else { return Ok(None) };
    if shared.engine.is_crio() && container.started_at <= 0 && exit.code.is_some() {
        // Its removal has ended the runc init that waits for the start; the code is that of runc.
        exit = Exit::new(ExitReason::Removed).with_ended_at(info::time(container.finished_at));
    }
    let limited = Notes::read(&container.annotations).filter(|notes| notes.memory.is_some());
    let Some(notes) = limited.filter(|_| is_unexplained_kill(&exit)) else {
        return Ok(Some((container, exit)));
    };
    let id = ContainerId::new(&container.id);
    let fresh = exit
        .ended_at
        .is_none_or(|at| at.elapsed().is_ok_and(|elapsed| elapsed < Duration::from_secs(2)));
    if kernel_tells_out_of_memory(shared, &id, &notes).await {
        info::OUT_OF_MEMORY.clone_into(&mut container.reason);
        if let Some(again) = info::exit(&container, stopped) {
            exit = again;
        }
    } else if fresh && exit.reason == ExitReason::Signaled {
        for pause in OOM_LOOKS {
            tokio::time::sleep(pause).await;
            match status(shared, operation, &id).await {
                Ok(again) => container = again,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
            if let Some(again) = info::exit(&container, stopped) {
                exit = again;
            }
            if exit.reason == ExitReason::OutOfMemory {
                break;
            }
        }
    }
    Ok(Some((container, exit)))
}

/// Whether the kernel may have more to say of an end. A stop does not rule that out: an engine says
/// out of memory of a container that was stopped, too, when something in it had been killed before.
fn is_unexplained_kill(exit: &Exit) -> bool {
    exit.signal == Some(Signal::KILL)
        && matches!(exit.reason, ExitReason::Signaled | ExitReason::StoppedByUs)
}

/// Whether the kernel's log has it that the limit on memory killed a process of the container.
///
/// A mark is left of that, so that every process says the same when the log has gone on.
async fn kernel_tells_out_of_memory(shared: &Shared, id: &ContainerId, notes: &Notes) -> bool {
    let mark = notes.out_of_memory_mark();
    if let Some(mark) = mark.clone()
        && on_host(move || Ok(mark.exists())).await.unwrap_or(false)
    {
        return true;
    }
    let told = shared.kernel_log.tells_out_of_memory(id).await;
    if told {
        tracing::debug!(container = %id, "out of memory, by the kernel's log");
        if let Some(mark) = mark
            && let Err(error) = leave_mark(mark).await
        {
            // It is told all the same, for as long as the log has it.
            tracing::debug!(%error, "an out of memory could not be marked");
        }
    }
    told
}

/// Whether a stop of this library ended the container. The mark stands in a file, so that every
/// process says the same.
pub(crate) async fn is_marked_stopped(container: &cri::ContainerStatus) -> bool {
    if container.state() != cri::ContainerState::ContainerExited {
        return false;
    }
    let mark = Notes::read(&container.annotations).and_then(|notes| notes.stop_mark());
    let Some(mark) = mark else { return false };
    on_host(move || Ok(mark.exists())).await.unwrap_or(false)
}

/// Marks a container as stopped by this library. Gives whether it was not marked before.
pub(crate) async fn mark_stopped(notes: &Notes) -> bool {
    let Some(mark) = notes.stop_mark() else { return false };
    leave_mark(mark).await.unwrap_or_else(|error| {
        // Then the exit says by which signal it ended, and not that the signal was ours.
        tracing::warn!(%error, "a stop could not be marked");
        false
    })
}

/// Takes the mark away: the stop has come to nothing. Only who has made it may do that, because
/// another stop may go by it.
pub(crate) async fn unmark_stopped(notes: &Notes) {
    let Some(mark) = notes.stop_mark() else { return };
    let removed = on_host(move || match std::fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(private::failed("remove", &mark, error))
        }
        _ => Ok(()),
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "a stop that has failed stays marked");
    }
}

/// Gives whether the mark was not there before.
async fn leave_mark(mark: PathBuf) -> Result<bool> {
    on_host(move || match private::file().write(true).create_new(true).open(&mark) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(private::failed("create", &mark, error)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_is_the_work_of_one_stop() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes { logs: Some(folder.path().to_owned()), ..Notes::default() };
        let mark = notes.stop_mark().unwrap();
        assert!(mark_stopped(&notes).await);
        assert!(!mark_stopped(&notes).await, "another stop has made it");
        assert!(mark.exists());
        unmark_stopped(&notes).await;
        assert!(!mark.exists());
        // What is not there is no error, and can be made again.
        unmark_stopped(&notes).await;
        assert!(mark_stopped(&notes).await);
        // Where there is no place for a mark, none is made.
        assert!(!mark_stopped(&Notes::default()).await);
    }

    #[test]
    fn the_kernel_is_asked_of_kills_that_the_engine_does_not_explain() {
        let killed = Exit::from_code(137);
        for (exit, asked) in [
            (killed.clone(), true),
            (killed.clone().with_reason(ExitReason::StoppedByUs), true),
            (killed.with_reason(ExitReason::OutOfMemory), false),
            (Exit::from_code(143), false),
            (Exit::from_code(1), false),
            (Exit::new(ExitReason::Unknown), false),
        ] {
            assert_eq!(is_unexplained_kill(&exit), asked, "{exit:?}");
        }
    }
}
