//! What this process knows of a container beyond what the engine does.
//!
//! Docker forgets who stopped a container, Podman that a start failed, and both would start a
//! container again that has run. So this is kept here, shared by all handles of a runtime.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use runtime_core::{ContainerId, Exit, ExitReason, Signal};
use tokio::sync::{broadcast, watch};

use crate::model::info::removed;

/// All containers of which something is known.
#[derive(Debug)]
pub(crate) struct ContainerStates {
    entries: Mutex<Entries>,
    failures: broadcast::Sender<ContainerId>,
}

impl Default for ContainerStates {
    fn default() -> Self {
        Self { entries: Mutex::default(), failures: broadcast::Sender::new(FAILURES) }
    }
}

#[derive(Debug, Default)]
struct Entries {
    states: HashMap<ContainerId, Weak<ContainerState>>,
    /// Those that are remembered although nobody has a handle, the oldest first.
    kept: VecDeque<Arc<ContainerState>>,
    /// When to look for entries that are gone.
    sweep_at: usize,
}

/// How many starts that failed are told to one who listens slowly.
const FAILURES: usize = 256;

/// How many are remembered although nobody has a handle.
const KEPT: usize = 4096;

impl ContainerStates {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a container, for a new handle of it.
    pub(crate) fn of(&self, id: &ContainerId) -> Arc<ContainerState> {
        let mut entries = self.lock();
        if let Some(state) = entries.states.get(id).and_then(Weak::upgrade) {
            return state;
        }
        if entries.states.len() >= entries.sweep_at {
            entries.states.retain(|_, state| state.strong_count() > 0);
            entries.sweep_at = (entries.states.len() * 2).max(64);
        }
        let state = Arc::new(ContainerState::new(id.clone()));
        entries.states.insert(id.clone(), Arc::downgrade(&state));
        state
    }

    /// What is known of a container, if anything is.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<ContainerState>> {
        self.lock().states.get(id).and_then(Weak::upgrade)
    }

    /// Remembers it when the last handle is gone: what is known of it cannot be asked again.
    fn keep(&self, state: &Arc<ContainerState>) {
        if state.kept.set(()).is_err() {
            return;
        }
        let mut entries = self.lock();
        if entries.kept.len() == KEPT {
            entries.kept.pop_front();
        }
        entries.kept.push_back(Arc::clone(state));
    }

    /// Says how a container ended, with what is known here, and has it said the same way from
    /// now on.
    pub(crate) async fn settle(&self, id: &ContainerId, exit: Exit) -> Exit {
        match self.get(id) {
            Some(state) => {
                let exit = state.settle(exit).await;
                // Podman may have forgotten it when its event is due.
                self.keep(&state);
                exit
            }
            None => exit,
        }
    }

    /// Begins a stop. The guard has to be told what came of it.
    pub(crate) fn stopping(self: &Arc<Self>, state: &Arc<ContainerState>) -> Stopping {
        let requests = Requests::default();
        state.stops.send_modify(|stops| stops.pending.push(requests.clone()));
        Stopping { containers: Arc::clone(self), state: Arc::clone(state), requests }
    }

    /// Notes that the start failed.
    pub(crate) fn start_failed(&self, state: &Arc<ContainerState>, message: &str) {
        let exit = Exit::new(ExitReason::StartFailed).with_message(message);
        let _ = state.exit.set(exit);
        self.keep(state);
        // Nobody may listen.
        let _ = self.failures.send(state.id.clone());
    }

    /// The starts that fail from now on.
    pub(crate) fn start_failures(&self) -> broadcast::Receiver<ContainerId> {
        self.failures.subscribe()
    }
}

/// What is known of one container.
#[derive(Debug)]
pub(crate) struct ContainerState {
    id: ContainerId,
    /// Held during a start, so that there is one at a time.
    pub(crate) starting: tokio::sync::Mutex<()>,
    started: Mutex<Started>,
    stops: watch::Sender<Stops>,
    /// How many removals are under way or have had an effect.
    removals: AtomicUsize,
    exit: OnceLock<Exit>,
    kept: OnceLock<()>,
    /// The grace of a stop that gives none, where it is known.
    pub(crate) stop_grace: OnceLock<Duration>,
    /// Whether its main process is on a terminal, where that is known.
    pub(crate) terminal: OnceLock<bool>,
    /// Whether the engine throws away old parts of its log, where that is known.
    pub(crate) log_rotates: OnceLock<bool>,
    /// Where it has file systems in memory, beside those that every container has, where that is
    /// known.
    pub(crate) tmpfs: OnceLock<Vec<String>>,
    /// Its limit on CPUs, if it has one, where that is known.
    pub(crate) cpus: OnceLock<Option<f64>>,
}

