//! See [`Container::exec`](runtime_core::Container::exec).
//!
//! The engine responds to an exec with a URL, and creates the process when the streams are open
//! there. It reports neither the start of the process nor its PID. If the container is visible on
//! this host, both are looked up there. Otherwise a process that has neither written nor failed
//! within a short time counts as started.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Capability, Error, ErrorKind, ExecExit, ExecOptions, Operation, Result, ResultExt, Session,
    SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use runtime_support::session::{self, About, End, Output, Streams, Terminal, until_started};
use runtime_support::{exec_command, within};
use spdy_client::remote_command::{self, Outcome};
use tokio::sync::watch;

use crate::BACKEND;
use crate::client::streaming;
use crate::generated as cri;
use crate::host::exec_process::{ExecProcess, ExecProcessLookup};
use crate::host::peer::readable;
use crate::model::container::CriContainer;
use crate::model::info::require_running;
use crate::ops::kill;
use crate::state::CriBackend;
use crate::state::connection::Connection;
use crate::state::inspect::{self, status_and_pid};

/// Runs a command in a running container. If the caller is dropped, so is the session, which kills
/// the process.
pub(crate) async fn exec(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: ExecOptions,
) -> Result<Session> {
    let context = &backend.connection.context;
    let command = exec_command(&options, &context.capabilities)?;
    let (in_task, container) = (Arc::clone(backend), container.clone());
    let deadline = context.deadlines.start;
    let opened = async move {
        within(Operation::Exec, deadline, open(&in_task, &container, &options, command)).await
    };
    context.finish(opened).await
}

/// Receiver of the process of an exec.
type Found = watch::Receiver<Option<Arc<ExecProcess>>>;

