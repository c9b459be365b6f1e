//! One container.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::KillContainerOptions;
use http::{Method, StatusCode};
use runtime_core::{
    AttachOptions, ByteStream, Container, ContainerId, ContainerInfo, ContainerStats,
    ContainerStatus, CopyInOptions, CopyOutOptions, Error, ErrorKind, ExecOptions, Exit,
    ExitReason, LogOptions, LogReader, Operation, RawLogs, Result, ResultExt, Session, Signal,
    StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};
use serde::Deserialize;
use tracing::{Instrument, Span};

use crate::BACKEND;
use crate::error::{self, from_bollard, is_refusal};
use crate::http::Call;
use crate::life::{Life, Requests, Started};
use crate::shared::{Shared, within};

/// A handle.
#[derive(Clone)]
pub(crate) struct DockerContainer {
    shared: Arc<Shared>,
    id: ContainerId,
    name: Arc<str>,
    life: Arc<Life>,
}

impl fmt::Debug for DockerContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerContainer").field("id", &self.id).field("name", &self.name).finish()
    }
}

#[async_trait]
impl Container for DockerContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self) -> Result<StartOutcome> {
        self.doing(Operation::Start, self.start_it()).await
    }

    async fn info(&self) -> Result<ContainerInfo> {
        self.doing(Operation::Info, self.info_now()).await
    }

    async fn wait(&self) -> Result<Exit> {
        self.doing(Operation::Wait, self.exit()).await
    }

    async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        self.doing(Operation::Logs, self.read_logs(options)).await
    }

    async fn raw_logs(&self) -> Result<RawLogs> {
        self.doing(Operation::Logs, self.read_raw_logs()).await
    }

    async fn stats_once(&self) -> Result<ContainerStats> {
        self.doing(Operation::Stats, self.measure()).await
    }

    async fn stats(&self, options: StatsOptions) -> Result<StatsStream> {
        self.doing(Operation::Stats, self.measure_on(options)).await
    }

    async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        self.doing(Operation::Stop, self.stop_it(options)).await
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        self.doing(Operation::Kill, self.kill_it(signal)).await
    }

    async fn remove(&self) -> Result<()> {
        self.doing(Operation::Remove, self.remove_it()).await
    }

    async fn exec(&self, options: ExecOptions) -> Result<Session> {
        self.doing(Operation::Exec, self.open_exec(options)).await
    }

    async fn attach(&self, options: AttachOptions) -> Result<Session> {
        self.doing(Operation::Attach, self.open_attach(options)).await
    }

    async fn copy_in(
        &self,
        path: &str,
        content: ByteStream,
        CopyInOptions { .. }: CopyInOptions,
    ) -> Result<()> {
        self.doing(Operation::CopyIn, self.unpack(path, content)).await
    }

    async fn copy_out(
        &self,
        path: &str,
        CopyOutOptions { .. }: CopyOutOptions,
    ) -> Result<ByteStream> {
        self.doing(Operation::CopyOut, self.pack(path)).await
    }
}

