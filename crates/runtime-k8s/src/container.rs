//! One container: the handle and its operations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    AttachOptions, ByteStream, Capability, Container, ContainerId, ContainerInfo, ContainerStats,
    CopyInOptions, CopyOutOptions, Error, ErrorKind, ExecOptions, Exit, ExitReason, LogOptions,
    LogReader, Operation, RawLogs, Result, ResultExt as _, Session, Signal, StartOutcome,
    StatsOptions, StatsStream, StopOptions, StopOutcome, async_trait,
};
use tokio::time::Instant;

use crate::client::{Deleted, Patched, Refused};
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::{self, State};
use crate::wire::Pod;
use crate::{BACKEND, attach, copy, create, exec, hold, info, logs, start, stats, stop, verdict};

/// How long a removal waits for a node to report a process that it may have started. A process that is
/// reported later is ended by the node without a grace.
const PROCESS_REPORTED_WITHIN: Duration = Duration::from_secs(3);

/// A container of a cluster.
#[derive(Clone)]
pub(crate) struct KubernetesContainer {
    pub(crate) shared: Arc<Shared>,
    id: ContainerId,
    name: String,
    pub(crate) pod_name: String,
    /// Whether it has a terminal.
    pub(crate) tty: bool,
    /// The grace of a stop, in seconds.
    pub(crate) grace: u64,
    /// The pod as it was when the handle was made.
    pod: Arc<Pod>,
}

impl fmt::Debug for KubernetesContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesContainer")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("pod", &format_args!("{}/{}", self.shared.client.namespace(), self.pod_name))
            .finish_non_exhaustive()
    }
}

