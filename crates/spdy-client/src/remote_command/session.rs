//! A running command.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::{Error, Options, Outcome};
use crate::stream::Probe;
use crate::{Connection, Headers, ReadHalf, Stream, WriteHalf};

/// The longest outcome that is read, in bytes.
const MAX_OUTCOME: usize = 256 * 1024;

/// The parts of an open session. Each can be used from another task; the connection is closed when
/// all of them are dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Session {
    /// Standard input. Shutting it down, or dropping it, lets the process read the end of file. A
    /// process on a terminal ends its input by the terminal's end-of-file character instead.
    pub stdin: Option<WriteHalf>,
    /// Standard output, or the output of a terminal.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// The size of the terminal.
    pub resize: Option<Resize>,
    /// How it ends.
    pub exit: Exit,
}

/// An output of a command.
///
/// Room is bounded: a command that writes to an output that nobody reads waits, and because all
/// outputs share a connection the others stand still with it. Dropping an output throws its bytes
/// away.
#[derive(Debug)]
pub struct Output {
    read: ReadHalf,
    ending: Arc<Ending>,
}

/// Changes the size of a terminal.
#[derive(Debug)]
pub struct Resize {
    stream: Mutex<WriteHalf>,
}

/// Waits for the end of a command. Clones wait for the same.
#[derive(Debug, Clone)]
pub struct Exit {
    ending: Arc<Ending>,
}

/// Opens the streams of a session over `io`, which a server has upgraded to SPDY, and waits until
/// the server has accepted each of them. See [`open`](super::open) for the rest.
///
/// # Errors
/// [`Error::Spdy`] when a stream is refused or the connection fails.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn start<T>(io: T, options: &Options) -> Result<Session, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection::spawn(io, options.connection.clone())?;
    let streams = options.streams;
    // All are asked for before the first answer is waited for, in the order in which other clients
    // ask.
    let mut error = open_stream(&connection, "error")?;
    let optional = |wanted: bool, kind| wanted.then(|| open_stream(&connection, kind)).transpose();
    let mut stdin = optional(streams.stdin, "stdin")?;
    let mut stdout = optional(streams.stdout, "stdout")?;
    let mut stderr = optional(streams.stderr, "stderr")?;
    let mut resize = optional(streams.tty, "resize")?;
    error.reply().await?;
    for stream in [&mut stdin, &mut stdout, &mut stderr, &mut resize].into_iter().flatten() {
        // The server throws away what comes before its answer.
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
    // Nothing comes in on these two: what came would be thrown away.
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
    /// The next bytes, as many as there are; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why the output was cut off, after the last byte that came.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// Polls for what [`chunk`](Self::chunk) gives.
    ///
    /// # Errors
    /// The same.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        self.read.poll_chunk(context).map(|chunk| match chunk {
            // A server resets what it did not finish, once it has said the outcome.
            Err(crate::Error::Reset(_)) if self.ending.probe.touched() => Ok(None),
            chunk => chunk.map_err(Error::from),
        })
    }
}

impl Resize {
    /// Tells the terminal its size in characters. It returns when the message has been handed to
    /// the transport.
    ///
    /// # Errors
    /// Why nothing can be sent any more: most often the command has ended.
    pub async fn send(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let message = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        let mut stream = self.stream.lock().await;
        stream.send(message.as_bytes()).await?;
        Ok(())
    }
}

impl Exit {
    /// Waits for the outcome. Any number of calls get the same one; dropping the future loses
    /// nothing.
    ///
    /// The outcome comes after the outputs: they have to be read, or dropped, for it to come.
    ///
    /// # Errors
    /// [`Error::NoOutcome`] when the connection ended before; [`Error::MalformedOutcome`].
    pub async fn wait(&self) -> Result<Outcome, Error> {
        self.ending.status.lock().await.outcome().await
    }
}

/// What all parts of a session keep alive.
#[derive(Debug)]
struct Ending {
    status: Mutex<StatusStream>,
    probe: Probe,
    /// The directions in which nothing is sent. Dropping them would finish them, with a frame each
    /// that servers do not see from other clients.
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
                    // The server need not finish the stream for its message to be whole.
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
