//! State of containers that the engine does not keep.
//!
//! Docker does not record the cause of a stop, Podman does not record a failed start, and both would
//! restart a container that has run. All handles of a runtime share this state.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use runtime_core::{ContainerId, Exit, ExitReason, Signal};
use tokio::sync::{broadcast, watch};

use crate::model::info::removed;

/// The state of all containers with a handle, and of some without.
#[derive(Debug)]
pub(crate) struct ContainerStates {
    entries: Mutex<Entries>,
    failures: broadcast::Sender<ContainerId>,
}

impl Default for ContainerStates {
    fn default() -> Self {
        Self { entries: Mutex::default(), failures: broadcast::Sender::new(FAILURES_CAPACITY) }
    }
}

#[derive(Debug, Default)]
struct Entries {
    states: HashMap<ContainerId, Weak<ContainerState>>,
    /// States that are retained without a handle, the oldest first.
    retained: VecDeque<Arc<ContainerState>>,
    /// The number of entries at which dropped states are removed.
    sweep_at: usize,
}

/// The capacity of the channel of failed starts.
const FAILURES_CAPACITY: usize = 256;

/// The number of states that are retained without a handle.
const RETAINED_CAPACITY: usize = 4096;

impl ContainerStates {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of a container, for a new handle.
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

    /// Returns the state of a container, if there is one.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<ContainerState>> {
        self.lock().states.get(id).and_then(Weak::upgrade)
    }

    /// Retains the state after its last handle is dropped, because the engine does not have it.
    fn retain(&self, state: &Arc<ContainerState>) {
        if state.is_retained.set(()).is_err() {
            return;
        }
        let mut entries = self.lock();
        if entries.retained.len() == RETAINED_CAPACITY {
            entries.retained.pop_front();
        }
        entries.retained.push_back(Arc::clone(state));
    }

    /// Adds this state to the exit that the engine reports, and caches the result.
    pub(crate) async fn settle(&self, id: &ContainerId, exit: Exit) -> Exit {
        match self.get(id) {
            Some(state) => {
                let exit = state.settle(exit).await;
                // Podman may have removed it before its event is handled.
                self.retain(&state);
                exit
            }
            None => exit,
        }
    }

    /// Begins a stop. The returned guard has to get its outcome.
    pub(crate) fn stopping(self: &Arc<Self>, state: &Arc<ContainerState>) -> Stopping {
        let requests = Requests::default();
        state.stops.send_modify(|stops| stops.pending.push(requests.clone()));
        Stopping { containers: Arc::clone(self), state: Arc::clone(state), requests }
    }

    /// Records a failed start as the exit.
    pub(crate) fn start_failed(&self, state: &Arc<ContainerState>, message: &str) {
        let exit = Exit::new(ExitReason::StartFailed).with_message(message);
        let _ = state.exit.set(exit);
        self.retain(state);
        // Fails without receivers.
        let _ = self.failures.send(state.id.clone());
    }

    /// Subscribes to failed starts.
    pub(crate) fn start_failures(&self) -> broadcast::Receiver<ContainerId> {
        self.failures.subscribe()
    }
}

/// The state of one container.
#[derive(Debug)]
pub(crate) struct ContainerState {
    id: ContainerId,
    /// Locked during a start, so that starts do not overlap.
    pub(crate) starting: tokio::sync::Mutex<()>,
    started: Mutex<Started>,
    stops: watch::Sender<Stops>,
    /// The number of removals that are in progress or have had an effect.
    removals: AtomicUsize,
    exit: OnceLock<Exit>,
    is_retained: OnceLock<()>,
    /// The default grace of a stop. Empty if not known.
    pub(crate) stop_grace: OnceLock<Duration>,
    /// `true` if the main process is on a terminal. Empty if not known.
    pub(crate) terminal: OnceLock<bool>,
    /// `true` if the engine deletes old parts of the log. Empty if not known.
    pub(crate) log_rotates: OnceLock<bool>,
    /// The mount points of its tmpfs file systems, besides the ones of every container. Empty if
    /// not known.
    pub(crate) tmpfs: OnceLock<Vec<String>>,
    /// The CPU limit, `None` if it has none. Empty if not known.
    pub(crate) cpus: OnceLock<Option<f64>>,
}

/// The start state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// Created by this process, and not started by it.
    No,
    /// Not known. The engine has to be inspected.
    Unknown,
    /// Started.
    Yes,
}

#[derive(Debug, Default)]
struct Stops {
    pending: Vec<Requests>,
    /// `true` if a stop of this runtime ended the container.
    stopped: bool,
}

