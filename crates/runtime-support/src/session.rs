//! Exec and attach sessions over Kubernetes' remote command protocol.
//!
//! One task reads both outputs of the connection and passes the data to the readers of the session.
//! Each output has a small buffer. While a buffer is full, the connection is not read, so that the
//! process blocks as on a pipe. The task ends with the session, or when all parts of the session
//! are dropped.

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

/// Number of chunks buffered for the reader of an output. A chunk is at most as large as the
/// connection's buffer of a stream.
const OUTPUT_CAPACITY: usize = 2;

/// Maximum size of a single write in bytes.
const WRITE_SIZE_MAX: usize = 64 << 10;

/// Maximum time to wait for the outcome after nothing else can delay it, because servers stop
/// processing a session whose process has ended with unread input.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// The open streams of a session, independent of the connection.
#[non_exhaustive]
pub struct Transport {
    /// Standard input. When it is shut down or dropped, the process reads end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output, with a bounded buffer.
    pub stdout: Option<Chunks>,
    /// Standard error, with a bounded buffer.
    pub stderr: Option<Chunks>,
    /// The terminal, if the session has one.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// The outcome that the server reports.
    pub outcome: BoxFuture<'static, std::result::Result<Outcome, remote_command::Error>>,
}

/// A stream of received bytes.
pub type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// The terminal of a session.
#[async_trait]
pub trait Terminal: Send + Sync {
    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// An error if the connection or the process has ended.
    async fn resize(&self, size: TerminalSize) -> io::Result<()>;
}

#[async_trait]
impl Terminal for remote_command::Resize {
    async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(self.send(size.columns, size.rows).await?)
    }
}

impl Transport {
    /// Creates a transport with an outcome and without streams.
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

/// Context of a session: the subject of its errors, and the token that cancels it.
#[derive(Debug, Clone)]
pub struct About {
    /// Name of the backend.
    pub backend: &'static str,
    /// The operation that opened the session.
    pub operation: Operation,
    /// The container, as named in errors.
    pub container: String,
    /// Cancelled when the runtime is closed.
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
    /// The end of the session.
    pub end: End,
}

impl Streams {
    /// Replaces the outcome and discards all output, for a process that is known to have ended with
    /// `exit` without output.
    #[must_use]
    pub fn ended(mut self, exit: ExecExit) -> Self {
        let (_, outcome) = watch::channel(Some(Ok(exit)));
        if let Some(stdin) = &mut self.stdin {
            stdin.outcome = outcome.clone();
        }
        for output in [Some(&mut self.stdout), self.stderr.as_mut()].into_iter().flatten() {
            output.peeked_chunk = None;
            output.chunks.close();
            while output.chunks.try_recv().is_ok() {}
        }
        self.end.outcome = outcome;
        self
    }
}

/// Spawns the task of a session and returns its parts.
///
/// `settle` converts the server's outcome, or the failure to receive one, to an exit. `gone`
/// completes when the process is known to have ended. `abandoned` is run if all parts of the
/// session are dropped before its end.
///
/// # Panics
/// Panics outside a tokio runtime.
pub fn open<S: Future<Output = Result<ExecExit>> + Send + 'static>(
    transport: Transport,
    about: About,
    settle: impl FnOnce(std::result::Result<Outcome, remote_command::Error>) -> S + Send + 'static,
    gone: impl Future<Output = ()> + Send + 'static,
    abandoned: impl Future<Output = ()> + Send + 'static,
) -> Streams {
    let Transport { stdin, stdout, stderr, terminal, outcome: server_outcome } = transport;
    let all_dropped = CancellationToken::new();
    let part_guard = Arc::new(all_dropped.clone().drop_guard());
    let (outcome_sender, outcome) = watch::channel(None);
    let (writing, written) = watch::channel(None);
    let mut readers = Vec::new();
    let mut output = |source: Option<Chunks>| {
        let (sender, chunks) = mpsc::channel(OUTPUT_CAPACITY);
        // An output that was not requested ends immediately.
        let sender = Some(sender);
        readers.extend(source.map(|source| OutputReader { source, sender, about: about.clone() }));
        Output { chunks, peeked_chunk: None, _guard: part_guard.clone() }
    };
    let streams = Streams {
        stdout: output(stdout),
        stderr: stderr.map(|stderr| output(Some(stderr))),
        stdin: stdin.map(|write| Input {
            write: Some(write),
            writing,
            about: about.clone(),
            outcome: outcome.clone(),
            has_failed: false,
            _guard: part_guard.clone(),
        }),
        terminal,
        end: End { outcome, about: about.clone(), _guard: part_guard.clone() },
    };
    tokio::spawn(async move {
        let work = async {
            let mut reading = pin!(future::join_all(readers.into_iter().map(OutputReader::run)));
            let mut ending = pin!(async {
                let exit = async { settle(server_outcome.await).await };
                let exit = about.closed.run_until_cancelled(exit).await;
                exit.unwrap_or_else(|| Err(closed()))
            });
            let mut overdue = pin!(async {
                tokio::select! {
                    () = write_stalled(written) => {}
                    () = async { gone.await; tokio::time::sleep(OUTCOME_TIMEOUT).await } => {}
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
                        Err(lost("the engine did not report how the process ended"))
                    }
                };
                ended = true;
                outcome_sender.send_replace(Some(exit.map_err(|error| about.error(error))));
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = all_dropped.cancelled() => {
                // The end of the runtime does not end the process.
                let _ = about.closed.run_until_cancelled(abandoned).await;
            }
        }
    });
    streams
}

/// Creates the error of a session that was cut off.
#[must_use]
pub fn lost(message: &str) -> Error {
    Error::new(ErrorKind::Lost).with_message(message)
}

/// Completes when a write has been pending for too long.
async fn write_stalled(mut writing: watch::Receiver<Option<u64>>) {
    while writing.wait_for(Option::is_some).await.is_ok() {
        match tokio::time::timeout(OUTCOME_TIMEOUT, writing.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => return,
        }
    }
    // The input is closed, so no write can be pending.
    future::pending::<()>().await;
}

/// Reads an output, and waits while the buffer of its reader is full.
struct OutputReader {
    source: Chunks,
    /// `None` after the reader was dropped.
    sender: Option<mpsc::Sender<Result<Bytes>>>,
    about: About,
}

impl OutputReader {
    async fn run(mut self) {
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.about.closed.cancelled() => Err(closed()),
                chunk = self.source.next() => match chunk {
                    None => return,
                    Some(chunk) => chunk
                        .map_err(|error| lost("the session was cut off").with_source(error)),
                },
            };
            let chunk = chunk.map_err(|error| self.about.error(error));
            let failed = chunk.is_err();
            if let Some(sender) = &self.sender
                && sender.send(chunk).await.is_err()
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
    chunks: mpsc::Receiver<Result<Bytes>>,
    /// The chunk received by `peek`.
    peeked_chunk: Option<Result<Bytes>>,
    _guard: Arc<DropGuard>,
}

impl Output {
    /// Waits for the first chunk, which remains to be read. Returns `false` if the output has
    /// ended.
    pub async fn peek(&mut self) -> bool {
        if self.peeked_chunk.is_none() {
            self.peeked_chunk = self.chunks.recv().await;
        }
        self.peeked_chunk.is_some()
    }

    /// Returns the chunk received by [`peek`](Self::peek).
    #[must_use]
    pub fn peeked(&self) -> Option<&Bytes> {
        self.peeked_chunk.as_ref().and_then(|chunk| chunk.as_ref().ok())
    }

    /// Converts the output to a [`ByteStream`].
    pub fn boxed(self) -> ByteStream {
        StreamExt::boxed(self)
    }
}

impl Stream for Output {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.peeked_chunk.take() {
            Some(peeked_chunk) => Poll::Ready(Some(peeked_chunk)),
            None => self.chunks.poll_recv(cx),
        }
    }
}

