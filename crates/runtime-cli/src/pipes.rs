//! stdin, stdout and stderr of this process. Each has its own thread, because a read from a
//! terminal and a write to a full pipe can block indefinitely.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use rustix::fs::fstat;
use tokio::sync::{mpsc, oneshot};

/// Maximum size of a read in bytes.
const READ_SIZE_MAX: usize = 128 << 10;

/// Number of buffered chunks.
const CHANNEL_CAPACITY: usize = 4;

/// Returns the chunks of stdin.
pub(crate) fn stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = BytesMut::zeroed(READ_SIZE_MAX);
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

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stdout,
    Stderr,
}

/// Writer of one of the outputs.
#[derive(Debug)]
pub(crate) struct Sink {
    target: Target,
    pieces: Option<mpsc::Sender<(Target, Bytes)>>,
    /// Absent if the other output reports the end of the thread that both share.
    done: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Sink {
    /// Opens standard output and standard error.
    ///
    /// If both are the same file, terminal or pipe (`2>&1`), one thread writes both, so that the
    /// file has the chunks in the order of the calls of [`write`](Self::write). Otherwise each has
    /// a thread, so that an output that is not read does not delay the other one.
    pub(crate) fn outputs() -> (Self, Self) {
        let is_same = match (fstat(io::stdout()), fstat(io::stderr())) {
            (Ok(out), Ok(err)) => (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino),
            _ => false,
        };
        let stdout = Self::open(Target::Stdout);
        let stderr = match is_same {
            true => Self { target: Target::Stderr, pieces: stdout.pieces.clone(), done: None },
            false => Self::open(Target::Stderr),
        };
        (stdout, stderr)
    }

    /// Opens standard output alone.
    pub(crate) fn stdout() -> Self {
        Self::open(Target::Stdout)
    }

    fn open(target: Target) -> Self {
        let (pieces, mut receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let (sender, done) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = sender.send(write_all(&mut receiver, &mut io::stdout(), &mut io::stderr()));
        });
        Self { target, pieces: Some(pieces), done: Some(done) }
    }

    /// Writes a chunk, waiting while the channel is full. Returns false if the reader is gone.
    pub(crate) async fn write(&self, bytes: Bytes) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.send((self.target, bytes)).await.is_ok(),
            None => false,
        }
    }

    /// Waits until everything is written. If the outputs share a thread, the wait includes the
    /// other output.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.pieces = None;
        match self.done.take() {
            Some(done) => {
                done.await.unwrap_or_else(|_| Err(io::Error::other("the output's thread panicked")))
            }
            None => Ok(()),
        }
    }
}

/// Finishes both outputs.
pub(crate) async fn finish((stdout, stderr): (Sink, Sink)) -> io::Result<()> {
    let (out, err) = tokio::join!(stdout.finish(), stderr.finish());
    out.and(err)
}

/// Writes chunks in order until the channel is closed. Chunks that are buffered are flushed
/// together.
fn write_all(
    pieces: &mut mpsc::Receiver<(Target, Bytes)>,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> io::Result<()> {
    let mut unflushed = None;
    while let Some((target, piece)) = pieces.blocking_recv() {
        if unflushed.is_some_and(|before| before != target) {
            stdout.flush()?;
            stderr.flush()?;
        }
        match target {
            Target::Stdout => stdout.write_all(&piece)?,
            Target::Stderr => stderr.write_all(&piece)?,
        }
        unflushed = Some(target);
        if pieces.is_empty() {
            stdout.flush()?;
            stderr.flush()?;
            unflushed = None;
        }
    }
    stdout.flush()?;
    stderr.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A buffered output that shares its file with another one.
    struct Shared(Vec<u8>, Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.1.lock().unwrap().append(&mut self.0);
            Ok(())
        }
    }

    #[test]
    fn outputs_to_one_file_keep_write_order() {
        let file = Arc::new(Mutex::new(Vec::new()));
        let (pieces, mut receiver) = mpsc::channel(8);
        for (target, text) in [
            (Target::Stdout, "1"),
            (Target::Stderr, "2"),
            (Target::Stdout, "3"),
            (Target::Stdout, "4"),
            (Target::Stderr, "5"),
        ] {
            pieces.try_send((target, Bytes::from(text))).unwrap();
        }
        drop(pieces);
        let output = || Shared(Vec::new(), Arc::clone(&file));
        write_all(&mut receiver, &mut output(), &mut output()).unwrap();
        assert_eq!(*file.lock().unwrap(), b"12345");
    }
}