/// Whether it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It was created here, and not started from here.
    No,
    /// Only the engine knows.
    Unknown,
    /// It was.
    Yes,
}

#[derive(Debug, Default)]
struct Stops {
    pending: Vec<Requests>,
    /// Whether one of our stops ended it.
    stopped: bool,
}

/// How long an exit waits for the answer to a stop that is under way. The engine gives both at
/// nearly the same time, and the exit says something else without the answer.
const STOP_ANSWER: Duration = Duration::from_secs(5);

impl ContainerState {
    fn new(id: ContainerId) -> Self {
        Self {
            id,
            starting: tokio::sync::Mutex::default(),
            started: Mutex::new(Started::Unknown),
            stops: watch::Sender::default(),
            removals: AtomicUsize::new(0),
            exit: OnceLock::new(),
            kept: OnceLock::new(),
            stop_grace: OnceLock::new(),
            terminal: OnceLock::new(),
            log_rotates: OnceLock::new(),
            tmpfs: OnceLock::new(),
            cpus: OnceLock::new(),
        }
    }

    pub(crate) fn started(&self) -> Started {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_started(&self, started: Started) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = started;
    }

    /// How it ended, once that is known.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// Has everybody told the same.
    pub(crate) fn remember(&self, exit: Exit) -> Exit {
        self.exit.get_or_init(|| exit).clone()
    }

    /// Notes that we are removing it, and so kill it, until the guard is dropped without effect.
    pub(crate) fn removing(self: &Arc<Self>) -> Removing {
        self.removals.fetch_add(1, Ordering::Relaxed);
        Removing { state: Arc::clone(self), requests: Requests::default() }
    }

    /// Whether we are removing it, or have.
    pub(crate) fn is_removing(&self) -> bool {
        self.removals.load(Ordering::Relaxed) > 0
    }

    async fn settle(&self, exit: Exit) -> Exit {
        if let Some(exit) = self.exit.get() {
            return exit.clone();
        }
        let mut stops = self.stops.subscribe();
        let answered =
            tokio::time::timeout(STOP_ANSWER, stops.wait_for(|stops| stops.pending.is_empty()))
                .await;
        // A stop without an answer at this late time was a stop all the same, if it has left.
        let answered = answered.is_ok_and(|answer| answer.is_ok());
        let stopped = {
            let stops = self.stops.borrow();
            stops.stopped || (!answered && stops.pending.iter().any(Requests::had_effect))
        };
        let killed = exit.signal == Some(Signal::KILL) && exit.reason == ExitReason::Signaled;
        let exit = if exit.reason == ExitReason::OutOfMemory {
            exit
        } else if stopped {
            exit.with_reason(ExitReason::StoppedByUs)
        } else if killed && self.is_removing() {
            removed(&exit)
        } else {
            exit
        };
        self.remember(exit)
    }
}

/// The requests of one operation, each with whether it may have had an effect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<Vec<Arc<AtomicBool>>>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mark of the next request, for [`Call::noting`](crate::client::http::Call::noting). It is
    /// set when the request leaves, and is to be unset if the engine refuses the request.
    pub(crate) fn next(&self) -> Arc<AtomicBool> {
        let mark = Arc::new(AtomicBool::new(false));
        self.lock().push(Arc::clone(&mark));
        mark
    }

    /// Notes that none of them had an effect.
    fn clear(&self) {
        self.lock().clear();
    }

    fn had_effect(&self) -> bool {
        self.lock().iter().any(|mark| mark.load(Ordering::Relaxed))
    }
}

/// A stop that is under way. Dropped without an answer it counts as one that stopped if a request
/// of it has left: the engine may have sent the signal.
pub(crate) struct Stopping {
    containers: Arc<ContainerStates>,
    state: Arc<ContainerState>,
    pub(crate) requests: Requests,
}

