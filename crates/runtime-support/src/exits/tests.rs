//! The hub over a source that is played by hand, in paused time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::*;

/// What the engine is.
#[derive(Default)]
struct Engine {
    containers: Mutex<BTreeMap<ContainerId, Option<Exit>>>,
    streams: Mutex<Vec<mpsc::UnboundedSender<Result<Wake>>>>,
    /// What the next calls fail with.
    failures: Mutex<Vec<Error>>,
    alone: std::sync::atomic::AtomicBool,
    watched: AtomicUsize,
    looked: AtomicUsize,
    inspected: AtomicUsize,
    waited_alone: AtomicUsize,
    /// Told when a lone wait may end.
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

    /// Ends it without telling.
    fn end(&self, id: &ContainerId, code: i32) {
        self.0.containers.lock().unwrap().insert(id.clone(), Some(Exit::from_code(code)));
        self.0.ended.notify_waiters();
    }

    /// Ends it, and nothing comes of that on the connections.
    fn end_in_silence(&self, id: &ContainerId, code: i32) {
        self.0.containers.lock().unwrap().insert(id.clone(), Some(Exit::from_code(code)));
    }

    fn remove(&self, id: &ContainerId) {
        self.0.containers.lock().unwrap().remove(id);
    }

    fn tell(&self, wake: Wake) {
        self.0.streams.lock().unwrap().retain(|stream| stream.send(Ok(wake.clone())).is_ok());
    }

    fn wake(&self, id: &ContainerId) {
        self.tell(Wake::Container(id.clone(), None));
    }

    /// Cuts all connections.
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
        // A list says that it has ended, and not how.
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

/// Waits in a task of its own.
fn wait(hub: &ExitHub, id: &ContainerId) -> tokio::task::JoinHandle<Result<Exit>> {
    let (hub, id) = (hub.clone(), id.clone());
    tokio::spawn(async move { hub.wait(&id).await })
}

/// Lets everything happen that happens within a second.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// The hub drops its task, and the task its stream, when nobody waits any more.
async fn assert_idle(source: &Source, hub: &ExitHub) {
    // A backoff may be under way.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(hub.waited_for(), 0);
    assert!(!hub.inner.lock().driven);
    assert_eq!(source.open_streams(), 0);
}

#[test]
fn waiter_goes_on_after_the_executor_of_another_has_ended() {
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
            // The first one spawns the driver, and both wait before that executor ends.
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
async fn a_thousand_waiters_cost_one_stream_and_one_list() {
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
async fn one_waiter_takes_the_cheaper_way_and_a_second_the_stream() {
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

    // And again from the start, to the end of the cheaper way.
    let three = source.add("three");
    let third = wait(&hub, &three);
    settle().await;
    source.end(&three, 3);
    assert_eq!(third.await.unwrap().unwrap().code, Some(3));
    assert_eq!(Source::count(&source.0.watched), 1);
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn a_cheaper_way_that_fails_gives_way_to_the_stream() {
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
async fn what_has_ended_before_is_told_at_once_and_what_is_gone_is_not_found() {
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
async fn what_vanishes_is_removed_unless_its_exit_was_seen() {
    let source = Source::default();
    let hub = source.hub();
    let (seen, unseen) = (source.add("seen"), source.add("unseen"));
    let (first, second) = (wait(&hub, &seen), wait(&hub, &unseen));
    settle().await;
    source.remove(&seen);
    source.remove(&unseen);
    source.tell(Wake::Container(seen, Some(Exit::from_code(3))));
    source.wake(&unseen);
    assert_eq!(first.await.unwrap().unwrap().code, Some(3));
    let exit = second.await.unwrap().unwrap();
    assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None));
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn who_waited_before_a_removal_learns_of_it_even_if_nobody_had_looked() {
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
async fn waiter_begun_before_removal_by_others_returns_removed() {
    let source = Source::default();
    let hub = source.hub();
    let other = source.add("other");
    let waits_on = wait(&hub, &other);
    settle().await;
    let (removed, gone, ended) = (source.add("removed"), source.add("gone"), source.add("ended"));
    let before = SystemTime::now() - Duration::from_millis(1);
    // The task of the hub does not run until all of this has happened.
    let waiters = [&removed, &gone, &ended].map(|id| {
        let mut waiter = Box::pin(hub.wait(id));
        assert!(waiter.as_mut().now_or_never().is_none());
        source.remove(id);
        waiter
    });
    source.tell(Wake::Removed(removed.clone(), SystemTime::now()));
    source.tell(Wake::Removed(gone.clone(), before));
    source.tell(Wake::Container(ended.clone(), Some(Exit::from_code(5))));
    source.tell(Wake::Removed(ended.clone(), SystemTime::now()));
    let [removed, gone, ended] = waiters;
    assert_eq!(removed.await.unwrap().reason, ExitReason::Removed);
    assert_eq!(gone.await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(ended.await.unwrap().code, Some(5));
    waits_on.abort();
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_opened_again_and_nothing_is_missed() {
    let source = Source::default();
    let hub = source.hub();
    let ids: Vec<_> = (0..10).map(|n| source.add(&format!("c{n}"))).collect();
    let waiters: Vec<_> = ids.iter().map(|id| wait(&hub, id)).collect();
    settle().await;
    source.fail(ErrorKind::Unavailable, 5);
    source.cut();
    // These ends are told to nobody: the engine was away.
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
async fn inspections_that_fail_are_tried_again_with_what_was_seen() {
    let source = Source::default();
    let hub = source.hub();
    let id = source.add("one");
    let other = source.add("other");
    let (waiter, waits_on) = (wait(&hub, &id), wait(&hub, &other));
    settle().await;
    source.remove(&id);
    source.fail(ErrorKind::Timeout, 1);
    source.tell(Wake::Container(id, Some(Exit::from_code(9))));
    assert_eq!(waiter.await.unwrap().unwrap().code, Some(9));
    waits_on.abort();
    assert_idle(&source, &hub).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_patience_mends_is_told_to_all() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::InvalidState] {
        let source = Source::default();
        let hub = source.hub();
        let (one, two) = (source.add("one"), source.add("two"));
        source.fail(kind, 1);
        let (first, second) = (wait(&hub, &one), wait(&hub, &two));
        assert_eq!(first.await.unwrap().unwrap_err().kind(), kind);
        assert_eq!(second.await.unwrap().unwrap_err().kind(), kind);
        assert_idle(&source, &hub).await;
        // It is no curse: the next waiter asks anew.
        source.end(&one, 0);
        assert!(hub.wait(&one).await.unwrap().success());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_leaves_the_others_and_the_last_ends_the_task() {
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
async fn what_the_stream_does_not_tell_is_found_by_a_poke_or_in_time() {
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
async fn a_source_that_only_ticks_will_do() {
    let source = Source::default();
    let hub = source.hub();
    let (one, two) = (source.add("one"), source.add("two"));
    let (first, second) = (wait(&hub, &one), wait(&hub, &two));
    settle().await;
    source.end(&one, 1);
    source.tell(Wake::All);
    assert_eq!(first.await.unwrap().unwrap().code, Some(1));
    source.end(&two, 2);
    source.tell(Wake::All);
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
            source.end_in_silence(&id, 3);
        }
        let exit = tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
        let expected = if removed { Exit::new(ExitReason::Removed) } else { Exit::from_code(3) };
        assert_eq!(exit, expected);
    }
}
