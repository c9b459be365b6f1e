//! Sessions as Kubernetes' remote commands have them: the streams of a connection as those of a
//! process.
//!
//! One task reads both outputs and hands what it reads to their readers. Each has a little room;
//! when that of one is full, the connection is not read, and the process comes to wait as at a
//! pipe. The task ends with the session, or when nobody has any part of it any more.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, future, stream};
use runtime_core::{
    ByteStream, Error, ErrorKind, ExecExit, Operation, Result, ResultExt, SessionInput,
    TerminalSize,
};
use spdy_client::remote_command::{self, Outcome};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

mod outcome;

pub use outcome::{exec_start_failure, resize, settle, until_started};

/// How many pieces wait for the reader of a stream. One is as large as what the connection keeps
/// of a stream.
const PIECES: usize = 2;

/// The most that is written at once.
const WRITE: usize = 64 << 10;

/// How long the outcome may take when all that it could wait for is over: servers stop to work on
/// a session whose process has ended and left input unread.
const OUTCOME: Duration = Duration::from_secs(10);

/// The open streams of a session, whatever carries them.
#[non_exhaustive]
pub struct Transport {
    /// Shutting it down, or dropping it, lets the process read end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output. It has bounded room.
    pub stdout: Option<Chunks>,
    /// Standard error, likewise.
    pub stderr: Option<Chunks>,
    /// The terminal, where there is one.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// What the server says of the end.
    pub outcome: BoxFuture<'static, std::result::Result<Outcome, remote_command::Error>>,
}

/// Bytes as they come.
pub type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// The terminal of a session.
#[async_trait]
pub trait Terminal: Send + Sync {
    /// Tells it its size.
    ///
    /// # Errors
    /// When the connection, or the process, has ended.
    async fn resize(&self, size: TerminalSize) -> io::Result<()>;
}

#[async_trait]
impl Terminal for remote_command::Resize {
    async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(self.send(size.columns, size.rows).await?)
    }
}

impl Transport {
    /// Streams that end at once, and what the server says of the end.
    #[must_use]
    pub fn new(
        outcome: BoxFuture<'static, std::result::Result<Outcome, remote_command::Error>>,
    ) -> Self {
        Self { stdin: None, stdout: None, stderr: None, terminal: None, outcome }
    }
}

impl From<remote_command::Session> for Transport {
    fn from(session: remote_command::Session) -> Self {
        let remote_command::Session { stdin, stdout, stderr, resize, exit, .. } = session;
        let chunks = |mut output: remote_command::Output| {
            stream::poll_fn(move |cx| {
                output.poll_chunk(cx).map(|chunk| chunk.map_err(io::Error::from).transpose())
            })
            .boxed()
        };
        Self {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: stdout.map(chunks),
            stderr: stderr.map(chunks),
            terminal: resize.map(|resize| Arc::new(resize) as _),
            outcome: Box::pin(async move { exit.wait().await }),
        }
    }
}

/// What a session is about, for its errors, and what ends it from outside.
#[derive(Debug, Clone)]
pub struct About {
    /// The backend.
    pub backend: &'static str,
    /// The call that opened it.
    pub operation: Operation,
    /// The container, as errors name it.
    pub container: String,
    /// Set when the runtime is closed.
    pub closed: CancellationToken,
}

impl About {
    fn error(&self, error: Error) -> Error {
        error.during(self.operation).on(self.backend).about(&self.container)
    }
}

/// The parts of a session.
#[non_exhaustive]
pub struct Streams {
    /// Standard input.
    pub stdin: Option<Input>,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Option<Output>,
    /// The terminal.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// How it ends.
    pub end: End,
}

