//! Sessions: an upgraded connection, split into the streams of a process.
//!
//! One task reads the connection and sends the bytes to the streams by bounded channels. While one of
//! them is full, the connection is not read, and the process blocks as on a pipe. The task ends with
//! the session, or when all parts of the session are dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, future};
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runtime_core::{
    ByteStream, ContainerId, Error, ErrorKind, ExecExit, Operation, Result, ResultExt, SessionInput,
};
use runtime_support::backend::closed;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{BACKEND, connection_lost};
use crate::model::demux::Framing;
use crate::model::frames::{Frames, Kind, message};

/// The size of a read buffer, in bytes.
const READ_SIZE: usize = 64 << 10;

/// The capacity of a stream's channel, in pieces of at most [`READ_SIZE`] bytes.
const CHANNEL_CAPACITY: usize = 8;

/// How long after a reset of the connection the engine may take to report the exit code. If the
/// process is still running then, the session is lost.
const EXIT_AFTER_RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of the shutdown of a dropped input.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The subject of a session's errors, and the cancellation of the session.
#[derive(Debug, Clone)]
pub(crate) struct SessionContext {
    pub(crate) operation: Operation,
    pub(crate) container: ContainerId,
    pub(crate) closed: CancellationToken,
    /// `true` if bytes from before a reset of the connection are still read. They are on a Unix
    /// socket, and not on TCP.
    pub(crate) keeps_at_reset: bool,
}

impl SessionContext {
    fn error(&self, error: Error) -> Error {
        error.during(self.operation).on(BACKEND).about(&self.container)
    }
}

/// The parts of a session.
pub(crate) struct Streams {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Option<Output>,
    pub(crate) end: End,
}

impl Streams {
    /// Returns the session of a process that ended without output of its own.
    pub(crate) fn ended(mut self, exit: ExecExit) -> Self {
        let (_, outcome) = watch::channel(Some(Ok(exit)));
        if let Some(stdin) = &mut self.stdin {
            stdin.outcome = outcome.clone();
        }
        for output in [Some(&mut self.stdout), self.stderr.as_mut()].into_iter().flatten() {
            output.peeked = None;
            output.pieces.close();
            while output.pieces.try_recv().is_ok() {}
        }
        self.end.outcome = outcome;
        self
    }
}

/// Opens the streams of an upgraded connection.
///
/// After the last byte, `ended` checks that the process has ended, because the connection also ends
/// if the engine dies. The outputs end after that. The future that it returns gets the exit code.
/// If all parts of the session are dropped before, `abandoned` runs in its place.
pub(crate) async fn open<E: Future<Output = Result<ExecExit>> + Send + 'static>(
    response: Response<Incoming>,
    framing: Framing,
    stdin: bool,
    context: SessionContext,
    ended: impl Future<Output = Result<E>> + Send + 'static,
    abandoned: impl Future<Output = ()> + Send + 'static,
) -> Result<Streams> {
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::internal(format!(
            "failed to upgrade the connection: the engine returned {}",
            response.status()
        )));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(connection_lost)?;
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    let abandonment = CancellationToken::new();
    let guard = Arc::new(abandonment.clone().drop_guard());
    let (outcome_sender, outcome) = watch::channel(None);
    let (out_sender, out) = mpsc::channel(CHANNEL_CAPACITY);
    let (err_sender, err) = mpsc::channel(CHANNEL_CAPACITY);
    let frames = framing == Framing::Frames;
    let output = |pieces| Output { pieces, peeked: None, _guard: guard.clone() };
    let streams = Streams {
        stdin: stdin.then(|| Input {
            write: Some(write),
            context: context.clone(),
            outcome: outcome.clone(),
            is_lost: false,
            handle: Handle::current(),
            _guard: guard.clone(),
        }),
        stdout: output(out),
        stderr: frames.then(|| output(err)),
        end: End { outcome, context: context.clone(), _guard: guard.clone() },
    };
    let pump = Pump {
        read,
        frames: frames.then(Frames::default),
        buffer: BytesMut::new(),
        stdout: Some(out_sender),
        stderr: frames.then_some(err_sender),
    };
    tokio::spawn(async move {
        let work = pump.run(&context, ended, outcome_sender);
        tokio::select! {
            biased;
            () = work => {}
            () = abandonment.cancelled() => {
                // The close of the runtime does not end the process.
                let _ = context.closed.run_until_cancelled(abandoned).await;
            }
        }
    });
    Ok(streams)
}

