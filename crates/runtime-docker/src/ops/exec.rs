//! Runs a command in a container.
//!
//! An exec is created, started over a connection that is upgraded to the session, and inspected:
//! Docker writes the error of a failed start to the output of the session, and only reports the
//! exit code to an inspect after the end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    Backoff, Capability, ContainerId, ContainerStatus, Error, ErrorKind, ExecExit, ExecOptions,
    Operation, Result, ResultExt, Session, SessionControl, SessionInput, SessionMode, Signal,
    TerminalSize,
};
use runtime_support::killed_at_start;
use runtime_support::process::ProcessTree;
use serde::Deserialize;
use serde_json::json;

use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::client::session::{self, End, Output, SessionContext, Streams};
use crate::error::{BACKEND, refusal};
use crate::model::demux::Framing;
use crate::state::{DockerBackend, DockerContainer};

/// The key sequence that detaches from a terminal. The engines always remove such a sequence from the
/// input, so this one is as unlikely as their parser allows.
pub(crate) const NO_DETACH_KEYS: &str = "ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-^,ctrl-@,ctrl-],ctrl-^";

/// The intervals of polls for the exit code after the end of the output.
const POLL_EXIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));

/// The intervals of polls for the start of the process.
const POLL_START: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// The timeout of an inspect before a kill. A slower engine counts as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// The length limit of the engine's message about a failed start.
const START_ERROR_LENGTH_MAX: usize = 4096;

/// Opens a session with a new process.
pub(crate) async fn exec(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    options: ExecOptions,
) -> Result<Session> {
    let (backend, container) = (Arc::clone(backend), container.clone());
    // A task of its own: if the caller drops the future, the session is dropped as any other one, and
    // the process is killed.
    let opening = tokio::spawn(async move {
        let work = open(&backend, &container, &options);
        within(Operation::Exec, backend.deadlines().start, work).await
    });
    opening.await.unwrap_or_else(|_| Err(Error::internal("the task of the exec has ended")))
}

async fn open(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    options: &ExecOptions,
) -> Result<Session> {
    let terminal = match options.mode {
        SessionMode::Terminal(size) => Some(size),
        _ => None,
    };
    let stdin = !matches!(options.mode, SessionMode::Output);
    let exec = create(backend, container, options, stdin, terminal).await?;
    let exec = Exec {
        backend: Arc::clone(backend),
        id: exec.into(),
        container: container.id.clone(),
        process: Arc::default(),
    };
    let mut body = json!({ "Detach": false, "Tty": terminal.is_some() });
    let at_start = terminal.filter(|_| backend.engine.sets_size_at_start());
    if let Some(size) = at_start {
        body["ConsoleSize"] = json!([size.rows, size.columns]);
    }
    let request = ApiRequest::post(Operation::Exec, format!("/exec/{}/start", exec.id));
    let response = backend.http.call(request.body(&body).upgrade()).await?;
    let framing = if terminal.is_some() { Framing::Terminal } else { Framing::Frames };
    let context = SessionContext {
        operation: Operation::Exec,
        container: container.id.clone(),
        closed: backend.http.closed_token().clone(),
        keeps_at_reset: backend.http.endpoint().is_unix(),
    };
    let (ended, abandoned) = (exec.clone(), exec.clone());
    let mut streams = session::open(
        response,
        framing,
        stdin,
        context,
        async move { ended.ended().await },
        async move { abandoned.kill().await },
    )
    .await?;
    if let Some(exit) = exec.until_started(&mut streams).await? {
        streams = streams.ended(exit);
    }
    if let (Some(size), None) = (terminal, at_start) {
        match exec.resize(size).await {
            // The process has already ended.
            Err(error) if error.kind() == ErrorKind::InvalidState => {}
            done => done?,
        }
    }
    let Streams { stdin, stdout, stderr, end } = streams;
    let control = Control { exec, terminal: terminal.is_some(), end };
    Ok(Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        Arc::new(control),
    ))
}

async fn create(
    backend: &DockerBackend,
    container: &DockerContainer,
    options: &ExecOptions,
    stdin: bool,
    terminal: Option<TerminalSize>,
) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Created {
        id: String,
    }
    let mut body = json!({
        "AttachStdin": stdin,
        "AttachStdout": true,
        "AttachStderr": true,
        "Tty": terminal.is_some(),
        "Cmd": options.command,
        "DetachKeys": NO_DETACH_KEYS,
    });
    if !options.env.is_empty() || !options.unset_env.is_empty() {
        let env = options.env.iter().map(|(name, value)| format!("{name}={value}"));
        // A name without a value removes the variable.
        body["Env"] = env.chain(options.unset_env.iter().cloned()).collect();
    }
    if let Some(user) = &options.user {
        body["User"] = json!(user);
    }
    if let Some(dir) = &options.working_dir {
        body["WorkingDir"] = json!(dir);
    }
    if let Some(size) = terminal.filter(|_| backend.engine.sets_size_at_start()) {
        body["ConsoleSize"] = json!([size.rows, size.columns]);
    }
    let request = ApiRequest::post(Operation::Exec, format!("/containers/{}/exec", container.id));
    match backend.http.json::<Created>(request.body(&body)).await {
        Ok(created) => Ok(created.id),
        // The engine returns the same error for a created container and for one that has ended.
        Err(error) if error.kind() == ErrorKind::InvalidState => {
            let inspect = backend.inspect(Operation::Exec, &container.id).await?;
            Err(match inspect.status() {
                ContainerStatus::Created => Error::new(ErrorKind::NotStarted),
                _ => error,
            })
        }
        Err(error) => Err(error),
    }
}

