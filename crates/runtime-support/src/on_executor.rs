//! Things whose tasks run on the executor on which they were made.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Make<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// Keeps a thing whose tasks run on the executor on which it was made, and makes another one on the
/// executor of the caller once that has ended.
pub struct OnExecutor<T> {
    made: Mutex<Made<T>>,
    make: Make<T>,
}

struct Made<T> {
    thing: T,
    /// Closed at the end of the executor.
    executor: Option<oneshot::Sender<()>>,
}

impl<T: Clone> OnExecutor<T> {
    /// Makes it, and again with `make` if it has to be. One that cannot be made again is kept.
    pub fn new(thing: T, make: impl Fn() -> Option<T> + Send + Sync + 'static) -> Self {
        let made = Made { thing, executor: current() };
        Self { made: Mutex::new(made), make: Box::new(make) }
    }

    /// Keeps one that cannot be made again.
    pub fn only(thing: T) -> Self {
        Self { made: Mutex::new(Made { thing, executor: None }), make: Box::new(|| None) }
    }

    /// Returns the thing, for use on the executor of the caller.
    pub fn get(&self) -> T {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = made.executor.as_ref().is_some_and(oneshot::Sender::is_closed);
        if has_ended
            && let Some(executor) = current()
            && let Some(thing) = (self.make)()
        {
            tracing::debug!("the executor of the connection has ended: it is opened on this one");
            *made = Made { thing, executor: Some(executor) };
        }
        made.thing.clone()
    }
}

/// Returns a sign of the executor of the caller, if there is one.
fn current() -> Option<oneshot::Sender<()>> {
    let (sign, until_dropped) = oneshot::channel();
    // An executor drops its tasks when it ends. This one ends with the sign as well.
    Handle::try_current().ok()?.spawn(until_dropped);
    Some(sign)
}

impl<T: fmt::Debug> fmt::Debug for OnExecutor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("OnExecutor").field(&made.thing).finish()
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
    fn thing_is_made_again_after_the_end_of_its_executor() {
        let first = executor();
        let made = AtomicU32::new(1);
        let thing = first.block_on(async move {
            OnExecutor::new(1, move || Some(made.fetch_add(1, Ordering::Relaxed) + 1))
        });
        let second = executor();
        assert_eq!(second.block_on(async { thing.get() }), 1, "the first one runs still");
        drop(first);
        assert_eq!(thing.get(), 1, "outside of an executor there is nothing to make it on");
        assert_eq!(second.block_on(async { thing.get() }), 2);
        assert_eq!(second.block_on(async { thing.get() }), 2);
        drop(second);
        assert_eq!(executor().block_on(async { thing.get() }), 3);
    }

    #[test]
    fn thing_that_cannot_be_made_again_is_kept() {
        let first = executor();
        let only = first.block_on(async { OnExecutor::only(1) });
        let fails = first.block_on(async { OnExecutor::new(1, || None) });
        drop(first);
        executor().block_on(async { assert_eq!((only.get(), fails.get()), (1, 1)) });
    }

    #[tokio::test]
    async fn nothing_of_it_stays_on_the_executor() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let thing = OnExecutor::new(1, || Some(2));
        assert_eq!(tasks(), before + 1);
        drop(thing);
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    }
}
