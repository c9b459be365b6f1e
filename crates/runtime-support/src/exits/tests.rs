//! Tests of the exit watcher with a scripted source, on a paused clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::*;

/// State of the scripted engine.
#[derive(Default)]
struct Engine {
    containers: Mutex<BTreeMap<ContainerId, Option<Exit>>>,
    streams: Mutex<Vec<mpsc::UnboundedSender<Result<Wake>>>>,
    /// Errors of the next requests.
    failures: Mutex<Vec<Error>>,
    alone: std::sync::atomic::AtomicBool,
    watched: AtomicUsize,
    looked: AtomicUsize,
    inspected: AtomicUsize,
    waited_alone: AtomicUsize,
    /// Notified when a wait for a single container may complete.
    ended: Notify,
}

#[derive(Clone, Default)]
struct Source(Arc<Engine>);

impl Source {
    fn hub(&self) -> ExitHub {
        ExitHub::new(self.clone(), Duration::from_secs(60))
    }

    fn add(&self, id: &str) -> ContainerId {
        let id = ContainerId::new(id);
        self.0.containers.lock().unwrap().insert(id.clone(), None);
        id
    }

    /// Ends a container without a wake-up.
    fn end(&self, id: &ContainerId, code: i32) {
        self.0.containers.lock().unwrap().insert(id.clone(), Some(Exit::from_code(code)));
        self.0.ended.notify_waiters();
    }

    /// Ends a container without any response on open connections.
    fn end_silently(&self, id: &ContainerId, code: i32) {
        self.0.containers.lock().unwrap().insert(id.clone(), Some(Exit::from_code(code)));
    }

    fn remove(&self, id: &ContainerId) {
        self.0.containers.lock().unwrap().remove(id);
    }

    fn send(&self, wake: Wake) {
        self.0.streams.lock().unwrap().retain(|stream| stream.send(Ok(wake.clone())).is_ok());
    }

    fn wake(&self, id: &ContainerId) {
        self.send(Wake::Container(id.clone(), None));
    }

    /// Closes all connections.
    fn cut(&self) {
        self.0.streams.lock().unwrap().clear();
    }

    fn fail(&self, kind: ErrorKind, times: usize) {
        let errors = std::iter::repeat_with(|| Error::new(kind)).take(times);
        self.0.failures.lock().unwrap().extend(errors);
    }

    fn failure(&self) -> Result<()> {
        self.0.failures.lock().unwrap().pop().map_or(Ok(()), Err)
    }

    fn sight(&self, id: &ContainerId) -> Sight {
        match self.0.containers.lock().unwrap().get(id) {
            None => Sight::Gone,
            Some(None) => Sight::Alive,
            Some(Some(exit)) => Sight::Ended(exit.clone()),
        }
    }

    fn open_streams(&self) -> usize {
        let mut streams = self.0.streams.lock().unwrap();
        streams.retain(|stream| !stream.is_closed());
        streams.len()
    }

    fn count(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl ExitSource for Source {
    async fn watch(&self) -> Result<WakeStream> {
        self.0.watched.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.failure()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.streams.lock().unwrap().push(sender);
        let wakes = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|wake| (wake, receiver))
        });
        Ok(wakes.boxed())
    }

    async fn look(&self, ids: &[ContainerId]) -> Result<Vec<(ContainerId, Sight)>> {
        self.0.looked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.failure()?;
        let sights = ids.iter().map(|id| (id.clone(), self.sight(id)));
        // A list reports the end without the exit.
        let sights = sights.map(|(id, sight)| match sight {
            Sight::Ended(_) => (id, Sight::Unclear),
            sight => (id, sight),
        });
        Ok(sights.filter(|(_, sight)| *sight != Sight::Gone).collect())
    }

    async fn inspect(&self, id: &ContainerId, seen: Option<Exit>) -> Result<Sight> {
        self.0.inspected.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.failure()?;
        Ok(match (self.sight(id), seen) {
            (Sight::Gone, Some(exit)) => Sight::Ended(exit),
            (sight, _) => sight,
        })
    }

    fn alone(&self, id: &ContainerId) -> Option<BoxFuture<'static, Result<Sight>>> {
        if !self.0.alone.load(Ordering::Relaxed) {
            return None;
        }
        self.0.waited_alone.fetch_add(1, Ordering::Relaxed);
        let (source, id) = (self.clone(), id.clone());
        Some(
            async move {
                loop {
                    let ended = source.0.ended.notified();
                    source.failure()?;
                    match source.sight(&id) {
                        Sight::Alive => ended.await,
                        sight => return Ok(sight),
                    }
                }
            }
            .boxed(),
        )
    }
}

