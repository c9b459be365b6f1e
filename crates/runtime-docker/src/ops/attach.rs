//! Attaches to the main process of a container.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    AttachOptions, Backoff, ContainerStatus, Error, ErrorKind, ExecExit, Operation, Result,
    ResultExt, Session, SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::main_exit;

use super::exec::NO_DETACH_KEYS;
use super::kill::kill;
use super::wait::wait;
use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::client::session::{self, End, Output, SessionContext, Streams};
use crate::error::BACKEND;
use crate::model::demux::Framing;
use crate::model::inspect::Inspect;
use crate::state::{DockerBackend, DockerContainer};

/// How long after the end of its output the process may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a session with the main process.
pub(crate) async fn attach(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    options: AttachOptions,
) -> Result<Session> {
    let id = &container.id;
    let inspect = backend.inspect(Operation::Attach, id).await?;
    let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidState).with_message(message));
    let status = inspect.status();
    if status == ContainerStatus::Exited || container.state.exit().is_some() {
        return invalid("the container has ended");
    }
    let (open, tty) = (inspect.config.open_stdin, inspect.config.tty);
    let (stdin, size) = match options.mode {
        SessionMode::Stdin if tty => return invalid("the container was created with a terminal"),
        SessionMode::Stdin if !open => return invalid("the container was created without stdin"),
        SessionMode::Terminal(_) if !tty => return invalid("the container has no terminal"),
        SessionMode::Stdin => (true, None),
        SessionMode::Terminal(size) => (open, Some(size)),
        _ => (false, None),
    };
    let mut request = ApiRequest::post(Operation::Attach, format!("/containers/{id}/attach"))
        .query("stream", 1)
        .query("stdout", 1)
        .query("stderr", 1)
        .query("detachKeys", NO_DETACH_KEYS);
    if stdin {
        request = request.query("stdin", 1);
    }
    let response = backend.open(Operation::Attach, request.upgrade()).await?;
    let framing = if tty { Framing::Terminal } else { Framing::Frames };
    let context = SessionContext {
        operation: Operation::Attach,
        container: id.clone(),
        closed: backend.http.closed_token().clone(),
        keeps_at_reset: backend.http.endpoint().is_unix(),
    };
    let main = Main { backend: Arc::clone(backend), container: container.clone() };
    let ended = main.clone();
    let streams = session::open(
        response,
        framing,
        stdin,
        context,
        // The end of the output does not prove that the process has ended: an engine that was
        // restarted also closes the connection.
        async move {
            main_exit(wait(&ended.backend, &ended.container), EXIT_TIMEOUT)
                .await
                .map(|exit| std::future::ready(Ok(exit)))
        },
        std::future::ready(()),
    )
    .await?;
    let Streams { stdin, stdout, stderr, end } = streams;
    let size = Arc::new(Mutex::new(size));
    if tty && status == ContainerStatus::Created {
        let (main, size) = (main.clone(), size.clone());
        let over = end.over();
        tokio::spawn(async move {
            tokio::select! {
                () = over => {}
                () = main.resize_at_start(&size) => {}
            }
        });
    } else if let Some(size) = take(&size) {
        match main.resize(size).await {
            Err(error) if error.kind() == ErrorKind::InvalidState => {}
            done => done?,
        }
    }
    let control = Arc::new(Control { main, terminal: tty, size, end });
    Ok(Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        control,
    ))
}

/// A terminal size that is not applied yet.
type PendingSize = Arc<Mutex<Option<TerminalSize>>>;

fn take(size: &PendingSize) -> Option<TerminalSize> {
    size.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The main process of a container.
#[derive(Clone)]
struct Main {
    backend: Arc<DockerBackend>,
    container: DockerContainer,
}

impl Main {
    /// Sets the size of the terminal at the start, because the engines refuse it before.
    async fn resize_at_start(&self, size: &PendingSize) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            match self.inspect().await {
                Ok(inspect) if inspect.status() == ContainerStatus::Created => {}
                Ok(inspect) if inspect.status() == ContainerStatus::Running => break,
                Err(error) if error.is_retryable() => {}
                _ => return,
            }
            tokio::time::sleep(backoff.delay()).await;
        }
        if let Some(size) = take(size)
            && let Err(error) = self.resize(size).await
        {
            tracing::debug!(%error, container = %self.container.id, "failed to set the size of the terminal");
        }
    }

    async fn inspect(&self) -> Result<Inspect> {
        self.backend.inspect(Operation::Attach, &self.container.id).await
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        let killed = kill(&self.backend, &self.container, signal);
        within(Operation::Kill, self.backend.deadlines().query, killed).await
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let request = ApiRequest::post(
            Operation::Attach,
            format!("/containers/{}/resize", self.container.id),
        )
        .query("h", size.rows)
        .query("w", size.columns);
        let resized = self.backend.http.unit(request);
        within(Operation::Attach, self.backend.deadlines().query, resized).await.map(drop)
    }
}

struct Control {
    main: Main,
    terminal: bool,
    /// The size to set at the start.
    size: PendingSize,
    end: End,
}

impl Control {
    async fn with_context<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = if self.end.is_over() { Err(ended()) } else { work.await };
        done.during(Operation::Attach).on(BACKEND).about(&self.main.container.id)
    }

    async fn resize_now(&self, size: TerminalSize) -> Result<()> {
        if !self.terminal {
            return Err(
                Error::new(ErrorKind::InvalidState).with_message("the container has no terminal")
            );
        }
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = Some(size);
        let error = match self.main.resize(size).await {
            Ok(()) => {
                take(&self.size);
                return Ok(());
            }
            Err(error) => error,
        };
        let inspect = self.main.inspect().await?;
        match inspect.status() {
            // The size is set at the start.
            ContainerStatus::Created => Ok(()),
            // Started since the failed request.
            ContainerStatus::Running => self.main.resize(size).await,
            ContainerStatus::Exited => Err(ended().with_source(error)),
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the process has ended")
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.with_context(self.resize_now(size)).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.with_context(self.main.kill(signal)).await
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