async fn open(
    backend: &Arc<CriBackend>,
    container: &CriContainer,
    options: &ExecOptions,
    command: Vec<String>,
) -> Result<Session> {
    let connection = &backend.connection;
    let context = &connection.context;
    let (stdin, size) = match options.mode {
        SessionMode::Terminal(size) => (true, Some(size)),
        mode => (mode == SessionMode::Stdin, None),
    };
    let tty = size.is_some();
    let lock = container.annotations.exec_lock().filter(|_| context.capabilities.exec_signal);
    let lock = match lock {
        Some(lock) => backend.exec_locks.acquire(&container.id, lock).await,
        None => None,
    };
    let (status, pid) = status_and_pid(connection, Operation::Exec, &container.id).await?;
    require_running(&status)?;
    let lookup = lock.as_ref().and(pid).map(|pid| ExecProcessLookup::new(pid, &container.id));
    let mut lookup = lookup.and_then(|lookup| {
        lookup
            .inspect_err(
                |error| tracing::debug!(%error, "failed to prepare the lookup of the process"),
            )
            .ok()
    });
    let request = cri::ExecRequest {
        container_id: container.id.to_string(),
        cmd: command,
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    let url = match connection.call(Operation::Exec, request).await {
        Ok(response) => response.url,
        Err(error) => return Err(not_opened(connection, container, error).await),
    };
    let requested = remote_command::Streams::outputs().stdin(stdin).stderr(!tty).tty(tty);
    let session = streaming::connect(&url, requested).await?;
    let about = About {
        backend: BACKEND,
        operation: Operation::Exec,
        container: container.id.to_string(),
        closed: context.closed.clone(),
    };
    let (finder, found) = watch::channel(None);
    let mut streams =
        session::open(session, about, settled, gone(found.clone()), kill_found(found.clone()));
    if let (Some(size), Some(terminal)) = (size, &streams.terminal) {
        // The server keeps the size until there is a terminal. If this fails, the session has
        // ended, and its outcome has the reason.
        let _ = terminal.resize(size).await;
    }
    let find = lookup.as_mut().map(|lookup| {
        || {
            lookup.find(&options.command).map_err(|error| {
                Error::internal("failed to list the processes of the container").with_source(error)
            })
        }
    });
    let mut started = until_started(&mut streams, find).await;
    drop(lock);
    if started.is_ok() && connection.engine.is_crio() {
        match written_failure(&mut streams).await {
            Some(Ok(exit)) => streams = streams.ended(exit),
            Some(Err(error)) => started = Err(error),
            None => {}
        }
    }
    match started {
        Ok(process) => finder.send_replace(process.map(Arc::new)),
        Err(error) => return Err(not_opened(connection, container, error).await),
    };
    let Streams { stdin, stdout, stderr, terminal, end, .. } = streams;
    let control = Control {
        backend: Arc::clone(backend),
        container: container.clone(),
        terminal,
        found,
        end,
    };
    Ok(Session::new(
        stdin.map(|stdin| Box::new(stdin) as Box<dyn SessionInput>),
        stdout.boxed(),
        stderr.map(Output::boxed),
        Arc::new(control),
    ))
}

/// Exit code of runc for a process that it failed to execute.
const RUNC_FAILED_CODE: i32 = 255;

/// Returns the result of a failed start that CRI-O reports as output and exit code of runc. Any
/// other output or exit code is that of the process.
async fn written_failure(streams: &mut Streams) -> Option<Result<ExecExit>> {
    let has_failed = matches!(streams.end.seen(), Some(Ok(ExecExit { code: RUNC_FAILED_CODE })));
    let output = match &mut streams.stderr {
        Some(stderr) => stderr,
        None => &mut streams.stdout,
    };
    if !has_failed || !output.peek().await {
        return None;
    }
    failure_of_runc(&String::from_utf8_lossy(output.peeked()?))
}

/// Returns the result for a log line of runc about a start: the process failed to execute, or was
/// killed before.
fn failure_of_runc(text: &str) -> Option<Result<ExecExit>> {
    let is_of_runc = text.contains("level=error") || text.starts_with("exec failed");
    if !is_of_runc {
        return None;
    }
    let killed = runtime_support::killed_at_start(text).map(Ok);
    killed.or_else(|| session::exec_start_failure(text.trim()).map(Err))
}

/// Replaces the error of a start by the state of the container, if that is not running.
async fn not_opened(connection: &Connection, container: &CriContainer, error: Error) -> Error {
    if error.kind() == ErrorKind::InvalidArgument {
        return error;
    }
    match inspect::status(connection, Operation::Exec, &container.id).await {
        Ok(status) => match require_running(&status) {
            Err(state) => state.with_source(error),
            Ok(()) => error,
        },
        Err(_) => error,
    }
}

async fn settled(outcome: std::result::Result<Outcome, remote_command::Error>) -> Result<ExecExit> {
    session::settle(outcome)
}

/// Completes when the process has ended, if it was found.
async fn gone(mut found: Found) {
    let process = match found.wait_for(Option::is_some).await {
        Ok(process) => process.clone(),
        Err(_) => None,
    };
    if let Some(process) = process
        && let Ok(fd) = std::os::fd::AsFd::as_fd(&*process).try_clone_to_owned()
        && let Ok(fd) = readable(Arc::new(fd))
        && fd.readable().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Kills the process of a dropped session, if it was found.
async fn kill_found(found: Found) {
    let process = found.borrow().clone();
    if let Some(process) = process
        && let Err(error) = process.signal(Signal::KILL).await
    {
        tracing::debug!(%error, "failed to kill the process of a dropped session");
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the process has ended")
}

struct Control {
    backend: Arc<CriBackend>,
    container: CriContainer,
    /// `None` without a terminal.
    terminal: Option<Arc<dyn Terminal>>,
    found: Found,
    end: End,
}

impl Control {
    async fn send(&self, signal: Signal) -> Result<()> {
        self.backend.connection.context.capabilities.require(Capability::ExecSignal)?;
        if self.end.is_over() {
            return Err(ended());
        }
        let found = self.found.borrow().clone();
        let process =
            found.ok_or_else(|| Error::internal("the process of the session was not found"))?;
        if process.signal(signal).await.map_err(kill::refused)? { Ok(()) } else { Err(ended()) }
    }
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        session::resize(self.terminal.as_deref(), &self.end, size)
            .await
            .during(Operation::Exec)
            .on(BACKEND)
            .about(&self.container.id)
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.send(signal).await.during(Operation::Exec).on(BACKEND).about(&self.container.id)
    }

    async fn wait(&self) -> Result<ExecExit> {
        self.end.wait().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_of_runc_is_a_start_failure() {
        let line = "time=\"2026-11-30T10:00:00Z\" level=error msg=\"exec failed: unable to start \
                    container process: exec: \\\"no-such\\\": executable file not found in $PATH\"\n";
        let error = failure_of_runc(line).unwrap().unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("command")));
        let plain =
            "exec failed: unable to start container process: exec: \"/etc\": is a directory";
        assert!(failure_of_runc(plain).is_some());
        let killed = "exec failed: unable to start container process: read init-p: connection reset \
                      by peer (possibly OOM-killed)";
        assert_eq!(failure_of_runc(killed).unwrap().unwrap(), ExecExit { code: 137 });
        for text in ["", "error: exec failed", "sh: no-such: not found", "level=error msg=\"x\""] {
            assert!(failure_of_runc(text).is_none(), "{text}");
        }
    }
}