impl Streams {
    /// The session of a process that has ended so without a word of its own.
    #[must_use]
    pub fn ended(mut self, exit: ExecExit) -> Self {
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

/// Begins to read a session.
///
/// `settle` makes the exit of the server's outcome, or of the failure to get one. `gone` completes
/// when the process is known to have ended. When nobody has any part of the session before its end,
/// `abandoned` is done.
///
/// # Panics
/// Outside a tokio runtime.
pub fn open<S: Future<Output = Result<ExecExit>> + Send + 'static>(
    transport: Transport,
    about: About,
    settle: impl FnOnce(std::result::Result<Outcome, remote_command::Error>) -> S + Send + 'static,
    gone: impl Future<Output = ()> + Send + 'static,
    abandoned: impl Future<Output = ()> + Send + 'static,
) -> Streams {
    let Transport { stdin, stdout, stderr, terminal, outcome: told } = transport;
    let unwanted = CancellationToken::new();
    let wanted = Arc::new(unwanted.clone().drop_guard());
    let (outcome_sender, outcome) = watch::channel(None);
    let (writing, written) = watch::channel(None);
    let mut pumps = Vec::new();
    let mut output = |source: Option<Chunks>| {
        let (sender, pieces) = mpsc::channel(PIECES);
        // One that was not asked for ends at once.
        let sender = Some(sender);
        pumps.extend(source.map(|source| Pump { source, sender, about: about.clone() }));
        Output { pieces, held: None, _wanted: wanted.clone() }
    };
    let streams = Streams {
        stdout: output(stdout),
        stderr: stderr.map(|stderr| output(Some(stderr))),
        stdin: stdin.map(|write| Input {
            write: Some(write),
            writing,
            about: about.clone(),
            outcome: outcome.clone(),
            cut: false,
            _wanted: wanted.clone(),
        }),
        terminal,
        end: End { outcome, about: about.clone(), _wanted: wanted.clone() },
    };
    tokio::spawn(async move {
        let work = async {
            let mut reading = pin!(future::join_all(pumps.into_iter().map(Pump::run)));
            let mut ending = pin!(async {
                let exit = async { settle(told.await).await };
                let exit = about.closed.run_until_cancelled(exit).await;
                exit.unwrap_or_else(|| Err(closed()))
            });
            let mut overdue = pin!(async {
                tokio::select! {
                    () = stands_still(written) => {}
                    () = async { gone.await; tokio::time::sleep(OUTCOME).await } => {}
                }
            });
            let (mut read, mut ended) = (false, false);
            while !(read && ended) {
                let exit = tokio::select! {
                    biased;
                    exit = &mut ending, if !ended => exit,
                    _ = &mut reading, if !read => {
                        read = true;
                        continue;
                    }
                    () = &mut overdue, if read => {
                        Err(lost("the engine does not say how the process ended"))
                    }
                };
                ended = true;
                outcome_sender.send_replace(Some(exit.map_err(|error| about.error(error))));
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = unwanted.cancelled() => {
                // The runtime's end is none of the process.
                let _ = about.closed.run_until_cancelled(abandoned).await;
            }
        }
    });
    streams
}

/// The error of a session that was cut off.
#[must_use]
pub fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Lost).with_message(why)
}

/// Completes when a write has waited too long.
async fn stands_still(mut writing: watch::Receiver<Option<u64>>) {
    while writing.wait_for(Option::is_some).await.is_ok() {
        match tokio::time::timeout(OUTCOME, writing.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => return,
        }
    }
    // The input is closed: no write will wait.
    future::pending::<()>().await;
}

/// Reads an output, waiting while its reader has no room.
struct Pump {
    source: Chunks,
    /// `None` once nobody reads it.
    sender: Option<mpsc::Sender<Result<Bytes>>>,
    about: About,
}

impl Pump {
    async fn run(mut self) {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.about.closed.cancelled() => Err(closed()),
                piece = self.source.next() => match piece {
                    None => return,
                    Some(piece) => piece
                        .map_err(|error| lost("the session was cut off").with_source(error)),
                },
            };
            let piece = piece.map_err(|error| self.about.error(error));
            let failed = piece.is_err();
            if let Some(sender) = &self.sender
                && sender.send(piece).await.is_err()
            {
                self.sender = None;
            }
            if failed {
                return;
            }
        }
    }
}