impl KubernetesContainer {
    pub(crate) fn new(shared: &Arc<Shared>, pod: Arc<Pod>) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: ContainerId::new(&pod.metadata.uid),
            name: info::name_of(&pod).to_owned(),
            pod_name: pod.metadata.name.clone(),
            tty: pod.container().is_some_and(|container| container.tty),
            grace: pod.spec.termination_grace_period_seconds.unwrap_or(30),
            pod,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        self.id.as_str()
    }

    /// Returns what is known of it now, from the watch if that is known to be current. Otherwise the
    /// server is asked.
    pub(crate) async fn look(&self) -> Result<Seen> {
        if self.shared.pods.is_current()
            && let Some(entry) = self.shared.pods.entry(self.uid())
        {
            if self.shared.pods.is_gone(self.uid()) {
                return Err(Error::new(ErrorKind::NotFound));
            }
            return Ok(entry.now());
        }
        let pod = self.shared.client.pod(&self.pod_name).await?;
        if pod.metadata.uid != self.uid() {
            return Err(Error::new(ErrorKind::NotFound));
        }
        Ok(self.shared.pods.seen(pod))
    }

    /// Waits until the container is as wanted, and ends it where it never will be. There is no
    /// deadline.
    pub(crate) async fn until(&self, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let entry = self.shared.entry(self.uid(), &self.pod_name).await?;
        let mut seen = entry.subscribe();
        let mut next_look: Option<Instant> = None;
        let mut was_reported = false;
        loop {
            let now = seen.borrow_and_update().clone();
            if wanted(&now) {
                return Ok(now);
            }
            let due = verdict::due(&now, &self.shared.options);
            let due = due.map(|due| next_look.map_or(due, |next| next.max(due)));
            let report = start::report_due(&now).filter(|_| !was_reported);
            tokio::select! {
                changed = seen.changed() => {
                    next_look = None;
                    was_reported = false;
                    if changed.is_err() {
                        // The watch was closed, or has begun anew without this pod.
                        let last = seen.borrow().clone();
                        if wanted(&last) {
                            return Ok(last);
                        }
                        return Err(Error::new(ErrorKind::NotFound));
                    }
                }
                () = sleep_until(report) => {
                    if let Some(words) = entry.news(&now) {
                        runtime_support::report_pending_start(BACKEND, &self.name, &words);
                    }
                    was_reported = true;
                }
                () = sleep_until(due) => match Box::pin(self.shared.judge(&entry)).await {
                    Ok(next) => {
                        next_look = next.or(Some(Instant::now() + LOOK_AGAIN));
                        // The node may do something else by now.
                        was_reported = false;
                    }
                    // A server that is away is waited for, as everywhere here.
                    Err(error) if error.is_retryable() => {
                        next_look = Some(Instant::now() + LOOK_AGAIN);
                    }
                    Err(error) => return Err(error),
                },
                error = self.shared.pods.failed() => return Err(error),
            }
        }
    }

    /// Waits for its end.
    pub(crate) async fn until_ended(&self) -> Result<Exit> {
        let begun = Instant::now();
        match self.until(|seen| seen.exit().is_some()).await {
            Ok(seen) => {
                seen.exit().cloned().ok_or_else(|| Error::internal("an end without an exit"))
            }
            // The wait had begun, and the pod went before the watch could show it.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && self.shared.pods.has_gone_since(self.uid(), begun) =>
            {
                Ok(state::removed(&self.pod, state::Deletion::Unknown))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for its end, also while the server is away.
    pub(crate) async fn until_ended_whatever_comes(&self) -> Result<Exit> {
        loop {
            match self.until_ended().await {
                Err(error) if error.is_retryable() => tokio::time::sleep(LOOK_AGAIN).await,
                done => return done,
            }
        }
    }

    async fn start_now(&self) -> Result<StartOutcome> {
        let mut pod = Arc::clone(&self.pod);
        let mut refused = Refused::default();
        loop {
            let patch = hold::start(&pod);
            match self.shared.client.patch_pod(&self.pod_name, &patch).await? {
                Patched::Done(pod) => {
                    self.shared.pods.take(*pod);
                    return Ok(StartOutcome::Started);
                }
                // It was started before.
                Patched::Other(error) => {
                    pod = self.fresh().await?;
                    if !hold::is_held(&pod) {
                        return Ok(StartOutcome::AlreadyStarted);
                    }
                    refused.again(&pod, error)?;
                }
            }
        }
    }

    /// The pod as the server has it now.
    async fn fresh(&self) -> Result<Arc<Pod>> {
        let pod = self.shared.client.pod(&self.pod_name).await?;
        if pod.metadata.uid != self.uid() || pod.metadata.deletion_timestamp.is_some() {
            return Err(Error::new(ErrorKind::NotFound));
        }
        self.shared.pods.take(pod.clone());
        Ok(Arc::new(pod))
    }

    async fn remove_now(&self) -> Result<()> {
        let pods = &self.shared.pods;
        let entry = pods.entry(self.uid());
        if let Some(entry) = &entry {
            entry.removing();
        }
        // Where no process has run there is nothing to wait for.
        let never_ran = entry.as_ref().is_some_and(|entry| stop::never_ran(&entry.now().pod));
        let grace = if never_ran { 0 } else { 1 };
        let is_starting =
            entry.as_ref().is_some_and(|entry| matches!(entry.now().state, State::Pending(_)));
        if create::remove(&self.shared, &self.pod, grace).await? == Deleted::Going {
            // A node reports the end of the processes seconds before it gives the pod up, and one
            // that is away reports nothing. In either case the server is told to forget the pod.
            let patience = self.shared.options.deadlines.remove / 2;
            if !is_starting || self.is_reported(patience.min(PROCESS_REPORTED_WITHIN)).await {
                let _ = tokio::time::timeout(patience, self.until_dead()).await;
            }
            match self.shared.client.delete_pod(&self.pod_name, self.uid(), 0).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        pods.take_gone(self.uid());
        Ok(())
    }

    /// Returns whether the node reports a process of a pod that it was starting, or the pod's end.
    ///
    /// A node that pulls an image reports nothing until it has the image. It starts no process of a
    /// pod that is gone by then.
    async fn is_reported(&self, patience: Duration) -> bool {
        let reported = |seen: &Seen| {
            seen.gone || matches!(seen.state, State::Running) || state::is_dead(&seen.pod)
        };
        tokio::time::timeout(patience, self.until(reported)).await.is_ok()
    }

    /// Waits until the pod is gone, or no process of it is left.
    async fn until_dead(&self) {
        // What was lost with its node is not waited for: nobody will say that it is dead.
        let lost = |seen: &Seen| seen.exit().is_some_and(|e| e.reason == ExitReason::NodeLost);
        match self.until(|seen| seen.gone || state::is_dead(&seen.pod) || lost(seen)).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Without the watch, the server is asked.
            Err(_) => loop {
                match self.shared.client.pod(&self.pod_name).await {
                    Ok(pod) if pod.metadata.uid == self.uid() && !state::is_dead(&pod) => {}
                    Err(error) if error.kind() != ErrorKind::NotFound => {}
                    _ => return,
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            },
        }
    }

    /// Refuses what needs a running container.
    pub(crate) async fn must_run(&self) -> Result<()> {
        let mut seen = self.look().await?;
        if Box::pin(self.shared.judge_if_due(&seen)).await? {
            seen = self.look().await?;
        }
        match seen.state {
            _ if seen.gone => Err(Error::new(ErrorKind::NotFound)),
            State::Held | State::Pending(_) => Err(Error::new(ErrorKind::NotStarted)),
            State::Running => Ok(()),
            State::Settling | State::Ended(_) => {
                Err(Error::new(ErrorKind::InvalidState).with_message("the container has ended"))
            }
        }
    }

    /// The error of a session that was not opened. A container that ends at this time makes that
    /// fail in many words.
    pub(crate) async fn not_opened(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command") {
            return error;
        }
        // What the server says now, and not what the watch has brought so far.
        if let Err(gone) = self.fresh().await
            && gone.kind() == ErrorKind::NotFound
        {
            return gone.with_source(error);
        }
        match self.must_run().await {
            Err(state) if state.kind() == ErrorKind::InvalidState => state.with_source(error),
            _ => error,
        }
    }

    /// What it was made with.
    pub(crate) fn process(&self) -> Option<&crate::wire::ContainerSpec> {
        self.pod.container()
    }

    fn unsupported<T>(&self, operation: Operation, capability: Capability) -> Result<T> {
        Err(Error::unsupported(capability).during(operation).on(BACKEND).about(&self.name))
    }
}

const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl Container for KubernetesContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Start.as_str(), container = %self.id)
    )]
    async fn start(&self) -> Result<StartOutcome> {
        let shared = &self.shared;
        let deadline = shared.options.deadlines.start;
        let begun = Instant::now();
        let outcome =
            shared.within(Operation::Start, deadline, self.start_now()).await.about(&self.name)?;
        let left = deadline.saturating_sub(begun.elapsed());
        match shared.within(Operation::Start, left, start::until_started(self, outcome)).await {
            Err(error) if error.kind() == ErrorKind::Timeout => {
                Err(start::not_started_yet(self, error).about(&self.name))
            }
            done => done.about(&self.name),
        }
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Info.as_str(), container = %self.id)
    )]
    async fn info(&self) -> Result<ContainerInfo> {
        let seen = self.shared.query(Operation::Info, self.look()).await.about(&self.name)?;
        Ok(info::info(&seen))
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Wait.as_str(), container = %self.id)
    )]
    async fn wait(&self) -> Result<Exit> {
        let work = self.until_ended_whatever_comes();
        self.shared.unless_closed(Operation::Wait, work).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Logs.as_str(), container = %self.id)
    )]
    async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        logs::open(self, options).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Logs.as_str(), container = %self.id)
    )]
    async fn raw_logs(&self) -> Result<RawLogs> {
        logs::open_raw(self).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Stats.as_str(), container = %self.id)
    )]
    async fn stats_once(&self) -> Result<ContainerStats> {
        stats::once(self).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Stats.as_str(), container = %self.id)
    )]
    async fn stats(&self, options: StatsOptions) -> Result<StatsStream> {
        stats::stream(self, options).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Stop.as_str(), container = %self.id)
    )]
    async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        stop::run(self, options).await.on(BACKEND).about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Kill.as_str(), container = %self.id)
    )]
    async fn kill(&self, signal: Signal) -> Result<()> {
        #[cfg(feature = "cri")]
        if let Some(engine) = &self.shared.engine {
            let work = crate::engine::kill(self, engine, signal);
            return self.shared.query(Operation::Kill, work).await.about(&self.name);
        }
        // The API server has no signals.
        let _ = signal;
        self.unsupported(Operation::Kill, Capability::Kill)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Remove.as_str(), container = %self.id)
    )]
    async fn remove(&self) -> Result<()> {
        let deadline = self.shared.options.deadlines.remove;
        self.shared.within(Operation::Remove, deadline, self.remove_now()).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Exec.as_str(), container = %self.id)
    )]
    async fn exec(&self, options: ExecOptions) -> Result<Session> {
        let deadline = self.shared.options.deadlines.start;
        let open = exec::open(self, options);
        self.shared.within(Operation::Exec, deadline, open).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::Attach.as_str(), container = %self.id)
    )]
    async fn attach(&self, options: AttachOptions) -> Result<Session> {
        let open = attach::open(self, options);
        self.shared.query(Operation::Attach, open).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::CopyIn.as_str(), container = %self.id)
    )]
    async fn copy_in(&self, path: &str, content: ByteStream, _: CopyInOptions) -> Result<()> {
        let work = copy::unpack(self, path, content);
        self.shared.unless_closed(Operation::CopyIn, work).await.about(&self.name)
    }

    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(backend = BACKEND, operation = Operation::CopyOut.as_str(), container = %self.id)
    )]
    async fn copy_out(&self, path: &str, _: CopyOutOptions) -> Result<ByteStream> {
        let work = copy::pack(self, path);
        self.shared.unless_closed(Operation::CopyOut, work).await.about(&self.name)
    }
}
