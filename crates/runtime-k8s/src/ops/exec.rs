//! Runs commands in a running container.
//!
//! The API server forwards a session to the node, whose engine starts the process when its streams
//! are open. Neither reports that the process runs, so a process without output or failure for a
//! moment is assumed to run. The end of a session does not end its process, and there is no call
//! that does.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Capability, Error, ExecExit, ExecOptions, Operation, Result, ResultExt as _, Session,
    SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::backend::ContainerRef as _;
use runtime_support::exec_command;
use runtime_support::session::{self, About, End, Output, Streams, Terminal};
use spdy_client::remote_command;

use crate::error::BACKEND;
use crate::model::container::KubernetesContainer;
use crate::model::labels::CONTAINER;
use crate::state::KubernetesBackend;

/// See [`Container::exec`](runtime_core::Container::exec).
pub(crate) async fn exec(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    options: ExecOptions,
) -> Result<Session> {
    let command = exec_command(&options, &backend.context.capabilities)?;
    backend.require_running(container).await?;
    match begin(backend, container, options.mode, &command).await {
        Ok(session) => Ok(session),
        Err(error) => Err(backend.explain_unopened(container, error).await),
    }
}

async fn begin(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    mode: SessionMode,
    command: &[String],
) -> Result<Session> {
    let (stdin, size) = match mode {
        SessionMode::Terminal(size) => (true, Some(size)),
        mode => (mode == SessionMode::Stdin, None),
    };
    let tty = size.is_some();
    let requested = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let mut query = vec![("container", CONTAINER)];
    query.extend(command.iter().map(|word| ("command", word.as_str())));
    let client = &backend.client;
    let transport = client.session(container.pod_name(), "exec", &query, requested).await?;
    let settle = |outcome| std::future::ready(session::settle(outcome));
    let mut streams = session::open(
        transport,
        about(backend, container, Operation::Exec),
        settle,
        std::future::pending(),
        std::future::ready(()),
    );
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // If the session has ended, its outcome has the reason.
        let _ = terminal.resize(size).await;
    }
    let unseen = None::<fn() -> Result<Option<()>>>;
    session::until_started(&mut streams, unseen).await?;
    Ok(assemble(backend, container, Operation::Exec, Capability::ExecSignal, streams))
}

/// Returns the context of the errors of a session.
pub(super) fn about(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    operation: Operation,
) -> About {
    About {
        backend: BACKEND,
        operation,
        container: container.id().to_string(),
        closed: backend.context.closed.clone(),
    }
}

/// Returns the session of these streams. Signals are refused with the capability `signals`.
pub(super) fn assemble(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    operation: Operation,
    signals: Capability,
    streams: Streams,
) -> Session {
    let Streams { stdin, stdout, stderr, terminal, end, .. } = streams;
    let control = Control { about: about(backend, container, operation), signals, terminal, end };
    Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        Arc::new(control),
    )
}

struct Control {
    about: About,
    /// The capability that a signal would require.
    signals: Capability,
    terminal: Option<Arc<dyn Terminal>>,
    end: End,
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        session::resize(self.terminal.as_deref(), &self.end, size)
            .await
            .during(self.about.operation)
            .on(BACKEND)
            .about(&self.about.container)
    }

    async fn signal(&self, _signal: Signal) -> Result<()> {
        Err(Error::unsupported(self.signals)
            .during(self.about.operation)
            .on(BACKEND)
            .about(&self.about.container))
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}