/// How long an exit waits for the response to a stop in progress. The engine sends both at nearly the
/// same time, and the reason of the exit depends on the response.
const STOP_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

impl ContainerState {
    fn new(id: ContainerId) -> Self {
        Self {
            id,
            starting: tokio::sync::Mutex::default(),
            started: Mutex::new(Started::Unknown),
            stops: watch::Sender::default(),
            removals: AtomicUsize::new(0),
            exit: OnceLock::new(),
            is_retained: OnceLock::new(),
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

    /// Returns the cached exit.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// Caches the exit. Later calls return the cached value.
    pub(crate) fn remember(&self, exit: Exit) -> Exit {
        self.exit.get_or_init(|| exit).clone()
    }

    /// Begins a removal, which kills the container. It counts until the guard is dropped without an
    /// effect.
    pub(crate) fn removing(self: &Arc<Self>) -> Removing {
        self.removals.fetch_add(1, Ordering::Relaxed);
        Removing { state: Arc::clone(self), requests: Requests::default() }
    }

    /// Returns `true` if this runtime is removing the container, or has removed it.
    pub(crate) fn is_removing(&self) -> bool {
        self.removals.load(Ordering::Relaxed) > 0
    }

    async fn settle(&self, exit: Exit) -> Exit {
        if let Some(exit) = self.exit.get() {
            return exit.clone();
        }
        let mut stops = self.stops.subscribe();
        let has_response = tokio::time::timeout(
            STOP_RESPONSE_TIMEOUT,
            stops.wait_for(|stops| stops.pending.is_empty()),
        )
        .await;
        // Without a response in time, a stop counts if its request was sent.
        let has_response = has_response.is_ok_and(|stops| stops.is_ok());
        let stopped = {
            let stops = self.stops.borrow();
            stops.stopped || (!has_response && stops.pending.iter().any(Requests::had_effect))
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

/// The requests of one operation, each with a mark that it may have had an effect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<Vec<Arc<AtomicBool>>>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mark of the next request, for
    /// [`ApiRequest::noting`](crate::client::http::ApiRequest::noting). It is set when the request
    /// is sent. The caller unsets it if the engine refuses the request.
    pub(crate) fn next(&self) -> Arc<AtomicBool> {
        let mark = Arc::new(AtomicBool::new(false));
        self.lock().push(Arc::clone(&mark));
        mark
    }

    /// Records that no request had an effect.
    fn clear(&self) {
        self.lock().clear();
    }

    fn had_effect(&self) -> bool {
        self.lock().iter().any(|mark| mark.load(Ordering::Relaxed))
    }
}

/// A stop in progress. If it is dropped after a request was sent, it counts as one that stopped the
/// container, because the engine may have sent the signal.
pub(crate) struct Stopping {
    containers: Arc<ContainerStates>,
    state: Arc<ContainerState>,
    pub(crate) requests: Requests,
}

impl Stopping {
    /// Ends a stop of a container that was not running.
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
            self.containers.retain(&self.state);
        }
    }
}

/// A removal in progress. If it is dropped after a request was sent and not refused, it counts as one
/// that kills the container.
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
        tracing::trace!(container = %self.id, "state dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ContainerId {
        ContainerId::new(name)
    }

    #[tokio::test(start_paused = true)]
    async fn exit_after_stop_with_effect_is_stopped_by_us() {
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

    /// Runs a stop whose request was sent.
    fn stopped(containers: &Arc<ContainerStates>, state: &Arc<ContainerState>) {
        containers.stopping(state).requests.next().store(true, Ordering::Relaxed);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_and_removal_without_effect_do_not_change_exit() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        // The first is dropped before its request is sent, the second is refused.
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
        // A stop whose request is not sent in time does not count.
        let _pending = containers.stopping(&state);
        let exit = containers.settle(&id("one"), Exit::from_code(137)).await;
        assert_eq!(exit, Exit::from_code(137));
    }

    #[tokio::test(start_paused = true)]
    async fn exit_during_stop_waits_for_response() {
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
    async fn settled_exit_is_cached() {
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
    async fn out_of_memory_after_stop_keeps_reason() {
        let containers = Arc::new(ContainerStates::default());
        let state = containers.of(&id("one"));
        stopped(&containers, &state);
        let oom = Exit::from_code(137).with_reason(ExitReason::OutOfMemory);
        assert_eq!(containers.settle(&id("one"), oom.clone()).await, oom);
    }

    #[test]
    fn dropped_states_are_removed_unless_retained() {
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
