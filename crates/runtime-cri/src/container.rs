//! One container.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use runtime_core::{
    AttachOptions, ByteStream, Capability, Container, ContainerId, ContainerInfo, ContainerStats,
    ContainerStatus, CopyInOptions, CopyOutOptions, Error, ErrorKind, ExecOptions, Exit,
    LogOptions, LogReader, Operation, Result, ResultExt, Session, Signal, StartOutcome,
    StatsOptions, StatsStream, StopOptions, StopOutcome,
};
use runtime_support::is_unclear;
use tracing::Instrument;

use crate::BACKEND;
use crate::census::Detail;
use crate::error::{at_start, is_started_before, was_not_sent};
use crate::generated as cri;
use crate::journal::Life;
use crate::notes::Notes;
use crate::rotate;
use crate::sandbox::{self, on_host};
use crate::shared::Shared;
use crate::{attach, copy, exec, info, kill, logs, stats, wait};

/// A handle.
#[derive(Clone)]
pub(crate) struct CriContainer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ContainerId,
    pub(crate) name: Arc<str>,
    pub(crate) sandbox: Arc<str>,
    pub(crate) notes: Arc<Notes>,
}

impl fmt::Debug for CriContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriContainer")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

impl CriContainer {
    pub(crate) fn lacks(&self, capability: Capability, operation: Operation) -> Error {
        Error::unsupported(capability).during(operation).on(BACKEND).about(&self.id)
    }

    /// Refuses what the engine cannot do.
    pub(crate) fn require(&self, capability: Capability, operation: Operation) -> Result<()> {
        if self.shared.capabilities.has(capability) {
            Ok(())
        } else {
            Err(self.lacks(capability, operation))
        }
    }

    pub(crate) async fn status(&self, operation: Operation) -> Result<cri::ContainerStatus> {
        wait::status(&self.shared, operation, &self.id).await
    }

    /// Refuses what needs a running container.
    pub(crate) fn must_run(&self, container: &cri::ContainerStatus) -> Result<()> {
        match info::status(container.state()) {
            ContainerStatus::Running => Ok(()),
            ContainerStatus::Created => Err(Error::new(ErrorKind::NotStarted)),
            ContainerStatus::Exited => {
                Err(Error::new(ErrorKind::InvalidState).with_message("the container has ended"))
            }
        }
    }

