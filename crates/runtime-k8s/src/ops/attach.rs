//! Attaches to the main process.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    AttachOptions, Capability, Error, ErrorKind, Operation, Result, Session, SessionMode,
};
use runtime_support::{main_exit, session};
use spdy_client::remote_command;

use crate::model::container::KubernetesContainer;
use crate::model::labels::CONTAINER;
use crate::ops::exec::{about, assemble};
use crate::state::KubernetesBackend;

/// How long the cluster may take to report the exit after the end of a session. The node reports it
/// within a second or two.
const EXIT_REPORT_TIMEOUT: Duration = Duration::from_secs(15);

/// See [`Container::attach`](runtime_core::Container::attach).
pub(crate) async fn attach(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
    options: AttachOptions,
) -> Result<Session> {
    let invalid = |why: &str| Err(Error::new(ErrorKind::InvalidState).with_message(why));
    let running = backend.require_running(container).await;
    if let Err(error) = &running
        && error.kind() != ErrorKind::NotStarted
    {
        return Err(error.clone());
    }
    let made = container.spec();
    let (open, tty) = made.map_or((false, false), |made| (made.stdin, made.tty));
    let (stdin, size) = match options.mode {
        SessionMode::Stdin if tty => return invalid("the container was made for a terminal"),
        SessionMode::Stdin if !open => return invalid("the container has no standard input"),
        SessionMode::Terminal(_) if !tty => return invalid("the container has no terminal"),
        SessionMode::Stdin => (true, None),
        SessionMode::Terminal(size) => (open, Some(size)),
        _ => (false, None),
    };
    if running.is_err() {
        // A node attaches only to a running process.
        return Err(Error::unsupported(Capability::AttachCreated));
    }
    let requested = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let client = &backend.client;
    let query = [("container", CONTAINER)];
    let transport = match client.session(container.pod_name(), "attach", &query, requested).await {
        Ok(transport) => transport,
        Err(error) => return Err(backend.explain_unopened(container, error).await),
    };
    let (ended, watching) = (container.clone(), Arc::clone(backend));
    // The outcome of the server does not have the exit of the process.
    let settle =
        |_| async move { main_exit(watching.wait_ended(&ended), EXIT_REPORT_TIMEOUT).await };
    let streams = session::open(
        transport,
        about(backend, container, Operation::Attach),
        settle,
        std::future::pending(),
        std::future::ready(()),
    );
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // If the session has ended, its outcome has the reason.
        let _ = terminal.resize(size).await;
    }
    Ok(assemble(backend, container, Operation::Attach, Capability::Kill, streams))
}
