//! Sessions of remote commands.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::{Error, Options, Outcome};
use crate::stream::Probe;
use crate::{Connection, Headers, ReadHalf, Stream, WriteHalf};

/// Maximum size of an outcome in bytes.
const MAX_OUTCOME: usize = 256 * 1024;

/// Open session. Its parts can be used from different tasks; the connection is closed when all of
/// them are dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Session {
    /// stdin. Shutting it down, or dropping it, signals end of file to the process. A process on a
    /// terminal needs the terminal's end-of-file character instead.
    pub stdin: Option<WriteHalf>,
    /// stdout, or the output of a terminal.
    pub stdout: Option<Output>,
    /// stderr.
    pub stderr: Option<Output>,
    /// The size of the terminal.
    pub resize: Option<Resize>,
    /// The exit of the command.
    pub exit: Exit,
}

/// Output of a command.
///
/// The buffer is bounded: if an output is not read, the command blocks on writing to it, and so do
/// all other outputs, because they share a connection. Dropping an output discards its bytes.
#[derive(Debug)]
pub struct Output {
    read: ReadHalf,
    ending: Arc<Ending>,
}

/// Handle that resizes a terminal.
#[derive(Debug)]
pub struct Resize {
    stream: Mutex<WriteHalf>,
}

/// Handle that waits for the exit of a command. Clones wait for the same exit.
#[derive(Debug, Clone)]
pub struct Exit {
    ending: Arc<Ending>,
}

/// Opens the streams of a session over `io`, on which a server has upgraded to SPDY, and waits
/// until the server has accepted each of them. See [`open`](super::open) for details.
///
/// # Errors
/// [`Error::Spdy`] if a stream is refused or the connection fails.
///
/// # Panics
/// If called outside of a tokio runtime.
pub async fn start<T>(io: T, options: &Options) -> Result<Session, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection::spawn(io, options.connection.clone())?;
    let streams = options.streams;
    // All streams are opened before waiting for a reply, in the order of other clients.
    let mut error = open_stream(&connection, "error")?;
    let optional = |wanted: bool, kind| wanted.then(|| open_stream(&connection, kind)).transpose();
    let mut stdin = optional(streams.stdin, "stdin")?;
    let mut stdout = optional(streams.stdout, "stdout")?;
    let mut stderr = optional(streams.stderr, "stderr")?;
    let mut resize = optional(streams.tty, "resize")?;
    error.reply().await?;
    for stream in [&mut stdin, &mut stdout, &mut stderr, &mut resize].into_iter().flatten() {
        // The server discards data before its reply.
        stream.reply().await?;
    }

    let (read, write) = error.into_split();
    let mut unused = vec![write];
    let mut output = |stream: Stream| {
        let (read, write) = stream.into_split();
        unused.push(write);
        read
    };
    let (stdout, stderr) = (stdout.map(&mut output), stderr.map(&mut output));
    let ending = Arc::new(Ending {
        probe: read.probe(),
        status: Mutex::new(StatusStream { read, collected: Vec::new(), outcome: None }),
        _unused: unused,
    });
    let output = |read| Output { read, ending: Arc::clone(&ending) };
    // These streams receive no data; unexpected data is discarded.
    let input = |stream: Stream| stream.into_split().1;
    Ok(Session {
        stdin: stdin.map(input),
        stdout: stdout.map(output),
        stderr: stderr.map(output),
        resize: resize.map(|stream| Resize { stream: Mutex::new(input(stream)) }),
        exit: Exit { ending },
    })
}

fn open_stream(connection: &Connection, kind: &'static str) -> Result<Stream, crate::Error> {
    let mut headers = Headers::new();
    headers.append("streamtype", kind)?;
    connection.open_stream(headers, false)
}

impl Output {
    /// Returns the next bytes, or `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// The reason why the output was cut off, after the last received byte.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// Polls for the result of [`chunk`](Self::chunk).
    ///
    /// # Errors
    /// Same as [`chunk`](Self::chunk).
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        self.read.poll_chunk(context).map(|chunk| match chunk {
            // After sending the outcome, a server resets unfinished streams.
            Err(crate::Error::Reset(_)) if self.ending.probe.has_received() => Ok(None),
            chunk => chunk.map_err(Error::from),
        })
    }
}

impl Resize {
    /// Sends the size of the terminal in characters. Returns when the message has been passed to
    /// the transport.
    ///
    /// # Errors
    /// The reason why the message was not sent: usually the command has exited.
    pub async fn send(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let message = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        let mut stream = self.stream.lock().await;
        stream.send(message.as_bytes()).await?;
        Ok(())
    }
}

impl Exit {
    /// Waits for the outcome. All calls return the same outcome. Cancel safe.
    ///
    /// The outcome follows the outputs, which must be read or dropped first.
    ///
    /// # Errors
    /// [`Error::NoOutcome`] if the connection ended before; [`Error::MalformedOutcome`].
    pub async fn wait(&self) -> Result<Outcome, Error> {
        self.ending.status.lock().await.outcome().await
    }
}

/// State that all parts of a session keep alive.
#[derive(Debug)]
struct Ending {
    status: Mutex<StatusStream>,
    probe: Probe,
    /// The unused write halves. Dropping them would finish them with one frame each, which other
    /// clients do not send.
    _unused: Vec<WriteHalf>,
}

#[derive(Debug)]
struct StatusStream {
    read: ReadHalf,
    collected: Vec<u8>,
    outcome: Option<Result<Outcome, Error>>,
}

impl StatusStream {
    async fn outcome(&mut self) -> Result<Outcome, Error> {
        loop {
            if let Some(outcome) = &self.outcome {
                return outcome.clone();
            }
            let end = match self.read.chunk().await {
                Ok(Some(chunk)) => {
                    self.collected.extend_from_slice(&chunk);
                    // A complete message does not require a finished stream.
                    match Outcome::parse(&self.collected) {
                        Ok(outcome) => self.outcome = Some(Ok(outcome)),
                        Err(error) if self.collected.len() > MAX_OUTCOME => {
                            self.outcome = Some(Err(error));
                        }
                        Err(_) => {}
                    }
                    continue;
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let regular = matches!(end, None | Some(crate::Error::Reset(_)));
            self.outcome = Some(Err(if regular && !self.collected.is_empty() {
                Error::MalformedOutcome
            } else {
                Error::NoOutcome(end)
            }));
        }
    }
}
