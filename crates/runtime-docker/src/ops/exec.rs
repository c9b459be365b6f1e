//! Commands in a running container.
//!
//! An exec is made, started over a connection that becomes the session, and looked at: Docker says
//! that a command cannot be executed in the session's own output, and the exit code only when it
//! is asked after the end.

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
use crate::client::http::Call;
use crate::client::session::{self, About, End, Output, Streams};
use crate::error::{BACKEND, refusal};
use crate::model::demux::Framing;
use crate::state::{DockerBackend, DockerContainer};

/// Engines look for a sequence of keys in what goes to a terminal, swallow it and detach, and
/// cannot be told not to. This one is as unlikely as their parser allows.
pub(crate) const NO_DETACH_KEYS: &str = "ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-^,ctrl-@,ctrl-],ctrl-^";

/// How long an engine may take to say that it has seen the end of what has ended.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));

/// How often it is asked whether the process runs, while it is being started.
const POLL_START: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// How long an engine may take to say what it knows of an exec before it is taken for busy.
const BUSY: Duration = Duration::from_secs(1);

/// The longest words about a start that failed that are passed on.
const LONGEST_REASON: usize = 4096;

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
    opening.await.unwrap_or_else(|_| Err(Error::internal("the exec was not carried on")))
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
    let at_start = terminal.filter(|_| backend.engine.takes_size_at_start());
    if let Some(size) = at_start {
        body["ConsoleSize"] = json!([size.rows, size.columns]);
    }
    let call = Call::post(Operation::Exec, format!("/exec/{}/start", exec.id));
    let answer = backend.http.call(call.body(&body).upgrade()).await?;
    let framing = if terminal.is_some() { Framing::Terminal } else { Framing::Frames };
    let about = About {
        operation: Operation::Exec,
        container: container.id.clone(),
        closed: backend.http.closed_token().clone(),
        keeps_at_reset: backend.http.endpoint().is_unix(),
    };
    let (ended, abandoned) = (exec.clone(), exec.clone());
    let mut streams = session::open(
        answer,
        framing,
        stdin,
        about,
        async move { ended.ended().await },
        async move { abandoned.kill().await },
    )
    .await?;
    if let Some(exit) = exec.until_started(&mut streams).await? {
        streams = streams.ended(exit);
    }
    if let (Some(size), None) = (terminal, at_start) {
        match exec.resize(size).await {
            // It was quicker.
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
    struct Made {
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
        // A name alone removes the variable.
        body["Env"] = env.chain(options.unset_env.iter().cloned()).collect();
    }
    if let Some(user) = &options.user {
        body["User"] = json!(user);
    }
    if let Some(folder) = &options.working_dir {
        body["WorkingDir"] = json!(folder);
    }
    if let Some(size) = terminal.filter(|_| backend.engine.takes_size_at_start()) {
        body["ConsoleSize"] = json!([size.rows, size.columns]);
    }
    let call = Call::post(Operation::Exec, format!("/containers/{}/exec", container.id));
    match backend.http.json::<Made>(call.body(&body)).await {
        Ok(made) => Ok(made.id),
        // It does not run, but which of the two ways to be so it is only a look can tell.
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

/// One exec of the engine.
#[derive(Clone)]
struct Exec {
    backend: Arc<DockerBackend>,
    id: Arc<str>,
    container: ContainerId,
    /// The process, where it was taken hold of when it began.
    process: Arc<OnceLock<Arc<ProcessTree>>>,
}

/// What the engine knows of an exec.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Seen {
    #[serde(default)]
    running: bool,
    exit_code: Option<i32>,
    /// 0 while there is none; Podman forgets it at the end.
    #[serde(default)]
    pid: i32,
    /// Podman's mark of those that have ended.
    #[serde(default)]
    can_remove: bool,
}

impl Exec {
    async fn look(&self) -> Result<Seen> {
        let call = Call::get(Operation::Exec, format!("/exec/{}/json", self.id));
        self.backend.query(Operation::Exec, call).await
    }

    /// The exit code, if it has ended: an exec that is about to be started does not run either.
    fn code(&self, seen: &Seen) -> Option<i32> {
        let ended = !seen.running && (seen.can_remove || !self.backend.engine.is_podman());
        seen.exit_code.filter(|_| ended)
    }

    /// Waits until the process runs, or did. Returns how it ended, if it was killed before it could
    /// become the command.
    ///
    /// # Errors
    /// Why it could not be started.
    async fn until_started(&self, streams: &mut Streams) -> Result<Option<ExecExit>> {
        let mut backoff = Backoff::new(POLL_START.0, POLL_START.1);
        loop {
            let seen = match self.look().await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::InvalidState)
                        .with_message("the container went away during the start")
                        .with_source(error));
                }
                seen => seen?,
            };
            if let Some(code) = self.code(&seen) {
                return match self.start_failure(&seen, code, streams).await {
                    Some(words) => match killed_at_start(&words) {
                        Some(exit) => Ok(Some(exit)),
                        None => Err(self.not_started(&words).await),
                    },
                    None => Ok(None),
                };
            }
            if seen.running && seen.pid > 0 {
                self.take_hold(seen.pid);
                return Ok(None);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Takes hold of the process that has just begun, so that it can be ended without a question to
    /// an engine which may be too busy to answer: Podman was seen to take minutes, in which dropped
    /// processes kept all processors for themselves.
    ///
    /// The engine has named it a moment ago, and it is in the container: that it is another one
    /// would take a number that was given twice in that moment, both times in this container. A
    /// process that is not proven to be in the container is left alone.
    fn take_hold(&self, pid: i32) {
        if !self.backend.capabilities().exec_signal {
            return;
        }
        if let Ok(process) = ProcessTree::in_container(pid, self.container.as_str()) {
            let _ = self.process.set(Arc::new(process));
        }
    }

    /// The engine's words about a process that could not be started, in place of its output.
    async fn start_failure(&self, seen: &Seen, code: i32, streams: &mut Streams) -> Option<String> {
        if self.backend.engine.is_podman() {
            // What never ran looks as what did, but for the words.
            if !(125..=127).contains(&code) {
                return None;
            }
            let output = streams.stderr.as_mut().unwrap_or(&mut streams.stdout);
            let words = String::from_utf8_lossy(output.peek().await?).into_owned();
            let failed = words.starts_with("Error: ") && words.contains("OCI");
            return failed.then_some(words);
        }
        if seen.pid > 0 {
            return None;
        }
        let words = streams.stdout.peek().await.cloned().unwrap_or_default();
        let words = &words[..words.len().min(LONGEST_REASON)];
        Some(String::from_utf8_lossy(words).into_owned())
    }

    async fn not_started(&self, words: &str) -> Error {
        let error = refusal(Operation::Exec, 500, words);
        if error.kind() != ErrorKind::Internal {
            return error;
        }
        // A container that ends at this time makes the start fail in many words.
        match self.backend.inspect(Operation::Exec, &self.container).await {
            Ok(inspect) if inspect.status() == ContainerStatus::Running => error,
            _ => Error::new(ErrorKind::InvalidState)
                .with_message("the container has ended")
                .with_source(error),
        }
    }

    /// Finds out, after the last byte, that it was not the end of the engine: one that has come back
    /// knows nothing of the exec. Gives what waits for the exit code.
    async fn ended(self) -> Result<impl Future<Output = Result<ExecExit>> + Send + 'static> {
        let seen = self.look_after().await?;
        Ok(async move { self.exit(seen).await })
    }

    /// The exit code. The output can end before the process does.
    async fn exit(&self, mut seen: Seen) -> Result<ExecExit> {
        let mut backoff = Backoff::new(POLL.0, POLL.1);
        loop {
            if let Some(code) = self.code(&seen) {
                return Ok(ExecExit { code });
            }
            tokio::time::sleep(backoff.delay()).await;
            seen = self.look_after().await?;
        }
    }

    /// Looks at what is over: whatever cannot be seen now is lost.
    async fn look_after(&self) -> Result<Seen> {
        self.look().await.map_err(|error| match error.kind() {
            ErrorKind::InvalidState => error,
            _ => Error::new(ErrorKind::Lost)
                .with_message("the session was cut off before the exit code was known")
                .with_source(error),
        })
    }

    /// Takes hold of the process while it runs.
    ///
    /// # Errors
    /// `Unsupported` if the process with this number does not belong to the container: the number
    /// is that of another host.
    async fn process(&self) -> Result<Option<ProcessTree>> {
        let seen = self.look().await?;
        if !seen.running || seen.pid <= 0 {
            return Ok(None);
        }
        let process = match ProcessTree::in_container(seen.pid, self.container.as_str()) {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(Error::unsupported(Capability::ExecSignal).with_source(error));
            }
            Err(error) => return Err(no_signal(error)),
        };
        // It runs still, and as the same number: then it is the one that we have hold of, and was
        // not replaced by another between the question and the hold.
        let again = self.look().await?;
        Ok((again.running && again.pid == seen.pid).then_some(process))
    }

    /// Ends the process that nobody listens to any more, and all that it has started, where that
    /// can be done.
    async fn kill(&self) {
        if !self.backend.capabilities().exec_signal {
            return;
        }
        if let Some(process) = self.process.get() {
            // An engine that knows it no longer was away since, and the session was cut: it is left as
            // it is. Docker would wait ten seconds for the output that nobody reads of each such
            // process, and see nothing else of the container in that time.
            let error = match within(Operation::Exec, BUSY, self.look()).await {
                Err(error) if error.kind() != ErrorKind::Timeout => Some(error),
                _ => kill(Arc::clone(process)).await.err(),
            };
            return self.not_ended(error);
        }
        let kill = async {
            // The session may have been dropped before the process was there.
            let mut backoff = Backoff::new(POLL_START.0, POLL_START.1);
            loop {
                let seen = self.look().await?;
                if self.code(&seen).is_some() {
                    return Ok(());
                }
                if let Some(process) = self.process().await? {
                    return kill(Arc::new(process)).await;
                }
                tokio::time::sleep(backoff.delay()).await;
            }
        };
        self.not_ended(within(Operation::Exec, self.backend.deadlines().query, kill).await.err());
    }

    /// Tells of a process that goes on although nobody listens to it any more.
    fn not_ended(&self, error: Option<Error>) {
        if let Some(error) = error {
            tracing::debug!(%error, container = %self.container, "the process of a dropped session was not ended");
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let call = Call::post(Operation::Exec, format!("/exec/{}/resize", self.id))
            .query("h", size.rows)
            .query("w", size.columns);
        let resized = self.backend.http.unit(call);
        match within(Operation::Exec, self.backend.deadlines().query, resized).await {
            Ok(_) => Ok(()),
            Err(error) => match self.look().await {
                Ok(seen) if self.code(&seen).is_none() => Err(error),
                _ => Err(ended().with_source(error)),
            },
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the process has ended")
}

/// Kills a process and all that it has started.
async fn kill(process: Arc<ProcessTree>) -> Result<()> {
    let killed = tokio::task::spawn_blocking(move || process.kill()).await;
    killed.map_err(|_| Error::internal("the kill was not carried on"))?.map_err(no_signal)?;
    Ok(())
}

fn no_signal(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind).with_message("the signal cannot be sent").with_source(error)
}

struct Control {
    exec: Exec,
    terminal: bool,
    end: End,
}

impl Control {
    async fn doing<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
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
        self.doing(work).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let work = async {
            self.exec.backend.capabilities().require(Capability::ExecSignal)?;
            let Some(process) = self.exec.process().await? else { return Err(ended()) };
            if process.signal(signal).await.map_err(no_signal)? { Ok(()) } else { Err(ended()) }
        };
        self.doing(work).await
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