/// Waits in a spawned task.
fn wait(hub: &ExitHub, id: &ContainerId) -> tokio::task::JoinHandle<Result<Exit>> {
    let (hub, id) = (hub.clone(), id.clone());
    tokio::spawn(async move { hub.wait(&id).await })
}

/// Advances the clock by a second, so that all pending work completes.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Asserts that the task and its stream are dropped after the last waiter.
async fn assert_idle(source: &Source, hub: &ExitHub) {
    // A backoff may be pending.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(hub.waited_for(), 0);
    assert!(!hub.inner.lock().has_driver);
    assert_eq!(source.open_streams(), 0);
}

#[test]
fn wait_after_shutdown_of_driver_executor_continues() {
    for removed in [false, true] {
        let source = Source::default();
        let id = source.add("one");
        let hub = source.hub();
        let executors = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap());
        let waiting = executors.each_ref().map(|executor| {
            let (hub, id) = (hub.clone(), id.clone());
            let waiting = executor.spawn({
                let (hub, id) = (hub.clone(), id.clone());
                async move { hub.wait(&id).await }
            });
            // The first waiter spawns the driver, and both wait before that executor shuts down.
            let end = std::time::Instant::now() + Duration::from_secs(20);
            while !hub.inner.lock().entries.get(&id).is_some_and(|entry| entry.seen_alive) {
                assert!(std::time::Instant::now() < end);
                std::thread::sleep(Duration::from_millis(1));
            }
            waiting
        });
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while hub.inner.lock().entries.get(&id).is_none_or(|entry| entry.waiters < 2) {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        let [first, second] = executors;
        drop(first);
        if removed {
            source.remove(&id);
        } else {
            source.end(&id, 3);
        }
        source.wake(&id);
        let [_, waiting] = waiting;
        let exit = second.block_on(waiting).unwrap().unwrap();
        let expected = if removed { Exit::new(ExitReason::Removed) } else { Exit::from_code(3) };
        assert_eq!(exit, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn thousand_waiters_share_one_stream_and_one_list() {
    let source = Source::default();
    let hub = source.hub();
    let ids: Vec<_> = (0..100).map(|n| source.add(&format!("c{n}"))).collect();
    let waiters: Vec<_> = (0..1000).map(|n| (n % 100, wait(&hub, &ids[n % 100]))).collect();
    settle().await;
    assert_eq!(Source::count(&source.0.watched), 1);
    assert_eq!(Source::count(&source.0.looked), 1);
    assert_eq!(Source::count(&source.0.inspected), 0);
    assert_eq!(hub.waited_for(), 100);
    for (n, id) in ids.iter().enumerate() {
        source.end(id, i32::try_from(n).unwrap());
        source.wake(id);
    }
    for (n, waiter) in waiters {
        assert_eq!(waiter.await.unwrap().unwrap().code, i32::try_from(n).ok());
    }
    assert_eq!(Source::count(&source.0.inspected), 100);
    assert_idle(&source, &hub).await;
    assert_eq!(Source::count(&source.0.watched), 1);
}

#[tokio::test(start_paused = true)]
async fn single_wait_uses_own_future_and_second_uses_stream() {
    let source = Source::default();
    source.0.alone.store(true, Ordering::Relaxed);
    let hub = source.hub();
    let (one, two) = (source.add("one"), source.add("two"));
    let first = wait(&hub, &one);
    let same = wait(&hub, &one);
    settle().await;
    assert_eq!(Source::count(&source.0.waited_alone), 1);
    assert_eq!(Source::count(&source.0.watched), 0);
    let second = wait(&hub, &two);
    settle().await;
    assert_eq!(Source::count(&source.0.watched), 1);
    source.end(&one, 1);
    source.wake(&one);
    assert_eq!(first.await.unwrap().unwrap().code, Some(1));
    assert_eq!(same.await.unwrap().unwrap().code, Some(1));
    source.end(&two, 2);
    source.wake(&two);
    assert_eq!(second.await.unwrap().unwrap().code, Some(2));
    assert_idle(&source, &hub).await;

    // Again from the start, until the single future completes.
    let three = source.add("three");
    let third = wait(&hub, &three);
    settle().await;
    source.end(&three, 3);
    assert_eq!(third.await.unwrap().unwrap().code, Some(3));
    assert_eq!(Source::count(&source.0.watched), 1);
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn failed_single_wait_falls_back_to_stream() {
    let source = Source::default();
    source.0.alone.store(true, Ordering::Relaxed);
    let hub = source.hub();
    let id = source.add("one");
    source.fail(ErrorKind::Unavailable, 3);
    let waiter = wait(&hub, &id);
    settle().await;
    source.end(&id, 5);
    source.wake(&id);
    assert_eq!(waiter.await.unwrap().unwrap().code, Some(5));
    assert!(Source::count(&source.0.watched) >= 1);
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn wait_for_ended_returns_exit_and_for_missing_returns_not_found() {
    let source = Source::default();
    let hub = source.hub();
    let id = source.add("one");
    source.end(&id, 7);
    assert_eq!(hub.wait(&id).await.unwrap().code, Some(7));
    source.remove(&id);
    let error = hub.wait(&id).await.unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::NotFound, Some("one")));
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn wait_for_vanished_returns_removed_unless_exit_was_seen() {
    let source = Source::default();
    let hub = source.hub();
    let (seen, unseen) = (source.add("seen"), source.add("unseen"));
    let (first, second) = (wait(&hub, &seen), wait(&hub, &unseen));
    settle().await;
    source.remove(&seen);
    source.remove(&unseen);
    source.send(Wake::Container(seen, Some(Exit::from_code(3))));
    source.wake(&unseen);
    assert_eq!(first.await.unwrap().unwrap().code, Some(3));
    let exit = second.await.unwrap().unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None));
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn wait_before_removal_without_observation_returns_removed() {
    let source = Source::default();
    let hub = source.hub();
    let (removed, gone) = (source.add("removed"), source.add("gone"));
    let first = hub.wait(&removed);
    let second = hub.wait(&gone);
    tokio::pin!(first, second);
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    hub.removing(&removed);
    source.remove(&removed);
    source.remove(&gone);
    assert_eq!(first.await.unwrap().reason, ExitReason::Removed);
    assert_eq!(second.await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn wait_registered_before_removal_by_others_returns_removed() {
    let source = Source::default();
    let hub = source.hub();
    let other = source.add("other");
    let waits_on = wait(&hub, &other);
    settle().await;
    let (removed, gone, ended) = (source.add("removed"), source.add("gone"), source.add("ended"));
    let before = SystemTime::now() - Duration::from_millis(1);
    // The task of the hub runs after all of this.
    let waiters = [&removed, &gone, &ended].map(|id| {
        let mut waiter = Box::pin(hub.wait(id));
        assert!(waiter.as_mut().now_or_never().is_none());
        source.remove(id);
        waiter
    });
    source.send(Wake::Removed(removed.clone(), SystemTime::now()));
    source.send(Wake::Removed(gone.clone(), before));
    source.send(Wake::Container(ended.clone(), Some(Exit::from_code(5))));
    source.send(Wake::Removed(ended.clone(), SystemTime::now()));
    let [removed, gone, ended] = waiters;
    assert_eq!(removed.await.unwrap().reason, ExitReason::Removed);
    assert_eq!(gone.await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ended.await.unwrap().code, Some(5));
    waits_on.abort();
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn wait_after_lost_connection_misses_no_exit() {
    let source = Source::default();
    let hub = source.hub();
    let ids: Vec<_> = (0..10).map(|n| source.add(&format!("c{n}"))).collect();
    let waiters: Vec<_> = ids.iter().map(|id| wait(&hub, id)).collect();
    settle().await;
    source.fail(ErrorKind::Unavailable, 5);
    source.cut();
    // No wake-up is sent for these ends, as if the engine was unreachable.
    ids.iter().take(9).for_each(|id| source.end(id, 4));
    source.remove(&ids[9]);
    for (n, waiter) in waiters.into_iter().enumerate() {
        let exit = waiter.await.unwrap().unwrap();
        let expected =
            if n == 9 { (ExitReason::Removed, None) } else { (ExitReason::Exited, Some(4)) };
        assert_eq!((exit.reason, exit.code), expected);
    }
    assert!(Source::count(&source.0.watched) >= 2);
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn failed_inspection_is_retried_with_seen_exit() {
    let source = Source::default();
    let hub = source.hub();
    let id = source.add("one");
    let other = source.add("other");
    let (waiter, waits_on) = (wait(&hub, &id), wait(&hub, &other));
    settle().await;
    source.remove(&id);
    source.fail(ErrorKind::Timeout, 1);
    source.send(Wake::Container(id, Some(Exit::from_code(9))));
    assert_eq!(waiter.await.unwrap().unwrap().code, Some(9));
    waits_on.abort();
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn final_error_is_returned_to_all_waiters() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::InvalidState] {
        let source = Source::default();
        let hub = source.hub();
        let (one, two) = (source.add("one"), source.add("two"));
        source.fail(kind, 1);
        let (first, second) = (wait(&hub, &one), wait(&hub, &two));
        assert_eq!(first.await.unwrap().unwrap_err().kind(), kind);
        assert_eq!(second.await.unwrap().unwrap_err().kind(), kind);
        assert_idle(&source, &hub).await;
        // The next waiter starts over.
        source.end(&one, 0);
        assert!(hub.wait(&one).await.unwrap().success());
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_waiter_keeps_others_and_last_ends_task() {
    let source = Source::default();
    let hub = source.hub();
    let id = source.add("one");
    let (stays, goes) = (wait(&hub, &id), wait(&hub, &id));
    settle().await;
    goes.abort();
    settle().await;
    assert_eq!(hub.waited_for(), 1);
    assert_eq!(source.open_streams(), 1);
    source.end(&id, 0);
    source.wake(&id);
    assert!(stays.await.unwrap().unwrap().success());

    let again = source.add("again");
    let only = wait(&hub, &again);
    settle().await;
    only.abort();
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn change_without_wake_is_found_by_poke_or_resync() {
    let source = Source::default();
    let hub = source.hub();
    let (one, two) = (source.add("one"), source.add("two"));
    let (first, second) = (wait(&hub, &one), wait(&hub, &two));
    settle().await;
    source.end(&one, 1);
    source.end(&two, 2);
    hub.poke(&one);
    assert_eq!(first.await.unwrap().unwrap().code, Some(1));
    assert!(!second.is_finished());
    let before = tokio::time::Instant::now();
    assert_eq!(second.await.unwrap().unwrap().code, Some(2));
    assert!(before.elapsed() <= Duration::from_secs(61));
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn source_with_only_wake_all_is_sufficient() {
    let source = Source::default();
    let hub = source.hub();
    let (one, two) = (source.add("one"), source.add("two"));
    let (first, second) = (wait(&hub, &one), wait(&hub, &two));
    settle().await;
    source.end(&one, 1);
    source.send(Wake::All);
    assert_eq!(first.await.unwrap().unwrap().code, Some(1));
    source.end(&two, 2);
    source.send(Wake::All);
    assert_eq!(second.await.unwrap().unwrap().code, Some(2));
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn lone_wait_on_silent_connection_returns_exit() {
    let source = Source::default();
    source.0.alone.store(true, Ordering::Relaxed);
    let hub = source.hub();
    for removed in [false, true] {
        let id = source.add("one");
        let mut wait = std::pin::pin!(hub.wait(&id));
        assert!(tokio::time::timeout(Duration::from_secs(25), &mut wait).await.is_err());
        if removed {
            source.remove(&id);
        } else {
            source.end_silently(&id, 3);
        }
        let exit = tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
        let expected = if removed { Exit::new(ExitReason::Removed) } else { Exit::from_code(3) };
        assert_eq!(exit, expected);
    }
}