/// An exec of the engine.
#[derive(Clone)]
struct Exec {
    backend: Arc<DockerBackend>,
    id: Arc<str>,
    container: ContainerId,
    /// The process, if its pidfd was opened at its start.
    process: Arc<OnceLock<Arc<ProcessTree>>>,
}

/// The response of an inspect.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExecInspect {
    #[serde(default)]
    running: bool,
    exit_code: Option<i32>,
    /// 0 before the start, and on Podman after the end.
    #[serde(default)]
    pid: i32,
    /// Set by Podman after the end.
    #[serde(default)]
    can_remove: bool,
}

impl Exec {
    async fn inspect(&self) -> Result<ExecInspect> {
        let request = ApiRequest::get(Operation::Exec, format!("/exec/{}/json", self.id));
        self.backend.query(Operation::Exec, request).await
    }

    /// Returns the exit code of an exec that has ended. An exec before its start is not running
    /// either.
    fn code(&self, inspected: &ExecInspect) -> Option<i32> {
        let ended =
            !inspected.running && (inspected.can_remove || !self.backend.engine.is_podman());
        inspected.exit_code.filter(|_| ended)
    }

    /// Waits until the process is running or has ended. Returns the exit of a process that was killed
    /// before it executed the command.
    ///
    /// # Errors
    /// The cause of a failed start.
    async fn until_started(&self, streams: &mut Streams) -> Result<Option<ExecExit>> {
        let mut backoff = Backoff::new(POLL_START.0, POLL_START.1);
        loop {
            let inspected = match self.inspect().await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::InvalidState)
                        .with_message("the container was removed during the start")
                        .with_source(error));
                }
                inspected => inspected?,
            };
            if let Some(code) = self.code(&inspected) {
                return match self.start_failure(&inspected, code, streams).await {
                    Some(message) => match killed_at_start(&message) {
                        Some(exit) => Ok(Some(exit)),
                        None => Err(self.start_error(&message).await),
                    },
                    None => Ok(None),
                };
            }
            if inspected.running && inspected.pid > 0 {
                self.open_process(inspected.pid);
                return Ok(None);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Opens the pidfd of the new process, so that a kill needs no response of the engine. A busy
    /// Podman can take minutes to respond, while the processes of dropped sessions use all CPUs.
    ///
    /// The process is checked to be in the container. It can only be a different one if the PID was
    /// reused in this container since the inspect. A process outside of the container is not
    /// opened.
    fn open_process(&self, pid: i32) {
        if !self.backend.capabilities().exec_signal {
            return;
        }
        if let Ok(process) = ProcessTree::in_container(pid, self.container.as_str()) {
            let _ = self.process.set(Arc::new(process));
        }
    }

    /// Returns the engine's message about a failed start, which is in the output of the session.
    async fn start_failure(
        &self,
        inspected: &ExecInspect,
        code: i32,
        streams: &mut Streams,
    ) -> Option<String> {
        if self.backend.engine.is_podman() {
            // Only the message distinguishes a failed start from a process with this exit code.
            if !(125..=127).contains(&code) {
                return None;
            }
            let output = streams.stderr.as_mut().unwrap_or(&mut streams.stdout);
            let message = String::from_utf8_lossy(output.peek().await?).into_owned();
            let failed = message.starts_with("Error: ") && message.contains("OCI");
            return failed.then_some(message);
        }
        if inspected.pid > 0 {
            return None;
        }
        let message = streams.stdout.peek().await.cloned().unwrap_or_default();
        let message = &message[..message.len().min(START_ERROR_LENGTH_MAX)];
        Some(String::from_utf8_lossy(message).into_owned())
    }

    async fn start_error(&self, message: &str) -> Error {
        let error = refusal(Operation::Exec, 500, message);
        if error.kind() != ErrorKind::Internal {
            return error;
        }
        // If the container ends during the start, the engines have many different messages.
        match self.backend.inspect(Operation::Exec, &self.container).await {
            Ok(inspect) if inspect.status() == ContainerStatus::Running => error,
            _ => Error::new(ErrorKind::InvalidState)
                .with_message("the container has ended")
                .with_source(error),
        }
    }

    /// Checks after the last byte that the engine still has the exec, which it has not after a
    /// restart. Returns a future of the exit code.
    async fn ended(self) -> Result<impl Future<Output = Result<ExecExit>> + Send + 'static> {
        let inspected = self.inspect_after_end().await?;
        Ok(async move { self.exit(inspected).await })
    }

    /// Polls for the exit code, because the output can end before the process.
    async fn exit(&self, mut inspected: ExecInspect) -> Result<ExecExit> {
        let mut backoff = Backoff::new(POLL_EXIT.0, POLL_EXIT.1);
        loop {
            if let Some(code) = self.code(&inspected) {
                return Ok(ExecExit { code });
            }
            tokio::time::sleep(backoff.delay()).await;
            inspected = self.inspect_after_end().await?;
        }
    }

    /// Inspects the exec after the end of the output. A failure means that the exit code is lost.
    async fn inspect_after_end(&self) -> Result<ExecInspect> {
        self.inspect().await.map_err(|error| match error.kind() {
            ErrorKind::InvalidState => error,
            _ => Error::new(ErrorKind::Lost)
                .with_message("the connection was lost before the exit code was known")
                .with_source(error),
        })
    }

    /// Opens the running process.
    ///
    /// # Errors
    /// `Unsupported` if the process with this PID is not in the container, because the engine is on
    /// another host.
    async fn process(&self) -> Result<Option<ProcessTree>> {
        let inspected = self.inspect().await?;
        if !inspected.running || inspected.pid <= 0 {
            return Ok(None);
        }
        let process = match ProcessTree::in_container(inspected.pid, self.container.as_str()) {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(Error::unsupported(Capability::ExecSignal).with_source(error));
            }
            Err(error) => return Err(signal_error(error)),
        };
        // If the exec is still running with the same PID, the opened process is the right one, and
        // its PID was not reused.
        let again = self.inspect().await?;
        Ok((again.running && again.pid == inspected.pid).then_some(process))
    }

    /// Kills the process of a dropped session with its descendants, if supported.
    async fn kill(&self) {
        if !self.backend.capabilities().exec_signal {
            return;
        }
        if let Some(process) = self.process.get() {
            // If the engine no longer has the exec, it was restarted and the session was lost. The
            // process is not killed then, because Docker would wait ten seconds for its unread
            // output, and process no other event of the container in that time.
            let error = match within(Operation::Exec, BUSY_TIMEOUT, self.inspect()).await {
                Err(error) if error.kind() != ErrorKind::Timeout => Some(error),
                _ => kill(Arc::clone(process)).await.err(),
            };
            return self.log_failed_kill(error);
        }
        let kill = async {
            // The session can be dropped before the process has started.
            let mut backoff = Backoff::new(POLL_START.0, POLL_START.1);
            loop {
                let inspected = self.inspect().await?;
                if self.code(&inspected).is_some() {
                    return Ok(());
                }
                if let Some(process) = self.process().await? {
                    return kill(Arc::new(process)).await;
                }
                tokio::time::sleep(backoff.delay()).await;
            }
        };
        self.log_failed_kill(
            within(Operation::Exec, self.backend.deadlines().query, kill).await.err(),
        );
    }

    /// Logs the failure to kill the process of a dropped session.
    fn log_failed_kill(&self, error: Option<Error>) {
        if let Some(error) = error {
            tracing::debug!(%error, container = %self.container, "failed to kill the process of a dropped session");
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let request = ApiRequest::post(Operation::Exec, format!("/exec/{}/resize", self.id))
            .query("h", size.rows)
            .query("w", size.columns);
        let resized = self.backend.http.unit(request);
        match within(Operation::Exec, self.backend.deadlines().query, resized).await {
            Ok(_) => Ok(()),
            Err(error) => match self.inspect().await {
                Ok(inspected) if self.code(&inspected).is_none() => Err(error),
                _ => Err(ended().with_source(error)),
            },
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the process has ended")
}

/// Kills a process and its descendants.
async fn kill(process: Arc<ProcessTree>) -> Result<()> {
    let killed = tokio::task::spawn_blocking(move || process.kill()).await;
    killed.map_err(|_| Error::internal("the task of the kill has ended"))?.map_err(signal_error)?;
    Ok(())
}

fn signal_error(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message("failed to send the signal").with_source(error)
}

struct Control {
    exec: Exec,
    terminal: bool,
    end: End,
}

impl Control {
    async fn with_context<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = if self.end.is_over() { Err(ended()) } else { work.await };
        done.during(Operation::Exec).on(BACKEND).about(&self.exec.container)
    }
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let work = async {
            if !self.terminal {
                return Err(
                    Error::new(ErrorKind::InvalidState).with_message("the session has no terminal")
                );
            }
            self.exec.resize(size).await
        };
        self.with_context(work).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let work = async {
            self.exec.backend.capabilities().require(Capability::ExecSignal)?;
            let Some(process) = self.exec.process().await? else { return Err(ended()) };
            if process.signal(signal).await.map_err(signal_error)? { Ok(()) } else { Err(ended()) }
        };
        self.with_context(work).await
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
