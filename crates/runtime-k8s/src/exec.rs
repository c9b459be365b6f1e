//! Commands in a running container.
//!
//! The API server hands a session on to the node, whose engine makes the process when its streams
//! are open. Neither says that the process runs: one that has neither said anything nor failed
//! within a moment is taken for running. The end of a session does not end its process, and there is
//! no call that would.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Capability, Error, ExecExit, ExecOptions, Operation, Result, ResultExt as _, Session,
    SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::session::{self, About, End, Output, Streams, Terminal};
use runtime_support::{check_exec, exec_command};
use spdy_client::remote_command;

use crate::BACKEND;
use crate::container::KubernetesContainer;
use crate::names::CONTAINER;

/// See [`Container::exec`](runtime_core::Container::exec).
pub(crate) async fn open(container: &KubernetesContainer, options: ExecOptions) -> Result<Session> {
    check_exec(&options)?;
    let command = exec_command(&options, &container.shared.capabilities)?;
    container.must_run().await?;
    match begin(container, options.mode, &command).await {
        Ok(session) => Ok(session),
        Err(error) => Err(container.not_opened(error).await),
    }
}

async fn begin(
    container: &KubernetesContainer,
    mode: SessionMode,
    command: &[String],
) -> Result<Session> {
    let (stdin, size) = match mode {
        SessionMode::Terminal(size) => (true, Some(size)),
        mode => (mode == SessionMode::Stdin, None),
    };
    let tty = size.is_some();
    let asked = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let mut query = vec![("container", CONTAINER)];
    query.extend(command.iter().map(|word| ("command", word.as_str())));
    let client = &container.shared.client;
    let transport = client.session(&container.pod_name, "exec", &query, asked).await?;
    let settle = |outcome| std::future::ready(session::settle(outcome));
    let mut streams = session::open(
        transport,
        about(container, Operation::Exec),
        settle,
        std::future::pending(),
        std::future::ready(()),
    );
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // When it is not taken any more, the outcome says why.
        let _ = terminal.resize(size).await;
    }
    let unseen = None::<fn() -> Result<Option<()>>>;
    session::until_started(&mut streams, unseen).await?;
    Ok(assemble(container, Operation::Exec, Capability::ExecSignal, streams))
}

/// What a session is about.
pub(crate) fn about(container: &KubernetesContainer, operation: Operation) -> About {
    About {
        backend: BACKEND,
        operation,
        container: runtime_core::Container::name(container).to_owned(),
        closed: container.shared.closed.clone(),
    }
}

/// The session of these streams. Signals take a capability that is not there.
pub(crate) fn assemble(
    container: &KubernetesContainer,
    operation: Operation,
    signals: Capability,
    streams: Streams,
) -> Session {
    let Streams { stdin, stdout, stderr, terminal, end, .. } = streams;
    let control = Control { about: about(container, operation), signals, terminal, end };
    Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        Arc::new(control),
    )
}

struct Control {
    about: About,
    /// The capability that a signal would take.
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
