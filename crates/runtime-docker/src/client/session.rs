//! The bytes of a session: an upgraded connection, taken apart into the streams of a process.
//!
//! One task reads the connection and hands what it reads to the streams. Each has a little room;
//! when that of one is full, the connection is not read, and the process comes to wait as at a
//! pipe. The task ends with the session, or when nobody has any part of it any more.

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

use crate::error::{BACKEND, cut_off};
use crate::model::demux::Framing;
use crate::model::frames::{Frames, Kind, words};

/// The most that is read at once.
const READ: usize = 64 << 10;

/// How many pieces wait for the reader of a stream, each of at most [`READ`] bytes.
const PIECES: usize = 8;

/// How long after a reset the engine may take to report the exit code. A process that runs on has
/// lost its session.
const AFTER_RESET: Duration = Duration::from_secs(10);

/// How long the end of an input that was dropped may take.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// What a session is about, for its errors, and what ends it from outside.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) operation: Operation,
    pub(crate) container: ContainerId,
    pub(crate) closed: CancellationToken,
    /// Whether all that came before a reset of the connection is still read. It is of a Unix
    /// socket, and not of TCP.
    pub(crate) keeps_at_reset: bool,
}

impl About {
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
    /// The session of a process that has ended so without a word of its own.
    pub(crate) fn ended(mut self, exit: ExecExit) -> Self {
        let (_, outcome) = watch::channel(Some(Ok(exit)));
        if let Some(stdin) = &mut self.stdin {
            stdin.outcome = outcome.clone();
        }
        for output in [Some(&mut self.stdout), self.stderr.as_mut()].into_iter().flatten() {
            output.held = None;
            output.pieces.close();
            while output.pieces.try_recv().is_ok() {}
        }
        self.end.outcome = outcome;
        self
    }
}

/// Opens the streams of an upgraded connection.
///
/// The connection of an engine that dies ends as any other. After the last byte, `ended` therefore
/// finds out whether it was the last of the process, and only then the outputs end; what it gives
/// finds out the exit code. When nobody has any part of the session before it is known, `abandoned`
/// is done in place of it.
pub(crate) async fn open<E: Future<Output = Result<ExecExit>> + Send + 'static>(
    answer: Response<Incoming>,
    framing: Framing,
    stdin: bool,
    about: About,
    ended: impl Future<Output = Result<E>> + Send + 'static,
    abandoned: impl Future<Output = ()> + Send + 'static,
) -> Result<Streams> {
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::internal(format!(
            "the engine did not give the connection away, but answered {}",
            answer.status()
        )));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(cut_off)?;
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    let unwanted = CancellationToken::new();
    let wanted = Arc::new(unwanted.clone().drop_guard());
    let (outcome_sender, outcome) = watch::channel(None);
    let (out_sender, out) = mpsc::channel(PIECES);
    let (err_sender, err) = mpsc::channel(PIECES);
    let frames = framing == Framing::Frames;
    let output = |pieces| Output { pieces, held: None, _wanted: wanted.clone() };
    let streams = Streams {
        stdin: stdin.then(|| Input {
            write: Some(write),
            about: about.clone(),
            outcome: outcome.clone(),
            cut: false,
            handle: Handle::current(),
            _wanted: wanted.clone(),
        }),
        stdout: output(out),
        stderr: frames.then(|| output(err)),
        end: End { outcome, about: about.clone(), _wanted: wanted.clone() },
    };
    let pump = Pump {
        read,
        frames: frames.then(Frames::default),
        buffer: BytesMut::new(),
        stdout: Some(out_sender),
        stderr: frames.then_some(err_sender),
    };
    tokio::spawn(async move {
        let work = pump.run(&about, ended, outcome_sender);
        tokio::select! {
            biased;
            () = work => {}
            () = unwanted.cancelled() => {
                // The runtime's end is none of the process.
                let _ = about.closed.run_until_cancelled(abandoned).await;
            }
        }
    });
    Ok(streams)
}

/// Reads the connection.
struct Pump {
    read: ReadHalf<TokioIo<Upgraded>>,
    /// `None` on a terminal, where all bytes are output.
    frames: Option<Frames>,
    buffer: BytesMut,
    /// `None` once nobody reads it.
    stdout: Option<mpsc::Sender<Result<Bytes>>>,
    stderr: Option<mpsc::Sender<Result<Bytes>>>,
}

impl Pump {
    async fn run<E: Future<Output = Result<ExecExit>>>(
        mut self,
        about: &About,
        ended: impl Future<Output = Result<E>>,
        outcome: watch::Sender<Option<Result<ExecExit>>>,
    ) {
        let mut reset = false;
        let whole = tokio::select! {
            biased;
            () = about.closed.cancelled() => Err(closed()),
            whole = async {
                reset = self.read_all(about.keeps_at_reset).await? == Close::Reset;
                ended.await
            } => whole,
        };
        let Self { read, stdout, stderr, .. } = self;
        let error = match whole {
            Ok(exit) => {
                drop((stdout, stderr));
                let exit = tokio::select! {
                    biased;
                    () = about.closed.cancelled() => Err(closed()),
                    exit = exit => exit,
                    () = tokio::time::sleep(AFTER_RESET), if reset => {
                        Err(Error::new(ErrorKind::Lost).with_message("the session was cut off"))
                    }
                };
                outcome.send_replace(Some(exit.map_err(|error| about.error(error))));
                drop(read);
                return;
            }
            Err(error) => about.error(error),
        };
        drop(read);
        outcome.send_replace(Some(Err(error.clone())));
        // Nobody may read the one or the other.
        let tell = [stdout, stderr].into_iter().flatten().map(async |stream| {
            let _ = stream.send(Err(error.clone())).await;
        });
        future::join_all(tell).await;
    }

