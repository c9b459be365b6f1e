//! Reads the log of a container. The engine's log is a source of chunks that can be reopened.

mod raw;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Incoming};
use runtime_core::{
    Capability, Chunk, ContainerId, ContainerStatus, Error, ErrorKind, ExitReason, Follow,
    LogOptions, LogReader, Operation, RawLogs, Result, ResultExt,
};
use runtime_support::backend::closed;
use runtime_support::follow::{LogSource, OpenLog, Turn, read_log};
use tokio::sync::Mutex;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::client::http::ApiRequest;
use crate::error::{BACKEND, connection_lost};
use crate::model::demux::{Cut, Demux, Framing};
use crate::model::engine::Engine;
use crate::model::time::to_query;
use crate::state::{DockerBackend, DockerContainer};

/// Opens the log of a container.
pub(crate) async fn logs(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    options: LogOptions,
) -> Result<LogReader> {
    let log = source(backend, container, options.follow == Follow::Yes).await?;
    read_log(log, options).await
}

/// Opens the log of a container without timestamps.
pub(crate) async fn raw_logs(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
) -> Result<RawLogs> {
    let log = source(backend, container, false).await?;
    // A terminal's log has no frames that mark the errors of the engine.
    if log.terminal || backend.engine.is_podman() {
        return Ok(read_log(log, LogOptions::default()).await?.into_raw());
    }
    raw::open(log).await
}

async fn source(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    follow: bool,
) -> Result<EngineLog> {
    let polls = follow && (backend.engine.is_podman() || rotates(backend, container).await?);
    Ok(EngineLog {
        backend: Arc::clone(backend),
        container: container.clone(),
        terminal: has_terminal(backend, container).await?,
        polls,
        trigger: Arc::default(),
    })
}

/// Returns `true` if the main process is on a terminal. The engine is inspected once for a container
/// that this process did not create.
async fn has_terminal(backend: &DockerBackend, container: &DockerContainer) -> Result<bool> {
    if let Some(terminal) = container.state.terminal.get() {
        return Ok(*terminal);
    }
    let inspect = backend.inspect(Operation::Logs, &container.id).await?;
    Ok(*container.state.terminal.get_or_init(|| inspect.config.tty))
}

/// Returns `true` if the engine deletes old parts of the log. The engine is inspected once.
async fn rotates(backend: &DockerBackend, container: &DockerContainer) -> Result<bool> {
    if let Some(rotates) = container.state.log_rotates.get() {
        return Ok(*rotates);
    }
    let inspect = backend.inspect(Operation::Logs, &container.id).await?;
    let _ = container.state.terminal.set(inspect.config.tty);
    Ok(*container.state.log_rotates.get_or_init(|| inspect.host_config.log_config.rotates()))
}

#[derive(Clone)]
struct EngineLog {
    backend: Arc<DockerBackend>,
    container: DockerContainer,
    terminal: bool,
    /// `true` if a followed log is polled by requests without `follow`.
    ///
    /// Docker's `follow` loses or repeats lines when the engine rotates the log, because its reader
    /// can miss one of two rotations in a short time (moby#23913 and later issues). Without
    /// `follow` the log is complete in every release. Podman 4.3 loses lines with `follow` if the
    /// reader is slow, or not the only one.
    polls: bool,
    /// A `follow` request for new lines, which triggers the next poll. Its content is not used.
    trigger: Arc<Mutex<Option<Pieces>>>,
}

/// The number of polls without new lines after which the trigger is opened.
const DRY_POLLS_BEFORE_TRIGGER: u32 = 3;

/// How long to wait for the trigger, because `follow` can hang after a rotation.
const TRIGGER_TIMEOUT: Duration = Duration::from_secs(3);

impl EngineLog {
    /// Requests the log, with or without a time before each message.
    async fn request(&self, from: OpenLog, times: bool) -> Result<Pieces> {
        let mut request =
            ApiRequest::get(Operation::Logs, format!("/containers/{}/logs", self.container.id))
                .query("stdout", 1)
                .query("stderr", 1);
        if times {
            request = request.query("timestamps", 1);
        }
        let follows = from.follow;
        if follows {
            request = request.query("follow", 1);
        }
        if let Some(since) = from.since {
            request = request.query("since", to_query(since));
        }
        if let Some(tail) = from.tail {
            request = request.query("tail", tail);
        }
        let response = self.backend.open(Operation::Logs, request).await.map_err(unreadable);
        let response = response.about(&self.container.id)?;
        Ok(Pieces {
            body: Some(response.into_body()),
            // A followed log can be idle for any time.
            idle_timeout: (!follows).then_some(self.backend.deadlines().pull_inactivity),
            idle: None,
            closed: Box::pin(self.backend.http.closed_token().clone().cancelled_owned()),
            id: self.container.id.clone(),
        })
    }
}

#[async_trait]
impl LogSource for EngineLog {
    type Chunks = Chunks;

    async fn open(&self, from: OpenLog) -> Result<Chunks> {
        let framing = if self.terminal { Framing::Terminal } else { Framing::Frames };
        let cut = if self.backend.engine.is_podman() { Cut::Anywhere } else { Cut::DOCKER };
        let from = OpenLog { follow: from.follow && !self.polls, ..from };
        Ok(Chunks { pieces: self.request(from, true).await?, demux: Demux::new(framing, cut) })
    }

    fn follows(&self) -> bool {
        !self.polls
    }