/// Standard input of a session.
pub struct Input {
    /// `None` after the input was closed.
    write: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Number of the pending write.
    writing: watch::Sender<Option<u64>>,
    about: About,
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    /// `true` after a write has failed.
    has_failed: bool,
    _guard: Arc<DropGuard>,
}

/// Marks a write as pending until dropped.
struct PendingWrite<'a>(&'a watch::Sender<Option<u64>>);

impl Drop for PendingWrite<'_> {
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
        let writing = PendingWrite(&self.writing);
        let written = async {
            for (number, chunk) in (0..).zip(bytes.chunks(WRITE_SIZE_MAX)) {
                writing.0.send_replace(Some(number));
                write.write_all(chunk).await?;
            }
            match write.flush().await {
                // All bytes were sent when the process ended, as with bytes in a pipe.
                Err(error) if is_reset(&error) => Ok(()),
                done => done,
            }
        };
        let written = until_ended(&self.about, &mut self.outcome, written).await;
        self.has_failed |= written.is_err();
        written.map_err(|error| self.about.error(error))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        let writing = PendingWrite(&self.writing);
        writing.0.send_replace(Some(0));
        let finished = until_ended(&self.about, &mut self.outcome, write.shutdown()).await;
        drop(writing);
        self.write = None;
        match &*self.outcome.borrow() {
            // A session that has ended regularly has no input to close.
            Some(Ok(_)) => Ok(()),
            // The shutdown may have succeeded even though the session was lost.
            Some(Err(error)) => Err(error.clone()),
            None if self.has_failed => Err(self.about.error(lost("the session was cut off"))),
            None => finished.map_err(|error| self.about.error(error)),
        }
    }
}

/// Returns `true` if the peer has reset the stream on an intact connection.
fn is_reset(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(spdy_client::Error::Reset(_)))
}

/// Runs a write until the session has ended, because the rest would not be read.
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

/// The end of a session.
#[derive(Clone)]
pub struct End {
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
    about: About,
    _guard: Arc<DropGuard>,
}

impl End {
    /// Waits for the exit of the process.
    ///
    /// # Errors
    /// The error returned by `settle`; `Lost`.
    pub async fn wait(&self) -> Result<ExecExit> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(task_dropped())),
            Err(_) => Err(task_dropped()),
        }
        .during(self.about.operation)
        .on(self.about.backend)
        .about(&self.about.container)
    }

    /// Returns the exit if the session has ended.
    pub fn seen(&self) -> Option<Result<ExecExit>> {
        self.outcome.borrow().clone()
    }

    /// Returns `true` if the session has ended.
    pub fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// Returns the error of every session after the runtime was closed.
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

/// Returns the error of a session whose task was dropped by the shutdown of its executor.
fn task_dropped() -> Error {
    lost("the session's task has ended")
}