    /// Reads to the end of the connection.
    ///
    /// A connection that is closed with input unread is reset. Podman closes it so when the process
    /// has ended without reading all of its input.
    async fn read_all(&mut self, keeps_at_reset: bool) -> Result<Close> {
        let close = loop {
            if self.buffer.capacity() - self.buffer.len() < READ / 4 {
                self.buffer.reserve(READ);
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
                give(&mut self.stdout, piece).await;
                continue;
            };
            while let Some((kind, bytes)) = frames.next(&mut piece)? {
                match kind {
                    Kind::Stdout => give(&mut self.stdout, bytes).await,
                    Kind::Stderr => give(&mut self.stderr, bytes).await,
                    Kind::Engine => {
                        return Err(Error::new(ErrorKind::Lost)
                            .with_message(format!("the engine cannot go on: {}", words(&bytes))));
                    }
                }
            }
        };
        if self.frames.as_ref().is_some_and(Frames::is_within) {
            return Err(Error::new(ErrorKind::Lost)
                .with_message("the session was cut off within a message"));
        }
        Ok(close)
    }
}

/// How a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    End,
    Reset,
}

/// Hands bytes to a stream, waiting while it is full.
async fn give(stream: &mut Option<mpsc::Sender<Result<Bytes>>>, bytes: Bytes) {
    if let Some(sender) = stream
        && sender.send(Ok(bytes)).await.is_err()
    {
        *stream = None;
    }
}

fn lost(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Lost).with_message("the session was cut off").with_source(source)
}

/// An output of a session.
pub(crate) struct Output {
    pieces: mpsc::Receiver<Result<Bytes>>,
    /// A piece that was looked at.
    held: Option<Result<Bytes>>,
    _wanted: Arc<DropGuard>,
}

impl Output {
    /// The first piece, which stays to be read.
    pub(crate) async fn peek(&mut self) -> Option<&Bytes> {
        if self.held.is_none() {
            self.held = self.pieces.recv().await;
        }
        self.held.as_ref()?.as_ref().ok()
    }

    /// As a stream of the interface.
    pub(crate) fn boxed(self) -> ByteStream {
        StreamExt::boxed(self)
    }
}

impl Stream for Output {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.held.take() {
            Some(held) => Poll::Ready(Some(held)),
            None => self.pieces.poll_recv(cx),
        }
    }
}

/// The input of a session.
pub(crate) struct Input {
    /// `None` once closed.
    write: Option<WriteHalf<TokioIo<Upgraded>>>,
    about: About,
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    /// Whether a write has failed.
    cut: bool,
    /// The executor that the session was opened on.
    handle: Handle,
    _wanted: Arc<DropGuard>,
}

#[async_trait]
impl SessionInput for Input {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(write) = &mut self.write else {
            let error = Error::new(ErrorKind::InvalidState).with_message("the input was closed");
            return Err(self.about.error(error));
        };
        let written = async {
            write.write_all(&bytes).await?;
            write.flush().await
        };
        let written = until_ended(&self.about, &mut self.outcome, written).await;
        self.cut |= written.is_err();
        written.map_err(|error| self.about.error(error))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        let shut = until_ended(&self.about, &mut self.outcome, write.shutdown()).await;
        self.write = None;
        match &*self.outcome.borrow() {
            // A session that has ended in order has no input to end.
            Some(Ok(_)) => Ok(()),
            // What is left of a connection may take it all the same.
            Some(Err(error)) => Err(error.clone()),
            None if self.cut => Err(self
                .about
                .error(Error::new(ErrorKind::Lost).with_message("the session was cut off"))),
            None => shut.map_err(|error| self.about.error(error)),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let Some(mut write) = self.write.take() else { return };
        let mut shut = Box::pin(async move {
            let _ = write.shutdown().await;
        });
        // It is done at once, but for TLS on a connection that has no room just then. The drop may
        // be outside of the executor, where nothing with a timer can be made.
        let mut cx = Context::from_waker(Waker::noop());
        if shut.as_mut().poll(&mut cx).is_pending() {
            self.handle.spawn(async move { tokio::time::timeout(LAST_BYTES, shut).await });
        }
    }
}

/// Writes until the session has ended: nobody would read the rest.
async fn until_ended(
    about: &About,
    outcome: &mut watch::Receiver<Option<Result<ExecExit>>>,
    work: impl Future<Output = std::io::Result<()>>,
) -> Result<()> {
    tokio::select! {
        biased;
        () = about.closed.cancelled() => Err(closed()),
        done = work => done.map_err(lost),
        _ = outcome.wait_for(Option::is_some) => {
            Err(Error::new(ErrorKind::Lost).with_message("the session has ended"))
        }
    }
}

/// How a session ends.
#[derive(Clone)]
pub(crate) struct End {
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    about: About,
    _wanted: Arc<DropGuard>,
}

impl End {
    /// Waits for it.
    pub(crate) async fn wait(&self) -> Result<ExecExit> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => Err(gone()),
        }
        .during(self.about.operation)
        .on(BACKEND)
        .about(&self.about.container)
    }

    /// Completes when it has ended, or when nobody has any part of it any more.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut outcome = self.outcome.clone();
        async move {
            let _ = outcome.wait_for(Option::is_some).await;
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// The task is gone without an outcome: its executor has shut down.
fn gone() -> Error {
    Error::new(ErrorKind::Lost).with_message("the session's task has ended")
}