    async fn changed(&self, last: Turn) {
        if last.dry < DRY_POLLS_BEFORE_TRIGGER || self.backend.engine.is_podman() {
            return sleep(last.pause()).await;
        }
        let mut trigger = self.trigger.lock().await;
        let Some(open) = &mut *trigger else {
            let from = OpenLog { tail: Some(0), follow: true, since: None };
            match self.request(from, false).await {
                // The next poll reads the lines from before the trigger.
                Ok(opened) => *trigger = Some(opened),
                Err(error) => {
                    tracing::debug!(%error, container = %self.container.id, "failed to open the trigger of a followed log");
                    sleep(last.pause()).await;
                }
            }
            return;
        };
        let triggered = poll_fn(|cx| open.poll(cx));
        if let Ok(triggered) = timeout(TRIGGER_TIMEOUT, triggered).await {
            *trigger = None;
            if !matches!(triggered, Ok(Some(_))) {
                // The trigger was lost. It would be lost again without a pause.
                sleep(last.pause()).await;
            }
        }
    }

    async fn status(&self) -> Result<ContainerStatus> {
        // Podman does not record a failed start.
        if self.container.state.exit().is_some() {
            return Ok(ContainerStatus::Exited);
        }
        Ok(self.backend.inspect(Operation::Logs, &self.container.id).await?.status())
    }

    async fn ended(&self) -> Result<()> {
        self.backend.exits.wait(&self.container.id).await.map(drop)
    }

    async fn ended_by_removal(&self) -> bool {
        match self.backend.exits.wait(&self.container.id).await {
            Ok(exit) => exit.reason == ExitReason::Removed,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        open_since(&self.backend.engine, time)
    }

    fn resolution(&self) -> Duration {
        if self.backend.engine.has_exact_log_times() {
            Duration::from_nanos(1)
        } else {
            Duration::from_secs(1)
        }
    }

    /// `tail` of Podman 4.3 corrupts split lines: it appends the pieces to the previous line, of
    /// any stream.
    fn has_tail(&self) -> bool {
        !self.backend.engine.is_podman()
    }

    /// Both engines delete the start of a log at a size limit (`max-size`).
    fn thrown_away(&self, after: SystemTime) -> Option<Error> {
        let after = to_query(after);
        let error = Error::new(ErrorKind::Lost).with_message(format!(
            "the engine has deleted the log at {after} (seconds since 1970), so lines after it may be \
             lost"
        ));
        Some(error.during(Operation::Logs).on(BACKEND).about(&self.container.id))
    }
}

/// Returns the `since` of a request for the records from `time` on, `None` for the whole log.
///
/// On Docker all pieces of a line have the time of the first one, so a line is never split by a
/// time. On Podman each piece has its own time, and the piece at exactly the requested time is
/// omitted. Therefore the whole log is requested, unless the log's times are whole seconds and
/// `time` is not.
fn open_since(engine: &Engine, time: SystemTime) -> Option<SystemTime> {
    let whole = time.duration_since(UNIX_EPOCH).is_ok_and(|since| since.subsec_nanos() == 0);
    let differs = !engine.has_exact_log_times() && !whole;
    (!engine.is_podman() || differs).then_some(time)
}

/// Maps the engine's error of a log driver without reading to `Unsupported`.
fn unreadable(error: Error) -> Error {
    if error.message().is_some_and(|message| message.contains("does not support reading")) {
        return Error::unsupported(Capability::Logs).with_source(error);
    }
    error
}

/// The body of an open log. Dropping it closes the connection.
struct Pieces {
    /// `None` after the end.
    body: Option<Incoming>,
    idle_timeout: Option<Duration>,
    /// Runs while waiting for the engine, and not while the caller processes a record.
    idle: Option<Pin<Box<Sleep>>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    id: ContainerId,
}

impl Pieces {
    /// Polls the next bytes, `None` at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle = None;
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Poll::Ready(Some(Err(source))) => {
                    let is_closed = self.closed.as_mut().poll(cx).is_ready();
                    return Poll::Ready(Err(if is_closed {
                        closed()
                    } else {
                        connection_lost(source)
                    }));
                }
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    if self.closed.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(closed()));
                    }
                    return self.poll_idle(cx).map(Err);
                }
            }
        }
    }

    /// Returns `Timeout` if the engine has sent nothing for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(timeout) = self.idle_timeout else { return Poll::Pending };
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(idle.as_mut().poll(cx));
        let message = format!("the engine has sent nothing for {timeout:?}");
        Poll::Ready(Error::new(ErrorKind::Timeout).with_message(message))
    }

    /// Closes the log after an error, and adds the context to the error.
    fn fail(&mut self, error: Error) -> Error {
        self.body = None;
        error.during(Operation::Logs).on(BACKEND).about(&self.id)
    }
}

/// The chunks of an open log.
pub(crate) struct Chunks {
    pieces: Pieces,
    demux: Demux,
}

impl Chunks {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>>> {
        loop {
            if let Some(chunk) = self.demux.pop()? {
                return Poll::Ready(Ok(Some(chunk)));
            }
            match ready!(self.pieces.poll(cx))? {
                Some(piece) => self.demux.push(piece),
                None => return Poll::Ready(self.demux.finish()),
            }
        }
    }
}

impl Stream for Chunks {
    type Item = Result<Chunk>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let chunk = ready!(this.poll_chunk(cx));
        Poll::Ready(chunk.map_err(|error| this.pieces.fail(error)).transpose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded;

    #[test]
    fn open_since_on_podman_is_start_for_ambiguous_time() {
        let whole = UNIX_EPOCH + Duration::from_secs(1_796_023_976);
        let exact = whole + Duration::from_nanos(375_835_605);
        let (docker, old) = (recorded::docker(), recorded::podman());
        let new = recorded::podman_release("5.8.6");
        let of = |engine| [whole, exact].map(|time| open_since(engine, time));
        assert_eq!(of(&docker), [Some(whole), Some(exact)]);
        assert_eq!(of(&old), [None, Some(exact)]);
        assert_eq!(of(&new), [None, None]);
    }
}