/// The task that reads the connection.
struct Pump {
    read: ReadHalf<TokioIo<Upgraded>>,
    /// `None` on a terminal, where all bytes are output.
    frames: Option<Frames>,
    buffer: BytesMut,
    /// `None` after the reader was dropped.
    stdout: Option<mpsc::Sender<Result<Bytes>>>,
    stderr: Option<mpsc::Sender<Result<Bytes>>>,
}

impl Pump {
    async fn run<E: Future<Output = Result<ExecExit>>>(
        mut self,
        context: &SessionContext,
        ended: impl Future<Output = Result<E>>,
        outcome: watch::Sender<Option<Result<ExecExit>>>,
    ) {
        let mut reset = false;
        let whole = tokio::select! {
            biased;
            () = context.closed.cancelled() => Err(closed()),
            whole = async {
                reset = self.read_all(context.keeps_at_reset).await? == Close::Reset;
                ended.await
            } => whole,
        };
        let Self { read, stdout, stderr, .. } = self;
        let error = match whole {
            Ok(exit) => {
                drop((stdout, stderr));
                let exit = tokio::select! {
                    biased;
                    () = context.closed.cancelled() => Err(closed()),
                    exit = exit => exit,
                    () = tokio::time::sleep(EXIT_AFTER_RESET_TIMEOUT), if reset => {
                        Err(Error::new(ErrorKind::Lost).with_message("the connection of the session was lost"))
                    }
                };
                outcome.send_replace(Some(exit.map_err(|error| context.error(error))));
                drop(read);
                return;
            }
            Err(error) => context.error(error),
        };
        drop(read);
        outcome.send_replace(Some(Err(error.clone())));
        // Concurrently, because one of them may not be polled.
        let sent = [stdout, stderr].into_iter().flatten().map(async |stream| {
            let _ = stream.send(Err(error.clone())).await;
        });
        future::join_all(sent).await;
    }

    /// Reads to the end of the connection.
    ///
    /// A connection that is closed with unread input is reset. Podman does that if the process ends
    /// without reading all of its input.
    async fn read_all(&mut self, keeps_at_reset: bool) -> Result<Close> {
        let close = loop {
            if self.buffer.capacity() - self.buffer.len() < READ_SIZE / 4 {
                self.buffer.reserve(READ_SIZE);
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => break Close::End,
                Ok(_) => {}
                Err(error) if keeps_at_reset && error.kind() == io::ErrorKind::ConnectionReset => {
                    break Close::Reset;
                }
                Err(error) => return Err(lost(error)),
            }
            let mut piece = self.buffer.split().freeze();
            let Some(frames) = &mut self.frames else {
                send(&mut self.stdout, piece).await;
                continue;
            };
            while let Some((kind, bytes)) = frames.next(&mut piece)? {
                match kind {
                    Kind::Stdout => send(&mut self.stdout, bytes).await,
                    Kind::Stderr => send(&mut self.stderr, bytes).await,
                    Kind::Engine => {
                        return Err(Error::new(ErrorKind::Lost).with_message(format!(
                            "the engine failed to continue the session: {}",
                            message(&bytes)
                        )));
                    }
                }
            }
        };
        if self.frames.as_ref().is_some_and(Frames::is_within) {
            return Err(Error::new(ErrorKind::Lost)
                .with_message("the connection was lost within a message"));
        }
        Ok(close)
    }
}

/// The kind of a connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    End,
    Reset,
}

/// Sends bytes to a stream, and waits while its channel is full.
async fn send(stream: &mut Option<mpsc::Sender<Result<Bytes>>>, bytes: Bytes) {
    if let Some(sender) = stream
        && sender.send(Ok(bytes)).await.is_err()
    {
        *stream = None;
    }
}

fn lost(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Lost)
        .with_message("the connection of the session was lost")
        .with_source(source)
}