    /// Does `work` in a span of its own, and says of its errors what is known here.
    async fn doing<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let span = tracing::debug_span!(
            "container",
            backend = BACKEND,
            operation = operation.as_str(),
            container = %self.id
        );
        work.instrument(span).await.during(operation).on(BACKEND).about(&self.id)
    }

    async fn do_start(&self) -> Result<StartOutcome> {
        let this = self.clone();
        self.shared.finish(async move { this.start_now().await }).await
    }

    async fn start_now(&self) -> Result<StartOutcome> {
        let request = cri::StartContainerRequest { container_id: self.id.to_string() };
        let deadline = self.shared.deadlines.start;
        let started = self.shared.client.ask(Operation::Start, deadline, request).await;
        self.shared.census.hurry();
        rotate::ensure(&self.shared);
        let Err(error) = started else { return Ok(StartOutcome::Started) };
        if is_started_before(&error) {
            return Ok(StartOutcome::AlreadyStarted);
        }
        if error.kind() == ErrorKind::Internal {
            self.shared.exits.poke(&self.id);
        }
        Err(at_start(error))
    }

    async fn do_stop(&self, options: StopOptions) -> Result<StopOutcome> {
        let container = self.status(Operation::Stop).await?;
        match info::status(container.state()) {
            ContainerStatus::Created => return Ok(StopOutcome::NotStarted),
            ContainerStatus::Exited => {
                let ended = wait::exit(&self.shared, Operation::Stop, container).await?;
                let exit = ended.map(|(_, exit)| exit);
                return Ok(StopOutcome::AlreadyExited(exit.unwrap_or_else(unknown)));
            }
            ContainerStatus::Running => {}
        }
        let grace = match options.grace {
            Some(grace) => self.shared.capabilities.round_grace(grace),
            None => self.notes.stop_grace(),
        };
        let this = self.clone();
        self.shared.finish(async move { this.stop_marked(grace).await }).await?;
        self.shared.census.hurry();
        let container = self.status(Operation::Stop).await?;
        let ended = wait::exit(&self.shared, Operation::Stop, container).await?;
        Ok(StopOutcome::Stopped(ended.map_or_else(unknown, |(_, exit)| exit)))
    }

    /// Stops it under a mark, which stays for as long as this stop may be what ends the container.
    async fn stop_marked(&self, grace: Duration) -> Result<()> {
        // Before the request: whoever sees the end has to see the mark.
        let made = wait::mark_stopped(&self.notes).await;
        let (stopped, had_effect) = self.stop_now(grace).await;
        match &stopped {
            // The mark was that of another stop, which may have failed and taken it away.
            Ok(()) if !made => {
                wait::mark_stopped(&self.notes).await;
            }
            // An end that comes later is then not called ours.
            Err(_) if made && !had_effect => wait::unmark_stopped(&self.notes).await,
            _ => {}
        }
        stopped
    }

    /// Stops it. Gives besides whether the container may have felt it, also where that failed.
    async fn stop_now(&self, grace: Duration) -> (Result<()>, bool) {
        match self.stop_by_signal(grace).await {
            Ok(BySignal::NotSent) => {
                let stopped = self.ask_to_stop(grace).await;
                let had_effect = stopped
                    .as_ref()
                    .err()
                    .is_none_or(|error| is_unclear(error) && !was_not_sent(error));
                (stopped, had_effect)
            }
            Ok(BySignal::Ended) => (Ok(()), true),
            Ok(BySignal::RunsOn) => (self.ask_to_stop(Duration::ZERO).await, true),
            // Nothing was sent: the signal is the last thing that can fail.
            Err(error) => (Err(error), false),
        }
    }

    /// Sends the stop signal where the caller of the create has given one, and waits for the end.
    ///
    /// The CRI has no place for the signal on most engines: it is sent from here, and what is left
    /// to do after the grace is to kill.
    async fn stop_by_signal(&self, grace: Duration) -> Result<BySignal> {
        let Some(signal) = self.notes.stop_signal.filter(|_| !grace.is_zero()) else {
            return Ok(BySignal::NotSent);
        };
        self.require(Capability::StopSignal, Operation::Stop)?;
        match kill::send(self, signal).await {
            // It has ended since it was looked at, of itself or by a stop beside this one. The
            // engine takes a stop of such a one for done, and so does this; the engine may have to
            // hear of the end yet.
            Err(error)
                if error.kind() == ErrorKind::InvalidState
                    && !self.shared.closed.is_cancelled() => {}
            sent => sent?,
        }
        let ended = tokio::time::timeout(grace, self.shared.exits.wait(&self.id)).await;
        Ok(if ended.is_ok() { BySignal::Ended } else { BySignal::RunsOn })
    }

    async fn ask_to_stop(&self, grace: Duration) -> Result<()> {
        if grace.is_zero() {
            self.kill_before_stop().await;
        }
        let request = cri::StopContainerRequest {
            container_id: self.id.to_string(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        let deadline = grace.saturating_add(self.shared.deadlines.stop_margin);
        self.shared.client.ask(Operation::Stop, deadline, request).await.map(drop)
    }

    /// Kills the process before a stop without grace on CRI-O, which sends the stop signal first.
    async fn kill_before_stop(&self) {
        if self.shared.engine.is_crio()
            && self.shared.capabilities.kill
            && let Err(error) = kill::send(self, Signal::KILL).await
        {
            // It has ended, or the engine's own kill follows.
            tracing::debug!(%error, container = %self.id, "not killed before the stop");
        }
    }

    async fn do_remove(&self) -> Result<()> {
        let this = self.clone();
        self.shared.finish(async move { this.remove_now().await }).await
    }

    /// Removes it, and writes its life down before.
    pub(crate) async fn remove_now(&self) -> Result<()> {
        let shared = &self.shared;
        match self.last_words().await {
            Ok(life) => {
                shared.exits.removing(&self.id);
                let journal = shared.journal.clone();
                let written = on_host(move || Ok(journal.write(&life))).await?;
                if let Err(error) = written {
                    tracing::debug!(%error, "events of this container cannot be told later");
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let request = cri::PodSandboxStatusRequest {
                    pod_sandbox_id: self.sandbox.to_string(),
                    verbose: false,
                };
                let deadline = shared.deadlines.query;
                let there = shared.client.ask(Operation::Remove, deadline, request).await;
                if let Err(error) = there {
                    if error.kind() == ErrorKind::NotFound {
                        sandbox::clear_host(shared, &self.notes).await?;
                    }
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        sandbox::remove_sandbox(shared, Operation::Remove, &self.sandbox).await?;
        shared.census.hurry();
        shared.meter.forget(&self.id);
        sandbox::clear_host(shared, &self.notes).await
    }

    /// Ends it, if it runs, and gives what is to be known of it afterwards.
    async fn last_words(&self) -> Result<Life> {
        let shared = &self.shared;
        let mut detail = self.details_now().await?;
        if detail.info.status == ContainerStatus::Running {
            self.kill_before_stop().await;
            let request =
                cri::StopContainerRequest { container_id: self.id.to_string(), timeout: 0 };
            let deadline = shared.deadlines.stop_margin;
            shared.client.ask(Operation::Remove, deadline, request).await?;
            detail = self.details_now().await?;
        }
        let Detail { info, out_of_memory } = detail;
        Ok(Life { removed_at: SystemTime::now(), out_of_memory, info })
    }

    async fn details_now(&self) -> Result<Detail> {
        wait::details(&self.shared, Operation::Remove, &self.id).await
    }
}

/// What came of a stop signal.
enum BySignal {
    /// The engine is to send it.
    NotSent,
    /// The container has ended.
    Ended,
    /// The grace is over.
    RunsOn,
}

fn unknown() -> Exit {
    Exit::new(runtime_core::ExitReason::Unknown)
}

#[async_trait]
impl Container for CriContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self) -> Result<StartOutcome> {
        self.doing(Operation::Start, self.do_start()).await
    }

    async fn info(&self) -> Result<ContainerInfo> {
        self.doing(Operation::Info, async {
            Ok(wait::details(&self.shared, Operation::Info, &self.id).await?.info)
        })
        .await
    }

    async fn wait(&self) -> Result<Exit> {
        let wait = self.shared.unless_closed(self.shared.exits.wait(&self.id));
        self.doing(Operation::Wait, wait).await
    }

    async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        self.doing(Operation::Logs, logs::open(self, options)).await
    }

    async fn stats_once(&self) -> Result<ContainerStats> {
        self.doing(Operation::Stats, stats::once(self)).await
    }

    async fn stats(&self, options: StatsOptions) -> Result<StatsStream> {
        self.doing(Operation::Stats, stats::stream(self, options)).await
    }

    async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        self.doing(Operation::Stop, self.do_stop(options)).await
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        self.doing(Operation::Kill, async {
            self.require(Capability::Kill, Operation::Kill)?;
            kill::send(self, signal).await
        })
        .await
    }

    async fn remove(&self) -> Result<()> {
        self.doing(Operation::Remove, self.do_remove()).await
    }

    async fn exec(&self, options: ExecOptions) -> Result<Session> {
        self.doing(Operation::Exec, exec::exec(self, options)).await
    }

    async fn attach(&self, options: AttachOptions) -> Result<Session> {
        self.doing(Operation::Attach, attach::attach(self, options)).await
    }

    async fn copy_in(
        &self,
        path: &str,
        content: ByteStream,
        _options: CopyInOptions,
    ) -> Result<()> {
        self.doing(Operation::CopyIn, copy::unpack(self, path, content)).await
    }

    async fn copy_out(&self, path: &str, _options: CopyOutOptions) -> Result<ByteStream> {
        self.doing(Operation::CopyOut, copy::pack(self, path)).await
    }
}
