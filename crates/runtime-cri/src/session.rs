//! The bytes of a session: the streams of a SPDY connection as those of a process.
//!
//! One task reads both outputs and hands what it reads to their readers. Each has a little room;
//! when that of one is full, the connection is not read, and the process comes to wait as at a
//! pipe. The task ends with the session, or when nobody has any part of it any more.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future};
use runtime_core::{
    ByteStream, ContainerId, Error, ErrorKind, ExecExit, Operation, Result, ResultExt, SessionInput,
};
use spdy_client::WriteHalf;
use spdy_client::remote_command::{self, Outcome, Resize};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::BACKEND;
use crate::shared::is_closed;

/// How many pieces wait for the reader of a stream. One is as large as what the connection keeps
/// of a stream.
const PIECES: usize = 2;

/// The most that is written at once.
const WRITE: usize = 64 << 10;

/// How long the outcome may take when all that it could wait for is over: servers stop to work on
/// a session whose process has ended and left input unread.
const OUTCOME: Duration = Duration::from_secs(10);

/// What a session is about, for its errors, and what ends it from outside.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) operation: Operation,
    pub(crate) container: ContainerId,
    pub(crate) closed: CancellationToken,
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
    pub(crate) resize: Option<Resize>,
    pub(crate) end: End,
}

/// Begins to read a session.
///
/// `settle` makes the exit of the server's outcome, or of the failure to get one. `gone` completes when the process is known to
/// have ended. When nobody has any part of the session before its end, `abandoned` is done.
pub(crate) fn open<S: Future<Output = Result<ExecExit>> + Send + 'static>(
    session: remote_command::Session,
    about: About,
    settle: impl FnOnce(std::result::Result<Outcome, remote_command::Error>) -> S + Send + 'static,
    gone: impl Future<Output = ()> + Send + 'static,
    abandoned: impl Future<Output = ()> + Send + 'static,
) -> Streams {
    let remote_command::Session { stdin, stdout, stderr, resize, exit, .. } = session;
    let unwanted = CancellationToken::new();
    let wanted = Arc::new(unwanted.clone().drop_guard());
    let (outcome_sender, outcome) = watch::channel(None);
    let (writing, written) = watch::channel(None);
    let mut pumps = Vec::new();
    let mut output = |source: Option<remote_command::Output>| {
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
            _wanted: wanted.clone(),
        }),
        resize,
        end: End { outcome, about: about.clone(), _wanted: wanted.clone() },
    };
    tokio::spawn(async move {
        let work = async {
            let mut reading = pin!(future::join_all(pumps.into_iter().map(Pump::run)));
            let mut ending = pin!(async {
                let exit = async { settle(exit.wait().await).await };
                let exit = about.closed.run_until_cancelled(exit).await;
                exit.unwrap_or_else(|| Err(is_closed()))
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

pub(crate) fn lost(why: &str) -> Error {
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
    source: remote_command::Output,
    /// `None` once nobody reads it.
    sender: Option<mpsc::Sender<Result<Bytes>>>,
    about: About,
}

impl Pump {
    async fn run(mut self) {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.about.closed.cancelled() => Err(is_closed()),
                piece = self.source.chunk() => piece.map_err(|error| {
                    lost("the session was cut off").with_source(error)
                }),
            };
            let piece = match piece {
                Ok(None) => return,
                Ok(Some(piece)) => Ok(piece),
                Err(error) => Err(self.about.error(error)),
            };
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
pub(crate) struct Output {
    pieces: mpsc::Receiver<Result<Bytes>>,
    /// A piece that was looked at.
    held: Option<Result<Bytes>>,
    _wanted: Arc<DropGuard>,
}

impl Output {
    /// Waits until there is a first piece, which stays to be read, or the end: gives whether there
    /// is one.
    pub(crate) async fn peek(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.pieces.recv().await;
        }
        self.held.is_some()
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
    write: Option<WriteHalf>,
    /// The number of the write that waits.
    writing: watch::Sender<Option<u64>>,
    about: About,
    outcome: watch::Receiver<Option<Result<ExecExit>>>,
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
        written.map_err(|error| self.about.error(error))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        let writing = Waits(&self.writing);
        writing.0.send_replace(Some(0));
        let finished = until_ended(&self.about, &mut self.outcome, write.shutdown()).await;
        drop(writing);
        self.write = None;
        match finished {
            // A session that has ended in order has no input to end.
            Err(error) if self.outcome.borrow().as_ref().is_none_or(Result::is_err) => {
                Err(self.about.error(error))
            }
            _ => Ok(()),
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
        () = about.closed.cancelled() => Err(is_closed()),
        done = work => done.map_err(|error| lost("the session was cut off").with_source(error)),
        _ = outcome.wait_for(Option::is_some) => Err(lost("the session has ended")),
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

    /// What it was, if it has ended.
    pub(crate) fn seen(&self) -> Option<Result<ExecExit>> {
        self.outcome.borrow().clone()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// The task is gone without an outcome: its executor has shut down.
fn gone() -> Error {
    lost("the session's task has ended")
}
