//! Standard input and outputs. Each has a thread of its own, because a read from a terminal or a
//! write to a pipe that is full can take for ever.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

/// The most that is read at once.
const READ: usize = 128 << 10;

/// How many pieces wait for the other side.
const PIECES: usize = 4;

/// What comes in on standard input, to its end.
pub(crate) fn stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = BytesMut::zeroed(READ);
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let piece = Bytes::copy_from_slice(&buffer[..length]);
                    if sender.blocking_send(Ok(piece)).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

/// One of the outputs.
#[derive(Debug)]
pub(crate) struct Sink {
    pieces: Option<mpsc::Sender<Bytes>>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Sink {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self::of(io::stdout())
    }

    /// Standard error.
    pub(crate) fn stderr() -> Self {
        Self::of(io::stderr())
    }

    fn of(mut output: impl Write + Send + 'static) -> Self {
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let (sender, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut write = || {
                while let Some(piece) = receiver.blocking_recv() {
                    output.write_all(&piece)?;
                    // What comes together is flushed together.
                    if receiver.is_empty() {
                        output.flush()?;
                    }
                }
                output.flush()
            };
            let _ = sender.send(write());
        });
        Self { pieces: Some(pieces), done }
    }

    /// Writes, waiting while there is no room. False when nobody reads any more.
    pub(crate) async fn write(&self, bytes: Bytes) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.send(bytes).await.is_ok(),
            None => false,
        }
    }

    /// Waits until all is written.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.pieces = None;
        self.done.await.unwrap_or_else(|_| Err(io::Error::other("the output's thread panicked")))
    }
}