/// An output of a session.
pub struct Output {
    pieces: mpsc::Receiver<Result<Bytes>>,
    /// A piece that was looked at.
    held: Option<Result<Bytes>>,
    _wanted: Arc<DropGuard>,
}

impl Output {
    /// Waits until there is a first piece, which stays to be read, or the end: gives whether there
    /// is one.
    pub async fn peek(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.pieces.recv().await;
        }
        self.held.is_some()
    }

    /// Returns the piece that [`peek`](Self::peek) has received.
    #[must_use]
    pub fn peeked(&self) -> Option<&Bytes> {
        self.held.as_ref().and_then(|piece| piece.as_ref().ok())
    }

    /// As a stream of the interface.
    pub fn boxed(self) -> ByteStream {
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
pub struct Input {
    /// `None` once closed.
    write: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The number of the write that waits.
    writing: watch::Sender<Option<u64>>,
    about: About,
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    /// Whether a write has failed.
    cut: bool,
    _wanted: Arc<DropGuard>,
}

/// Says that a write waits, for as long as it lives.
struct Waits<'a>(&'a watch::Sender<Option<u64>>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

#[async_trait]
impl SessionInput for Input {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(write) = &mut self.write else {
            let error = Error::new(ErrorKind::InvalidState).with_message("the input was closed");
            return Err(self.about.error(error));
        };
        let writing = Waits(&self.writing);
        let written = async {
            for (number, piece) in (0..).zip(bytes.chunks(WRITE)) {
                writing.0.send_replace(Some(number));
                write.write_all(piece).await?;
            }
            match write.flush().await {
                // All of it was on its way when the process ended, as bytes in a pipe are.
                Err(error) if is_reset(&error) => Ok(()),
                done => done,
            }
        };
        let written = until_ended(&self.about, &mut self.outcome, written).await;
        self.cut |= written.is_err();
        written.map_err(|error| self.about.error(error))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        let writing = Waits(&self.writing);
        writing.0.send_replace(Some(0));
        let finished = until_ended(&self.about, &mut self.outcome, write.shutdown()).await;
        drop(writing);
        self.write = None;
        match &*self.outcome.borrow() {
            // A session that has ended in order has no input to end.
            Some(Ok(_)) => Ok(()),
            // What is left of a connection may take it all the same.
            Some(Err(error)) => Err(error.clone()),
            None if self.cut => Err(self.about.error(lost("the session was cut off"))),
            None => finished.map_err(|error| self.about.error(error)),
        }
    }
}

/// Whether the other side wants no more of a stream, on a connection that lives.
fn is_reset(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(spdy_client::Error::Reset(_)))
}

/// Writes until the session has ended: nobody would read the rest.
async fn until_ended(
    about: &About,
    outcome: &mut watch::Receiver<Option<Result<ExecExit>>>,
    work: impl Future<Output = io::Result<()>>,
) -> Result<()> {
    tokio::select! {
        biased;
        () = about.closed.cancelled() => Err(closed()),
        done = work => done.map_err(|error| lost("the session was cut off").with_source(error)),
        _ = outcome.wait_for(Option::is_some) => Err(lost("the session has ended")),
    }
}

/// How a session ends.
#[derive(Clone)]
pub struct End {
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    about: About,
    _wanted: Arc<DropGuard>,
}

impl End {
    /// Waits for it.
    ///
    /// # Errors
    /// What `settle` made of the outcome; `Lost`.
    pub async fn wait(&self) -> Result<ExecExit> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => Err(gone()),
        }
        .during(self.about.operation)
        .on(self.about.backend)
        .about(&self.about.container)
    }

    /// What it was, if it has ended.
    pub fn seen(&self) -> Option<Result<ExecExit>> {
        self.outcome.borrow().clone()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// The error of every session after the runtime was closed.
fn closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed")
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(Transport, Streams, Output, Input, End);

/// The task is gone without an outcome: its executor has shut down.
fn gone() -> Error {
    lost("the session's task has ended")
}