impl Stopping {
    /// The container was not running.
    pub(crate) fn was_not_running(self) {
        self.requests.clear();
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let stopped = self.requests.had_effect();
        self.state.stops.send_modify(|stops| {
            stops.pending.retain(|pending| !Arc::ptr_eq(&pending.0, &self.requests.0));
            stops.stopped |= stopped;
        });
        if stopped {
            self.containers.keep(&self.state);
        }
    }
}

/// A removal that is under way. Dropped, it counts as one that kills the container if a request of
/// it has left and was not refused.
pub(crate) struct Removing {
    state: Arc<ContainerState>,
    pub(crate) requests: Requests,
}

impl Drop for Removing {
    fn drop(&mut self) {
        if !self.requests.had_effect() {
            self.state.removals.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ContainerState {
    fn drop(&mut self) {
        tracing::trace!(container = %self.id, "forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ContainerId {
        ContainerId::new(name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_stopped_gives_the_reason_and_one_that_did_not_does_not() {
        let containers = Arc::new(ContainerStates::default());
        let (one, two) = (containers.of(&id("one")), containers.of(&id("two")));
        stopped(&containers, &one);
        let stopping = containers.stopping(&two);
        stopping.requests.next().store(true, Ordering::Relaxed);
        stopping.was_not_running();
        let exit = Exit::from_code(143);
        assert_eq!(
            containers.settle(&id("one"), exit.clone()).await.reason,
            ExitReason::StoppedByUs
        );
        assert_eq!(containers.settle(&id("two"), exit.clone()).await, exit);
        assert_eq!(containers.settle(&id("unknown"), exit.clone()).await, exit);
    }

    /// A stop whose request has left.
    fn stopped(containers: &Arc<ContainerStates>, state: &Arc<ContainerState>) {
        containers.stopping(state).requests.next().store(true, Ordering::Relaxed);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_and_removal_without_effect_do_not_change_exit() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        // The first is dropped before its request left, the second is refused.
        let stopping = containers.stopping(&state);
        stopping.requests.next();
        drop(stopping);
        let stopping = containers.stopping(&state);
        let request = stopping.requests.next();
        request.store(true, Ordering::Relaxed);
        request.store(false, Ordering::Relaxed);
        drop(stopping);
        let removing = state.removing();
        assert!(state.is_removing());
        removing.requests.next();
        drop(removing);
        assert!(!state.is_removing());
        // One that waits for a connection is not waited for beyond its time.
        let _pending = containers.stopping(&state);
        let exit = containers.settle(&id("one"), Exit::from_code(137)).await;
        assert_eq!(exit, Exit::from_code(137));
    }

    #[tokio::test(start_paused = true)]
    async fn an_exit_waits_for_the_answer_to_a_stop() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        let stopping = containers.stopping(&state);
        let settled = tokio::spawn({
            let containers = Arc::clone(&containers);
            async move { containers.settle(&id("one"), Exit::from_code(0)).await }
        });
        tokio::task::yield_now().await;
        assert!(!settled.is_finished());
        stopping.was_not_running();
        assert_eq!(settled.await.unwrap().reason, ExitReason::Exited);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_stays() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        let removing = state.removing();
        removing.requests.next().store(true, Ordering::Relaxed);
        drop(removing);
        let first = containers.settle(&id("one"), Exit::from_code(137)).await;
        assert_eq!((first.reason, first.code), (ExitReason::Removed, None));
        assert_eq!(containers.settle(&id("one"), Exit::from_code(1)).await, first);
        assert_eq!(state.exit(), Some(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn out_of_memory_is_said_even_when_we_stopped_it() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        stopped(&containers, &state);
        let oom = Exit::from_code(137).with_reason(ExitReason::OutOfMemory);
        assert_eq!(containers.settle(&id("one"), oom.clone()).await, oom);
    }

    #[test]
    fn what_cannot_be_asked_again_is_kept_and_the_rest_is_not() {
        let containers = Arc::new(ContainerStates::default());
        for n in 0..10_000 {
            let state = containers.of(&id(&n.to_string()));
            if n == 5000 {
                stopped(&containers, &state);
            }
        }
        assert!(containers.get(&id("5000")).is_some());
        assert!(containers.get(&id("5001")).is_none());
        assert!(containers.lock().states.len() < 100);
    }
}
