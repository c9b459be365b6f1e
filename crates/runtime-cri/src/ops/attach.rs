//! See [`Container::attach`](runtime_core::Container::attach).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    AttachOptions, Capability, ContainerStatus, Error, ErrorKind, ExecExit, Operation, Result,
    ResultExt, Session, SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::main_exit;
use runtime_support::session::{self, About, End, Output, Streams, Terminal};
use spdy_client::remote_command;

use crate::BACKEND;
use crate::client::streaming;
use crate::generated as cri;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::ops::kill;
use crate::state::CriBackend;
use crate::state::inspect;

/// Deadline for the exit of the process after the end of its session. The engine reports both at
/// nearly the same time.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);

/// Attaches to the main process of a running container.
pub(crate) async fn attach(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: AttachOptions,
) -> Result<Session> {
    let connection = &backend.connection;
    let status = inspect::status(connection, Operation::Attach, &container.id).await?;
    let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidState).with_message(message));
    let status = info::status(status.state());
    if status == ContainerStatus::Exited {
        return invalid("the container has ended");
    }
    let (open, tty) = (container.annotations.stdin, container.annotations.terminal);
    let (stdin, size) = match options.mode {
        SessionMode::Stdin if tty => return invalid("the container has a terminal"),
        SessionMode::Stdin if !open => return invalid("the container has no stdin"),
        SessionMode::Terminal(_) if !tty => return invalid("the container has no terminal"),
        SessionMode::Stdin => (true, None),
        SessionMode::Terminal(size) => (open, Some(size)),
        _ => (false, None),
    };
    if status == ContainerStatus::Created {
        // The engine attaches only to a running container.
        return Err(Error::unsupported(Capability::AttachCreated));
    }
    let request = cri::AttachRequest {
        container_id: container.id.to_string(),
        stdin,
        tty,
        stdout: true,
        stderr: !tty,
    };
    let requested = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let url = connection.call(Operation::Attach, request).await?.url;
    let session = streaming::connect(&url, requested).await?;
    let about = About {
        backend: BACKEND,
        operation: Operation::Attach,
        container: container.id.to_string(),
        closed: connection.context.closed.clone(),
    };
    let (ended, id) = (Arc::clone(backend), container.id.clone());
    // The outcome of the server does not have the exit code of the process.
    let settle = |_| async move { main_exit(ended.exits.wait(&id), EXIT_DEADLINE).await };
    let nothing = std::future::ready(());
    let streams = session::open(session, about, settle, std::future::pending(), nothing);
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // If this fails, the session has ended, and its outcome has the reason.
        let _ = terminal.resize(size).await;
    }
    let Streams { stdin, stdout, stderr, terminal, end, .. } = streams;
    let control = Arc::new(Control {
        backend: Arc::clone(backend),
        container: container.clone(),
        terminal,
        end,
    });
    Ok(Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        control,
    ))
}

struct Control {
    backend: Arc<CriBackend>,
    container: CriContainer,
    /// `None` without a terminal.
    terminal: Option<Arc<dyn Terminal>>,
    end: End,
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        session::resize(self.terminal.as_deref(), &self.end, size)
            .await
            .during(Operation::Attach)
            .on(BACKEND)
            .about(&self.container.id)
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let sent = async {
            let connection = &self.backend.connection;
            connection.context.capabilities.require(Capability::Kill)?;
            kill::send(connection, &self.container, signal).await
        };
        sent.await.during(Operation::Attach).on(BACKEND).about(&self.container.id)
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
