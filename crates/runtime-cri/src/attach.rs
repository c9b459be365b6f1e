//! Sessions with the main process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    AttachOptions, Capability, ContainerStatus, Error, ErrorKind, ExecExit, Operation, Result,
    ResultExt, Session, SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::session::{self, About, End, Output, Streams, Terminal};
use runtime_support::{main_exit, within};
use spdy_client::remote_command;

use crate::BACKEND;
use crate::container::CriContainer;
use crate::generated as cri;
use crate::info;
use crate::kill;
use crate::streaming;

/// How long after the end of its session a process may take to end. The engine gives both at
/// nearly the same time.
const EXIT: Duration = Duration::from_secs(10);

/// See [`Container::attach`](runtime_core::Container::attach).
pub(crate) async fn attach(container: &CriContainer, options: AttachOptions) -> Result<Session> {
    let shared = &container.shared;
    let status = container.status(Operation::Attach).await?;
    let invalid = |why: &str| Err(Error::new(ErrorKind::InvalidState).with_message(why));
    let status = info::status(status.state());
    if status == ContainerStatus::Exited {
        return invalid("the container has ended");
    }
    let (open, tty) = (container.notes.stdin, container.notes.terminal);
    let (stdin, size) = match options.mode {
        SessionMode::Stdin if tty => return invalid("the container was made for a terminal"),
        SessionMode::Stdin if !open => return invalid("the container has no standard input"),
        SessionMode::Terminal(_) if !tty => return invalid("the container has no terminal"),
        SessionMode::Stdin => (true, None),
        SessionMode::Terminal(size) => (open, Some(size)),
        _ => (false, None),
    };
    if status == ContainerStatus::Created {
        // The engine attaches to what runs, and only from then on.
        return Err(container.lacks(Capability::AttachCreated, Operation::Attach));
    }
    let request = cri::AttachRequest {
        container_id: container.id.to_string(),
        stdin,
        tty,
        stdout: true,
        stderr: !tty,
    };
    let asked = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let session = within(Operation::Attach, shared.deadlines.query, async {
        let address = shared.ask(Operation::Attach, request).await?.url;
        streaming::connect(&address, asked).await
    })
    .await?;
    let about = About {
        backend: BACKEND,
        operation: Operation::Attach,
        container: container.id.to_string(),
        closed: shared.closed.clone(),
    };
    let ended = container.clone();
    // The server's outcome says nothing of the process.
    let settle = |_| async move { main_exit(ended.shared.exits.wait(&ended.id), EXIT).await };
    let nothing = std::future::ready(());
    let streams = session::open(session, about, settle, std::future::pending(), nothing);
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // When it is not taken any more, the outcome says why.
        let _ = terminal.resize(size).await;
    }
    let Streams { stdin, stdout, stderr, terminal, end, .. } = streams;
    let control = Arc::new(Control { container: container.clone(), terminal, end });
    Ok(Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        control,
    ))
}

struct Control {
    container: CriContainer,
    /// Only where there is a terminal.
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
            self.container.require(Capability::Kill, Operation::Attach)?;
            kill::send(&self.container, signal).await
        };
        sent.await.during(Operation::Attach).on(BACKEND).about(&self.container.id)
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
