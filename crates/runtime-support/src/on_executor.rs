//! Values whose tasks are bound to an executor.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Factory<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// A value whose tasks run on the executor on which it was created. After that executor has shut
/// down, a new value is created on the executor of the next caller.
pub struct OnExecutor<T> {
    created: Mutex<Created<T>>,
    factory: Factory<T>,
}

struct Created<T> {
    value: T,
    /// Closed when the executor shuts down.
    executor: Option<oneshot::Sender<()>>,
}

impl<T: Clone> OnExecutor<T> {
    /// Stores `value` with a function that creates it again. If that function returns `None`, the
    /// existing value is kept.
    pub fn new(value: T, factory: impl Fn() -> Option<T> + Send + Sync + 'static) -> Self {
        let created = Created { value, executor: watch_current() };
        Self { created: Mutex::new(created), factory: Box::new(factory) }
    }

    /// Stores a value that cannot be created again.
    pub fn only(value: T) -> Self {
        Self { created: Mutex::new(Created { value, executor: None }), factory: Box::new(|| None) }
    }

    /// Returns the value for use on the executor of the caller.
    pub fn get(&self) -> T {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = created.executor.as_ref().is_some_and(oneshot::Sender::is_closed);
        if has_ended
            && let Some(executor) = watch_current()
            && let Some(value) = (self.factory)()
        {
            tracing::debug!(
                "executor has shut down; creating the connection again on the current one"
            );
            *created = Created { value, executor: Some(executor) };
        }
        created.value.clone()
    }
}

/// Returns a sender that is closed when the executor of the caller shuts down, or `None` outside an
/// executor.
fn watch_current() -> Option<oneshot::Sender<()>> {
    let (sender, receiver) = oneshot::channel();
    // An executor drops its tasks when it shuts down, which closes the channel.
    Handle::try_current().ok()?.spawn(receiver);
    Some(sender)
}

impl<T: fmt::Debug> fmt::Debug for OnExecutor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("OnExecutor").field(&created.value).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn executor() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn get_after_executor_shutdown_creates_new_value() {
        let first = executor();
        let created = AtomicU32::new(1);
        let value = first.block_on(async move {
            OnExecutor::new(1, move || Some(created.fetch_add(1, Ordering::Relaxed) + 1))
        });
        let second = executor();
        assert_eq!(second.block_on(async { value.get() }), 1, "the first executor still runs");
        drop(first);
        assert_eq!(value.get(), 1, "no executor to create it on");
        assert_eq!(second.block_on(async { value.get() }), 2);
        assert_eq!(second.block_on(async { value.get() }), 2);
        drop(second);
        assert_eq!(executor().block_on(async { value.get() }), 3);
    }

    #[test]
    fn get_without_factory_keeps_value() {
        let first = executor();
        let only = first.block_on(async { OnExecutor::only(1) });
        let fails = first.block_on(async { OnExecutor::new(1, || None) });
        drop(first);
        executor().block_on(async { assert_eq!((only.get(), fails.get()), (1, 1)) });
    }

    #[tokio::test]
    async fn drop_leaves_no_task_on_executor() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let value = OnExecutor::new(1, || Some(2));
        assert_eq!(tasks(), before + 1);
        drop(value);
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    }
}
