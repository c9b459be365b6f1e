//! Logs: the engine's log as a source of chunks that can be opened again and again.

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

use crate::client::http::Call;
use crate::error::{BACKEND, cut_off};
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
    let turns = follow && (backend.engine.is_podman() || rotates(backend, container).await?);
    Ok(EngineLog {
        backend: Arc::clone(backend),
        container: container.clone(),
        terminal: has_terminal(backend, container).await?,
        turns,
        bell: Arc::default(),
    })
}

/// Whether the main process is on a terminal. The engine is inspected once for a container that this
/// process did not create.
async fn has_terminal(backend: &DockerBackend, container: &DockerContainer) -> Result<bool> {
    if let Some(terminal) = container.state.terminal.get() {
        return Ok(*terminal);
    }
    let inspect = backend.inspect(Operation::Logs, &container.id).await?;
    Ok(*container.state.terminal.get_or_init(|| inspect.config.tty))
}

/// Whether the engine deletes old parts of the log. The engine is inspected once.
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
    /// Whether a log that is followed is read in turns, each without following.
    ///
    /// Docker's own follow loses lines, or gives them twice, each time the engine rotates the log:
    /// its reader is told of a rotation in passing, and of two in a short time it misses one
    /// (moby#23913 and those after it). What is read without following is whole in every release.
    /// Podman 4.3 loses lines of a log that it follows if the reader is slow or not the only one.
    turns: bool,
    /// A followed log without what is there, which shows that something was written. Its content
    /// is not used.
    bell: Arc<Mutex<Option<Pieces>>>,
}

/// After so many turns with nothing new the engine is asked to ring for the next one.
const TURNS_BEFORE_BELL: u32 = 3;

/// How long a turn waits for the bell. The follow of an engine can be stuck after a rotation.
const LONGEST_SILENCE_OF_BELL: Duration = Duration::from_secs(3);

impl EngineLog {
    /// Opens the log, with a time before each message or without.
    async fn ask(&self, from: OpenLog, times: bool) -> Result<Pieces> {
        let mut call =
            Call::get(Operation::Logs, format!("/containers/{}/logs", self.container.id))
                .query("stdout", 1)
                .query("stderr", 1);
        if times {
            call = call.query("timestamps", 1);
        }
        let follows = from.follow;
        if follows {
            call = call.query("follow", 1);
        }
        if let Some(since) = from.since {
            call = call.query("since", to_query(since));
        }
        if let Some(tail) = from.tail {
            call = call.query("tail", tail);
        }
        let answer = self.backend.open(Operation::Logs, call).await.map_err(unreadable);
        let answer = answer.about(&self.container.id)?;
        Ok(Pieces {
            body: Some(answer.into_body()),
            // One that is followed is silent for as long as the container is.
            longest_silence: (!follows).then_some(self.backend.deadlines().pull_inactivity),
            silence: None,
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
        let from = OpenLog { follow: from.follow && !self.turns, ..from };
        Ok(Chunks { pieces: self.ask(from, true).await?, demux: Demux::new(framing, cut) })
    }

    fn follows(&self) -> bool {
        !self.turns
    }

    async fn changed(&self, last: Turn) {
        if last.dry < TURNS_BEFORE_BELL || self.backend.engine.is_podman() {
            return sleep(last.pause()).await;
        }
        let mut bell = self.bell.lock().await;
        let Some(ringing) = &mut *bell else {
            let open = OpenLog { tail: Some(0), follow: true, since: None };
            match self.ask(open, false).await {
                // The next turn reads what was written before it was there.
                Ok(opened) => *bell = Some(opened),
                Err(error) => {
                    tracing::debug!(%error, container = %self.container.id, "no bell for a followed log");
                    sleep(last.pause()).await;
                }
            }
            return;
        };
        let rung = poll_fn(|cx| ringing.poll(cx));
        if let Ok(rung) = timeout(LONGEST_SILENCE_OF_BELL, rung).await {
            *bell = None;
            if !matches!(rung, Ok(Some(_))) {
                // It was cut off, and would be again.
                sleep(last.pause()).await;
            }
        }
    }

    async fn status(&self) -> Result<ContainerStatus> {
        // Podman forgets a start that failed.
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

    /// Podman 4.3 garbles lines in pieces when it is asked for the last ones: it appends them to
    /// the line before, of whatever stream.
    fn has_tail(&self) -> bool {
        !self.backend.engine.is_podman()
    }

    /// Both engines keep only so much of a log where they are told so (`max-size`).
    fn thrown_away(&self, after: SystemTime) -> Option<Error> {
        let after = to_query(after);
        let error = Error::new(ErrorKind::Lost).with_message(format!(
            "the engine has thrown away what stood in the log at {after} (seconds since 1970), and \
             lines after it may be lost"
        ));
        Some(error.during(Operation::Logs).on(BACKEND).about(&self.container.id))
    }
}

/// The time to request a log from, if its records from `time` on are wanted. `None`: from the start.
///
/// Docker gives the pieces of a line the time of the first, so that no line is cut by a time. Podman
/// gives each its own, and leaves out the piece of exactly the requested time: there, from the start
/// on is the only sure way. A Podman that returns whole seconds compares exactly, so that only it can
/// decide on a time that is not its own.
fn open_since(engine: &Engine, time: SystemTime) -> Option<SystemTime> {
    let whole = time.duration_since(UNIX_EPOCH).is_ok_and(|since| since.subsec_nanos() == 0);
    let decides = !engine.has_exact_log_times() && !whole;
    (!engine.is_podman() || decides).then_some(time)
}

/// A log driver that only writes.
fn unreadable(error: Error) -> Error {
    if error.message().is_some_and(|message| message.contains("does not support reading")) {
        return Error::unsupported(Capability::Logs).with_source(error);
    }
    error
}

/// The body of one open log. Dropping it closes the connection.
struct Pieces {
    /// `None` after the end.
    body: Option<Incoming>,
    longest_silence: Option<Duration>,
    /// Runs while the engine is waited for: the time that the reader's caller takes is its own.
    silence: Option<Pin<Box<Sleep>>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    id: ContainerId,
}

impl Pieces {
    /// The next bytes; `None` at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence = None;
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Poll::Ready(Some(Err(source))) => {
                    let by_us = self.closed.as_mut().poll(cx).is_ready();
                    return Poll::Ready(Err(if by_us { closed() } else { cut_off(source) }));
                }
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    if self.closed.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(closed()));
                    }
                    return self.poll_silence(cx).map(Err);
                }
            }
        }
    }

    /// The error of an engine that has said nothing for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(longest) = self.longest_silence else { return Poll::Pending };
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(longest)));
        ready!(silence.as_mut().poll(cx));
        let why = format!("the engine has said nothing for {longest:?}");
        Poll::Ready(Error::new(ErrorKind::Timeout).with_message(why))
    }

    /// Ends it with an error.
    fn fail(&mut self, error: Error) -> Error {
        self.body = None;
        error.during(Operation::Logs).on(BACKEND).about(&self.id)
    }
}

/// The chunks of one open log.
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
    fn podman_is_asked_from_the_start_for_a_time_that_may_be_its_own() {
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