impl DockerContainer {
    pub(crate) fn new(shared: Arc<Shared>, id: ContainerId, name: impl Into<Arc<str>>) -> Self {
        let life = shared.lives.of(&id);
        Self { shared, id, name: name.into(), life }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn full_id(&self) -> &ContainerId {
        &self.id
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Does `work` in a span of its own, and says in its error what was done to which container.
    async fn doing<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = work.instrument(self.span(operation)).await;
        done.during(operation).on(BACKEND).about(&self.id)
    }

    fn span(&self, operation: Operation) -> Span {
        tracing::debug_span!(
            "container",
            backend = BACKEND,
            operation = operation.as_str(),
            container = %self.id
        )
    }

    async fn start_it(&self) -> Result<StartOutcome> {
        // One start at a time. Docker would start again what has run, so that it has to be known
        // that this one has not; of a container that was created here it is known.
        let _one = self.life.starting.lock().await;
        if self.life.started() != Started::No {
            // This is also how one that is gone is found out.
            let inspect = self.shared.inspect(Operation::Start, &self.id).await?;
            if inspect.status() != ContainerStatus::Created {
                self.life.set_started(Started::Yes);
            }
        }
        if self.life.started() == Started::Yes {
            return Ok(StartOutcome::AlreadyStarted);
        }
        // What comes of it is not known when the caller lets go of the future, or when the
        // answer does not come: then the engine has to be asked before the next start.
        self.life.set_started(Started::Unknown);
        let call = Call::post(Operation::Start, format!("/containers/{}/start", self.id));
        let work = self.shared.http.unit(call);
        match within(Operation::Start, self.shared.deadlines.start, work).await {
            Ok(StatusCode::NOT_MODIFIED) => {
                self.life.set_started(Started::Yes);
                Ok(StartOutcome::AlreadyStarted)
            }
            Ok(_) => {
                self.life.set_started(Started::Yes);
                Ok(StartOutcome::Started)
            }
            Err(error) => {
                if is_an_answer(&error) {
                    self.life.set_started(Started::Yes);
                    let why = error.message().unwrap_or_default();
                    self.shared.lives.start_failed(&self.life, why);
                    // Neither engine has an event for it.
                    self.shared.exits.poke(&self.id);
                    // Those who wait are told that this was its end, so that it is not started
                    // again, though the engine might do that.
                    return Err(self.which_group(error).await.with_retryable(false));
                }
                Err(error)
            }
        }
    }

    /// Engines say the same of a group that is not there, whether it is the user's or one more.
    async fn which_group(&self, error: Error) -> Error {
        let text = error.message().unwrap_or_default().to_owned();
        let Some((_, rest)) = text.split_once("nable to find group ") else { return error };
        let group = rest.split(':').next().unwrap_or_default();
        match self.shared.inspect(Operation::Start, &self.id).await {
            Ok(inspect) if inspect.host_config.group_add.iter().flatten().any(|g| g == group) => {
                error.with_field("groups")
            }
            _ => error,
        }
    }

    async fn info_now(&self) -> Result<ContainerInfo> {
        let inspect = self.shared.inspect(Operation::Info, &self.id).await?;
        let exit = match self.life.exit() {
            Some(exit) => Some(exit.clone()),
            None => match inspect.exit() {
                Some(exit) => Some(self.shared.lives.settle(&self.id, exit).await),
                None => None,
            },
        };
        Ok(inspect.info(exit))
    }

    /// The exit, as all who wait for it are told it.
    pub(crate) async fn exit(&self) -> Result<Exit> {
        if let Some(exit) = self.life.exit() {
            return Ok(exit.clone());
        }
        Ok(self.life.remember(self.shared.exits.wait(&self.id).await?))
    }

    async fn stop_it(&self, options: StopOptions) -> Result<StopOutcome> {
        let grace = options.grace.map(|grace| self.shared.capabilities.round_grace(grace));
        let mut call = Call::post(Operation::Stop, format!("/containers/{}/stop", self.id));
        if let Some(grace) = grace {
            call = call.query("t", grace.as_secs());
        }
        let grace = match grace {
            Some(grace) => grace,
            None => self.created_grace().await?,
        };
        let deadline = grace.saturating_add(self.shared.deadlines.stop_margin);
        let stopping = self.shared.lives.stopping(&self.life);
        let work = async {
            // The engine's stop sends its signal first, whatever the grace, and a quick process
            // has the time to heed it.
            let killed = grace.is_zero() && self.kill_to_stop(&stopping.requests).await?;
            let status = self.change(call, &stopping.requests).await?;
            let status = if killed { StatusCode::NO_CONTENT } else { status };
            // The engine says that it was stopped or was not running, and no more. Podman says
            // it was stopped of what was never started, too.
            let inspect = self.shared.inspect(Operation::Stop, &self.id).await?;
            Ok((status, inspect))
        };
        let (status, inspect) = match within(Operation::Stop, deadline, work).await {
            Ok(done) => done,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    stopping.was_not_running();
                }
                return Err(error);
            }
        };
        let failed = self.life.exit().filter(|exit| exit.reason == ExitReason::StartFailed);
        let Some(exit) = failed.cloned().or_else(|| inspect.exit()) else {
            stopping.was_not_running();
            return match inspect.status() {
                ContainerStatus::Created => Ok(StopOutcome::NotStarted),
                _ => Err(Error::internal("the engine says that it was stopped, and that it runs")),
            };
        };
        let stopped = status != StatusCode::NOT_MODIFIED && exit.reason != ExitReason::StartFailed;
        if stopped {
            drop(stopping);
        } else {
            stopping.was_not_running();
        }
        let exit = self.shared.lives.settle(&self.id, exit).await;
        Ok(if stopped { StopOutcome::Stopped(exit) } else { StopOutcome::AlreadyExited(exit) })
    }

    /// Kills it, as the whole of a stop without grace; false if it does not run.
    async fn kill_to_stop(&self, requests: &Requests) -> Result<bool> {
        let call = Call::post(Operation::Stop, format!("/containers/{}/kill", self.id));
        match self.change(call.query("signal", Signal::KILL.number()), requests).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::InvalidState => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request that changes how the container ends, and notes whether it may have.
    async fn change(&self, call: Call, requests: &Requests) -> Result<StatusCode> {
        let request = requests.next();
        let answer = self.shared.http.unit(call.noting(Arc::clone(&request))).await;
        let without_effect =
            |error: &Error| is_refusal(error) || error.kind() == ErrorKind::InvalidState;
        if answer.as_ref().is_err_and(without_effect) {
            request.store(false, Ordering::Relaxed);
        }
        answer
    }

    /// The grace that was set when the container was created.
    async fn created_grace(&self) -> Result<Duration> {
        if let Some(grace) = self.life.stop_grace.get() {
            return Ok(*grace);
        }
        let inspect = self.shared.inspect(Operation::Stop, &self.id).await?;
        let seconds = inspect.config.stop_timeout.and_then(|grace| u64::try_from(grace).ok());
        let grace = Duration::from_secs(seconds.unwrap_or(10));
        Ok(*self.life.stop_grace.get_or_init(|| grace))
    }

    pub(crate) async fn kill_it(&self, signal: Signal) -> Result<()> {
        let options = KillContainerOptions { signal: signal.number().to_string() };
        let work = async {
            let killed = self.shared.docker.kill_container(self.id.as_str(), Some(options)).await;
            killed.map_err(|error| from_bollard(Operation::Kill, error))
        };
        match within(Operation::Kill, self.shared.deadlines.query, work).await {
            // It is not running, but which of the two ways to be so it is only a look can tell.
            Err(error) if error.kind() == ErrorKind::InvalidState => {
                let info = self.info_now().await?;
                Err(match info.status {
                    ContainerStatus::Created => Error::new(ErrorKind::NotStarted),
                    _ => error,
                })
            }
            done => done,
        }
    }

    /// Removes it, running or not.
    pub(crate) async fn remove_it(&self) -> Result<()> {
        // Known before the kill, so that no waiter takes that for the container's own end.
        let removing = self.life.removing();
        self.shared.exits.removing(&self.id);
        let work = async {
            if self.shared.engine.is_podman() && self.life.started() != Started::No {
                // Podman's Docker API stops it first, with all the grace that it was created
                // with. What comes of the kill does not matter: the removal says what is.
                let call = Call::post(Operation::Remove, format!("/containers/{}/kill", self.id))
                    .query("signal", Signal::KILL.number());
                if let Err(error) = self.change(call, &removing.requests).await {
                    tracing::trace!(%error, "not killed");
                }
            }
            let call =
                Call::new(Operation::Remove, Method::DELETE, format!("/containers/{}", self.id))
                    .query("force", true)
                    .query("v", true);
            match self.change(call, &removing.requests).await {
                // Another removal is at it: this one is done when that is.
                Err(error) if error.kind() == ErrorKind::InvalidState => self.until_removed().await,
                done => done.map(drop),
            }
        };
        within(Operation::Remove, self.shared.deadlines.remove, work).await
    }

    async fn until_removed(&self) -> Result<()> {
        let call = Call::post(Operation::Remove, format!("/containers/{}/wait", self.id))
            .query("condition", "removed");
        match self.shared.http.json::<Removed>(call).await {
            Ok(Removed { error: Some(Refused { message }) }) if !message.is_empty() => {
                Err(error::refusal(Operation::Remove, 500, &message))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The answer to the wait for a removal, which is there as well when that has failed.
#[derive(Deserialize)]
struct Removed {
    #[serde(rename = "Error")]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(rename = "Message", default)]
    message: String,
}

/// Whether the engine said no, and not nothing.
fn is_an_answer(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidArgument | ErrorKind::ResourceExhausted | ErrorKind::Internal
    )
}