/// An output of a session.
pub(crate) struct Output {
    pieces: mpsc::Receiver<Result<Bytes>>,
    /// A piece that was peeked at.
    peeked: Option<Result<Bytes>>,
    _guard: Arc<DropGuard>,
}

impl Output {
    /// Returns the first piece without consuming it.
    pub(crate) async fn peek(&mut self) -> Option<&Bytes> {
        if self.peeked.is_none() {
            self.peeked = self.pieces.recv().await;
        }
        self.peeked.as_ref()?.as_ref().ok()
    }

    /// Boxes the output as a stream of the public interface.
    pub(crate) fn boxed(self) -> ByteStream {
        StreamExt::boxed(self)
    }
}

impl Stream for Output {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.peeked.take() {
            Some(peeked) => Poll::Ready(Some(peeked)),
            None => self.pieces.poll_recv(cx),
        }
    }
}

/// The input of a session.
pub(crate) struct Input {
    /// `None` after the close.
    write: Option<WriteHalf<TokioIo<Upgraded>>>,
    context: SessionContext,
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    /// `true` if a write has failed.
    is_lost: bool,
    /// The executor of the session.
    handle: Handle,
    _guard: Arc<DropGuard>,
}

#[async_trait]
impl SessionInput for Input {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(write) = &mut self.write else {
            let error = Error::new(ErrorKind::InvalidState).with_message("the input was closed");
            return Err(self.context.error(error));
        };
        let written = async {
            write.write_all(&bytes).await?;
            write.flush().await
        };
        let written = until_ended(&self.context, &mut self.outcome, written).await;
        self.is_lost |= written.is_err();
        written.map_err(|error| self.context.error(error))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        let shut = until_ended(&self.context, &mut self.outcome, write.shutdown()).await;
        self.write = None;
        match &*self.outcome.borrow() {
            // The input of a session that ended normally needs no shutdown.
            Some(Ok(_)) => Ok(()),
            // The shutdown may succeed although the session is lost.
            Some(Err(error)) => Err(error.clone()),
            None if self.is_lost => Err(self.context.error(
                Error::new(ErrorKind::Lost).with_message("the connection of the session was lost"),
            )),
            None => shut.map_err(|error| self.context.error(error)),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let Some(mut write) = self.write.take() else { return };
        let mut shut = Box::pin(async move {
            let _ = write.shutdown().await;
        });
        // The shutdown completes immediately, except for TLS on a connection with a full send
        // buffer. The drop may be outside of the executor, where no timer can be created.
        let mut cx = Context::from_waker(Waker::noop());
        if shut.as_mut().poll(&mut cx).is_pending() {
            self.handle.spawn(async move { tokio::time::timeout(SHUTDOWN_TIMEOUT, shut).await });
        }
    }
}

/// Writes until the session has ended, because the rest would not be read.
async fn until_ended(
    context: &SessionContext,
    outcome: &mut watch::Receiver<Option<Result<ExecExit>>>,
    work: impl Future<Output = std::io::Result<()>>,
) -> Result<()> {
    tokio::select! {
        biased;
        () = context.closed.cancelled() => Err(closed()),
        done = work => done.map_err(lost),
        _ = outcome.wait_for(Option::is_some) => {
            Err(Error::new(ErrorKind::Lost).with_message("the session has ended"))
        }
    }
}

/// The outcome of a session.
#[derive(Clone)]
pub(crate) struct End {
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    context: SessionContext,
    _guard: Arc<DropGuard>,
}

impl End {
    /// Waits for the outcome.
    pub(crate) async fn wait(&self) -> Result<ExecExit> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => Err(gone()),
        }
        .during(self.context.operation)
        .on(BACKEND)
        .about(&self.context.container)
    }

    /// Completes when the session has ended, or all of its parts were dropped.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut outcome = self.outcome.clone();
        async move {
            let _ = outcome.wait_for(Option::is_some).await;
        }
    }

    /// Returns `true` if the session has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// Returns the error of a session whose task ended without an outcome, because its executor shut
/// down.
fn gone() -> Error {
    Error::new(ErrorKind::Lost).with_message("the session's task has ended")
}
